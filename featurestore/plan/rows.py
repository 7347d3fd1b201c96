"""From a source's rows to a history's: the transform, and the checks that every row must pass (S1, S2, S19)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import polars as pl

from featurestore.clock import INSTANT, instants
from featurestore.dtypes import as_dtype, fits, python_name
from featurestore.errors import DefinitionError, did_you_mean
from featurestore.plan.history import AVAILABLE, EVENT
from featurestore.spec.feature import LENGTH_CONSTRAINTS, FeatureSpec
from featurestore.spec.view import Transform, ViewSpec

REASON = "_reason"


@dataclass(frozen=True)
class Shaped:
    """What became of a source's rows.

    Args:
        rows: the history's rows: keys, ``event_time``, ``available_time`` (effective, S2), features.
        rejected: the rows that failed a check, as they were there, with ``_reason``.
    """

    rows: pl.DataFrame
    rejected: tuple[pl.DataFrame, ...]

    @property
    def reasons(self) -> dict[str, int]:
        """How many rows were rejected for each reason."""
        counts: dict[str, int] = {}
        for frame in self.rejected:
            for reason, count in frame.group_by(REASON, maintain_order=True).len().iter_rows():
                counts[reason] = counts.get(reason, 0) + count
        return counts


def shape_rows(rows: pl.DataFrame, view: ViewSpec, transform: Transform | None) -> Shaped:
    """Returns a view's history rows made of a source's rows, and the rows rejected.

    Args:
        rows: the source's rows, their times as ``Datetime("us", "UTC")``.
        view: the view.
        transform: its transform; None for none.

    Raises:
        DefinitionError: the transform fails, or returns other columns or dtypes than the view declares.
    """
    rejected = []
    timeless = pl.any_horizontal(pl.col(name).is_null() for name in view.source.time_columns)
    if any(rows[name].null_count() for name in view.source.time_columns):
        reasons = [pl.when(pl.col(name).is_null()).then(pl.lit(f"{name} is null")) for name in view.source.time_columns]
        rejected.append(rows.filter(timeless).with_columns(pl.coalesce(reasons).alias(REASON)))
        rows = rows.filter(~timeless)
    if transform is not None:
        rows = run_transform(rows.lazy(), view, transform).collect()
    faults = check_columns(view, rows.schema)
    if faults:
        raise DefinitionError("\n".join(faults), view.place)
    wanted = {
        **{key: (dtype, False) for key, dtype in view.entity.keys.items()},
        **{f.name: (f.dtype, f.nullable) for f in view.features},
    }
    breaks: list[tuple[pl.Expr, str]] = []
    values: list[pl.Expr] = []
    for name, (dtype, nullable) in wanted.items():
        value, unfit = _fitted(name, rows.schema[name], dtype)
        values.append(value.alias(name))
        if unfit is not None:
            breaks.append((unfit, f"{name} does not fit {python_name(dtype, nullable=False)}"))
        if not nullable and rows[name].null_count():
            breaks.append((pl.col(name).is_null(), f"{name} is null"))
    for feature in view.features:
        breaks += _broken(feature, rows.schema[feature.name])
    if breaks:
        bad = rows.select(pl.any_horizontal(broken.fill_null(value=False) for broken, _ in breaks).alias("bad")).to_series()
        if bad.any():
            reason = pl.coalesce(pl.when(broken.fill_null(value=False)).then(pl.lit(text)) for broken, text in breaks)
            rejected.append(rows.filter(bad).with_columns(reason.alias(REASON)))
            rows = rows.filter(~bad)
    keys, features = values[: len(view.entity.keys)], values[len(view.entity.keys) :]
    event = pl.col(view.source.event_time)
    available = event if view.source.available_time is None else pl.max_horizontal(event, pl.col(view.source.available_time))
    return Shaped(rows.select(*keys, event.alias(EVENT), available.alias(AVAILABLE), *features), tuple(rejected))


def run_transform(rows: pl.LazyFrame, view: ViewSpec, transform: Transform) -> pl.LazyFrame:
    """Returns a transform's result.

    Raises:
        DefinitionError: it fails, or returns something else than a LazyFrame.
    """
    try:
        result = transform(rows)
        schema = result.collect_schema() if isinstance(result, pl.LazyFrame) else None
    except Exception as error:
        raise DefinitionError(f"the transform of view {view.name!r} fails: {type(error).__name__}: {error}", view.place) from error
    if schema is None:
        raise DefinitionError(
            f"the transform of view {view.name!r} returns {type(result).__name__}; it takes a pl.LazyFrame and must return one.",
            view.place,
        )
    return result


def check_columns(view: ViewSpec, schema: pl.Schema) -> list[str]:
    """Returns what is wrong with the columns that a view's rows have before they are shaped; nothing if all is well."""
    made_by = f"the transform of view {view.name!r} returns" if view.transform_digest else f"source {view.source.name!r} has"
    faults = []
    for name in view.source.time_columns:
        if name not in schema:
            faults.append(f"{made_by} no time column {name!r}; keep it. {did_you_mean(name, schema)}")
        elif schema[name] != INSTANT:
            faults.append(f"{made_by} {schema[name]} for the time column {name!r}; leave it as {INSTANT}.")
    for name, dtype in [*view.entity.keys.items(), *view.schema.items()]:
        what = "join key" if name in view.entity.keys else "feature"
        if name not in schema:
            faults.append(f"{made_by} no column {name!r}, a {what} of view {view.name!r}. {did_you_mean(name, schema)}")
        elif not fits(schema[name], dtype):
            faults.append(f"{made_by} {schema[name]} for the {what} {name!r} of view {view.name!r}, which is declared as {dtype}.")
    return faults


