"""Unreadable values: keeps the text of a value that does not fit its column, until its row is rejected (S19)."""

from collections.abc import Collection, Mapping

import polars as pl

from featurestore.dtypes import inner_dtype, python_name
from featurestore.errors import DefinitionError
from featurestore.instants import instants
from featurestore.rows.python_values import beyond_calendar

UNREAD = "_unread"
"""The column that has, for each row with such values, the texts by column name, as a struct; null for the others."""


def with_texts(rows: pl.DataFrame, texts: Mapping[str, pl.Series]) -> pl.DataFrame:
    """Return rows with the texts of what could not be read of them, in ``UNREAD``.

    Args:
        rows: the rows, null where a value could not be read.
        texts: by column name, for each row the text that stood there; null where the value could be read.

    Example:
        >>> rows = pl.DataFrame({"x": [1.5, None]})
        >>> with_texts(rows, {"x": pl.Series([None, "oops"])})[UNREAD].to_list()
        [None, {'x': 'oops'}]
    """
    wrong = {name: column.cast(pl.String) for name, column in texts.items() if column.null_count() < len(column)}
    if not wrong:
        return rows
    wrong_texts = pl.DataFrame([column.alias(name) for name, column in wrong.items()])
    some = wrong_texts.select(pl.any_horizontal(pl.all().is_not_null())).to_series()
    return rows.with_columns(wrong_texts.select(pl.when(some).then(pl.struct(pl.all()))).to_series().alias(UNREAD))


def take_unread(rows: pl.DataFrame, used: Collection[str] | None, reason: str) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
    """Take out the rows with a value that could not be read, each with the reason; those have the texts in its place.

    The reason does not repeat the text, which may be personal.

    Args:
        rows: the rows of a source.
        used: the columns that matter; None for all.
        reason: the name of the column for the reasons.

    Example:
        >>> rows = with_texts(pl.DataFrame({"x": [1.5, None]}), {"x": pl.Series([None, "oops"])})
        >>> good, [bad] = take_unread(rows, None, "why")
        >>> good.rows(), bad.rows()
        ([(1.5,)], [('oops', 'x cannot be read as float')])
    """
    if UNREAD not in rows.columns:
        return rows, []
    texts, rows = rows[UNREAD].struct.unnest(), rows.drop(UNREAD)
    names = [name for name in texts.columns if used is None or name in used]
    wrong = texts.select(pl.col(name).is_not_null() for name in names)
    if not names or not wrong.select(pl.any_horizontal(pl.all()).any()).item():
        return rows, []
    rejected = []
    for kind in wrong.unique(maintain_order=True).rows(named=True):
        those = [name for name, is_wrong in kind.items() if is_wrong]
        if those:
            mine = wrong.select(pl.all_horizontal(pl.col(name) == is_wrong for name, is_wrong in kind.items())).to_series()
            why = f"{those[0]} cannot be read as {_type_name(rows.schema[those[0]])}"
            shown_texts = texts.filter(mine).select(those)
            rejected.append(rows.filter(mine).with_columns(*shown_texts, pl.lit(why).alias(reason)))
    return rows.filter(~wrong.select(pl.any_horizontal(pl.all())).to_series()), rejected


def overflowed(parsed: pl.Series, texts: pl.Series) -> pl.Series:
    """Return which floats are not what their texts say: of digits that are too many for a float Polars makes an infinity.

    Example:
        >>> overflowed(pl.Series([1.0, float("inf"), float("inf")]), pl.Series(["1", "inf", "1e400"])).to_list()
        [False, False, True]
    """
    return (parsed.is_infinite() & texts.str.contains(r"\d")).fill_null(value=False)


def shown(times: pl.Series) -> pl.Series:
    """Return times as texts, those too that no calendar has.

    Example:
        >>> shown(pl.Series([0, 2**63 - 1]).cast(pl.Datetime("us"))).to_list()
        ['1970-01-01T00:00:00.000000', 'infinity']
    """
    return times.to_frame().select(_texts(pl.nth(0), times.dtype).alias(times.name)).to_series()


def shown_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows with the columns as texts that hold times, or lists of times, which no calendar of Python's has.

    Polars panics where such a one is printed, written or made an object.

    Example:
        >>> rows = pl.DataFrame({"until": pl.Series([2**31 - 1]).cast(pl.Date), "x": [1]})
        >>> shown_rows(rows).rows()
        [('infinity', 1)]
    """
    may_be = {name: beyond for name, dtype in rows.schema.items() if (beyond := _beyond(pl.col(name), dtype)) is not None}
    is_beyond = rows.select(beyond.any().alias(name) for name, beyond in may_be.items()).row(0, named=True) if may_be else {}
    return rows.with_columns(_texts(pl.col(name), rows.schema[name]) for name, beyond in is_beyond.items() if beyond)


def _beyond(column: pl.Expr, dtype: pl.DataType) -> pl.Expr | None:
    """Return which of a column's values are, or hold, times that Python cannot say; None where none can be."""
    if isinstance(dtype, (pl.List, pl.Array)):
        inner = _beyond(pl.element(), inner_dtype(dtype))
        return None if inner is None else _lists(column, dtype).list.eval(inner).list.any()
    return beyond_calendar(column, dtype)


def _texts(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Return times as texts, an infinity for those that cannot be written out; of lists each element."""
    if isinstance(dtype, (pl.List, pl.Array)):
        return _lists(column, dtype).list.eval(_texts(pl.element(), inner_dtype(dtype)))
    if isinstance(dtype, pl.Duration):
        return pl.concat_str(column.to_physical(), pl.lit(dtype.time_unit))
    micros = instants(column, dtype).to_physical()
    most = _FAR_DAY if isinstance(dtype, pl.Date) else _WRITABLE
    zone = dtype.time_zone if isinstance(dtype, pl.Datetime) else None
    known = pl.when(micros.is_between(-most, most)).then(micros).cast(pl.Datetime("us", zone))
    far = pl.when(micros > 0).then(pl.lit("infinity")).when(micros < 0).then(pl.lit("-infinity"))
    return pl.coalesce(known.dt.to_string("%Y-%m-%d" if isinstance(dtype, pl.Date) else "iso:strict"), far)


def _lists(column: pl.Expr, dtype: pl.List | pl.Array) -> pl.Expr:
    return column.arr.to_list() if isinstance(dtype, pl.Array) else column


def foreign_texts(texts: pl.Expr, kind: str) -> pl.Expr:
    """Return the texts of a column whose type is not read: a struct that says so, and that no feature fits.

    Example:
        >>> pl.select(foreign_texts(pl.lit("$1.50"), "money").alias("price")).to_series().to_list()
        [{'sql money': '$1.50'}]
    """
    return pl.when(texts.is_not_null()).then(pl.struct(texts.cast(pl.String).alias(f"{_FOREIGN}{kind}")))


def foreign_type(dtype: pl.DataType) -> str | None:
    """Return the database's type of a column that ``foreign_texts`` made; None for any other."""
    if not isinstance(dtype, pl.Struct) or len(dtype.fields) != 1 or not dtype.fields[0].name.startswith(_FOREIGN):
        return None
    return dtype.fields[0].name.removeprefix(_FOREIGN)


_FOREIGN = "sql "
_WRITABLE = 8_000_000_000_000_000_000
"""How far from the epoch a time can be written out, in microseconds."""
_FAR_DAY = 345_000_000_000_000_000
"""How far one that is a date can be; beyond it ``instants`` does not tell dates apart."""


def _type_name(dtype: pl.DataType) -> str:
    try:
        return python_name(dtype, nullable=False)
    except DefinitionError:  # a type that no feature has
        return str(dtype)
