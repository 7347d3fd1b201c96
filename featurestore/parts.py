"""The parts that a store is made of: each is made when it is first needed."""

from datetime import timedelta
from typing import TYPE_CHECKING

from featurestore.adapters import (
    open_engine,
    open_feature_log,
    open_gate,
    open_mender,
    open_offline,
    open_online,
    open_source,
    open_stream,
    open_upkeep,
    own_folders,
    tombstone_secret,
)
from featurestore.clock import Clock
from featurestore.config import Settings
from featurestore.definitions.catalog import AppliedView
from featurestore.definitions.source import Source
from featurestore.durable import share_with_group
from featurestore.once import MadeOnce, once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from featurestore.definitions.fingerprint import Transform
    from featurestore.engines.base import Engine
    from featurestore.maintenance.check_history import HistoryChecks
    from featurestore.maintenance.maintain import Maintenance
    from featurestore.maintenance.status import FreshnessMonitor, FreshnessTracker, StatusReport
    from featurestore.materialization.materializer import Materializer
    from featurestore.materialization.online_repair import OnlineRepair
    from featurestore.materialization.online_trust import WatchedOnline
    from featurestore.materialization.progress import Progress
    from featurestore.materialization.push import Pusher
    from featurestore.materialization.results import ViewSummary
    from featurestore.offline.base import FeatureLog, OfflineStore, Table
    from featurestore.online.base import OnlineStore
    from featurestore.privacy.guarded_stores import ForgottenFilter
    from featurestore.project.apply import Applier
    from featurestore.project.definition_loader import DefinitionLoader
    from featurestore.registry.api_keys import Keys
    from featurestore.registry.catalog_cache import CatalogCache
    from featurestore.registry.leases import Lease
    from featurestore.registry.ledger import Ledger
    from featurestore.registry.online_epochs import OnlineEpochs
    from featurestore.registry.serving import Serving
    from featurestore.registry.specs import SpecRegistry
    from featurestore.registry.tombstones import Tombstones
    from featurestore.retrieval.feature_logger import FeatureLogger, Told
    from featurestore.retrieval.online import OnlineReader, RoundTrips
    from featurestore.retrieval.training import TrainingReader
    from featurestore.scheduling.scheduler import Scheduler, TaskResult
    from featurestore.scheduling.upcoming import UpcomingTasks
    from featurestore.scheduling.webhook import Notify
    from featurestore.sources.base import SourceReader
    from featurestore.streams.control import Streams

_PROMISES_SECONDS = 60.0
"""How often a scheduler looks whether views are as fresh as they promise."""


