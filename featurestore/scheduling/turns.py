"""The next turn of something scheduled, as its schedule, its row in the due table and the clock say. It loads no Polars."""

from dataclasses import dataclass
from datetime import datetime

from featurestore.clock import from_micros
from featurestore.registry.schedule_state import ScheduleSnapshot
from featurestore.scheduling.retry_policy import OVER, Belief, take_up
from featurestore.scheduling.schedules import ScheduleTimes


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
        attempts: how many attempts have failed.
    """

    name: str
    schedule: str
    next_at: datetime
    state: str
    after: tuple[str, ...] = ()
    error: str = ""
    attempts: int = 0


def next_turn(name: str, schedule: str, snapshot: ScheduleSnapshot, fires: ScheduleTimes, now: int, belief: Belief) -> Upcoming:
    """Return when something is done next.

    Args:
        name: the view; ``upkeep:view`` for its upkeep.
        schedule: its schedule.
        snapshot: the due table.
        fires: when schedules fire.
        now: the present in microseconds.
        belief: how far in the future an instant in the due table may lie.
    """
    seen, fire = snapshot.dues.get(name), fires.latest(schedule, now)
    if seen is None:
        return Upcoming(name, schedule, from_micros(fire), "new")
    at = fire
    if seen.state not in OVER:
        at = belief.retry(seen.next_at, now) or fire
    elif take_up(name, seen, fire, now, belief) is None:
        at = fires.next(schedule, now)
    return Upcoming(name, schedule, from_micros(at), seen.state, error=seen.error, attempts=seen.attempts)
