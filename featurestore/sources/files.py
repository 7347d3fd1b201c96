"""What the readers of files share: the cursor by file, the choice of rows, and their division into chunks (S18).

A cursor is ``{"through": the greatest end read so far, "files": {name: [size, mtime, complete]}}``; a file is complete
when none of its rows becomes available after ``through``. A chunk is ``{"parts": [part, …], "until": the end}``, a part
``[file, first, count, after, nulls, stamp]``: of the stretch that begins at ``first``, the rows available from ``after``
on, and those without a time if ``nulls``. All times are microseconds since the epoch.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic, TypeVar

import polars as pl

from featurestore.clock import from_micros, to_micros
from featurestore.errors import SourceError
from featurestore.sources.base import Chunk, Cursor, Span
from featurestore.sources.paths import SourceFile
from featurestore.sources.times import wanted
from featurestore.spec.source import Source

SpecT = TypeVar("SpecT", bound=Source)
_MANY_ROWS = 1_000_000


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a file's rows, with what is known of their times.

    Args:
        first: where it begins, in the unit of its reader: rows, or bytes.
        count: how long it is, in the same unit.
        rows: how many rows it holds.
        earliest: no row that has its times becomes available before, in microseconds; None if there is no such row.
        latest: none becomes available after.
        nulls: whether rows without a time may be among them.
        stamp: what tells later whether the file still holds these rows, in plain JSON values.
    """

    first: int
    count: int
    rows: int
    earliest: int | None
    latest: int | None
    nulls: bool
    stamp: Any

    def holds(self, after: int | None, until: int, nulls: bool) -> bool:
        """Returns whether rows of that span may be in it."""
        if nulls and self.nulls:
            return True
        if self.earliest is None or self.latest is None:
            return False
        return self.earliest <= until and (after is None or self.latest >= after)


@dataclass(frozen=True, slots=True)
class Part:
    """What a chunk takes from one file; see the module's own words."""

    file: str
    first: int
    count: int
    after: int | None
    nulls: bool
    stamp: Any


@dataclass(frozen=True, slots=True)
class Wish:
    """Which of a file's rows a run wants."""

    after: int | None
    nulls: bool


