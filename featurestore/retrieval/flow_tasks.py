"""The tasks of a training file: cut the spine into pieces, join each group of buckets, gather the features of a row range.

Each names the files that it reads and the folder that it writes to, and returns a receipt of what it wrote. Neither has a frame in
it, so a driver that hands them out, here or to other machines, never sees a row.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import polars as pl

from featurestore.clock import YEARS
from featurestore.errors import RequestError
from featurestore.offline.folder import Address, Folder
from featurestore.on_demand.evaluate import OnDemandPlan
from featurestore.retrieval.assembly import in_order, with_features
from featurestore.retrieval.join_plan import (
    BUCKET,
    Columns,
    LookUp,
    Rows,
    Span,
    check_keys,
    check_times,
    look_up,
    read_history,
    row_numbers,
    spine_bucket,
    spine_columns,
)
from featurestore.retrieval.parts import Part, write_part
from featurestore.retrieval.pieces import Pieces, PieceWriter, Stretch, new_name, read_pieces, read_rows
from featurestore.retrieval.spine import reading_spine
from featurestore.rows.point_in_time import TIME
from featurestore.rows.widths import COPIES
from featurestore.selection.request_fields import spine_fields
from featurestore.selection.select import Selection

_GROUP = "featurestore group"
_SAMPLES = 32
"""How many instants of a piece are kept of a group that may have to be split by time."""
_EVER = (YEARS[0], YEARS[1] + 1)


@dataclass(frozen=True)
class SpineBatch:
    """Some rows of the spine, as they lie in a file.

    Args:
        address: the file.
        offset: the number of the first row in the file.
        start: its number in the spine.
        rows: how many rows there are.
        earliest: the least time of a row; None without rows.
        latest: the greatest one.
    """

    address: Address
    offset: int
    start: int
    rows: int
    earliest: datetime | None = None
    latest: datetime | None = None

    def read(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Return the rows; all columns, or some.

        Raises:
            RequestError: the file cannot be read, or has fewer rows than before.
        """
        with reading_spine(f"The spine's file {self.address.url!r}"):
            frame = read_rows(self.address, columns, self.offset, self.rows)
        if frame.height < self.rows:
            raise RequestError(
                f"The spine's file {self.address.url!r} changed while it was read. Call again once it stays as it is."
            )
        return frame

    def checked(self, frame: pl.DataFrame, selection: Selection, time: str) -> "SpineBatch":
        """Return the batch with the times of its rows, each of which is one that features can be selected for.

        Args:
            frame: the rows: at least the columns that the selection needs, and the times.
            selection: the features.
            time: the time column.

        Raises:
            RequestError: a row has no time, or a key or a request's field that does not fit.
        """
        check_times(frame, time)
        check_keys(frame, selection)
        spine_fields(selection.computation.fields, frame, self.start)
        times = frame.select(spine_columns(frame.schema, time, {}, ())).to_series()
        return replace(self, earliest=times.min(), latest=times.max())  # type: ignore[arg-type]  # of instants


@dataclass(frozen=True)
class CheckTask:
    """Check a batch of a spine that lies in files of the user's, before anything is joined.

    Args:
        batch: the batch.
        selection: the features.
        time: the spine's time column.
        columns: what is looked at.
        weight: about how many bytes of memory it takes.
    """

    batch: SpineBatch
    selection: Selection
    time: str
    columns: tuple[str, ...]
    weight: int

    def run(self) -> SpineBatch:
        """Return the batch with its times."""
        return self.batch.checked(self.batch.read(self.columns), self.selection, self.time)

    def split(self, parts: int) -> None:
        """See ``Task.split``: a batch is as small as it is to be."""


@dataclass(frozen=True)
class SpineCut:
    """How the spine is cut for one join.

    Args:
        keys: the join keys and their dtypes.
        on: the spine's column for each of them.
        bits: how many bits of the keys' hash tell the buckets.
        groups: the buckets of each group, in ascending order. Rows of others have no history, and are left out.
        sampled: the groups of which the receipt has some times.
    """

    keys: Mapping[str, pl.DataType]
    on: tuple[str, ...]
    bits: int
    groups: tuple[tuple[int, ...], ...]
    sampled: frozenset[int] = frozenset()


