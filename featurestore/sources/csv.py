"""Reads CSV files with a header line: one, a glob of them, or a folder.

A file is cut between its records into stretches of bytes, so that a chunk is read without what lies before it. A stretch
is pinned with its checksum: rows appended later do not disturb it, and a file that was written anew is noticed.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from featurestore.clock import INSTANT, parse_times
from featurestore.dtypes import as_dtype
from featurestore.errors import SourceError, did_you_mean
from featurestore.sources.base import Chunk
from featurestore.sources.files import FilesReader, Part, Piece
from featurestore.sources.paths import SourceFile, absolute_path, find_files, nothing_there
from featurestore.sources.records import cut, opened, without_blank_lines
from featurestore.sources.times import checked, extent, normalised, raw_time_columns, translated
from featurestore.spec.source import CSVSource

ENDINGS = (".csv", ".csv.gz")
ERRORS = (pl.exceptions.PolarsError, OSError, EOFError, zlib.error)

_INFERRED_ROWS = 10_000
_TIME_ADVICE = (
    "Write times as ISO 8601 (2013-07-01T12:30:00+00:00), or parse them in a query: "
    "SQLSource(…, \"select * replace (strptime(t, '%d/%m/%Y') as t) from 'data/*.csv'\", …)."
)
_ADVICE = "If the value is right, name the column's type in columns=, as in columns={'x': float}."


class CSVReader(FilesReader[CSVSource]):
    """The ``SourceReader`` of CSV files, plain or gzipped.

    The first 10,000 rows of the first file tell the types that ``columns=`` does not, and its header the columns: what
    others have besides is left out, and one that lacks a column is an error. Times are ISO 8601, each row for itself; a
    row whose time is none has a null there. A last line without an end counts as a record; write a file elsewhere, or under a
    name that starts with ``_``, and rename it when it is whole.

    Args:
        spec: the source's definition.
        root: the project's folder, where a relative path starts.
    """

    _columns: pl.Schema | None = None

    def described(self, files: Sequence[SourceFile]) -> pl.Schema:
        """Returns the columns of the first file with rows, or else of the first with a header."""
        headers = []
        for file in files:
            texts = self._stretches(file, _INFERRED_ROWS)
            _, header = next(texts, (0, b""))
            _, head = next(texts, (0, b""))
            if header:
                headers.append((file, header, head))
            if head:
                break
        if not headers:
            raise SourceError(f"Source {self._spec.name!r}: {files[0].location} is empty; a CSV file begins with a header line.")
        file, header, head = headers[-1] if head else headers[0]
        self._columns = self._inferred(header, head, f"file {file.location}")
        return checked(self._spec, self._columns, f"file {file.location}", "Leave it out of columns=, or say pl.Datetime there.")

    def files(self) -> list[SourceFile]:
        """Returns the files there are now."""
        return find_files(self._spec, self._spec.path, self._root, ENDINGS)

    def missing(self) -> SourceError:
        """Returns the error that tells where no file was found."""
        return nothing_there(self._spec, self._spec.path, self._root, ENDINGS)

    def pieces(self, file: SourceFile, chunk_rows: int) -> Iterator[Piece]:
        """Cuts a file between its records, and reads the times of each stretch."""
        times = raw_time_columns(self._spec)
        texts = self._stretches(file, chunk_rows)
        _, header = next(texts, (0, b""))
        for first, data in texts:
            rows = self._parsed(header, data, file.location, times)
            if rows.height:
                told = extent(self._spec, rows.lazy().select(normalised(self._spec, rows.schema))).collect()
                earliest, latest, nulls = told.row(0)
                yield Piece(first, len(data), rows.height, earliest, latest, nulls, stamp=zlib.crc32(data))

    def rows(self, part: Part, chunk: Chunk) -> pl.LazyFrame:
        """Returns the rows of a part; raises if the file was written anew after they were pinned."""
        location = str(absolute_path(part.file, self._root))
        with translated(self._spec, f"file {location}", *ERRORS), opened(location) as file:
            _, header = next(cut(file, 1), (0, b""))
            file.seek(part.first)
            data = file.read(part.count)
        if zlib.crc32(data) != part.stamp:
            raise SourceError(
                f"Source {self._spec.name!r}: {location} was written anew after a run had pinned rows of it, which are no longer "
                "there. Begin the run anew: it reads the file as it is now."
            )
        rows = self._parsed(header, data, location)
        return rows.lazy().select(normalised(self._spec, rows.schema))

    def collect(self, rows: pl.LazyFrame, file: str) -> pl.DataFrame:
        """Collects rows of a file."""
        return rows.collect()

    def _stretches(self, file: SourceFile, count: int) -> Iterator[tuple[int, bytes]]:
        with translated(self._spec, f"file {file.location}", *ERRORS), opened(file.location) as text:
            yield from cut(text, count)

    def _inferred(self, header: bytes, head: bytes, where: str) -> pl.Schema:
        """Returns the columns of a file by its first rows, and by what ``columns=`` says of them."""
        declared = {name: as_dtype(dtype) for name, dtype in self._spec.columns.items()}
        there = self._names(header, where)
        for name in declared:
            if name not in there:
                raise SourceError(
                    f"Source {self._spec.name!r}: columns= names the column {name!r}, which {where} does not have. "
                    f"{did_you_mean(name, there)} Its columns are: {', '.join(there)}."
                )
        times = raw_time_columns(self._spec)
        texts = {name: pl.String() for name in times if name in there}
        types = {**{name: _read_as(dtype) for name, dtype in declared.items()}, **texts}
        rows = self._frame(header, head, where, types, infer_schema_length=None)
        columns = {}
        for name, dtype in rows.schema.items():
            if name in declared and not (name in times and declared[name] == pl.String):
                columns[name] = declared[name]
            elif name in times:
                self._check_times(rows[name], where)
                columns[name] = INSTANT
            else:
                columns[name] = _temporal(rows[name]) if dtype == pl.String else dtype
        return pl.Schema(columns)

    def _check_times(self, texts: pl.Series, where: str) -> None:
        known = texts.drop_nulls()
        if len(known) and parse_times(known).null_count() == len(known):
            raise SourceError(
                f"Source {self._spec.name!r}: the time column {texts.name!r} of {where} holds {known[0]!r}, which is not a time. "
                f"{_TIME_ADVICE}"
            )

    def _names(self, header: bytes, where: str) -> list[str]:
        return self._frame(header, b"", where, {}, infer_schema=False).columns

    def _frame(self, header: bytes, data: bytes, where: str, types: Mapping[str, pl.DataType], **options: Any) -> pl.DataFrame:
        # In a file of one column a blank line is a null.
        several = self._spec.separator.encode() in header
        with translated(self._spec, where, *ERRORS, advice=_ADVICE):
            return pl.read_csv(
                header + (without_blank_lines(data) if several else data),
                separator=self._spec.separator,
                null_values=list(self._spec.null_values),
                schema_overrides=types,
                **options,
            )

    def _parsed(self, header: bytes, data: bytes, location: str, only: tuple[str, ...] | None = None) -> pl.DataFrame:
        """Returns records as rows of the source's columns, or of some of them."""
        if self._columns is None:
            self.schema()
        assert self._columns is not None  # described() has set it, or raised
        where = f"file {location}"
        columns = {name: dtype for name, dtype in self._columns.items() if only is None or name in only}
        there = self._names(header, where)
        for name in columns:
            if name not in there:
                raise SourceError(
                    f"Source {self._spec.name!r}: {where} has no column {name!r}, which earlier files have. "
                    f"{did_you_mean(name, there)} Write the file anew with that column, empty where it is not known."
                )
        types = {name: _read_as(dtype) for name, dtype in columns.items()}
        rows = self._frame(header, data, where, types, columns=list(columns), infer_schema=False)
        return rows.select(self._typed(rows[name], dtype, where) for name, dtype in columns.items())

    def _typed(self, column: pl.Series, dtype: pl.DataType, where: str) -> pl.Series:
        if _read_as(dtype) == dtype:
            return column
        typed = _PARSERS[type(dtype)](column)
        wrong = column.filter(typed.is_null() & column.is_not_null())
        if len(wrong) and column.name not in raw_time_columns(self._spec):
            raise SourceError(
                f"Source {self._spec.name!r}: {where} could not be read: {wrong[0]!r} in column {column.name!r} is no {dtype}. "
                f"{_ADVICE}"
            )
        return typed


_PARSERS: dict[type[pl.DataType], Callable[[pl.Series], pl.Series]] = {
    pl.Datetime: parse_times,
    pl.Date: lambda texts: texts.str.to_date("%Y-%m-%d", strict=False),
}
"""The types that are read as texts and parsed here: Polars would guess one form for the whole column, day first."""


def _read_as(dtype: pl.DataType) -> pl.DataType:
    return pl.String() if type(dtype) in _PARSERS else dtype


def _temporal(texts: pl.Series) -> pl.DataType:
    for dtype in (pl.Date(), INSTANT):
        if len(texts) > texts.null_count() == _PARSERS[type(dtype)](texts).null_count():
            return dtype
    return pl.String()
