"""An online store in one SQLite file: ``online = "sqlite:online.db"``."""

import asyncio
import os
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from threading import RLock

from featurestore.clock import Clock, to_micros, utc_now
from featurestore.errors import OnlineStoreError
from featurestore.online.base import Entry, Epoch, Marks, OnlineAdapter, OnlineLostError
from featurestore.online.batching import greatest
from featurestore.plugins import Context

_TABLE = "create table if not exists latest (key blob primary key, value blob not null, expiry integer) without rowid"
_PUT = "insert into latest values (?, ?, ?) on conflict (key) do update set value = excluded.value, expiry = excluded.expiry"


class SQLiteStore(OnlineAdapter):
    """Keeps the latest values in a SQLite file, which many processes of one machine may share.

    SQLite orders blobs as unsigned bytes, as the port wants it. A write is one transaction, so a batch is written wholly or not at
    all. What has expired is read until ``sweep`` drops it: readers look at the ttl in the row.

    Args:
        path: the file; it is made where it is missing.
        clock: tells the present, from which a ttl counts.
    """

    def __init__(self, path: Path, *, clock: Clock = utc_now) -> None:
        self._path = path
        self._clock = clock
        self._lock = RLock()
        self._connection: sqlite3.Connection | None = None
        self._process = 0
        self._closed = False
        self.marks: Marks = _Marks(self)

    @classmethod
    def open(cls, url: str, context: Context) -> "SQLiteStore":
        """See ``OnlineAdapter.open``."""
        return cls(_file(url, context.root), clock=context.clock)

    @classmethod
    def files(cls, url: str, root: Path) -> list[Path]:
        """See ``OnlineAdapter.files``: the file, and what SQLite keeps beside it."""
        file = _file(url, root)
        return [file, *(file.with_name(file.name + ending) for ending in ("-wal", "-shm"))]

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """See ``OnlineStore.read``."""
        with self.transaction() as connection:
            rows = [connection.execute("select value from latest where key = ?", (key,)).fetchone() for key in keys]
        return [None if row is None else row[0] for row in rows]

    async def read_async(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """See ``OnlineStore.read_async``; the file is read in a thread."""
        return await asyncio.to_thread(self.read, keys)

    def write(self, entries: Sequence[Entry], *, epoch: Epoch | None = None) -> int:
        """See ``OnlineStore.write``."""
        entries = greatest(entries)
        now = to_micros(self._clock()) // 1000
        with self.transaction(writes=True) as connection:
            if epoch is not None and (lost := lost_since(connection, epoch)):
                raise OnlineLostError(f"The online store {self._path} may have lost values: {lost}.")
            return sum(_write(connection, entry, None if entry.ttl_ms is None else now + entry.ttl_ms) for entry in entries)

    def delete(self, prefix: bytes, *, keys: Sequence[bytes] | None = None, known: Iterable[Sequence[bytes]] | None = None) -> int:
        """See ``OnlineStore.delete``; SQLite overwrites what is deleted, and finds the keys of a prefix by itself."""
        where, given = _beginning(prefix)
        with self.transaction(writes=True) as connection:
            if keys is None:
                return connection.execute(f"delete from latest where {where}", given).rowcount  # noqa: S608 - our own text
            chosen = {key for key in keys if key.startswith(prefix)}
            return sum(connection.execute("delete from latest where key = ?", (key,)).rowcount for key in chosen)

    def sweep(self) -> int:
        """See ``OnlineStore.sweep``."""
        now = to_micros(self._clock()) // 1000
        with self.transaction(writes=True) as connection:
            return connection.execute("delete from latest where expiry <= ?", (now,)).rowcount

    def check(self) -> str:
        """See ``OnlineStore.check``."""
        with self.transaction():
            return f"SQLite {sqlite3.sqlite_version}"

    def close(self) -> None:
        """See ``OnlineStore.close``."""
        with self._lock:
            self._closed = True
            if self._connection is not None and self._process == os.getpid():
                self._connection.close()
            self._connection = None

    @contextmanager
    def transaction(self, *, writes: bool = False) -> Iterator[sqlite3.Connection]:
        """Give a connection in a transaction, which is committed at the end; an error of SQLite becomes ``OnlineStoreError``."""
        with self._lock:
            try:
                connection = self._connected()
                connection.execute("begin immediate" if writes else "begin")
                try:
                    yield connection
                except BaseException:
                    connection.execute("rollback")
                    raise
                connection.execute("commit")
            except (sqlite3.Error, OSError) as error:
                message = f"The online store {self._path} cannot be used: {error}. Check the file and its folder."
                raise OnlineStoreError(message) from error

    def _connected(self) -> sqlite3.Connection:
        if self._closed:
            raise OnlineStoreError(f"The online store {self._path} is closed. Open another.")
        if self._connection is None or self._process != os.getpid():  # a forked child must not use its parent's connection
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch(mode=0o600)
            connection = sqlite3.connect(self._path, timeout=30, isolation_level=None, check_same_thread=False)
            for pragma in ("journal_mode = wal", "synchronous = full", "secure_delete = on"):
                connection.execute(f"pragma {pragma}")
            connection.execute(_TABLE)
            self._connection, self._process = connection, os.getpid()
        return self._connection


class _Marks:
    """The mark is a row, so a file that was deleted or made again has none. A file from an older copy is not noticed."""

    def __init__(self, store: SQLiteStore) -> None:
        self._store = store

    def agree(self, epoch: Epoch) -> None:
        """Do nothing: there is one way in which values lie in the file."""

    def look(self, epoch: Epoch) -> list[str]:
        with self._store.transaction() as connection:
            lost = lost_since(connection, epoch)
        return [lost] if lost else []

    def place(self, epoch: Epoch) -> None:
        with self._store.transaction(writes=True) as connection:
            connection.execute(_PUT, (epoch.key, epoch.value, None))

    def strangers(self, project: bytes, most: int = 1_000_000) -> dict[bytes, int]:
        where, given = _beginning(project)
        counts: Counter[bytes] = Counter()
        with self._store.transaction() as connection, closing(connection.cursor()) as cursor:
            query = f"select key from latest where {where} limit ?"  # noqa: S608 - our own text
            for (key,) in cursor.execute(query, (*given, most)):
                counts[key[len(project) :].partition(b"/")[0]] += 1
        return dict(counts)


def lost_since(connection: sqlite3.Connection, epoch: Epoch) -> str:
    """Return what may have been lost since the marks were placed; empty where nothing was."""
    row = connection.execute("select value from latest where key = ?", (epoch.key,)).fetchone()
    if row is None:
        return "its mark is gone, as after the file was deleted or made again"
    return "" if row[0] == epoch.value else "its mark is not the one that the registry has"


def _write(connection: sqlite3.Connection, entry: Entry, expiry: int | None) -> bool:
    """Write an entry if it is to be; return whether it was."""
    row = connection.execute("select value, expiry from latest where key = ?", (entry.key,)).fetchone()
    if entry.replaces is not None:
        as_expected = (not entry.replaces) if row is None else bool(entry.replaces) and row[0].startswith(entry.replaces)
        written = as_expected
    else:
        written = row is None or entry.value > row[0]
        if row is not None and entry.value == row[0] and row[1] is not None and (expiry is None or expiry > row[1]):
            connection.execute("update latest set expiry = ? where key = ?", (expiry, entry.key))
    if written:
        connection.execute(_PUT, (entry.key, entry.value, expiry))
    return written


def _beginning(prefix: bytes) -> tuple[str, tuple[bytes, ...]]:
    """Return the condition for keys that begin with a prefix, and its values: no pattern, so that any bytes may be in it."""
    stem = prefix.rstrip(b"\xff")
    if not stem:
        return "key >= ?", (prefix,)
    return "key >= ? and key < ?", (prefix, stem[:-1] + bytes([stem[-1] + 1]))


def _file(url: str, root: Path) -> Path:
    return root / Path(url.partition(":")[2]).expanduser()
