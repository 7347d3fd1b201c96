"""Opening a Delta table: retried while its log is cleaned up, and refused in a forked process."""

from collections.abc import Callable
from pathlib import Path
from time import sleep
from typing import TypeVar

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from featurestore.errors import OfflineStoreError
from featurestore.forking import is_first_user

T = TypeVar("T")

_ATTEMPTS = 20
_PAUSE = 0.002


def open_delta(folder: Path, version: int | None = None) -> DeltaTable:
    """Open a table.

    Raises:
        OfflineStoreError: this process was forked by one that had opened some.
        TableNotFoundError: there is none.
        DeltaError: it cannot be read.
    """
    refuse_forked(folder)
    return DeltaTable(str(folder), version=version)


def refuse_forked(folder: Path) -> None:
    """Raise in a process forked from one that had opened a table, even if that table is still open.

    Raises:
        OfflineStoreError: the process was forked so.
    """
    if not is_first_user("deltalake"):
        raise OfflineStoreError(
            f"The history {folder} cannot be read in a process that was forked after its parent had used a history: the threads "
            "that read it are not copied. Start it without a fork, multiprocessing.get_context('spawn'), or fork before."
        )


def from_newest(folder: Path, take: Callable[[DeltaTable], T]) -> T:
    """Return what ``take`` gets from the table's newest version; retry if entries are taken out of its log meanwhile.

    Forgetting and upkeep take them out: a process that has listed the log finds an entry gone, and a newer one that replaces it.
    """
    for left in reversed(range(_ATTEMPTS)):
        try:
            return take(open_delta(folder))
        except TableNotFoundError:
            raise
        except (DeltaError, OSError):
            if not left:
                raise
            sleep(_PAUSE * (_ATTEMPTS - left))
    raise AssertionError("the last attempt raises")
