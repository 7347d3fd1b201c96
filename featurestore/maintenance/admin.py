"""Administration, as ``store.admin``: what is done to a project as a whole, and seldom."""

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from featurestore.adapters import open_stream
from featurestore.components import Components
from featurestore.definitions.entity import Entity
from featurestore.definitions.reference import parse_references
from featurestore.definitions.stream_source import StreamSource
from featurestore.durable import make_folders, replace_file
from featurestore.errors import RequestError
from featurestore.given_paths import given_place
from featurestore.maintenance.backup import Backup, Restored
from featurestore.maintenance.delete_project import DeletionReport, Remover, tear_down
from featurestore.maintenance.doctor import DoctorReport, examine
from featurestore.maintenance.known_keys import known_keys
from featurestore.maintenance.maintain import Maintenance, MaintenanceOptions, MaintenanceReport, Retention, retention_of
from featurestore.maintenance.project_checks import ProjectChecks
from featurestore.materialization.progress import Progress
from featurestore.offline.folder import Folder, translated_errors
from featurestore.privacy.forget import ErasablePlaces, ForgetReport, Forgetter
from featurestore.registry.audit_trail import AuditRecord, EntityDigests, records
from featurestore.registry.database import Database
from featurestore.registry.delete_project import remove_project
from featurestore.registry.error_scrub import Remains
from featurestore.registry.migrations import MigrationReport

_REGISTRY, _WHOLE = "registry.db", "backup.json"
"""What a backup has beside the history; the second is written once all is there."""
_IDLE_SECONDS = 60.0
"""After how long a stream's entries go to another worker; forgetting takes none."""


