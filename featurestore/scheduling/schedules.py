"""Schedules: times of intervals and cron lines in their time zone, equal for all schedulers.

A time that a zone skips fires after the gap, as much later as the gap is long, be it at midnight or of a whole day; one that it
repeats fires twice.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC
from zoneinfo import ZoneInfo

from apscheduler.triggers.cron import CronTrigger

from featurestore.clock import from_micros, parse_cron, parse_duration, to_micros

_MINUTE = 60_000_000
_DAY_AND_MORE = 26 * 60 * _MINUTE
"""No two clocks on Earth are further apart."""
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


class ScheduleTimes:
    """Tell when schedules fire. What it found it keeps until the schedule fires again. Not for several threads at once.

    Args:
        zone: the time zone of cron lines that name none.

    Example:
        >>> from datetime import datetime
        >>> fires = ScheduleTimes("Europe/Berlin")
        >>> from_micros(fires.latest("0 6 * * *", to_micros(datetime(2013, 7, 1, 12)))).isoformat()
        '2013-07-01T04:00:00+00:00'
        >>> from_micros(fires.next("15m", to_micros(datetime(2013, 7, 1, 12, 7)))).isoformat()
        '2013-07-01T12:15:00+00:00'
    """

    def __init__(self, zone: str = "UTC") -> None:
        self._zone = zone
        self._lines: dict[str, _Line] = {}
        self._found: dict[str, tuple[int, int]] = {}

    def latest(self, schedule: str, now: int) -> int:
        """Return the latest instant, in microseconds, at which a schedule fired, at the present one inclusive."""
        return self._around(schedule, now)[0]

    def next(self, schedule: str, now: int) -> int:
        """Return the next instant, in microseconds, at which a schedule fires."""
        return self._around(schedule, now)[1]

    def _around(self, schedule: str, now: int) -> tuple[int, int]:
        span = self._found.get(schedule)
        if span is None or not span[0] <= now < span[1]:
            span = self._cron(schedule, now, span) if len(schedule.split()) > 1 else _interval(schedule, now)
            self._found[schedule] = span
        return span

    def _cron(self, line: str, now: int, span: tuple[int, int] | None) -> tuple[int, int]:
        if line not in self._lines:
            self._lines[line] = _Line.of(line, self._zone)
        after = self._lines[line].after
        if span is not None and span[1] <= now:
            following = after(span[1] + 1)
            if following > now:
                return span[1], following
        # What fires is known forwards only. So the latest is bracketed by longer and longer steps back, then halved down to: the
        # cost is the same for a line that fires every minute and for one that fires once a year.
        step = _MINUTE
        while (fired := after(max(now - step, 0))) > now:
            if step > now:
                return min(now, 0), fired  # cron begins with the epoch
            step *= 2
        late = now + 1
        while (following := after(fired + 1)) <= now:
            middle = (fired + late) // 2
            nearer = after(middle)
            fired, late = (nearer, late) if nearer <= now else (following, middle)
        return fired, following


@dataclass(frozen=True)
class _Line:
    """A cron line. Its triggers know no zone: they tell what a clock on the wall shows when it fires.

    NOTE: given the zone, APScheduler skips a day whose midnight is in a gap: the first hour that it looks at is not there.

    Args:
        triggers: what fires, in micros of a wall clock since the epoch.
        zone: the zone of that clock.
    """

    triggers: Sequence[CronTrigger]
    zone: ZoneInfo

    @classmethod
    def of(cls, line: str, zone: str) -> "_Line":
        own = parse_cron(line)[1]
        return cls(tuple(_triggers(line)), ZoneInfo(own or zone))

    def after(self, instant: int) -> int:
        """Return when it fires next, which may be at the instant itself."""
        best: int | None = None
        wall = instant + min(self._offsets(instant))
        while True:
            wall = self._shown_next(wall)
            if best is not None and wall - max(self._offsets(best)) > best:
                return best
            later = [candidate for candidate in self._instants(wall) if candidate >= instant]
            best = min([*later, *([] if best is None else [best])], default=None)
            wall += 1

    def _shown_next(self, wall: int) -> int:
        fire_times = [trigger.get_next_fire_time(None, from_micros(wall)) for trigger in self.triggers]
        return min(to_micros(fire_time) for fire_time in fire_times if fire_time is not None)

    def _offsets(self, instant: int) -> list[int]:
        """Return by how much the zone is ahead of UTC around an instant."""
        return [self._shown(instant + by) - instant - by for by in (-_DAY_AND_MORE, 0, _DAY_AND_MORE)]

    def _shown(self, instant: int) -> int:
        return to_micros(from_micros(instant).astimezone(self.zone).replace(tzinfo=UTC))

    def _instants(self, wall: int) -> list[int]:
        """Return when the clock shows something: once, twice, or in a gap when it would have, had it not been put forward."""
        local = from_micros(wall).replace(tzinfo=self.zone)
        first, second = to_micros(local), to_micros(local.replace(fold=1))
        return [first, second] if first < second else [first]


def _interval(schedule: str, now: int) -> tuple[int, int]:
    length = parse_duration(schedule.strip())
    latest = now // length * length
    return latest, latest + length


def _triggers(line: str) -> Iterator[CronTrigger]:
    minutes, hours, days, months, weekdays = parse_cron(line)[0]
    fields = line.split()
    minute, hour, month = (",".join(map(str, values)) for values in (minutes, hours, months))
    day = ",".join(map(str, days))
    weekday = ",".join(_WEEKDAYS[values] for values in weekdays)  # APScheduler's numbers begin with Monday
    whole = {"minute": minute, "hour": hour, "month": month, "timezone": UTC}
    if "*" in (fields[2][0], fields[4][0]):
        yield CronTrigger(**whole, day=day, day_of_week=weekday)
    else:  # cron's rule: where both the day and the weekday are named, either will do
        yield CronTrigger(**whole, day=day)
        yield CronTrigger(**whole, day_of_week=weekday)
