"""The reader of Parquet files: a file, a glob, or a folder with hive partitions."""

import json
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import IO

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.arrow_zones import with_known_zones
from featurestore.clock import Clock, utc_now
from featurestore.definitions.source import ParquetSource
from featurestore.errors import SourceError, SourceShapeError, did_you_mean
from featurestore.rows.unreadable import UNREAD
from featurestore.shown_errors import shown
from featurestore.sources.base import Chunk
from featurestore.sources.file_cursor import same_stamp
from featurestore.sources.file_slices import FileSlice, ReadTask, pieces_of_rows
from featurestore.sources.files import FilesReader
from featurestore.sources.hive import Partition, partition_texts, partitions
from featurestore.sources.paths import SourceFile
from featurestore.sources.source_files import files_of
from featurestore.sources.supertypes import widened
from featurestore.sources.timestamps import (
    FIRST,
    LAST,
    SourceOutOfReachError,
    checked,
    extent,
    is_time,
    normalised,
    raw_time_columns,
    translated,
)

ENDINGS = (".parquet", ".parq", ".pq")
ADVICE = (
    "Write it as a timestamp, or cast it in a query: "
    "SQLSource(…, \"select * replace (cast(t as timestamp) as t) from 'data/*.parquet'\", …)."
)
ERRORS = (pl.exceptions.PolarsError, pa.ArrowException, OSError)

Extent = tuple[int | None, int | None, bool]
"""The earliest and latest effective available time, in microseconds, and whether there may be rows without a time."""

_DAY = 86_400_000_000
_TO_MICROS = {"milliseconds": (1_000, 1), "microseconds": (1, 1), "nanoseconds": (1, 1_000)}


