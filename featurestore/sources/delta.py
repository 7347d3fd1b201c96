"""The reader of Delta tables: the files that are new in the current version, according to the table's log.

A Delta table's files never change, so a file is either new or known; but for its deletion vector, and one with another vector is
read again, for it may have rows back. What ``OPTIMIZE`` wrote has no rows but those of files that it took away: where all of
these were read, it was; where only some were, the others are read in their place, as they were before it, for a row that is read
twice may count twice. A chunk names the version it was pinned in besides its parts, a cursor the one it was made in.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import polars as pl
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from featurestore.clock import Clock, utc_now
from featurestore.definitions.source import DeltaSource
from featurestore.errors import SourceError, SourceMissingError
from featurestore.forking import is_first_user
from featurestore.instants import instants
from featurestore.object_storage import is_object_address
from featurestore.sources.base import Chunk, Cursor
from featurestore.sources.delta_commits import Pool, commits_since, pooled
from featurestore.sources.file_cursor import KnownFile
from featurestore.sources.file_slices import CursorState, FileSlice, Former, ReadTask, pieces_of_rows
from featurestore.sources.files import FilesReader
from featurestore.sources.paths import SourceFile, absolute_path
from featurestore.sources.source_files import OBJECTS_AT_ONCE
from featurestore.sources.timestamps import FIRST, LAST, checked, extent, is_time, normalised, raw_time_columns, translated

ADVICE = "Write it as a timestamp."
ERRORS = (pl.exceptions.PolarsError, DeltaError, OSError)

_READABLE = frozenset({"deletionVectors", "timestampNtz", "typeWidening", "v2Checkpoint", "vacuumProtocolCheck", "variantType"})
_MILLISECOND = 1_000
_TOLD = 3
"""Of how many versions a run says each that they took rows away."""
_ROW = "__row"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A version of a table.

    Args:
        version: its number.
        root: the address its files' names begin at.
        columns: its columns.
        files: what the log says of each file, by its name: size, rows, least and greatest values, partition values.
        deleted: for files with a deletion vector, by their address, the numbers of the deleted rows.
        table: the table, opened at the version.
    """

    version: int
    root: str
    columns: pl.Schema
    files: Mapping[str, Mapping[str, Any]]
    deleted: Mapping[str, pl.Series]
    table: DeltaTable

    def location(self, name: str) -> str:
        """Return where a file is opened."""
        return name if "://" in name else self.root + name

    def vector(self, name: str) -> int:
        """Return a checksum of a file's deletion vector; 0 where it has none."""
        gone = self.deleted.get(self.location(name))
        return 0 if gone is None else zlib.crc32(",".join(map(str, gone.to_list())).encode())


