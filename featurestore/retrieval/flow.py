"""The flow of a training file: cut the spine, join the pieces, gather the result, whatever the engine runs these tasks on.

The spine lies in files of some rows each, its batches. A cut task brings a batch's row numbers, keys and times in the order of the
histories' buckets. A join task looks up the rows of some buckets, and writes what it finds apart for each batch; so a gather task
has all that its batch needs, and nothing else. What comes back from a task is a receipt: where its rows lie.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import polars as pl

from featurestore.engines.base import Capacity, Engine
from featurestore.materialization.progress import Progress, Silence, watched
from featurestore.offline.base import History, Snapshot
from featurestore.offline.folder import Address, Folder
from featurestore.retrieval.flow_tasks import (
    CheckTask,
    CutReceipt,
    CutTask,
    GatherTask,
    JoinFilesTask,
    JoinReceipt,
    PartTask,
    SpineBatch,
    SpineCut,
)
from featurestore.retrieval.join_plan import (
    LookUp,
    columns_of,
    plan_join,
    weight_of,
)
from featurestore.retrieval.parts import Part
from featurestore.retrieval.pieces import Stretch, discard, new_name, read_pieces, shape_of, write_rows
from featurestore.retrieval.spine import batches, check_fileable, reading_spine
from featurestore.rows.widths import COPIES, width_of
from featurestore.selection.select import Join, Selection

_BATCH_ROWS = 1_000_000
_BATCH_BYTES = 64 << 20
"""How much of a spine and its features is held at once: so many rows, or as many as take about so many bytes."""
_MOST_BATCH_ROWS = 16_000_000
_GROUPS_PER_CPU = 16
_MOST_GROUPS = 1024
"""Into how many groups a history's buckets are put, at the most: so many for each task that can run at once, and so many in all,
for each cut has a piece for each group."""
_BATCHES_PER_CPU = 2
"""How many batches of a spine in files there are for each task that can run at once elsewhere, at the least, if it has the rows."""
FRAME = "training frame"
"""What progress is steps to be of."""
_LIGHT = 32 << 20
"""Groups are put together up to this weight, however many there are."""


class Snapshots(Protocol):
    """Gives the history of a join."""

    def __call__(self, join: Join, earliest: datetime | None, latest: datetime | None, *, as_known: bool) -> Snapshot:
        """Return a join's history, less what no spine row of a stretch of time can see."""