class ParquetReader(FilesReader[ParquetSource]):
    """The ``SourceReader`` of Parquet files.

    The columns are those of all files, null in a file that lacks one; a time column must be in every file. Where types differ,
    the narrowest that holds the values of all is taken. What a path tells has the type that ``columns=`` or the view declares,
    else that of all its texts.

    Args:
        spec: the source's definition.
        root: the project's folder, where a relative path starts.
        clock: tells the present.
        storage_options: what is to be said of object storage besides an address.
    """

    # What described() found: the columns by the source's own names, the partition columns, and each file's own columns.
    _columns: pl.Schema = pl.Schema()
    _partitions: dict[str, Partition] = {}  # noqa: RUF012 - replaced as a whole, never changed
    _own: dict[str, tuple[list[int | str], pl.Schema]] = {}  # noqa: RUF012 - likewise

    def __init__(
        self, spec: ParquetSource, root: Path, clock: Clock = utc_now, storage_options: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(spec, root, clock, storage_options)
        self._there = files_of(spec, spec.path, root, self._storage_options)
        self.at_once = self._there.at_once
        # For files with time zones that Polars does not know, their columns with those in UTC.
        self._zoned: dict[str, pa.Schema] = {}

    def described(self, files: Sequence[SourceFile], aside: dict[str, str] | None = None) -> pl.Schema:
        """Return the columns that the files have together; their footers tell."""
        self._there.fetch_footers([file for file in files if self._own.get(file.name, (None,))[0] != file.stamp])
        self._partitions = partitions(
            (file.name for file in files), {**self._spec._declared, **self._spec.columns}, raw_time_columns(self._spec)
        )
        for name in self._spec.columns:
            if name not in self._partitions:
                raise SourceShapeError(
                    f"Source {self._spec.name!r}: columns= names {name!r}, which is not a hive partition of {self._spec.path}: the "
                    f"files themselves say what their columns are. {did_you_mean(name, self._partitions)}"
                )
        own: dict[str, tuple[list[int | str], pl.Schema]] = {}
        columns: dict[str, pl.DataType] = {}
        readable: list[SourceFile] = []
        for file in files:
            try:
                own[file.name] = file.stamp, self._own_columns(file)
                columns = self._joined(columns, own, file, readable)
                readable.append(file)
            except SourceError as error:
                if aside is None or isinstance(error, SourceOutOfReachError):
                    raise
                aside[file.name] = str(error)
        if not readable:
            raise SourceError(
                f"Source {self._spec.name!r}: none of its files can be read. {next(iter((aside or {}).values()), '')}"
            )
        self._own, self._columns = own, pl.Schema(columns)
        return checked(self._spec, self._columns, f"file {readable[0].location}", ADVICE)

    def files(self) -> list[SourceFile]:
        """Return the files there are now."""
        return self._there.find(ENDINGS)

    def missing(self) -> SourceError:
        """Return the error that tells where no file was found."""
        return self._there.missing(ENDINGS)

    def pieces(self, file: SourceFile, chunk_rows: int) -> Iterator[FileSlice]:
        """Cut a file along its row groups, and those that are too large by rows."""
        with translated(self._spec, f"file {file.location}", *ERRORS):
            footer = pq.read_metadata(self._there.footer(file))
        times = raw_time_columns(self._spec)
        extents = None if set(times) & set(self._partitions) else footer_extents(footer, times)
        if extents is None:
            scanned: Extent = self.collect(extent(self._spec, self._scan(file)), file.name).row(0)
            extents = [scanned] * footer.num_row_groups
        counts = [footer.row_group(index).num_rows for index in range(footer.num_row_groups)]
        for index, first, rows in pieces_of_rows(counts, chunk_rows):
            earliest, latest, nulls = extents[index]
            yield FileSlice(first, rows, rows, earliest, latest, nulls, stamp=file.stamp)

    def rows(self, part: ReadTask, chunk: Chunk) -> pl.LazyFrame:
        """Return the rows of a part; raise if the file was replaced after they were pinned."""
        location = self._there.location(part.file)
        try:
            file = self._there.look_again(part.file)
        except FileNotFoundError as error:
            problem = shown(error)
            raise SourceError(
                f"Source {self._spec.name!r}: the rows pinned in {location} are no longer there: {problem}"
            ) from error
        except OSError as error:
            raise SourceError(f"Source {self._spec.name!r}: file {location} could not be read: {shown(error)}") from error
        if not same_stamp(part.stamp, file.stamp):
            raise SourceError(
                f"Source {self._spec.name!r}: {location} was replaced after a run had pinned rows of it, which are no longer "
                "there. Start the run again: it reads the new file."
            )
        # NOTE: Polars skips the row groups outside the slice; measured, that is no slower than reading them with PyArrow.
        return self._scan(file, part)

    def collect(self, rows: pl.LazyFrame, file: str) -> pl.DataFrame:
        """Collect rows of a file."""
        with translated(self._spec, f"file {self._there.location(file)}", *ERRORS):
            return rows.collect()

    def _scan(self, file: SourceFile, part: ReadTask | None = None) -> pl.LazyFrame:
        if self._own.get(file.name, (None,))[0] != file.stamp:
            self.schema()
        if file.name not in self._own:
            raise SourceError(f"Source {self._spec.name!r}: {file.location} is no longer among the files of {self._spec.path}.")
        _, own = self._own[file.name]
        schema = self._zoned.get(file.name)
        with translated(self._spec, f"file {file.location}", *ERRORS):
            if schema is None:
                rows = self._there.scan(file)
                rows = rows if part is None else rows.slice(part.first, part.count)
            else:
                with self._there.opened(file) as opened:
                    rows = _read_with(opened, schema, part)
        texts = partition_texts(file.name)
        literals = {name: self._partitions[name].literal(text) for name, text in texts.items()}
        lacking = {name: pl.lit(None, dtype) for name, dtype in self._columns.items() if name not in own}
        there = pl.Schema({**own, **{name: self._columns[name] for name in lacking}})
        unread = {name: text for name, text in texts.items() if not self._partitions[name].reads(text)}
        more = [] if not unread else [pl.struct(pl.lit(text).alias(name) for name, text in unread.items()).alias(UNREAD)]
        return rows.with_columns(**literals, **lacking).select(*normalised(self._spec, there, self._columns), *more)

    def _own_columns(self, file: SourceFile) -> pl.Schema:
        stamp, known = self._own.get(file.name, (None, None))
        if known is None or stamp != file.stamp:
            with translated(self._spec, f"file {file.location}", *ERRORS):
                schema = with_known_zones(pq.read_schema(self._there.footer(file)))
                if schema is None:
                    known = pl.scan_parquet(self._there.footer(file), glob=False, hive_partitioning=False).collect_schema()
                    self._zoned.pop(file.name, None)
                else:
                    known = pl.DataFrame(schema.empty_table()).schema
                    self._zoned[file.name] = schema
        # What the path tells goes before what the file says, as in Polars.
        return pl.Schema({**known, **{name: self._partitions[name].dtype for name in partition_texts(file.name)}})

    def _joined(
        self,
        columns: Mapping[str, pl.DataType],
        own: Mapping[str, tuple[list[int | str], pl.Schema]],
        file: SourceFile,
        before: Sequence[SourceFile],
    ) -> dict[str, pl.DataType]:
        """Return the columns of the files before and of one more."""
        mine, times = own[file.name][1], raw_time_columns(self._spec)
        if not before:
            return dict(mine)
        first = before[0]
        if mine == own[first.name][1]:
            return dict(columns)
        joined = dict(columns)
        more = [name for name in mine if name not in columns]
        for name, dtype in columns.items():
            if name not in mine:
                # A column that goes where another of nearly its name comes was misspelt rather than left out.
                if name in times or get_close_matches(name, more):
                    raise SourceError(
                        f"Source {self._spec.name!r}: file {file.location} has no column {name!r}, which {first.location} has. "
                        f"{did_you_mean(name, mine)} Rewrite the file with that column, null where it is not known."
                    )
                continue
            is_times = name in times and is_time(dtype) and is_time(mine[name])
            common = dtype if is_times else widened(dtype, mine[name])
            if common is None:
                raise SourceError(
                    f"Source {self._spec.name!r}: column {name!r} changed type: it is {mine[name]} in {file.location} but "
                    f"{dtype} in {first.location}, and no type holds the values of both without loss. Rewrite one of them "
                    "with the other's type."
                )
            joined[name] = common
        for name in more:
            if name in times:
                raise SourceError(
                    f"Source {self._spec.name!r}: file {first.location} has no column {name!r}, which {file.location} has, and "
                    "it tells the time. Rewrite the file with that column."
                )
            joined[name] = mine[name]
        return joined


def _read_with(opened: IO[bytes], schema: pa.Schema, part: ReadTask | None) -> pl.LazyFrame:
    """Return the rows of a file, or of a part of it, that Polars would panic over as it stands, with another schema."""
    first, end = (0, None) if part is None else (part.first, part.first + part.count)
    with pq.ParquetFile(opened) as file:
        groups, begin, skipped = [], 0, 0
        for index in range(file.num_row_groups):
            after = begin + file.metadata.row_group(index).num_rows
            if after <= first:
                skipped = after
            elif end is None or begin < end:
                groups.append(index)
            begin = after
        rows = pl.DataFrame(file.read_row_groups(groups).cast(schema))
    return rows.lazy().slice(first - skipped, None if part is None else part.count)


def footer_extents(footer: pq.FileMetaData, times: Sequence[str]) -> list[Extent] | None:
    """Return the extent of each row group, from the statistics in a file's footer; None where they do not tell.

    Args:
        footer: the file's footer.
        times: the time columns' names in the file.
    """
    paths = [footer.schema.column(index).path for index in range(footer.num_columns)]
    columns = [paths.index(name) for name in times if name in paths]
    if len(columns) < len(times):
        return None
    extents: list[Extent] = []
    for index in range(footer.num_row_groups):
        bounds = [_column_extent(footer, index, column) for column in columns]
        if None in bounds:
            return None
        known = [bound for bound in bounds if bound is not None]
        lows = [low for low, _, _ in known if low is not None]
        highs = [high for _, high, _ in known if high is not None]
        some = len(lows) == len(columns)
        # A row's effective time is the later of the two (S2), so both bounds are the greater ones.
        if some and (min(lows) < FIRST or max(highs) > LAST):
            return None  # it does not say how many rows are out of the calendar
        extents.append((max(lows) if some else None, max(highs) if some else None, any(nulls for _, _, nulls in known)))
    return extents


def _column_extent(footer: pq.FileMetaData, group: int, column: int) -> Extent | None:
    rows = footer.row_group(group)
    statistics = rows.column(column).statistics
    if statistics is None or not statistics.has_null_count:
        return None
    if statistics.null_count == rows.num_rows:
        return None, None, True
    scale = _scale(footer.schema.column(column))
    if not statistics.has_min_max or scale is None:
        return None
    times, by = scale
    return statistics.min_raw * times // by, statistics.max_raw * times // by, statistics.null_count > 0


def _scale(column: pq.ColumnSchema) -> tuple[int, int] | None:
    if column.physical_type not in ("INT32", "INT64"):
        return None
    logical = json.loads(column.logical_type.to_json())
    if logical["Type"] == "Date":
        return _DAY, 1
    return _TO_MICROS.get(logical.get("timeUnit", "")) if logical["Type"] == "Timestamp" else None