class DeltaReader(FilesReader[DeltaSource]):
    """The ``SourceReader`` of Delta tables.

    The table's schema tells the columns; a file from before a column was added has nulls there.

    Args:
        spec: the source's definition.
        root: the project's folder, where a relative path starts.
        clock: tells the present.
        storage_options: what is to be said of object storage besides an address.
    """

    immutable = True
    _snapshot: Snapshot | None = None

    def __init__(
        self, spec: DeltaSource, root: Path, clock: Clock = utc_now, storage_options: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(spec, root, clock, storage_options)
        self.at_once = OBJECTS_AT_ONCE if is_object_address(spec.path) else 1

    def files(self) -> list[SourceFile]:
        """Return the files of the table's newest version, the oldest first."""
        return self._files_of(self._at(None))

    def _files_of(self, snapshot: Snapshot) -> list[SourceFile]:
        files = [
            # A vector stands where other files have their inode, which nothing here has.
            SourceFile(
                name, snapshot.location(name), stats["size_bytes"], stats["modification_time"] * 1_000_000, 0, snapshot.vector(name)
            )
            for name, stats in snapshot.files.items()
        ]
        return sorted(files, key=lambda file: (file.modified, file.name))

    def described(self, files: Sequence[SourceFile], aside: dict[str, str] | None = None) -> pl.Schema:
        """Return the columns of the version that the files were listed from."""
        return checked(self._spec, self._listed().columns, f"table {self._address}", ADVICE)

    def missing(self) -> None:
        """A table without files is empty; one that is not there was an error before."""
        return

    def pinned(self) -> Mapping[str, Any]:
        """Return the version whose files were listed last."""
        return {"version": self._listed().version}

    def cursor_state(self, cursor: Cursor | None, known: Mapping[str, KnownFile], files: Sequence[SourceFile]) -> CursorState:
        """Return which files a compaction wrote of known ones, and whether commits since the cursor took rows away."""
        snapshot = self._listed()
        marks = {"version": snapshot.version}
        since = (cursor or {}).get("version")
        if since is None or since >= snapshot.version:
            return CursorState({}, (), marks)
        with translated(self._spec, f"the log of Delta table {self._address}", *ERRORS):
            commits = commits_since(snapshot.table, since, snapshot.version)
        if commits is None:
            return CursorState({}, (), marks)
        compacted: dict[str, KnownFile] = {}
        there = {file.name: file for file in files}
        pools: list[Pool] = []
        for commit in commits:
            for group in commit.rewritten:
                pools = pooled(pools, group, commit.version - 1)
                sources = [compacted.get(name, known.get(name)) for name in group.removed]
                if not all(sources):
                    continue
                rests = [source.rest for source in sources if source is not None and source.rest is not None]
                for name in group.added:
                    stamp = tuple(there[name].stamp) if name in there else ()
                    compacted[name] = KnownFile(stamp, min(rests) if rests else None, None, 0)
        # Of these some were read and some were not; where one of them was read before, none is to be read as a whole again.
        partly = [pool for pool in pools if pool.sources.keys() & known.keys() and not pool.files <= compacted.keys()]
        former = tuple(_former(pool) for pool in partly if pool.files <= there.keys())
        changing = [commit for commit in commits if commit.takes_rows]
        notices = [
            f"Source {self._spec.name!r}: version {commit.version} of its Delta table ({commit.operation}) took away or changed "
            "rows. What was read of them before stays in the history."
            for commit in changing[:_TOLD]
        ]
        if len(changing) > _TOLD:
            notices.append(f"Source {self._spec.name!r}: {len(changing) - _TOLD} more versions took away or changed rows.")
        return CursorState(compacted, tuple(notices), marks, former)

    @contextmanager
    def at(self, pinned: Mapping[str, Any]) -> Iterator[Sequence[SourceFile]]:
        """Return a block in which the table is as it was in a version."""
        now = self._listed()
        try:
            yield self._files_of(self._at(pinned["version"]))
        finally:
            self._snapshot = now

    def pieces(self, file: SourceFile, chunk_rows: int) -> Iterator[FileSlice]:
        """Cut a file by rows, by what the table's log tells of it."""
        snapshot = self._listed()
        stats = snapshot.files[file.name]
        whole = ReadTask(file.name, 0, -1, None, True, None)
        count = stats["num_records"]
        if count is None:
            count = self.collect(self._opened_file(file.location).select(pl.len()), file.name).item()
        bounds = self._bounds(snapshot, stats)
        if bounds is None:
            bounds = self.collect(extent(self._spec, self._scan(snapshot, whole)), file.name).row(0)
        earliest, latest, nulls = bounds
        for _, first, rows in pieces_of_rows([count], chunk_rows):
            yield FileSlice(first, rows, rows, earliest, latest, nulls, stamp=None)

    def rows(self, part: ReadTask, chunk: Chunk) -> pl.LazyFrame:
        """Return the rows of a part, as they were in the version it was pinned in."""
        return self._scan(self._at(chunk["version"]), part)

    def collect(self, rows: pl.LazyFrame, file: str) -> pl.DataFrame:
        """Collect rows of a file."""
        with translated(self._spec, f"file {file} of table {self._address}", *ERRORS, advice=_GONE):
            return rows.collect()

    @property
    def _address(self) -> str:
        return self._spec.path if "://" in self._spec.path else str(absolute_path(self._spec.path, self._root))

    @property
    def _options(self) -> dict[str, str] | None:
        """What is to be said of the store where the table is; None on this machine."""
        return self._storage_options or None if is_object_address(self._spec.path) else None

    def _opened_file(self, location: str) -> pl.LazyFrame:
        return pl.scan_parquet(location, glob=False, hive_partitioning=False, storage_options=self._options)

    def _listed(self) -> Snapshot:
        return self._snapshot or self._at(None)

    def _at(self, version: int | None) -> Snapshot:
        known = self._snapshot
        if known is None or version is None or known.version != version:
            try:
                with translated(self._spec, f"Delta table {self._address}", *ERRORS):
                    known = self._opened(version)
            except SourceError as error:
                if isinstance(error.__cause__, TableNotFoundError):
                    raise SourceMissingError(
                        f"Source {self._spec.name!r}: there is no Delta table at {self._address}. Check path= (a relative one "
                        "starts at the project's folder), or write the table first."
                    ) from error
                raise
            self._snapshot = known
        return known

    def _opened(self, version: int | None) -> Snapshot:
        if not is_first_user("deltalake"):
            raise SourceError(
                f"{self._address} cannot be read in a process that was forked after its parent had read Delta tables. "
                "Start it without a fork: multiprocessing.get_context('spawn')."
            )
        table = DeltaTable(self._address, version=version, storage_options=self._options)
        features = set(table.protocol().reader_features or ())
        mapping = table.metadata().configuration.get("delta.columnMapping.mode", "none")
        if mapping != "none":
            raise SourceError(
                f"Source {self._spec.name!r}: Delta table {self._address} maps its columns to other names in its files "
                f"(delta.columnMapping.mode = {mapping}), which is not supported. Rewrite it without."
            )
        if not features <= _READABLE | {"columnMapping"}:
            raise SourceError(
                f"Source {self._spec.name!r}: Delta table {self._address} uses {', '.join(sorted(features - _READABLE))}, which is "
                "not supported. Drop the feature (ALTER TABLE … DROP FEATURE), or rewrite the table without it."
            )
        columns = pl.Schema(table.schema())
        actions = self._looked_at(pl.DataFrame(table.get_add_actions(flatten=True)))
        files = {unquote(stats["path"]): stats for stats in actions.iter_rows(named=True)}
        deleted: dict[str, pl.Series] = {}
        if "deletionVectors" in features:
            vectors = pl.DataFrame(table.deletion_vectors())
            kept = zip(vectors["filepath"], vectors["selection_vector"], strict=True)
            deleted = {_plain(path): (~keep).arg_true() for path, keep in kept}
        return Snapshot(table.version(), _plain(table.table_uri), columns, files, deleted, table)

    def _looked_at(self, actions: pl.DataFrame) -> pl.DataFrame:
        """Return what is wanted of what the log says of files; times in microseconds, for Python's calendar may not have them."""
        kept = ["path", "size_bytes", "modification_time", "num_records"]
        stats = [f"{word}.{name}" for name in raw_time_columns(self._spec) for word in ("min", "max", "null_count")]
        there = [name for name in actions.columns if name in kept or name in stats or name.startswith("partition.")]
        return actions.select(
            instants(pl.col(name), actions.schema[name]).to_physical()
            if name in stats and is_time(actions.schema[name]) and actions.schema[name] != pl.Null
            else pl.col(name)
            for name in there
        )

    def _bounds(self, snapshot: Snapshot, stats: Mapping[str, Any]) -> tuple[int | None, int | None, bool] | None:
        lows, highs, nulls = [], [], False
        for name in raw_time_columns(self._spec):
            least, greatest, missing = (stats.get(f"{word}.{name}") for word in ("min", "max", "null_count"))
            if f"partition.{name}" in stats:
                least = greatest = stats[f"partition.{name}"]
                missing = stats["num_records"] if least is None else 0
            if missing is None or stats["num_records"] is None:
                return None
            nulls = nulls or missing > 0
            if missing == stats["num_records"]:
                return None, None, True
            if least is None or greatest is None:
                return None
            dtype = snapshot.columns[name]
            if not isinstance(least, int):  # a partition's
                micros = pl.Series([least, greatest], dtype=dtype).to_frame("t").select(instants(pl.col("t"), dtype).to_physical())
                least, greatest = micros["t"]
            # NOTE: Delta writers cut the microseconds off the log's timestamps, not all of them downwards before the epoch.
            slack = 0 if isinstance(dtype, pl.Date) else _MILLISECOND
            lows.append(least - slack)
            highs.append(greatest + slack)
        # A row's effective time is the later of the two (S2), so both bounds are the greater ones.
        if min(lows) < FIRST or max(highs) > LAST:
            return None  # the log does not say how many rows are out of the calendar
        return max(lows), max(highs), nulls

    def _scan(self, snapshot: Snapshot, part: ReadTask) -> pl.LazyFrame:
        location = snapshot.location(part.file)
        with translated(self._spec, f"file {location}", *ERRORS, advice=_GONE):
            rows = self._opened_file(location)
            there = rows.collect_schema()
        if part.count >= 0:
            rows = rows.slice(part.first, part.count)
        if location in snapshot.deleted:
            gone = pl.col(_ROW).is_in(snapshot.deleted[location].implode())
            rows = rows.with_row_index(_ROW, offset=part.first).filter(~gone).drop(_ROW)
        stats = snapshot.files[part.file]
        added = {name: dtype for name, dtype in snapshot.columns.items() if name not in there}
        there = pl.Schema({**there, **added})
        missing = {name: pl.lit(stats.get(f"partition.{name}"), dtype=dtype) for name, dtype in added.items()}
        return rows.with_columns(**missing).select(normalised(self._spec, there, snapshot.columns))


_GONE = "If a VACUUM removed it, start the run again: it reads the table as it is now."


def _former(pool: Pool) -> Former:
    by_version: dict[int, set[str]] = {}
    for name, version in pool.sources.items():
        by_version.setdefault(version, set()).add(name)
    return Former(pool.files, tuple(({"version": version}, frozenset(names)) for version, names in sorted(by_version.items())))


def _plain(address: str) -> str:
    return address.removeprefix("file://")
