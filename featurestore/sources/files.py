"""The common base of file readers: new files since the cursor, selected rows, and chunks.

A file that is new or has changed is read whole, whatever the times of its rows; of one that is as it was, only rows that were
not available yet. ``file_cursor.py`` tells what a cursor is. A chunk is ``{"parts": [part, …], "until": the end}``, a part
``[file, first, count, after, nulls, stamp]``: of the stretch that begins at ``first``, the rows available from ``after``
on, and those without a time if ``nulls``. All times are microseconds since the epoch.
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import polars as pl

from featurestore.clock import Clock, from_micros, to_micros, utc_now
from featurestore.definitions.source import Source
from featurestore.errors import SourceError
from featurestore.object_storage import is_object_address
from featurestore.rows.unreadable import UNREAD
from featurestore.sources.base import Chunk, Cursor, ReaderAdapter, SourceContext, Span
from featurestore.sources.file_cursor import FORM, Horizon, KnownFile, known_files, look, settled
from featurestore.sources.file_slices import Chunks, CursorState, FileSlice, Former, ReadRequest, ReadTask
from featurestore.sources.paths import SourceFile
from featurestore.sources.timestamps import SourceOutOfReachError, behind, no_time, translated, wanted

SpecT = TypeVar("SpecT", bound=Source)
_MANY_ROWS = 1_000_000
_NANO = 1_000
_WORTH_KEEPING = 64 << 20
"""How many bytes whose checksum a run need not look at again make a run that reads nothing worth while."""
PATIENCE = 60_000_000
"""For how long after a file's last change its last record may still be being written, in microseconds."""


@dataclass(frozen=True, slots=True)
class _Looked:
    """What became of a file when a span was pinned: what the cursor knows of it from now on, and what is taken of it."""

    known: KnownFile
    wish: ReadRequest | None = None
    pieces: tuple[FileSlice, ...] = ()


