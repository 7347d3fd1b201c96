"""Columns of instants: any column of times brought to UTC and microseconds (S1), and texts read as times."""

import polars as pl

INSTANT = pl.Datetime("us", "UTC")
"""The dtype of every timestamp (S1)."""

_DAY = 86_400_000_000
_FAR_DAYS = (-4_000_000, 4_000_000)
_ISO_FORMATS = (
    ("%Y-%m-%dT%H:%M:%S%.f", None),
    ("%Y-%m-%dT%H:%M:%S%.f%#z", "UTC"),
    ("%Y-%m-%d", None),
    ("%Y-%m-%dT%H:%M", None),
    ("%Y-%m-%dT%H:%M%#z", "UTC"),
)


def instants(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Return an expression that brings a column of times to ``INSTANT`` (S1).

    Aware times are converted, naive ones taken as UTC, finer precision floored (also before the epoch), dates taken as
    their midnight.

    Raises:
        TypeError: ``dtype`` is not a time; the caller names the column to the user.
    """
    if isinstance(dtype, pl.Date):
        # NOTE: a database's 'infinity' is so far out that its microseconds would wrap around; no calendar has it, there or here.
        days = column.to_physical().cast(pl.Int64).clip(*_FAR_DAYS)
        return (days * _DAY).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    if not isinstance(dtype, pl.Datetime):
        raise TypeError(f"{dtype} is not a time")
    if dtype.time_unit == "ns":
        # NOTE: a cast from ns to us truncates towards zero; only the integer division floors.
        micros = column.to_physical() // 1000
    else:
        micros = column.to_physical()
        if dtype.time_unit == "ms":
            # Beyond this the product would wrap; no calendar has such a time, there or here.
            micros = micros.clip(-(2**53), 2**53) * 1000
    # The physical value of an aware column is already UTC, that of a naive one is taken as UTC.
    return micros.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")


def parse_times(texts: pl.Series) -> pl.Series:
    """Return ISO 8601 texts as instants; null where a text is none.

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
