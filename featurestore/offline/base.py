"""The ports of the offline store: the history of each view, the log of pushes, and their maintenance."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

import polars as pl

from featurestore.definitions.catalog import AppliedView
from featurestore.definitions.feature_view import ViewSpec
from featurestore.definitions.serialization import stored_digests
from featurestore.engines.base import Engine
from featurestore.offline.history_size import HistorySize
from featurestore.rows.buckets import ROOT, bits_of

CORRECTS = "_corrects"
"""The log's column that marks rows whose event (S9) is known otherwise already, or is in the same push twice."""


Staged = Mapping[str, Any]
"""Where the rows of one chunk wait for their run's commit, in plain JSON values. Only the store understands it."""


@dataclass(frozen=True)
class Table:
    """The history of one view, at one data version.

    Its columns are the join keys, ``event_time``, ``available_time`` (the effective one, S2) and the features. ``spec`` is the
    definition, where one is applied.
    """

    project: str
    view: str
    data_version: int
    keys: Mapping[str, pl.DataType]
    features: Mapping[str, pl.DataType]
    spec: ViewSpec | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, project: str, applied: AppliedView) -> "Table":
        """Return the table of a view as applied."""
        spec = applied.spec
        return cls(project, spec.name, applied.data_version, spec.entity.keys, spec.stored_schema, spec)

    @property
    def definitions(self) -> tuple[str, ...]:
        """Digests of the definitions that may have made its rows: the view's, and what it was before it got more features."""
        return () if self.spec is None else stored_digests(self.spec)

    def __str__(self) -> str:
        return f"{self.project}/{self.view}/v{self.data_version}"


class History(Protocol):
    """Rows of one bucket that can be read, here or on another machine: it can be pickled."""

    @property
    def parts(self) -> int:
        """How many frames ``read`` returns; a single one is in the total order."""

    @property
    def rows(self) -> int:
        """How many rows there are, about: of files that are shared with other buckets it is the part to be expected."""

    @property
    def size(self) -> int:
        """How many bytes the files have."""

    def read(
        self,
        columns: Sequence[str] | None = None,
        *,
        entities: pl.DataFrame | None = None,
        since: int | None = None,
        until: int | None = None,
    ) -> list[pl.DataFrame]:
        """Return the rows, one frame in the total order or several, of which each may be in any.

        Args:
            columns: which columns, in this order; None for all. ``"_commit"`` is the number of the commit that brought the row
                (S24), 0 where that is not known; it is not among all.
            entities: the join keys of some entities: rows of others are left out, as far as that is cheap.
            since: leave out rows with event times before these microseconds.
            until: leave out rows with event times after these microseconds.
        """

    def joined(self, others: "Sequence[History]") -> "History":
        """Return the rows of this and other buckets of one snapshot as if they were one bucket."""


@dataclass(frozen=True)
class Snapshot:
    """A table and its log at one instant: later commits and pushes do not change it.

    Args:
        version: the store's version of the table; -1 where there is no table yet.
        buckets: what each bucket holds; a bucket without rows is not in it.
        rows: how many rows there are.
        last_run: the number of the last run that was committed; 0 for none.
        spans: the least and greatest event time in microseconds; None without rows.
        segments: the numbers of the pushed segments whose rows are in the buckets, be it from the log or because a commit
            added them to the files, and which were not removed yet.
    """

    version: int = -1
    buckets: Mapping[int, History] = field(default_factory=dict)
    rows: int = 0
    last_run: int = 0
    spans: tuple[int, int] | None = None
    segments: tuple[int, ...] = ()

    @property
    def bits(self) -> int:
        """How many bits of the hash the table is split by."""
        return bits_of(max(self.buckets, default=ROOT))

    @property
    def history_size(self) -> HistorySize:
        """How much the table and its log hold."""
        return HistorySize(self.rows, None if self.spans is None else self.spans[1])


@dataclass(frozen=True)
class Segment:
    """The rows of one push in a table's log.

    Args:
        seq: its number among the table's segments, of all times.
        rows: how many rows it has.
        staged: the form in which a run's commit is given them, to add them to the table.
    """

    seq: int
    rows: int
    staged: Staged


@dataclass(frozen=True)
class Appended:
    """What became of rows that were given to the log.

    Args:
        seq: the number of the segment that has the new ones; None where there were none.
        rows: the new ones: the table's columns and ``_corrects``.
        segments: the numbers of the segments that hold the ones known, as far as these are in the log still.
        known: the ones that the table itself holds.
        log_segments: how many segments the log has now.
        log_rows: how many rows.
    """

    seq: int | None
    rows: pl.DataFrame
    segments: tuple[int, ...]
    known: pl.DataFrame
    log_segments: int = 0
    log_rows: int = 0


