"""Locks by name: a project's processes exclude one another, or let several share. On files here; in PostgreSQL in the registry.

A lock belongs to the block that took it. The system takes it from a process that is killed, so a lock needs no clock and no lease.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from hashlib import blake2b
from pathlib import Path
from time import perf_counter, sleep
from typing import Protocol
from urllib.parse import quote

from filelock import FileLock, Timeout

from featurestore.durable import make_folders, open_lock
from featurestore.errors import RegistryError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # which is what is asked below

_PAUSE = 0.001
_NAME_LENGTH = 100


class Locks(Protocol):
    """The locks of one project, by name. Threads exclude each other as processes do; a lock cannot be taken twice by one thread.

    Who waits for an exclusive lock comes before those who ask for a shared one later.
    """

    def shared(self, name: str, wait_seconds: float) -> AbstractContextManager[bool]:
        """Return a context in which nobody has the lock exclusively; any number may share it.

        Args:
            name: what is locked. Any text.
            wait_seconds: how long to wait for it.

        Returns:
            A context that gives whether the lock was taken.

        Raises:
            LockLostError: at the block's end: the lock may have been another's for some of the time.
            StoreError: the lock cannot be asked for.
        """

    def exclusive(self, name: str, wait_seconds: float) -> AbstractContextManager[bool]:
        """Return a context in which nobody else has the lock. As ``shared``; zero seconds make one attempt."""


class FileLocks:
    """Locks on files of a folder, for processes of one machine.

    Without ``flock`` (Windows) those that would share a lock take it one after the other.

    Args:
        folder: a folder that all of the processes share. It is made at the first lock.

    Example:
        >>> import tempfile
        >>> locks = FileLocks(Path(tempfile.mkdtemp()))
        >>> with locks.exclusive("weather", 1.0) as taken, locks.exclusive("weather", 0.0) as taken_again:
        ...     taken, taken_again
        (True, False)
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def shared(self, name: str, wait_seconds: float) -> Iterator[bool]:
        """See ``Locks.shared``."""
        with self._locked(name, wait_seconds, shared=True) as taken:
            yield taken

    @contextmanager
    def exclusive(self, name: str, wait_seconds: float) -> Iterator[bool]:
        """See ``Locks.exclusive``."""
        with self._locked(name, wait_seconds, shared=False) as taken:
            yield taken

    @contextmanager
    def _locked(self, name: str, wait_seconds: float, *, shared: bool) -> Iterator[bool]:
        end = perf_counter() + wait_seconds
        with closing(self._lock(name, ".lock")) as lock:
            with closing(self._lock(name, ".turn")) as turn:  # while this one waits, nobody new comes before it
                taken = turn.take(end, shared=False) and lock.take(end, shared=shared)
            yield taken

    def _lock(self, name: str, ending: str) -> "_Lock":
        # Shortened to what a file may be called; the digest tells apart what is alike then, or differs in case alone.
        digest = blake2b(name.encode(), digest_size=8).hexdigest()
        return _Lock(self._folder / f"{quote(name, safe='')[:_NAME_LENGTH]}-{digest}{ending}")


class _Lock:
    """A lock on a file, by a descriptor of its own: threads keep each other out as processes do."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._other: FileLock | None = None

    def take(self, end: float, *, shared: bool) -> bool:
        """Take it until a moment of the stopwatch, and return whether it could be taken."""
        try:
            while not self._try(shared=shared):
                if perf_counter() > end:
                    return False
                sleep(_PAUSE)
        except OSError as error:
            raise RegistryError(
                f"The lock {self._path} cannot be taken: {error.strerror or error}. May this process write in its folder?"
            ) from error
        return True

    def _try(self, *, shared: bool) -> bool:
        if not self._path.parent.is_dir():  # at first, and after the project was deleted
            make_folders(self._path.parent)
        if fcntl is None:
            self._other = FileLock(self._path, is_singleton=False)
            try:
                self._other.acquire(blocking=False)
            except Timeout:
                return False
            return True
        if self._file is None:
            self._file = open_lock(self._path)
        try:
            fcntl.flock(self._file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Give it back, if it was taken."""
        if self._other is not None:
            self._other.release()
        if self._file is not None:
            # A forked child has the same descriptor, and would keep the lock with it.
            fcntl.flock(self._file, fcntl.LOCK_UN)
            os.close(self._file)
            self._file = None