class FilesReader(ABC, Generic[SpecT]):
    """A ``SourceReader`` of files. A subclass says which files there are, how they are cut into pieces and read.

    Args:
        spec: the source's definition.
        root: the project's folder, where relative paths start.
    """

    def __init__(self, spec: SpecT, root: Path) -> None:
        self._spec = spec
        self._root = root

    @property
    def spec(self) -> SpecT:
        """The source's definition."""
        return self._spec

    @abstractmethod
    def files(self) -> list[SourceFile]:
        """Returns the files there are now, in the order in which they are read."""

    @abstractmethod
    def described(self, files: Sequence[SourceFile]) -> pl.Schema:
        """Returns the columns that these files, just listed, have in common, as ``SourceReader.schema``."""

    @abstractmethod
    def missing(self) -> SourceError | None:
        """Returns the error for a source that has no files; None where that only means that it is empty."""

    @abstractmethod
    def pieces(self, file: SourceFile, chunk_rows: int) -> Iterable[Piece]:
        """Cuts a file into pieces of ``chunk_rows`` rows at the most."""

    @abstractmethod
    def rows(self, part: Part, chunk: Chunk) -> pl.LazyFrame:
        """Returns all rows of a part, with the columns that ``schema`` tells.

        Raises:
            SourceError: the file does not hold them any more.
        """

    @abstractmethod
    def collect(self, rows: pl.LazyFrame, file: str) -> pl.DataFrame:
        """Collects rows of a file, with the library's errors translated."""

    def pinned(self) -> Mapping[str, Any]:
        """Returns what each chunk of the span just made shall remember besides its parts, in plain JSON values."""
        return {}

    def schema(self) -> pl.Schema:
        """See ``SourceReader.schema``."""
        files = self.files()
        error = None if files else self.missing()
        if error is not None:
            raise error
        return self.described(files)

    def sample(self, rows: int) -> pl.DataFrame:
        """See ``SourceReader.sample``."""
        found = self.schema().to_frame(eager=True)
        for file in self.files():
            for piece in self.pieces(file, max(rows, 1)):
                if found.height >= rows:
                    return found
                part = Part(file.name, piece.first, piece.count, None, True, piece.stamp)
                head = self.rows(part, self.pinned()).head(rows - found.height)
                found = pl.concat([found, self.collect(head, file.name)])
        return found

    def first(self) -> datetime | None:
        """See ``SourceReader.first``."""
        self.schema()
        pieces = (piece for file in self.files() for piece in self.pieces(file, _MANY_ROWS))
        earliest = min((piece.earliest for piece in pieces if piece.earliest is not None), default=None)
        return None if earliest is None else from_micros(earliest)

    def span(self, cursor: Cursor | None, start: datetime | None, end: datetime, chunk_rows: int) -> Span:
        """See ``SourceReader.span``."""
        until = to_micros(end)
        seen = cursor or {"through": None, "files": {}}
        through: int | None = seen["through"]
        if start is None and through is not None and until < through:
            return Span((), seen, 0)
        files = self.files()
        error = None if files or cursor else self.missing()
        if error is not None:
            raise error
        if files:
            self.described(files)
        chunks = _Chunks(chunk_rows)
        known: dict[str, list[Any]] = {}
        for file in files:
            wish = (
                Wish(to_micros(start), nulls=False)
                if start is not None
                else self._wish(file, seen["files"].get(file.name), through)
            )
            if wish is None:
                known[file.name] = [*file.stamp, True]
                continue
            complete = True
            for piece in self.pieces(file, chunk_rows):
                complete = complete and (piece.latest is None or piece.latest <= until)
                if piece.holds(wish.after, until, wish.nulls):
                    chunks.add(file, piece, wish)
            known[file.name] = [*file.stamp, complete]
        pinned = self.pinned()
        made = tuple({"parts": parts, "until": until, **pinned} for parts in chunks.made)
        return Span(made, {"through": until, "files": known} if start is None else dict(cursor or {}), chunks.rows)

    def read(self, chunk: Chunk) -> pl.DataFrame:
        """See ``SourceReader.read``."""
        frames = []
        for file, first, count, after, nulls, stamp in chunk["parts"]:
            rows = self.rows(Part(file, first, count, after, nulls, stamp), chunk)
            frames.append(self.collect(rows.filter(wanted(self._spec, after, chunk["until"], nulls)), file))
        return pl.concat(frames)

    def _wish(self, file: SourceFile, known: Sequence[Any] | None, through: int | None) -> Wish | None:
        if known is None or through is None:
            return Wish(None, nulls=True)
        size, modified, complete = known
        if [size, modified] == file.stamp:
            return None if complete else Wish(through, nulls=False)
        if self._spec.available_time is None:
            return Wish(None, nulls=True)
        return Wish(through - self._spec.lateness_micros, nulls=True)


class _Chunks:
    """Puts pieces together into chunks: pieces of one file that touch become one part, small files share a chunk."""

    def __init__(self, chunk_rows: int) -> None:
        self.made: list[list[list[Any]]] = []
        self.rows = 0
        self._chunk_rows = chunk_rows
        self._filled = 0

    def add(self, file: SourceFile, piece: Piece, wish: Wish) -> None:
        self.rows += piece.rows
        if not self.made or self._filled + piece.rows > self._chunk_rows:
            self.made.append([])
            self._filled = 0
        self._filled += piece.rows
        parts = self.made[-1]
        if parts:
            name, first, count, _, _, stamp = parts[-1]
            if name == file.name and first + count == piece.first and stamp == piece.stamp:
                parts[-1][2] += piece.count
                return
        parts.append([file.name, piece.first, piece.count, wish.after, wish.nulls, piece.stamp])


def pieces_of_rows(counts: Iterable[int], chunk_rows: int) -> Iterator[tuple[int, int, int]]:
    """Cuts runs of rows that lie one after another into stretches of equal length, ``chunk_rows`` at the most.

    Args:
        counts: how many rows each run has: those of a file's row groups.
        chunk_rows: the longest stretch.

    Yields:
        The run's index, the stretch's first row, and how many rows it has.

    Example:
        >>> list(pieces_of_rows([10, 3], 5))
        [(0, 0, 5), (0, 5, 5), (1, 10, 3)]
    """
    begin = 0
    for index, count in enumerate(counts):
        parts = -(-count // max(chunk_rows, 1))
        edges = [begin + count * part // parts for part in range(parts + 1)] if parts else []
        for low, high in pairwise(edges):
            yield index, low, high - low
        begin += count
