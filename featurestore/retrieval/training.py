"""Training frames: a spine's rows with the feature values known at each row's time (S11)."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from featurestore.clock import YEARS, to_micros
from featurestore.engines.base import Engine
from featurestore.errors import OfflineStoreError, RequestError
from featurestore.instants import instants
from featurestore.offline.base import OfflineStore, Snapshot, Table
from featurestore.retrieval.join_plan import (
    BUCKET,
    ROW,
    JoinTask,
    SpinePart,
    check_keys,
    check_spine,
    empty_columns,
    plan_join,
    spine_bucket,
    spine_columns,
)
from featurestore.retrieval.spine import FilePart, FramePart, batches
from featurestore.rows.point_in_time import TIME
from featurestore.selection.request_fields import check_fields, spine_fields
from featurestore.selection.select import Join, Selection, check_clashes

_ATTEMPTS = 3
_BATCH_ROWS = 1_000_000
"""How many rows of a spine larger than memory are held at once."""
_NESTED_WIDTH = 64


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

        Again where files that it has in hand are deleted meanwhile, as an entity is forgotten or upkeep keeps nothing back.
        """
        for left in reversed(range(_ATTEMPTS)):
            try:
                return self._frame(spine, selection, time=time, as_known=as_known)
            except OfflineStoreError as error:
                if not left or not isinstance(error.__cause__, FileNotFoundError):
                    raise
        raise AssertionError("the last attempt raises")

    def _frame(self, spine: pl.DataFrame, selection: Selection, *, time: str, as_known: bool) -> pl.DataFrame:
        _check(spine.lazy(), selection, time)
        _check_times(spine, time)
        check_keys(spine, selection)
        # One run for all joins, the heaviest tasks first: a view of one bucket is looked up beside the others' buckets.
        tasks = sorted(self._tasks_in_memory(spine, selection, time, as_known=as_known), key=lambda task: -task.weight)
        frames: list[list[pl.DataFrame]] = [[] for _ in selection.joins]
        for task, frame in self._engine.run(tasks):
            frames[task.join].append(frame)
        features: list[pl.Series] = []
        for number, join in enumerate(selection.joins):
            features += _in_order(frames[number], join, 0, spine.height).get_columns()
            frames[number].clear()
        return _with_features(spine, features, selection, 0)

    def _tasks_in_memory(self, spine: pl.DataFrame, selection: Selection, time: str, *, as_known: bool) -> Iterator[JoinTask]:
        for number, join in enumerate(selection.joins):
            thin = spine.lazy().select(spine_columns(spine.schema, time, join)).with_row_index(ROW).collect()
            snapshot = self._snapshot(join, thin[TIME].min(), thin[TIME].max(), as_known=as_known)
            yield from self._tasks(number, join, snapshot, _in_memory(thin, join, snapshot), as_known=as_known)

    def sink(self, spine: pl.DataFrame | pl.LazyFrame, selection: Selection, path: Path, *, time: str, as_known: bool) -> int:
        """Write the same to a Parquet file, in bounded memory whatever the spine's and the result's size; return the rows.

        The spine is bucketed on disk, each join runs bucket by bucket, and the results are put in the spine's order batch
        by batch. The file appears once it is whole.
        """
        schema = _check(spine.lazy(), selection, time)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".training-", dir=path.parent) as folder:
            work = Path(folder)
            spans = self._spill(spine, schema, selection, time, work)
            for number, join in enumerate(selection.joins):
                self._join_on_disk(number, join, work, spans, as_known=as_known)
            return _assemble(selection, work, spans, path)

    def _snapshot(self, join: Join, earliest: Any, latest: Any, *, as_known: bool) -> Snapshot:
        """Return a join's history, less the files that no spine row can see."""
        table = Table.of(self._project, join.applied)
        plan = plan_join(join, as_known=as_known)
        if not isinstance(earliest, datetime) or not isinstance(latest, datetime) or not plan.prunes:
            return self._offline.snapshot(table)
        since = None if plan.reach is None else to_micros(earliest) - plan.reach
        return self._offline.snapshot(table, since=since, until=to_micros(latest))

    def _tasks(
        self, number: int, join: Join, snapshot: Snapshot, parts: Iterable[tuple[int, SpinePart, int]], *, as_known: bool
    ) -> Iterator[JoinTask]:
        plan = plan_join(join, as_known=as_known)
        columns = tuple((column.name, column.feature) for column in join.columns)
        stored = join.applied.spec.stored_schema
        dtypes = [stored[name] for name in plan.columns if name in stored]
        width = 8 * (3 + len(plan.keys)) + sum(_NESTED_WIDTH if dtype.is_nested() else 12 for dtype in dtypes)
        for node, part, rows in parts:
            history = snapshot.buckets.get(node)
            history_rows = history.rows if history is not None else 0
            yield JoinTask(number, plan, part, history, columns, 3 * width * (history_rows + rows))

    def _spill(
        self, spine: pl.DataFrame | pl.LazyFrame, schema: pl.Schema, selection: Selection, time: str, work: Path
    ) -> list[tuple[int, int, Any, Any]]:
        """Write the spine and each join's part of it in batches; return each batch's first row, rows and times."""
        spans = []
        start = 0
        for index, batch in enumerate(batches(spine, _BATCH_ROWS)):
            _check_times(batch, time)
            check_keys(batch, selection)
            spine_fields(selection.computation.fields, batch, start)  # told before anything is joined
            batch.write_parquet(work / f"spine-{index}.parquet", compression="lz4")
            earliest = latest = None
            for number, join in enumerate(selection.joins):
                thin = batch.lazy().select(spine_columns(schema, time, join)).with_row_index(ROW, start).collect()
                thin.write_parquet(work / f"thin-{number}-{index}.parquet", compression="lz4")
                earliest, latest = thin[TIME].min(), thin[TIME].max()  # the same for every join
            spans.append((start, batch.height, earliest, latest))
            start += batch.height
        return spans

    def _join_on_disk(
        self, number: int, join: Join, work: Path, spans: Sequence[tuple[int, int, Any, Any]], *, as_known: bool
    ) -> None:
        times = [(earliest, latest) for _, _, earliest, latest in spans if earliest is not None]
        earliest, latest = (min(span[0] for span in times), max(span[1] for span in times)) if times else (None, None)
        snapshot = self._snapshot(join, earliest, latest, as_known=as_known)
        paths: list[str] = []
        counts: dict[int, int] = {}
        for index in range(len(spans)):
            path = work / f"thin-{number}-{index}.parquet"
            thin = pl.read_parquet(path).with_columns(spine_bucket(join, snapshot.bits)).drop_nulls(BUCKET).sort(BUCKET, ROW)
            thin.write_parquet(path, compression="lz4", row_group_size=16_384)
            paths.append(str(path))
            for node, rows in thin.group_by(BUCKET).len().iter_rows():
                counts[node] = counts.get(node, 0) + rows
        parts = ((node, FilePart(tuple(paths), BUCKET, node), rows) for node, rows in sorted(counts.items()))
        for done, (_, frame) in enumerate(self._engine.run(self._tasks(number, join, snapshot, parts, as_known=as_known))):
            frame.sort(ROW).write_parquet(work / f"found-{number}-{done}.parquet", compression="lz4", row_group_size=16_384)


