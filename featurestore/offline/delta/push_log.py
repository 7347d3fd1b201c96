"""The log of pushes beside a Delta table: one Parquet file a push, until a run commits its rows to the table.

A segment is ``_pushed/<number>-<random>.parquet``, in the form of a staged file: the table's columns and the hash of the keys,
sorted by it, and ``_corrects``. It is written beside and renamed, so it appears whole. The table's transaction ``pushed`` is
the number up to which segments are in the table; a reader leaves those out of the log. Numbers are given, and the table's
versions written, under one lock a table, so what a writer has looked at is still so when it writes. ``_pushed/<number>.last`` is
named by the greatest number that was given: the last segments may be lost, and their numbers must not be given again.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from uuid import uuid4

import polars as pl

from featurestore.durable import TEMPORARY, make_folders, make_mark, move, remove, settle, sync_folder, write_beside
from featurestore.errors import OfflineStoreError
from featurestore.locks import Locks
from featurestore.offline.base import CORRECTS, Appended, Segment, Table
from featurestore.offline.delta.dedup_index import DedupIndex, DedupLookup
from featurestore.offline.delta.files import COMPRESSION, HASH, columns_of, translated, with_columns_of
from featurestore.offline.delta.log_entries import LOG
from featurestore.offline.delta.open import refuse_forked
from featurestore.offline.delta.table import DeltaState, open_state
from featurestore.rows.buckets import key_hash
from featurestore.rows.total_order import number_copies, sort_history

_FOLDER = "_pushed"
MARK = ".last"
_DIGITS = 16
_ATTEMPTS = 20
_OPTIMISTIC = 3
"""How often a push looks at what is known before it takes the lock for the look too."""
_PATIENCE = 60.0


class _Held:
    """What this process knows of a table and its log: rows of segments, where they are, up to which they are gone, or were given.

    The lock is for its threads.
    """

    def __init__(self, folder: Path, table: Table) -> None:
        self.lock = threading.Lock()
        self.state: DeltaState | None = None
        self.segments: dict[str, pl.DataFrame] = {}
        self.places: dict[int, str] = {}
        self.removed = 0
        self.marks: list[int] = []
        self.columns = table.features.keys()
        self.known = DedupIndex(folder, table)

    def given(self, folded: int, segments: Iterable[int]) -> int:
        """Return the greatest number that was given to a segment: to one in the table, in the log, or lost."""
        return max([folded, *segments, *self.marks])


class DeltaPushLog:
    """Keep each table's log in the folder of the table.

    Args:
        folder_of: returns the folder of a table.
        locks: the locks of all who write to the tables.
    """

    def __init__(self, folder_of: Callable[[Table], Path], locks: Locks) -> None:
        self._folder_of = folder_of
        self._locks = locks
        self._tables: dict[Path, _Held] = {}

    def append(self, table: Table, rows: pl.DataFrame, *, since: int | None = None) -> Appended:
        """See ``PushLog.append``."""
        keys, features = list(table.keys), list(table.features)
        distinct = sort_history(number_copies(rows.select(*columns_of(table)), keys, features), keys, features)
        hashed = distinct.with_columns(key_hash(table.keys).alias(HASH))
        if hashed.is_empty():
            return Appended(None, hashed.drop(HASH).with_columns(pl.lit(value=False).alias(CORRECTS)), (), hashed.drop(HASH))
        with translated("write", str(self._folder_of(table))):
            for attempt in range(_ATTEMPTS):
                with nullcontext() if attempt < _OPTIMISTIC else self.held(table):
                    done = self._try_append(table, hashed, since, locked=attempt >= _OPTIMISTIC)
                if done is not None:
                    return done
        raise OfflineStoreError(f"{table} changed {_ATTEMPTS} times over while rows were pushed to it. Push them again.")

    def segments(self, table: Table) -> list[Segment]:
        """See ``PushLog.segments``."""
        with translated("read", str(self._folder_of(table))):
            _, live = self.consistent(table)
        return [
            Segment(
                segment_number(name),
                frame.height,
                {"path": f"{_FOLDER}/{name}", "rows": frame.height, "pushed": segment_number(name)},
            )
            for name, frame in live.items()
        ]

    def read(self, table: Table, seq: int) -> pl.DataFrame | None:
        """See ``PushLog.read``."""
        with translated("read", str(self._folder_of(table))):
            for _ in range(_ATTEMPTS):
                for name in self.names(table, seq - 1)[:1]:
                    if segment_number(name) == seq:
                        try:
                            return self.frames(table, [name])[name].drop(HASH)
                        except FileNotFoundError:  # removed, or written anew without somebody who was forgotten
                            break
                else:
                    return None
        return None

    def exists(self, table: Table, seq: int) -> bool:
        """See ``PushLog.exists``."""
        with translated("read", str(self._folder_of(table))):
            cache = self._held(table)
            if seq <= cache.removed:
                return False
            if seq in cache.places and (self._folder_of(table) / _FOLDER / cache.places[seq]).exists():
                return True
            # It may have been written anew, without somebody who was forgotten.
            self.names(table, 0)
            return seq in cache.places

    def remove(self, table: Table) -> None:
        """See ``PushLog.remove``."""
        with translated("delete", str(self._folder_of(table) / _FOLDER)):
            folded = open_state(self._folder_of(table)).folded
            folder = self._folder_of(table) / _FOLDER
            remove(folder / name for name in self.names(table, 0) if segment_number(name) <= folded)
            # What killed pushes have left. One that is at it finds its file gone, and writes it again.
            remove(path for path in folder.glob(f"*{TEMPORARY}") if path.is_file())

    @contextmanager
    def folding(self, table: Table) -> Iterator[bool]:
        """See ``PushLog.folding``."""
        with self._locks.exclusive(f"fold {table}", 0.0) as taken:
            yield taken

    @contextmanager
    def held(self, table: Table) -> Iterator[None]:
        """Keep everyone else from appending to the log of a table, and from writing the table's next version."""
        with self._locks.exclusive(f"write {table}", _PATIENCE) as taken:
            if not taken:
                raise OfflineStoreError(
                    f"{table} was locked for {_PATIENCE:.0f} seconds by another process that writes to it. Does it hang?"
                )
            yield

    def consistent(self, table: Table) -> tuple[DeltaState, dict[str, pl.DataFrame]]:
        """Return a table and its log as they are at one instant: the segments' rows by name, in their order."""
        cache = self._held(table)
        for _ in range(_ATTEMPTS):
            # NOTE: what a push has opened counts as long as nobody has committed: to open a table takes milliseconds.
            state = cache.state
            if state is None or not state.is_current():
                state = cache.state = open_state(self._folder_of(table))
            try:
                live = self.live(table, state)
            except FileNotFoundError:  # a run's commit has taken it over since, and it was removed
                continue
            if state.is_current():
                return state, live
        raise OfflineStoreError(f"{table} changed {_ATTEMPTS} times over while it was opened. Open it again.")

    def live(self, table: Table, state: DeltaState) -> dict[str, pl.DataFrame]:
        """Return the rows of each segment that is not in a state of the table, by name and in their order.

        Raises:
            FileNotFoundError: one was removed meanwhile, so the table is at a later state.
        """
        frames = self.frames(table, self.names(table, state.folded))
        known = self._held(table).segments
        for gone in set(known) - set(frames):
            known.pop(gone, None)
        return frames

    def names(self, table: Table, after: int) -> list[str]:
        """Return the names of the segments with numbers after one, in their order."""
        try:
            with os.scandir(self._folder_of(table) / _FOLDER) as entries:
                listed = [entry.name for entry in entries]
        except FileNotFoundError:
            return []
        segments = sorted(name for name in listed if is_segment(name))
        cache = self._held(table)
        cache.marks = [
            int(name.removesuffix(MARK)) for name in listed if name.endswith(MARK) and name.removesuffix(MARK).isdecimal()
        ]
        cache.places = {segment_number(name): name for name in segments}
        # The first are removed first.
        cache.removed = max(cache.removed, min(cache.places, default=1) - 1)
        return [name for number, name in cache.places.items() if number > after]

    def lost(self, table: Table, folded: int) -> list[int]:
        """Return the numbers of segments that must be there, as they were given and are not in the table, and are not."""
        there = set(map(segment_number, self.names(table, folded)))
        return sorted(set(range(folded + 1, self._held(table).given(folded, there) + 1)) - there)

    def named(self, table: Table, numbers: Sequence[int]) -> list[str]:
        """Return the names of the segments with some numbers.

        Raises:
            FileNotFoundError: one was removed meanwhile.
        """
        names = {segment_number(name): name for name in self.names(table, 0)} if numbers else {}
        if missing := [number for number in numbers if number not in names]:
            raise FileNotFoundError(f"The segments {missing} of {table} were removed.")
        return [names[number] for number in numbers]

    def frames(self, table: Table, names: list[str]) -> dict[str, pl.DataFrame]:
        """Return the rows of segments by their names, with the hash of the keys.

        Raises:
            FileNotFoundError: one was removed meanwhile.
        """
        known = self._held(table).segments
        frames = {}
        for name in names:
            frame = known.get(name)
            if frame is None:
                path = self._folder_of(table) / _FOLDER / name
                try:
                    frame = with_columns_of(table, pl.read_parquet(path, glob=False))
                except pl.exceptions.PolarsError as error:
                    raise OfflineStoreError(
                        f"The pushed rows in {path} cannot be read: the file is damaged ({error}). Restore it from a backup."
                    ) from error
                known[name] = frame
            frames[name] = frame
        return frames

    def forget(self, table: Table) -> None:
        """Forget what is known of a table, which is no longer there."""
        self._tables.pop(self._folder_of(table), None)

    def _held(self, table: Table) -> _Held:
        folder = self._folder_of(table)
        refuse_forked(folder)
        cache = self._tables.get(folder)
        if cache is None or cache.columns != table.features.keys():
            cache = self._tables[folder] = _Held(folder, table)
        return cache

    def _try_append(self, table: Table, rows: pl.DataFrame, since: int | None, *, locked: bool) -> Appended | None:
        """Append the rows that are new; return None where something else was written meanwhile."""
        cache = self._held(table)
        with cache.lock:
            state = cache.state
            if state is None or not state.is_current():
                state = cache.state = open_state(self._folder_of(table))
            try:
                live = self.live(table, state)
            except FileNotFoundError:
                return None
            lookup = cache.known.find(rows, state, {segment_number(name): frame for name, frame in live.items()}, since)
        if lookup.new.is_empty():
            self._settle(table, lookup)
            return _appended(None, lookup, live)  # what is known stays known, whatever comes
        folder = self._folder_of(table) / _FOLDER
        make_folders(folder)
        segment = lookup.new.sort(HASH)
        beside = folder / f"{uuid4().hex}{TEMPORARY}"
        write_beside(beside, lambda file: segment.write_parquet(file, compression=COMPRESSION, statistics=False))
        with nullcontext() if locked else self.held(table):
            if not state.is_current() or self.names(table, state.folded) != list(live):
                remove([beside])
                return None
            seq = cache.given(state.folded, map(segment_number, live)) + 1
            name = f"{seq:0{_DIGITS}d}-{uuid4().hex[:8]}.parquet"
            try:
                # NOTE: on the disk before anybody else is given the next number: a gap in them is a loss, and nothing else.
                move(beside, folder / name)
            except FileNotFoundError:
                return None
            make_mark(folder / _mark(seq), [folder / _mark(former) for former in cache.marks])
        cache.segments[name] = segment
        return _appended(seq, lookup, {**live, name: segment})

    def _settle(self, table: Table, lookup: DedupLookup) -> None:
        """Sync what others wrote to the disk before reporting it as known: they may not have done so yet."""
        folder = self._folder_of(table)
        if lookup.segments:
            sync_folder(folder / _FOLDER)
        if lookup.known.height:
            settle(folder / LOG)


def _mark(number: int) -> str:
    return f"{number:0{_DIGITS}d}{MARK}"


def segment_number(name: str) -> int:
    """Return the number of a segment, by the name of its file."""
    return int(name[:_DIGITS])


def is_segment(name: str) -> bool:
    """Return whether a file in the folder of the log is a segment, by its name; others may leave things there."""
    return name.endswith(".parquet") and name[:_DIGITS].isdecimal() and name[_DIGITS : _DIGITS + 1] == "-"


def _appended(seq: int | None, lookup: DedupLookup, live: Mapping[str, pl.DataFrame]) -> Appended:
    rows = sum(frame.height for frame in live.values())
    return Appended(seq, lookup.new.drop(HASH), lookup.segments, lookup.known.drop(HASH), len(live), rows)
