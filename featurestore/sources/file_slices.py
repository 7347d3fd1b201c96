"""Slices of files: how files are divided into chunks, and statistics from a table's log."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from featurestore.sources.file_cursor import KnownFile
from featurestore.sources.paths import SourceFile


@dataclass(frozen=True, slots=True)
class FileSlice:
    """A stretch of a file's rows, with what is known of their times.

    Args:
        first: where it begins, in the unit of its reader: rows, or bytes.
        count: how long it is, in the same unit.
        rows: how many rows it holds.
        earliest: no row that has its times becomes available before, in microseconds; None if there is no such row.
        latest: none becomes available after.
        nulls: whether rows without a time may be among them.
        stamp: what tells later whether the file still holds these rows, in plain JSON values.
        open: whether it is a file's last record, and nothing tells its end: it may still be being written.
    """

    first: int
    count: int
    rows: int
    earliest: int | None
    latest: int | None
    nulls: bool
    stamp: Any
    open: bool = False

    def holds(self, after: int | None, until: int, nulls: bool) -> bool:
        """Return whether rows of that span may be in it."""
        if nulls and self.nulls:
            return True
        if self.earliest is None or self.latest is None:
            return False
        return self.earliest <= until and (after is None or self.latest >= after)


@dataclass(frozen=True, slots=True)
class ReadTask:
    """What a chunk takes from one file; see the module's own words."""

    file: str
    first: int
    count: int
    after: int | None
    nulls: bool
    stamp: Any


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """Which of a file's rows a run wants."""

    after: int | None
    nulls: bool


@dataclass(frozen=True, slots=True)
class CursorState:
    """What a table's log tells besides its files.

    Args:
        known: files that hold nothing but rows of files known, and what is known of them so.
        notices: what is worth knowing.
        marks: what the cursor shall remember, in plain JSON values.
        former: files that hold nothing but the rows of files of former times, some of which were not read wholly.
    """

    known: Mapping[str, KnownFile]
    notices: tuple[str, ...]
    marks: Mapping[str, Any]
    former: tuple["Former", ...] = ()


@dataclass(frozen=True, slots=True)
class Former:
    """Files that hold the rows of others, which are read in their place: so what was read of these is not read again.

    Args:
        files: the names of those that there are now.
        sources: the names of those before, by what a chunk of the time remembers at which there were these.
    """

    files: frozenset[str]
    sources: tuple[tuple[Mapping[str, Any], frozenset[str]], ...]


class Chunks:
    """Put pieces together into chunks: pieces of one file that touch become one part, small files share a chunk."""

    def __init__(self, chunk_rows: int) -> None:
        self.made: list[tuple[Mapping[str, Any], list[list[Any]]]] = []
        self.rows = 0
        self.chunk_rows = chunk_rows
        self._filled = 0

    def add(self, file: SourceFile, piece: FileSlice, wish: ReadRequest, marks: Mapping[str, Any]) -> None:
        """Add a piece, of which a chunk takes what is wished, and remembers the marks."""
        self.rows += piece.rows
        if not self.made or self._filled + piece.rows > self.chunk_rows or self.made[-1][0] != marks:
            self.made.append((marks, []))
            self._filled = 0
        self._filled += piece.rows
        parts = self.made[-1][1]
        if parts:
            name, first, count, _, _, stamp = parts[-1]
            if name == file.name and first + count == piece.first and stamp == piece.stamp:
                parts[-1][2] += piece.count
                return
        parts.append([file.name, piece.first, piece.count, wish.after, wish.nulls, piece.stamp])


def pieces_of_rows(counts: Iterable[int], chunk_rows: int) -> Iterator[tuple[int, int, int]]:
    """Cut runs of rows that lie one after another into stretches of equal length, ``chunk_rows`` at the most.

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
