"""What the readers of files share: what is new since the cursor, the choice of rows, and their division into chunks (S18).

A file that is new or has changed is read whole, whatever the times of its rows; of one that is as it was, only rows that were
not available yet. ``known_files.py`` tells what a cursor is. A chunk is ``{"parts": [part, …], "until": the end}``, a part
``[file, first, count, after, nulls, stamp]``: of the stretch that begins at ``first``, the rows available from ``after``
on, and those without a time if ``nulls``. All times are microseconds since the epoch.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import polars as pl

from featurestore.clock import Clock, from_micros, to_micros, utc_now
from featurestore.errors import SourceError
from featurestore.plan.unread import UNREAD
from featurestore.sources.base import Chunk, Cursor, Span
from featurestore.sources.known_files import FORM, KnownFile, known_files, look, settled
from featurestore.sources.paths import SourceFile
from featurestore.sources.times import behind, no_time, translated, wanted
from featurestore.spec.source import Source

SpecT = TypeVar("SpecT", bound=Source)
_MANY_ROWS = 1_000_000
_NANO = 1_000
_WORTH_KEEPING = 64 << 20
"""How many bytes whose checksum a run need not look at again make a run that reads nothing worth while."""
PATIENCE = 60_000_000
"""For how long after a file's last change its last record may still be being written, in microseconds."""


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


@dataclass(frozen=True, slots=True)
class _Looked:
    """What became of a file when a span was pinned: what the cursor knows of it from now on, and what is taken of it."""

    known: KnownFile
    wish: Wish | None = None
    pieces: tuple[Piece, ...] = ()