def _check(spine: pl.LazyFrame, selection: Selection, time: str) -> pl.Schema:
    schema = spine.collect_schema()
    check_spine(schema, time, selection)
    check_fields(selection.computation.fields, schema)
    check_clashes(selection, schema, "spine")
    return schema


def _check_times(spine: pl.DataFrame, time: str) -> None:
    missing = spine[time].null_count()
    if missing:
        raise RequestError(
            f"{missing} of the spine's {spine.height} rows have no time in {time!r}, so what they could have seen is undefined. "
            f"Drop them: spine.drop_nulls({time!r})."
        )
    given = spine.select(instants(pl.col(time), spine.schema[time]).to_physical()).to_series()
    good = int(given.is_between(*YEARS).sum())
    if good < spine.height:
        raise RequestError(
            f"{spine.height - good} of the spine's {spine.height} rows have a time in {time!r} outside the years 1 to 9999, so "
            "what they could have seen is undefined. Are they in another unit, seconds read as milliseconds? Mend or drop them."
        )


def _in_memory(thin: pl.DataFrame, join: Join, snapshot: Snapshot) -> Iterator[tuple[int, SpinePart, int]]:
    bucketed = thin.with_columns(spine_bucket(join, snapshot.bits)).drop_nulls(BUCKET)
    for (node,), part in bucketed.partition_by(BUCKET, as_dict=True, include_key=False, maintain_order=True).items():
        yield int(node), FramePart(part), part.height


def _in_order(frames: Sequence[pl.DataFrame], join: Join, start: int, rows: int) -> pl.DataFrame:
    """Return a join's features for the spine rows from ``start`` on, empty ones where no look-up was made (null keys)."""
    columns = {column.name: column.feature.dtype for column in join.columns}
    frame = pl.concat([pl.DataFrame(schema={ROW: pl.UInt32(), **columns}), *frames])
    if frame.height < rows:
        every = pl.select(pl.int_range(start, start + rows, dtype=pl.UInt32).alias(ROW))
        without = every.join(frame, on=ROW, how="anti")
        empty = empty_columns([(column.name, column.feature) for column in join.columns], without.height)
        frame = pl.concat([frame, without.hstack(empty)])
    # One bucket's rows are in order already, and to move them costs as much as to look them up.
    return (frame if frame[ROW].is_sorted() else frame.sort(ROW)).drop(ROW)


def _with_features(spine: pl.DataFrame, features: Sequence[pl.Series], selection: Selection, start: int) -> pl.DataFrame:
    """Return spine rows with the features asked for after their own columns, of those found and those computed of them."""
    columns = {column.name: column for column in features}
    computation = selection.computation
    if computation.steps:
        columns |= spine_fields(computation.fields, spine, start)
        columns |= computation.run(columns, start)
    return spine.hstack([columns[name] for name in selection.names])


def _assemble(selection: Selection, work: Path, spans: Sequence[tuple[int, int, Any, Any]], path: Path) -> int:
    from featurestore.retrieval.sink import ParquetSink  # it loads pyarrow, which a frame in memory does not need

    with ParquetSink(path) as sink:
        for index, (start, rows, _, _) in enumerate(spans):
            features: list[pl.Series] = []
            for number, join in enumerate(selection.joins):
                wanted = pl.col(ROW).is_between(start, start + rows - 1)
                files = sorted(work.glob(f"found-{number}-*.parquet"))
                frames = [pl.scan_parquet(file, glob=False).filter(wanted).collect() for file in files]
                features += _in_order(frames, join, start, rows).get_columns()
            spine = pl.read_parquet(work / f"spine-{index}.parquet")
            sink.write(_with_features(spine, features, selection, start))
    return sum(rows for _, rows, _, _ in spans)
