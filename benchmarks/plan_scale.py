"""A plan of 1B spine rows × 100B history rows: the real tasks over a table state that is made up, and what a driver has of them."""

import json
import pickle
import time
from array import array
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import polars as pl

from benchmarks.measure import Line, in_process, tell
from benchmarks.project import view
from featurestore import FeatureStore
from featurestore.engines.base import Capacity
from featurestore.offline.base import Snapshot
from featurestore.offline.folder import Address
from featurestore.offline.open_folder import open_folder
from featurestore.retrieval import flow
from featurestore.retrieval.flow_tasks import CheckTask, CutReceipt, CutTask, JoinFilesTask, JoinReceipt, PartTask
from featurestore.retrieval.parts import Part, part_name
from featurestore.retrieval.pieces import Pieces

SPINE, SPINE_FILES = 1_000_000_000, 1_000
HISTORY, BUCKETS, FILES_PER_BUCKET = 100_000_000_000, 16_384, 5
VIEWS, CPUS, MEMORY = 3, 400, 4 << 30
ROW_BYTES = 97
"""What a stored row of ten floats takes, as measured."""


def lines(*, full: bool) -> Iterator[Line]:
    """Plans the tasks of three joins on 400 CPUs, each with 100B rows."""
    measured = in_process("plan_scale")
    yield Line(
        "plan of 1B spine rows × 3 views of 100B rows, 400 CPUs",
        f"{measured.seconds:.0f} s, {measured.peak_mib:,} MiB",
        "-",
        "-",
        "≤ 300 s, ≤ 1,024 MiB",
        measured.seconds <= 300 and measured.peak_mib <= 1024,
    )


@dataclass(frozen=True)
class MadeUpFiles:
    """A bucket's history: the names of files that are not there."""

    own: tuple[str, ...]
    rows: int
    size: int

    @property
    def parts(self) -> int:
        return 2

    def read(self, *_: Any, **__: Any) -> list[pl.DataFrame]:
        raise AssertionError("nothing is read")

    def joined(self, others: Sequence[Any]) -> "MadeUpFiles":
        raise AssertionError("nothing is joined")


class PlannedEngine:
    """An engine that runs nothing: it counts tasks and the bytes that would be sent, and makes receipts up."""

    def __init__(self) -> None:
        self.tasks: dict[str, list[int]] = {}

    def capacity(self) -> Capacity:
        return Capacity(CPUS, MEMORY, elsewhere=True)

    def run(self, tasks: Iterable[Any]) -> Generator[tuple[Any, Any], None, None]:
        for task in self.capacity().fitting(tasks):
            assert task.weight <= MEMORY, f"{type(task).__name__} takes {task.weight >> 20} MiB"
            counts = self.tasks.setdefault(type(task).__name__, [0, 0, 0])
            counts[0] += 1
            counts[1] += len(pickle.dumps(task, protocol=5))
            counts[2] = max(counts[2], task.weight)
            # As it would come over the wire: nothing of a receipt is shared with the task.
            yield task, pickle.loads(pickle.dumps(_receipt(task)))

    def close(self) -> None:
        pass


def _receipt(task: Any) -> Any:
    match task:
        case CheckTask():
            return replace(task.batch, earliest=datetime(2026, 1, 1, tzinfo=UTC), latest=datetime(2026, 10, 1, tzinfo=UTC))
        case CutTask():
            pieces = tuple(_pieces(len(cut.groups), task.batch.rows // len(cut.groups), 40) for cut in task.cuts)
            return CutReceipt(task.number, pieces, tuple({} for _ in task.cuts))
        case JoinFilesTask():
            return JoinReceipt(task.join, _pieces(len(task.pieces), task.pieces[0].rows, 90))
        case PartTask():
            rows = task.gather.batch.rows
            number = task.gather.number
            return number, Part(part_name(number), rows, rows * 280, uuid4().hex * 2)
    raise AssertionError(type(task))


def _pieces(number: int, rows: int, width: int) -> Pieces:
    offsets = array("Q", range(0, (number + 1) * rows * width, rows * width))
    return Pieces(f"{uuid4().hex}-piece", offsets, array("Q", [rows]) * number)


def _snapshot(name: str) -> Snapshot:
    rows = HISTORY // BUCKETS
    return Snapshot(
        1, {BUCKETS + place: MadeUpFiles(_paths(name, place), rows, rows * ROW_BYTES) for place in range(BUCKETS)}, HISTORY
    )


def _paths(name: str, place: int) -> tuple[str, ...]:
    folder = f"s3://lake/history/{name}/_bucket={BUCKETS + place}"
    return tuple(f"{folder}/run-00000001-{uuid4().hex}.parquet" for _ in range(FILES_PER_BUCKET))


def plan() -> None:
    """Plan it all, in this process: prints what each step has, then its seconds and peak memory."""
    with TemporaryDirectory() as folder, FeatureStore(folder) as store:
        views = [view(f"view{number}", 1000, 100, f"f{number}_") for number in range(VIEWS)]
        store.apply(views)
        selection = store.components.select(views)
        began = time.perf_counter()
        schema = pl.Schema({"entity": pl.String(), "event_time": pl.Datetime("us", "UTC"), "label": pl.Float64()})
        engine, target = PlannedEngine(), open_folder("s3://lake/train")
        request = flow.FlowPlan(
            selection, schema, "event_time", as_known=True, folder=open_folder("s3://lake/scratch").inside(uuid4().hex)
        )
        flow.discard = lambda *_: None
        flow.shape_of = lambda address: (dict(schema), SPINE // SPINE_FILES)
        spine = flow.locate([Address(f"s3://lake/spine/{number:05}.parquet") for number in range(SPINE_FILES)], request, engine)
        steps = flow.Flow(engine, request, spine)
        receipts = steps.join(lambda join, *_, **__: _snapshot(join.applied.spec.name))
        parts = steps.write(receipts, target)
        assert sum(part.rows for part in parts) == SPINE
        for name, (number, sent, weight) in engine.tasks.items():
            print(f"{name}: {number:,} tasks, {sent / 2**20:,.0f} MiB sent, each up to {weight / 2**30:.1f} GiB of memory")
        stored = VIEWS * HISTORY * ROW_BYTES
        print(f"history: {stored / 1e12:,.1f} TB in {VIEWS * BUCKETS * FILES_PER_BUCKET:,} files")
        print(json.dumps({"batches": len(spine)}))
        tell(time.perf_counter() - began)


if __name__ == "__main__":
    plan()
