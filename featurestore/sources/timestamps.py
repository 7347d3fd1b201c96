"""Timestamps of source rows: renamed columns, times as instants (S1), and the rows that a run reads."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import polars as pl

from featurestore.clock import from_micros
from featurestore.definitions.source import Source
from featurestore.errors import SourceError, SourceShapeError, did_you_mean
from featurestore.instants import INSTANT
from featurestore.shown_errors import quotes_store, says_out_of_reach, shown
from featurestore.sources.base import Cursor
from featurestore.sources.supertypes import cast

FIRST, LAST = -62_135_596_800_000_000, 253_402_300_799_999_999
"""The first and last microsecond of the years 1 to 9999, which a ``datetime`` can say."""


class SourceOutOfReachError(SourceError):
    """The store cannot be reached: nothing is known of its files, so none is set aside for that."""


@contextmanager
def translated(spec: Source, what: str, *errors: type[Exception], advice: str = "") -> Iterator[None]:
    """Turn a library's errors into ``SourceError``, naming the source and what was being read.

    Args:
        spec: the source's definition.
        what: what was being read: a file, a query.
        errors: the library's exception classes.
        advice: what to do about it.
    """
    try:
        yield
    except errors as error:
        # What a store answers may quote a key, so such an error is not shown as a cause either.
        cause = None if quotes_store(error) else error
        kind = SourceOutOfReachError if says_out_of_reach(error) else SourceError
        raise kind(f"Source {spec.name!r}: {what} could not be read: {shown(error)}{f' {advice}' if advice else ''}") from cause


def names_in_source(spec: Source) -> dict[str, str]:
    """Return, for each column that ``rename=`` renames, the source's own name by the name here."""
    return {new: old for old, new in spec.rename.items()}


def raw_time_columns(spec: Source) -> tuple[str, ...]:
    """Return the time columns by the names the source itself gives them."""
    old = names_in_source(spec)
    return tuple(old.get(name, name) for name in spec.time_columns)


def is_time(dtype: pl.DataType) -> bool:
    """Return whether a column of this dtype can tell time: a timestamp, a date, or nothing but nulls."""
    return isinstance(dtype, (pl.Date, pl.Datetime, pl.Null))


def checked(spec: Source, raw: pl.Schema, where: str, advice: str) -> pl.Schema:
    """Return the columns as the reader gives them: renamed, times as instants, in the order of the source.

    Args:
        spec: the source's definition.
        raw: the columns as the source has them.
        where: what has these columns, for messages: a file, a query.
        advice: what to do about a time column that is not a time.

    Raises:
        SourceError: a column that the definition names is not there, ``rename=`` makes two columns of one name, or a time
            column is not a time.
    """
    for old in spec.rename:
        if old not in raw:
            raise SourceShapeError(_missing(spec, old, "rename", where, raw))
    schema: dict[str, pl.DataType] = {}
    for column, dtype in raw.items():
        name = spec.rename.get(column, column)
        if name in schema:
            message = f"rename= would give {where} two columns named {name!r}. Choose another name."
            raise SourceShapeError(f"Source {spec.name!r}: {message}")
        schema[name] = dtype
    named = {"event_time": spec.event_time, "available_time": spec.available_time, "event_id": spec.event_id}
    for argument, name_given in named.items():
        if name_given is not None and name_given not in schema:
            raise SourceShapeError(_missing(spec, name_given, argument, where, schema))
    for column in spec.time_columns:
        if not is_time(schema[column]):
            raise SourceShapeError(
                f"Source {spec.name!r}: its time column {column!r} is {schema[column]} in {where}, not a time. {advice}"
            )
        schema[column] = INSTANT
    return pl.Schema(schema)


def normalised(spec: Source, there: pl.Schema, columns: pl.Schema | None = None) -> list[pl.Expr]:
    """Return the expressions that bring rows, whose columns are known to be good, to what ``checked`` returns.

    Args:
        spec: the source's definition.
        there: the columns that the rows have.
        columns: the columns wanted of them, by the source's own names, where these are others or of wider types.
    """
    times = raw_time_columns(spec)
    wanted_columns = there if columns is None else columns
    return [
        cast(pl.col(name), there[name], INSTANT if name in times else dtype).alias(spec.rename.get(name, name))
        for name, dtype in wanted_columns.items()
    ]


def effective(spec: Source) -> pl.Expr:
    """Return the effective available time: the later of available and event time (S2)."""
    return pl.max_horizontal(*spec.time_columns)


def no_time(spec: Source) -> pl.Expr:
    """Return whether a row lacks one of its times, or has one outside the years 1 to 9999: it is rejected in any case (S1)."""
    return pl.any_horizontal(
        pl.col(name).is_null() | ~pl.col(name).to_physical().is_between(FIRST, LAST) for name in spec.time_columns
    )


def wanted(spec: Source, after: int | None, until: int, nulls: bool) -> pl.Expr:
    """Return which rows a run wants, of columns as ``normalised`` leaves them.

    Args:
        spec: the source's definition.
        after: the least effective available time, in microseconds; None for no bound.
        until: the greatest one, inclusive.
        nulls: whether rows without a good time are wanted too.
    """
    micros = effective(spec).to_physical()
    within = (micros <= until) if after is None else (micros <= until) & (micros >= after)
    return (within & ~no_time(spec)) | no_time(spec) if nulls else within & ~no_time(spec)


def behind(spec: Source, cursor: Cursor | None, until: int) -> tuple[str, ...]:
    """Return a notice where a run reads up to an instant before the one that an earlier run has read up to."""
    through = (cursor or {}).get("through")
    if through is None or until >= through:
        return ()
    ends = [from_micros(instant).isoformat(" ", "seconds") for instant in (until, through)]
    return (
        f"Source {spec.name!r}: this run reads what is known by {ends[0]}, and an earlier one has read on to {ends[1]}. Unless "
        "end= says so, a clock is wrong: set them all by a time server.",
    )


def extent(spec: Source, rows: pl.LazyFrame) -> pl.LazyFrame:
    """Return one row about rows as ``normalised`` leaves them: ``earliest``, ``latest``, ``nulls``.

    The first and the last effective available time in microseconds, of the rows that have good times, and whether there
    are others.
    """
    known = effective(spec).to_physical().filter(~no_time(spec))
    return rows.select(earliest=known.min(), latest=known.max(), nulls=no_time(spec).any())


def _missing(spec: Source, column: str, argument: str, where: str, there: Iterable[str]) -> str:
    names = list(there)
    return (
        f"Source {spec.name!r}: {argument}= names the column {column!r}, which {where} does not have. "
        f"{did_you_mean(column, names)} Its columns are: {', '.join(names)}."
    )
