"""The write barrier of a project: all who write rows share it, and erasure has it alone. A lock of the registry."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter, sleep

from featurestore.errors import RegistryError
from featurestore.locks import Locks

_NAME = "writes"
_PATIENCE = 600.0
_HOLD = 0.25
"""For how many seconds new writers are kept waiting at first, so that those under way come to an end; then twice as long."""
_LONGEST_HOLD = 30.0


class WriteBarrier:
    """What every write of a project passes, in all its processes, so that somebody can wait until those under way are over.

    Args:
        locks: the locks of the project.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from featurestore.locks import FileLocks
        >>> barrier = WriteBarrier(FileLocks(Path(tempfile.mkdtemp())))
        >>> with barrier.shared(), barrier.shared():
        ...     pass
    """

    def __init__(self, locks: Locks) -> None:
        self._locks = locks

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Return a context in which something is written; any number of them may be open at once. Keep it short.

        Raises:
            RegistryError: an erasure did not end for minutes, or the registry cannot be reached.
            LockLostError: at the block's end: erasure may not have waited for what was written in it.
        """
        with self._locks.shared(_NAME, _PATIENCE) as taken:
            if not taken:
                raise RegistryError(
                    f"Writing waited {_PATIENCE:.0f} seconds for an erasure (featurestore forget). Is its process suspended? "
                    "End it, and repeat both."
                )
            yield

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Return a context that begins once all writes that were under way are over, and in which none goes on.

        Raises:
            RegistryError: a write did not end for minutes, or the registry cannot be reached.
            LockLostError: at the block's end: something may have been written in it.
        """
        end, hold = perf_counter() + _PATIENCE, _HOLD
        while True:
            with self._locks.exclusive(_NAME, hold) as taken:
                if taken:
                    yield
                    return
            if perf_counter() > end:
                raise RegistryError(
                    f"Runs or pushes of this project wrote for {_PATIENCE:.0f} seconds without a pause. Is one of their processes "
                    "suspended? Repeat this when they are done."
                )
            hold = min(2 * hold, _LONGEST_HOLD)
            sleep(_HOLD)
