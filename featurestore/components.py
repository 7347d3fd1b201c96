"""Components: what a project's feature store is made of. Each is made at first use; the one place that opens adapters."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from featurestore.adapters import (
    is_online_here,
    open_engine,
    open_offline,
    open_online,
    open_place,
    open_source,
    open_stream,
    own_folders,
)
from featurestore.clock import Clock
from featurestore.config import Settings
from featurestore.definitions.catalog import AppliedView, BoundView
from featurestore.definitions.reference import parse_references
from featurestore.definitions.source import Source
from featurestore.durable import share_with_group
from featurestore.engines.base import Engine
from featurestore.errors import NotFoundError
from featurestore.locks import Locks
from featurestore.maintenance.check_history import HistoryChecks
from featurestore.materialization.materializer import Materializer
from featurestore.materialization.online_repair import OnlineRepair
from featurestore.materialization.online_trust import WatchedOnline
from featurestore.materialization.progress import Progress, Silence
from featurestore.materialization.push import Pusher
from featurestore.materialization.stores import MaterializeOptions, Stores
from featurestore.materialization.tasks import ProjectElsewhere, Workers
from featurestore.offline.backend import OfflineBackend
from featurestore.offline.base import FeatureLog, OfflineStore, Table
from featurestore.offline.folder import Folder
from featurestore.once import MadeOnce, closed_with_owner, once
from featurestore.online.base import OnlineStore
from featurestore.privacy.guarded_stores import ForgottenFilter, GuardedFeatureLog, GuardedOffline, GuardedOnline
from featurestore.project.apply import Applier
from featurestore.project.definition_loader import DefinitionLoader, KnownCatalog
from featurestore.registry.advisory_locks import project_locks
from featurestore.registry.api_keys import Keys
from featurestore.registry.catalog_cache import CatalogCache
from featurestore.registry.ledger import Ledger
from featurestore.registry.online_epochs import OnlineEpochs
from featurestore.registry.serving import Serving
from featurestore.registry.specs import SpecRegistry
from featurestore.registry.tombstone_secret import TombstoneSecret
from featurestore.registry.tombstones import Tombstones
from featurestore.registry.write_barrier import WriteBarrier
from featurestore.retrieval.online import OnlineReader
from featurestore.retrieval.scratch import Scratch
from featurestore.retrieval.training import TrainingReader
from featurestore.selection.select import Selection, select
from featurestore.sources.base import SourceReader
from featurestore.streams.control import Streams
from featurestore.streams.pending_entries import PendingLimits

Fold = Callable[[BoundView], None]
"""Adds what was pushed to a view to its history."""


class Components(MadeOnce):
    """The parts of a project's feature store, chosen by its settings.

    Thread-safe, and safe to use in a forked child. ``close()`` closes what was opened, in reverse order.

    Args:
        settings: the settings.
        clock: returns the present.
        elsewhere: returns what names the project for workers of a cluster; None where no piece of a run is given to any.

    Example:
        >>> from featurestore.clock import utc_now
        >>> from featurestore.config import Settings
        >>> components = Components(Settings(project="empty"), utc_now)
        >>> components.catalog_cache.current.revision
        0
        >>> components.close()
    """

    def __init__(self, settings: Settings, clock: Clock, elsewhere: Callable[[Settings], ProjectElsewhere] | None = None) -> None:
        super().__init__()
        self.settings = settings
        self.clock = clock
        self._elsewhere = elsewhere
        if settings.file_mode == "group":
            for folder in own_folders(settings):
                share_with_group(folder)

    # -- registry --------------------------------------------------------------------------------------------------------

    @closed_with_owner
    def registry(self) -> SpecRegistry:
        """The registry of definitions, and the database that everything else in it shares."""
        return SpecRegistry(self.settings.registry, self.settings.project, self.settings.root, self.clock)

    @once
    def ledger(self) -> Ledger:
        """The ledger of runs."""
        return Ledger(self.registry)

    @once
    def serving(self) -> Serving:
        """Which version of each view readers are given."""
        return Serving(self.registry)

    @once
    def online_epochs(self) -> OnlineEpochs:
        """What the registry knows of the online store's content."""
        return OnlineEpochs(self.registry)

    @once
    def tombstones(self) -> Tombstones:
        """Who is forgotten."""
        secret = TombstoneSecret(self.backend.secret(self.settings.project), self.settings.tombstone_secret)
        return Tombstones(self.registry, secret)

    @once
    def locks(self) -> Locks:
        """The project's locks."""
        return project_locks(self.registry.database, self.settings.project)

    @once
    def write_barrier(self) -> WriteBarrier:
        """What all writes of rows share, and erasure has alone."""
        return WriteBarrier(self.locks)

    @once
    def api_keys(self) -> Keys:
        """The API keys of the project's server."""
        return Keys(self.registry)

    # -- definitions -----------------------------------------------------------------------------------------------------

    @once
    def definition_loader(self) -> DefinitionLoader:
        """The loader of the project's definitions, which binds applied views to their transforms."""
        return DefinitionLoader(self.settings.root / self.settings.definitions, self.settings.root)

    @closed_with_owner
    def catalog_cache(self) -> CatalogCache:
        """What is applied: ``refresh()`` asks the registry, ``current`` is a few seconds old."""
        source = KnownCatalog(self.registry, self.definition_loader)
        return CatalogCache(source, self.settings.catalog_refresh.total_seconds(), self._drop_plans)

    @once
    def applier(self) -> Applier:
        """The planner of changes to what is applied."""
        asked = self.open_source, self.count_rows, self.serving.retained, self.history_checks.place
        return Applier(self.registry, *asked, self._adopt)

    def views(self, views: Iterable[Any] | None) -> list[AppliedView]:
        """Return applied views by class or name; all of them for None.

        Raises:
            NotFoundError: a view is not applied.
        """
        catalog = self.catalog_cache.refresh()
        if views is None:
            return list(catalog.views.values())
        names = dict.fromkeys(reference.view for reference in parse_references(views, where="views"))
        for name in names:
            if name not in catalog.views:
                raise NotFoundError("applied feature view", name, catalog.views, "Definitions take effect once they are applied.")
        return [catalog.views[name] for name in names]

    def select(self, features: Any) -> Selection:
        """Return what a reader of features gets, by the catalog as it is now."""
        return select(self.catalog_cache.refresh(), parse_references(features))

    def select_cached(self, features: Any) -> Selection:
        """Return the same by the cached catalog: the registry is not asked."""
        return select(self.catalog_cache.current, parse_references(features))

    # -- stores ----------------------------------------------------------------------------------------------------------

    @once
    def forgotten(self) -> ForgottenFilter:
        """The filter that keeps forgotten entities out of everything that is written or read."""
        return ForgottenFilter(self.write_barrier, lambda: self.tombstones, lambda: self.catalog_cache.refresh().revision)

    @once
    def backend(self) -> OfflineBackend:
        """The offline store as it is; what writes rows goes through ``offline``, which leaves out who is forgotten."""
        return open_offline(self.settings, self.clock, self.locks)

    @once
    def offline(self) -> OfflineStore:
        """The histories."""
        return GuardedOffline(self.backend.history, self.forgotten)

    @once
    def feature_log(self) -> FeatureLog:
        """What services answered."""
        return GuardedFeatureLog(self.backend.feature_log, self.forgotten)

    @once
    def online(self) -> OnlineStore:
        """The latest values."""
        return GuardedOnline(self.watched_online, self.forgotten, self.watched_online)

    @closed_with_owner
    def watched_online(self) -> WatchedOnline:
        """The online store, with an eye on whether it lost values."""
        store = open_online(self.settings, self.clock)
        return WatchedOnline(store, self.online_epochs, lambda: self.catalog_cache.refresh().online, self._with_history)

    @closed_with_owner
    def online_repair(self) -> OnlineRepair:
        """The repair of lost online values from the history, in the background."""

        def rebuild(view: AppliedView, progress: Progress) -> int:
            return self.materializer(progress).rebuilder.rebuild(view)

        return OnlineRepair(self.registry, self.watched_online.look, lambda: self.catalog_cache.refresh().online, rebuild)

    @once
    def history_checks(self) -> HistoryChecks:
        """The checks of the histories, and their repair."""
        tables = self.backend.maintenance.tables
        return HistoryChecks(self.settings.project, self.ledger, self.backend.repair, tables, self.forgotten)

    @closed_with_owner
    def engine(self) -> Engine:
        """The engine that runs the partitions of a plan."""
        return open_engine(self.settings)

    def table(self, applied: AppliedView) -> Table:
        """Return the table that holds a view's history."""
        return Table.of(self.settings.project, applied)

    def count_rows(self, applied: AppliedView) -> int:
        """Return how many rows a view's history has."""
        return self.offline.snapshot(self.table(applied)).rows

    # -- reading ---------------------------------------------------------------------------------------------------------

    @once
    def online_reader(self) -> OnlineReader:
        """The reader of online features."""
        return OnlineReader(self.watched_online.space, self.online, self.clock)

    @once
    def training_reader(self) -> TrainingReader:
        """The maker of training frames."""
        return TrainingReader(self.settings.project, self.offline, self.engine, self.scratch)

    @once
    def scratch(self) -> Scratch:
        """Where the files of the work in hand lie."""
        return Scratch(self.open_folder, self.settings.scratch, self.settings.offline)

    def open_folder(self, url: str) -> Folder:
        """Return the folder at an address, on this machine or in object storage."""
        return open_place(self.settings, url)

    # -- writing ---------------------------------------------------------------------------------------------------------

    def open_source(self, source: Source) -> SourceReader:
        """Return the reader of a source."""
        return open_source(source, self.settings.root, self.clock, self.settings.storage_options)

    @once
    def workers(self) -> Workers | None:
        """What does pieces of runs on other machines, where the engine's tasks run there."""
        if self._elsewhere is None:
            return None
        reach_online = not is_online_here(self.settings)
        return Workers(lambda: self.engine, self._elsewhere(self.settings), self.settings.chunk_rows, reach_online)

    def materializer(self, progress: Progress | None = None, ledger: Ledger | None = None) -> Materializer:
        """Return a materializer.

        Args:
            progress: receives its progress.
            ledger: the ledger that it writes to; the project's by default.
        """
        options = MaterializeOptions(self.settings.chunk_rows, progress or Silence(), self.workers)
        return Materializer(self.stores(ledger), self.open_source, self.forgotten, _ServedVersions(self), options)

    @once
    def pusher(self) -> Pusher:
        """Push rows into both stores."""
        return self.make_pusher(self.materializer().fold, lambda view: self.online_repair.begin())

    def make_pusher(self, fold: Fold, mend: Fold | None = None) -> Pusher:
        """Return a pusher.

        Args:
            fold: is called where a view's log of pushes has grown long.
            mend: is called where values were lost online.
        """
        return Pusher(self.stores(), self.open_source, self.forgotten, fold, mend)

    @once
    def streams(self) -> Streams:
        """The project's streams."""
        return Streams(
            lambda: self.catalog_cache.current,
            self.definition_loader.bind,
            lambda fold: self.make_pusher(fold, mend=fold),
            self.materializer().fold,
            lambda source, idle: open_stream(source, self.settings.project, idle),
            PendingLimits(self.clock, self.settings.stream.pending_timeout.total_seconds()),
        )

    def stores(self, ledger: Ledger | None = None) -> Stores:
        """Return the stores as a job takes them; ``ledger`` is the ledger that it writes to, the project's by default."""
        return Stores(self.settings.project, ledger or self.ledger, self.offline, self.online, self.watched_online, self.clock)

    def _with_history(self, views: Iterable[AppliedView]) -> set[tuple[str, int]]:
        """Return which of some views have a history."""
        return {(view.spec.name, view.data_version) for view in views if self.count_rows(view)}

    def _adopt(self, views: Iterable[AppliedView]) -> None:
        """Note which views have a history that this registry did not make: others wrote what is online of them."""
        materialized = self.online_epochs.materialized()
        self.online_epochs.adopt(
            self._with_history(view for view in views if (view.spec.name, view.data_version) not in materialized)
        )

    def _drop_plans(self) -> None:
        """Drop what was compiled from the catalog before. The registry may be another one, with another id."""
        if self.made("watched_online") is not None:
            self.watched_online.forget()
        if self.made("online_reader") is not None:
            self.online_reader.forget_plans()


class _ServedVersions:
    """See ``ServedVersions``."""

    def __init__(self, components: Components) -> None:
        self._components = components

    def switch(self, applied: AppliedView, through: datetime) -> None:
        """See ``ServedVersions.switch``."""
        components = self._components
        components.catalog_cache.switch(applied.spec.name, lambda: components.serving.switch(applied, through))

    def online_of(self, applied: AppliedView) -> Sequence[AppliedView]:
        """See ``ServedVersions.online_of``."""
        return self._components.catalog_cache.refresh().online_of(applied)
