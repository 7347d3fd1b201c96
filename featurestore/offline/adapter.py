"""What a plug-in of offline stores brings: its store, and what else it can do for a project."""

from abc import ABC, abstractmethod
from pathlib import Path

from featurestore.errors import OfflineStoreError
from featurestore.offline.base import Eraser, FeatureLog, OfflineStore, Upkeep
from featurestore.offline.condition import Mender
from featurestore.plugins import Context


class OfflineAdapter(ABC):
    """What an entry point of ``featurestore.offline_stores`` names: a class that opens the stores of a URL scheme.

    A plain path has the scheme ``file``. Four methods open the parts of a store that a project works with. The others are optional:
    what a class lacks of them raises ``OfflineStoreError`` where a user asks for it.
    """

    @classmethod
    @abstractmethod
    def open(cls, url: str, context: Context) -> OfflineStore:
        """Open the store at an address.

        Args:
            url: the setting ``offline``, as it is written.
            context: the project's folder and name, its clock, how many threads may write.

        Raises:
            ConfigError: the address is of another form.
            OfflineStoreError: the store cannot be opened.
        """

    @classmethod
    @abstractmethod
    def feature_log(cls, url: str, context: Context) -> FeatureLog:
        """Open the log of what services answered."""

    @classmethod
    @abstractmethod
    def upkeep(cls, url: str, context: Context) -> Upkeep:
        """Open what lists and compacts tables, and removes files that nobody needs."""

    @classmethod
    @abstractmethod
    def mender(cls, url: str, context: Context) -> Mender:
        """Open what compares histories with the ledger, and mends them."""

    @classmethod
    def eraser(cls, url: str, context: Context) -> Eraser:
        """Open what erases entities that are forgotten."""
        raise _lacking(url, "a way to erase entities", "Erase them there by its own means")

    @classmethod
    def remove_project(cls, url: str, context: Context, *, dry_run: bool) -> dict[str, int]:
        """Delete, or count, all that a project has; return how many files or tables, by view."""
        raise _lacking(url, "a way to delete a project", "Delete it there by its own means")

    @classmethod
    def copy_project(cls, url: str, context: Context, target: Path) -> tuple[int, int]:
        """Copy all that a project has to an empty folder of this machine; return how many files, and their bytes."""
        raise _lacking(url, "a way to back up a project", "Back it up there by its own means")


def _lacking(url: str, what: str, instead: str) -> OfflineStoreError:
    scheme = url.partition("://")[0]
    return OfflineStoreError(f"The plug-in of the offline store {scheme!r} has not {what}. {instead}, or use another store.")
