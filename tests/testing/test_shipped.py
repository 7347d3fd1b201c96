"""What ``featurestore.testing`` ships: the clock, the faults, the project, and a clear word where pytest is not installed."""

import asyncio
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import featurestore.testing
from featurestore.testing import FakeClock, Killed, faulty, interrupted, temporary_store


def test_each_name_is_there() -> None:
    for name in featurestore.testing.__all__:
        assert getattr(featurestore.testing, name).__module__.startswith("featurestore.testing.")
    with pytest.raises(AttributeError, match="no attribute 'FakeClok'"):
        featurestore.testing.FakeClok  # noqa: B018 - to look is the test


@pytest.mark.parametrize("missing", ["pytest", "hypothesis"])
def test_what_is_not_installed_is_told(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from featurestore.testing import OnlineStoreContract"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingExtraError: featurestore.testing" in done.stderr
    assert "pip install 'featurestore[testing]'" in done.stderr


def test_nothing_else_of_the_package_needs_pytest() -> None:
    code = "import sys; import featurestore.store, featurestore.cli.app; print('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_the_clock_stands_until_it_is_moved() -> None:
    clock = FakeClock(datetime(2026, 1, 1, tzinfo=UTC))
    assert clock() == clock() == datetime(2026, 1, 1, tzinfo=UTC)
    clock.advance(timedelta(days=-1))
    clock.advance("1h30m")
    assert clock() == datetime(2025, 12, 31, 1, 30, tzinfo=UTC)
    clock.micros = 5
    assert FakeClock(5)() == clock()


class Port:
    """Something with calls, a part of its own, and a value."""

    size = 7

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.log = SimpleNamespace(append=self.calls.append)

    def write(self, value: str) -> str:
        self.calls.append(value)
        return value

    def read(self) -> int:
        return len(self.calls)

    async def read_async(self) -> int:
        return len(self.calls)


def test_the_nth_call_fails_and_the_others_do_not() -> None:
    port: Any = Port()
    store = faulty(port, fail_at=3, error=OSError("full"))
    assert (store.write("a"), store.read(), store.size) == ("a", 1, 7)
    with pytest.raises(OSError, match="full"):
        store.log.append("b")
    assert store.write("c") == "c"
    assert port.calls == ["a", "c"]


def test_a_call_may_be_done_and_fail_all_the_same_and_go_on_failing() -> None:
    port = Port()
    store = faulty(port, 2, OSError, methods=["write"], done=True, lasting=True)
    store.write("a")
    for value in "bc":
        with pytest.raises(OSError):  # noqa: PT011 - it has no message
            store.write(value)
        assert store.read() == len(port.calls)
    assert port.calls == ["a", "b", "c"]


def test_a_coroutine_fails_where_it_is_awaited() -> None:
    store = faulty(Port(), 1)
    pending = store.read_async()
    with pytest.raises(Killed):
        asyncio.run(pending)
    assert asyncio.run(store.read_async()) == 0


def test_what_is_interrupted_ends_at_its_nth_call(tmp_path: Path) -> None:
    files = [tmp_path / name for name in "abc"]
    with interrupted(2, (Path, "touch")) as left:
        for file in files:
            file.touch()
    assert [file.exists() for file in files] == [True, True, False]
    assert left == [-1]
    with interrupted(None, (Path, "touch")):
        files[2].touch()
    assert files[2].exists()
    with pytest.raises(OSError, match="full"), interrupted(0, (Path, "touch"), error=OSError("full")):
        files[0].touch()


def test_a_project_is_removed_unless_it_has_a_folder(tmp_path: Path) -> None:
    with temporary_store() as store:
        root = store.settings.root
        assert root.is_dir()
        assert store.settings.project == "test"
    assert not root.exists()
    with temporary_store(folder=tmp_path / "kept", project="p") as store:
        store.apply([])
    assert (tmp_path / "kept" / ".featurestore").is_dir()
