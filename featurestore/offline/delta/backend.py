"""The offline store in a folder: every part of it in Delta tables."""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from featurestore.errors import OfflineStoreError
from featurestore.locks import Locks
from featurestore.offline.backend import OfflineBackend
from featurestore.offline.base import Table
from featurestore.offline.delta.copy import copy_project
from featurestore.offline.delta.delete_project import remove_project
from featurestore.offline.delta.eraser import DeltaEraser
from featurestore.offline.delta.feature_log import DeltaFeatureLog
from featurestore.offline.delta.history import DeltaStore
from featurestore.offline.delta.log_size import store_folder
from featurestore.offline.delta.maintenance import DeltaMaintenance
from featurestore.offline.delta.repair import DeltaRepair
from featurestore.offline.delta.secret_file import SecretFile
from featurestore.plugins import Context


class DeltaBackend(OfflineBackend):
    """Open the stores whose address is a path: a folder, relative to the project's.

    Args:
        folder: where the tables lie.
        context: the project's clock, and how many threads may write.
        locks: the project's locks.
    """

    def __init__(self, folder: Path, context: Context, locks: Locks) -> None:
        self._folder = folder
        self._context = context
        self._locks = locks
        self._history = DeltaStore(folder, locks=locks, clock=context.clock, threads=context.threads)

    @classmethod
    def open(cls, url: str, context: Context, locks: Locks) -> "DeltaBackend":
        """See ``OfflineBackend.open``."""
        return cls(store_folder(url, context.root), context, locks)

    @classmethod
    def folder(cls, url: str, root: Path) -> Path:
        """See ``OfflineBackend.folder``."""
        return store_folder(url, root)

    @property
    def history(self) -> DeltaStore:
        """See ``OfflineBackend.history``."""
        return self._history

    @property
    def feature_log(self) -> DeltaFeatureLog:
        """See ``OfflineBackend.feature_log``."""
        return DeltaFeatureLog(self._folder, locks=self._locks)

    @property
    def maintenance(self) -> DeltaMaintenance:
        """See ``OfflineBackend.maintenance``."""
        return DeltaMaintenance(self._history, clock=self._context.clock)

    @property
    def repair(self) -> DeltaRepair:
        """See ``OfflineBackend.repair``."""
        return DeltaRepair(self._history, clock=self._context.clock)

    @property
    def eraser(self) -> DeltaEraser:
        """See ``OfflineBackend.eraser``."""
        return DeltaEraser(self._history, clock=self._context.clock)

    def query(self, query: str, tables: Mapping[str, Table]) -> pl.DataFrame:
        """See ``OfflineBackend.query``."""
        from featurestore.offline.delta.sql import query_history  # DuckDB, which nothing else of a project imports

        return query_history(query, tables, self._history)

    def copy_project(self, project: str, target: str) -> tuple[int, int]:
        """See ``OfflineBackend.copy_project``."""
        if "://" in target:
            raise OfflineStoreError(f"A history in a folder is copied to a folder; {target!r} is an address. Name a folder.")
        return copy_project(self._folder, project, Path(target))

    def delete_project(self, project: str, *, dry_run: bool) -> dict[str, int]:
        """See ``OfflineBackend.delete_project``."""
        return remove_project(self._folder, project, dry_run=dry_run)

    def secret(self, project: str) -> SecretFile:
        """See ``OfflineBackend.secret``."""
        return SecretFile(self._folder / project / "_tombstone_secret")
