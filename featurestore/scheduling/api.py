"""Scheduling, as ``store.scheduler``: runs what is due, once or until it is stopped."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event

from featurestore.adapters import history_folder
from featurestore.components import Components
from featurestore.definitions.catalog import AppliedView
from featurestore.maintenance.admin import make_maintenance
from featurestore.maintenance.project_status import project_status
from featurestore.maintenance.status import Alert, FreshnessMonitor, FreshnessTracker, StatusReport
from featurestore.materialization.results import ViewSummary
from featurestore.registry.leases import Lease, Leases
from featurestore.registry.schedule_state import ScheduleStates
from featurestore.registry.source_notices import Notices
from featurestore.scheduling.retry_policy import Belief, RetryPolicy
from featurestore.scheduling.runner import run_scheduler
from featurestore.scheduling.scheduler import Scheduler, SchedulerOptions, TaskResult
from featurestore.scheduling.schedules import ScheduleTimes
from featurestore.scheduling.tasks import ScheduledTask, maintenance_tasks, materialize_tasks
from featurestore.scheduling.turns import Upcoming
from featurestore.scheduling.upcoming import UpcomingTasks
from featurestore.scheduling.webhook import open_webhook

_FRESHNESS_SECONDS = 60.0
"""How often a scheduler checks whether views are as fresh as they promise."""


class SchedulerApi:
    """Run the views that have a schedule, and maintenance.

    Any number of schedulers, in any number of processes, share the work: each due task runs once, and the tasks of a process that
    died are taken over. What is applied meanwhile is picked up.

    Args:
        components: what the project is made of.

    Example:
        >>> import polars as pl
        >>> from datetime import datetime
        >>> from featurestore import Entity, FeatureStore, FeatureView, FrameSource
        >>> rows = pl.DataFrame({"origin": ["JFK"], "at": [datetime(2013, 7, 1)], "temp": [79.0]})
        >>> observations = FrameSource("observations", rows, event_time="at")
        >>> class Weather(FeatureView, entity=Entity("airport", origin=str), source=observations, schedule="15m"):
        ...     temp: float | None
        >>> with FeatureStore(".", project="scheduled", maintenance={"schedule": ""}) as store:
        ...     plan = store.apply([Weather])
        ...     store.scheduler.run_once(on_result=lambda result: print(result.name, result.state))
        weather done
    """

    def __init__(self, components: Components) -> None:
        self._components = components

    def run_once(
        self, *, on_result: Callable[[TaskResult], None] | None = None, on_alert: Callable[[Alert], None] | None = None
    ) -> None:
        """Run everything that is due, and what becomes due by it, and return when it is done.

        Args:
            on_result: called with the result of each task, from a worker thread.
            on_alert: called for each view that failed for good; by default the log and the webhook of the settings.

        Raises:
            ConfigError: the webhook's address is malformed.
        """
        self.create(on_result=on_result, on_alert=on_alert).once()

    def run_until(
        self,
        stop: Event,
        *,
        on_result: Callable[[TaskResult], None] | None = None,
        on_alert: Callable[[Alert], None] | None = None,
    ) -> int:
        """Run what is due until an event is set, then let running tasks finish, for ``schedule.shutdown_timeout`` at most.

        Args:
            stop: ends it once it is set.
            on_result: called with the result of each task, from a worker thread.
            on_alert: called for each view that failed for good or is late; by default the log and the webhook of the settings.

        Returns:
            How many tasks were not finished. They are released for other schedulers to resume, and their later writes are
            rejected, but their threads go on until the process ends.

        Raises:
            ConfigError: the webhook's address is malformed.
        """
        return self.drive(self.create(on_result=on_result, on_alert=on_alert), stop)

    def drive(self, scheduler: Scheduler, stop: Event) -> int:
        """Run a scheduler that ``create`` returned until an event is set; return how many tasks were not finished."""
        settings = self._components.settings.schedule
        interval, timeout = settings.interval.total_seconds(), settings.shutdown_timeout.total_seconds()
        return run_scheduler(scheduler, interval, timeout, stop, self._freshness_monitor(scheduler.holder))

    def upcoming(self) -> list[Upcoming]:
        """Return what runs next and when, the earliest first; each prints as a line.

        Raises:
            RegistryError: the registry cannot be reached.
        """
        return self.shown_tasks().upcoming()

    def create(
        self, *, on_result: Callable[[TaskResult], None] | None = None, on_alert: Callable[[Alert], None] | None = None
    ) -> Scheduler:
        """Return a scheduler for a caller that drives it: see ``run_once`` for the arguments."""
        components = self._components
        settings = components.settings
        return Scheduler(
            ScheduleStates(components.registry),
            Leases(components.registry),
            self.tasks(),
            {
                "run": (ThreadPoolExecutor(settings.schedule.parallel, "featurestore-run"), settings.schedule.parallel),
                "upkeep": (ThreadPoolExecutor(1, "featurestore-upkeep"), 1),
            },
            SchedulerOptions(
                components.clock,
                RetryPolicy.of(settings),
                settings.schedule.lease.total_seconds(),
                on_result or (lambda result: None),
                on_alert or open_webhook(settings.webhook, settings.project),
            ),
            components.online_repair,
        )

    def shown_tasks(self) -> UpcomingTasks:
        """Return what is scheduled, for a look at it; what the look works out is kept for the next one."""
        return self._components.keep("shown tasks", self.tasks)

    def tasks(self) -> UpcomingTasks:
        """Return what is scheduled, and when it runs next; an object of the caller's own, that keeps what it works out."""
        components = self._components
        settings = components.settings
        folder = history_folder(settings)
        history = None if folder is None else folder / settings.project

        def scheduled() -> list[ScheduledTask]:
            catalog = components.catalog_cache.refresh()
            return [
                *materialize_tasks(catalog, self._materialize, settings.root, history),
                *maintenance_tasks(catalog, settings.maintenance.schedule, self._maintain),
            ]

        return UpcomingTasks(
            ScheduleStates(components.registry),
            scheduled,
            ScheduleTimes(settings.schedule.timezone),
            components.clock,
            Belief.of(RetryPolicy.of(settings), settings.schedule.lease.total_seconds()),
        )

    def send_alerts(self, status: StatusReport, *, logged: bool = True) -> None:
        """Log, and send to the webhook of the settings, which views became late, failed or recovered; each change once.

        Args:
            status: the status of the views now. What was sent before, by this process or another, is not sent again.
            logged: whether to log it.
        """
        settings = self._components.settings
        send = open_webhook(settings.webhook, settings.project, logged=logged)
        for alert in FreshnessTracker(Notices(self._components.registry).exchange).news(status):
            send(alert)

    def _freshness_monitor(self, holder: str) -> FreshnessMonitor:
        components = self._components
        settings, tasks = components.settings, self.tasks()
        return FreshnessMonitor(
            Leases(components.registry),
            holder,
            _FRESHNESS_SECONDS,
            lambda: project_status(components, tasks, promised=True),
            open_webhook(settings.webhook, settings.project),
        )

    def _materialize(self, applied: AppliedView, lease: Lease) -> ViewSummary:
        """Materialize a view for the scheduler that holds its lease; once the lease is lost, nothing more is written."""
        components = self._components
        job = components.materializer(None, components.ledger.fenced(lease)).sharing(components.settings.schedule.parallel)
        return job.materialize(components.definition_loader.bind(applied), start=None, end=components.clock())

    def _maintain(self, applied: AppliedView, lease: Lease) -> None:
        """Maintain a view; with the first of them, also what belongs to no applied view."""
        components = self._components
        maintenance = make_maintenance(components)
        components.materializer().rebuilder.mend(applied)
        maintenance.keep_view(applied)
        if applied.spec.name == min(components.catalog_cache.current.views):
            maintenance.clean_up()
            maintenance.keep_logs()
