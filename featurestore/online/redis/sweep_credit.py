"""Sweep credit: how many hashes are to be looked through for packed values whose ttl is over, for what was written.

Nothing tells which values have ended but looking at them. So every sixteenth written value with a ttl has one hash looked through,
any of its version's. Where hashes have some 48 fields, a third of all entities is written until each hash was looked through once,
and what has ended and is there still is about a sixth of what is alive.
"""

from collections import Counter
from collections.abc import Iterable
from threading import Lock

from featurestore.online.base import Entry
from featurestore.online.redis.packing import head_in

_WRITES_A_HASH = 16
_AT_ONCE = 32
"""From so many hashes on they are looked through by the write itself: a script's worth."""
_LEAST = 64


class SweepCredit:
    """Count what is written. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._written: Counter[bytes] = Counter()

    def note(self, entries: Iterable[Entry]) -> dict[bytes, int]:
        """Note what was written; return of how many hashes it is time to look through, by what their names begin with."""
        heads = Counter([head_in(entry.key) for entry in entries if entry.ttl_ms is not None])
        if not heads:
            return {}
        due = {}
        with self._lock:
            self._written.update(heads)
            for head in heads:
                hashes = self._written[head] // _WRITES_A_HASH
                if hashes >= _AT_ONCE:
                    due[head] = hashes
                    del self._written[head]
        return due

    def rest(self) -> dict[bytes, int]:
        """Return of how many hashes the rest has come to be due, a few of each at least."""
        with self._lock:
            written, self._written = self._written, Counter()
        return {head: max(_LEAST, count // _WRITES_A_HASH) for head, count in written.items()}