class FilesReader(ReaderAdapter, Generic[SpecT]):
    """A ``SourceReader`` of files. A subclass says which files there are, how they are cut into pieces and read.

    Args:
        spec: the source's definition.
        root: the project's folder, where relative paths start.
        clock: tells the present, for files that may still be being written.
        storage_options: what is to be said of object storage besides an address.
    """

    immutable: ClassVar[bool] = False
    """Whether a file never changes."""
    at_once = 1
    """How many parts of a chunk are read at once: more than one where the time goes by waiting for answers."""

    def __init__(self, spec: SpecT, root: Path, clock: Clock = utc_now, storage_options: Mapping[str, str] | None = None) -> None:
        self._spec = spec
        self._root = root
        self._clock = clock
        self._storage_options = dict(storage_options or {})

    @classmethod
    def open(cls, source: SpecT, context: SourceContext) -> Self:
        """See ``ReaderAdapter.open``."""
        return cls(source, context.root, context.clock, context.storage_options)

    @property
    def spec(self) -> SpecT:
        """The source's definition."""
        return self._spec

    @abstractmethod
    def files(self) -> list[SourceFile]:
        """Return the files there are now, in the order in which they are read."""

    @abstractmethod
    def described(self, files: Sequence[SourceFile], aside: dict[str, str] | None = None) -> pl.Schema:
        """Return the columns that these files, just listed, have in common, as ``SourceReader.schema``.

        Args:
            files: the files.
            aside: takes the files that cannot be read, and why, by their names; None where such a file is an error.
        """

    @abstractmethod
    def missing(self) -> SourceError | None:
        """Return the error for a source that has no files; None where that only means that it is empty."""

    @abstractmethod
    def pieces(self, file: SourceFile, chunk_rows: int) -> Iterable[FileSlice]:
        """Cut a file into pieces of ``chunk_rows`` rows at the most."""

    @abstractmethod
    def rows(self, part: ReadTask, chunk: Chunk) -> pl.LazyFrame:
        """Return all rows of a part, with the columns that ``schema`` tells, and ``UNREAD`` where there are texts for it.

        Raises:
            SourceError: the file does not hold them any more.
        """

    @abstractmethod
    def collect(self, rows: pl.LazyFrame, file: str) -> pl.DataFrame:
        """Collect rows of a file, with the library's errors translated."""

    def pinned(self) -> Mapping[str, Any]:
        """Return what each chunk of the span just made shall remember besides its parts, in plain JSON values."""
        return {}

    def cursor_state(self, cursor: Cursor | None, known: Mapping[str, KnownFile], files: Sequence[SourceFile]) -> CursorState:
        """Return what else tells of files since a cursor: which hold nothing but rows known, and what is worth a notice."""
        return CursorState({}, (), {})

    def at(self, pinned: Mapping[str, Any]) -> AbstractContextManager[Sequence[SourceFile]]:
        """Return a block in which the files are those of former times, which it gives, and afterwards those of now again.

        Args:
            pinned: what a chunk of then remembers.
        """
        raise NotImplementedError("former files are not reported")

    def schema(self) -> pl.Schema:
        """See ``SourceReader.schema``."""
        files = self.files()
        error = None if files else self.missing()
        if error is not None:
            raise error
        return self.described(files, self._aside())

    def sample(self, rows: int) -> pl.DataFrame:
        """See ``SourceReader.sample``."""
        sampled = self.schema().to_frame(eager=True)
        for file in self._readable():
            for piece in self._pieces(file, max(rows, 1)):
                if sampled.height >= rows:
                    return sampled
                part = ReadTask(file.name, piece.first, piece.count, None, True, piece.stamp)
                head = (
                    self.rows(part, self.pinned()).select(sampled.columns).filter(~no_time(self._spec)).head(rows - sampled.height)
                )
                sampled = pl.concat([sampled, self.collect(head, file.name)])
        return sampled

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
        progress = self.cursor_state(cursor, before, files)
        chunks, known = Chunks(chunk_rows), dict[str, KnownFile]()
        notices = [*(behind(self._spec, cursor, until) if start is None else ()), *progress.notices]
        formers = [
            self._add_former(former, files, before, until, looked, chunks) for former in (progress.former if start is None else ())
        ]
        rewritten = {**progress.known, **{name: former for former_known, _ in formers for name, former in former_known.items()}}
        notices += [notice for _, notices in formers for notice in notices]
        horizon = self._horizon(cursor)
        passed = {file.name for file in files if start is None and file.name not in before and horizon.covers(file)}
        for file in files:
            if file.name in passed or (aside is not None and file.name in aside):
                continue
            known_before = rewritten.get(file.name, before.get(file.name))
            try:
                seen = self._look(file, known_before, start, until, looked, chunk_rows)
            except SourceError as error:
                if aside is None or isinstance(error, SourceOutOfReachError):
                    raise
                aside[file.name] = str(error)
                continue
            known[file.name] = seen.known
            for piece in seen.pieces:
                assert seen.wish is not None
                chunks.add(file, piece, seen.wish, self.pinned())
            notices += self._noticed(file, before.get(file.name), seen)
        late = self._too_late(horizon, len(passed))
        notices += late
        for name, why in (aside or {}).items():
            notices.append(f"Source {self._spec.name!r}: {name} is set aside, and read once it is whole. {why}")
        chunk_cursors = tuple({"parts": parts, "until": until, **marks} for marks, parts in chunks.made)
        through = max(until, (cursor or {}).get("through") or until)
        named, marks = self._named(horizon, files, known, aside or {}, looked)
        following: Cursor = {
            "form": FORM, "through": through, **progress.marks, **marks,
            "files": {name: former.to_plain() for name, former in named.items()},
        }  # fmt: skip
        whole = not aside and all(former.waits is None for former in known.values())
        waits = any(
            former.waits is not None and (name not in before or before[name].waits is None) for name, former in known.items()
        )
        keep = waits or bool(rewritten or progress.notices or late) or settled(before, known) > _WORTH_KEEPING
        if start is not None:
            return Span(chunk_cursors, dict(cursor or {}), chunks.rows, tuple(notices), whole, moves=False)
        return Span(chunk_cursors, following, chunks.rows, tuple(notices), whole, keep)

    def read(self, chunk: Chunk, *, texts: bool = False) -> pl.DataFrame:
        """See ``SourceReader.read``."""
        tasks = [ReadTask(*part) for part in chunk["parts"]]
        # The first one alone: with it the reader looks at what there is, where it has not yet.
        frames = [self._rows_of(task, chunk) for task in tasks[:1]]
        if self.at_once == 1:
            frames += [self._rows_of(task, chunk) for task in tasks[1:]]
        elif len(tasks) > 1:
            with ThreadPoolExecutor(min(self.at_once, len(tasks) - 1)) as pool:
                frames += pool.map(lambda task: self._rows_of(task, chunk), tasks[1:])
        if not texts:
            frames = [frame.drop(UNREAD, strict=False) for frame in frames]
        return pl.concat(frames, how="diagonal")

    def _horizon(self, cursor: Cursor | None) -> Horizon:
        """Return what a cursor says of objects that it does not name; nothing for a source whose files are all named."""
        path = getattr(self._spec, "path", "")
        return Horizon("") if self.immutable or not is_object_address(path) else Horizon.of(cursor, path)

    def _named(
        self, horizon: Horizon, files: Sequence[SourceFile], known: dict[str, KnownFile], aside: Mapping[str, str], looked: int
    ) -> tuple[dict[str, KnownFile], dict[str, Any]]:
        """Return the files that a cursor names, and what it says of the others."""
        if not horizon.address:
            return known, {}
        before = horizon.moved(files, min(looked, to_micros(self._clock())), self._spec.lateness_micros)
        young = {file.name for file in files if before is None or file.modified // _NANO >= before}
        named = {name: state for name, state in known.items() if name in young or not state.is_read}
        unnamed = len(files) - len(named) - len(aside)
        return named, {"seen": replace(horizon, before=before, unnamed=unnamed, aside=frozenset(aside)).to_plain()}

    def _too_late(self, horizon: Horizon, passed: int) -> list[str]:
        """Return a notice where more objects than before are taken as read."""
        if horizon.before is None or passed <= horizon.unnamed:
            return []
        return [
            f"Source {self._spec.name!r}: {passed - horizon.unnamed:,} more objects than before have a time before "
            f"{from_micros(horizon.before).isoformat(' ', 'seconds')}, and all of these count as read: an upload took too long, or "
            "a copy kept its time. They are not read. Read them with start=, and declare a longer lateness= for the next ones."
        ]

    def _rows_of(self, task: ReadTask, chunk: Chunk) -> pl.DataFrame:
        rows = self.rows(task, chunk).filter(wanted(self._spec, task.after, chunk["until"], task.nulls))
        return self.collect(rows, task.file)

    def _aside(self) -> dict[str, str] | None:
        return {} if getattr(self._spec, "on_bad_file", "fail") == "set_aside" else None

    def _readable(self) -> list[SourceFile]:
        aside = self._aside()
        files = self.files()
        if files:
            self.described(files, aside)
        return [file for file in files if file.name not in (aside or {})]

    def _pieces(self, file: SourceFile, chunk_rows: int) -> list[FileSlice]:
        """Return the pieces of a file; none where it cannot be read and such files are set aside."""
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
        """Look at a file: whether it is new or has changed since, and what of it is to be read."""
        with translated(self._spec, f"file {file.location}", OSError):
            same, crc = look(file, before, looked * _NANO)
        if start is not None:
            wish = ReadRequest(to_micros(start), nulls=False)
        elif same is None or same.waits is not None:
            wish = ReadRequest(None, nulls=True)
        elif same.rest is None or until <= same.rest:
            return _Looked(replace(same, stamp=tuple(file.stamp)))
        else:
            wish = ReadRequest(same.rest + 1, nulls=False)
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
        checksum = crc if same is None else same.checksum
        known = KnownFile(tuple(file.stamp), until if rest else None, checksum, rows, waiting)
        return _Looked(known, wish, tuple(pieces))

    def _add_former(
        self, former: Former, files: Sequence[SourceFile], before: Mapping[str, KnownFile], until: int, looked: int, chunks: Chunks
    ) -> tuple[dict[str, KnownFile], list[str]]:
        """Add what is new in files of former times; return what is known of those that hold their rows now, and notices."""
        former_files: list[tuple[SourceFile, Mapping[str, Any], _Looked]] = []
        try:
            for pinned, names in former.sources:
                former_files += self._look_back(pinned, names, before, until, looked, chunks.chunk_rows)
        except SourceError as error:
            read = f"{', '.join(sorted(former.files))} of its table is read whole, though it holds rows that were read before"
            return {}, [f"Source {self._spec.name!r}: {read}: {error}"]
        for file, pinned, seen in former_files:
            for piece in seen.pieces:
                assert seen.wish is not None
                chunks.add(file, piece, seen.wish, pinned)
        rest = min((seen.known.rest for _, _, seen in former_files if seen.known.rest is not None), default=None)
        return {file.name: KnownFile(tuple(file.stamp), rest, None, 0) for file in files if file.name in former.files}, []

    def _look_back(
        self,
        pinned: Mapping[str, Any],
        names: frozenset[str],
        before: Mapping[str, KnownFile],
        until: int,
        looked: int,
        chunk_rows: int,
    ) -> list[tuple[SourceFile, Mapping[str, Any], _Looked]]:
        """Look at files of former times; raise ``SourceError`` where one that has new rows is not there any more."""
        seen_files = []
        with self.at(pinned) as then:
            for file in then:
                if file.name not in names:
                    continue
                seen = self._look(file, before.get(file.name), None, until, looked, chunk_rows)
                seen_files.append((file, pinned, seen))
                for piece in seen.pieces[:1]:
                    self.rows(ReadTask(file.name, piece.first, piece.count, None, True, piece.stamp), pinned)
        if len(seen_files) < len(names):
            raise SourceError("what it was made of is not known.")
        return seen_files

    def _waits_since(self, file: SourceFile, same: KnownFile | None) -> int | None:
        """Return since when a last record without an end is waited for; None where the file is old enough to count it."""
        now = to_micros(self._clock())
        # NOTE: a file's times come from its file system's clock, which the clock given need not agree with, least of all a test's.
        age = min(now, to_micros(utc_now())) - file.modified // _NANO
        since = same.waits if same is not None and same.waits is not None else now
        return None if age >= PATIENCE or now - since >= PATIENCE else min(since, now)

    def _read_through(self, file: SourceFile, pieces: Sequence[FileSlice]) -> None:
        """Read pieces and forget them, so that one that cannot be read is known before a run pins it."""
        for piece in pieces:
            self.collect(
                self.rows(ReadTask(file.name, piece.first, piece.count, None, True, piece.stamp), self.pinned()), file.name
            )

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
                f"{source} {file.name} was rewritten with {before.rows - known.rows:,} rows fewer. What was read of it before "
                "stays in the history."
            )
        return notices
