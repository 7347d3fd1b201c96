"""The scheduler: takes up what is due, one holder at a time, and sees to it that it is done.

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
from dataclasses import dataclass, field
from datetime import datetime
from threading import Event, Lock
from uuid import uuid4

from featurestore.clock import Clock, from_micros, to_micros
from featurestore.errors import FeatureStoreError, LeaseLostError, RegistryError, SourceMissingError, StoreError
from featurestore.jobs.duties import Duty
from featurestore.jobs.notify import Notify
from featurestore.jobs.standing import Notice
from featurestore.jobs.summary import ViewSummary
from featurestore.jobs.triggers import Fires
from featurestore.jobs.turns import MOST_DEATHS, OVER, Retries, done, failed, given_up, take_up, waiting
from featurestore.registry.due import Due, Dues, Standing
from featurestore.registry.leases import Lease, Leases

_log = logging.getLogger("featurestore")

_ENDLESS = (StoreError, RegistryError)
"""The errors that no view gives cause to: they are gone once a server is back."""


@dataclass(frozen=True)
class Outcome:
    """What came of something that was due.

    Args:
        name: the view; ``upkeep:view`` for its upkeep.
        due: when it was due.
        state: ``done``, ``failed``, ``retrying``, ``waiting``, or ``lost`` where another process has taken it over.
        attempts: how many attempts have failed.
        summary: what the run did, once it is done.
        error: why it failed, or what it waits for.
        next_at: when it is tried again.
    """

    name: str
    due: datetime
    state: str
    attempts: int = 0
    summary: ViewSummary | None = None
    error: str = ""
    next_at: datetime | None = None


@dataclass(frozen=True)
class Upcoming:
    """When something is done next.

    Args:
        name: the view; ``upkeep:view`` for its upkeep.
        schedule: its schedule.
        next_at: when; in the past where it is due already.
        state: how it stands: ``new``, ``running``, ``done``, ``waiting``, ``retrying`` or ``failed``.
        after: what must be done first.
        error: why it failed, or what it waits for.
    """

    name: str
    schedule: str
    next_at: datetime
    state: str
    after: tuple[str, ...] = ()
    error: str = ""


@dataclass
class _Job:
    """What is being done here."""

    duty: Duty
    due: Due
    lease: Lease
    ended: Event = field(default_factory=Event)
    unsettled: tuple[Due, ViewSummary | None] | None = None


class Scheduler:
    """Does what is due. ``tick`` it, or let ``run_scheduler`` do so.

    Args:
        dues: the due table.
        leases: the leases.
        duties: returns what there is to do; it is asked anew when somebody applied.
        pools: where work of each kind is done, and how much at once.
        fires: when schedules fire.
        clock: tells the present.
        retries: how often and when what failed is tried again.
        lease_seconds: how long a lease lasts; it is renewed three times as often.
        told: is told what came of all that was done.
        notify: is told what failed for good.
        draw: draws the pauses before retries.
    """

    def __init__(
        self,
        dues: Dues,
        leases: Leases,
        duties: Callable[[], Sequence[Duty]],
        pools: Mapping[str, tuple[Executor, int]],
        *,
        fires: Fires,
        clock: Clock,
        retries: Retries,
        lease_seconds: float,
        told: Callable[[Outcome], None] = lambda outcome: None,
        notify: Notify = lambda notice: _log.error("%s", notice.text),
        draw: random.Random | None = None,
    ) -> None:
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self.lease_seconds = lease_seconds
        self._dues = dues
        self._leases = leases
        self._define = duties
        self._pools = pools
        self._fires = fires
        self._clock = clock
        self._retries = retries
        self._told = told
        self._notify = notify
        self._draw = draw or random.Random()
        self._state = (-1, "")
        self._duties: dict[str, Duty] = {}
        self._jobs: dict[str, _Job] = {}
        self._lock = Lock()
        self._closing = False
        self._trouble = ""

    def tick(self, now: datetime | None = None) -> int:
        """Takes up what is due, as far as there is room, and returns how much that was.

        Args:
            now: the present; what the clock says, if None.

        Raises:
            RegistryError: the registry cannot be reached; the next tick tries again.
        """
        if self._closing:
            return 0
        self._settle_rest()
        standing = self._look()
        instant = to_micros(now or self._clock())
        turns: list[tuple[int, Duty, Due | None, Due]] = []
        for duty in self._duties.values():
            fire = self._fires.latest(duty.schedule, instant)
            seen = standing.dues.get(duty.name)
            if seen is not None and seen.state in OVER and fire <= seen.due_at:
                continue
            due = None if duty.name in self._jobs else take_up(duty.name, seen, fire, instant)
            if due is not None:
                turns.append((due.due_at, duty, seen, due))
        turns.sort(key=lambda turn: turn[0])
        return sum(self._turn(duty, seen, due, standing) for _, duty, seen, due in turns)

    def step(self) -> None:
        """Ticks; where a store or definition is in the way, says so in the log, once, and leaves it to the next tick."""
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
        """Does all that is due at an instant, and waits until it is done."""
        instant = now or self._clock()
        while self.tick(instant) or self._jobs:
            self._wait(None)

    def renew(self) -> None:
        """Renews the leases on what is being done here; to be called three times while a lease lasts."""
        for job in list(self._jobs.values()):
            try:
                self._leases.renew(job.lease, self.lease_seconds)
            except LeaseLostError as error:
                _log.warning("%s", error)
            except RegistryError as error:
                _log.warning("The lease on %r could not be renewed: %s", job.duty.name, error)

    def stop(self, seconds: float) -> int:
        """Takes up nothing any more, and gives what is being done some time to be finished.

        What is not finished then is given back for others to resume; its next write to the ledger is refused.

        Returns:
            How much was not finished.
        """
        self._closing = True
        self._wait(seconds)
        self._settle_rest()
        left = list(self._jobs.values())
        for job in left:
            try:
                self._dues.move(job.lease, job.due, waiting(job.due, "its scheduler was stopped", None), release=True)
            except RegistryError as error:
                _log.warning("%r could not be given back, and is taken over once its lease has ended: %s", job.duty.name, error)
            else:
                _log.warning("%r was not finished, and is given back: whoever takes it up resumes it.", job.duty.name)
        for pool, _ in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        return len(left)

    def upcoming(self) -> list[Upcoming]:
        """Returns what is done next and when, the earliest first.

        Raises:
            RegistryError: the registry cannot be reached.
        """
        standing, now = self._look(), to_micros(self._clock())
        found = []
        for duty in self._duties.values():
            seen = standing.dues.get(duty.name)
            fire = self._fires.latest(duty.schedule, now)
            over = seen is not None and seen.state in OVER and fire <= seen.due_at
            at = self._fires.next(duty.schedule, now) if over else (seen and seen.next_at) or fire
            told = ("new", "") if seen is None else (seen.state, seen.error)
            found.append(Upcoming(duty.name, duty.schedule, from_micros(at), told[0], duty.after, told[1]))
        return sorted(found, key=lambda each: each.next_at)

    # -- within ----------------------------------------------------------------------------------------------------------

    def _look(self) -> Standing:
        standing = self._dues.load()
        if standing.state != self._state:
            self._duties = {duty.name: duty for duty in self._define()}
            self._state = standing.state
        return standing

    def _turn(self, duty: Duty, seen: Due | None, due: Due, standing: Standing) -> int:
        blocker = next((name for name in duty.after if not self._is_over(name, due.due_at, standing)), None)
        pool, most = self._pools[duty.kind]
        with self._lock:
            room = most - sum(job.duty.kind == duty.kind for job in self._jobs.values())
        reason = f"it reads {blocker!r}, which is not done yet"
        known = seen is not None and seen.state == "waiting" and seen.error == reason
        if (blocker is not None and known) or (blocker is None and room <= 0):
            return 0
        lease = self._leases.acquire(duty.name, self.holder, self.lease_seconds)
        if lease is None:
            return 0
        took = due if blocker is None else waiting(due, reason, None)
        try:
            # The row may have been settled by another since it was read, just before its lease was free.
            moved = self._dues.move(lease, seen, took, release=blocker is not None)
        except LeaseLostError:
            return 0  # this process stood still since it took the lease; whoever has it now sees to it
        if not moved:
            self._leases.release(lease)
        if not moved or blocker is not None:
            return 0
        job = _Job(duty, due, lease)
        with self._lock:
            self._jobs[duty.name] = job
        if due.deaths > MOST_DEATHS:
            error = f"{due.deaths} schedulers in turn ended while they were at it: does it take more memory than there is?"
            self._settle(job, given_up(due, error, to_micros(self._clock())), None)
            job.ended.set()
            return 1
        pool.submit(duty.work, duty.applied, lease).add_done_callback(lambda future: self._ended(job, future))
        return 1

    def _is_over(self, name: str, due_at: int, standing: Standing) -> bool:
        """Tells whether something is over as of its latest due instant up to a given one."""
        first = self._duties[name]
        row = standing.dues.get(name)
        return row is not None and row.settled_at is not None and row.settled_at >= self._fires.latest(first.schedule, due_at)

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

    def _judged(self, job: _Job, error: BaseException | None) -> Due:
        """Returns the due row after an attempt that ended so."""
        now = to_micros(self._clock())
        if error is None:
            return done(job.due, now)
        if isinstance(error, SourceMissingError):
            return waiting(job.due, str(error), now + self._retries.wait)
        told = str(error)
        if not isinstance(error, FeatureStoreError):
            _log.error("A fault in featurestore while it was at %r.", job.duty.name, exc_info=error)
            told = f"{type(error).__name__}: {error}"
        return failed(job.due, told, now, self._retries, self._draw, endless=isinstance(error, _ENDLESS))

    def _settle(self, job: _Job, due: Due, summary: ViewSummary | None) -> None:
        """Puts what came of a job into the due table; where that cannot be reached, the next ticks try again."""
        try:
            moved = self._dues.move(job.lease, job.due, due, release=True)
        except LeaseLostError as error:
            self._lost(job, error)
            return
        except RegistryError as error:
            job.unsettled = due, summary
            _log.warning("What came of %r could not be noted yet: %s", job.duty.name, error)
            return
        self._forget(job)
        if not moved:
            _log.warning("The due row of %r was changed by somebody who has not its lease.", job.duty.name)
            self._leases.release(job.lease)
        next_at = None if due.next_at is None else from_micros(due.next_at)
        self._tell(Outcome(due.view, from_micros(due.due_at), due.state, due.attempts, summary, due.error, next_at))
        loud = due.state == "failed" or (due.state == "retrying" and due.attempts == self._retries.attempts)
        if loud:
            given = "and is given up until it is due again" if due.state == "failed" else "and goes on being tried"
            self._notify(Notice(due.view, "failed", f"{due.view} failed {due.attempts} times, {given}: {due.error}"))

    def _lost(self, job: _Job, error: LeaseLostError) -> None:
        self._forget(job)
        _log.warning("%s Nothing that this process did since changes anything.", error)
        self._tell(Outcome(job.due.view, from_micros(job.due.due_at), "lost", job.due.attempts, error=str(error)))

    def _tell(self, outcome: Outcome) -> None:
        if not self._closing or outcome.state != "lost":
            self._told(outcome)

    def _forget(self, job: _Job) -> None:
        with self._lock:
            if self._jobs.get(job.duty.name) is job:
                del self._jobs[job.duty.name]

    def _settle_rest(self) -> None:
        for job in list(self._jobs.values()):
            with self._lock:
                unsettled, job.unsettled = job.unsettled, None
            if unsettled is not None:
                self._settle(job, *unsettled)

    def _wait(self, seconds: float | None) -> None:
        """Waits until all that is being done here has ended, at most so long, and renews its leases meanwhile."""
        left = math.inf if seconds is None else seconds
        while left > 0:
            job = next((job for job in list(self._jobs.values()) if not job.ended.is_set()), None)
            if job is None:
                return
            spell = min(self.lease_seconds / 3, left)
            if not job.ended.wait(spell):
                self.renew()
                left -= spell
