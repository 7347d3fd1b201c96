"""The engine on Ray: the contract of engines, and what a cluster does besides: it loses nodes, and has other versions."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest

from featurestore.config import RaySettings
from featurestore.errors import EngineError, OfflineStoreError, RequestError
from featurestore.offline.base import is_gone
from featurestore.testing.engines import EngineContract, Sum, Whole
from featurestore.testing.waiting import wait_until
from tests.engines import users_code
from tests.servers.ray_cluster import MEMORY

pytest.importorskip("ray", reason="the extra 'ray' is not installed: pip install 'featurestore[ray]'")
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

from featurestore.engines import ray as ray_engine  # noqa: E402 - it is there where Ray is
from featurestore.engines.ray import RayEngine  # noqa: E402 - it is there where Ray is


@pytest.fixture
def engine(ray_nodes: Any) -> RayEngine:
    return RayEngine(RaySettings(memory_per_task_gib=0.25))


class TestRayEngine(EngineContract):
    @pytest.fixture
    def engine(self, ray_nodes: Any) -> RayEngine:
        return RayEngine(RaySettings(memory_per_task_gib=0.25))


def test_it_has_what_the_cluster_has(engine: RayEngine) -> None:
    capacity = engine.capacity()
    assert (capacity.cpus, capacity.memory_per_task, capacity.elsewhere) == (3, MEMORY // 4, True)


def test_a_task_that_fits_no_node_is_refused_at_once(engine: RayEngine) -> None:
    began = time.monotonic()
    with pytest.raises(EngineError, match=r"takes about 3\.0 GiB and cannot be split.*has 1\.0 GiB.*ray\.node_memory_gib"):
        list(engine.run([Whole((1,), weight=3 * MEMORY)]))
    assert time.monotonic() - began < 5
    many = RayEngine(RaySettings(cpus_per_task=8))
    with pytest.raises(EngineError, match=r"the 8 CPUs that a task is given \(the most is 1\)"):
        list(many.run([Whole((1,))]))


def test_a_task_heavier_than_its_share_runs_where_a_node_can_hold_it(engine: RayEngine) -> None:
    assert [result for _, result in engine.run([Whole((1,), weight=MEMORY // 2)])] == [1]


# -- errors ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Raising(Whole):
    """Raises an error that a file is gone, or one with fields, or one of no library."""

    kind: str = "gone"

    def run(self) -> int:
        if self.kind == "gone":
            raise OfflineStoreError("a file cannot be read") from FileNotFoundError(2, "gone")
        if self.kind == "row":
            raise RequestError("wrong", row=7, column="x")
        if self.kind == "polars":
            pl.DataFrame({"x": [1]}).select("y")
        if self.kind == "unpicklable":
            raise UnpicklableError(lambda: None)
        raise MemoryError


class UnpicklableError(Exception):
    """One that does not arrive."""


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("gone", OfflineStoreError), ("row", RequestError), ("polars", pl.exceptions.ColumnNotFoundError),
        ("unpicklable", EngineError), ("memory", MemoryError),
    ],
)  # fmt: skip
def test_an_error_arrives_as_itself(engine: RayEngine, kind: str, error: type[Exception]) -> None:
    with pytest.raises(error) as raised:
        list(engine.run([Raising((1,), kind=kind)]))
    assert type(raised.value) is error
    assert is_gone(raised.value) == (kind == "gone")
    if isinstance(raised.value, RequestError):
        assert (raised.value.row, raised.value.column) == (7, "x")


def test_versions_that_differ_are_said(engine: RayEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    here = ray_engine.versions()._replace(polars="0.1")
    monkeypatch.setattr(ray_engine, "versions", lambda: here)
    with pytest.raises(EngineError, match=r"other versions.*Here: .*polars 0\.1.*There: .*polars"):
        list(engine.run([Whole((1,))]))


def test_code_goes_by_name_and_is_the_same_there(engine: RayEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("class Mine: ...")
    monkeypatch.setattr(users_code, "__file__", str(tmp_path / "other.py"))
    with pytest.raises(EngineError, match=r"module 'tests\.engines\.users_code' is not the same"):
        list(engine.run([users_code.Mine((1,))]))
    (tmp_path / "only_here.py").write_text(
        "from featurestore.testing.engines import Whole\nclass Mine(Whole):\n    def run(self):\n        return 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import only_here  # type: ignore[import-not-found]  # which no worker has

    with pytest.raises(EngineError, match=r"cannot import 'only_here'.*ray\.py_modules"):
        list(engine.run([only_here.Mine((1,))]))


def test_code_of_a_script_is_refused(engine: RayEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("__main__", "definitions_0a1b.flights"):
        local = type("Local", (Whole,), {"__module__": module})
        with pytest.raises(EngineError, match="'Local' is defined in"):
            list(engine.run([local((1,))]))


# -- what is lost ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dying(Whole):
    """Its worker dies at its first attempts, as of too little memory."""

    folder: str = ""
    times: int = 1

    def run(self) -> int:
        attempts = Path(self.folder) / f"{self.numbers}"
        attempts.mkdir(exist_ok=True)
        number = len(list(attempts.iterdir()))
        (attempts / str(number)).touch()
        if number < self.times:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run()


def test_a_task_whose_worker_dies_is_run_again(engine: RayEngine, tmp_path: Path) -> None:
    tasks: Sequence[Sum] = [Dying((number,), folder=str(tmp_path)) for number in range(3)]
    assert sorted(result for _, result in engine.run(tasks)) == [0, 1, 2]


def test_a_task_whose_workers_always_die_is_an_error(engine: RayEngine, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"lost 4 times.*ray\.memory_per_task_gib"):
        list(engine.run([Dying((1,), folder=str(tmp_path), times=99)]))
    assert len(list((tmp_path / "(1,)").iterdir())) == 4


@dataclass(frozen=True)
class Sleeping(Whole):
    """Says where it runs, and takes a while."""

    folder: str = ""
    seconds: float = 1.0

    def run(self) -> int:
        (Path(self.folder) / str(os.getpid())).touch()
        time.sleep(self.seconds)
        return super().run()


def test_a_run_that_is_closed_has_ended_there_too(engine: RayEngine, tmp_path: Path) -> None:
    """Its files may be deleted."""
    results = engine.run([Whole((1,)), *(Sleeping((2,), folder=str(tmp_path), seconds=600) for _ in range(2))])
    assert next(results)[1] == 1
    wait_until(lambda: any(tmp_path.iterdir()), "no task begins")
    began = time.monotonic()
    results.close()
    assert time.monotonic() - began < 20
    assert [result for _, result in engine.run([Whole((5,))] * 3)] == [5, 5, 5]


@dataclass(frozen=True)
class Environment(Whole):
    """Returns what some variables are where it runs."""

    def run(self) -> Any:
        return {name: os.environ.get(name) for name in ("SECRET_OF_THE_DRIVER", "POLARS_MAX_THREADS")}


def test_no_variable_of_the_environment_goes_along(engine: RayEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_DRIVER", "xyz")
    [(_, found)] = engine.run([Environment(())])
    assert found == {"SECRET_OF_THE_DRIVER": None, "POLARS_MAX_THREADS": "1"}


ALONE = """
import psutil
from featurestore.config import RaySettings
from featurestore.engines.ray import RayEngine
from featurestore.testing.engines import Sum

engine = RayEngine(RaySettings(address="local"), threads=1, memory=1 << 30)
[(_, result)] = engine.run([Sum((1, 2))])
processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
listening = [each.laddr.ip for process in processes for each in process.net_connections() if each.status == psutil.CONN_LISTEN]
print(result, engine.capacity().cpus, len(listening) > 3, {address.removeprefix("::ffff:") for address in listening})
engine.close()
print(len([each for each in psutil.Process().children(recursive=True) if each.status() != psutil.STATUS_ZOMBIE]))
"""


def test_a_cluster_that_is_started_here_listens_to_this_machine_alone() -> None:
    """And it ends with its engine."""
    with TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        variables = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {"RAY_TMPDIR": folder}
        command = [sys.executable, "-c", ALONE]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.splitlines() == ["3 1 True {'127.0.0.1'}", "0"], done.stderr