class Parts(MadeOnce):
    """What a store is made of, by its settings.

    Args:
        settings: the settings.
        clock: tells the present.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        super().__init__()
        self.settings: Settings = settings
        self._clock = clock
        if settings.file_mode == "group":
            for folder in own_folders(settings):
                share_with_group(folder)

    def close(self) -> None:
        """Gives back files, connections and threads. Closing twice is no error; any other use after it is a ``ClosedError``."""
        self.close_made(("_mending", "_watch", "_engine", "_watched", "_registry"))

    @property
    def clock(self) -> Clock:
        """Tells the present."""
        return self._clock

    @property
    def round_trips(self) -> "RoundTrips":
        """What asynchronous reads asked the online store so far; it goes on counting."""
        return self._reader.trips

    def feature_logger(self, told: "Told") -> "FeatureLogger":
        """Returns what samples answers of services into the feature log, until it is closed.

        Args:
            told: is told of each service how many rows were written, and how many dropped.
        """
        from featurestore.retrieval.feature_logger import FeatureLogger

        return FeatureLogger(self.settings.project, self._feature_log, self.settings.log_seconds, told)

    @property
    def streams(self) -> "Streams":
        """The project's streams: ``run`` pushes what arrives in them, ``status`` tells how far behind they are."""
        return self._streams

    @property
    def keys(self) -> "Keys":
        """The API keys of the project's server: ``create``, ``list`` and ``revoke`` them."""
        return self._keys

    @once
    def _keys(self) -> "Keys":
        from featurestore.registry.api_keys import Keys

        return Keys(self._registry)

    @once
    def _at_hand(self) -> "DefinitionLoader":
        from featurestore.project.definition_loader import DefinitionLoader

        return DefinitionLoader(self.settings.root / self.settings.definitions, self.settings.root)

    @once
    def _registry(self) -> "SpecRegistry":
        from featurestore.registry.specs import SpecRegistry

        return SpecRegistry(self.settings.registry, self.settings.project, self.settings.root, self._clock)

    @once
    def _ledger(self) -> "Ledger":
        from featurestore.registry.ledger import Ledger

        return Ledger(self._registry)

    @once
    def _serving(self) -> "Serving":
        from featurestore.registry.serving import Serving

        return Serving(self._registry)

    @once
    def _watch(self) -> "CatalogCache":
        from featurestore.project.definition_loader import KnownCatalog
        from featurestore.registry.catalog_cache import CatalogCache

        return CatalogCache(KnownCatalog(self._registry, self._at_hand), self.settings.refresh_seconds, self._forget_plans)

    @once
    def _applier(self) -> "Applier":
        from featurestore.project.apply import Applier

        asked = self._open_source, self._count_rows, self._serving.retained, self._histories.place
        return Applier(self._registry, *asked, self._adopt)

    @once
    def _offline(self) -> "OfflineStore":
        from featurestore.privacy.guarded_stores import GuardedOffline

        return GuardedOffline(open_offline(self.settings, self._clock), self._keeper)

    @once
    def _feature_log(self) -> "FeatureLog":
        from featurestore.privacy.guarded_stores import GuardedFeatureLog

        return GuardedFeatureLog(open_feature_log(self.settings), self._keeper)

    @once
    def _online(self) -> "OnlineStore":
        from featurestore.privacy.guarded_stores import GuardedOnline

        return GuardedOnline(self._watched, self._keeper, self._watched)

    @once
    def _watched(self) -> "WatchedOnline":
        from featurestore.materialization.online_trust import WatchedOnline

        return WatchedOnline(
            open_online(self.settings, self._clock), self._epochs, lambda: self._watch.refresh().online, self._filled
        )

    @once
    def _mending(self) -> "OnlineRepair":
        from featurestore.materialization.online_repair import OnlineRepair

        job, views = self._materializer, lambda: self._watch.refresh().online
        return OnlineRepair(self._registry, self._watched.look, views, lambda view, tell: job(tell).rebuilder.rebuild(view))

    @once
    def _epochs(self) -> "OnlineEpochs":
        from featurestore.registry.online_epochs import OnlineEpochs

        return OnlineEpochs(self._registry)

    def _filled(self, views: "Iterable[AppliedView]") -> set[tuple[str, int]]:
        """Returns which of some views have a history."""
        return {(view.spec.name, view.data_version) for view in views if self._count_rows(view)}

    def _adopt(self, views: "Iterable[AppliedView]") -> None:
        """Notes of which views there is a history that this registry has not made: what is online of it, others wrote."""
        made = self._epochs.materialized()
        self._epochs.adopt(self._filled(view for view in views if (view.spec.name, view.data_version) not in made))

    @once
    def _tombstones(self) -> "Tombstones":
        from featurestore.registry.tombstones import Tombstones

        return Tombstones(self._registry, tombstone_secret(self.settings))

    @once
    def _histories(self) -> "HistoryChecks":
        from featurestore.maintenance.check_history import HistoryChecks

        upkeep, mender = open_upkeep(self.settings, self._clock), open_mender(self.settings, self._clock)
        return HistoryChecks(self.settings.project, self._ledger, mender, upkeep.tables, self._keeper)

    @once
    def _keeper(self) -> "ForgottenFilter":
        from featurestore.privacy.guarded_stores import ForgottenFilter

        return ForgottenFilter(open_gate(self.settings), lambda: self._tombstones, lambda: self._watch.refresh().revision)

    @once
    def _engine(self) -> "Engine":
        return open_engine(self.settings)

    @once
    def _reader(self) -> "OnlineReader":
        from featurestore.retrieval.online import OnlineReader

        return OnlineReader(self._watched.space, self._online, self._clock)

    @once
    def _training(self) -> "TrainingReader":
        from featurestore.retrieval.training import TrainingReader

        return TrainingReader(self.settings.project, self._offline, self._engine)

    def _materializer(self, progress: "Progress | None", ledger: "Ledger | None" = None) -> "Materializer":
        from featurestore.materialization.materializer import Materializer

        stores = (self.settings.project, ledger or self._ledger, self._offline, self._online, self._open_source)
        return Materializer(
            *stores,
            clock=self._clock,
            chunk_rows=self.settings.chunk_rows,
            admit=self._keeper.without_forgotten,
            sift=self._keeper.sift,
            progress=progress,
            switch=lambda applied, through: self._watch.switch(applied.spec.name, lambda: self._serving.switch(applied, through)),
            trust=self._watched,
            versions=lambda applied: self._watch.refresh().online_of(applied),
        )

    @once
    def _pusher(self) -> "Pusher":
        return self._make_pusher(self._materializer(None).fold, lambda *_: self._mending.begin())

    def _make_pusher(
        self,
        fold: "Callable[[AppliedView, Transform | None], None]",
        mend: "Callable[[AppliedView, Transform | None], None] | None" = None,
    ) -> "Pusher":
        from featurestore.materialization.push import Pusher

        stores = (self.settings.project, self._ledger, self._offline, self._online)
        return Pusher(*stores, self._open_source, self._keeper, fold, self._clock, self._watched, mend)

    @once
    def _streams(self) -> "Streams":
        from featurestore.streams.control import Streams
        from featurestore.streams.pending_entries import PendingLimits

        project, fold = self.settings.project, self._materializer(None).fold
        return Streams(
            lambda: self._watch.current,
            self._at_hand.of,
            lambda fold: self._make_pusher(fold, mend=fold),
            fold,
            lambda source, idle: open_stream(source, project, idle),
            PendingLimits(self._clock, self.settings.stream_pending_seconds),
        )

    @once
    def _agenda(self) -> "UpcomingTasks":
        return self._make_agenda()

    def _make_agenda(self) -> "UpcomingTasks":
        from featurestore.registry.schedule_state import ScheduleStates
        from featurestore.scheduling.retry_policy import Belief, RetryPolicy
        from featurestore.scheduling.schedules import ScheduleTimes
        from featurestore.scheduling.tasks import run_duties, upkeep_duties
        from featurestore.scheduling.upcoming import UpcomingTasks

        settings = self.settings
        history = settings.history_folder / settings.project
        return UpcomingTasks(
            ScheduleStates(self._registry),
            lambda: [
                *run_duties(self._watch.refresh(), self._run_due, settings.root, history),
                *upkeep_duties(self._watch.refresh(), settings.upkeep_schedule, self._keep_due),
            ],
            ScheduleTimes(settings.schedule_timezone),
            self._clock,
            Belief.of(RetryPolicy.of(settings), settings.schedule_lease_seconds),
        )

    def _scheduler(self, told: "Callable[[TaskResult], None]", notify: "Notify") -> "Scheduler":
        from concurrent.futures import ThreadPoolExecutor

        from featurestore.registry.leases import Leases
        from featurestore.registry.schedule_state import ScheduleStates
        from featurestore.scheduling.retry_policy import RetryPolicy
        from featurestore.scheduling.scheduler import Scheduler

        settings = self.settings
        return Scheduler(
            ScheduleStates(self._registry),
            Leases(self._registry),
            self._make_agenda(),
            {
                "run": (ThreadPoolExecutor(settings.schedule_parallel, "featurestore-run"), settings.schedule_parallel),
                "upkeep": (ThreadPoolExecutor(1, "featurestore-upkeep"), 1),
            },
            clock=self._clock,
            retries=RetryPolicy.of(settings),
            lease_seconds=settings.schedule_lease_seconds,
            told=told,
            notify=notify,
            mending=self._mending,
        )

    def _run_due(self, applied: AppliedView, lease: "Lease") -> "ViewSummary":
        """Runs a view for the scheduler that has the lease on it; once that is lost, nothing is written any more."""
        job = self._materializer(None, self._ledger.fenced(lease)).sharing(self.settings.schedule_parallel)
        applied, transform = self._at_hand.of(applied)
        return job.materialize(applied, transform, start=None, end=self._clock())

    def _keep_due(self, applied: AppliedView, lease: "Lease") -> None:
        """Keeps a view in order for the scheduler; with the first of them, what belongs to none that is applied."""
        keeping = self._keeping(None, dry_run=False)
        self._materializer(None).rebuilder.mend(applied)
        keeping.keep_view(applied)
        if applied.spec.name == min(self._watch.current.views):
            keeping.clean_up()
            keeping.keep_logs()

    def _keeping(self, retention: timedelta | None, *, dry_run: bool) -> "Maintenance":
        from featurestore.maintenance.maintain import Maintenance, Retention

        settings = self.settings
        logs = timedelta(days=settings.keep_logs_days) if settings.keep_logs_days else None
        files, versions = (timedelta(days=each) for each in (settings.keep_files_days, settings.keep_versions_days))
        kept = Retention(files, versions, logs) if retention is None else Retention(retention, retention, logs)
        stores = self._offline, open_upkeep(settings, self._clock), self._online, self._feature_log, self._keeper
        return Maintenance(
            settings.project, self._ledger, self._serving, *stores, self._clock, kept, self._watched.space, dry_run=dry_run
        )

    @once
    def _promises(self) -> "FreshnessTracker":
        from featurestore.maintenance.status import FreshnessTracker
        from featurestore.registry.source_notices import Notices

        return FreshnessTracker(Notices(self._registry).exchange)

    def _promise_watch(self, holder: str, standing: "Callable[[], StatusReport]") -> "FreshnessMonitor":
        from featurestore.maintenance.status import FreshnessMonitor
        from featurestore.registry.leases import Leases

        return FreshnessMonitor(Leases(self._registry), holder, _PROMISES_SECONDS, standing, self._notify)

    @once
    def _notify(self) -> "Notify":
        from featurestore.scheduling.webhook import open_webhook

        return open_webhook(self.settings.webhook, self.settings.project)

    def _open_source(self, source: Source) -> "SourceReader":
        return open_source(source, self.settings.root, self._clock)

    def _forget_plans(self) -> None:
        if "_watched" in self.__dict__:
            self._watched.forget()  # the registry may have begun anew, and have another id
        if "_reader" in self.__dict__:
            self._reader.forget_plans()

    def _table(self, applied: AppliedView) -> "Table":
        from featurestore.offline.base import Table

        return Table.of(self.settings.project, applied)

    def _count_rows(self, applied: AppliedView) -> int:
        return self._offline.snapshot(self._table(applied)).rows
