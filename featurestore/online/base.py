"""The port of online stores: bytes by key, of which the greatest wins."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """One value to write.

    Args:
        key: names the view and the entity (``codec.key_prefix`` + ``codec.encode_key``).
        value: the packed row. Values of one key are ordered as unsigned bytes: the row codec puts event and available
            time first, so the greater value is the newer row (S15), and a tie is decided by the rest (S4).
        ttl_ms: the milliseconds after which the store may forget the key; None for never.
    """

    key: bytes
    value: bytes
    ttl_ms: int | None = None


class OnlineStore(Protocol):
    """Keeps the greatest value of each key.

    Thread-safe. A store that cannot be reached raises ``OnlineStoreError`` from every method, and never half a result.
    """

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Returns the value of each key, in order; None for a key that is missing or forgotten. One round trip."""

    async def read_async(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Like ``read``, without blocking the event loop while a network is waited for."""

    def write(self, entries: Sequence[Entry]) -> int:
        """Writes each value unless its key has one as great or greater; returns how many were written (S15).

        Each key changes atomically, whatever other writers do; of two entries with one key the greater wins. Writing
        again what is there changes nothing, but that a longer ttl keeps it for longer; a shorter one never takes it away
        sooner. A batch that fails half-way may be written again.
        """

    def delete(self, prefix: bytes) -> int:
        """Deletes all keys that begin with a prefix; returns how many there were. None is no error."""

    def sweep(self) -> int:
        """Makes room by dropping forgotten keys, and returns how many; 0 where the server does that by itself."""

    def check(self) -> str:
        """Returns the store's kind and version for people to read.

        Raises:
            OnlineStoreError: it cannot be reached.
        """

    def close(self) -> None:
        """Gives back what the store holds: files, connections. Closing twice is no error."""
