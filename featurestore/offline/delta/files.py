"""Files of a Delta table: their columns, writing one, and reading those of a bucket."""

import errno
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, Literal
from uuid import uuid4

import polars as pl
from deltalake import Schema
from deltalake.exceptions import DeltaError
from deltalake.transaction import AddAction

from featurestore.clock import nearest_instant, to_micros
from featurestore.dtypes import as_dtype
from featurestore.errors import OfflineStoreError
from featurestore.instants import INSTANT
from featurestore.object_storage import is_object_address
from featurestore.offline.base import CORRECTS, Table
from featurestore.offline.folder import Folder
from featurestore.offline.object_errors import problem_of
from featurestore.rows.buckets import ROOT, key_hash, within
from featurestore.rows.total_order import AVAILABLE, COMMIT, EVENT, sort_history

BUCKET = "_bucket"
HASH = "_hash"
"""The hash of the keys, in files that wait for their commit."""
COMPRESSION: Literal["lz4"] = "lz4"
# NOTE: lz4 reads a fifth faster than zstd and writes 1.7 times as fast, for a quarter more bytes.


def storage_dtype(dtype: pl.DataType) -> pl.DataType:
    """Return the dtype in which a column lies in a Delta table, which knows no unsigned numbers, vectors or durations."""
    if isinstance(dtype, (pl.List, pl.Array)):
        return pl.List(storage_dtype(as_dtype(dtype.inner)))
    if isinstance(dtype, (pl.Time, pl.Duration)):
        return pl.Int64()
    return _SIGNED.get(dtype.base_type(), dtype)


_SIGNED: dict[Any, pl.DataType] = {pl.UInt8: pl.Int16(), pl.UInt16: pl.Int32(), pl.UInt32: pl.Int64(), pl.UInt64: pl.Decimal(20, 0)}


def columns_of(table: Table) -> dict[str, pl.DataType]:
    """Return the columns of a table, with the dtypes they have once they are read."""
    return _columns(table.keys, table.features)


def _columns(keys: Mapping[str, pl.DataType], features: Mapping[str, pl.DataType]) -> dict[str, pl.DataType]:
    return {**keys, EVENT: INSTANT, AVAILABLE: INSTANT, **features}


