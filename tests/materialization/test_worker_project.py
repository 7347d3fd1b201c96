"""A project as workers of a cluster open it: no secret goes along, and what they lack is said."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from featurestore import FeatureStore
from featurestore.config import Settings
from featurestore.errors import EngineError
from featurestore.materialization.tasks import StageTask
from featurestore.worker_project import WorkerProject
from tests.engines.far import FarEngine
from tests.projects import INSTANT, memory_of, parquet_of, view_of

ROWS = pl.DataFrame({"k": ["a", "b"], "event": [1, 2], "x": [1.0, 2.0]}).with_columns(pl.col("event").cast(INSTANT))
SECRET = "hunter2"


def test_no_secret_goes_along(tmp_path: Path) -> None:
    settings = Settings(
        root=tmp_path,
        registry=f"postgresql+psycopg://me:{SECRET}@db/features",
        online=f"redis://:{SECRET}@cache:6379",
        tombstone_secret=SECRET,
        oidc={"grants": {SECRET: "admin"}},
        webhook=f"https://hooks/{SECRET}",
    )
    project = WorkerProject.of(settings)
    assert SECRET.encode() not in pickle.dumps(project)
    assert SECRET not in repr(project)
    assert dict(project.hidden) == {"registry": "postgresql+psycopg://me:***@db/features", "online": "redis://:***@cache:6379"}


def test_paths_are_those_of_this_machine(tmp_path: Path) -> None:
    """Wherever the project's folder is there."""
    project = WorkerProject.of(Settings(root=tmp_path, ray={"project_dir": "/project"}))
    assert project.folder == "/project"
    assert f'"registry": "sqlite:///{tmp_path}/.featurestore/registry.db"' in project.settings
    assert f'"offline": "{tmp_path}/.featurestore/offline"' in project.settings


@pytest.mark.parametrize(
    ("given", "there", "said"),
    [
        ({"online": f"redis://:{SECRET}@cache:6379"}, {}, "FEATURESTORE_ONLINE"),
        ({"online": f"redis://:{SECRET}@cache:6379"}, {"ONLINE": f"redis://:{SECRET}@other:6379"}, "FEATURESTORE_ONLINE"),
        ({"registry": f"postgresql+psycopg://me:{SECRET}@db/x"}, {}, "FEATURESTORE_REGISTRY"),
        ({"tombstone_secret": SECRET}, {}, "FEATURESTORE_TOMBSTONE_SECRET"),
        ({"ray": {"project_dir": "/nowhere"}}, {}, r"/nowhere.*ray\.project_dir"),
    ],
)
def test_what_a_worker_lacks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], there: dict[str, str], said: str
) -> None:
    for name, value in there.items():
        monkeypatch.setenv(f"FEATURESTORE_{name}", value)
    with pytest.raises(EngineError, match=said) as failure:
        WorkerProject.of(Settings(root=tmp_path, **given)).open()
    assert SECRET not in str(failure.value)


def test_a_worker_that_has_the_secrets_opens_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(root=tmp_path, online=f"redis://:{SECRET}@cache:6379", tombstone_secret=SECRET)
    monkeypatch.setenv("FEATURESTORE_ONLINE", settings.online)
    monkeypatch.setenv("FEATURESTORE_TOMBSTONE_SECRET", SECRET)
    assert WorkerProject.of(settings).open() is WorkerProject.of(settings).open()


def test_a_chunk_is_staged_as_the_process_that_asks_would(tmp_path: Path) -> None:
    """A view without a transform needs no definitions there; one of a frame in memory is staged here."""
    view = view_of(parquet_of(tmp_path / "rows", [ROWS], late=False), {"k": str}, {"x": float})
    with FeatureStore(tmp_path, project="staged") as store:
        store.apply([view])
        applied = store.catalog.views["v"]
        span = store.components.open_source(applied.spec.source).span(None, None, store.components.clock(), 10)
        project = WorkerProject.of(store.settings)
        task = StageTask(project, "v", applied.data_version, 1, 0, span.chunks[0], 1)
        index, body = pickle.loads(pickle.dumps(task)).run()
        assert index == 0
        assert (body["read"], body["made"], body["reasons"], body["kept"]) == (2, 2, {}, "")
        with pytest.raises(EngineError, match=r"does not know version 7 of view 'v'"):
            StageTask(project, "v", 7, 1, 0, span.chunks[0], 1).run()
        assert task.split(2) is None


def test_definitions_that_are_not_there_are_said(tmp_path: Path) -> None:
    view = view_of(
        parquet_of(tmp_path / "rows", [ROWS], late=False), {"k": str}, {"x": float}, transform=lambda rows: rows.with_columns(x=1.0)
    )
    with FeatureStore(tmp_path, project="defined") as store:
        store.apply([view])
        task = StageTask(WorkerProject.of(store.settings), "v", 1, 1, 0, {}, 1)
        with pytest.raises(EngineError, match=r"has not the definitions that were applied.*ray\.ship_project"):
            task.run()


def test_a_frame_in_memory_is_nowhere_else(tmp_path: Path) -> None:
    views = [
        view_of(memory_of(ROWS, late=False), {"k": str}, {"x": float}, name="here"),
        view_of(parquet_of(tmp_path / "rows", [ROWS], name="files", late=False), {"k": str}, {"x": float}, name="there"),
    ]
    with FeatureStore(tmp_path, project="memory") as store:
        store.apply(views)
        workers = store.components.workers
        assert workers is not None
        far = replace(workers, open_engine=lambda: FarEngine())
        bound = {name: store.components.definition_loader.bind(view) for name, view in store.catalog.views.items()}
        assert [far.stages(bound[name]) for name in ("here", "there")] == [False, True]
        assert not workers.stages(bound["there"]), "its engine runs tasks in this process"
        assert not far.reach_online, "LMDB lies in a folder of this machine"