@dataclass(frozen=True)
class FlowPlan:
    """What a training file is of.

    Args:
        selection: the features.
        schema: the spine's columns.
        time: its time column.
        as_known: whether only what was available by a row's time counts (S6).
        folder: where the files of the work in hand are written.
        progress: receives how many tasks of each step are done.
    """

    selection: Selection
    schema: pl.Schema
    time: str
    as_known: bool
    folder: Folder
    progress: Progress = field(default_factory=Silence)

    @property
    def width(self) -> int:
        """About how many bytes a row takes, with its features and what they are computed from."""
        features = [column.feature.dtype for join in self.selection.joins for column in join.columns]
        outputs = [output.feature.dtype for output in self.selection.computation.outputs]
        return width_of([*self.schema.values(), *features, *outputs])

    @property
    def result(self) -> pl.Schema:
        """The result's columns."""
        dtypes = {column.name: column.feature.dtype for join in self.selection.joins for column in join.columns}
        dtypes |= {output.name: output.feature.dtype for output in self.selection.computation.outputs}
        return pl.Schema({**self.schema, **{name: dtypes[name] for name in self.selection.names}})

    @property
    def batch_rows(self) -> int:
        """How many rows of the spine and its features are held at once."""
        return max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, self.width)))

    def rows_elsewhere(self, rows: int, capacity: Capacity) -> int:
        """How many rows of a spine of so many a batch has where tasks have memory of their own: few batches make few pieces."""
        fitting = capacity.memory_per_task // (2 * COPIES * max(1, self.width))
        return max(self.batch_rows, min(_MOST_BATCH_ROWS, fitting, -(-rows // (_BATCHES_PER_CPU * capacity.cpus))))


@dataclass(frozen=True)
class _Groups:
    """A join's histories, and the groups of buckets that one task each looks up."""

    join: Join
    plan: LookUp
    snapshot: Snapshot
    groups: tuple[tuple[int, ...], ...]
    heavy: frozenset[int] = field(default_factory=frozenset)

    @property
    def cut(self) -> SpineCut:
        return SpineCut(self.join.keys, self.join.on, self.snapshot.bits, self.groups, self.heavy)

    def histories(self, group: int) -> tuple[tuple[int, History], ...]:
        return tuple((node, self.snapshot.buckets[node]) for node in self.groups[group])


def spill(spine: pl.DataFrame | pl.LazyFrame, plan: FlowPlan) -> list[SpineBatch]:
    """Write a spine's batches, and return where they lie.

    Raises:
        RequestError: a row has no time, a key or a field that does not fit, or a column cannot lie in a file.
    """
    written: list[SpineBatch] = []
    start = 0
    for frame in batches(spine, plan.batch_rows):
        name = new_name(f"spine-{len(written)}")
        batch = SpineBatch(plan.folder.address(name), 0, start, frame.height)
        written.append(batch.checked(frame, plan.selection, plan.time))
        write_rows(plan.folder, name, frame)
        start += frame.height
    return written


def locate(files: Sequence[Address], plan: FlowPlan, engine: Engine) -> list[SpineBatch]:
    """Return a spine's batches as they lie in files of the user's; none where these cannot be read one by one.

    Raises:
        RequestError: a row has no time, or a key or a field that does not fit.
    """
    with reading_spine("The spine"):
        shapes = [shape_of(file) for file in files]
    rows = sum(count for _, count in shapes)
    size = plan.rows_elsewhere(rows, capacity) if (capacity := engine.capacity()).elsewhere else plan.batch_rows
    few = len(files) <= 1 + 2 * rows // size  # of many small ones each batch has several
    if not few or any(list(schema.items()) != list(plan.schema.items()) for schema, _ in shapes):
        return []
    check_fileable(plan.schema)
    located: list[SpineBatch] = []
    start = 0
    for file, (_, count) in zip(files, shapes, strict=True):
        for offset in range(0, count, size):
            batch = SpineBatch(file, offset, start, min(size, count - offset))
            located.append(batch)
            start += batch.rows
    fields = {column.field.name for column in plan.selection.computation.fields}
    # Of the join keys' columns it is the values of floats alone that are looked at.
    floats = {name for name in plan.selection.needed if plan.schema[name].is_float()}
    columns = tuple(name for name in plan.schema if name in {plan.time, *fields, *floats})
    weight = COPIES * width_of(plan.schema[name] for name in columns)
    tasks = [CheckTask(batch, plan.selection, plan.time, columns, weight * batch.rows) for batch in located]
    with closing(engine.run(tasks)) as results:
        return sorted((batch for _, batch in results), key=lambda batch: batch.start)


class Flow:
    """The steps that make a training file of a spine's batches.

    Args:
        engine: what runs their tasks.
        plan: what the file is of.
        spine: the batches, in the spine's order.
    """

    def __init__(self, engine: Engine, plan: FlowPlan, spine: Sequence[SpineBatch]) -> None:
        self.schema = plan.result
        self._engine = engine
        self._plan = plan
        self._spine = spine
        self._capacity = engine.capacity()

    def join(self, snapshots: Snapshots) -> list[list[JoinReceipt]]:
        """Look every row up, and return for each join where its features lie.

        Raises:
            OfflineStoreError: a file of a history cannot be read.
        """
        earliest = min((batch.earliest for batch in self._spine if batch.earliest is not None), default=None)
        latest = max((batch.latest for batch in self._spine if batch.latest is not None), default=None)
        groups = [
            _groups(self._plan, join, snapshots(join, earliest, latest, as_known=self._plan.as_known), self._capacity)
            for join in self._plan.selection.joins
        ]
        cuts = self._cut(groups)
        try:
            receipts: list[list[JoinReceipt]] = [[] for _ in groups]
            weighed = self._weighed(groups, cuts)
            weight = -sum(entry[0] for entry in weighed)
            with closing(self._engine.run(self._join_tasks(groups, cuts, weighed))) as results:
                for _, receipt in watched(results, self._plan.progress, FRAME, "join", len(weighed), weight):
                    receipts[receipt.join].append(receipt)
        finally:
            discard(self._plan.folder, [name for cut in cuts for pieces in cut.pieces for name in pieces.names])
        return receipts

    def gather(self, receipts: Sequence[Sequence[JoinReceipt]]) -> Generator[pl.DataFrame, None, None]:
        """Yield the rows of each batch with their features, in the spine's order.

        Raises:
            RequestError: an on-demand feature fails, or comes to a value that it cannot have; names the row.
        """
        waiting: dict[int, Stretch] = {}
        following = 0
        with closing(self._engine.run(self._gather_tasks(receipts))) as results:
            for _, part in watched(results, self._plan.progress, FRAME, "gather", len(self._spine), self._gather_weight):
                waiting[part.batch] = part.pieces.stretch(0)
                while following in waiting:
                    stretch = waiting.pop(following)
                    yield from read_pieces(self._plan.folder, [stretch])
                    discard(self._plan.folder, [stretch.name])
                    following += 1

    def write(self, receipts: Sequence[Sequence[JoinReceipt]], target: Folder) -> list[Part]:
        """Write the rows of each batch with their features to a file of a folder, and return these in the spine's order.

        Raises:
            RequestError: as ``gather``.
        """
        tasks = (PartTask(task, target) for task in self._gather_tasks(receipts))
        with closing(self._engine.run(tasks)) as results:
            steps = watched(results, self._plan.progress, FRAME, "gather", len(self._spine), self._gather_weight)
            return [part for _, part in sorted((receipt for _, receipt in steps), key=lambda receipt: receipt[0])]

    def _cut(self, groups: Sequence[_Groups]) -> list[CutReceipt]:
        """Cut each batch for all joins; the receipts are in the order of the batches."""
        if not groups:
            return []
        cuts = tuple(members.cut for members in groups)
        width = sum(8 * 3 + width_of(cut.keys.values()) for cut in cuts)
        plan = self._plan
        tasks = (
            CutTask(number, batch, plan.time, cuts, plan.folder, COPIES * width * batch.rows)
            for number, batch in enumerate(self._spine)
        )
        weight = COPIES * width * sum(batch.rows for batch in self._spine)
        with closing(self._engine.run(tasks)) as results:
            steps = watched(results, plan.progress, FRAME, "cut", len(self._spine), weight)
            return sorted((receipt for _, receipt in steps), key=lambda receipt: receipt.batch)

    def _weighed(self, groups: Sequence[_Groups], cuts: Sequence[CutReceipt]) -> list[tuple[int, int, int, int]]:
        """Return of each group that has rows of the spine less its weight, the join, the group, and the rows looked up at once.

        The heaviest come first, those of all joins together: a view of one bucket is looked up beside the others' buckets.
        """
        weighed = []
        for number, members in enumerate(groups):
            for group in range(len(members.groups)):
                counts = [cut.pieces[number].rows[group] for cut in cuts]
                if any(counts):
                    at_once, weight = self._at_once(members, group, sum(counts), max(counts))
                    weighed.append((-weight, number, group, at_once))
        return sorted(weighed)

    def _join_tasks(
        self, groups: Sequence[_Groups], cuts: Sequence[CutReceipt], weighed: Sequence[tuple[int, int, int, int]]
    ) -> Iterator[JoinFilesTask]:
        """Yield the task of each group as it is wanted: all of them may be more than memory holds."""
        for weight, number, group, at_once in weighed:
            members = groups[number]
            times = sorted(time for cut in cuts for time in cut.times[number].get(group, ()))
            pieces = tuple(cut.pieces[number].stretch(group) for cut in cuts)
            yield JoinFilesTask(
                number, members.plan, members.histories(group), pieces, columns_of(members.join), self._plan.folder, at_once,
                -weight, tuple(times),
            )  # fmt: skip

    def _at_once(self, members: _Groups, group: int, rows: int, most: int) -> tuple[int, int]:
        """Return how many spine rows a group looks up at once, and about how many bytes of memory that takes.

        Args:
            members: the join's groups.
            group: which of them.
            rows: how many spine rows it has.
            most: how many of them one batch has, at the most.
        """
        join, plan = members.join, members.plan
        history_rows = max(history.rows for _, history in members.histories(group))
        # A look-up goes through all of the history, however few the spine's rows are: as many of these are worth it at once.
        fitting = self._capacity.memory_per_task // weight_of(join, plan, 1) - history_rows
        at_once = min(fitting, max(history_rows, self._plan.batch_rows))
        return at_once, weight_of(join, plan, history_rows + min(rows, max(at_once, most)))

    @property
    def _gather_weight(self) -> int:
        return COPIES * self._plan.width * sum(batch.rows for batch in self._spine)

    def _gather_tasks(self, receipts: Sequence[Sequence[JoinReceipt]]) -> Iterator[GatherTask]:
        selection = self._plan.selection
        for number, batch in enumerate(self._spine):
            joins = tuple(
                (columns_of(join), tuple(receipt.pieces.stretch(number) for receipt in receipts[place]))
                for place, join in enumerate(selection.joins)
            )
            weight = COPIES * self._plan.width * batch.rows
            yield GatherTask(number, batch, joins, selection.computation, selection.names, self._plan.folder, weight)


def grouped(weights: Mapping[int, int], most: int) -> tuple[tuple[int, ...], ...]:
    """Return the buckets of a history in groups: heavy ones alone, light ones together.

    Args:
        weights: how heavy each bucket is.
        most: how heavy buckets may be together.

    Example:
        >>> grouped({8: 10, 9: 10, 10: 900, 12: 10, 14: 70, 15: 70}, 100)
        ((8, 9), (10,), (12, 14), (15,))
    """
    groups: list[tuple[int, ...]] = []
    members: list[int] = []
    weight = 0
    for node in sorted(weights):
        if members and weight + weights[node] > most:
            groups.append(tuple(members))
            members, weight = [], 0
        members.append(node)
        weight += weights[node]
    return (*groups, tuple(members)) if members else ()


def _groups(whole: FlowPlan, join: Join, snapshot: Snapshot, capacity: Capacity) -> _Groups:
    """Return a join's histories, in groups of about the same work, which are so many that all who run tasks have some."""
    plan = plan_join(join, as_known=whole.as_known)
    weights = {node: weight_of(join, plan, history.rows) for node, history in snapshot.buckets.items()}
    even = sum(weights.values()) // min(_GROUPS_PER_CPU * capacity.cpus, _MOST_GROUPS)
    groups = grouped(weights, max(even, _LIGHT))  # one bucket of a group after the other is in memory
    beside = weight_of(join, plan, whole.batch_rows)
    heaviest = [max(weights[node] for node in group) for group in groups]
    heavy = {number for number, history in enumerate(heaviest) if history + beside > capacity.memory_per_task}
    return _Groups(join, plan, snapshot, groups, frozenset(heavy if plan.splits_by_time else ()))
