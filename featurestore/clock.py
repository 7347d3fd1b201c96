"""Time: UTC, durations, schedules. The only module that reads the clock.

Every timestamp in the feature store is UTC with microsecond precision (S1). Inside, an instant is an integer: the
microseconds since the epoch, which orders, subtracts and packs exactly.
"""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from featurestore.errors import DefinitionError, RequestError

Clock = Callable[[], datetime]
"""Tells the present instant, aware and in UTC. Tests and replays bring their own."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_UNITS = {
    "w": 7 * 86_400_000_000,
    "d": 86_400_000_000,
    "h": 3_600_000_000,
    "m": 60_000_000,
    "s": 1_000_000,
    "ms": 1_000,
    "us": 1,
}
_PART = re.compile(r"(\d+)(us|ms|w|d|h|m|s)")
_LONGEST = 100_000 * _UNITS["d"]
_LONGEST_TEXT = 100
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_CRON_FIELDS: tuple[tuple[str, int, int, dict[str, int]], ...] = (
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day", 1, 31, {}),
    ("month", 1, 12, {name: place for place, name in enumerate(_MONTHS, 1)}),
    ("weekday", 0, 7, {name: place for place, name in enumerate(_WEEKDAYS)}),
)
_CRON_ITEM = re.compile(r"(?:\*|(\w+)(?:-(\w+))?)(?:/(\d+))?")


YEARS = (-62_135_596_800_000_000, 253_402_300_799_999_999)
"""The first microsecond of year 1, and the last of year 9999: what a ``datetime`` can say."""


def utc_now() -> datetime:
    """Return the present instant, in UTC."""
    return datetime.now(UTC)


def to_micros(instant: datetime) -> int:
    """Return the microseconds from the epoch to an instant; a naive one is taken as UTC (S1).

    Example:
        >>> to_micros(datetime(1970, 1, 1, 0, 0, 1))
        1000000
    """
    aware = instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC)
    return (aware - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """Return the instant that lies so many microseconds after the epoch, in UTC.

    Example:
        >>> from_micros(1_000_000)
        datetime.datetime(1970, 1, 1, 0, 0, 1, tzinfo=datetime.timezone.utc)
    """
    return _EPOCH + timedelta(microseconds=micros)


def nearest_instant(micros: int) -> datetime:
    """Return the same, or the first or last instant of the calendar for one before or behind it: as a bound it is as good.

    Example:
        >>> nearest_instant(-10**18).year, nearest_instant(10**18).year
        (1, 9999)
    """
    return from_micros(min(max(micros, YEARS[0]), YEARS[1]))


def parse_instant(value: date | str) -> datetime:
    """Return an instant in UTC from a datetime, a date (its midnight) or an ISO 8601 string; naive ones are taken as UTC (S1).

    Raises:
        RequestError: it is none of these, or its year in UTC is not one of 1 to 9999.

    Example:
        >>> parse_instant("2013-07-01T12:00").isoformat()
        '2013-07-01T12:00:00+00:00'
    """
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise RequestError(f"{value!r} is not a time. Write it as 2013-07-01 or 2013-07-01T12:30:00+00:00.") from error
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time(), UTC)
    if not isinstance(value, datetime) or value != value:  # pandas' NaT is a datetime that equals nothing
        raise RequestError(
            f"{value!r} is not a time but {type(value).__name__}. Give a datetime, a date, or text as 2013-07-01T12:30:00+00:00."
        )
    try:
        return from_micros(to_micros(value))
    except OverflowError as error:
        raise RequestError(f"{value.isoformat()} is out of range: in UTC its year must be one of 1 to 9999.") from error


def parse_duration(value: str | timedelta) -> int:
    """Return a duration in microseconds, from a Polars duration string or a ``timedelta``.

    The units are ``us ms s m h d w``; a day is 24 hours. Months and years have no fixed length and are refused.

    Raises:
        DefinitionError: it is of another form, is not positive, or is longer than 100,000 days.

    Example:
        >>> parse_duration("1h30m")
        5400000000
    """
    micros = _read_duration(value)
    if micros <= 0:
        raise DefinitionError(f"A duration must be longer than nothing; {value!r} is not.")
    if micros > _LONGEST:
        raise DefinitionError(f"A duration is 100,000 days at most; {value!r} is longer. For always, leave ttl= out.")
    return micros


def parse_length(value: str | timedelta) -> int:
    """Return a duration in microseconds as ``parse_duration`` does, or 0 for one of nothing.

    Raises:
        DefinitionError: it is of another form, or is longer than 100,000 days.

    Example:
        >>> parse_length("0s"), parse_length("500ms")
        (0, 500000)
    """
    micros = _read_duration(value)
    if micros > _LONGEST:
        raise DefinitionError(f"A duration is 100,000 days at most; {value!r} is longer.")
    return micros


def _read_duration(value: str | timedelta) -> int:
    if isinstance(value, timedelta):
        return value // _MICROSECOND
    parts = _PART.findall(value) if isinstance(value, str) and len(value) <= _LONGEST_TEXT else []
    if not parts or "".join(number + unit for number, unit in parts) != value:
        raise DefinitionError(
            f"{value!r} is not a duration. Write it as '6h', '15m' or '1d12h' (units: us ms s m h d w), or as a timedelta."
        )
    return sum(int(number) * _UNITS[unit] for number, unit in parts)


def format_duration(micros: int, *, weeks: bool = False) -> str:
    """Return a duration as a Polars duration string, in days and smaller units.

    Args:
        micros: the duration in microseconds.
        weeks: whether a whole number of weeks is given in weeks.

    Example:
        >>> format_duration(5_400_000_000)
        '1h30m'
        >>> week = 7 * 86_400_000_000
        >>> format_duration(week), format_duration(week, weeks=True)
        ('7d', '1w')
    """
    parts = []
    for unit, size in _UNITS.items():
        if unit == "w" and (micros % size or not weeks):
            continue
        count, micros = divmod(micros, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def format_seconds(seconds: float) -> str:
    """Return a length of time in its two largest units.

    Example:
        >>> format_seconds(7384), format_seconds(0.4)
        ('2h3m', '0s')
    """
    whole = max(int(seconds), 0)
    for size, unit, smaller, name in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size}{unit}{rest}{name}" if rest else f"{whole // size}{unit}"
    return f"{whole}s"


def check_schedule(value: str) -> str:
    """Return a schedule as it is, once it is known to be an interval (``"15m"``) or a cron line of five fields.

    A cron line may end with a time zone: ``"0 6 * * mon-fri Europe/Berlin"``.

    Raises:
        DefinitionError: it is neither.

    Example:
        >>> check_schedule("*/5 * * * *")
        '*/5 * * * *'
    """
    if not isinstance(value, str) or len(value.split()) < 5:
        try:
            parse_duration(value)
        except DefinitionError as error:
            raise DefinitionError(
                f"{value!r} is not a schedule. Write an interval ('15m') or a cron line of five fields ('*/5 * * * *')."
            ) from error
    else:
        parse_cron(value)
    return value


def parse_cron(line: str) -> tuple[list[tuple[int, ...]], str]:
    """Return the minutes, hours, days, months and weekdays (Sunday is 0) of a cron line, and its time zone; empty for none.

    Raises:
        DefinitionError: it is not a valid cron line, or its time zone is unknown.

    Example:
        >>> parse_cron("*/30 6 1,15 jan mon-tue UTC")
        ([(0, 30), (6,), (1, 15), (1,), (1, 2)], 'UTC')
    """
    fields = line.split()
    try:
        if len(fields) not in (5, 6):
            raise ValueError(f"it has {len(fields)} fields")
        zone = check_zone(fields[5]) if len(fields) == 6 else ""
        cron_fields = [_cron_field(text, *field) for text, field in zip(fields, _CRON_FIELDS, strict=False)]
        if min(cron_fields[2]) > max(_MONTH_DAYS[month - 1] for month in cron_fields[3]) and "*" in (fields[2][0], fields[4][0]):
            raise ValueError("its months have no such day")
        return cron_fields, zone
    except ValueError as error:
        raise DefinitionError(
            f"{line!r} is not a schedule: {error}. Write an interval ('15m') or a cron line of five fields ('*/5 * * * *'), after "
            "which a time zone may stand ('0 6 * * * Europe/Berlin')."
        ) from error


def _cron_field(text: str, field: str, lowest: int, highest: int, names: dict[str, int]) -> tuple[int, ...]:
    values: set[int] = set()
    for item in text.lower().split(","):
        match = _CRON_ITEM.fullmatch(item)
        if match is None:
            raise ValueError(f"{item!r} is not a valid {field}")
        first, last, step = match.groups()
        begin, end = lowest, highest - (field == "weekday")
        if first is not None:
            try:
                begin = names[first] if first in names else int(first)
                end = (names[last] if last in names else int(last)) if last else (end if step else begin)
            except ValueError as error:
                raise ValueError(f"{item!r} is not a valid {field}") from error
        if field == "weekday" and last and end == 0 < begin:
            end = 7  # sat-sun
        if not (lowest <= begin <= end <= highest and step != "0"):
            raise ValueError(f"{item!r} is not a valid {field}: it must be {lowest} to {highest}")
        values.update(range(begin, end + 1, int(step or 1)))
    return tuple(sorted({value % 7 for value in values} if field == "weekday" else values))


def check_zone(name: str) -> str:
    """Return the name of a time zone as it is, once it is known to be one.

    Raises:
        ValueError: there is no such zone.
    """
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"{name!r} is not a time zone such as 'UTC' or 'Europe/Berlin'") from error
    return name