def with_columns_of(table: Table, rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows with all of a table's columns first, null where they were written before there was such a column.

    What is the store's own stays after them; what a later version of the view has goes.
    """
    columns = columns_of(table)
    missing = [pl.lit(None, dtype).alias(name) for name, dtype in columns.items() if name not in rows.columns]
    own = [name for name in (HASH, CORRECTS) if name in rows.columns]
    return rows.with_columns(missing).select(*columns, *own)


def delta_schema(table: Table) -> Schema:
    """Return the columns of a table as Delta has them."""
    stored = {name: storage_dtype(dtype) for name, dtype in columns_of(table).items()}
    return Schema.from_arrow(pl.DataFrame(schema={**stored, COMMIT: pl.Int64(), BUCKET: pl.Int32()}).to_arrow().schema)


@dataclass(frozen=True)
class DeltaFiles:
    """The files of one bucket, each in the total order, and the rows of the bucket that are in the log.

    Args:
        node: the bucket.
        own: its files, the largest first.
        above: files of nodes above it, which have rows of other buckets too.
        rows: how many rows there are, of files above the part to be expected.
        size: how many bytes the files have, likewise.
        keys: the table's join keys, with the dtypes they have once they are read.
        features: its other columns but the times.
        options: what is to be said of the object storage in which the files are.
        pushed: the rows in the log, in any order.
        commits: the last commit of the rows of each of ``paths``, which is that of the rows that say none; empty where not known.
        until: rows of later commits are left out; None for none.
    """

    node: int
    own: tuple[str, ...]
    above: tuple[str, ...]
    rows: int
    size: int
    keys: Mapping[str, pl.DataType]
    features: Mapping[str, pl.DataType]
    options: Mapping[str, str] = field(default_factory=dict)
    pushed: pl.DataFrame | None = field(default=None, compare=False, repr=False)
    commits: tuple[int, ...] = field(default=(), compare=False, repr=False)
    until: int | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """The files."""
        return (*self.own, *self.above)

    @property
    def parts(self) -> int:
        """How many frames ``read`` returns; a single one is in the total order."""
        return len(self._groups()) + (self.pushed is not None)

    def read(
        self,
        columns: Sequence[str] | None = None,
        where: pl.Expr | None = None,
        *,
        entities: pl.DataFrame | None = None,
        since: int | None = None,
        until: int | None = None,
    ) -> list[pl.DataFrame]:
        """See ``History.read``; ``where`` tells which rows, by the columns as they are stored."""
        dtypes = _columns(self.keys, self.features)
        if columns is not None and COMMIT in columns:
            dtypes[COMMIT] = pl.Int64()
        names = list(dtypes) if columns is None else list(columns)
        asked = [] if where is None else [where]
        asked += [] if entities is None else [of_keys(entities, self.keys)]
        asked += [] if since is None else [pl.col(EVENT) >= nearest_instant(since)]
        asked += [] if until is None else [pl.col(EVENT) <= nearest_instant(until)]
        where = pl.all_horizontal(asked) if asked else None
        with translated("read", ", ".join(self.paths[:3])):
            frames = [self._scan_all(paths, names, where, dtypes).collect() for paths in self._groups()]
        if self.pushed is not None:
            pushed = self.pushed.select(*dtypes)
            if where is not None:
                stored = pushed.with_columns(pl.col(name).cast(storage_dtype(dtype)) for name, dtype in dtypes.items())
                pushed = pushed.filter(stored.select(where).to_series())
            frames.append(sort_history(pushed, list(self.keys), list(self.features)).select(names))
        return frames

    def joined(self, others: Sequence[Any]) -> "DeltaFiles":
        """See ``History.joined``."""
        every = [self, *others]
        own = tuple(path for bucket in every for path in bucket.own)
        above = tuple(dict.fromkeys(path for bucket in every for path in bucket.above))
        commits = {path: commit for bucket in every for path, commit in zip(bucket.paths, bucket.commits, strict=False)}
        pushed = [bucket.pushed for bucket in every if bucket.pushed is not None]
        return DeltaFiles(
            ROOT,
            own,
            above,
            sum(bucket.rows for bucket in every),
            sum(bucket.size for bucket in every),
            self.keys,
            self.features,
            self.options,
            pl.concat(pushed) if pushed else None,
            tuple(commits[path] for path in (*own, *above)) if commits else (),
            self.until,
        )

    def _groups(self) -> list[tuple[str, ...]]:
        """Return which files are read together: many small ones take less time so, and a large one stays in order."""
        return [paths for paths in (self.own[:1], self.own[1:], self.above[:1], self.above[1:]) if paths]

    def _scan_all(
        self, paths: tuple[str, ...], names: list[str], where: pl.Expr | None, dtypes: Mapping[str, pl.DataType]
    ) -> pl.LazyFrame:
        """Scan some files: those together whose rows need no look at their commits, any other by itself."""
        if COMMIT not in dtypes and self.until is None:
            return self._scan(paths, names, where, dtypes)
        commits = dict(zip(self.paths, self.commits, strict=False))
        later = {path for path in paths if self.until is not None and commits.get(path, 0) > self.until}
        alone = paths if COMMIT in dtypes else tuple(path for path in paths if path in later)
        together = () if COMMIT in dtypes else tuple(path for path in paths if path not in later)
        scans = [self._scan(together, names, where, dtypes)] if together else []
        for path in alone:
            commit = pl.col(COMMIT).fill_null(commits[path]) if path in commits else pl.col(COMMIT)
            asked = [*([] if where is None else [where]), *([commit <= self.until] if path in later else [])]
            scan = self._scan((path,), names, pl.all_horizontal(asked) if asked else None, {**dtypes, COMMIT: pl.Int64()})
            scans.append(scan.with_columns(commit) if COMMIT in names else scan)
        return scans[0] if len(scans) == 1 else pl.concat(scans)

    def _scan(
        self, paths: tuple[str, ...], names: list[str], where: pl.Expr | None, dtypes: Mapping[str, pl.DataType]
    ) -> pl.LazyFrame:
        # A file may be older than a column, or have one that is newer than what its reader knows of the view.
        schema = {name: storage_dtype(dtype) for name, dtype in dtypes.items()}
        scan = pl.scan_parquet(
            list(paths),
            schema=schema,
            missing_columns="insert",
            extra_columns="ignore",
            glob=False,
            hive_partitioning=False,
            storage_options=dict(self.options) or None,
        )
        if where is not None:
            scan = scan.filter(where)
        if paths[0] in self.above:
            scan = scan.with_columns(_casts(self.keys)).filter(within(self.node, key_hash(self.keys)))
        return scan.select(names).with_columns(_casts({name: dtypes[name] for name in names}))


def _casts(dtypes: Mapping[str, pl.DataType]) -> list[pl.Expr]:
    """Return expressions that give columns the dtypes they have once they are read."""
    return [pl.col(name).cast(dtype) for name, dtype in dtypes.items() if storage_dtype(dtype) != dtype]


def of_keys(rows: pl.DataFrame, keys: Mapping[str, pl.DataType]) -> pl.Expr:
    """Return an expression on stored columns that leaves out most rows of other entities than some rows are of."""
    where = pl.lit(value=True)
    for key, dtype in keys.items():
        where = where & pl.col(key).is_in(rows[key].unique().cast(storage_dtype(dtype)).implode())
    return where


@dataclass(frozen=True)
class NewFile:
    """A file that waits for its commit.

    Args:
        action: the action that adds it to a commit.
        node: its bucket.
        since: the least event time in it, in microseconds.
        until: the greatest one.
    """

    action: AddAction
    node: int
    since: int
    until: int


def write_file(
    folder: Folder,
    run: int,
    node: int,
    frame: pl.DataFrame,
    now: int,
    *,
    changes: bool = True,
    commits: tuple[int, int] | None = None,
) -> NewFile:
    """Write one bucket's rows, in the total order, as a file of a table.

    Args:
        folder: the table's folder.
        run: the run whose rows they are; 0 where they are those of several.
        node: the bucket.
        frame: the rows.
        now: the present in milliseconds.
        changes: whether the rows are new to the table.
        commits: the first and the last commit of the rows, where those that say none are of the last one. By default they are
            of the one that adds the file.
    """
    if COMMIT in frame.columns and frame[COMMIT].null_count() == frame.height:
        frame = frame.drop(COMMIT)
    name = f"{BUCKET}={node}/{run_prefix(run)}{uuid4().hex}.parquet"
    stored = frame.with_columns(pl.col(column).cast(storage_dtype(dtype)) for column, dtype in frame.schema.items())
    size = folder.write(name, lambda file: stored.write_parquet(file, compression=COMPRESSION, row_group_size=262_144))
    spans = frame.select(
        pl.col(EVENT).min().alias("a"),
        pl.col(EVENT).max().alias("b"),
        pl.col(AVAILABLE).min().alias("c"),
        pl.col(AVAILABLE).max().alias("d"),
    ).row(0)
    # NOTE: not strftime, which writes year 1 as "1" on some systems, and then nobody reads it back.
    instants = [moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z" for moment in spans]
    first, last, known_first, known_last = instants
    stats: dict[str, Any] = {
        "numRecords": frame.height,
        "minValues": {EVENT: first, AVAILABLE: known_first},
        "maxValues": {EVENT: last, AVAILABLE: known_last},
        "nullCount": {EVENT: 0, AVAILABLE: 0},
    }
    _note_commits(stats, frame, commits)
    action = AddAction(name, size, {BUCKET: str(node)}, now, changes, json.dumps(stats))
    return NewFile(action, node, to_micros(spans[0]), to_micros(spans[1]))


def _note_commits(stats: dict[str, Any], frame: pl.DataFrame, commits: tuple[int, int] | None) -> None:
    """Note in a file's statistics the first and the last commit of its rows, and of how many that is still to be said."""
    unsaid = 0
    if commits is None and COMMIT not in frame.columns:
        unsaid = frame.height
    elif commits is None:
        unsaid, commits = frame[COMMIT].null_count(), frame.select(pl.col(COMMIT).min(), pl.col(COMMIT).max().alias("last")).row(0)
    stats["nullCount"][COMMIT] = unsaid
    if commits is not None:
        stats["minValues"][COMMIT], stats["maxValues"][COMMIT] = commits


def numbered(action: AddAction, number: int) -> AddAction:
    """Return what adds a file in the commit of a number: rows that say no other one are of that."""
    stats = json.loads(action.stats)
    if not stats["nullCount"].get(COMMIT):
        return action
    stats["minValues"].setdefault(COMMIT, number)
    stats["maxValues"][COMMIT] = number
    return replace(action, stats=json.dumps(stats))


def run_prefix(run: int) -> str:
    """Return how the names of the files begin that a run adds."""
    return f"run-{run:08d}-"


def between(rows: pl.DataFrame, since: int | None, until: int | None) -> pl.DataFrame:
    """Return the rows with event times between two bounds, both inclusive; None means unbounded."""
    instant = pl.col(EVENT).to_physical()
    bounds = [] if since is None else [instant >= since]
    bounds += [] if until is None else [instant <= until]
    return rows.filter(bounds) if bounds else rows


def event_span(rows: pl.DataFrame) -> tuple[int, int]:
    """Return the least and the greatest event time of some rows, in microseconds."""
    first, last = rows.select(pl.col(EVENT).min().alias("first"), pl.col(EVENT).max().alias("last")).row(0)
    return to_micros(first), to_micros(last)


def run_of(path: str) -> int:
    """Return the run whose rows a file of a table has, by its name; 0 where it has those of several."""
    number = PurePosixPath(path).name.removeprefix("run-").partition("-")[0]
    return int(number) if number.isdecimal() else 0


@contextmanager
def translated(action: str, where: str) -> Iterator[None]:
    """Turn what Delta, Polars and the system raise into ``OfflineStoreError``.

    Args:
        action: what was being done: ``"read"``.
        where: to what.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise OfflineStoreError(
            f"The offline store could not {action} {where}: one of its files is gone. The table was rewritten meanwhile, because "
            f"an entity was forgotten or unneeded files were removed: ask again. ({error})"
        ) from error
    except (DeltaError, OSError, pl.exceptions.ComputeError) as error:
        if is_object_address(where):
            # NOTE: not the error's own text, in which a server may quote a key. One of a folder has been worded already.
            said = error.strerror if isinstance(error, OSError) and error.filename else problem_of(error)[1]
            raise OfflineStoreError(f"The offline store could not {action} {where}: {said}.") from None
        raise OfflineStoreError(f"The offline store could not {action} {where}: {_plain(error)}. {_advice(error)}") from error


def _plain(error: Exception) -> str:
    """Return an error's text without the backtrace that Delta adds to it."""
    return str(error).partition("\n   0: ")[0].strip().rstrip(".")


def _advice(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "The disk is full: make room, and do it again; nothing that was acknowledged is lost."
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "Make the folder this user's to write."
    if isinstance(error, pl.exceptions.ComputeError):
        return "Is the file damaged? See: featurestore doctor"
    return "Is the disk full, or the folder not yours to write?"
