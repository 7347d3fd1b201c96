"""The log of pushes beside a Delta table: the pushes of the table's sequence, until a run adds their rows to the table's files."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import polars as pl

from featurestore.clock import Clock, utc_now
from featurestore.errors import OfflineStoreError
from featurestore.locks import Locks
from featurestore.offline.base import CORRECTS, Appended, Segment, Table, is_gone
from featurestore.offline.delta.dedup_index import DedupLookup
from featurestore.offline.delta.files import HASH, columns_of, translated
from featurestore.offline.delta.log_entries import LOG
from featurestore.offline.delta.open import refuse_forked, settle
from featurestore.offline.delta.sequence import TableSequence
from featurestore.offline.folder import Address, Folder
from featurestore.rows.buckets import key_hash
from featurestore.rows.total_order import number_copies, sort_history

_ATTEMPTS = 100


class DeltaPushLog:
    """Keep each table's log in the folder of the table.

    Args:
        folder_of: returns the folder of a table.
        locks: the locks of all who write to the tables.
        clock: tells the present.
    """

    def __init__(self, folder_of: Callable[[Table], Folder], locks: Locks, *, clock: Clock = utc_now) -> None:
        self._folder_of = folder_of
        self._locks = locks
        self._clock = clock
        self._sequences: dict[Address, TableSequence] = {}

    def append(self, table: Table, rows: pl.DataFrame, *, since: int | None = None) -> Appended:
        """See ``PushLog.append``."""
        keys, features = list(table.keys), list(table.features)
        distinct = sort_history(number_copies(rows.select(*columns_of(table)), keys, features), keys, features)
        hashed = distinct.with_columns(key_hash(table.keys).alias(HASH))
        if hashed.is_empty():
            return Appended(None, hashed.drop(HASH).with_columns(pl.lit(value=False).alias(CORRECTS)), (), hashed.drop(HASH))
        with translated("write", self._folder_of(table).address().url):
            sequence = self.sequence(table)
            for attempt in range(_ATTEMPTS):
                with sequence.turn(attempt), sequence.lock:
                    appended = self._try_append(sequence, hashed, since)
                if appended is not None:
                    return appended
        raise OfflineStoreError(f"{table} changed {_ATTEMPTS} times over while rows were pushed to it. Push them again.")

    def segments(self, table: Table) -> list[Segment]:
        """See ``PushLog.segments``."""
        with translated("read", self._folder_of(table).address().url):
            pushes = self.sequence(table).look().pushes
        return [Segment(seq, rows.height, {"rows": rows.height, "pushed": seq}) for seq, rows in pushes.items()]

    def read(self, table: Table, seq: int) -> pl.DataFrame | None:
        """See ``PushLog.read``."""
        with translated("read", self._folder_of(table).address().url):
            try:
                return self.sequence(table).rows_of([seq])[seq].drop(HASH)
            except FileNotFoundError:
                return None

    def exists(self, table: Table, seq: int) -> bool:
        """See ``PushLog.exists``."""
        with translated("read", self._folder_of(table).address().url):
            return self.sequence(table).exists(seq)

    def last_commit(self, table: Table, stored_by: int) -> int:
        """See ``PushLog.last_commit``."""
        with translated("read", self._folder_of(table).address().url):
            instants = self.sequence(table).instants()
        last = instants.filter(pl.col("stored").is_between(1, stored_by))["number"].max()
        return last if isinstance(last, int) else 0

    def remove(self, table: Table) -> None:
        """See ``PushLog.remove``."""
        with translated("delete", self._folder_of(table).address().url):
            self.sequence(table).clear()

    @contextmanager
    def folding(self, table: Table) -> Iterator[bool]:
        """See ``PushLog.folding``."""
        with self._locks.exclusive(f"fold {table}", 0.0) as taken:
            yield taken

    def sequence(self, table: Table) -> TableSequence:
        """Return the sequence of a table."""
        folder = self._folder_of(table)
        refuse_forked(folder)
        place = folder.address()
        sequence = self._sequences.get(place)
        if sequence is None or sequence.columns != table.features.keys():
            sequence = self._sequences[place] = TableSequence(folder, table, self._locks, self._clock)
        return sequence

    def forget(self, table: Table) -> None:
        """Forget what is known of a table, which is no longer there."""
        self._sequences.pop(self._folder_of(table).address(), None)

    def _try_append(self, sequence: TableSequence, rows: pl.DataFrame, since: int | None) -> Appended | None:
        """Append the rows that are new; return None where another entry came first."""
        view = sequence.settle()
        try:
            lookup = sequence.known.find(rows, view.state, view.pushes, since)
        except OfflineStoreError as error:
            # An entity was forgotten, or what was merged was removed, since the table was opened.
            if is_gone(error) and not view.state.is_current():
                return None
            raise
        if lookup.new.is_empty():
            _sync(sequence, lookup)
            return _appended(None, lookup, view.pushes)
        added = lookup.new.sort(HASH)
        seq = sequence.push(view, added)
        return None if seq is None else _appended(seq, lookup, {**view.pushes, seq: added})


def _sync(sequence: TableSequence, lookup: DedupLookup) -> None:
    """Have on the disk what others wrote before it is reported as known: they may not have done so yet."""
    if lookup.segments:
        sequence.sync()
    if lookup.known.height:
        settle(sequence.folder, LOG)


def _appended(seq: int | None, lookup: DedupLookup, pushes: Mapping[int, pl.DataFrame]) -> Appended:
    rows = sum(frame.height for frame in pushes.values())
    return Appended(seq, lookup.new.drop(HASH), lookup.segments, lookup.known.drop(HASH), len(pushes), rows)
