"""When schedules fire: intervals from the epoch on, cron lines in their time zone. All schedulers compute the same.

An hour that a time zone skips fires after the gap, one that it repeats fires twice.
"""

from collections.abc import Iterable, Iterator
from zoneinfo import ZoneInfo

from apscheduler.triggers.cron import CronTrigger

from featurestore.clock import from_micros, parse_cron, parse_duration, to_micros

_MINUTE = 60_000_000
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


class Fires:
    """Tells when schedules fire. What it found it keeps until the schedule fires again. Not for several threads at once.

    Args:
        zone: the time zone of cron lines that name none.

    Example:
        >>> from datetime import datetime
        >>> fires = Fires("Europe/Berlin")
        >>> from_micros(fires.latest("0 6 * * *", to_micros(datetime(2013, 7, 1, 12)))).isoformat()
        '2013-07-01T04:00:00+00:00'
        >>> from_micros(fires.next("15m", to_micros(datetime(2013, 7, 1, 12, 7)))).isoformat()
        '2013-07-01T12:15:00+00:00'
    """

    def __init__(self, zone: str = "UTC") -> None:
        self._zone = zone
        self._triggers: dict[str, tuple[CronTrigger, ...]] = {}
        self._found: dict[str, tuple[int, int]] = {}

    def latest(self, schedule: str, now: int) -> int:
        """Returns the latest instant, in microseconds, at which a schedule fired, at the present one inclusive."""
        return self._around(schedule, now)[0]

    def next(self, schedule: str, now: int) -> int:
        """Returns the next instant, in microseconds, at which a schedule fires."""
        return self._around(schedule, now)[1]

    def _around(self, schedule: str, now: int) -> tuple[int, int]:
        found = self._found.get(schedule)
        if found is None or not found[0] <= now < found[1]:
            found = self._cron(schedule, now, found) if len(schedule.split()) > 1 else _interval(schedule, now)
            self._found[schedule] = found
        return found

    def _cron(self, line: str, now: int, found: tuple[int, int] | None) -> tuple[int, int]:
        if line not in self._triggers:
            self._triggers[line] = tuple(_triggers(line, self._zone))
        triggers = self._triggers[line]
        if found is not None and found[1] <= now:
            following = _after(triggers, found[1] + 1)
            if following > now:
                return found[1], following
        # What fires is known forwards only. So the latest is bracketed by longer and longer steps back, then halved down to: the
        # cost is the same for a line that fires every minute and for one that fires once a year.
        step = _MINUTE
        while (fired := _after(triggers, max(now - step, 0))) > now:
            if step > now:
                return min(now, 0), fired  # cron begins with the epoch
            step *= 2
        late = now + 1
        while (following := _after(triggers, fired + 1)) <= now:
            middle = (fired + late) // 2
            nearer = _after(triggers, middle)
            fired, late = (nearer, late) if nearer <= now else (following, middle)
        return fired, following


def _after(triggers: Iterable[CronTrigger], instant: int) -> int:
    """Returns when one of them fires next, which may be at the instant itself."""
    found = [trigger.get_next_fire_time(None, from_micros(instant)) for trigger in triggers]
    return min(to_micros(each) for each in found if each is not None)


def _interval(schedule: str, now: int) -> tuple[int, int]:
    length = parse_duration(schedule.strip())
    latest = now // length * length
    return latest, latest + length


def _triggers(line: str, zone: str) -> Iterator[CronTrigger]:
    (minutes, hours, days, months, weekdays), own = parse_cron(line)
    fields = line.split()
    minute, hour, month = (",".join(map(str, each)) for each in (minutes, hours, months))
    day = ",".join(map(str, days))
    weekday = ",".join(_WEEKDAYS[each] for each in weekdays)  # APScheduler's numbers begin with Monday
    whole = {"minute": minute, "hour": hour, "month": month, "timezone": ZoneInfo(own or zone)}
    if "*" in (fields[2][0], fields[4][0]):
        yield CronTrigger(**whole, day=day, day_of_week=weekday)
    else:  # cron's rule: where both the day and the weekday are named, either will do
        yield CronTrigger(**whole, day=day)
        yield CronTrigger(**whole, day_of_week=weekday)
