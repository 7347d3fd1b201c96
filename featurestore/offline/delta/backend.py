"""The offline store in a folder, on a disk or in object storage: every part of it in Delta tables."""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from featurestore.clock import from_micros
from featurestore.errors import RequestError
from featurestore.given_paths import folder_path
from featurestore.locks import Locks
from featurestore.object_storage import is_object_address
from featurestore.offline.backend import OfflineBackend, StoreFacts
from featurestore.offline.base import Table
from featurestore.offline.delta.copy import copy_project
from featurestore.offline.delta.delete_project import remove_project
from featurestore.offline.delta.eraser import DeltaEraser
from featurestore.offline.delta.feature_log import DeltaFeatureLog
from featurestore.offline.delta.files import translated
from featurestore.offline.delta.history import DeltaStore
from featurestore.offline.delta.maintenance import DeltaMaintenance
from featurestore.offline.delta.repair import DeltaRepair
from featurestore.offline.delta.secret_file import SecretFile
from featurestore.offline.folder import Folder, is_local, present
from featurestore.offline.folder_probe import keeps_versions, probe
from featurestore.offline.open_folder import open_folder
from featurestore.plugins import Context


class DeltaBackend(OfflineBackend):
    """Open the stores whose address is a path, relative to the project's folder, or is in object storage.

    A bucket is probed before the first row is written: one that ignores conditions would lose commits, and is refused.

    Args:
        folder: where the tables lie.
        context: the project's clock, and how many threads may write.
        locks: the project's locks.
    """

    def __init__(self, folder: Folder, context: Context, locks: Locks) -> None:
        self._folder = folder
        self._context = context
        self._locks = locks
        self._history = DeltaStore(folder, locks=locks, clock=context.clock, threads=context.threads)

    @classmethod
    def open(cls, url: str, context: Context, locks: Locks) -> "DeltaBackend":
        """See ``OfflineBackend.open``."""
        return cls(open_folder(url, context.root, context.storage_options), context, locks)

    @classmethod
    def folder(cls, url: str, root: Path) -> Path | None:
        """See ``OfflineBackend.folder``."""
        return None if is_object_address(url) else folder_path(url, root)

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
        return copy_project(
            self._folder.inside(project), open_folder(target, options=self._context.storage_options).inside(project)
        )

    def restore_project(self, project: str, source: str) -> tuple[int, int]:
        """See ``OfflineBackend.restore_project``."""
        copies = open_folder(source, options=self._context.storage_options)
        own = self._folder.inside(project)
        with translated("read", copies.address().url):
            if not any(copies.inside(project).folders("")):
                names = ", ".join(name.rstrip("/") for name in copies.folders("")) or "nothing"
                raise RequestError(f"{copies.address().url} has no history of the project {project!r}; there is {names}.")
        with translated("read", own.address().url):
            if any(own.folders("")):
                raise RequestError(
                    f"The project {project!r} has a history in {own.address().url} already, which is not written over. "
                    "Move it away, or set 'offline' to another place."
                )
        return copy_project(copies.inside(project), own)

    def facts(self) -> StoreFacts | None:
        """See ``OfflineBackend.facts``."""
        folder = self._folder.inside(self._context.project)
        if is_local(folder):
            return None
        problems = []
        with translated("write", folder.address().url):
            probe(folder)
            is_versioned = keeps_versions(folder)
            now = present(folder)
            if is_versioned:
                problems.append(
                    "the bucket keeps what is deleted, as older versions: an entity that is forgotten stays in these. Switch "
                    "versions (and object lock) off, or let a lifecycle rule delete older versions soon"
                )
        return StoreFacts(folder.address().url, from_micros(int(now * 1e6)), tuple(problems), precision=1.0)

    def delete_project(self, project: str, *, dry_run: bool) -> dict[str, int]:
        """See ``OfflineBackend.delete_project``."""
        return remove_project(self._folder.inside(project), dry_run=dry_run)

    def secret(self, project: str) -> SecretFile:
        """See ``OfflineBackend.secret``."""
        return SecretFile(self._folder.inside(project), "_tombstone_secret")
