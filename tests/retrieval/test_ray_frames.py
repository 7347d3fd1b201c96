"""Training frames on a Ray cluster: equal to local ones, bit for bit, whatever is lost on the way; the driver sees receipts."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from featurestore import Entity, Feature, FeatureStore, FeatureView, OnDemandView, Request, count, mean, sum_
from featurestore.config import RaySettings
from featurestore.errors import RequestError
from featurestore.retrieval.scratch import Scratch
from featurestore.retrieval.training import TrainingReader, TrainingRequest
from featurestore.testing import FakeClock
from featurestore.testing.waiting import wait_until
from tests.cli.conftest import run as featurestore
from tests.projects import INSTANT, memory_of, store_at
from tests.retrieval.test_flow import small_batches
from tests.servers.ray_cluster import HOST, MEMORY
from tests.servers.s3_server import S3Server

pytest.importorskip("ray", reason="the extra 'ray' is not installed: pip install 'featurestore[ray]'")
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

from featurestore.engines.ray import RayEngine  # noqa: E402 - it is there where Ray is
from tests.engines.ray_engines import Recording, SlowRay, kill_a_worker, workers  # noqa: E402 - it is there where Ray is

SHARE = RaySettings(memory_per_task_gib=0.25)
ROWS, ENTITIES, SPINE = 20_000, 300, 12_000
MINUTE = 60_000_000
NOW = 10**13


def history() -> pl.DataFrame:
    """Events of entities, of which one has a third; some are late."""
    number = pl.int_range(ROWS, eager=True)
    return pl.DataFrame(
        {
            "k": [f"k{n * 7919 % ENTITIES}" if n % 3 else "hot" for n in range(ROWS)],
            "event": (number * MINUTE).cast(INSTANT),
            "available": (number * MINUTE + number % 5 * 90 * MINUTE).cast(INSTANT),
            "x": (number * 2654435761 % 1_000_003) / 7.0,
        }
    )


def spine_frame() -> pl.DataFrame:
    number = pl.int_range(SPINE, eager=True)
    return pl.DataFrame(
        {
            "k": [None if n % 97 == 0 else "hot" if n % 4 == 0 else f"k{n * 31 % (ENTITIES + 20)}" for n in range(SPINE)],
            "t": (number * 104729 % (ROWS + 500) * MINUTE + 5).cast(INSTANT),
            "distance": number * 1.25,
        }
    )


USER = Entity("user", k=str)
EVENTS = memory_of(history())


class Latest(FeatureView, entity=USER, source=EVENTS, ttl="7d"):
    x: float


class Windowed(FeatureView, entity=USER, source=EVENTS):
    total: float = sum_("x").over("1h", "1d")
    events: int = count("x").over("1d")
    average: float | None = mean("x").over("1d")


class Trip(Request):
    distance: float


class Risk(OnDemandView, inputs=[Latest.x, Windowed.total["1d"], Trip]):
    per_mile: float | None = Feature((pl.col("x") + pl.col("total_1d")) / (pl.col("distance") + 3))


FEATURES = [Latest, Windowed, Risk]


@dataclass
class Project:
    """A store whose engine is the cluster, and the frame that the local engine makes."""

    store: FeatureStore
    spine: str
    expected: pl.DataFrame

    def request(self) -> TrainingRequest:
        folder = self.store.components.open_folder(str(Path(self.spine).parent))
        features = self.store.components.select(FEATURES)
        return TrainingRequest(pl.scan_parquet(self.spine), features, "t", files=[folder.address("spine.parquet")])


def settings_of(cluster: Any) -> dict[str, Any]:
    return {"engine": "ray", "ray": {"address": cluster.address, "memory_per_task_gib": 0.25}}


@pytest.fixture(scope="module", params=["here", "s3"])
def project(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, ray_nodes: Any, seaweed: S3Server
) -> Iterator[Project]:
    """Work in hand lies beside the history, or in object storage."""
    folder = tmp_path_factory.mktemp("project")
    scratch = {"here": "", "s3": "s3://history/scratch"}[request.param]
    with pytest.MonkeyPatch.context() as patch, small_batches(2500, bucket=2000), store_at(folder, FakeClock(NOW)) as store:
        for name, value in seaweed.variables.items():
            patch.setenv(name, value)
        store.apply(FEATURES)
        store.materialize()
        spine_frame().write_parquet(folder / "spine.parquet")
        expected = store.training_frame(spine_frame(), FEATURES, time="t")
        with store_at(folder, FakeClock(NOW), scratch=scratch, **settings_of(ray_nodes)) as other:
            yield Project(other, str(folder / "spine.parquet"), expected)


@pytest.mark.parametrize("sink", ["memory", "file", "folder"])
@pytest.mark.parametrize("given", ["frame", "file"])
def test_it_is_what_the_local_engine_makes(project: Project, sink: str, given: str, tmp_path: Path) -> None:
    """A latest view, windows and what is computed of both; one entity has a third of all rows."""
    rows = project.spine if given == "file" else spine_frame()
    target = {"memory": None, "file": str(tmp_path / "out.parquet"), "folder": f"{tmp_path}/out/"}[sink]
    made: Any = project.store.training_frame(rows, FEATURES, time="t", sink=target)
    frame = made if target is None else made.collect()
    assert frame.equals(project.expected, null_equal=True)
    assert frame.schema == project.expected.schema
    if sink == "folder":
        assert json.loads((tmp_path / "out" / "_manifest.json").read_text())["rows"] == SPINE


def test_a_hot_entity_is_split_by_time(project: Project) -> None:
    """One that does not fit into what a task may take. Sums of floats are those of S10, for they are added up in other parts."""
    engine = Recording(RaySettings(memory_per_task_gib=5e-4))
    frame = made_by(project, engine)
    assert frame.select("x", "events").equals(project.expected.select("x", "events"), null_equal=True)
    assert_frame_equal(frame, project.expected, rel_tol=1e-9)
    assert any(getattr(task, "span", None) is not None for task in engine.done)


def test_an_error_of_a_row_arrives_as_itself(project: Project) -> None:
    rows = spine_frame().with_columns(distance=pl.when(pl.int_range(pl.len()) != 7001).then("distance"))
    with pytest.raises(RequestError, match="7001"):
        project.store.training_frame(rows, FEATURES, time="t")


def test_from_the_command_line(project: Project, ray_nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATURESTORE_PROJECT", "test")
    monkeypatch.setenv("FEATURESTORE_RAY__ADDRESS", ray_nodes.address)
    monkeypatch.setattr("featurestore.store.utc_now", FakeClock(NOW))
    root = project.store.settings.root
    result = featurestore(
        "train", "-C", root, project.spine, "latest", "--time", "t", "--engine", "ray", "-o", f"{tmp_path}/out/", "--json"
    )
    assert json.loads(result.stdout)["rows"] == SPINE
    assert pl.read_parquet(tmp_path / "out" / "*.parquet")["x"].equals(project.expected["x"])


# -- what is lost ----------------------------------------------------------------------------------------------------------


def made_by(project: Project, engine: RayEngine) -> pl.DataFrame:
    components = project.store.components
    return TrainingReader(project.store.settings.project, components.offline, engine, components.scratch).frame(project.request())


@pytest.mark.parametrize("kind", ["CutTask", "JoinFilesTask", "GatherTask"])
def test_a_worker_that_is_killed_changes_nothing(project: Project, kind: str) -> None:
    assert made_by(project, SlowRay(SHARE, kind, kill_a_worker)).equals(project.expected, null_equal=True)


def test_a_node_that_is_killed_changes_nothing(project: Project, ray_nodes: Any) -> None:
    node = ray_nodes.add_node(num_cpus=1, memory=MEMORY, object_store_memory=80 << 20, node_ip_address=HOST)
    killed = []

    def kill() -> None:
        ray_nodes.remove_node(node, allow_graceful=False)
        killed.append(node)

    frame = made_by(project, SlowRay(SHARE, "JoinFilesTask", kill))
    assert killed
    assert frame.equals(project.expected, null_equal=True)


DRIVER = """
import sys
from pathlib import Path
import tests.retrieval.test_ray_frames as these
from featurestore.retrieval.training import TrainingReader
from featurestore.testing import FakeClock
from tests.projects import store_at
from tests.retrieval.test_flow import small_batches

