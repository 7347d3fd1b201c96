"""Python values of a frame, with numbers for times that Python cannot represent."""

from datetime import timedelta
from typing import Any

import polars as pl

from featurestore.clock import YEARS
from featurestore.dtypes import inner_dtype
from featurestore.instants import instants

_LONGEST = timedelta.max // timedelta(milliseconds=1)
"""In milliseconds: of finer units 64 bits hold no longer ones."""
_DAY = 86_400_000_000


def rows_of(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Return a frame's rows as dictionaries, like ``to_dicts()``; what Python cannot say as the number that it is.

    Example:
        >>> rows_of(pl.DataFrame({"day": pl.Series([0, 2**31 - 1], dtype=pl.Int32).cast(pl.Date)}))
        [{'day': datetime.date(1970, 1, 1)}, {'day': 2147483647}]
    """
    columns = [values_of(column) for column in frame.get_columns()]
    return [dict(zip(frame.columns, row, strict=True)) for row in zip(*columns, strict=True)]


def values_of(column: pl.Series) -> list[Any]:
    """Return a column's values; a time that Python cannot represent is the number that it is stored as.

    Polars panics over some of them, and a panic is not an ``Exception``.
    """
    dtype = column.dtype
    if not _has_times(dtype):
        return column.to_list()
    if isinstance(dtype, pl.Array):
        column, dtype = column.arr.to_list(), pl.List(dtype.inner)
    if isinstance(dtype, pl.List):
        lengths = column.list.len().to_list()
        inner = iter(values_of(column.filter(column.list.len() > 0).explode()))
        return [None if length is None else [next(inner) for _ in range(length)] for length in lengths]
    if isinstance(dtype, pl.Struct):
        rows = rows_of(column.struct.unnest())
        return [row if there else None for row, there in zip(rows, column.is_not_null().to_list(), strict=True)]
    said = in_calendar(column).to_list()
    return [number if there is None else there for there, number in zip(said, column.to_physical().to_list(), strict=True)]


def in_calendar(column: pl.Series) -> pl.Series:
    """Return a column of times without those that Python cannot say: beyond the years 1 to 9999, or too long; they are null."""
    beyond = beyond_calendar(pl.nth(0), column.dtype)
    return column if beyond is None else column.set(column.to_frame().select(beyond.fill_null(value=True)).to_series(), None)


def beyond_calendar(column: pl.Expr, dtype: pl.DataType) -> pl.Expr | None:
    """Return which times of a column Python cannot say; None where all that the dtype has can be said.

    In a zone, the first and the last day count among them: there it may be another year.
    """
    if isinstance(dtype, (pl.Date, pl.Datetime)):
        zone = _DAY if isinstance(dtype, pl.Datetime) and dtype.time_zone not in (None, "UTC") else 0
        return ~instants(column, dtype).to_physical().is_between(YEARS[0] + zone, YEARS[1] - zone)
    if isinstance(dtype, pl.Duration) and dtype.time_unit == "ms":
        return ~column.to_physical().is_between(-_LONGEST, _LONGEST)
    return None


def _has_times(dtype: pl.DataType) -> bool:
    if isinstance(dtype, (pl.List, pl.Array)):
        return _has_times(inner_dtype(dtype))
    if isinstance(dtype, pl.Struct):
        return any(_has_times(field.dtype) for field in dtype.fields)  # type: ignore[arg-type]  # a field of a column has its own
    return isinstance(dtype, (pl.Datetime, pl.Date, pl.Duration))
