"""A source of JSON lines: its definition and its reader."""

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import msgspec
import polars as pl

from featurestore.definitions.source import Source
from featurestore.dtypes import as_dtype, python_type
from featurestore.errors import DefinitionError, SourceError
from featurestore.instants import parse_times
from featurestore.rows.unreadable import with_texts
from featurestore.sources.base import Chunk
from featurestore.sources.file_slices import FileSlice, ReadTask
from featurestore.sources.files import FilesReader
from featurestore.sources.paths import SourceFile, absolute_path, find_files, nothing_there
from featurestore.sources.timestamps import checked, extent, normalised

ENDINGS = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class JSONLSource(Source):
    """Rows in files of JSON objects, one a line. New and changed files are what is new.

    Args:
        path: a file, a glob or a folder. A relative path starts at the project's folder.
        columns: the type of each column, by its name in the file. Other names in a line are passed over; a missing one is
            null.

    Example:
        >>> from datetime import datetime
        >>> JSONLSource("readings", "data/*.jsonl", event_time="at", columns={"at": datetime, "celsius": float}).kind
        'jsonl'
    """

    path: str
    _: KW_ONLY
    columns: Mapping[str, Any]

    __hash__ = Source.__hash__  # else it would be that of all fields, and a mapping has none

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            types = {name: as_dtype(given) for name, given in self.columns.items()}
        except DefinitionError as error:
            raise DefinitionError(f"columns= of source {self.name!r}: {error.problem}", self.place) from error
        object.__setattr__(self, "columns", types)


class JSONLReader(FilesReader[JSONLSource]):
    """The ``SourceReader`` of JSON lines. A piece of a file is a run of its lines, pinned with their checksum."""

    def files(self) -> list[SourceFile]:
        """See ``FilesReader.files``."""
        return find_files(self._spec, self._spec.path, self._root, ENDINGS)

    def missing(self) -> SourceError:
        """See ``FilesReader.missing``."""
        return nothing_there(self._spec, self._spec.path, self._root, ENDINGS)

    def described(self, files: Sequence[SourceFile], aside: dict[str, str] | None = None) -> pl.Schema:
        """See ``FilesReader.described``: the columns are those declared."""
        return checked(self._spec, pl.Schema(self._spec.columns), "columns=", "Declare it as datetime.")

    def pieces(self, file: SourceFile, chunk_rows: int) -> Iterable[FileSlice]:
        """See ``FilesReader.pieces``."""
        lines = self._lines(file.name)
        ended = len(lines) if not lines or lines[-1].endswith(b"\n") else len(lines) - 1
        starts = [(first, min(first + chunk_rows, ended)) for first in range(0, ended, max(chunk_rows, 1))]
        for first, end in [*starts, *([(ended, len(lines))] if ended < len(lines) else [])]:
            is_open, stamp = first == ended, _stamp(lines[first:end])
            try:
                rows = self._parsed(file.name, first, lines[first:end])
            except SourceError:
                if not is_open:
                    raise
                # Half a line may be anything; it is read in earnest once it is whole.
                yield FileSlice(first, end - first, 1, None, None, nulls=True, stamp=stamp, open=True)
                continue
            bounds = extent(self._spec, rows.lazy().select(normalised(self._spec, pl.Schema(self._spec.columns)))).collect()
            earliest, latest, nulls = bounds.row(0)
            yield FileSlice(first, end - first, end - first, earliest, latest, nulls, stamp, open=is_open)

    def rows(self, part: ReadTask, chunk: Chunk) -> pl.LazyFrame:
        """See ``FilesReader.rows``."""
        lines = self._lines(part.file)[part.first : part.first + part.count]
        if _stamp(lines) != part.stamp:
            raise SourceError(
                f"Source {self._spec.name!r}: {part.file} was written again after a run had pinned rows of it. Begin the run "
                "again: it reads the file as it is now."
            )
        rows = self._parsed(part.file, part.first, lines)
        unread = [name for name in rows.columns if name not in self._spec.columns]
        return rows.lazy().select(*normalised(self._spec, pl.Schema(self._spec.columns)), *unread)

    def collect(self, rows: pl.LazyFrame, file: str) -> pl.DataFrame:
        """See ``FilesReader.collect``."""
        return rows.collect()

    def _lines(self, file: str) -> list[bytes]:
        try:
            return absolute_path(file, self._root).read_bytes().splitlines(keepends=True)
        except OSError as error:
            raise SourceError(f"Source {self._spec.name!r}: {file} could not be read: {error}") from error

    def _parsed(self, file: str, first: int, lines: Sequence[bytes]) -> pl.DataFrame:
        """Return the rows of some lines, with the declared columns, and the texts of values that are not of their column's type."""
        records = []
        for number, line in enumerate(lines, first + 1):
            try:
                record = json.loads(line)
            except ValueError as error:
                raise SourceError(f"Source {self._spec.name!r}: line {number} of {file} is not JSON: {error}") from error
            if not isinstance(record, dict):
                raise SourceError(f"Source {self._spec.name!r}: line {number} of {file} is not a JSON object: {line[:40]!r}")
            records.append(record)
        columns, texts = [], {}
        for name, dtype in self._spec.columns.items():
            values = [record.get(name) for record in records]
            column = _typed(name, values, dtype)
            columns.append(column)
            wrong = column.is_null()
            shown = [
                None if value is None or not bad else value if isinstance(value, str) else json.dumps(value)
                for value, bad in zip(values, wrong, strict=True)
            ]
            texts[self._spec.rename.get(name, name)] = pl.Series(shown, dtype=pl.String)
        return with_texts(pl.DataFrame(columns), texts)


def _typed(name: str, values: Sequence[Any], dtype: pl.DataType) -> pl.Series:
    """Return JSON values as a column; null where a value is not of its type."""
    if isinstance(dtype, pl.Datetime):
        texts = [value if isinstance(value, str) else None for value in values]
        times = parse_times(pl.Series(name, texts, dtype=pl.String))
        return (times if dtype.time_zone else times.dt.replace_time_zone(None)).cast(dtype)
    return pl.Series(name, [_converted(value, python_type(dtype)) for value in values], dtype=dtype, strict=False)


def _converted(value: Any, kind: Any) -> Any:
    try:
        return None if value is None else msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return None


def _stamp(lines: Iterable[bytes]) -> int:
    return zlib.crc32(b"".join(lines))