address, folder, scratch, target = sys.argv[1:]
settings = {"engine": "ray", "ray": {"address": address}}
with small_batches(2500), store_at(Path(folder), FakeClock(these.NOW), scratch=scratch, **settings) as store:
    project = these.Project(store, f"{folder}/spine.parquet", None)
    engine = these.SlowRay(store.settings.ray, "JoinFilesTask", lambda: print("joining", flush=True))
    reader = TrainingReader("test", store.components.offline, engine, store.components.scratch)
    reader.sink_parts(project.request(), store.components.open_folder(target))
"""


def test_a_driver_that_is_killed_leaves_nothing_for_ever(project: Project, ray_nodes: Any, tmp_path: Path) -> None:
    """Its tasks end with it; what it had in hand is cleared by the next; its result is not taken for one."""
    store = project.store
    work = store.components.open_folder(store.settings.scratch or store.settings.offline).inside("_work")
    command = [
        sys.executable, "-c", DRIVER,
        ray_nodes.address, str(store.settings.root), store.settings.scratch, f"{tmp_path}/out/",
    ]  # fmt: skip
    alive = lambda: [entry.name for entry in work.list("") if entry.name.endswith("/_alive")]  # noqa: E731 - of this test
    variables = os.environ | {"PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=variables) as driver:
        assert driver.stdout is not None
        assert driver.stderr is not None
        # Ray prints there too what it has to say of workers that are gone.
        assert b"joining\n" in iter(driver.stdout.readline, b""), driver.stderr.read()
        driver.send_signal(signal.SIGKILL)
    left = alive()
    assert len(left) == 1
    wait_until(lambda: not workers(), "its tasks go on")
    with pytest.raises(RequestError, match="Somebody writes a result"):
        store.training_frame(project.spine, FEATURES, time="t", sink=f"{tmp_path}/out/")
    assert alive() == left, "it may be alive still"
    sleep(1.1)
    scratch = Scratch(store.components.open_folder, store.settings.scratch, store.settings.offline, stale_seconds=0.05)
    with scratch.work(elsewhere=True):
        assert len(alive()) == 1
        assert alive() != left
    again = store.training_frame(project.spine, FEATURES, time="t", sink=f"{tmp_path}/again/").collect()
    assert again.equals(project.expected, null_equal=True)
    assert [entry.name for entry in work.list("")] == []
