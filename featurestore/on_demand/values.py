"""On-demand values of online rows: computed once from served features and request fields."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from featurestore.dtypes import inner_dtype
from featurestore.online.plan import OnlinePlan
from featurestore.row_codec import shortest_of, to_python, to_series, wire_dtype


def compute(
    plan: OnlinePlan, served: Sequence[tuple[Sequence[bytes], Sequence[Any]]], brought: Mapping[str, pl.Series]
) -> dict[str, pl.Series]:
    """Return the columns that are computed for online rows, by name.

    Args:
        plan: the plan of the read.
        served: for each join, the headers, and each row's values as they were written; None where nothing is to be served.
        brought: the columns of the requests' fields.

    Raises:
        RequestError: an expression fails on the rows, or makes a value that its feature cannot have.
    """
    columns = dict(brought)
    for number, place, name, dtype in plan.inputs:
        blank = plan.joins[number].blank[place]
        values = [blank if row is None else row[place] for row in served[number][1]]
        # Most dtypes are written as they are, and a cast to the same one costs as much as the column.
        written = wire_dtype(dtype) is dtype
        columns[name] = pl.Series(name, values, dtype=dtype) if written else to_series(name, values, dtype)
    return plan.computation.run(columns)


def python_values(column: pl.Series) -> list[Any]:
    """Return a column's values as those of stored features are: its timestamps aware, in ``datetime.UTC``."""
    convert = to_python(column.dtype)
    if convert is None or not _is_converted(column.dtype):
        return column.to_list()
    if isinstance(column.dtype, pl.Array) and inner_dtype(column.dtype) == pl.Float32():
        convert = shortest_of
    return [None if value is None else convert(value) for value in column.cast(wire_dtype(column.dtype)).to_list()]


def _is_converted(dtype: pl.DataType) -> bool:
    """Return whether values are shown otherwise than Polars would: timestamps, and Float32 by their shortest text."""
    if isinstance(dtype, (pl.List, pl.Array)):
        return _is_converted(inner_dtype(dtype))
    return isinstance(dtype, (pl.Datetime, pl.Float32))
