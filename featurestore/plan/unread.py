"""Values that a source could not read as their column's type: the text that stood there, until its row is rejected (S19)."""

from collections.abc import Collection, Mapping

import polars as pl

from featurestore.dtypes import python_name
from featurestore.errors import DefinitionError

UNREAD = "_unread"
"""The column that has, for each row with such values, the texts by column name, as a struct; null for the others."""


def with_texts(rows: pl.DataFrame, texts: Mapping[str, pl.Series]) -> pl.DataFrame:
    """Returns rows with the texts of what could not be read of them, in ``UNREAD``.

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
    told = pl.DataFrame([column.alias(name) for name, column in wrong.items()])
    some = told.select(pl.any_horizontal(pl.all().is_not_null())).to_series()
    return rows.with_columns(told.select(pl.when(some).then(pl.struct(pl.all()))).to_series().alias(UNREAD))


def take_unread(rows: pl.DataFrame, used: Collection[str] | None, reason: str) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
    """Takes out the rows with a value that could not be read, each with the reason; those have the texts in its place.

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
            told = texts.filter(mine).select(those)
            rejected.append(rows.filter(mine).with_columns(*told, pl.lit(why).alias(reason)))
    return rows.filter(~wrong.select(pl.any_horizontal(pl.all())).to_series()), rejected


def shown(times: pl.Series) -> pl.Series:
    """Returns times as texts, those too that no calendar has.

    Example:
        >>> shown(pl.Series([0, 2**63 - 1]).cast(pl.Datetime("us"))).to_list()
        ['1970-01-01T00:00:00.000000', 'infinity']
    """
    micros = times.to_physical()
    known = pl.select(pl.when(pl.lit(micros.is_between(-_WRITABLE, _WRITABLE))).then(pl.lit(times))).to_series()
    texts = known.dt.to_string("iso:strict")
    far = pl.when(pl.lit(micros > 0)).then(pl.lit("infinity")).otherwise(pl.lit("-infinity"))
    made = pl.select(pl.when(pl.lit(micros.is_not_null())).then(pl.coalesce(pl.lit(texts), far))).to_series()
    return made.alias(times.name)


def foreign_texts(texts: pl.Expr, kind: str) -> pl.Expr:
    """Returns the texts of a column whose type is not read: a struct that says so, and that no feature fits.

    Example:
        >>> pl.select(foreign_texts(pl.lit("$1.50"), "money").alias("price")).to_series().to_list()
        [{'sql money': '$1.50'}]
    """
    return pl.when(texts.is_not_null()).then(pl.struct(texts.cast(pl.String).alias(f"{_FOREIGN}{kind}")))


def foreign_type(dtype: pl.DataType) -> str | None:
    """Returns the database's type of a column that ``foreign_texts`` made; None for any other."""
    if not isinstance(dtype, pl.Struct) or len(dtype.fields) != 1 or not dtype.fields[0].name.startswith(_FOREIGN):
        return None
    return dtype.fields[0].name.removeprefix(_FOREIGN)


_FOREIGN = "sql "
_WRITABLE = 8_000_000_000_000_000_000
"""How far from the epoch a time can be written out, in microseconds."""


def _type_name(dtype: pl.DataType) -> str:
    try:
        return python_name(dtype, nullable=False)
    except DefinitionError:  # a type that no feature has
        return str(dtype)