@dataclass(frozen=True)
class CutReceipt:
    """What a batch of the spine was cut into.

    Args:
        batch: the number of the batch.
        pieces: for each join its file, with a piece for each group.
        times: for each join, of each group that is sampled, some times of its rows in microseconds, in order.
    """

    batch: int
    pieces: tuple[Pieces, ...]
    times: tuple[Mapping[int, tuple[int, ...]], ...]


@dataclass(frozen=True)
class CutTask:
    """Cut a batch of the spine into the pieces that the joins read.

    A piece has row numbers, join keys, times and buckets, sorted by bucket and row.

    Args:
        number: the batch's number.
        batch: the batch.
        time: the spine's time column.
        cuts: how to cut it for each join.
        folder: where the files are written.
        weight: about how many bytes of memory it takes.
    """

    number: int
    batch: SpineBatch
    time: str
    cuts: tuple[SpineCut, ...]
    folder: Folder
    weight: int

    def run(self) -> CutReceipt:
        """Write a file for each join, and return where each group's piece lies."""
        spine = self.batch.read(list(dict.fromkeys([self.time, *(column for cut in self.cuts for column in cut.on)])))
        pieces, times = [], []
        for join, cut in enumerate(self.cuts):
            thin = self._thin(spine, cut)
            counts = dict(thin.group_by(_GROUP).len().iter_rows())
            samples = {}
            with PieceWriter(self.folder, new_name(f"cut-{join}-{self.number}")) as writer:
                start = 0
                for group in range(len(cut.groups)):
                    piece = thin.slice(start, counts.get(group, 0)).drop(_GROUP)
                    writer.write(piece if piece.height else None)
                    start += piece.height
                    if group in cut.sampled and piece.height:
                        samples[group] = _sample(piece[TIME])
            pieces.append(writer.receipt)
            times.append(samples)
        return CutReceipt(self.number, tuple(pieces), tuple(times))

    def split(self, parts: int) -> None:
        """See ``Task.split``: a batch is as small as it is to be."""

    def _thin(self, spine: pl.DataFrame, cut: SpineCut) -> pl.DataFrame:
        nodes = {BUCKET: [node for group in cut.groups for node in group]}
        numbers = {_GROUP: [number for number, group in enumerate(cut.groups) for _ in group]}
        groups = pl.DataFrame({**nodes, **numbers}, schema={BUCKET: pl.UInt32, _GROUP: pl.UInt32})
        columns = spine_columns(spine.schema, self.time, cut.keys, cut.on)
        thin = spine.lazy().select(row_numbers(self.batch.start), *columns).with_columns(spine_bucket(cut.keys, cut.bits))
        thin = thin.join(groups.lazy(), on=BUCKET, maintain_order="left")
        return thin.sort(BUCKET, maintain_order=True).collect()


