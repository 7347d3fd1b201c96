"""Delta tables as their library sees them: opening one, and what it writes by itself.

A table is opened again while its log is cleaned up, and refused in a forked process. On a disk of this machine its library neither
flushes what it writes nor keeps others from reading it, so that is done here.
"""

from collections.abc import Callable
from time import sleep
from typing import TypeVar

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from featurestore import durable
from featurestore.errors import OfflineStoreError
from featurestore.forking import is_first_user
from featurestore.offline.folder import Address, Folder, is_local
from featurestore.offline.object_errors import is_out_of_reach

T = TypeVar("T")

_ATTEMPTS = 20
_PAUSE = 0.002


def open_delta(folder: Folder, version: int | None = None) -> DeltaTable:
    """Open a table.

    Raises:
        OfflineStoreError: this process was forked by one that had opened some.
        TableNotFoundError: there is none.
        DeltaError: it cannot be read.
    """
    refuse_forked(folder)
    address = folder.address()
    return DeltaTable(address.url, version=version, storage_options=delta_options(address))


def delta_options(address: Address) -> dict[str, str] | None:
    """Return what the library of Delta calls ``storage_options``; None for a folder of this machine."""
    if address.path is not None:
        return None
    # The environment may switch conditions off (AWS_CONDITIONAL_PUT), without which commits are lost.
    return {**address.options, "conditional_put": "etag"} if address.url.startswith("s3://") else dict(address.options)


def refuse_forked(folder: Folder) -> None:
    """Raise in a process forked from one that had opened a table, even if that table is still open.

    Raises:
        OfflineStoreError: the process was forked so.
    """
    if not is_first_user("deltalake"):
        raise OfflineStoreError(
            f"The history {folder.address().url} cannot be read in a process that was forked after its parent had used a history: "
            "the threads that read it are not copied. Start it without a fork, multiprocessing.get_context('spawn'), or fork "
            "before."
        )


def from_newest(folder: Folder, take: Callable[[DeltaTable], T]) -> T:
    """Return what ``take`` gets from the table's newest version; retry if entries are taken out of its log meanwhile.

    Forgetting and upkeep take them out: a process that has listed the log finds an entry gone, and a newer one that replaces it.
    """
    for left in reversed(range(_ATTEMPTS)):
        try:
            return take(open_delta(folder))
        except TableNotFoundError:
            raise
        except (DeltaError, OSError) as error:
            if not left or (not is_local(folder) and is_out_of_reach(error)):
                raise
            sleep(_PAUSE * (_ATTEMPTS - left))
    raise AssertionError("the last attempt raises")


def prepare(folder: Folder, name: str) -> None:
    """Make a folder that the library is to write to, if it is one of this machine: others are kept out then."""
    path = folder.address(name).path
    if path is not None:
        durable.make_folders(path)


def settle(folder: Folder, name: str) -> None:
    """Take over what the library wrote into a folder; in object storage an object is whole and lasts once it is there."""
    path = folder.address(name).path
    if path is not None:
        durable.settle(path)
