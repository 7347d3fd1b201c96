"""Training frames: a spine's rows with the feature values known at each row's time (S11)."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from featurestore.clock import from_micros, to_micros
from featurestore.engines.base import Engine
from featurestore.errors import OfflineStoreError, RequestError
from featurestore.materialization.progress import Progress, Silence, watched
from featurestore.offline.base import OfflineStore, Snapshot, Table, is_gone
from featurestore.offline.folder import Address, Folder
from featurestore.retrieval.assembly import in_order, with_features
from featurestore.retrieval.flow import FRAME, Flow, FlowPlan, Snapshots, locate, spill
from featurestore.retrieval.flow_tasks import JoinReceipt
from featurestore.retrieval.join_plan import (
    BUCKET,
    JoinTask,
    check_keys,
    check_selection,
    check_times,
    columns_of,
    plan_join,
    row_numbers,
    spine_bucket,
    spine_columns,
    weight_of,
)
from featurestore.retrieval.parts import Part, claimed, write_manifest
from featurestore.retrieval.scratch import Scratch
from featurestore.retrieval.spine import FramePart, reading_spine
from featurestore.rows.point_in_time import TIME
from featurestore.selection.select import Join, Selection

_ATTEMPTS = 3
R = TypeVar("R")


@dataclass(frozen=True)
class TrainingRequest:
    """What a training frame is asked to be.

    Args:
        spine: the rows.
        selection: the features.
        time: the spine's time column.
        as_known: whether only what was available by a row's time counts (S6).
        files: where the spine's rows lie, in files one after another, to be read there as they are needed; none where they lie
            nowhere but in ``spine``.
        progress: receives how many tasks are done.
        stored_by: only rows count that were stored by these microseconds (S24); None for all.
    """

    spine: pl.DataFrame | pl.LazyFrame
    selection: Selection
    time: str
    as_known: bool = True
    files: Sequence[Address] = ()
    progress: Progress = field(default_factory=Silence)
    stored_by: int | None = None


@dataclass(frozen=True)
class _Joined:
    """A flow whose rows are looked up."""

    flow: Flow
    receipts: Sequence[Sequence[JoinReceipt]]

    def frames(self) -> Generator[pl.DataFrame, None, None]:
        return self.flow.gather(self.receipts)


class TrainingReader:
    """Join spines to histories, correct to the point in time.

    Args:
        project: whose histories.
        offline: where they lie.
        engine: what runs the joins.
        scratch: where the files of the work in hand lie.
    """

    def __init__(self, project: str, offline: OfflineStore, engine: Engine, scratch: Scratch) -> None:
        self._project = project
        self._offline = offline
        self._engine = engine
        self._scratch = scratch

    def frame(self, request: TrainingRequest) -> pl.DataFrame:
        """Return the spine's rows in their order, with the features after its own columns.

        Again where files that it reads are deleted meanwhile, as an entity is forgotten or upkeep keeps nothing back. Where tasks
        run elsewhere, they read the spine and the histories there, and nothing but the result comes here.
        """
        spine, selection, time = request.spine, request.selection, request.time
        check_selection(spine.lazy(), selection, time)
        if self._engine.capacity().elsewhere:
            with self._joined(request) as joined, closing(joined.frames()) as frames:
                return pl.concat(frames)
        with reading_spine("The lazy spine"):
            rows = spine.collect() if isinstance(spine, pl.LazyFrame) else spine
        check_times(rows, time)
        check_keys(rows, selection)
        snapshots = self._snapshots(request)
        return _repeated(lambda: self._frame(rows, request, snapshots))

    def sink(self, request: TrainingRequest, path: Path) -> int:
        """Write the same to a Parquet file, in bounded memory whatever the spine's and the result's size; return the rows.

        The file appears once it is whole. Files of the work in hand lie beside it meanwhile.
        """
        # Here for the start-up of those who write no file: it loads pyarrow, which a frame in memory does not need.
        from featurestore.retrieval.sink import ParquetSink

        check_selection(request.spine.lazy(), request.selection, request.time)
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = 0
        with self._joined(request, path.parent) as joined, ParquetSink(path) as sink, closing(joined.frames()) as frames:
            for frame in frames:
                sink.write(frame)
                rows += frame.height
        return rows

    def sink_parts(self, request: TrainingRequest, target: Folder) -> list[Part]:
        """Write the same to a folder, as a file of each batch of rows and a manifest; return what this says of the files.

        The tasks write the files, wherever they run, so no row of the result comes here.

        Raises:
            RequestError: there is a result in the folder, or somebody writes one.
        """
        check_selection(request.spine.lazy(), request.selection, request.time)
        with claimed(target):
            with self._joined(request, target.address().path) as joined:
                parts = joined.flow.write(joined.receipts, target)
            write_manifest(target, parts, joined.flow.schema)
        return parts

    @contextmanager
    def _joined(self, request: TrainingRequest, beside: Path | None = None) -> Iterator["_Joined"]:
        """Look all rows of a spine up, and give where their features lie for as long as the block lasts."""
        with self._scratch.work(elsewhere=self._engine.capacity().elsewhere, beside=beside) as folder:
            schema = request.spine.collect_schema()
            plan = FlowPlan(request.selection, schema, request.time, request.as_known, folder, request.progress)
            flow = Flow(self._engine, plan, locate(request.files, plan, self._engine) or spill(request.spine, plan))
            snapshots = self._snapshots(request)
            yield _Joined(flow, _repeated(lambda: flow.join(snapshots)))

    def _frame(self, spine: pl.DataFrame, request: TrainingRequest, snapshots: Snapshots) -> pl.DataFrame:
        selection = request.selection
        # One run for all joins, the heaviest tasks first: a view of one bucket is looked up beside the others' buckets.
        unordered = self._tasks(spine, request, snapshots)
        tasks = sorted(unordered, key=lambda task: -task.weight)
        frames: list[list[pl.DataFrame]] = [[] for _ in selection.joins]
        weight = sum(task.weight for task in tasks)
        for _, joined in watched(self._engine.run(tasks), request.progress, FRAME, "join", len(tasks), weight):
            frames[joined.join].append(joined.rows)
        features: list[pl.Series] = []
        for number, join in enumerate(selection.joins):
            features += in_order(frames[number], columns_of(join), 0, spine.height).get_columns()
            frames[number].clear()
        return with_features(spine, features, selection.computation, selection.names)

    def _snapshots(self, request: TrainingRequest) -> Snapshots:
        """Return what gives the histories: all of them up to the same commits, however often they are asked for.

        Raises:
            RequestError: nothing of a view was stored by the instant asked for, or it was not kept when.
        """
        commits: dict[str, int] = {}
        if request.stored_by is None:
            return partial(self._snapshot, commits=commits)
        for view in {join.applied.spec.name: join.applied for join in request.selection.joins}.values():
            table = Table.of(self._project, view)
            number = commits[view.spec.name] = self._offline.log.last_commit(table, request.stored_by)
            if not number:
                raise RequestError(
                    f"Of {view.spec.name!r} nothing is known to have been stored by {from_micros(request.stored_by)}: version "
                    f"{view.data_version} of its data, which is the one that is read, was filled later, or by a version of "
                    "featurestore that did not keep when. Ask for a later instant."
                )
        return partial(self._snapshot, commits=commits)

    def _tasks(self, spine: pl.DataFrame, request: TrainingRequest, snapshots: Snapshots) -> Iterator[JoinTask]:
        time, as_known = request.time, request.as_known
        for number, join in enumerate(request.selection.joins):
            thin = spine.lazy().select(row_numbers(), *spine_columns(spine.schema, time, join.keys, join.on)).collect()
            earliest, latest = thin.select(pl.col(TIME).min(), pl.col(TIME).max().alias("latest")).row(0)
            snapshot = snapshots(join, earliest, latest, as_known=as_known)
            plan, columns = plan_join(join, as_known=as_known), columns_of(join)
            bucketed = thin.with_columns(spine_bucket(join.keys, snapshot.bits)).drop_nulls(BUCKET)
            for (node,), part in bucketed.partition_by(BUCKET, as_dict=True, include_key=False, maintain_order=True).items():
                history = snapshot.buckets.get(int(node))
                rows = part.height + (history.rows if history is not None else 0)
                yield JoinTask(number, plan, FramePart(part), history, columns, weight_of(join, plan, rows))

    def _snapshot(self, join: Join, earliest: Any, latest: Any, *, as_known: bool, commits: Mapping[str, int]) -> Snapshot:
        """Return a join's history up to a commit, less the files that no spine row can see."""
        table = Table.of(self._project, join.applied)
        plan, last = plan_join(join, as_known=as_known), commits.get(table.view)
        if not isinstance(earliest, datetime) or not isinstance(latest, datetime) or not plan.prunes:
            return self._offline.snapshot(table, stored_until=last)
        since = None if plan.reach is None else to_micros(earliest) - plan.reach
        return self._offline.snapshot(table, since=since, until=to_micros(latest), stored_until=last)


def _repeated(attempt: Callable[[], R]) -> R:
    """Return what an attempt does, again where files that it reads are deleted meanwhile."""
    for left in reversed(range(_ATTEMPTS)):
        try:
            return attempt()
        except OfflineStoreError as error:
            if not left or not is_gone(error):
                raise
    raise AssertionError("the last attempt raises")