class Admin:
    """Administer a project: maintenance, diagnosis, backup, erasure of entities, removal.

    Args:
        components: what the project is made of.
    """

    def __init__(self, components: Components) -> None:
        self._components = components

    # -- diagnosis and care ----------------------------------------------------------------------------------------------

    def doctor(self, *, repair: bool = False) -> DoctorReport:
        """Examine the project: settings, servers, clocks, disks, definitions, and registry, history and online store together.

        Of each view some entities are looked up in both stores and compared.

        Args:
            repair: first complete interrupted runs, and write online what the history has and the online store lacks.

        Returns:
            A finding for each check, with what to do about it; print it. ``is_well`` is true if no check failed.

        Example:
            >>> from featurestore import FeatureStore
            >>> with FeatureStore(".", project="empty") as store:
            ...     report = store.admin.doctor()
            >>> report.is_well, report[0].check, report[0].state
            (True, 'settings', 'ok')
        """
        # NOTE: what the checks import takes longer than all other commands of this class need.
        self._components.require_open()
        checks = ProjectChecks(self._components)
        repairs = [("repair", checks.repair)] if repair else []
        return examine([*repairs, *checks.all()])

    def maintain(
        self, views: Iterable[Any] | None = None, *, retention: timedelta | str | None = None, dry_run: bool = False
    ) -> MaintenanceReport:
        """Compact histories, remove files that nothing needs, and clean up versions that no reader is given.

        It may run at any time, beside runs, pushes and readers, and changes no feature's value. The scheduler does it by itself.

        Args:
            views: the views, as classes or names, also removed ones; None for all, and for what services answered.
            retention: how long replaced files and the rows of retired versions stay (``"7d"``), instead of the settings
                ``retention.files`` and ``retention.versions``. A reader that still uses a removed file must ask again.
            dry_run: change nothing; report the first step for each history.

        Returns:
            What was done; print it.

        Raises:
            NotFoundError: a view is not known.
            StoreError: a store cannot be reached; repeating it continues where this call stopped.

        Example:
            >>> import polars as pl
            >>> from datetime import datetime
            >>> from featurestore import Entity, FeatureStore, FeatureView, FrameSource
            >>> rows = pl.DataFrame({"origin": ["JFK"], "at": [datetime(2013, 7, 1)], "temp": [79.0]})
            >>> class Temps(FeatureView, entity=Entity("airport", origin=str), source=FrameSource("temps", rows, event_time="at")):
            ...     temp: float
            >>> with FeatureStore(".", project="kept") as store:
            ...     plan, done = store.apply([Temps]), store.materialize()
            ...     print(store.admin.maintain())
            kind         name                           files   after  merged  removed         bytes   deleted
            history      temps v1                           1       1       0        0             0         0
        """
        components = self._components
        catalog, maintenance = components.catalog_cache.refresh(), make_maintenance(components, retention_of(retention), dry_run)
        names = (
            None if views is None else list(dict.fromkeys(reference.view for reference in parse_references(views, where="views")))
        )
        for name in names or ():
            if name not in catalog.views:
                components.serving.versions(name)  # raises if there never was such a view
        histories = [
            result
            for name, view in sorted(catalog.views.items())
            if names is None or name in names
            for result in maintenance.keep_view(view)
        ]
        logs = maintenance.keep_logs() if names is None else []
        return MaintenanceReport([*histories, *maintenance.clean_up(names), *logs], dry_run=dry_run)

    def rebuild_online(self, views: Iterable[Any] | None = None, *, progress: Progress | None = None) -> dict[str, int]:
        """Write the latest values of the whole history online, for an online store that is new or lost values.

        Newer values that are online stay. Where the store has its values in another layout than its address asks for, all of them
        are deleted first, those of other views too.

        Args:
            views: the views, as classes or names; None for all.
            progress: receives the progress.

        Returns:
            How many values were written, by view.
        """
        components = self._components
        chosen = components.views(views)
        if components.watched_online.change_layout():
            components.online_epochs.announce()
        job, previous = components.materializer(progress).rebuilder, components.catalog_cache.refresh().previous_versions
        written = {applied.spec.name: job.rebuild(applied) for applied in chosen}
        for name in written.keys() & previous.keys():
            written[name] += job.rebuild(previous[name])
        return written

    # -- backup and removal ----------------------------------------------------------------------------------------------

    def backup(self, target: str | Path) -> Backup:
        """Copy the registry and the history to a folder or into object storage, while runs, pushes and readers go on.

        The copy has everything that was materialized or pushed before. It still has entities that are forgotten later. The online
        store is not copied: it is rebuilt from the history.

        Args:
            target: a folder that does not exist yet, or is empty; or an address such as ``"s3://bucket/backups/today"`` below which
                there is nothing. A relative path starts at the project's folder.

        Returns:
            What was copied, and how to restore it; print it.

        Raises:
            RequestError: the folder is not empty.
            RegistryError: the registry cannot be read.
            OfflineStoreError: a file cannot be read or written.

        Example:
            >>> from featurestore import FeatureStore
            >>> with FeatureStore(".", project="empty") as store:
            ...     backup = store.admin.backup("backup")
            >>> backup.registry, backup.files
            (True, 0)
        """
        components = self._components
        folder = self._backup_folder(target)
        place = folder.address()
        with translated_errors(folder, "listed"):
            is_used = (place.path is not None and place.path.is_file()) or folder.folders("") or folder.list("")
        if is_used:
            raise RequestError(f"{place.url} is not an empty folder. A backup needs a new or empty one: name another folder.")
        # The registry first: a history may know of later runs than the registry, but the other way round rows would be lost.
        registry = self._copy_registry(folder)
        files, size = components.backend.copy_project(components.settings.project, folder.address("offline").url)
        backup = Backup(place.url, registry, files, size)
        with translated_errors(folder, "written to"):  # last: with it, the backup is whole
            folder.write(_WHOLE, json.dumps({"project": components.settings.project, **backup.to_dict()}).encode())
        return backup

    def _copy_registry(self, folder: Folder) -> bool:
        database, place = self._components.registry.database, folder.address().path
        if place is not None:
            make_folders(place)
            return database.copy_to(place / _REGISTRY)
        with TemporaryDirectory() as beside:
            copy = Path(beside) / _REGISTRY
            is_file = database.copy_to(copy)
            if is_file:
                with translated_errors(folder, "written to"):
                    folder.write(_REGISTRY, copy.read_bytes())
        return is_file

    def restore(self, source: str | Path) -> Restored:
        """Bring a backup back: the history into the project's offline store, and the registry into its file.

        Neither may be there yet. The project's name must be that of the backup. A registry on PostgreSQL is restored by its own
        tools, before this. The online store is rebuilt afterwards, as the report says.

        Args:
            source: what ``backup`` was given: a folder, or an address in object storage.

        Returns:
            What was restored, and what to do next; print it.

        Raises:
            RequestError: there is no backup of the project, or the project has a registry or a history already.
            OfflineStoreError: a file cannot be read or written.
        """
        settings = self._components.settings
        folder, registry = self._backup_folder(source), settings.registry_file
        beside = [] if registry is None else [registry.with_name(registry.name + ending) for ending in ("", "-wal", "-shm")]
        if there := [path for path in beside if path.exists()]:
            raise RequestError(f"The project has a registry, {there[0]}, which is not written over. Move it away, then restore.")
        with translated_errors(folder, "read"):
            has_registry, is_whole = (folder.head(name) is not None for name in (_REGISTRY, _WHOLE))
        if not is_whole:
            raise RequestError(
                f"There is no {_WHOLE} in {folder.address().url}: it is not a backup, or one that did not come to its end. Name "
                "another one."
            )
        if registry is not None and not has_registry:
            raise RequestError(
                f"There is no {_REGISTRY} in {folder.address().url}: the registry was on PostgreSQL. Restore that one by "
                "pg_restore, and set 'registry' to its address."
            )
        files, size = self._components.backend.restore_project(settings.project, folder.address("offline").url)
        if registry is not None:  # last: with it, the project is there
            with translated_errors(folder, "read"):
                content = folder.read(_REGISTRY)
            make_folders(registry.parent)
            replace_file(registry, content)
        return Restored(folder.address().url, registry is not None, files, size)

    def _backup_folder(self, given: str | Path) -> Folder:
        components = self._components
        return components.open_folder(given_place(given, components.settings.root, "backup"))

    def delete_project(self, *, dry_run: bool = False) -> DeletionReport:
        """Delete everything that the project has in both stores and in the registry; its definitions and settings stay.

        Other projects on the same servers are not touched. Stop whatever serves, runs or pushes first. The file of an embedded
        online store keeps its size; delete its folder if nothing else is in it.

        Args:
            dry_run: count only; the number of online values is not known then.

        Returns:
            What was removed; print it.

        Raises:
            StoreError: a store cannot be reached; repeating it completes the removal.
        """
        components = self._components
        report = tear_down(components.settings.project, self._removers(), dry_run=dry_run)
        if not dry_run:
            components.catalog_cache.forget()
            components.watched_online.forget()
        return report

    def migrate(self, *, dry_run: bool = False) -> MigrationReport:
        """Bring the registry's tables to the schema version of this featurestore. The first use of a registry does so by itself.

        Args:
            dry_run: show the version found and what would be done; change nothing. Any other use of the store migrates.

        Returns:
            The version found, and what was done; print it.

        Raises:
            RegistryError: the registry is newer than this featurestore, or a migration failed and was undone.

        Example:
            >>> from featurestore import FeatureStore
            >>> with FeatureStore(".", project="empty") as store:
            ...     report = store.admin.migrate()
            >>> report.newest
            3
        """
        settings = self._components.settings
        database = Database(settings.registry, settings.root)
        try:
            return database.migrate(dry_run=dry_run)
        finally:
            database.close()

    def other_projects(self) -> list[str]:
        """Return the names of the other projects in this registry.

        Example:
            >>> from featurestore import Entity, FeatureStore
            >>> with FeatureStore(".", project="one") as store:
            ...     plan = store.apply([Entity("airport", origin=str)])
            >>> with FeatureStore(".", project="two") as store:
            ...     "one" in store.admin.other_projects()
            True
        """
        return self._components.registry.other_projects()

    # -- privacy ---------------------------------------------------------------------------------------------------------

    def forget(self, entity: Any, rows: Any, *, dry_run: bool = False, new_secret: bool = False) -> ForgetReport:
        """Erase one or more entities from everything that the project keeps; a tombstone keeps them from coming back.

        That is the history of every view on the entity, present and removed, with its older versions, pushed rows, the staged rows
        of interrupted runs, rejected rows, dead letters of streams, the online store, and the feature log. Forgetting again
        completes what was interrupted. Later runs and pushes skip the entity's rows and count them as ``its entity was
        forgotten``.

        An entity is found under all names that it has and had, and by keys of other types. Data versions whose join keys were
        different are reached only by those keys: the report names them.

        Args:
            entity: the entity, or its name, or a former name.
            rows: the join keys, ``{"user_id": 42}``, or a list of such for several; or former keys.
            dry_run: count only.
            new_secret: start with a new secret, if the one that the tombstones were made with is lost for good. Entities that
                were forgotten before may then come back.

        Returns:
            What was erased, and where; print it.

        Raises:
            NotFoundError: no view is or was on such an entity.
            RequestError: a key is missing, unknown or of the wrong type.
            RegistryError: the secret of the tombstones is missing, or is another one.
            StoreError: a store cannot be reached; forgetting again continues where this call stopped.

        Example:
            >>> import polars as pl
            >>> from datetime import datetime
            >>> from featurestore import Entity, FeatureStore, FeatureView, FrameSource
            >>> rows = pl.DataFrame({"user_id": [42, 7], "at": [datetime(2013, 7, 1)] * 2, "score": [0.5, 0.7]})
            >>> class Scores(FeatureView, entity=Entity("user", user_id=int), source=FrameSource("scored", rows, event_time="at")):
            ...     score: float
            >>> with FeatureStore(".", project="people") as store:
            ...     plan, done = store.apply([Scores]), store.materialize()
            ...     report = store.admin.forget("user", {"user_id": 42})
            ...     [again] = store.materialize(start="2013-01-01")
            >>> print(report)
            erased from    of                                     rows
            history        scores v1                                 1
            online         scores v1                                 1
            Forgot 1 user: 2 rows and values are erased, and a tombstone keeps them from coming back.
            >>> again.reasons
            {'its entity was forgotten': 1}
        """
        return self._forgetter().forget(_name(entity), rows, dry_run=dry_run, new_secret=new_secret)

    def unforget(self, entity: Any, rows: Any, *, dry_run: bool = False) -> ForgetReport:
        """Remove the tombstones of entities, so that they may come back with the next rows. What was erased stays erased.

        Args:
            entity: the entity, or its name, or a former name.
            rows: the join keys, or a list of such.
            dry_run: count only.

        Returns:
            Whose tombstones were removed; print it.

        Raises:
            NotFoundError: no view is or was on such an entity.
            RequestError: a key is missing, unknown or of the wrong type.
            RegistryError: the secret of the tombstones is missing, or is another one.
        """
        return self._forgetter().lift(_name(entity), rows, dry_run=dry_run)

    def entity_forms(self, name: str) -> list[Entity]:
        """Return an entity as it is and as it was, the latest first: former keys, keys of other types, other names.

        Raises:
            NotFoundError: no view is or was on such an entity.
        """
        return self._forgetter().forms(name)

    # -- audit trail -----------------------------------------------------------------------------------------------------

    def audit_trail(self, limit: int = 100) -> list[AuditRecord]:
        """Return who changed what the project keeps, grants or forgets, the newest first; forgotten entities by their digests.

        Args:
            limit: how many at most.

        Raises:
            RequestError: the limit is not a positive number.

        Example:
            >>> from featurestore import Entity, FeatureStore
            >>> with FeatureStore(".", project="audited") as store:
            ...     plan = store.apply([Entity("airport", origin=str)])
            ...     [record] = store.admin.audit_trail()
            >>> record.action, record.what
            ('apply', {'revision': 1, 'changed': ['entity airport 1']})
        """
        return records(self._components.registry, limit)

    @property
    def entity_digests(self) -> EntityDigests:
        """The keyed digests by which audit logs name entities: ``store.admin.entity_digests.of("user", {"id": 42})``."""
        return EntityDigests(self._components.registry)

    # -- within ----------------------------------------------------------------------------------------------------------

    def _removers(self) -> Mapping[str, Remover]:
        components = self._components
        return {
            # The history, which names what is online, goes after it.
            "online store": lambda dry_run: {"values": None if dry_run else self._remove_online()},
            "offline store": lambda dry_run: components.backend.delete_project(components.settings.project, dry_run=dry_run),
            "registry": lambda dry_run: remove_project(components.registry, dry_run=dry_run),
        }

    def _remove_online(self) -> int:
        """Delete the project's online values, and return how many there were; the store's marks are not counted."""
        components = self._components
        state = components.online_epochs.find()
        if state is None:
            return 0
        space = f"{state.space}/".encode()
        marks = space + b"!"
        components.online.delete(marks, known=[])
        deleted = components.online.delete(space, known=self._known_online(state.space))
        # NOTE: a store of very many keys deleted those that are known. Now it can look through what is left: that is little, where
        # no other project has a part in it.
        components.online.delete(marks)
        return deleted + components.online.delete(space)

    def _known_online(self, space: str) -> Iterator[list[bytes]]:
        components = self._components
        project, forms = components.settings.project, components.forgotten.forms()
        for view, number in components.backend.maintenance.tables(project):
            applied = forms.stored(view, number)
            if applied is not None:
                yield from known_keys(components.offline, project, applied, space)

    def _forgetter(self) -> Forgetter:
        components = self._components
        settings = components.settings
        streams = {
            name: partial(open_stream, source, settings.project, _IDLE_SECONDS)
            for name, source in sorted(components.catalog_cache.refresh().sources.items())
            if isinstance(source, StreamSource)
        }
        places = ErasablePlaces(
            components.backend.eraser,
            components.online,
            components.watched_online.space,
            components.feature_log,
            streams,
            Remains(components.registry),
        )
        return Forgetter(settings.project, components.tombstones, components.write_barrier, places)


def make_maintenance(components: Components, retention: timedelta | None = None, dry_run: bool = False) -> Maintenance:
    """Return what maintains the stores.

    Args:
        components: what the project is made of.
        retention: how long replaced files and retired versions stay; as the settings say, if None.
        dry_run: whether nothing is changed.
    """
    settings = components.settings
    files, versions = settings.retention.files, settings.retention.versions
    logs = None if settings.retention.logs == "forever" else settings.retention.logs
    kept = Retention(files, versions, logs) if retention is None else Retention(retention, retention, logs)
    options = MaintenanceOptions(kept, dry_run, components.workers)
    tables = components.backend.maintenance
    return Maintenance(components.stores(), components.serving, tables, components.feature_log, components.forgotten, options)


def _name(entity: Any) -> str:
    name: str = getattr(entity, "name", entity)
    return name
