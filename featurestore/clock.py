"""Time: UTC, durations, schedules. The only module that reads the clock.

Every timestamp in the feature store is UTC with microsecond precision (S1). Inside, an instant is an integer: the
microseconds since the epoch, which orders, subtracts and packs exactly.
"""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta

import polars as pl

from featurestore.errors import DefinitionError, RequestError

Clock = Callable[[], datetime]
"""Tells the present instant, aware and in UTC. Tests and replays bring their own."""

INSTANT = pl.Datetime("us", "UTC")
"""The dtype of every timestamp (S1)."""

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
_ISO_FORMATS = (
    ("%Y-%m-%dT%H:%M:%S%.f", None),
    ("%Y-%m-%dT%H:%M:%S%.f%#z", "UTC"),
    ("%Y-%m-%d", None),
    ("%Y-%m-%dT%H:%M", None),
    ("%Y-%m-%dT%H:%M%#z", "UTC"),
)
_CRON_FIELD = re.compile(r"^[\d*/,\-a-zA-Z#?L]+$")


def utc_now() -> datetime:
    """Returns the present instant, in UTC."""
    return datetime.now(UTC)


def to_micros(instant: datetime) -> int:
    """Returns the microseconds from the epoch to an instant; a naive one is taken as UTC (S1).

    Example:
        >>> to_micros(datetime(1970, 1, 1, 0, 0, 1))
        1000000
    """
    aware = instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC)
    return (aware - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """Returns the instant that lies so many microseconds after the epoch, in UTC.

    Example:
        >>> from_micros(1_000_000)
        datetime.datetime(1970, 1, 1, 0, 0, 1, tzinfo=datetime.timezone.utc)
    """
    return _EPOCH + timedelta(microseconds=micros)


def parse_instant(value: date | str) -> datetime:
    """Returns an instant in UTC from a datetime, a date (its midnight) or an ISO 8601 string; naive ones are taken as UTC (S1).

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
    """Returns a duration in microseconds, from a Polars duration string or a ``timedelta``.

    The units are ``us ms s m h d w``; a day is 24 hours. Months and years have no fixed length and are refused.

    Raises:
        DefinitionError: it is of another form, is not positive, or is longer than 100,000 days.

    Example:
        >>> parse_duration("1h30m")
        5400000000
    """
    if isinstance(value, timedelta):
        micros = value // _MICROSECOND
    else:
        parts = _PART.findall(value) if isinstance(value, str) and len(value) <= _LONGEST_TEXT else []
        if not parts or "".join(number + unit for number, unit in parts) != value:
            raise DefinitionError(
                f"{value!r} is not a duration. Write it as '6h', '15m' or '1d12h' (units: us ms s m h d w), or as a timedelta."
            )
        micros = sum(int(number) * _UNITS[unit] for number, unit in parts)
    if micros <= 0:
        raise DefinitionError(f"A duration must be longer than nothing; {value!r} is not.")
    if micros > _LONGEST:
        raise DefinitionError(f"A duration is 100,000 days at most; {value!r} is longer. For always, leave ttl= out.")
    return micros


def format_duration(micros: int) -> str:
    """Returns a duration as its shortest Polars duration string.

    Example:
        >>> format_duration(5_400_000_000)
        '1h30m'
    """
    parts = []
    for unit, size in _UNITS.items():
        if unit == "w" and micros % size:
            continue
        count, micros = divmod(micros, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def check_schedule(value: str) -> str:
    """Returns a schedule as it is, once it is known to be an interval (``"15m"``) or a cron line of five fields.

    Raises:
        DefinitionError: it is neither.

    Example:
        >>> check_schedule("*/5 * * * *")
        '*/5 * * * *'
    """
    fields = value.split()
    if len(fields) == 5 and all(_CRON_FIELD.match(field) for field in fields):
        return value
    try:
        parse_duration(value)
    except DefinitionError as error:
        raise DefinitionError(
            f"{value!r} is not a schedule. Write an interval ('15m') or a cron line of five fields ('*/5 * * * *')."
        ) from error
    return value


def instants(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Returns an expression that brings a column of times to ``INSTANT`` (S1).

    Aware times are converted, naive ones taken as UTC, finer precision floored (also before the epoch), dates taken as
    their midnight.

    Raises:
        TypeError: ``dtype`` is no time; the caller knows the column and says so to the user.
    """
    if isinstance(dtype, pl.Date):
        return column.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    if not isinstance(dtype, pl.Datetime):
        raise TypeError(f"{dtype} is not a time")
    if dtype.time_unit == "ns":
        # NOTE: a cast from ns to us truncates towards zero; only the integer division floors.
        micros = column.to_physical() // 1000
    else:
        micros = column.to_physical()
        if dtype.time_unit == "ms":
            # Beyond this the product would wrap; there is no such time.
            micros = pl.when(micros.is_between(-(2**53), 2**53)).then(micros * 1000)
    # The physical value of an aware column is already UTC, that of a naive one is taken as UTC.
    return micros.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")


def parse_times(texts: pl.Series) -> pl.Series:
    """Returns ISO 8601 texts as instants; null where a text is none.

    Dates, times to the minute, the second or any fraction of it, with or without an offset, each row for itself. Naive
    times are taken as UTC, finer precision is floored (S1).

    Example:
        >>> parse_times(pl.Series(["2013-07-01 12:00:00.5", "2013-07-01T12:00+02:00", "July"])).to_list()[1:]
        [datetime.datetime(2013, 7, 1, 10, 0, tzinfo=zoneinfo.ZoneInfo(key='UTC')), None]
    """
    texts = texts.str.strip_chars().str.replace(r"^(\S{10}) ", "${1}T").str.replace(r"\s*UTC$", "Z")
    times = pl.Series(texts.name, [None] * len(texts), dtype=INSTANT)
    for form, zone in _ISO_FORMATS:
        if times.null_count() == texts.null_count():
            break
        parsed = texts.str.to_datetime(form, time_unit="us", time_zone=zone, strict=False)
        times = times.zip_with(times.is_not_null(), parsed.dt.replace_time_zone("UTC"))
    return times