class PushLog(Protocol):
    """Keep rows that were pushed until a run's commit adds them to their table; readers of the table see them at once.

    A push is a segment: it appears whole, never changes, and its number is greater than those of all segments before it.
    A commit that names segments in what is staged adds their rows to the table and takes them out of the log in one atomic
    change: no reader sees a row twice, or not at all. No row is both in the table and in the log, nor twice in either.
    """

    def append(self, table: Table, rows: pl.DataFrame, *, since: int | None = None) -> Appended:
        """Add the rows that neither the table nor its log holds yet, as one segment, and return which they were.

        Rows given twice are added once; rows already known are reported, so a repeated push changes nothing. When it returns,
        the rows are on the disk.

        Args:
            table: the table.
            rows: the table's columns; wholly equal rows are one row, or copies of one where the table numbers copies.
            since: for a table whose column ``event_id`` tells events apart (S9): rows with event times before these
                microseconds need not be looked through for other versions of the same event. None for any other table.
        """

    def segments(self, table: Table) -> list[Segment]:
        """Return the segments in the log, by their numbers."""

    def read(self, table: Table, seq: int) -> pl.DataFrame | None:
        """Return a segment's rows as ``Appended`` has them, or None once it was removed."""

    def exists(self, table: Table, seq: int) -> bool:
        """Return whether a segment was not removed yet, be it committed or not."""

    def remove(self, table: Table) -> None:
        """Delete the committed segments; all readers have finished with them. Idempotent."""

    def last_commit(self, table: Table, stored_by: int) -> int:
        """Return the number of the last commit, a push or a run, that was stored by an instant in microseconds; 0 for none (S24).

        It is the last one of all whose instant is not later: where a clock was wrong, those before it may be later ones.
        """

    def folding(self, table: Table) -> AbstractContextManager[bool]:
        """Return a context in which no one else of this store folds the log: it gives False where somebody does."""


class FeatureLog(Protocol):
    """Keep what services answered. A store that cannot be reached raises ``OfflineStoreError`` from every method.

    Several processes may add at once, also while another tidies. What is added stays as it is when the service changes: rows
    that had other columns lack the new ones. A frame of ``read`` may fail when it is collected after rows were deleted.
    """

    def append(self, project: str, service: str, rows: pl.DataFrame) -> None:
        """Add rows of a service, all or none of them. They have the column ``read_at``, an instant."""

    def read(self, project: str, service: str) -> pl.LazyFrame:
        """Return all rows of a service, in no order; without a column where there are none."""

    def services(self, project: str) -> list[str]:
        """Return the services that have rows or had some, applied or not."""

    def compact(self, project: str, service: str) -> int:
        """Put small files together and remove what nothing needs any more; return how many files became fewer.

        The rows stay the same, and frames that were read before can be collected for an hour.
        """

    def prune(self, project: str, service: str, before: datetime) -> int:
        """Delete the rows that were read before an instant, and return how many; a second time there are none."""

    def delete(self, project: str, service: str, keys: pl.DataFrame) -> int:
        """Delete the rows that are like one of ``keys`` in all of its columns, and return how many.

        Once it returns no file has them, nor does any tell of them. Null is like null. Rows without one of the columns are
        like none. Rows that are added meanwhile may stay: who must be forgotten is not asked for any more, or deleted again.
        """


class SecretKeeper(Protocol):
    """Keep one secret of a project beside its history. Every method raises ``OfflineStoreError`` where it cannot be reached."""

    @property
    def place(self) -> str:
        """Where the secret is kept, for messages."""

    def read(self) -> bytes | None:
        """Return the secret; None if none is kept yet."""

    def write(self, secret: bytes) -> None:
        """Keep a secret, where only who may read the history can read it. When it returns, the secret is on the disk."""


@dataclass(frozen=True)
class EraseCounts:
    """How many rows of some entities were in the parts of a table.

    Args:
        history: in its files.
        older: in files of its older versions, and in those that killed runs had left.
        pushed: in its log.
        staged: in what waited for a run's commit.
        rejected: among rejected rows.
    """

    history: int = 0
    older: int = 0
    pushed: int = 0
    staged: int = 0
    rejected: int = 0


class Eraser(Protocol):
    """Take entities out of everything that the offline store has of a table.

    Nobody may write rows of them meanwhile: writers share the project's write barrier, and leave out who is forgotten behind it.
    Runs and pushes of others go on. Erasing again completes an interrupted erasure. With ``dry_run`` nothing is changed, and what
    is there is counted.
    """

    def moment(self, project: str) -> float:
        """Return the present, as the store's files tell it, in seconds."""

    def erase_waiting(self, table: Table, entities: pl.DataFrame, *, dry_run: bool) -> EraseCounts:
        """Erase entities from what waits for a commit, the log and what is staged; nobody may write anything meanwhile.

        Args:
            table: the table.
            entities: the join keys of each.
            dry_run: count only.
        """

    def erase(self, table: Table, entities: pl.DataFrame, since: float, *, dry_run: bool) -> EraseCounts:
        """Erase entities from the table, its older versions and its rejected rows.

        The table has no older versions afterwards. A reader that is still at one finds that files are gone, and has to ask again.

        Args:
            table: the table.
            entities: the join keys of each.
            since: what ``moment`` gave while nobody wrote: what cannot be read and is older was left by a run that was killed.
            dry_run: count only.
        """


