"""Common supertypes: the narrowest type that holds the values of two types without loss."""

import polars as pl

from featurestore.dtypes import inner_dtype
from featurestore.instants import INSTANT, instants

_SIGNED: dict[pl.DataType, int] = {pl.Int8(): 8, pl.Int16(): 16, pl.Int32(): 32, pl.Int64(): 64}
_UNSIGNED: dict[pl.DataType, int] = {pl.UInt8(): 8, pl.UInt16(): 16, pl.UInt32(): 32, pl.UInt64(): 64}
_FLOAT_MANTISSA: dict[pl.DataType, int] = {pl.Float32(): 24, pl.Float64(): 53}


def widened(first: pl.DataType, second: pl.DataType) -> pl.DataType | None:
    """Return the narrowest dtype that holds every value of both; None where none does.

    Timestamps of two precisions or zones meet in ``Datetime("us", "UTC")``, which is S1's precision.

    Example:
        >>> widened(pl.Int32(), pl.Int64()), widened(pl.Int64(), pl.Float64())
        (Int64, None)
    """
    if first == second:
        return first
    for one, other in ((first, second), (second, first)):
        if isinstance(one, pl.Null):
            return other
    both = _numbers(first, second) or _texts_and_times(first, second)
    if both is not None:
        return both
    if isinstance(first, pl.List) and isinstance(second, pl.List):
        inner = widened(inner_dtype(first), inner_dtype(second))
        return None if inner is None else pl.List(inner)
    if isinstance(first, pl.Array) and isinstance(second, pl.Array) and first.shape == second.shape:
        inner = widened(inner_dtype(first), inner_dtype(second))
        return None if inner is None else pl.Array(inner, first.size)
    return None


def cast(column: pl.Expr, dtype: pl.DataType, to: pl.DataType) -> pl.Expr:
    """Return a column brought to the dtype that ``widened`` found."""
    if dtype == to:
        return column
    if to == INSTANT and isinstance(dtype, (pl.Date, pl.Datetime)):
        return instants(column, dtype)
    return column.cast(to)


def _numbers(first: pl.DataType, second: pl.DataType) -> pl.DataType | None:
    if first in _FLOAT_MANTISSA and second in _FLOAT_MANTISSA:
        return pl.Float64()
    for one, other in ((first, second), (second, first)):
        bits = _SIGNED.get(one) or _UNSIGNED.get(one)
        if bits is not None and other in _FLOAT_MANTISSA:
            return next(
                (dtype for dtype, mantissa in _FLOAT_MANTISSA.items() if mantissa >= max(bits, _FLOAT_MANTISSA[other])), None
            )
        if one in _SIGNED and other in _UNSIGNED:
            return next((dtype for dtype, size in _SIGNED.items() if size > _UNSIGNED[other] and size >= _SIGNED[one]), None)
    for family in (_SIGNED, _UNSIGNED):
        if first in family and second in family:
            return first if family[first] >= family[second] else second
    if isinstance(first, pl.Decimal) and isinstance(second, pl.Decimal):
        scale = max(first.scale, second.scale)
        whole = max((dtype.precision or 38) - dtype.scale for dtype in (first, second))
        return pl.Decimal(whole + scale, scale) if whole + scale <= 38 else None
    return None


def _texts_and_times(first: pl.DataType, second: pl.DataType) -> pl.DataType | None:
    texts = (pl.String, pl.Categorical, pl.Enum)
    if isinstance(first, texts) and isinstance(second, texts):
        return pl.String()
    times = (pl.Date, pl.Datetime)
    if isinstance(first, times) and isinstance(second, times):
        return INSTANT
    if isinstance(first, pl.Duration) and isinstance(second, pl.Duration):
        return pl.Duration("us")
    return None
