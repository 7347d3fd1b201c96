"""Checks of an on-demand view without data: columns, dtypes, and row by row evaluation (S20)."""

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import cycle, islice
from typing import Any

import polars as pl

from featurestore.definitions.expression import ROW_LOCAL_HINT, Expression
from featurestore.definitions.feature import FeatureSpec
from featurestore.definitions.on_demand import OnDemandSpec
from featurestore.dtypes import fits, inner_dtype
from featurestore.errors import did_you_mean
from featurestore.on_demand.evaluate import evaluate
from featurestore.selection.resolve import ResolvedReference

_ROWS = 24


def on_demand_faults(view: OnDemandSpec, inputs: Mapping[str, ResolvedReference]) -> Iterator[str]:
    """Return what is wrong with an on-demand view over inputs that are there, a line each; none where it can be computed."""
    for name, column in inputs.items():
        if column.kind == "request" and view.feature(name) is not None:
            yield (
                f"feature {view.name}.{name} has the name of {column.said}, which would be in a result beside it (S13). Rename one."
            )
    for feature, expression in zip(view.features, view.expressions, strict=True):
        for problem in _feature_faults(view, feature, expression, inputs):
            yield f"feature {view.name}.{feature.name}: {problem}"


def _feature_faults(
    view: OnDemandSpec, feature: FeatureSpec, expression: Expression, inputs: Mapping[str, ResolvedReference]
) -> Iterator[str]:
    unknown = [column for column in expression.columns if column not in inputs]
    for column in unknown:
        own = " An expression sees the inputs, and no other feature of its own view." if view.feature(column) else ""
        yield f"its expression uses the column {column!r}, which none of the inputs has. {did_you_mean(column, inputs)}{own}"
    if unknown:
        return
    schema = {column: inputs[column].feature.dtype for column in expression.columns}
    try:
        # NOTE: not a lazy frame's schema: some functions tell only as they run that a column's type is not theirs.
        actual = pl.DataFrame(schema=schema).select_seq(expression.polars.alias("made")).schema["made"]
    except pl.exceptions.PolarsError as error:
        columns = ", ".join(f"{name}: {dtype}" for name, dtype in schema.items())
        yield f"its expression {expression.text} cannot be computed of {columns}: {str(error).splitlines()[0]}"
        return
    if not fits(actual, feature.dtype):
        yield f"its expression makes {actual}, and it is declared as {feature.type_name}."
    elif not _is_row_local(expression.polars, schema):
        yield (
            f"its expression {expression.text} is not row-local (S20): it makes other values of a sample at once than row by row. "
            f"{ROW_LOCAL_HINT}"
        )


def _is_row_local(expression: pl.Expr, schema: Mapping[str, pl.DataType]) -> bool:
    """Try an expression on a sample, whole and row by row; what fails on a single row is left out of it."""
    sample = pl.DataFrame([_sample(name, dtype, place) for place, (name, dtype) in enumerate(schema.items())])
    rows, singles = [], []
    for row in sample.iter_slices(1):
        try:
            singles.append(evaluate(row.get_columns(), [expression.alias("made")]))
            rows.append(row)
        except pl.exceptions.PolarsError:
            continue  # a text that is no date, for one
    if not rows:
        return True
    try:
        whole = evaluate(pl.concat(rows).get_columns(), [expression.alias("made")])
        return whole.equals(pl.concat(singles))
    except pl.exceptions.PolarsError:
        return False


def _sample(name: str, dtype: pl.DataType, place: int) -> pl.Series:
    """Return a column of some values and nulls; columns differ in their period, so that each value meets many others."""
    values = islice(cycle([*_values(dtype), None][place % 2 :]), _ROWS)
    return pl.Series(name, list(values), dtype=dtype)


def _values(dtype: pl.DataType) -> list[Any]:
    if isinstance(dtype, pl.List):
        inner = _values(inner_dtype(dtype))
        return [inner[:2], [], inner[1:], inner, inner[-1:]]
    if isinstance(dtype, pl.Array):
        inner = _values(inner_dtype(dtype))
        return [list(islice(cycle(inner[start:] + inner[:start]), dtype.size)) for start in range(3)]
    if dtype.is_float():
        return [1.5, -2.25, 0.0, 1024.0, float("nan"), 3.0]
    if dtype.is_unsigned_integer():
        return [3, 1, 0, 7, 100]
    return list(_VALUES.get(dtype.base_type(), (3, -1, 0, 7, 100)))


_VALUES: dict[Any, tuple[Any, ...]] = {
    pl.Boolean: (True, False, False),
    pl.String: ("JFK", "a, b", "", "2013-07-01", "7", "JFK", '{"a": 1}'),
    pl.Binary: (b"a", b"", b"xyz", b"a"),
    pl.Date: (date(2013, 7, 1), date(2013, 7, 1), date(2012, 2, 29), date(1969, 1, 1)),
    pl.Datetime: (
        datetime(2013, 7, 1, 12, 30, tzinfo=UTC),
        datetime(2013, 7, 1, tzinfo=UTC),
        datetime(1969, 1, 1, tzinfo=UTC),
        datetime(2024, 2, 29, 23, 59, 59, 999999, tzinfo=UTC),
    ),
    pl.Time: (time(12, 30), time(0), time(23, 59, 59)),
    pl.Duration: (timedelta(hours=1), timedelta(0), timedelta(days=-1, microseconds=5)),
    pl.Decimal: (Decimal("1.5"), Decimal("-2"), Decimal("0"), Decimal("7")),
}
