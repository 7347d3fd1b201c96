"""The reader of CSV files with a header line: a file, a glob or a folder.

A file is cut between its records into stretches of bytes, so that a chunk is read without what lies before it. A stretch
is pinned with its checksum: rows appended later do not disturb it, and a rewritten file is noticed.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from featurestore.clock import Clock, utc_now
from featurestore.definitions.source import CSVSource
from featurestore.dtypes import as_dtype
from featurestore.errors import SourceError, did_you_mean
from featurestore.instants import INSTANT, parse_times
from featurestore.rows.unreadable import UNREAD, overflowed, with_texts
from featurestore.sources.base import Chunk
from featurestore.sources.csv_records import cut, readable, unzipped, without_blank_lines
from featurestore.sources.file_slices import FileSlice, ReadTask
from featurestore.sources.files import FilesReader
from featurestore.sources.paths import SourceFile
from featurestore.sources.source_files import files_of
from featurestore.sources.timestamps import SourceOutOfReachError, checked, extent, normalised, raw_time_columns, translated

ENDINGS = (".csv", ".csv.gz")
ERRORS = (pl.exceptions.PolarsError, OSError, EOFError, zlib.error)

_INFERRED_ROWS = 10_000
_SCALARS = (
    pl.String, pl.Boolean, pl.Date, pl.Datetime, pl.Decimal, pl.Float32, pl.Float64,
    pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64,
)  # fmt: skip
"""The types that a field of a file can have as it stands there."""
_TIME_ADVICE = (
    "Write times as ISO 8601 (2013-07-01T12:30:00+00:00), or parse them in a query: "
    "SQLSource(…, \"select * replace (strptime(t, '%d/%m/%Y') as t) from 'data/*.csv'\", …)."
)
_ADVICE = (
    "Each record must have at most as many fields as the header; a field with a separator, quote or line end stands in quotes, and "
    'quotes in it are doubled. Rewrite the file, or go on without it meanwhile: on_bad_file="set_aside".'
)


class CSVReader(FilesReader[CSVSource]):
    """The ``SourceReader`` of CSV files, plain or gzipped.

    The first 10,000 rows of the first file tell the types that ``columns=`` does not, and its header the columns: what
    others have besides is left out, and one that lacks a column is an error. Times are ISO 8601, each row for itself. A value
    that cannot be read as its column's type is null, and the text that stood there is kept beside it (S19). A last record
    without a line end waits until its file is a minute old.

    Args:
        spec: the source's definition.
        root: the project's folder, where a relative path starts.
        clock: tells the present.
        storage_options: what is to be said of object storage besides an address.
    """

    _columns: pl.Schema | None = None

    def __init__(
        self, spec: CSVSource, root: Path, clock: Clock = utc_now, storage_options: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(spec, root, clock, storage_options)
        self._there = files_of(spec, spec.path, root, self._storage_options)
        self.at_once = self._there.at_once

    def described(self, files: Sequence[SourceFile], aside: dict[str, str] | None = None) -> pl.Schema:
        """Return the columns of the first file with rows, or else of the first with a header."""
        headers: list[tuple[SourceFile, bytes, bytes]] = []
        schemas: list[pl.Schema] = []
        for file in files:
            try:
                header, head = self._beginning(file)
                if header and not schemas:
                    headers.append((file, header, head))
                    if head:
                        schemas.append(self._checked(*headers[-1]))
            except SourceError as error:
                if aside is None or isinstance(error, SourceOutOfReachError):
                    raise
                aside[file.name] = str(error)
            if schemas and aside is None:
                break
        if not headers:
            raise SourceError(
                next(iter((aside or {}).values()), "")
                or f"Source {self._spec.name!r}: {files[0].location} is empty; a CSV file begins with a header line."
            )
        return schemas[0] if schemas else self._checked(*headers[0])

    def _beginning(self, file: SourceFile) -> tuple[bytes, bytes]:
        """Return a file's header and its first records, but for one that may still be being written."""
        stretches = self._stretches(file, _INFERRED_ROWS)
        _, header, _ = next(stretches, (0, b"", False))
        _, head, is_open = next(stretches, (0, b"", False))
        return header, b"" if is_open and self._waits_since(file, None) is not None else head

    def _checked(self, file: SourceFile, header: bytes, head: bytes) -> pl.Schema:
        where = f"file {file.location}"
        columns = self._inferred(header, head, where)
        schema = checked(self._spec, columns, where, "Leave it out of columns=, or say pl.Datetime there.")
        self._columns = columns
        return schema

    def files(self) -> list[SourceFile]:
        """Return the files there are now."""
        return self._there.find(ENDINGS)

    def missing(self) -> SourceError:
        """Return the error that tells where no file was found."""
        return self._there.missing(ENDINGS)

    def pieces(self, file: SourceFile, chunk_rows: int) -> Iterator[FileSlice]:
        """Cut a file between its records, and read the times of each stretch."""
        times = raw_time_columns(self._spec)
        texts = self._stretches(file, chunk_rows)
        _, header, _ = next(texts, (0, b"", False))
        for first, data, is_open in texts:
            try:
                rows = self._parsed(header, data, file.location, times).drop(UNREAD, strict=False)
            except SourceError:
                if not is_open:
                    raise
                # Half a record may be anything; it is read in earnest once it is to count.
                yield FileSlice(first, len(data), 1, None, None, nulls=True, stamp=zlib.crc32(data), open=True)
                continue
            if rows.height:
                bounds = extent(self._spec, rows.lazy().select(normalised(self._spec, rows.schema))).collect()
                earliest, latest, nulls = bounds.row(0)
                yield FileSlice(first, len(data), rows.height, earliest, latest, nulls, stamp=zlib.crc32(data), open=is_open)

    def rows(self, part: ReadTask, chunk: Chunk) -> pl.LazyFrame:
        """Return the rows of a part; raise if the file was rewritten after they were pinned."""
        location = self._there.location(part.file)
        with translated(self._spec, f"file {location}", *ERRORS):
            now = self._there.look_again(part.file)
            with self._there.opened(now) as file, unzipped(file) as text:
                _, header, _ = next(cut(text, 1), (0, b"", False))
                text.seek(part.first)
                data = text.read(part.count)
        if zlib.crc32(data) != part.stamp:
            raise SourceError(
                f"Source {self._spec.name!r}: {location} was rewritten after a run had pinned rows of it, which are no longer "
                "there. Start the run again: it reads the file as it is now."
            )
        rows = self._parsed(header, data, location)
        unread = [UNREAD] if UNREAD in rows.columns else []
        return rows.lazy().select(*normalised(self._spec, rows.drop(unread).schema), *unread)

    def collect(self, rows: pl.LazyFrame, file: str) -> pl.DataFrame:
        """Collect rows of a file."""
        return rows.collect()

    def _stretches(self, file: SourceFile, count: int) -> Iterator[tuple[int, bytes, bool]]:
        with (
            translated(self._spec, f"file {file.location}", *ERRORS),
            self._there.opened(file) as opened,
            unzipped(opened) as text,
        ):
            yield from cut(text, count)

    def _inferred(self, header: bytes, head: bytes, where: str) -> pl.Schema:
        """Return the columns of a file by its first rows, and by what ``columns=`` says of them."""
        declared = {name: as_dtype(dtype) for name, dtype in self._spec.columns.items()}
        there = self._names(header, where)
        for name in declared:
            if name not in there:
                raise SourceError(
                    f"Source {self._spec.name!r}: columns= names the column {name!r}, which {where} does not have. "
                    f"{did_you_mean(name, there)} Its columns are: {', '.join(there)}."
                )
        times = raw_time_columns(self._spec)
        by_view = {name: dtype for name, dtype in self._spec._declared.items() if name in there and isinstance(dtype, _SCALARS)}
        declared = {**by_view, **declared}
        texts = {name: pl.String() for name in times if name in there}
        types = {**{name: _read_as(dtype) for name, dtype in declared.items()}, **texts}
        rows = self._frame(header, readable(head)[0], where, types, infer_schema_length=None, ignore_errors=True)
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
        """Return records as rows of the source's columns, or of some of them."""
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
                    f"{did_you_mean(name, there)} Rewrite the file with that column, empty where it is not known."
                )
        types = {name: _read_as(dtype) for name, dtype in columns.items()}
        everything, texts, mark = dict.fromkeys(columns, pl.String()), None, ""
        try:
            rows = self._frame(header, data, where, types, columns=list(columns), infer_schema=False)
        except SourceError:
            # NOTE: the same parser for good values, whatever stands beside them: a row must not depend on others (S20).
            data, mark = readable(data)
            texts = self._frame(header, data, where, everything, columns=list(columns), infer_schema=False)
            rows = self._frame(header, data, where, types, columns=list(columns), infer_schema=False, ignore_errors=True)
            if rows.height != texts.height:
                raise
        if texts is None and any(rows[name].is_infinite().any() for name, dtype in columns.items() if dtype.is_float()):
            texts = self._frame(header, data, where, everything, columns=list(columns), infer_schema=False)
        shown_texts: dict[str, pl.Series] = {}
        typed = []
        for name, dtype in columns.items():
            parsed = rows[name] if _read_as(dtype) == dtype else _PARSERS[type(dtype)](rows[name])
            text = rows[name] if rows.schema[name] == pl.String else None if texts is None else texts[name]
            wrong = None if text is None else _unread(parsed, text, mark)
            if text is not None and wrong is not None and wrong.any():
                shown = text.str.replace_all(mark, "\ufffd", literal=True) if mark else text
                shown_texts[self._spec.rename.get(name, name)] = shown.set(~wrong, None)
                parsed = parsed.set(wrong, None)
            typed.append(parsed)
        return with_texts(pl.DataFrame(typed), shown_texts)


def _unread(parsed: pl.Series, text: pl.Series, mark: str) -> pl.Series:
    """Return which values are not what their texts say; a mark in a text stands for bytes that are not text."""
    wrong = parsed.is_null() & text.is_not_null()
    if mark:
        wrong = wrong | text.str.contains(mark, literal=True).fill_null(value=False)
    if parsed.dtype.is_float():
        wrong = wrong | overflowed(parsed, text)
    return wrong


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
