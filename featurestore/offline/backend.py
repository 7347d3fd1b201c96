"""What an offline store is to a project: a few small parts that are opened together, and the locks they are given."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import polars as pl

from featurestore.errors import OfflineStoreError
from featurestore.locks import Locks
from featurestore.offline.base import Eraser, FeatureLog, OfflineStore, SecretKeeper, Table, TableMaintenance
from featurestore.offline.condition import HistoryRepair
from featurestore.plugins import Context


@dataclass(frozen=True)
class StoreFacts:
    """What a store that is elsewhere says of itself, for the doctor.

    Args:
        address: where it is.
        now: the present by its clock.
        problems: what of its set-up may lose rows, or keeps those of entities that are forgotten; each with what to do.
        precision: how many seconds its clock rounds off.
    """

    address: str
    now: datetime
    problems: tuple[str, ...] = ()
    precision: float = 0.0


class OfflineBackend(ABC):
    """An offline store as a project works with it: a few small parts, opened together.

    An entry point of ``featurestore.offline_stores`` names a subclass, which opens the addresses of one URL scheme; a plain path
    has the scheme ``file``. Every project needs the parts that are abstract here. The others are optional; a class that lacks one
    raises ``OfflineStoreError`` where it is needed: ``eraser`` for ``featurestore forget``, ``query`` for ``store.sql``,
    ``copy_project`` for ``backup``,
    ``restore_project`` for ``restore``, ``delete_project``, and ``secret``, unless the setting ``tombstone_secret`` is given.

    What must exclude something else in other processes takes a lock of the project's, which ``open`` is given: locks and the write
    barrier are the registry's, so a backend on object storage needs none of its own.
    """

    @classmethod
    @abstractmethod
    def open(cls, url: str, context: Context, locks: Locks) -> "OfflineBackend":
        """Open the store at an address.

        Args:
            url: the setting ``offline``, as it is written.
            context: the project's folder and name, its clock, how many threads may write.
            locks: the project's locks.

        Raises:
            ConfigError: the address is of another form.
            OfflineStoreError: the store cannot be opened.
        """

    @classmethod
    def folder(cls, url: str, root: Path) -> Path | None:
        """Return the folder of this machine that an address names; None if the store is elsewhere. Nothing is opened.

        The doctor looks whether it can be written and who else can read it.
        """
        return None

    @property
    @abstractmethod
    def history(self) -> OfflineStore:
        """The history of each view, and the log of pushes."""

    @property
    @abstractmethod
    def feature_log(self) -> FeatureLog:
        """What services answered."""

    @property
    @abstractmethod
    def maintenance(self) -> TableMaintenance:
        """What lists and compacts tables, and removes files that nobody needs."""

    @property
    @abstractmethod
    def repair(self) -> HistoryRepair:
        """What compares histories with the ledger, and mends them."""

    @property
    def eraser(self) -> Eraser:
        """What takes forgotten entities out of everything."""
        raise self._lacking("a way to erase entities", "Erase them there by its own means")

    def query(self, query: str, tables: Mapping[str, Table]) -> pl.DataFrame:
        """Return the result of a SELECT in which every view's history is a table of its name.

        Args:
            query: one statement of DuckDB's SQL. Time zones are UTC.
            tables: the table of each view, by the name it has in the query.

        Raises:
            NotFoundError: the query names a table that is not a view.
            RequestError: the query is refused.
        """
        raise self._lacking("a way to run SQL", "Query it there by its own means, or take a training frame")

    def copy_project(self, project: str, target: str) -> tuple[int, int]:
        """Copy all that a project has to an empty place; return how many files, and their bytes.

        Args:
            project: the project.
            target: the address of the place: a folder of this machine, or what else this class can write to.

        Raises:
            OfflineStoreError: it cannot be copied there.
        """
        raise self._lacking("a way to back up a project", "Back it up there by its own means")

    def delete_project(self, project: str, *, dry_run: bool) -> dict[str, int]:
        """Delete, or count, all that a project has; return how many files or tables, by view."""
        raise self._lacking("a way to delete a project", "Delete it there by its own means")

    def secret(self, project: str) -> SecretKeeper:
        """Return what keeps the secret of a project's tombstones."""
        raise self._lacking("a place for the secret of tombstones", "Give the setting 'tombstone_secret'")

    def restore_project(self, project: str, source: str) -> tuple[int, int]:
        """Bring back what ``copy_project`` has copied, where the project has nothing yet; return how many files, and their bytes.

        Args:
            project: the project.
            source: the address that ``copy_project`` was given.

        Raises:
            RequestError: there is no copy of the project there, or the project has a history already.
            OfflineStoreError: it cannot be read or written.
        """
        raise self._lacking("a way to restore a project", "Restore it there by its own means")

    def facts(self) -> StoreFacts | None:
        """Return what the store says of itself once it was tried whether it can be written; None of a folder of this machine.

        Raises:
            OfflineStoreError: it cannot be reached, or cannot keep a history.
        """
        return None

    def _lacking(self, what: str, instead: str) -> OfflineStoreError:
        return OfflineStoreError(f"The offline store {type(self).__name__} does not have {what}. {instead}, or use another store.")
