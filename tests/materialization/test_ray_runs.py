"""Runs on a Ray cluster: what they write to both stores is what the local engine writes, whatever is lost on the way."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from time import sleep
from typing import Any

import polars as pl
import pytest

from featurestore import FeatureStore
from featurestore.config import RaySettings
from featurestore.errors import EngineError
from featurestore.testing.waiting import wait_until
from tests.cli.conftest import run as featurestore
from tests.materialization.elsewhere import DEFINITIONS, FILES, ROWS, Fleet, Written, events
from tests.retrieval.test_flow import small_batches
from tests.servers.s3_server import S3Server
from tests.servers.valkey import ValkeyServer

pytest.importorskip("ray", reason="the extra 'ray' is not installed: pip install 'featurestore[ray]'")
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

from tests.engines.ray_engines import Recording, SlowRay, kill_two_workers, workers  # noqa: E402 - it is there where Ray is

HERE = pytest.mark.parametrize("fleet", ["here"], indirect=True)
IN_A_FLEET = pytest.mark.parametrize("fleet", ["fleet"], indirect=True)


@pytest.fixture(scope="module", params=["here", "fleet"])
def fleet(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    ray_nodes: Any,
    seaweed: S3Server,
) -> Iterator[Fleet]:
    """History and registry in folders of this machine; or in object storage and PostgreSQL."""
    is_fleet = request.param == "fleet"
    registry = request.getfixturevalue("postgres_url") if is_fleet else ""
    with pytest.MonkeyPatch.context() as patch, small_batches(2500, bucket=20_000), ValkeyServer() as valkey:
        patch.setattr("featurestore.engines.base.FEW_ROWS", 10_000)
        for name, value in seaweed.variables.items():
            patch.setenv(name, value)
        folder = tmp_path_factory.mktemp(request.param)
        yield Fleet(folder, "s3://history/ray-runs" if is_fleet else "", valkey.url, ray_nodes.address, registry)


def ray_of(fleet: Fleet) -> RaySettings:
    return RaySettings(address=fleet.address, memory_per_task_gib=0.5)


@pytest.fixture(scope="module")
def expected(fleet: Fleet) -> "Written":
    """What the local engine writes."""
    with fleet.local("local") as store:
        store.apply()
        summary = store.materialize()
        return Written.of(store, summary)


def test_runs_write_what_the_local_engine_writes(fleet: Fleet, expected: Written) -> None:
    engine = Recording(ray_of(fleet))
    with fleet.cluster("on_ray", engine) as store:
        store.apply()
        Written.of(store, store.materialize()).require_same(expected)
        assert engine.kinds.count("StageTask") == 2 * FILES
        assert engine.kinds.count("MergeTask") == engine.kinds.count("OnlineTask") == 2


@HERE
def test_a_backfill_and_small_runs_come_to_the_same(fleet: Fleet, expected: Written) -> None:
    with fleet.cluster("backfilled") as store:
        store.apply()
        store.materialize(chunk="30d")
        written = Written.of(store, [])
        assert written.online == expected.online
        assert written.history.equals(expected.history, null_equal=True)


def test_online_values_are_rebuilt_by_tasks(fleet: Fleet, expected: Written) -> None:
    with fleet.local("rebuilt") as store:
        store.apply()
        store.materialize()
    fleet.lose_online_values()
    engine = Recording(ray_of(fleet))
    with fleet.cluster("rebuilt", engine) as store:
        store.admin.rebuild_online()
        assert Written.of(store, []).online == expected.online
        assert set(engine.kinds) == {"OnlineTask"}


def test_files_are_merged_by_tasks_and_who_is_forgotten_stays_so(fleet: Fleet, expected: Written) -> None:
    """Small runs, one after the other, leave many files. Rows of a forgotten entity come again from the source and go nowhere."""
    root = fleet.root("kept")
    for file in (root / "events").iterdir():
        file.unlink()
    engine = Recording(ray_of(fleet))
    with fleet.cluster("kept", engine) as store:
        store.apply()
        for part in range(FILES):
            events(ROWS, part).write_parquet(root / "events" / f"{part}.parquet")
            store.materialize()
            if part == 2:
                store.admin.forget("user", {"k": "k7"})
        store.admin.maintain()
        assert "CompactTask" in engine.kinds
        gone = pl.col("k") != "k7"
        written = Written.of(store, [])
        assert written.history.equals(expected.history.filter(gone), null_equal=True)
        assert written.windowed.equals(expected.windowed.filter(gone), null_equal=True)
        assert store.online("latest", [{"k": "k7"}]).to_dicts() == [{"k": "k7", "x": None, "doubled": None}]


# -- what is lost ----------------------------------------------------------------------------------------------------------


@IN_A_FLEET
@pytest.mark.parametrize("kind", ["StageTask", "MergeTask"])
def test_a_worker_that_is_killed_changes_nothing(
    fleet: Fleet, expected: Written, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featurestore.offline.delta.commit.TASK_BYTES", 1)
    engine = SlowRay(ray_of(fleet), kind, kill_two_workers)
    name = f"killed_{kind.lower()}"
    with fleet.cluster(name, engine) as store:
        store.apply()
        Written.of(store, store.materialize()).require_same(expected)
    assert engine.called


@IN_A_FLEET
def test_a_worker_that_is_killed_as_it_writes_online_changes_nothing(
    fleet: Fleet, expected: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featurestore.materialization.tasks.TASK_BYTES", 1)
    with fleet.local("killed_online") as store:
        store.apply()
        store.materialize()
    fleet.lose_online_values()
    began: list[Thread] = [Thread(target=kill_two_workers)]
    began[0].start()
    with fleet.cluster("killed_online", SlowRay(ray_of(fleet), "OnlineTask", lambda: None)) as store:
        store.admin.rebuild_online()
        began[0].join()
        assert Written.of(store, []).online == expected.online


DRIVER = """
import sys
from pathlib import Path
import tests.materialization.test_ray_runs as these

