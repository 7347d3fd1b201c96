"""How much memory rows take, about: what tasks are cut to."""

from collections.abc import Iterable
from typing import Any

import polars as pl

COPIES = 3
"""How many times over a task has its rows in memory: as they are read, in order, and beside what it makes of them."""
_NESTED_WIDTH = 64


def width_of(dtypes: Iterable[Any]) -> int:
    """Return about how many bytes a row of some columns takes.

    Example:
        >>> width_of([pl.Float64(), pl.String(), pl.List(pl.Int64())])
        88
    """
    return sum(_width(dtype) for dtype in dtypes)


def _width(dtype: Any) -> int:
    if isinstance(dtype, pl.Array):
        return max(1, dtype.size) * _width(dtype.inner)
    return _NESTED_WIDTH if dtype.is_nested() else 12
