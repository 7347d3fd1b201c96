"""Shortages of the machine: errors that mean too little memory, disk, threads or open files.

Such an error says nothing of the rows that were worked on when it came. Tried again later, the same work succeeds.
"""

import errno
import os
import re

_LACKS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EROFS})
_NO_THREAD = "can't start new thread"
_OF_RUST = re.compile(r"IO error: ([\w ]+) \(os error (\d+)\)$")
"""How Polars ends the text of a ``ComputeError`` where the operating system refused something."""
_OF_DUCKDB = "OutOfMemoryException"


def shortage_of(error: BaseException) -> Exception | None:
    """Return what was lacking where an error, or one that it was raised from, comes of that; None where it does not.

    Memory is a ``MemoryError``, a thread a ``RuntimeError``, all else an ``OSError`` with its number. What is returned has no text
    of the error's own, so it tells no value.

    Example:
        >>> shortage_of(OSError(28, "No space left on device", "/data/x"))
        OSError(28, 'No space left on device')
        >>> shortage_of(ValueError("'x' is not a number")) is None
        True
    """
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        lack = _lack(cause)
        if lack is not None:
            return lack
        cause = cause.__cause__
    return None


def _lack(error: BaseException) -> Exception | None:
    kind = type(error)
    if isinstance(error, MemoryError) or (kind.__name__ == _OF_DUCKDB and "duckdb" in kind.__module__):
        return MemoryError("not enough memory")
    if isinstance(error, RuntimeError) and str(error) == _NO_THREAD:
        return RuntimeError(_NO_THREAD)
    number = None
    if isinstance(error, OSError):
        number = error.errno
    elif kind.__module__.startswith("polars.") and isinstance(error, Exception):
        named = _OF_RUST.search(str(error))
        # NOTE: errors of Polars quote values. No row is to pass for a full disk by what it holds, so the words must fit the number.
        number = int(named[2]) if named and named[1] == os.strerror(int(named[2])) else None
    if number == errno.ENOMEM:
        return MemoryError("not enough memory")
    return OSError(number, os.strerror(number)) if number is not None and number in _LACKS else None
