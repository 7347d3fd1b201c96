"""The embedded online store: LMDB files in a folder of this machine.

A record is ``expiry · value``: eight bytes, big-endian, of milliseconds since the epoch (0 for never), then the value as
it was given. LMDB takes keys of 1 to 511 bytes. A key of another length is kept under its first 479 bytes (filled up with
zeros) and its BLAKE2b digest, 511 bytes in all, which no key kept as it is has; its record is
``expiry · length of the key (4 bytes) · key · value``, so that a collision is noticed and a prefix still finds it.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import Any, TypeVar
from weakref import finalize

import lmdb

from featurestore.clock import Clock, to_micros, utc_now
from featurestore.errors import OnlineStoreError
from featurestore.online.base import Entry, Epoch, Marks, OnlineAdapter, OnlineLostError
from featurestore.online.batching import batches, greatest
from featurestore.online.lmdb.environment import LMDBEnvironments, explain
from featurestore.online.lmdb.loss_marks import LMDBMarks
from featurestore.online.lmdb.scrub import scrub
from featurestore.plugins import Context

_T = TypeVar("_T")

_NEVER = bytes(8)
_LONGEST = 510
_HEAD = 479

# One transaction costs one flush to the disk, so a large batch takes few; other processes write between two of them.
_AT_ONCE = 1_000
"""How many keys are read on an event loop at most."""
_WRITES_A_TRANSACTION = 50_000
_BYTES_A_TRANSACTION = 64 << 20
_DELETES_A_TRANSACTION = 10_000
_VISITS_A_TRANSACTION = 100_000
_LOOK_SECONDS = 1.0
"""After how long a reader looks whether other files lie in the folder by now."""


class LMDBStore(OnlineAdapter):
    """Keep the latest values in LMDB, in a folder: no server, 1 µs a key, readable from many processes during writes.

    Every process of the machine that names the folder shares it, forked ones too; one of them writes at a time. What a
    ``write`` has returned from is on the disk.

    ``read`` does not look at the expiry: it returns what is there until ``sweep`` drops it. The reader of rows enforces
    their ttl on the row itself (S14), to the microsecond, so the expiry only says when a record may be dropped.

    WARNING: LMDB needs a local disk. On a network file system (NFS, SMB, EFS) locks and memory maps of several machines do
    not agree, and the files get damaged; take Redis or Valkey there.

    Args:
        path: the folder; it is made where it is missing.
        clock: tells the present, from which a ttl counts.
        map_size: the bytes the files may grow to before the map is made larger, which happens by itself. It costs address
            space only, not disk.

    Raises:
        OnlineStoreError: the folder cannot be made or opened, or holds something else.

    Example:
        >>> from tempfile import mkdtemp
        >>> store = LMDBStore(Path(mkdtemp()))
        >>> store.write([Entry(b"weather/JFK", b"2"), Entry(b"weather/JFK", b"1")])
        1
        >>> store.read([b"weather/JFK", b"weather/LGA"])
        [b'2', None]
        >>> store.close()
    """

    def __init__(self, path: Path, *, clock: Clock = utc_now, map_size: int = 1 << 30) -> None:
        self._path = path
        self._clock = clock
        self._map_size = map_size
        self._following = Lock()
        self._look_again = 0.0
        self._files: LMDBEnvironments | None = LMDBEnvironments.of(path, map_size)
        self._forget = finalize(self, self._files.release_later)
        self._marks = LMDBMarks(path, self._change, self._look)
        self.marks: Marks = self._marks

    @classmethod
    def open(cls, url: str, context: Context) -> "LMDBStore":
        """See ``OnlineAdapter.open``."""
        return cls(cls.folder(url, context.root), clock=context.clock)

    @classmethod
    def folder(cls, url: str, root: Path) -> Path:
        """See ``OnlineAdapter.folder``: what follows ``lmdb:``."""
        return root / Path(url.partition(":")[2]).expanduser()

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the value of each key, in order; None for a key that is missing or was swept."""
        if not keys:
            return []
        files = self._opened()
        if perf_counter() >= self._look_again:
            self._look_again = perf_counter() + _LOOK_SECONDS
            if not files.seems_current():
                files = self._reopened()
        plain = max(map(len, keys)) <= _LONGEST and b"" not in keys
        try:
            transaction = files.begin()
            try:
                if plain:
                    return [record and record[8:] for record in map(transaction.get, keys)]
                return [_value(key, transaction.get(_place(key))) for key in keys]
            finally:
                files.end(transaction)
        except lmdb.Error as error:
            raise explain(error, self._path, "read") from error

    async def read_async(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Like ``read``: there is no network to wait for, and a read of few takes microseconds.

        Of many each may lie on a page that is not in memory, and all other requests would wait for the disk.
        """
        return self.read(keys) if len(keys) <= _AT_ONCE else await asyncio.to_thread(self.read, keys)

    def write(self, entries: Sequence[Entry], *, epoch: Epoch | None = None) -> int:
        """Write each value unless its key has one as great or greater; return how many were written (S15).

        A record that has expired and is not yet swept counts as there, for a swap too: ``read`` returned it.
        """
        now = self._now()
        written = 0
        for batch in batches(greatest(entries), _WRITES_A_TRANSACTION, _BYTES_A_TRANSACTION):
            # Neighbours in the tree share pages: in the order of the keys fewer of them are copied and flushed.
            batch.sort(key=lambda entry: entry.key)
            written += self._change("written", partial(self._marked, partial(_put, batch, now), epoch))
            if epoch is not None:
                self._marks.note(epoch)
        return written

    def delete(self, prefix: bytes, *, keys: Sequence[bytes] | None = None, known: Iterable[Sequence[bytes]] | None = None) -> int:
        """Delete all keys that begin with a prefix, some 10,000 a transaction; return how many there were.

        Certain ``keys`` are written over in the file, too: what nobody reads any more would else stay there for long.

        Raises:
            OnlineStoreError: the file cannot be written, or something of the ``keys`` is in it still.
        """
        if keys is not None:
            return self._erase([key for key in keys if key.startswith(prefix)])
        deleted = 0
        start: bytes | None = prefix[:_HEAD]
        while start is not None:
            count, start = self._change("written", partial(_delete_prefix, prefix, start))
            deleted += count
        return deleted

    def sweep(self) -> int:
        """Drop the records that have expired, and return how many.

        It looks for them without keeping writers from writing, and drops some 10,000 a transaction.
        """
        now = self._now().to_bytes(8, "big")
        dropped = 0
        self._opened().forget_dead_readers()
        for places in self._expired(now):
            dropped += self._change("swept", partial(_drop, places, now))
        return dropped

    def check(self) -> str:
        """Return ``"LMDB"`` and its version.

        Raises:
            OnlineStoreError: the files cannot be read.
        """
        self._look(lambda transaction: transaction.get(b"?"))
        return f"LMDB {'.'.join(map(str, lmdb.version()))}"

    def close(self) -> None:
        """Close the files once no other store of this process uses them. Idempotent."""
        files, self._files = self._files, None
        if files is not None:
            self._forget.detach()
            files.release()

    def _opened(self) -> LMDBEnvironments:
        if self._files is None:
            raise OnlineStoreError(f"The online store in {self._path} was closed. Make a new LMDBStore of that folder.")
        return self._files

    def _followed(self) -> LMDBEnvironments:
        """Return the files that lie in the folder now, where they are no longer those that were opened."""
        files = self._opened()
        if files.is_current():
            return files
        with self._following:
            if self._files is files:
                self._forget.detach()
                self._files = LMDBEnvironments.of(self._path, self._map_size)
                self._forget = finalize(self, self._files.release_later)
                files.release_later()  # a reader may be at it
        return self._opened()

    def _reopened(self) -> LMDBEnvironments:
        try:
            return self._followed()
        except (lmdb.Error, OSError) as error:
            raise explain(error, self._path, "read") from error

    def _now(self) -> int:
        return max(0, to_micros(self._clock()) // 1000)  # a replay's clock may stand before the epoch

    def _marked(self, work: Callable[["lmdb.Transaction[bytes]"], int], epoch: Epoch | None, transaction: Any) -> int:
        """Do some work in a write transaction if the files' mark is an epoch's."""
        # NOTE: a write transaction has the number that it will be: the last one in the files is the one before.
        missed = None if epoch is None else self._marks.missed(epoch, transaction, transaction.id() - 1)
        if missed:
            raise OnlineLostError(f"The online store in {self._path}: {missed}.")
        return work(transaction)

    def _look(self, work: Callable[["lmdb.Transaction[bytes]"], _T]) -> _T:
        files = self._followed()
        try:
            return files.look(work)
        except (lmdb.Error, OSError) as error:
            raise explain(error, self._path, "read") from error

    def _change(self, done: str, work: Callable[["lmdb.Transaction[bytes]"], _T]) -> _T:
        try:
            return self._followed().change(work)
        except (lmdb.Error, OSError) as error:
            raise explain(error, self._path, done) from error

    def _erase(self, keys: Sequence[bytes]) -> int:
        places = [_place(key) for key in dict.fromkeys(keys)]
        if not places:
            return 0
        parts = [places[first : first + _DELETES_A_TRANSACTION] for first in range(0, len(places), _DELETES_A_TRANSACTION)]
        records = [record for part in parts for record in self._change("written", partial(_take, part))]
        try:
            clean = scrub(self._opened(), self._path, places, records)
        except lmdb.Error as error:
            raise explain(error, self._path, "written") from error
        if not clean:
            raise OnlineStoreError(
                f"{len(records)} values were deleted from the online store in {self._path}, but its file holds copies still, which "
                "nobody reads: a reader may keep old pages from being written over. Repeat this; or stop all that use the folder, "
                "delete it, and run: featurestore materialize --rebuild-online"
            )
        return len(records)

    def _expired(self, now: bytes) -> Iterator[list[bytes]]:
        """Yield the places of expired records. Each look is a short transaction: a long one would keep old pages alive."""
        files = self._opened()
        start: bytes | None = b""
        while start is not None:
            try:
                transaction = files.begin()
                try:
                    places, start = _look_for_expired(transaction, start, now)
                finally:
                    files.end(transaction)
            except lmdb.Error as error:
                raise explain(error, self._path, "read") from error
            if places:
                yield places


def _place(key: bytes) -> bytes:
    """Return the key under which LMDB keeps a key."""
    if 0 < len(key) <= _LONGEST:
        return key
    return key[:_HEAD].ljust(_HEAD, b"\0") + blake2b(key, digest_size=32).digest()


def _key(place: bytes, record: bytes) -> bytes:
    """Return the key of a record."""
    return place if len(place) <= _LONGEST else record[12 : 12 + int.from_bytes(record[8:12], "big")]


def _value(key: bytes, record: bytes | None) -> bytes | None:
    """Return the value in a record of a key; None if there is no record, or it is another key's."""
    if record is None:
        return None
    if 0 < len(key) <= _LONGEST:
        return record[8:]
    return record[12 + len(key) :] if _key(_place(key), record) == key else None


def _begins(value: bytes | None, expected: bytes) -> bool:
    """Return whether a value begins with the bytes expected, which are empty where no value is."""
    return value is not None and value.startswith(expected) if expected else value is None


def _put(batch: list[Entry], now: int, transaction: "lmdb.Transaction[bytes]") -> int:
    get, put = transaction.get, transaction.put
    written = 0
    for entry in batch:
        key, value, ttl_ms = entry.key, entry.value, entry.ttl_ms
        place = _place(key)
        kept = get(place)
        old = _value(key, kept)
        swaps = entry.replaces is not None
        if entry.replaces is not None and not _begins(old, entry.replaces):
            continue
        if not swaps and old is not None and old > value:
            continue
        record = _NEVER if ttl_ms is None else max(1, now + ttl_ms).to_bytes(8, "big")
        if place is not key:
            record += len(key).to_bytes(4, "big") + key
        if old == value and kept is not None and not swaps:
            # A ttl that has become longer keeps what is there for longer; nothing is ever forgotten sooner.
            if kept[:8] != _NEVER and (record[:8] == _NEVER or record[:8] > kept[:8]):
                put(place, record + value)
            continue
        put(place, record + value)
        written += 1
    return written


def _take(places: list[bytes], transaction: "lmdb.Transaction[bytes]") -> list[bytes]:
    """Delete records, written over first; return those that were there."""
    taken = []
    for place in places:
        record = transaction.get(place)
        if record is not None:
            taken.append(bytes(record))
            transaction.put(place, bytes(len(record)))
            transaction.delete(place)
    return taken


def _delete_prefix(prefix: bytes, start: bytes, transaction: "lmdb.Transaction[bytes]") -> tuple[int, bytes | None]:
    """Delete some keys of a prefix from a place on; return how many, and where to go on (None: that was all)."""
    deleted = 0
    with transaction.cursor() as cursor:
        there = cursor.set_range(start) if start else cursor.first()
        while there and (place := cursor.key()).startswith(prefix[:_HEAD]):
            if deleted == _DELETES_A_TRANSACTION:
                return deleted, place
            if _key(place, cursor.value()).startswith(prefix):
                cursor.delete()  # and the cursor stands on the next one
                deleted += 1
                there = bool(cursor.key())
            else:
                there = cursor.next()
    return deleted, None


def _look_for_expired(transaction: "lmdb.Transaction[bytes]", start: bytes, now: bytes) -> tuple[list[bytes], bytes | None]:
    """Return the places of some expired records from a place on, and where to go on (None: that was all)."""
    places: list[bytes] = []
    with transaction.cursor() as cursor:
        there = cursor.set_range(start) if start else cursor.first()
        if not there:
            return places, None
        for visited, (place, record) in enumerate(cursor):
            if visited == _VISITS_A_TRANSACTION or len(places) == _DELETES_A_TRANSACTION:
                return places, place
            if _NEVER < record[:8] <= now:
                places.append(place)
    return places, None


def _drop(places: list[bytes], now: bytes, transaction: "lmdb.Transaction[bytes]") -> int:
    """Delete the records that are still expired: one may have been rewritten since it was checked."""
    dropped = 0
    for place in places:
        record = transaction.get(place)
        if record is not None and _NEVER < record[:8] <= now:
            dropped += transaction.delete(place)
    return dropped
