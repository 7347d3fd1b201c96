"""Memory: how much of it the bodies of requests may take at once, and that it is given back."""

import ctypes
import sys
import threading

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
        self.held = 0

    def take(self, size: int) -> None:
        """Counts bytes that a body brought.

        Raises:
            UnavailableError: together they would be too many.
        """
        with self._lock:
            if self.held + size > self._most:
                raise UnavailableError(
                    f"The bodies that the server works on have {self.held:,} bytes, and {self._most:,} are allowed at once "
                    "(server_bodies_mib). Try again later.",
                    1,
                )
            self.held += size

    def give_back(self, size: int) -> None:
        """Counts them no more."""
        with self._lock:
            self.held -= size
            idle = not self.held
        if idle and size >= _LARGE:
            threading.Thread(target=trim, name="featurestore-trim", daemon=True).start()


def trim() -> None:
    """Gives what is free back to the system: also what lies between blocks that are in use."""
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "malloc_trim"):
            library.malloc_trim(0)


def give_back_large_blocks() -> None:
    """Has the C library give large blocks back to the system as they are freed.

    NOTE: glibc raises its threshold to the largest block that was ever freed, up to 32 MiB. A burst of large bodies would
    stay with the process for good, in the gaps between small blocks.
    """
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "mallopt"):  # musl has none, and needs none
            library.mallopt(_M_MMAP_THRESHOLD, _LARGE)
            library.mallopt(_M_TRIM_THRESHOLD, 8 * _LARGE)
