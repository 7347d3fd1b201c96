"""The retry policy: pure functions that decide what happens to a due task.

    (none, done, failed) ──due──> running ──> done
                                   │   ▲└──> failed      after the last attempt
                                   ▼   │
                            waiting, retrying            what it reads is not there yet; an attempt failed

Missed instants coalesce into the latest: a scheduler takes a row to the latest instant at which it was due. An instant in a row
that lies further in the future than clocks that agree can make it is that of a clock that was ahead once: it is not believed, or
the row would stop everybody until then.
"""

import random
from dataclasses import dataclass, replace
from datetime import timedelta

from featurestore.config import Settings
from featurestore.registry.leases import longest_lease
from featurestore.registry.schedule_state import ScheduleState

OVER = ("done", "failed")
MOST_DEATHS = 5
"""So many processes may die while they are at one due instant; then it is given up, for it may be what kills them."""

_MICROS = 1_000_000
_MICROSECOND = timedelta(microseconds=1)
_MOST_DOUBLINGS = 30


@dataclass(frozen=True)
class RetryPolicy:
    """How often and when what failed is tried again. Times are in microseconds.

    Args:
        attempts: how many attempts there are.
        first: the pause after the first, which then doubles.
        longest: the longest pause.
        wait: the pause before what waits for its source is tried again.
    """

    attempts: int = 5
    first: int = 10 * _MICROS
    longest: int = 600 * _MICROS
    wait: int = 10 * _MICROS

    @classmethod
    def of(cls, settings: Settings) -> "RetryPolicy":
        """Return what the settings say."""
        schedule = settings.schedule
        pauses = schedule.retry_delay, schedule.retry_max_delay, schedule.source_poll
        return cls(schedule.max_attempts, *(pause // _MICROSECOND for pause in pauses))

    def pause(self, attempt: int, draw: random.Random) -> int:
        """Return the pause after an attempt: twice the last one, less up to half of it, so that not all come back at once.

        Example:
            >>> pauses = [RetryPolicy().pause(attempt, random.Random(1)) / 1e6 for attempt in (1, 2, 9)]
            >>> [5 <= pauses[0] <= 10, 10 <= pauses[1] <= 20, 300 <= pauses[2] <= 600]
            [True, True, True]
        """
        whole = min(self.longest, self.first << min(attempt - 1, _MOST_DOUBLINGS))
        return whole - round(draw.random() * whole / 2)


@dataclass(frozen=True)
class Belief:
    """How far in the future an instant in the due table may lie. Times are in microseconds.

    Args:
        ahead: how far clocks may differ: as long as a lease lasts.
        longest: how far the end of a lease may lie ahead.
        pause: the longest pause until something is tried again.
    """

    ahead: int = 30 * _MICROS
    longest: int = longest_lease(30.0)
    pause: int = 600 * _MICROS

    @classmethod
    def of(cls, retries: RetryPolicy, lease_seconds: float) -> "Belief":
        """Return what leases and pauses of such lengths make possible."""
        ahead = round(lease_seconds * _MICROS)
        return cls(ahead, longest_lease(lease_seconds), max(retries.longest, retries.wait, retries.first))

    def past(self, instant: int | None, now: int) -> int | None:
        """Return the instant of something that has been; None where it lies too far in the future for that."""
        return instant if instant is not None and instant <= now + self.ahead else None

    def retry(self, instant: int | None, now: int) -> int | None:
        """Return when something is tried again; None where no pause is that long."""
        return instant if instant is not None and instant <= now + self.ahead + self.pause else None

    def is_held(self, until: int | None, now: int) -> bool:
        """Return whether a lease that ends then is held."""
        return until is not None and now < until <= now + self.longest


def take_up(name: str, seen: ScheduleState | None, fire: int, now: int, belief: Belief = Belief()) -> ScheduleState | None:
    """Return the row with which something is taken up now; None where it is not its turn.

    Args:
        name: what it is.
        seen: its row; None where it was never due.
        fire: the latest instant at which it was due.
        now: the present.
        belief: how far in the future an instant in the row may lie.

    Example:
        >>> take_up("weather", None, fire=100, now=130)
        ScheduleState(view='weather', due_at=100, state='running', ...)
        >>> take_up("weather", ScheduleState("weather", 100, "done"), fire=100, now=130) is None
        True
    """
    if seen is None:
        return ScheduleState(name, fire, "running")
    if belief.is_held(seen.held_until, now):
        return None
    due_at, settled = belief.past(seen.due_at, now), belief.past(seen.settled_at, now)
    if seen.state in OVER:
        if due_at is not None and fire <= due_at:
            return None
        return ScheduleState(name, fire, "running", finished_at=seen.finished_at, settled_at=settled)
    again = belief.retry(seen.next_at, now)
    if seen.state != "running" and again is not None and again > now:
        return None
    died = 1 if seen.state == "running" else 0
    latest = fire if due_at is None else max(due_at, fire)
    return replace(seen, due_at=latest, settled_at=settled, state="running", next_at=None, deaths=seen.deaths + died)


def done(due: ScheduleState, now: int) -> ScheduleState:
    """Return the row of what was done."""
    return replace(due, state="done", attempts=0, deaths=0, next_at=None, finished_at=now, settled_at=due.due_at, error="")


def given_up(due: ScheduleState, error: str, now: int) -> ScheduleState:
    """Return the row of a task that failed for good; it starts over at the next due instant."""
    return replace(due, state="failed", deaths=0, next_at=None, finished_at=now, settled_at=due.due_at, error=error)


def waiting(due: ScheduleState, error: str, until: int | None) -> ScheduleState:
    """Return the row of a task that waits for something; that does not count as a failed attempt."""
    return replace(due, state="waiting", next_at=until, error=error)


def failed(due: ScheduleState, error: str, now: int, retries: RetryPolicy, draw: random.Random, *, endless: bool) -> ScheduleState:
    """Return the row after a failed attempt: tried again after a pause, or given up.

    Args:
        due: the row.
        error: why it failed.
        now: the present.
        retries: how often it is tried.
        draw: draws the pauses.
        endless: whether it is never given up, for what failed is not its fault: a store cannot be reached.
    """
    counted = replace(due, attempts=due.attempts + 1)
    if counted.attempts >= retries.attempts and not endless:
        return given_up(counted, error, now)
    return replace(counted, state="retrying", next_at=now + retries.pause(counted.attempts, draw), error=error)
