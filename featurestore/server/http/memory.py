"""The memory of request bodies: a limit on all of them together, and its release."""

import ctypes
import sys
import threading
import traceback

from featurestore.errors import UnavailableError

MIB = 1 << 20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE = 1 * MIB


class Budget:
    """The bytes that bodies may take at once. What comes whole in one piece is not counted: that is small.

    Args:
        most: how many.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._large_came = False
        self.held = 0

    def take(self, size: int) -> None:
        """Count bytes that a body brought.

        Raises:
            UnavailableError: together they would be too many.
        """
        with self._lock:
            if self.held + size > self._most:
                raise UnavailableError(
                    f"The bodies that the server works on have {self.held:,} bytes, and {self._most:,} are allowed at once "
                    "(server.max_bodies_mib). Try again later.",
                    1,
                )
            self.held += size

    def give_back(self, size: int) -> None:
        """Count them no more."""
        with self._lock:
            self.held -= size
            self._large_came = self._large_came or size >= _LARGE
            trims = self._large_came and not self.held
            if trims:
                self._large_came = False
        if trims:
            threading.Thread(target=trim, name="featurestore-trim", daemon=True).start()


def clear_frames(error: BaseException) -> None:
    """Free what the functions that an error came through hold in their variables: the body of a request, above all.

    NOTE: a future holds its error, the error its traceback, and that the function that waits for the future. Python frees such
    a circle at some later time of its own choosing, and the bodies of refused requests with it: 85 MiB after 2,000 hostile ones.
    """
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        error_left = left.pop()
        if error_left is not None and id(error_left) not in seen:
            seen.add(id(error_left))
            traceback.clear_frames(error_left.__traceback__)
            left += [error_left.__cause__, error_left.__context__]
            left += error_left.exceptions if isinstance(error_left, BaseExceptionGroup) else ()


def trim() -> None:
    """Give what is free back to the system: also what lies between blocks that are in use."""
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "malloc_trim"):
            library.malloc_trim(0)


def give_back_large_blocks() -> None:
    """Have the C library give large blocks back to the system as they are freed.

    NOTE: glibc raises its threshold to the largest block that was ever freed, up to 32 MiB. A burst of large bodies would
    stay with the process for good, in the gaps between small blocks.
    """
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "mallopt"):  # musl has none, and needs none
            library.mallopt(_M_MMAP_THRESHOLD, _LARGE)
            library.mallopt(_M_TRIM_THRESHOLD, 8 * _LARGE)
