"""The write barrier of a project: writers hold it shared, forgetting holds it alone. A lock on a file.

The system takes it from a process that is killed. Without ``flock`` (Windows) writers pass one after the other.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from featurestore.durable import make_folders, open_lock, touch
from featurestore.errors import OfflineStoreError
from featurestore.offline.delta.files import translated

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # which is what is asked below

_PATIENCE = 600.0
_PAUSE = 0.002
_HOLD = 0.25
"""For how many seconds new writers are kept waiting at first, so that those under way come to an end; then twice as long."""
_LONGEST_HOLD = 30.0


class FileWriteBarrier:
    """The gate of one project.

    Args:
        folder: a folder that all processes of the project share.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def passing(self) -> Iterator[None]:
        """See ``WriteBarrier.passing``."""
        with self._locked("_turn"):
            within = self._locked("_gate", shared=True)
            within.__enter__()
        try:
            yield
        finally:
            within.__exit__(None, None, None)

    @contextmanager
    def drained(self) -> Iterator[float]:
        """See ``WriteBarrier.drained``."""
        end, hold = time.perf_counter() + _PATIENCE, _HOLD
        while True:
            with self._locked("_turn"):
                if (within := self._try(min(end, time.perf_counter() + hold))) is not None:
                    break
            if time.perf_counter() > end:
                raise OfflineStoreError(
                    f"Runs or pushes of this project wrote for {_PATIENCE:.0f} seconds without a pause (the lock is "
                    f"{self._folder / '_gate'}). Is one of their processes suspended? Repeat this when they are done."
                )
            hold = min(2 * hold, _LONGEST_HOLD)
            time.sleep(_HOLD)
        try:
            yield touch(self._folder / "_gate")
        finally:
            within.close()

    def _try(self, end: float) -> "_Lock | None":
        while True:
            lock = _Lock(self._folder / "_gate")
            if lock.take(shared=False, wait=False):
                return lock
            lock.close()
            if time.perf_counter() > end:
                return None
            time.sleep(_PAUSE)

    @contextmanager
    def _locked(self, name: str, *, shared: bool = False) -> Iterator[None]:
        lock = _Lock(self._folder / name)
        try:
            lock.take(shared=shared, wait=True)
            yield
        finally:
            lock.close()


class _Lock:
    """A lock on a file, by a descriptor of its own: threads keep each other out as processes do."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._other: FileLock | None = None

    def take(self, *, shared: bool, wait: bool) -> bool:
        """Takes it, and tells whether it could."""
        with translated("lock", str(self._path)):
            if not self._path.parent.is_dir():  # at first, and after the project was deleted
                make_folders(self._path.parent)
            if fcntl is None:
                self._other = FileLock(self._path, is_singleton=False)
                try:
                    self._other.acquire(blocking=wait)
                except Timeout:
                    return False
                return True
            self._file = open_lock(self._path)
            try:
                fcntl.flock(self._file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                return False
        return True

    def close(self) -> None:
        """Gives it back."""
        if self._other is not None:
            self._other.release()
        if self._file is not None:
            assert fcntl is not None, "it was opened for it"
            # A forked child has the same descriptor, and would keep the lock with it.
            fcntl.flock(self._file, fcntl.LOCK_UN)
            os.close(self._file)
            self._file = None