def _fitted(name: str, found: pl.DataType, wanted: pl.DataType) -> tuple[pl.Expr, pl.Expr | None]:
    """Returns an expression for a column in the dtype wanted, and one that tells which values do not fit it (S19)."""
    column = pl.col(name)
    if isinstance(wanted, pl.Array):
        # NOTE: a list of another length makes the whole cast fail, strict or not.
        sized = pl.when(column.list.len() == wanted.size).then(column) if isinstance(found, pl.List) else column
        value = sized.cast(wanted, strict=False) if found != wanted else column
        holes = value.arr.to_list().list.eval(pl.element().is_null()).list.any()
        return value, (value.is_null() & column.is_not_null()) | holes
    if found == wanted:
        return column, None
    if wanted == INSTANT:
        return instants(column, found), None
    value = column.cast(wanted, strict=False)
    if isinstance(wanted, pl.List) and isinstance(found, (pl.List, pl.Array)):
        elements = column.arr.to_list() if isinstance(found, pl.Array) else column
        lost = value.list.eval(pl.element().is_null()).list.sum() > elements.list.eval(pl.element().is_null()).list.sum()
        return value, lost
    unfit = value.is_null() & column.is_not_null()
    if wanted.is_float() and found.is_float():
        unfit = unfit | (value.is_infinite() & column.is_finite())
    elif wanted.is_integer() or (wanted.is_float() and found.is_integer()):
        unfit = unfit | (value.cast(found, strict=False) != column)
    return value, unfit


def _broken(feature: FeatureSpec, found: pl.DataType) -> list[tuple[pl.Expr, str]]:
    """Returns the conditions under which a value breaks a feature's constraints, each with its reason."""
    column = instants(pl.col(feature.name), found) if feature.dtype == INSTANT else pl.col(feature.name)
    lengths = column
    if isinstance(found, pl.String):
        lengths = column.str.len_chars()
    elif isinstance(found, pl.Binary):
        lengths = column.bin.size()
    elif isinstance(found, pl.List):
        lengths = column.list.len()
    breaks = []
    for name, bound in feature.constraints.items():
        value = _literals(bound, feature.dtype) if name == "one_of" else _literal(bound, feature.dtype)
        broken: pl.Expr = _BREAKS[name](lengths if name in LENGTH_CONSTRAINTS else column, value)
        if found.is_float() and name in ("ge", "gt"):
            broken = broken | column.is_nan()  # Polars orders NaN above every number
        breaks.append((broken, f"{feature.name} breaks {name}={bound!r}"))
    return breaks


_BREAKS: dict[str, Callable[[pl.Expr, Any], Any]] = {
    "ge": lambda column, bound: column < bound,
    "gt": lambda column, bound: column <= bound,
    "le": lambda column, bound: column > bound,
    "lt": lambda column, bound: column >= bound,
    "min_length": lambda length, bound: length < bound,
    "max_length": lambda length, bound: length > bound,
    "pattern": lambda column, bound: ~column.str.contains(bound),
    "one_of": lambda column, bound: ~column.is_in(bound.implode()),
}
"""For each constraint, the expression of its being broken: of the column, or of its length."""


def _literal(bound: Any, dtype: pl.DataType) -> Any:
    if isinstance(dtype, pl.Datetime) and isinstance(bound, str):
        return datetime.fromisoformat(bound)
    if isinstance(dtype, pl.Date) and isinstance(bound, str):
        return date.fromisoformat(bound)
    if isinstance(dtype, pl.Decimal) and isinstance(bound, str):
        return Decimal(bound)
    return bound


def _literals(bounds: Sequence[Any], dtype: pl.DataType) -> pl.Series:
    return pl.Series([_literal(bound, dtype) for bound in bounds], dtype=as_dtype(dtype))