class FilesReader(ABC, Generic[SpecT]):
    """A ``SourceReader`` of files. A subclass says which files there are, how they are cut into pieces and read.

    Args:
        spec: the source's definition.
        root: the project's folder, where relative paths start.
        clock: tells the present, for files that may still be being written.
    """

    immutable: ClassVar[bool] = False
    """Whether a file never changes."""

    def __init__(self, spec: SpecT, root: Path, clock: Clock = utc_now) -> None:
        self._spec = spec
        self._root = root
        self._clock = clock

    @property
    def spec(self) -> SpecT:
        """The source's definition."""
        return self._spec

    @abstractmethod
    def files(self) -> list[SourceFile]:
        """Returns the files there are now, in the order in which they are read."""

    @abstractmethod
    def described(self, files: Sequence[SourceFile], aside: dict[str, str] | None = None) -> pl.Schema:
        """Returns the columns that these files, just listed, have in common, as ``SourceReader.schema``.

        Args:
            files: the files.
            aside: takes the files that cannot be read, and why, by their names; None where such a file is an error.
        """

    @abstractmethod
    def missing(self) -> SourceError | None:
        """Returns the error for a source that has no files; None where that only means that it is empty."""

    @abstractmethod
    def pieces(self, file: SourceFile, chunk_rows: int) -> Iterable[Piece]:
        """Cuts a file into pieces of ``chunk_rows`` rows at the most."""

    @abstractmethod
    def rows(self, part: Part, chunk: Chunk) -> pl.LazyFrame:
        """Returns all rows of a part, with the columns that ``schema`` tells, and ``UNREAD`` where there are texts for it.

        Raises:
            SourceError: the file does not hold them any more.
        """

    @abstractmethod
    def collect(self, rows: pl.LazyFrame, file: str) -> pl.DataFrame:
        """Collects rows of a file, with the library's errors translated."""

    def pinned(self) -> Mapping[str, Any]:
        """Returns what each chunk of the span just made shall remember besides its parts, in plain JSON values."""
        return {}

    def told(self, cursor: Cursor | None, known: Mapping[str, KnownFile], files: Sequence[SourceFile]) -> "Told":
        """Returns what else tells of files since a cursor: which hold nothing but rows known, and what is worth a notice."""
        return Told({}, (), {})

    def schema(self) -> pl.Schema:
        """See ``SourceReader.schema``."""
        files = self.files()
        error = None if files else self.missing()
        if error is not None:
            raise error
        return self.described(files, self._aside())

    def sample(self, rows: int) -> pl.DataFrame:
        """See ``SourceReader.sample``."""
        found = self.schema().to_frame(eager=True)
        for file in self._readable():
            for piece in self._pieces(file, max(rows, 1)):
                if found.height >= rows:
                    return found
                part = Part(file.name, piece.first, piece.count, None, True, piece.stamp)
                head = self.rows(part, self.pinned()).select(found.columns).filter(~no_time(self._spec)).head(rows - found.height)
                found = pl.concat([found, self.collect(head, file.name)])
        return found

    def first(self) -> datetime | None:
        """See ``SourceReader.first``."""
        self.schema()
        pieces = (piece for file in self._readable() for piece in self._pieces(file, _MANY_ROWS))
        earliest = min((piece.earliest for piece in pieces if piece.earliest is not None), default=None)
        return None if earliest is None else from_micros(earliest)

    def span(self, cursor: Cursor | None, start: datetime | None, end: datetime, chunk_rows: int) -> Span:
        """See ``SourceReader.span``."""
        until, looked = to_micros(end), to_micros(utc_now())
        before = known_files(cursor, immutable=self.immutable)
        files = self.files()
        error = None if files or cursor else self.missing()
        if error is not None:
            raise error
        aside = self._aside()
        if files:
            self.described(files, aside)
        told = self.told(cursor, before, files)
        chunks, known = _Chunks(chunk_rows), dict[str, KnownFile]()
        notices = [*(behind(self._spec, cursor, until) if start is None else ()), *told.notices]
        for file in files:
            if aside is not None and file.name in aside:
                continue
            known_before = told.known.get(file.name, before.get(file.name))
            try:
                seen = self._look(file, known_before, start, until, looked, chunk_rows)
            except SourceError as error:
                if aside is None:
                    raise
                aside[file.name] = str(error)
                continue
            known[file.name] = seen.known
            for piece in seen.pieces:
                assert seen.wish is not None
                chunks.add(file, piece, seen.wish)
            notices += self._noticed(file, before.get(file.name), seen)
        for name, why in (aside or {}).items():
            notices.append(f"Source {self._spec.name!r}: {name} is set aside, and read once it is whole. {why}")
        pinned = self.pinned()
        made = tuple({"parts": parts, "until": until, **pinned} for parts in chunks.made)
        through = max(until, (cursor or {}).get("through") or until)
        following: Cursor = {
            "form": FORM, "through": through, **told.marks, "files": {name: each.to_plain() for name, each in known.items()}
        }  # fmt: skip
        whole = not aside and all(each.waits is None for each in known.values())
        waits = any(each.waits is not None and (name not in before or before[name].waits is None) for name, each in known.items())
        keep = waits or bool(told.known or told.notices) or settled(before, known) > _WORTH_KEEPING
        if start is not None:
            return Span(made, dict(cursor or {}), chunks.rows, tuple(notices), whole, moves=False)
        return Span(made, following, chunks.rows, tuple(notices), whole, keep)

    def read(self, chunk: Chunk, *, texts: bool = False) -> pl.DataFrame:
        """See ``SourceReader.read``."""
        frames = []
        for file, first, count, after, nulls, stamp in chunk["parts"]:
            rows = self.rows(Part(file, first, count, after, nulls, stamp), chunk)
            frames.append(self.collect(rows.filter(wanted(self._spec, after, chunk["until"], nulls)), file))
        if not texts:
            frames = [frame.drop(UNREAD, strict=False) for frame in frames]
        return pl.concat(frames, how="diagonal")

    def _aside(self) -> dict[str, str] | None:
        return {} if getattr(self._spec, "on_bad_file", "fail") == "set_aside" else None

    def _readable(self) -> list[SourceFile]:
        aside = self._aside()
        files = self.files()
        if files:
            self.described(files, aside)
        return [file for file in files if file.name not in (aside or {})]

    def _pieces(self, file: SourceFile, chunk_rows: int) -> list[Piece]:
        """Returns the pieces of a file; none where it cannot be read and such files are set aside."""
        try:
            young = self._waits_since(file, None) is not None
            return [piece for piece in self.pieces(file, chunk_rows) if not (piece.open and young)]
        except SourceError:
            if self._aside() is None:
                raise
            return []

    def _look(
        self, file: SourceFile, before: KnownFile | None, start: datetime | None, until: int, looked: int, chunk_rows: int
    ) -> _Looked:
        """Looks at a file: whether it is new or has changed since, and what of it is to be read."""
        with translated(self._spec, f"file {file.location}", OSError):
            same, told = look(file, before, looked * _NANO)
        if start is not None:
            wish = Wish(to_micros(start), nulls=False)
        elif same is None or same.waits is not None:
            wish = Wish(None, nulls=True)
        elif same.rest is None or until <= same.rest:
            return _Looked(replace(same, stamp=tuple(file.stamp)))
        else:
            wish = Wish(same.rest + 1, nulls=False)
        waits = self._waits_since(file, same)
        pieces, rows, rest, waiting = [], 0, False, None
        for piece in self.pieces(file, chunk_rows):
            if piece.open and waits is not None:
                waiting = waits
                continue
            rows += piece.rows
            rest = rest or (piece.latest is not None and piece.latest > until)
            if piece.holds(wish.after, until, wish.nulls):
                pieces.append(piece)
        if self._aside() is not None and same is None:
            self._read_through(file, pieces)
        checksum = told if same is None else same.checksum
        known = KnownFile(tuple(file.stamp), until if rest else None, checksum, rows, waiting)
        return _Looked(known, wish, tuple(pieces))

    def _waits_since(self, file: SourceFile, same: KnownFile | None) -> int | None:
        """Returns since when a last record without an end is waited for; None where the file is old enough to count it."""
        now = to_micros(self._clock())
        # NOTE: a file's times come from its file system's clock, which the clock given need not agree with, least of all a test's.
        age = min(now, to_micros(utc_now())) - file.modified // _NANO
        since = same.waits if same is not None and same.waits is not None else now
        return None if age >= PATIENCE or now - since >= PATIENCE else min(since, now)

    def _read_through(self, file: SourceFile, pieces: Sequence[Piece]) -> None:
        """Reads pieces and forgets them, so that one that cannot be read is known before a run pins it."""
        for piece in pieces:
            self.collect(self.rows(Part(file.name, piece.first, piece.count, None, True, piece.stamp), self.pinned()), file.name)

    def _noticed(self, file: SourceFile, before: KnownFile | None, seen: _Looked) -> list[str]:
        source, known = f"Source {self._spec.name!r}:", seen.known
        notices = []
        if known.waits is not None:
            notices.append(
                f"{source} the last record of {file.name} has no line end, so it may still be being written. It waits until the "
                f"file has been as it is for {PATIENCE // 1_000_000} seconds."
            )
        if before is not None and seen.wish is not None and known.rows < before.rows and known.waits is None:
            notices.append(
                f"{source} {file.name} was written anew with {before.rows - known.rows:,} rows fewer. What was read of it before "
                "stays in the history."
            )
        return notices


@dataclass(frozen=True, slots=True)
class Told:
    """What a table's log tells besides its files.

    Args:
        known: files that hold nothing but rows of files known, and what is known of them so.
        notices: what is worth knowing.
        marks: what the cursor shall remember, in plain JSON values.
    """

    known: Mapping[str, KnownFile]
    notices: tuple[str, ...]
    marks: Mapping[str, Any]


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
