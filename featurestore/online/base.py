"""The port of online stores: bytes by key; a write keeps the greater value, or replaces the one it was computed from."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from featurestore.errors import OnlineStoreError
from featurestore.plugins import Context


class OnlineLostError(OnlineStoreError):
    """The store may have lost what was written to it: it restarted, failed over, was emptied or put back from a copy."""


class OnlineLayoutError(OnlineStoreError):
    """The store has a project's values in another layout than its address asks for, so a reader finds none of them."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One value to write.

    Args:
        key: names the view and the entity (``codec.key_prefix`` + ``codec.encode_key``).
        value: the packed row. Values of one key are ordered as unsigned bytes: the row codec puts event and available
            time first, so the greater value is the newer row (S15), and a tie is decided by the rest (S4).
        ttl_ms: the milliseconds after which the store may forget the key; None for never.
        replaces: how the value that this one was computed from begins, empty if there was none: the entry is written only
            if the key's value still begins so, be it greater or not (compare and swap). None: the greatest value wins.
    """

    key: bytes
    value: bytes
    ttl_ms: int | None = None
    replaces: bytes | None = None


@dataclass(frozen=True, slots=True)
class Epoch:
    """What the marks of a store must hold, so that it can be trusted to have what was written to it.

    Args:
        key: what the keys of marks begin with.
        value: the epoch's name. A mark holds it and, after a space, what tells its shard from one that may have lost something.
    """

    key: bytes
    value: bytes


class Marks(Protocol):
    """The marks of a store: one or more for each shard that can lose its data alone."""

    def agree(self, epoch: Epoch) -> None:
        """Look whether values lie as the store's address asks for. Where nothing is marked, or there is one layout, they do.

        Raises:
            OnlineLayoutError: they lie in another layout.
        """

    def look(self, epoch: Epoch) -> list[str]:
        """Return what may have been lost, a sentence for each shard whose marks are not an epoch's; none where all are.

        A mark that is missing beside others of its shard, as after the slots of a Cluster were moved, is placed again.

        Raises:
            OnlineLayoutError: values lie in another layout than the store's address asks for.
        """

    def place(self, epoch: Epoch) -> None:
        """Mark every shard. What was written before counts for nothing; the caller has recorded that.

        What lies in another layout than the store's address asks for is deleted.
        """

    def strangers(self, project: bytes, most: int = 1_000_000) -> dict[bytes, int]:
        """Return how many keys of a project have which second part: the id of a registry, or a view of an older version.

        Args:
            project: the project and ``/``.
            most: of a server with more keys, so many are looked at.
        """


class OnlineStore(Protocol):
    """Keep the greatest value of each key, or that which replaced the one before.

    Thread-safe. A store that cannot be reached raises ``OnlineStoreError`` from every method, and never half a result.
    """

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the value of each key, in order; None for a key that is missing or forgotten. One round trip."""

    async def read_async(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Like ``read``, without blocking the event loop while a network is waited for."""

    marks: Marks
    """What tells whether the store lost data."""

    def write(self, entries: Sequence[Entry], *, epoch: Epoch | None = None) -> int:
        """Write each value unless its key has one as great or greater; return how many were written (S15).

        Each key changes atomically, whatever other writers do; of two entries with one key the greater wins. Writing
        again what is there changes nothing, but that a longer ttl keeps it for longer; a shorter one never takes it away
        sooner. A batch that fails half-way may be written again.

        An entry that ``replaces`` something is written only if the key's value begins with exactly those bytes, or if there
        is no value where they are empty; it is compared and set in one step, and brings its own ttl. Only one entry of such
        a key may be in a batch. An entry that was not written, or that was written by an attempt whose answer got lost, is
        not counted: a caller that finds fewer written than given reads the keys again. So that this tells, a value must begin
        otherwise than the one it replaces.

        With an ``epoch`` each key is written only where its shard's mark is the epoch's, which is looked at in the same step.

        Raises:
            OnlineLostError: a shard's mark is another one, or gone: what is in it may be less than was written.
            OnlineLayoutError: the mark has another layout than the store's address asks for.
            ValueError: a key that is to be replaced has several entries.
        """

    def delete(self, prefix: bytes, *, keys: Sequence[bytes] | None = None, known: Iterable[Sequence[bytes]] | None = None) -> int:
        """Delete all keys that begin with a prefix; return how many there were, perhaps none.

        Args:
            prefix: what they begin with.
            keys: which of them, if not all. What the store can do so that nothing of these is left on its disk, it does.
            known: batches of keys, which are all of them as far as the caller knows. A store that would have to look through very
                many keys to find them deletes these instead; any other takes no notice of them.
        """

    def sweep(self) -> int:
        """Make room by dropping forgotten keys, and return how many; 0 where the server does that by itself."""

    def check(self) -> str:
        """Return the store's kind and version for people to read.

        Raises:
            OnlineStoreError: it cannot be reached.
        """

    def close(self) -> None:
        """Close files and connections. Idempotent."""


class OnlineAdapter(ABC):
    """What an entry point of ``featurestore.online_stores`` names: a class that opens the stores of a URL scheme.

    The class is usually the store itself. It must have ``open``; everything else has a default that fits a server.
    """

    @classmethod
    @abstractmethod
    def open(cls, url: str, context: Context) -> OnlineStore:
        """Open the store at an address.

        Args:
            url: the setting ``online``, as it is written: ``"lmdb:.featurestore/online"``.
            context: the project's folder, its clock.

        Raises:
            ConfigError: the address is of another form.
            MissingExtraError: a library that it needs is not installed.
            OnlineStoreError: the store cannot be opened.
        """

    @classmethod
    def folder(cls, url: str, root: Path) -> Path | None:
        """Return the folder of this machine that holds the store and nothing else; None where there is none, by default."""
        return None

    @classmethod
    def files(cls, url: str, root: Path) -> list[Path]:
        """Return the files and folders of this machine that others must not read: by default the folder."""
        folder = cls.folder(url, root)
        return [] if folder is None else [folder]

    @classmethod
    def shown(cls, url: str) -> str:
        """Return the address as it may be shown: without a password."""
        return hide_password(url)

    @classmethod
    def facts(cls, url: str) -> tuple[datetime, list[str]] | None:
        """Return the time that the server has, and what of its set-up may lose values, a sentence each; None without a server.

        Raises:
            OnlineStoreError: it cannot be reached.
        """
        return None


def hide_password(url: str) -> str:
    """Return an address as it may be shown.

    Example:
        >>> hide_password("rediss://user:secret@db:6379/0?ssl_password=secret")
        'rediss://user:***@db:6379/0?ssl_password=***'
    """
    # Up to the last @, so that a password with a / or ? in it, which is a mistake, is not shown either.
    url = re.sub(r"(?<=://)([^/?@:]*):.+@", r"\1:***@", url)
    return re.sub(r"(?<=password=)[^&]+", "***", url)