@dataclass(frozen=True)
class Compacted:
    """One step of compaction.

    Args:
        merged: how many files were merged.
        written: how many files have their rows now.
        size: how many bytes these have, or had where nothing was written.
    """

    merged: int
    written: int
    size: int


@dataclass(frozen=True)
class Removed:
    """What was removed of a table's folder, because nothing needs it any more.

    Args:
        files: how many files.
        size: how many bytes they had.
    """

    files: int = 0
    size: int = 0


class TableMaintenance(Protocol):
    """Keep the folders of tables in order: fewer files, and none that nobody needs. No row of a table is changed by it.

    Each method may be called at any time and by several at once, beside runs, pushes and readers, and repeated.
    """

    def tables(self, project: str) -> list[tuple[str, int]]:
        """Return the view and the data version of each table of a project that is there."""

    def files(self, table: Table) -> int:
        """Return how many files the table has, and segments its log; 0 where there is neither."""

    def compact(
        self,
        table: Table,
        done: int,
        without: Callable[[pl.DataFrame], pl.DataFrame] | None = None,
        *,
        dry_run: bool = False,
        engine: Engine | None = None,
    ) -> Compacted | None:
        """Merge some small files into fewer, in one commit; return None where there is nothing worth it.

        To be called until it returns None, or once for a dry run: then it tells of the first step. Where a run or somebody
        else takes one of the files away meanwhile, nothing is done of this step, and it may be tried again.

        Args:
            table: the table.
            done: the files of runs up to this number are merged; those of later ones may yet have to be found by it.
            without: takes rows out that nobody may write any more; with an engine it can be pickled.
            dry_run: change nothing.
            engine: what may do the work by tasks on other machines; None to do it here.
        """

    def checkpoint(self, table: Table) -> bool:
        """Write what the table's log says into one file, if enough was added to it, and drop what is old of the log."""

    def vacuum(self, table: Table, keep: timedelta, *, dry_run: bool = False) -> Removed:
        """Remove files that the table has not needed for some time, and what writers who were killed have left.

        A snapshot that is not older than ``keep`` can be read. What is in the log of pushes stays.
        """


class OfflineStore(Protocol):
    """Keep the history of every view.

    What a run stages is invisible until its commit, which is one atomic change; a repeated commit changes nothing (S17).
    A store that cannot be reached raises ``OfflineStoreError`` from every method.
    """

    log: PushLog
    """What was pushed and is not in the tables yet."""

    def snapshot(
        self, table: Table, *, since: int | None = None, until: int | None = None, stored_until: int | None = None
    ) -> Snapshot:
        """Return the table as it is now, with what is in its log; an empty snapshot where there is neither.

        Args:
            table: the table.
            since: leave out files and pushed rows whose event times all lie before these microseconds.
            until: leave out files and pushed rows whose event times all lie after these microseconds.
            stored_until: leave out the rows of commits after this one (S24). The counts are of all rows then.

        Raises:
            OfflineStoreError: by ``stored_until``, where it is not known which commit brought some rows.
        """

    def stage(self, table: Table, run: int, index: int, frame: pl.DataFrame) -> Staged:
        """Write the rows of a run's chunk where no reader sees them, and return where."""

    def commit(self, table: Table, run: int, staged: Sequence[Staged], after: int = 0, engine: Engine | None = None) -> int:
        """Add the staged rows of a run to the table, all at once, less those it or its log holds already; return how many.

        Segments of the log may be among what is staged: all up to a certain one. They are out of the log then, but deleted
        only by ``PushLog.remove``.

        Runs are numbered from 1. One that was committed already is left as it is, and what it added then is returned, if known.

        ``after`` is the last run whose commit the ledger knows of: where the table lacks it, or a file, or was made by another
        definition while the ledger knows of none, it raises ``DamagedHistoryError`` or ``MaterializeError``, and writes nothing.

        ``engine``, if given, may do the work by tasks on other machines. Only the commit itself is done here.
        """

    def committed(self, table: Table, run: int) -> list[History]:
        """Return what a committed run added, a part for each bucket; nothing where it added nothing.

        Where a later run has split the table and with it rewritten these rows, that run's parts hold them.
        """

    def keep_rejected(self, table: Table, run: int, index: int, frame: pl.DataFrame) -> str:
        """Keep a chunk's rejected rows with their reasons, replacing what an earlier attempt kept; return where (S19)."""

    def rejected(self, table: Table) -> pl.DataFrame:
        """Return all rejected rows that are kept, with the run and the reason; columns differ as the source's did."""

    def drop(self, table: Table) -> None:
        """Delete the table, its log, what is staged for it and its rejected rows. None there is no error."""


def is_gone(error: BaseException) -> bool:
    """Return whether an error says that a file is gone: the table was rewritten since it was opened; open it again."""
    return isinstance(error, FileNotFoundError) or isinstance(error.__cause__, FileNotFoundError)
