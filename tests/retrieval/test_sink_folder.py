"""Results in a folder, and work in hand in a shared place: on this machine and in object storage."""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any
from uuid import uuid4

import polars as pl
import pytest

from featurestore import Feature, FeatureStore, OnDemandView, Request
from featurestore.engines.base import Capacity
from featurestore.engines.local import LocalEngine
from featurestore.errors import EngineError, RequestError
from featurestore.offline.folder import Folder
from featurestore.offline.local_folder import LocalFolder
from featurestore.offline.open_folder import open_folder
from featurestore.retrieval.parts import CLAIM, MANIFEST, Part, claimed, write_manifest, write_part
from featurestore.retrieval.pieces import PieceWriter, discard, new_name, read_pieces
from featurestore.retrieval.scratch import Scratch
from featurestore.retrieval.training import TrainingReader, TrainingRequest
from tests.retrieval.test_flow import Cluster, hot_store, small_batches


@pytest.fixture(params=["here", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty folder, with a slash at its end."""
    return f"{tmp_path / 'place'}/" if request.param == "here" else f"{request.getfixturevalue('s3_url')}/"


class Elsewhere(Cluster):
    """A cluster whose tasks share no temporary folder with who asks for them."""

    def capacity(self) -> Capacity:
        here = super().capacity()
        return Capacity(here.cpus, here.memory_per_task, elsewhere=True)


def scratch_at(url: str, **seconds: float) -> Scratch:
    return Scratch(open_folder, "", url, **seconds)


def reader_at(store: FeatureStore, engine: LocalEngine, url: str) -> TrainingReader:
    return TrainingReader(store.settings.project, store.components.offline, engine, scratch_at(url))


def files_in(url: str) -> list[str]:
    return [entry.name for entry in open_folder(url).list("")]


def test_a_folder_has_parts_and_a_manifest_of_them(tmp_path: Path, place: str) -> None:
    store, view, spine = hot_store(tmp_path)
    with store, small_batches(90):
        sunk = store.training_frame(spine, view, time="t", sink=place)
        expected = store.training_frame(spine, view, time="t")
        assert sunk.collect().equals(expected)
    manifest = json.loads(open_folder(place).read(MANIFEST))
    assert files_in(place) == [MANIFEST, *(f"part-{number:05}.parquet" for number in range(5))]
    assert manifest["format"] == 1
    assert manifest["rows"] == spine.height
    assert [column["name"] for column in manifest["columns"]] == expected.columns
    assert [column["dtype"] for column in manifest["columns"]] == [str(dtype) for dtype in expected.dtypes]
    assert [file["rows"] for file in manifest["files"]] == [90, 90, 90, 90, 40]
    for file in manifest["files"]:
        content = open_folder(place).read(file["name"])
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file["bytes"], file["sha256"])


def test_no_result_is_replaced(tmp_path: Path, place: str) -> None:
    store, view, spine = hot_store(tmp_path)
    with store:
        store.training_frame(spine, view, time="t", sink=place)
        before = [open_folder(place).read(name) for name in files_in(place)]
        with pytest.raises(RequestError, match=r"There is a result in .* already"):
            store.training_frame(spine.head(2), view, time="t", sink=place)
        assert [open_folder(place).read(name) for name in files_in(place)] == before
        open_folder(place).delete([MANIFEST])
        with pytest.raises(RequestError, match=f"no {MANIFEST}"):
            store.training_frame(spine.head(2), view, time="t", sink=place)
        with pytest.raises(RequestError, match="Somebody writes a result"), claimed_by_another(place):
            store.training_frame(spine.head(2), view, time="t", sink=place)


@contextmanager
def claimed_by_another(place: str) -> Iterator[None]:
    """Another call of the same version has the folder, which is empty, and keeps it."""
    folder = open_folder(place)
    folder.delete(files_in(place))
    with claimed(folder):
        before = folder.read(CLAIM)
        try:
            yield
        finally:
            assert folder.read(CLAIM) == before


def test_a_result_is_not_whole_where_a_part_is_elsewhere(place: str) -> None:
    """As on a cluster whose machines have a folder of their own by that name."""
    folder = open_folder(place)
    rows = pl.DataFrame({"x": range(10)})

    def write() -> None:
        with claimed(folder):
            part = write_part(folder, 0, rows)
            write_manifest(folder, [part, replace(part, name="part-00001.parquet")], rows.schema)

    with pytest.raises(EngineError, match="folder of their own by that name"):
        write()
    assert files_in(place) == []


def test_on_an_error_nothing_is_left_of_a_result(tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store, view, spine = hot_store(tmp_path)

    def failing(target: Folder, number: int, rows: pl.DataFrame) -> Part:
        if number == 3:
            raise RequestError("no")
        return write_part(target, number, rows)

    with store, small_batches(90), monkeypatch.context() as patch:
        patch.setattr("featurestore.retrieval.flow_tasks.write_part", failing)
        with pytest.raises(RequestError, match="no"):
            store.training_frame(spine, view, time="t", sink=place)
        assert files_in(place) == []
        patch.undo()
        assert store.training_frame(spine, view, time="t", sink=place).collect().height == spine.height


def test_a_part_that_is_written_twice_is_there_once(place: str) -> None:
    rows = pl.DataFrame({"x": range(1000)})
    assert write_part(open_folder(place), 0, rows) == write_part(open_folder(place), 0, rows)
    with pytest.raises(RequestError, match="by somebody else"):
        write_part(open_folder(place), 0, rows.head(3))
    assert files_in(place) == ["part-00000.parquet"]


def test_an_empty_spine_makes_a_part_of_no_rows(tmp_path: Path, place: str) -> None:
    store, view, spine = hot_store(tmp_path)
    with store:
        assert store.training_frame(spine.head(0), view, time="t", sink=place).collect().columns == ["k", "t", "x"]
    assert json.loads(open_folder(place).read(MANIFEST))["rows"] == 0


def test_a_result_is_its_askers_to_share(tmp_path: Path) -> None:
    store, view, spine = hot_store(tmp_path)
    old = os.umask(0o022)
    try:
        with store:
            store.training_frame(spine, view, time="t", sink="out/")
    finally:
        os.umask(old)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()}
    assert modes == {0o644}


# -- work in hand ----------------------------------------------------------------------------------------------------------


class Trip(Request):
    distance: float


def test_tasks_elsewhere_have_all_files_in_a_shared_place(tmp_path: Path, place: str) -> None:
    """A frame in memory, a file and a folder are made of the same tasks, which are sent as bytes and run twice at once."""
    store, view, spine = hot_store(tmp_path)
    risk = type("Risk", (OnDemandView,), {"__annotations__": {"far": bool}, "__module__": __name__,
                                          "far": Feature(pl.col("distance") > pl.col("x"))}, inputs=[view.x, Trip])  # fmt: skip
    spine = spine.with_columns(distance=pl.int_range(pl.len()) * 1.5)
    with store, small_batches(150):
        store.apply([risk])
        features = [view, risk]
        expected = store.training_frame(spine, features, time="t")
        request = TrainingRequest(spine, store.components.select(features), "t")
        reader = reader_at(store, engine := Elsewhere(10_000), place)
        assert reader.frame(request).equals(expected)
        reader.sink(request, tmp_path / "out.parquet")
        assert pl.read_parquet(tmp_path / "out.parquet").equals(expected)
        reader.sink_parts(request, open_folder(f"{place}out/"))
        assert sorted(name for name in files_in(place) if not name.startswith("out/")) == []
    assert max(engine.sizes) < 40_000


def test_pieces_of_an_object_go_on_in_the_next(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featurestore.retrieval.pieces._OBJECT_BYTES", 1000)
    frames = [pl.DataFrame({"x": [number] * number}) if number % 4 else None for number in range(30)]
    folder = open_folder(place)
    folder.write("_alive", b"")
    with PieceWriter(folder, new_name("cut")) as writer:
        for frame in frames:
            writer.write(frame)
    receipt = writer.receipt
    assert len(receipt.names) == (1 if "place" in place else len(receipt.breaks) + 1)
    assert sorted(receipt.names) == sorted(set(files_in(place)) - {"_alive"})
    stretches = [receipt.stretch(number) for number in range(30)]
    assert [stretch.rows for stretch in stretches] == [0 if frame is None else frame.height for frame in frames]
    written = read_pieces(folder, stretches)
    assert all(one.equals(other) for one, other in zip(written, [each for each in frames if each is not None], strict=True))
    discard(folder, receipt.names)
    assert files_in(place) == ["_alive"]


@contextmanager
def killed(scratch: Scratch) -> Iterator[Folder]:
    """The folder of a driver that dies in its work: nothing is cleared, and no sign of life comes any more."""
    work = scratch.work(elsewhere=True)
    folder = work.__enter__()
    folder.write("join", b"rows")
    yield folder
    with suppress(OSError):
        work.__exit__(None, None, None)


def test_what_a_killed_driver_left_is_cleared_once_it_is_old(place: str) -> None:
    with killed(scratch_at(place, beat_seconds=1e6)) as left:
        with scratch_at(place).work(elsewhere=True) as folder:
            assert left.head("join") is not None, "it may be at work still"
            assert folder.head("join") is None
        time.sleep(1.1)  # object storage tells whole seconds
        with scratch_at(place, stale_seconds=0.05).work(elsewhere=True):
            assert left.list("") == []


def test_who_gives_signs_of_life_is_left_alone(place: str) -> None:
    beats: list[float] = []
    with killed(scratch_at(place, beat_seconds=0.2)) as left:
        for _ in range(5):
            Event().wait(0.5)
            alive = left.head("_alive")
            assert alive is not None
            beats.append(alive.modified)
        with scratch_at(place, stale_seconds=1.9).work(elsewhere=True):
            assert left.head("join") is not None
    assert beats[-1] > beats[0]


def test_nothing_but_work_in_hand_is_cleared(place: str) -> None:
    """The place may be the folder of histories."""
    names = ["project/v/_delta_log/0.json", f"_work/mine/{uuid4().hex}", f"{uuid4().hex}/x"]
    for name in names:
        open_folder(place).write(name, b"x")
    with scratch_at(place, stale_seconds=-1e9).work(elsewhere=True):
        pass
    assert set(files_in(place)) == set(names)


def test_a_place_that_cannot_be_used_is_said(tmp_path: Path, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store, view, spine = hot_store(tmp_path)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with store, pytest.raises(EngineError, match=r"not allowed.*set 'scratch'") as raised:
        reader_at(store, Elsewhere(), s3_url).frame(TrainingRequest(spine, store.components.select(view), "t"))
    assert "another" not in str(raised.value)


def test_a_folder_that_a_worker_does_not_reach_is_said(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"all who run tasks can read and write: set 'scratch'"):
        PieceWriter(LocalFolder(tmp_path / "of another machine"), "cut")


def test_the_setting_says_where_work_in_hand_lies(tmp_path: Path, monkeypatch: Any) -> None:
    store, view, spine = hot_store(tmp_path)
    seen = []
    with store, FeatureStore(tmp_path, project="test", scratch="work", clock=store.components.clock) as other:
        run = LocalEngine.run

        def spied(engine: LocalEngine, tasks: Any) -> Any:
            seen.extend(path.name for path in (tmp_path / "work" / "_work").iterdir())
            return run(engine, tasks)

        monkeypatch.setattr(LocalEngine, "run", spied)
        other.training_frame(spine, view, time="t", sink="out.parquet")
    assert len(set(seen)) == 1
    assert list((tmp_path / "work").rglob("*.parquet")) == []
    assert list((tmp_path / "work").glob("_work/*")) == []
