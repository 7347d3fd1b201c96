"""Training frames: a spine's rows with the feature values known at each row's time (S11)."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from featurestore.clock import to_micros
from featurestore.engines.base import Engine
from featurestore.errors import OfflineStoreError
from featurestore.offline.base import OfflineStore, Snapshot, Table, is_gone
from featurestore.retrieval.assembly import in_order, with_features
from featurestore.retrieval.flow import Flow, FlowPlan, locate, spill
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
from featurestore.retrieval.spine import FramePart
from featurestore.rows.point_in_time import TIME
from featurestore.selection.select import Join, Selection

_ATTEMPTS = 3
R = TypeVar("R")


class TrainingReader:
    """Join spines to histories, correct to the point in time.

    Args:
        project: whose histories.
        offline: where they lie.
        engine: what runs the joins.
    """

    def __init__(self, project: str, offline: OfflineStore, engine: Engine) -> None:
        self._project = project
        self._offline = offline
        self._engine = engine

    def frame(self, spine: pl.DataFrame, selection: Selection, *, time: str, as_known: bool) -> pl.DataFrame:
        """Return the spine's rows in their order, with the features after its own columns.

        Again where files that it reads are deleted meanwhile, as an entity is forgotten or upkeep keeps nothing back.
        """
        check_selection(spine.lazy(), selection, time)
        check_times(spine, time)
        check_keys(spine, selection)
        return _repeated(lambda: self._frame(spine, selection, time=time, as_known=as_known))

    def sink(
        self,
        spine: pl.DataFrame | pl.LazyFrame,
        selection: Selection,
        path: Path,
        *,
        time: str,
        as_known: bool,
        files: Sequence[Path] = (),
    ) -> int:
        """Write the same to a Parquet file, in bounded memory whatever the spine's and the result's size; return the rows.

        The file appears once it is whole. Files of the work in hand lie beside it meanwhile. Where the spine itself lies in
        ``files``, one after another, its rows are read from there as they are needed.
        """
        # Here for the start-up of those who write no file: it loads pyarrow, which a frame in memory does not need.
        from featurestore.retrieval.sink import ParquetSink

        schema = check_selection(spine.lazy(), selection, time)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".training-", dir=path.parent) as folder:
            plan = FlowPlan(selection, schema, time, as_known, folder)
            batches = locate(files, plan, self._engine) or spill(spine, plan)
            flow = Flow(self._engine, plan, batches)
            receipts = _repeated(lambda: flow.join(self._snapshot))
            with ParquetSink(path) as sink, closing(flow.gather(receipts)) as frames:
                for frame in frames:
                    sink.write(frame)
            return sum(batch.rows for batch in batches)

    def _frame(self, spine: pl.DataFrame, selection: Selection, *, time: str, as_known: bool) -> pl.DataFrame:
        # One run for all joins, the heaviest tasks first: a view of one bucket is looked up beside the others' buckets.
        tasks = sorted(self._tasks(spine, selection, time, as_known=as_known), key=lambda task: -task.weight)
        frames: list[list[pl.DataFrame]] = [[] for _ in selection.joins]
        for _, joined in self._engine.run(tasks):
            frames[joined.join].append(joined.rows)
        features: list[pl.Series] = []
        for number, join in enumerate(selection.joins):
            features += in_order(frames[number], columns_of(join), 0, spine.height).get_columns()
            frames[number].clear()
        return with_features(spine, features, selection.computation, selection.names)

    def _tasks(self, spine: pl.DataFrame, selection: Selection, time: str, *, as_known: bool) -> Iterator[JoinTask]:
        for number, join in enumerate(selection.joins):
            thin = spine.lazy().select(row_numbers(), *spine_columns(spine.schema, time, join.keys, join.on)).collect()
            snapshot = self._snapshot(join, thin[TIME].min(), thin[TIME].max(), as_known=as_known)
            plan, columns = plan_join(join, as_known=as_known), columns_of(join)
            bucketed = thin.with_columns(spine_bucket(join.keys, snapshot.bits)).drop_nulls(BUCKET)
            for (node,), part in bucketed.partition_by(BUCKET, as_dict=True, include_key=False, maintain_order=True).items():
                history = snapshot.buckets.get(int(node))
                rows = part.height + (history.rows if history is not None else 0)
                yield JoinTask(number, plan, FramePart(part), history, columns, weight_of(join, plan, rows))

    def _snapshot(self, join: Join, earliest: Any, latest: Any, *, as_known: bool) -> Snapshot:
        """Return a join's history, less the files that no spine row can see."""
        table = Table.of(self._project, join.applied)
        plan = plan_join(join, as_known=as_known)
        if not isinstance(earliest, datetime) or not isinstance(latest, datetime) or not plan.prunes:
            return self._offline.snapshot(table)
        since = None if plan.reach is None else to_micros(earliest) - plan.reach
        return self._offline.snapshot(table, since=since, until=to_micros(latest))


def _repeated(attempt: Callable[[], R]) -> R:
    """Return what an attempt does, again where files that it reads are deleted meanwhile."""
    for left in reversed(range(_ATTEMPTS)):
        try:
            return attempt()
        except OfflineStoreError as error:
            if not left or not is_gone(error):
                raise
    raise AssertionError("the last attempt raises")
