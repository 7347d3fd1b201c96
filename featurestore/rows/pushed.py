"""Pushed rows: converted to the form in which their source's reader returns rows."""

import re
from dataclasses import replace

import polars as pl

from featurestore.definitions.source import Source
from featurestore.dtypes import fits, inner_dtype
from featurestore.errors import RequestError, did_you_mean
from featurestore.instants import INSTANT, instants, parse_times
from featurestore.rows.total_order import AVAILABLE
from featurestore.rows.transform import TransformResult, fitted
from featurestore.rows.unreadable import overflowed

_DURATION = re.compile(
    r"(?P<sign>[-+]?)P(?:(?P<days>\d+)D)?"
    r"(?:T(?=\d)(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+)(?:\.(?P<fraction>\d{1,6}))?S)?)?",
    re.ASCII,
)
_TRUTHS = {"true": True, "false": False}


def in_source_form(rows: pl.DataFrame, source: Source, schema: pl.Schema | None) -> pl.DataFrame:
    """Return rows with the columns that a source has after ``rename=``, in its dtypes; times as instants (S1).

    A column is renamed where it bears the name it has in the source. Text is read as what the source's column is: a time or a
    duration in ISO 8601, a number, true or false, bytes in base64; in lists too. A number keeps its own dtype where the source's
    cannot hold all of them, so that the checks of the view may reject its row.

    Args:
        rows: the rows.
        source: the source they are of.
        schema: its columns as its reader gives them; None where there is nothing to read yet.

    Raises:
        RequestError: a column is missing or unknown, or its values are not of the source's dtype.
    """
    rows = rows.rename({old: new for old, new in source.rename.items() if old in rows.columns and new not in rows.columns})
    named_columns = [name for name in (source.event_id, source.order_by) if name is not None]
    needed = dict.fromkeys((*source.time_columns, *named_columns)) if schema is None else schema
    for name in needed:
        if name not in rows.columns:
            raise RequestError(
                f"The rows pushed to source {source.name!r} have no column {name!r}. {did_you_mean(name, rows.columns)} "
                "Give it to all of them, null where there is no value.",
                column=name,
            )
    wanted = {**(schema or {}), **dict.fromkeys(source.time_columns, INSTANT)}
    casts = []
    for name, actual in rows.schema.items():
        if schema is not None and name not in schema:
            raise RequestError(
                f"The rows pushed to source {source.name!r} have a column {name!r}, which the source has not. "
                f"{did_you_mean(name, schema)} Leave it out, or name it as the source does.",
                column=name,
            )
        if name in wanted and actual != wanted[name] and not isinstance(wanted[name], pl.Null):
            casts.append(_conformed(rows[name], wanted[name], source))
    return rows.with_columns(casts) if casts else rows


def without_unknown(shaped: TransformResult, until: int) -> tuple[TransformResult, int]:
    """Return what became of some rows, less those of which nobody can know yet, and how many those are (S18).

    They are neither stored nor rejected: the caller keeps them until they can be known.

    Args:
        shaped: what became of them.
        until: the latest effective available time that is known, in microseconds.
    """
    known = shaped.rows[AVAILABLE].to_physical() <= until
    if known.all():
        return shaped, 0
    return replace(shaped, rows=shaped.rows.filter(known)), int((~known).sum())


def not_yet_known(rows: pl.DataFrame, source: Source, until: int) -> tuple[pl.Series, pl.Series]:
    """Return which of a source's rows nobody can know yet (S2), and when each is known.

    A row without a time does not count: it is rejected.

    Args:
        rows: rows as a stream gives them, their times as times.
        source: the source.
        until: the latest effective available time that is known, in microseconds.
    """
    inverse = {new: old for old, new in source.rename.items()}
    names = [name if name in rows.columns else inverse.get(name, name) for name in source.time_columns]
    times = [instants(pl.col(name), rows.schema[name]).to_physical() for name in names if rows.schema[name].is_temporal()]
    if not times:
        return pl.repeat(value=False, n=rows.height, eager=True), pl.repeat(0, rows.height, eager=True)
    known_at = rows.select(pl.max_horizontal(times)).to_series()
    return (known_at > until).fill_null(value=False), known_at


