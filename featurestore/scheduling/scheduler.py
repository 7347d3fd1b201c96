"""The scheduler: claims due tasks, each for one holder at a time, and runs them.

Any number of schedulers share a registry. At every tick each reads the due table and, for what is due, tries to take the lease;
who gets it does the work and puts the outcome into the table, in the transaction that gives the lease back. A scheduler that dies
holds its leases until they end; then another takes over and the ledger resumes the run (S17). One that stood still and comes back
is fenced off: its next write to the ledger is refused.
"""

import logging
import math
import os
import random
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from datetime import datetime
from threading import Event, Lock, Thread
from uuid import uuid4

from featurestore.clock import Clock, format_seconds, from_micros, to_micros
from featurestore.errors import FeatureStoreError, LeaseLostError, RegistryError, SourceMissingError, StoreError
from featurestore.maintenance.status import Alert
from featurestore.materialization.online_repair import OnlineRepair
from featurestore.materialization.results import ViewSummary
from featurestore.registry.leases import Lease, Leases
from featurestore.registry.schedule_state import ScheduleSnapshot, ScheduleState, ScheduleStates
from featurestore.scheduling.retry_policy import MOST_DEATHS, OVER, Belief, RetryPolicy, done, failed, given_up, waiting
from featurestore.scheduling.shared_failures import SharedFailures
from featurestore.scheduling.tasks import ScheduledTask
from featurestore.scheduling.turns import Upcoming
from featurestore.scheduling.upcoming import Occasion, UpcomingTasks
from featurestore.scheduling.webhook import AlertHandler

_log = logging.getLogger("featurestore")

_ENDLESS = (StoreError, RegistryError)
"""The errors that no view gives cause to: they are gone once a server is back."""
_GIVE_BACK_SECONDS = 5.0
"""So long at the most what is not finished is given back, once the time for finishing it is over."""
_MEND_SECONDS = 60.0
"""How often it looks whether the online store lost data."""


@dataclass(frozen=True)
class TaskResult:
    """What came of something that was due.

    Args:
        name: the view; ``upkeep:view`` for its upkeep.
        due: when it was due.
        state: ``done``, ``failed``, ``retrying``, ``waiting``, or ``lost`` where another process has taken it over.
        attempts: how many attempts have failed.
        summary: what the run did, once it is done.
        error: why it failed, or what it waits for.
        next_at: when it is tried again.
        is_repeated: whether the same error of the same source was reported already, for this view or another.
    """

    name: str
    due: datetime
    state: str
    attempts: int = 0
    summary: ViewSummary | None = None
    error: str = ""
    next_at: datetime | None = None
    is_repeated: bool = False


@dataclass
class _Job:
    """What is being done here."""

    task: ScheduledTask
    due: ScheduleState
    lease: Lease
    ended: Event = field(default_factory=Event)
    unsettled: tuple[ScheduleState, ViewSummary | None] | None = None


@dataclass(frozen=True)
class _Blocked:
    """Tell what must be done before something else, as of an instant."""

    agenda: UpcomingTasks
    tasks: Mapping[str, ScheduledTask]
    standing: ScheduleSnapshot
    now: int

    def by(self, task: ScheduledTask, due_at: int) -> str | None:
        first = (name for name in task.after if not self.agenda.is_over(self.tasks[name], due_at, self.standing, self.now))
        return next(first, None)


def _log_alert(alert: Alert) -> None:
    _log.error("%s", alert.text)


@dataclass(frozen=True)
class SchedulerOptions:
    """How a scheduler works.

    Args:
        clock: returns the present.
        retries: how often and when a failed task is tried again.
        lease_seconds: how long a lease lasts; it is renewed three times as often.
        on_result: called with the result of each task, from a worker thread.
        on_alert: called for each task that failed for good.
        rng: draws the pauses before retries.
    """

    clock: Clock
    retries: RetryPolicy
    lease_seconds: float
    on_result: Callable[[TaskResult], None] = lambda result: None
    on_alert: AlertHandler = _log_alert
    rng: random.Random = field(default_factory=random.Random)