def _sample(times: pl.Series) -> tuple[int, ...]:
    """Return instants that divide some times into parts of about one number of rows."""
    instants = times.to_physical().sort()
    return tuple(instants.gather([(instants.len() - 1) * place // (_SAMPLES - 1) for place in range(_SAMPLES)]).to_list())


@dataclass(frozen=True)
class JoinReceipt:
    """What a group's look-ups came to.

    Args:
        join: which of the selection's joins it is.
        pieces: the file, with a piece for each batch of the spine: its rows' numbers, and the features.
    """

    join: int
    pieces: Pieces


@dataclass(frozen=True)
class JoinFilesTask:
    """The look-ups of one join in one group of buckets.

    Batches are looked up together, as many as ``rows_at_once`` holds and one at least, in one bucket after another.

    Args:
        join: which of the selection's joins it is for.
        plan: what to look up.
        histories: the buckets and their histories.
        pieces: the group's piece of each batch of the spine.
        columns: the name of each column of the result, and the feature it shows.
        folder: where the file is written.
        rows_at_once: how many spine rows are looked up at once.
        weight: about how many bytes of memory it takes.
        times: some times of the spine's rows in microseconds, as many of each stretch as there are rows, where it may be split.
        span: the stretch of time whose rows are looked up.
    """

    join: int
    plan: LookUp
    histories: tuple[tuple[int, Rows], ...]
    pieces: tuple[Stretch, ...]
    columns: Columns
    folder: Folder
    rows_at_once: int
    weight: int
    times: tuple[int, ...] = ()
    span: Span | None = None

    def run(self) -> JoinReceipt:
        """Write the features of the group's spine rows, and return where those of each batch lie."""
        alone = len(self.histories) == 1
        kept: pl.DataFrame | None = None
        with PieceWriter(self.folder, new_name(f"join-{self.join}")) as writer:
            for stretches in self._together():
                pieces = [self._piece(stretch) for stretch in stretches]
                results: list[list[pl.DataFrame]] = [[] for _ in pieces]
                for node, history in self.histories:
                    parts = {
                        place: piece if alone else piece.filter(pl.col(BUCKET) == node)
                        for place, piece in enumerate(pieces)
                        if piece is not None
                    }
                    if any(part.height for part in parts.values()):
                        rows = read_history(history, self.plan, self.span) if kept is None else kept
                        kept = rows if alone else None
                        features = look_up(pl.concat(parts.values()), rows, self.plan, self.columns)
                        start = 0
                        for place, part in parts.items():
                            results[place].append(features.slice(start, part.height))
                            start += part.height
                for result in results:
                    writer.write(pl.concat(result) if result else None)
        return JoinReceipt(self.join, writer.receipt)

    def split(self, parts: int) -> "list[JoinFilesTask] | None":
        """Return tasks for stretches of time, each with the history that its rows can see; None where that is not all they need."""
        if self.span is not None or not self.times or not self.plan.splits_by_time:
            return None
        edges = sorted({self.times[len(self.times) * place // parts] for place in range(1, parts)} - {self.times[0]})
        if not edges:
            return None
        spans = zip([_EVER[0], *edges], [*edges, _EVER[1]], strict=True)
        # NOTE: a history can be read from an instant on but not up to one, so each part has all of it in hand for a moment.
        weight = self.weight // COPIES + self.weight // (len(edges) + 1)
        return [replace(self, span=span, weight=weight, times=()) for span in spans]

    def _together(self) -> Iterator[list[Stretch]]:
        """Yield the pieces that are looked up together."""
        together: list[Stretch] = []
        for stretch in self.pieces:
            if together and sum(other.rows for other in together) + stretch.rows > self.rows_at_once:
                yield together
                together = []
            together.append(stretch)
        if together:
            yield together

    def _piece(self, stretch: Stretch) -> pl.DataFrame | None:
        for piece in read_pieces(self.folder, [stretch]):
            return piece if self.span is None else piece.filter(pl.col(TIME).to_physical().is_between(*self.span, closed="left"))
        return None


@dataclass(frozen=True)
class PartReceipt:
    """A part of the result.

    Args:
        batch: the number of the batch whose rows it has.
        pieces: the file, with one piece.
    """

    batch: int
    pieces: Pieces


@dataclass(frozen=True)
class GatherTask:
    """Put the features of a batch's rows beside them, compute what is computed of these, and write that part of the result.

    Args:
        number: the batch's number.
        batch: the batch.
        joins: for each join its columns, and where the batch's features lie.
        computation: what is computed of them.
        names: the names of the features asked for, in their order.
        folder: where the part is written.
        weight: about how many bytes of memory it takes.
    """

    number: int
    batch: SpineBatch
    joins: tuple[tuple[Columns, tuple[Stretch, ...]], ...]
    computation: OnDemandPlan
    names: tuple[str, ...]
    folder: Folder
    weight: int

    def run(self) -> PartReceipt:
        """Write the rows in the spine's order, and return where they lie."""
        with PieceWriter(self.folder, new_name(f"part-{self.number}")) as writer:
            writer.write(self.rows())
        return PartReceipt(self.number, writer.receipt)

    def rows(self) -> pl.DataFrame:
        """Return the batch's rows with their features."""
        features: list[pl.Series] = []
        for columns, stretches in self.joins:
            features += in_order(read_pieces(self.folder, stretches), columns, self.batch.start, self.batch.rows).get_columns()
        return with_features(self.batch.read(), features, self.computation, self.names, self.batch.start)

    def split(self, parts: int) -> None:
        """See ``Task.split``: a batch is as small as it is to be."""


@dataclass(frozen=True)
class PartTask:
    """Gather a batch, and write it where the result is to be, as one file of it.

    Args:
        gather: what makes the rows.
        target: the result's folder.
    """

    gather: GatherTask
    target: Folder

    @property
    def weight(self) -> int:
        """About how many bytes of memory it takes."""
        return self.gather.weight

    def run(self) -> tuple[int, Part]:
        """Write the file, and return the batch's number with what the manifest says of the file."""
        return self.gather.number, write_part(self.target, self.gather.number, self.gather.rows())

    def split(self, parts: int) -> None:
        """See ``Task.split``: a batch is as small as it is to be."""