def _conformed(column: pl.Series, dtype: pl.DataType, source: Source) -> pl.Series:
    """Return a column in the dtype that it has in the source."""
    actual = column.dtype
    if isinstance(actual, pl.List) and isinstance(actual.inner, pl.String) and isinstance(dtype, (pl.List, pl.Array)):
        inner = inner_dtype(dtype)
        if not isinstance(inner, pl.String):
            column, actual = _lists_parsed(column, inner, source), pl.List(inner)
    if isinstance(actual, pl.String) and not isinstance(dtype, pl.String):
        return _parsed(column, dtype, source)
    if isinstance(actual, (pl.Date, pl.Datetime)) and dtype == INSTANT:
        return column.to_frame().select(instants(pl.col(column.name), actual)).to_series()
    if not fits(actual, dtype):
        raise RequestError(
            f"The rows pushed to source {source.name!r} have {actual} in the column {column.name!r}, where the source has {dtype}. "
            f"Cast it first: pl.col({column.name!r}).cast(pl.{dtype}).",
            column=column.name,
        )
    value, unfit = fitted(pl.col(column.name), actual, dtype)
    if unfit is not None and column.to_frame().select(unfit.fill_null(value=False).any()).item():
        return column
    return column.to_frame().select(value).to_series()


def _lists_parsed(column: pl.Series, inner: pl.DataType, source: Source) -> pl.Series:
    lists = column.to_list()
    texts = [text for values in lists if values is not None for text in values]
    parsed = iter(_parsed(pl.Series(column.name, texts, dtype=pl.String), inner, source).to_list())
    parsed_lists = [None if values is None else [next(parsed) for _ in values] for values in lists]
    return pl.Series(column.name, parsed_lists, dtype=pl.List(inner))


def _parsed(texts: pl.Series, dtype: pl.DataType, source: Source) -> pl.Series:
    if isinstance(dtype, pl.Datetime):
        parsed = parse_times(texts).cast(dtype)
    elif isinstance(dtype, pl.Boolean):
        parsed = texts.str.to_lowercase().replace_strict(_TRUTHS, default=None, return_dtype=pl.Boolean)
    elif isinstance(dtype, pl.Date):
        parsed = texts.str.to_date("%Y-%m-%d", strict=False)
    elif isinstance(dtype, pl.Time):
        parsed = texts.str.to_time("%H:%M:%S%.f", strict=False)
    elif isinstance(dtype, pl.Duration):
        micros = pl.Series(texts.name, [_duration_micros(text) for text in texts], dtype=pl.Int64)
        parsed = micros.cast(pl.Duration("us")).cast(dtype)
    elif isinstance(dtype, pl.Binary):
        parsed = texts.str.decode("base64", strict=False)
    elif dtype.is_numeric():
        parsed = _numbers(texts, dtype)
    elif isinstance(dtype, (pl.Categorical, pl.Enum)):
        parsed = texts.cast(dtype, strict=False)
    else:
        parsed = texts.clear().extend_constant(None, len(texts)).cast(dtype)
    wrong = texts.filter(parsed.is_null() & texts.is_not_null())
    if len(wrong):
        raise RequestError(
            f"The rows pushed to source {source.name!r} have {wrong[0]!r} in the column {texts.name!r}, which is not a valid "
            f"{dtype}, the type that the source has there.",
            column=texts.name,
        )
    return parsed


def _numbers(texts: pl.Series, dtype: pl.DataType) -> pl.Series:
    parsed = texts.str.strip_chars().cast(dtype, strict=False)
    return parsed.set(overflowed(parsed, texts), None) if dtype.is_float() else parsed


def _duration_micros(text: str | None) -> int | None:
    """Return the duration that a text of ISO 8601 says, ``-P1DT0.000001S``; None where it says none that can be kept."""
    match = _DURATION.fullmatch(text) if text is not None else None
    if match is None or not any(match.groups()[1:]):
        return None
    days, hours, minutes, seconds = (int(match[name] or 0) for name in ("days", "hours", "minutes", "seconds"))
    whole = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    micros = whole * 1_000_000 + int((match["fraction"] or "").ljust(6, "0"))
    return None if micros >= 2**63 else -micros if match["sign"] == "-" else micros