class Scheduler:
    """Do what is due. ``tick`` it, or let ``run_scheduler`` do so.

    Args:
        states: the state of each task.
        leases: the leases.
        tasks: what is scheduled, and whose turn it is.
        pools: where work of each kind is done, and how much at once.
        options: how it works.
        repair: writes again what the online store lost, also of views that are not due for long.
    """

    def __init__(
        self,
        states: ScheduleStates,
        leases: Leases,
        tasks: UpcomingTasks,
        pools: Mapping[str, tuple[Executor, int]],
        options: SchedulerOptions,
        repair: OnlineRepair | None = None,
    ) -> None:
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self.lease_seconds = options.lease_seconds
        self._dues = states
        self._leases = leases
        self._agenda = tasks
        self._pools = pools
        self._belief = Belief.of(options.retries, options.lease_seconds)
        self._clock = options.clock
        self._retries = options.retries
        self._on_result = options.on_result
        self._notify = options.on_alert
        self._draw = options.rng
        self._mending = repair
        self._jobs: dict[str, _Job] = {}
        self._did: dict[str, int] = {}
        self._ticked = 0
        self._ahead: set[str] = set()
        self._troubles = SharedFailures()
        self._lock = Lock()
        self._closing = False
        self._trouble = ""

    def tick(self, now: datetime | None = None) -> int:
        """Take up what is due, as far as there is room, and return how much that was.

        Args:
            now: the present; what the clock says, if None.

        Raises:
            RegistryError: the registry cannot be reached; the next tick tries again.
        """
        if self._closing:
            return 0
        self._settle_rest()
        snapshot, tasks = self._agenda.look()
        instant = to_micros(now or self._clock())
        if instant < self._ticked - self._belief.ahead:
            self._did.clear()  # the clock was put back: what it did when it was ahead is to be done again
        self._ticked = instant
        occasions = self._agenda.occasions(snapshot, tasks, instant)
        self._warn_of_the_future(occasions, instant)
        mine = [(occasion, occasion.due) for occasion in occasions if occasion.due is not None and not self._is_done_here(occasion)]
        mine.sort(key=lambda item: item[1].due_at)
        blocked = _Blocked(self._agenda, tasks, snapshot, instant)
        return sum(self._take_up(occasion.task, occasion.seen, due, blocked) for occasion, due in mine)

    def step(self) -> None:
        """Tick; where a store or definition is in the way, say so in the log, once, and leave it to the next tick."""
        if self._mending is not None:
            self._mending.begin(_MEND_SECONDS)
        try:
            self.tick()
        except FeatureStoreError as error:
            if str(error) != self._trouble:
                _log.warning("The scheduler goes on trying: %s", error)
            self._trouble = str(error)
            return
        if self._trouble:
            _log.warning("The scheduler is at work again.")
            self._trouble = ""

    def once(self, now: datetime | None = None) -> None:
        """Do all that is due at an instant, and wait until it is done."""
        instant = now or self._clock()
        while self.tick(instant) or self._jobs:
            self._wait(None)
        if self._mending is not None:
            self._mending.run()

    def renew(self) -> None:
        """Renew the leases on what is being done here; to be called three times while a lease lasts."""
        for job in list(self._jobs.values()):
            try:
                self._leases.renew(job.lease, self.lease_seconds)
            except LeaseLostError as error:
                _log.warning("%s", error)
            except RegistryError as error:
                _log.warning("The lease on %r could not be renewed: %s", job.task.name, error)

    def stop(self, seconds: float) -> int:
        """Take up nothing any more, and give what is being done some time to be finished.

        What is not finished then is given back for others to resume; its next write to the ledger is refused.

        Returns:
            How much was not finished.
        """
        with self._lock:
            self._closing = True
        self._wait(seconds)
        # NOTE: a registry that does not answer must not keep the process from ending in time: whoever comes next takes over then.
        giving = Thread(target=self._give_all_back, name="featurestore-give-back", daemon=True)
        giving.start()
        giving.join(_GIVE_BACK_SECONDS)
        left = list(self._jobs.values())
        if giving.is_alive():
            _log.warning("The registry does not answer: what was not finished is taken over once its leases have ended.")
        for pool, _ in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        return len(left)

    def upcoming(self) -> list[Upcoming]:
        """Return what is done next and when, the earliest first.

        Raises:
            RegistryError: the registry cannot be reached.
        """
        return self._agenda.upcoming()

    # -- within ----------------------------------------------------------------------------------------------------------

    def _is_done_here(self, occasion: Occasion) -> bool:
        """Return whether this process did it, and another, whose clock is far from this one's, put the row to another instant.

        Each then does it once for each of its own instants, and they do not take it from one another at every tick.
        """
        over = occasion.seen is not None and occasion.seen.state in OVER
        return occasion.task.name in self._jobs or (over and occasion.fire <= self._did.get(occasion.task.name, occasion.fire - 1))

    def _warn_of_the_future(self, occasions: Sequence[Occasion], now: int) -> None:
        """Say in the log, once, of which tasks the rows were written by a clock that was ahead."""
        latest = now + self._belief.ahead
        ahead = {
            occasion.seen.view: occasion.seen.due_at - now
            for occasion in occasions
            if occasion.seen is not None and occasion.seen.due_at > latest
        }
        new = ahead.keys() - self._ahead
        if new:
            _log.warning(
                "By the due table %s was taken up %s from now: a scheduler's clock was ahead, or this one's is behind. Set all by "
                "a time server. It is done by this one's.",
                ", ".join(sorted(new)), format_seconds(max(ahead[name] for name in new) / 1e6),
            )  # fmt: skip
        self._ahead = set(ahead)

    def _take_up(self, task: ScheduledTask, seen: ScheduleState | None, due: ScheduleState, blocked: "_Blocked") -> int:
        blocker = blocked.by(task, due.due_at)
        pool, most = self._pools[task.kind]
        with self._lock:
            room = most - sum(job.task.kind == task.kind for job in self._jobs.values())
        reason = f"it reads {blocker!r}, which is not done yet"
        known = seen is not None and seen.state == "waiting" and seen.error == reason
        if (blocker is not None and known) or (blocker is None and room <= 0):
            return 0
        lease = self._leases.acquire(task.name, self.holder, self.lease_seconds)
        if lease is None:
            return 0
        took = due if blocker is None else waiting(due, reason, None)
        if seen is not None and seen.state == "running" and seen.holder == self.holder:
            took = replace(took, deaths=seen.deaths)  # an answer of the registry was lost: nobody died of it
            due = replace(due, deaths=seen.deaths)
        try:
            # The row may have been settled by another since it was read, just before its lease was free.
            moved = self._dues.move(lease, seen, took, release=blocker is not None)
        except LeaseLostError:
            return 0  # this process stood still since it took the lease; whoever has it now sees to it
        if not moved:
            self._leases.release(lease)
        if not moved or blocker is not None:
            return 0
        job = _Job(task, due, lease)
        with self._lock:
            # NOTE: whoever closes shuts the pools only after it has waited for what is here.
            closing = self._closing
            if not closing:
                self._jobs[task.name] = job
                self._did[task.name] = due.due_at
        if closing:
            self._give_back(job)
            return 0
        if due.deaths > MOST_DEATHS:
            error = f"{due.deaths} schedulers in turn ended while they were at it: does it take more memory than there is?"
            self._settle(job, given_up(due, error, to_micros(self._clock())), None)
            job.ended.set()
            return 1
        pool.submit(task.work, task.applied, lease).add_done_callback(lambda future: self._ended(job, future))
        return 1

    def _give_all_back(self) -> None:
        self._settle_rest()
        for job in list(self._jobs.values()):
            self._give_back(job)

    def _give_back(self, job: _Job) -> None:
        """Release an unfinished task; that does not count as a death."""
        try:
            self._dues.move(job.lease, job.due, waiting(job.due, "its scheduler was stopped", None), release=True)
        except RegistryError as error:
            _log.warning("%r could not be released, and is taken over once its lease has ended: %s", job.task.name, error)
        else:
            _log.warning("%r was not finished and is released; the next scheduler to take it resumes it.", job.task.name)

    def _ended(self, job: _Job, future: "Future[ViewSummary | None]") -> None:
        try:
            # NOTE: whatever was raised, also what is no Exception (a panic in Polars), must not end the scheduler.
            error = future.exception()
            if isinstance(error, LeaseLostError):
                self._lost(job, error)
            else:
                self._settle(job, self._judged(job, error), None if error else future.result())
        finally:
            job.ended.set()

    def _judged(self, job: _Job, error: BaseException | None) -> ScheduleState:
        """Return the due row after an attempt that ended so."""
        now = to_micros(self._clock())
        if error is None:
            return done(job.due, now)
        if isinstance(error, SourceMissingError):
            return waiting(job.due, str(error), now + self._retries.wait)
        message = str(error)
        if not isinstance(error, FeatureStoreError):
            _log.error("A fault in featurestore while it was at %r.", job.task.name, exc_info=error)
            message = f"{type(error).__name__}: {error}"
        return failed(job.due, message, now, self._retries, self._draw, endless=isinstance(error, _ENDLESS))

    def _settle(self, job: _Job, due: ScheduleState, summary: ViewSummary | None) -> None:
        """Put what came of a job into the due table; where that cannot be reached, the next ticks try again."""
        try:
            moved = self._dues.move(job.lease, job.due, due, release=True)
        except LeaseLostError as error:
            self._lost(job, error)
            return
        except RegistryError as error:
            job.unsettled = due, summary
            _log.warning("What came of %r could not be noted yet: %s", job.task.name, error)
            return
        self._forget(job)
        if not moved:
            _log.warning("The due row of %r was changed by somebody who has not its lease.", job.task.name)
            self._leases.release(job.lease)
        next_at = None if due.next_at is None else from_micros(due.next_at)
        known, alerted_before = self._troubles.note(job.task, due, self._retries.attempts)
        self._report(TaskResult(due.view, from_micros(due.due_at), due.state, due.attempts, summary, due.error, next_at, known))
        loud = due.state == "failed" or (due.state == "retrying" and due.attempts == self._retries.attempts)
        if loud and not alerted_before:
            given = "and is given up until it is due again" if due.state == "failed" else "and goes on being tried"
            self._notify(Alert(due.view, "failed", f"{due.view} failed {due.attempts} times, {given}: {due.error}"))

    def _lost(self, job: _Job, error: LeaseLostError) -> None:
        self._forget(job)
        _log.warning("%s Nothing that this process did since changes anything.", error)
        self._report(TaskResult(job.due.view, from_micros(job.due.due_at), "lost", job.due.attempts, error=str(error)))

    def _report(self, outcome: TaskResult) -> None:
        if not self._closing or outcome.state != "lost":
            self._on_result(outcome)

    def _forget(self, job: _Job) -> None:
        with self._lock:
            if self._jobs.get(job.task.name) is job:
                del self._jobs[job.task.name]

    def _settle_rest(self) -> None:
        for job in list(self._jobs.values()):
            with self._lock:
                unsettled, job.unsettled = job.unsettled, None
            if unsettled is not None:
                self._settle(job, *unsettled)

    def _wait(self, seconds: float | None) -> None:
        """Wait until all that is being done here has ended, at most so long, and renew its leases meanwhile."""
        left = math.inf if seconds is None else seconds
        while left > 0:
            job = next((job for job in list(self._jobs.values()) if not job.ended.is_set()), None)
            if job is None:
                return
            spell = min(self.lease_seconds / 3, left)
            if not job.ended.wait(spell):
                self.renew()
                left -= spell
