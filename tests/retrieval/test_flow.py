"""Training files: the flow gives what a frame in memory has, however its tasks are cut, split and repeated."""

import pickle
import tempfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore import FeatureStore
from featurestore.definitions.feature import FeatureSpec
from featurestore.engines.base import Capacity
from featurestore.engines.local import LocalEngine
from featurestore.errors import OfflineStoreError, RequestError
from featurestore.offline.folder import Folder
from featurestore.offline.local_folder import LocalFolder
from featurestore.retrieval.assembly import in_order
from featurestore.retrieval.flow import FlowPlan
from featurestore.retrieval.flow_tasks import CutTask, GatherTask, JoinFilesTask, SpineBatch, SpineCut
from featurestore.retrieval.join_plan import ROW
from featurestore.retrieval.pieces import PieceWriter, read_pieces, write_rows
from featurestore.retrieval.sink import ParquetSink
from featurestore.retrieval.training import TrainingReader, TrainingRequest
from featurestore.rows.point_in_time import PointInTime
from featurestore.testing import FakeClock
from tests.effort import examples
from tests.oracle import Row, latest
from tests.projects import INSTANT, frame_of, memory_of, parquet_of, same, store_at, view_of
from tests.windowed import FEW, FEW_CASES, Scene, project, scenes, spine_of