folder, offline, url, address, registry, name, kind = sys.argv[1:]
fleet = these.Fleet(Path(folder), offline, url, address, registry)
engine = these.SlowRay(these.ray_of(fleet), kind, lambda: print("there", flush=True))
with fleet.cluster(name, engine) as store:
    store.apply()
    store.materialize()
"""


@IN_A_FLEET
def test_a_driver_that_is_killed_goes_on_where_it_stopped(fleet: Fleet, expected: Written) -> None:
    """The chunks that were staged are not staged again; its tasks end with it."""
    name, root = "driver", fleet.root("driver")
    arguments = [str(fleet.folder), fleet.offline, fleet.online, fleet.address, fleet.registry, name, "StageTask"]
    variables = os.environ | {"PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=variables, cwd=root.parent
    ) as driver:
        assert driver.stdout is not None
        assert driver.stderr is not None
        assert b"there\n" in iter(driver.stdout.readline, b""), driver.stderr.read()
        sleep(0.5)  # for it to note what the task has done
        driver.send_signal(signal.SIGKILL)
    wait_until(lambda: not workers(), "its tasks go on")
    engine = Recording(ray_of(fleet))
    with fleet.cluster(name, engine) as store:
        summary = store.materialize()
        assert engine.kinds.count("StageTask") < 2 * FILES
        written = Written.of(store, summary)
        assert written.online == expected.online
        assert written.history.equals(expected.history, null_equal=True)
        assert written.windowed.equals(expected.windowed, null_equal=True)


# -- what workers must have ------------------------------------------------------------------------------------------------


@HERE
def test_definitions_that_differ_on_the_workers_are_said(fleet: Fleet) -> None:
    root = fleet.root("differing")
    with fleet.cluster("differing") as store:
        store.apply()
        bound = store.components.definition_loader.bind
        bound(store.catalog.views["latest"])  # as this process has read it
        (root / "definitions" / "views.py").write_text(DEFINITIONS.replace("* 2", "* 3"))
        with pytest.raises(EngineError, match="has not the definitions that were applied"):
            store.materialize("latest")


@HERE
def test_a_project_that_is_not_there_is_said(fleet: Fleet) -> None:
    ray = {"address": fleet.address, "project_dir": "/nowhere"}
    with FeatureStore(fleet.root("absent"), engine="ray", ray=ray, **fleet.settings("absent")) as store:
        store.apply()
        with pytest.raises(EngineError, match=r"/nowhere.*ray\.project_dir"):
            store.materialize()


@HERE
def test_a_project_is_sent_where_the_settings_say_so(fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To workers that begin elsewhere. The source lies where all reach it."""
    root = fleet.root("sent")
    other = tmp_path / "project"
    (other / "definitions").mkdir(parents=True)
    (other / "definitions" / "views.py").write_text(
        DEFINITIONS.replace('"events/*.parquet"', f'"{root}/events/*.parquet"').replace("Windowed", "Other")
    )
    for name, value in fleet.settings("sent").items():
        monkeypatch.setenv(f"FEATURESTORE_{name.upper()}", str(value))
    variables = os.environ | {"FEATURESTORE_RAY__ADDRESS": fleet.address, "FEATURESTORE_RAY__SHIP_PROJECT": "true"}
    variables |= {"FEATURESTORE_ENGINE": "ray"}
    featurestore("apply", "-C", other, "--yes")
    script = (
        "import sys\n"
        "from featurestore import FeatureStore\n"
        "import featurestore.worker_project as project\n"
        f"with FeatureStore({str(other)!r}) as store:\n"
        "    assert store.components.workers.project.folder == '.'\n"
        "    print(store.materialize())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], env=variables, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"{ROWS:,}" in done.stdout
