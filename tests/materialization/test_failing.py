"""N02: a source that fails is seen at once, everywhere, and told once."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from featurestore import FeatureStore
from featurestore.errors import SourceError
from featurestore.maintenance.status import Alert
from featurestore.testing import FakeClock
from tests.cli.conftest import Invoke, invoke, made_shop, shop
from tests.scheduling.scheduling import scheduler_of, states
from tests.scheduling.test_scheduler import hand, open_store, pass_seconds, store, view, write

__all__ = ["hand", "invoke", "made_shop", "open_store", "shop", "store"]


def broken(folder: Path) -> Path:
    write(folder, "0", ("a", 1, 1, 1.0, 1))
    file = folder / "data" / "1.parquet"
    file.write_bytes(b"PAR1 this is none PAR1")
    return file


@pytest.mark.parametrize("reads", ["first", "later"])
def test_n02_a_run_that_is_tried_again_is_seen_at_once(store: FeatureStore, tmp_path: Path, hand: FakeClock, reads: str) -> None:
    if reads == "later":
        write(tmp_path, "0", ("a", 1, 1, 1.0, 1))
        store.apply([view(tmp_path, schedule="1h")])
        store.materialize()
        pass_seconds(hand, 3_600)
        done = len(store.runs.list())
    else:
        done = 0
        write(tmp_path, "0", ("a", 1, 1, 1.0, 1))
        store.apply([view(tmp_path, schedule="1h")])
    file = broken(tmp_path)
    scheduler, told = scheduler_of(store)
    for attempt in range(1, 5):
        scheduler.tick()
        [status] = store.status()
        assert (status.state, status.is_wrong) == ("retrying", True)
        assert status.problem.startswith(f"retrying ({attempt}/5): ")
        assert "1.parquet" in status.problem
        failed = store.runs.list(state="failed")
        assert len(failed) == attempt
        assert all("1.parquet" in each.error and not each.span["chunks"] for each in failed)
        pass_seconds(hand, 600)
    assert states(told) == [("v", "retrying")] * 4
    file.unlink()
    hand.micros = 7_200 * 1_000_000 + 1 if hand.micros < 7_200 * 1_000_000 else hand.micros
    scheduler.tick()
    [status] = store.status()
    assert (status.state, status.problem) == ("ok", "")
    assert len(store.runs.list(state="done")) == done + 1
    assert [each.state for each in store.admin.doctor() if each.check in ("runs: v", "history: v")] == ["ok", "ok"]
    write(tmp_path, "2", ("b", 2, 2, 1.0, 1))
    store.materialize()
    assert store.status()[0].rows == 2


def test_n02_one_broken_file_of_many_views_is_told_once(
    store: FeatureStore, tmp_path: Path, hand: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    from featurestore import ParquetSource
    from tests.projects import view_of
    from tests.scheduling.scheduling import FEATURES, KEYS

    write(tmp_path, "0", ("a", 1, 1, 1.0, 1))
    source = ParquetSource("shared", str(tmp_path / "data" / "*.parquet"), event_time="event", available_time="available")
    store.apply([view_of(source, KEYS, FEATURES, name=f"v{number}", schedule="1h") for number in range(6)])
    file = broken(tmp_path)
    caplog.set_level(logging.INFO)
    notices: list[Alert] = []
    scheduler, told = scheduler_of(store, most=10, on_alert=notices.append)
    for _ in range(12):
        scheduler.tick()
        pass_seconds(hand, 300)
    assert {each.state for each in told} == {"retrying", "failed"}
    assert len(notices) == 1
    assert [each.is_repeated for each in told] == [False] + [True] * (len(told) - 1)
    assert len(caplog.records) <= 2
    file.unlink()
    hand.micros = 10_800 * 1_000_000
    told.clear()
    scheduler.tick()
    assert {each.state for each in told} == {"done"}
    broken(tmp_path)
    hand.micros = 14_400 * 1_000_000
    for _ in range(12):
        scheduler.tick()
        pass_seconds(hand, 300)
    assert len(notices) == 2, "the second trouble is not told"


def test_n02_materialize_by_hand_leaves_a_run_too(store: FeatureStore, tmp_path: Path) -> None:
    write(tmp_path, "0", ("a", 1, 1, 1.0, 1))
    store.apply([view(tmp_path)])
    file = broken(tmp_path)
    with pytest.raises(SourceError, match=r"1\.parquet"):
        store.materialize(dry_run=True)
    assert store.runs.list() == []
    with pytest.raises(SourceError, match=r"1\.parquet"):
        store.materialize()
    assert len(store.runs.list(state="failed")) == 1
    assert store.status()[0].state == "failed"
    file.unlink()
    store.materialize()
    assert [(each.seq, each.state) for each in store.runs.list()] == [(2, "done"), (1, "failed")]
    assert store.status()[0].state == "ok"


def test_n02_the_command_line_says_so(invoke: Invoke, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """status, status VIEW, status --check and runs --state failed, while the scheduler tries again."""
    monkeypatch.setenv("FEATURESTORE_MAINTENANCE__SCHEDULE", "")
    file = next(each for each in sorted(shop.rglob("*.parquet")) if ".featurestore" not in each.parts)
    file.write_bytes(b"PAR1 this is none PAR1")
    told = invoke("schedule", "-C", shop, "--once", code=1).stdout
    assert "retrying" in told
    shown = invoke("status", "-C", shop, "--check", code=1)
    assert "retrying (1/5): " in shown.stdout
    failed: list[dict[str, Any]] = json.loads(invoke("runs", "-C", shop, "--state", "failed", "--json").stdout)
    assert failed
    assert "retrying (1/5): " in invoke("status", "-C", shop, failed[0]["view"]).stdout