END = 40
NOW = 10**16
LITTLE = 500
"""The memory of an engine that can hold some rows, so that tasks are split and batches looked up one by one."""
OFTEN = settings(
    max_examples=examples(30), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


class NoFrames(pickle.Pickler):
    """Pickles, but never a frame."""

    def persistent_id(self, thing: Any) -> None:
        assert not isinstance(thing, (pl.DataFrame, pl.LazyFrame, pl.Series)), "a frame goes along"


def sent(thing: Any) -> tuple[Any, int]:
    """What arrives elsewhere, and how many bytes went there."""
    content = BytesIO()
    NoFrames(content).dump(thing)
    return pickle.loads(content.getvalue()), content.tell()


@dataclass(frozen=True)
class Twice:
    """A task as a cluster may do it: elsewhere, and twice at once, of which one receipt counts."""

    task: Any
    sizes: list[int]

    @property
    def weight(self) -> int:
        return int(self.task.weight)

    def run(self) -> Any:
        task, size = sent(self.task)
        with ThreadPoolExecutor(2) as pool:
            receipts = list(pool.map(lambda each: each.run(), [task, task]))
        receipt, answered = sent(receipts[size % 2])
        self.sizes.extend([size, answered])
        return receipt

    def split(self, parts: int) -> "list[Twice] | None":
        tasks = self.task.split(parts)
        return None if tasks is None else [Twice(task, self.sizes) for task in tasks]


class Cluster(LocalEngine):
    """An engine that hands nothing but bytes to its tasks, gives the last result first, and notes what it was given."""

    def __init__(self, memory: int = LITTLE, threads: int = 2) -> None:
        super().__init__(threads, memory)
        self.sizes: list[int] = []
        self.done: list[Any] = []

    def run(self, tasks: Iterable[Any]) -> Generator[tuple[Any, Any], None, None]:
        for task, receipt in reversed(list(super().run(Twice(task, self.sizes) for task in tasks))):
            assert isinstance(task, Twice)
            self.done.append(task.task)
            yield task.task, receipt

    def joins(self) -> list[JoinFilesTask]:
        return [task for task in self.done if isinstance(task, JoinFilesTask)]


def reader_of(store: FeatureStore, engine: LocalEngine) -> TrainingReader:
    return TrainingReader(store.settings.project, store.components.offline, engine, store.components.scratch)


def sunk(store: FeatureStore, view: Any, spine: pl.DataFrame, engine: LocalEngine, *, as_known: bool = True) -> pl.DataFrame:
    """What an engine makes of a spine, in a file."""
    reader = reader_of(store, engine)
    path = store.settings.root / "out.parquet"
    request = TrainingRequest(spine.lazy(), store.components.select(view), "t", as_known)
    assert reader.sink(request, path) == spine.height
    assert [file.name for file in store.settings.root.iterdir() if "training" in file.name] == []
    return pl.read_parquet(path)


@contextmanager
def small_batches(rows: int, *, bucket: int = 4) -> Iterator[None]:
    """Batches of a few rows, and histories of a few rows a bucket."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("featurestore.retrieval.flow._BATCH_ROWS", rows)
        patch.setattr("featurestore.rows.buckets.bits_for.__defaults__", (bucket,))
        patch.setattr("featurestore.offline.delta.commit.ROWS_PER_BUCKET", bucket)
        yield


keys = st.sampled_from(["hot", "hot", "hot", "a", "b"])
moments = st.integers(-5, 30)
VALUES = st.none() | st.sampled_from([0.0, 1.5, float("nan"), -2.0])
rows_of = st.lists(
    st.builds(lambda key, event, delay, x: Row((key,), event, event + delay, (x,)), keys, moments, st.integers(-3, 9), VALUES),
    max_size=25,
)
spines = st.lists(st.tuples(st.none() | keys | st.just("never"), moments), max_size=20)


def spine_frame(spine: Sequence[tuple[Any, int]]) -> pl.DataFrame:
    data = [(key, t, number) for number, (key, t) in enumerate(spine)]
    return pl.DataFrame(data, schema={"k": pl.String, "t": pl.Int64, "label": pl.Int64}, orient="row").with_columns(
        pl.col("t").cast(INSTANT)
    )


@OFTEN
@given(
    rows=rows_of, spine=spines, ttl=st.none() | st.integers(1, 12), files=st.integers(1, 3), late=st.booleans(),
    as_known=st.booleans(), memory=st.sampled_from([LITTLE, 1, 10**9]), batch=st.integers(1, 9),
)  # fmt: skip
def test_s3_s4_s5_s6_s11_a_file_is_what_the_oracle_says(
    rows: list[Row], spine: list[Any], ttl: int | None, files: int, late: bool, as_known: bool, memory: int, batch: int
) -> None:
    """Late rows and tied ones, null keys, hot entities that are split by time, tasks that run twice at once."""
    rows = rows if late else [Row(row.key, row.event, row.event, row.values) for row in rows]
    with tempfile.TemporaryDirectory() as folder, small_batches(batch):
        frame = frame_of(rows, {"k": pl.String}, {"x": pl.Float64})
        source = parquet_of(Path(folder) / "data", [frame[number::files] for number in range(files)], late=late)
        view = view_of(source, {"k": str}, {"x": float | None}, ttl=None if ttl is None else timedelta(microseconds=ttl))
        with store_at(Path(folder), FakeClock(END), project=f"p{uuid4().hex}") as store:
            store.apply([view])
            store.materialize()
            written = sunk(store, view, spine_frame(spine), Cluster(memory), as_known=as_known)
            assert written.equals(store.training_frame(spine_frame(spine), view, time="t", as_known=as_known), null_equal=True)
            assert written["label"].to_list() == list(range(len(spine)))
            for (key, t), x in zip(spine, written["x"].to_list(), strict=True):
                expected = latest(rows, (key,), t, ttl=ttl, as_known=as_known)
                assert same(x, None if expected is None else expected[0])


@FEW
@given(scene=scenes(FEW_CASES), as_known=st.booleans(), memory=st.sampled_from([LITTLE, 1, 10**9]))
def test_s6_s7_s8_s9_s10_windows_in_a_file_are_what_the_oracle_says(scene: Scene, as_known: bool, memory: int) -> None:
    """A bucket whose events have ids is not split: a correction may lie anywhere."""
    with project([view := scene.layout.view(scene.source())], NOW) as (store, _), small_batches(3):
        store.materialize()
        engine = Cluster(memory)
        written = sunk(store, view, spine_of(scene.spine), engine, as_known=as_known)
        assert written.select("label").to_series().to_list() == list(range(len(scene.spine)))
        for (key, t), features in zip(scene.spine, written.to_dicts(), strict=True):
            assert not scene.layout.differences(scene.events, key, t, features, as_known=as_known)
        assert not scene.ids or all(task.span is None for task in engine.joins())


def hot_store(folder: Path, rows: int = 400, **options: Any) -> tuple[FeatureStore, Any, pl.DataFrame]:
    """A store with one hot entity, and a spine that asks for it all the time."""
    number = pl.int_range(rows, eager=True)
    history = pl.DataFrame(
        {"k": ["hot"] * rows, "event": number * 10, "available": number * 10 + number % 7 * 9, "x": number * 1.0}
    )
    view = view_of(memory_of(history.with_columns(pl.col("event", "available").cast(INSTANT))), {"k": str}, {"x": float}, **options)
    store = store_at(folder, FakeClock(10**9))
    store.apply([view])
    store.materialize()
    spine = pl.DataFrame({"k": ["hot"] * rows, "t": (number * 7919 % rows * 10 + 5).cast(INSTANT)})
    return store, view, spine


def test_a_hot_entity_is_split_by_time(tmp_path: Path) -> None:
    store, view, spine = hot_store(tmp_path)
    with store, small_batches(50):
        engine = Cluster(10_000)
        assert sunk(store, view, spine, engine).equals(store.training_frame(spine, view, time="t"))
        spans = sorted(task.span for task in engine.joins() if task.span is not None)
        assert len(spans) == len(engine.joins()) > 3
        assert all(one[1] == other[0] for one, other in pairwise(spans))


def test_a_part_of_a_hot_entity_has_a_part_of_the_history(tmp_path: Path) -> None:
    store, view, spine = hot_store(tmp_path)
    looked_up = []
    with store, small_batches(50), pytest.MonkeyPatch.context() as patch:
        plain = PointInTime.look_up

        def look_up(plan: PointInTime, spine: pl.DataFrame, history: pl.DataFrame) -> pl.DataFrame:
            looked_up.append(history.height)
            return plain(plan, spine, history)

        patch.setattr(PointInTime, "look_up", look_up)
        sunk(store, view, spine, LocalEngine(1, 10_000))
    assert max(looked_up) < 400 / 4


def test_what_goes_to_a_task_and_comes_back_is_small(tmp_path: Path) -> None:
    store, view, spine = hot_store(tmp_path, 20_000)
    with store:
        engine = Cluster(10**9)
        sunk(store, view, spine, engine)
    assert {type(task) for task in engine.done} == {CutTask, JoinFilesTask, GatherTask}
    assert max(engine.sizes) < 8_000


def test_row_numbers_may_be_greater_than_32_bits(tmp_path: Path) -> None:
    far, folder = 2**33 + 7, LocalFolder(tmp_path)
    write_rows(folder, "spine", pl.DataFrame({"skipped": 0, "k": ["a", None, "a"], "t": pl.Series([3, 4, 5]).cast(INSTANT)}))
    batch = SpineBatch(folder.address("spine"), 1, far, 2)
    receipt = CutTask(0, batch, "t", (SpineCut({"k": pl.String()}, ("k",), 0, ((1,),), frozenset({0})),), folder, 1).run()
    [piece] = read_pieces(folder, [receipt.pieces[0].stretch(0)])
    assert piece[ROW].to_list() == [far + 1]
    assert set(receipt.times[0][0]) == {5}
    with PieceWriter(folder, "found") as writer:
        writer.write(pl.DataFrame({ROW: [far + 1], "x": [1.5]}, schema_overrides={ROW: pl.UInt64}))
    features = in_order(read_pieces(folder, [writer.receipt.stretch(0)]), (("x", FeatureSpec("x", pl.Float64())),), far, 2)
    assert features["x"].to_list() == [None, 1.5]


# -- spines in files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "given", "spilled"),
    [
        (["spine.parquet"], "spine.parquet", 0),
        (["s[1]"], "s[1]", 0),
        (["spines/b.parquet", "spines/a.parquet", "spines/c.parquet"], "spines", 0),
        (["spines/b.parquet", "spines/a.parquet"], "spines/*.parquet", 4),
        (["spines/part=1/b.parquet", "spines/part=2/a.parquet"], "spines", 4),
        ([f"spines/{number:02}.parquet" for number in range(40)], "spines", 4),
    ],
    ids=["file", "name", "folder", "glob", "hive", "many"],
)
def test_a_spine_in_files_is_read_where_it_lies(tmp_path: Path, names: list[str], given: str, spilled: int) -> None:
    """No row of it passes through the driver. Where it is more than plain files it is written in batches first."""
    store, view, spine = hot_store(tmp_path)
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        spine[number :: len(names)].write_parquet(tmp_path / name)
    written: list[str] = []

    def write(folder: Folder, name: str, rows: pl.DataFrame) -> None:
        written.append(name)
        write_rows(folder, name, rows)

    with store, small_batches(100), pytest.MonkeyPatch.context() as patch:
        patch.setattr("featurestore.retrieval.flow.write_rows", write)
        file = store.training_frame(given, view, time="t", sink="out.parquet").collect()
        assert len(written) == spilled
        assert file.equals(store.training_frame(given, view, time="t"))
        assert file.height == spine.height


def test_what_is_wrong_with_a_spine_in_a_file_is_said_before_anything_is_joined(tmp_path: Path) -> None:
    store, view, spine = hot_store(tmp_path)
    spine.with_columns(t=pl.when(pl.int_range(pl.len()) != 7).then("t")).write_parquet(tmp_path / "spine.parquet")
    with store, pytest.MonkeyPatch.context() as patch:
        patch.setattr("featurestore.retrieval.flow.Flow.join", None)
        with pytest.raises(RequestError, match="1 of the spine's 400 rows have no time"):
            store.training_frame("spine.parquet", view, time="t", sink="out.parquet")


def test_a_spine_that_shrinks_meanwhile_is_an_error(tmp_path: Path) -> None:
    spine = pl.DataFrame({"k": ["a", "b"]})
    folder = LocalFolder(tmp_path)
    write_rows(folder, "spine", spine)
    assert SpineBatch(folder.address("spine"), 0, 0, 2).read().equals(spine)
    with pytest.raises(RequestError, match="changed while it was read"):
        SpineBatch(folder.address("spine"), 0, 0, 3).read()
    with pytest.raises(RequestError, match="fails as it is read"):
        SpineBatch(folder.address("gone"), 0, 0, 3).read()


def test_batches_elsewhere_are_few_and_as_large_as_a_task_can_hold(tmp_path: Path) -> None:
    """So that a spine of any size makes no more pieces than a driver can have the receipts of."""
    store, view, _ = hot_store(tmp_path)
    with store:
        schema = pl.Schema({"k": pl.String(), "t": INSTANT, "label": pl.Int64()})
        plan = FlowPlan(store.components.select(view), schema, "t", as_known=True, folder=LocalFolder(tmp_path))

    def rows(spine: int, cpus: int, gib: int) -> int:
        return plan.rows_elsewhere(spine, Capacity(cpus, gib << 30, elsewhere=True))

    assert rows(1000, 4, 4) == plan.batch_rows
    assert rows(10**9, 400, 4) == 10**9 // 800
    assert rows(10**9, 4, 4) == (4 << 30) // (2 * 3 * plan.width)
    assert rows(10**12, 4, 64) == 16_000_000


# -- what goes wrong -------------------------------------------------------------------------------------------------------


class Losing(LocalEngine):
    """An engine that finds a history's file deleted at the first few joins, as an entity is forgotten meanwhile."""

    def __init__(self, times: int, error: BaseException) -> None:
        super().__init__(2, 10**9)
        self.left = times
        self.error = error

    def run(self, tasks: Iterable[Any]) -> Generator[tuple[Any, Any], None, None]:
        for task, receipt in super().run(tasks):
            if isinstance(task, JoinFilesTask) and self.left:
                self.left -= 1
                raise self.error
            yield task, receipt


def lost_file() -> OfflineStoreError:
    error = OfflineStoreError("a file of the history cannot be read")
    error.__cause__ = FileNotFoundError("gone")
    return error


def test_where_files_are_deleted_meanwhile_all_is_joined_again(tmp_path: Path) -> None:
    store, view, spine = hot_store(tmp_path)
    with store:
        assert sunk(store, view, spine, Losing(2, lost_file())).equals(store.training_frame(spine, view, time="t"))


@pytest.mark.parametrize(
    ("times", "error"),
    [(3, lost_file()), (1, OfflineStoreError("broken")), (1, KeyboardInterrupt())],
    ids=["gone", "broken", "ctrl-c"],
)
def test_nothing_is_left_of_a_file_that_was_not_finished(tmp_path: Path, times: int, error: BaseException) -> None:
    store, view, spine = hot_store(tmp_path)
    with store:
        before = sunk(store, view, spine.head(3), LocalEngine(1, 10**9))
        with pytest.raises(type(error)):
            sunk(store, view, spine, Losing(times, error))
        assert pl.read_parquet(tmp_path / "out.parquet").equals(before)
        assert not [file.name for file in tmp_path.iterdir() if file.name.startswith(".training") or ".out" in file.name]


def test_where_the_file_cannot_be_written_the_tasks_have_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, view, spine = hot_store(tmp_path)

    write, written = ParquetSink.write, []

    def full(sink: ParquetSink, frame: pl.DataFrame) -> None:
        written.append(frame.height)
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        write(sink, frame)

    monkeypatch.setattr(ParquetSink, "write", full)
    with store, small_batches(20), pytest.raises(OSError, match="No space left"):
        sunk(store, view, spine, LocalEngine(2, 10**9))
    assert not [file.name for file in tmp_path.iterdir() if "out" in file.name or "training" in file.name]


def test_s11_s12_the_spines_columns_are_those_that_a_frame_has(tmp_path: Path) -> None:
    at = datetime(2020, 1, 1, tzinfo=UTC)
    spine = pl.DataFrame({"k": ["hot", "never", None], "t": [at, at, at]}).with_columns(
        pl.Series("categorical", ["b", "a", None], dtype=pl.Categorical),
        pl.Series("enum", ["y", None, "x"], dtype=pl.Enum(["x", "y"])),
        pl.Series("decimal", [Decimal("1.50"), None, Decimal("-2.25")], dtype=pl.Decimal(10, 2)),
        pl.Series("vector", [[1.0, 2.0], None, [3.0, None]], dtype=pl.Array(pl.Float32, 2)),
        pl.Series("list", [[1, None], [], None], dtype=pl.List(pl.UInt8)),
        pl.Series("struct", [{"a": 1, "b": "x"}, None, {"a": None, "b": None}]),
        pl.Series("date", [date(2020, 1, 1), None, date(1900, 1, 1)]),
        pl.Series("time", [time(1, 2, 3), None, time(0)]),
        pl.Series("span", [timedelta(seconds=1), None, timedelta(0)]),
        pl.Series("zoned", [1, None, 3]).cast(pl.Datetime("ns", "Europe/Berlin")),
        pl.Series("bytes", [b"\x00", None, b""]),
        pl.Series("nothing", [None, None, None]),
        pl.Series("great", [2**64 - 1, None, 0], dtype=pl.UInt64),
    )
    store, view, _ = hot_store(tmp_path)
    with store, small_batches(2):
        written = sunk(store, view, spine, Cluster())
        with ParquetSink(tmp_path / "plain.parquet") as sink:
            sink.write(store.training_frame(spine, view, time="t"))
    plain = pl.read_parquet(tmp_path / "plain.parquet")
    assert written.schema == plain.schema
    assert written.equals(plain, null_equal=True)
