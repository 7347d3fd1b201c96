"""Variance and standard deviation, from the count, the mean and the sum of squared differences from it.

Two stretches are merged as Chan, Golub and LeVeque do ("Updating Formulae and a Pairwise Algorithm for Computing Sample
Variances", 1979), which stays accurate where the mean is large beside the differences.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isinf, sqrt
from typing import Any

import polars as pl

from featurestore.aggregates.base import Aggregate, Columns, PartialAggregate

_LARGE = 2.0**480
"""As many differences below it as there may be have squares that do not add up to an infinity."""
_SCALE = 2.0**600


def _merge(a: Columns, b: Columns) -> Columns:
    count = a[0] + b[0]
    apart = b[1] - a[1]
    return count, a[1] + apart * b[0] / count, a[2] + b[2] + apart * apart * a[0] * b[0] / count


def _lift(value: pl.Expr, dtype: pl.DataType) -> Columns:
    there = value.is_not_null()
    # An infinite or NaN input has no distance from the mean, so neither have the others.
    return pl.when(there).then(pl.lit(1.0)), value, value - value


def _is_small(value: pl.Expr, dtype: pl.DataType, events: int) -> pl.Expr:
    return ~(value.is_finite() & (value.abs() >= _LARGE)).any()


def _lift_any(value: pl.Expr, dtype: pl.DataType) -> Columns:
    large = value.is_finite() & (value.abs() >= _LARGE)
    return *_lift(value, dtype), pl.when(large).then(value / _SCALE), pl.when(large).then(0.0)


def _scaled(part: Columns) -> Columns:
    """Return a stretch's count, mean and squares as they are of its inputs over ``2**600``."""
    return part[0], pl.coalesce(part[3], part[1] / _SCALE), pl.coalesce(part[4], part[2] / _SCALE / _SCALE)


def _merge_any(a: Columns, b: Columns) -> Columns:
    large = a[3].is_not_null() | b[3].is_not_null()
    _, mean, squares = _merge(_scaled(a), _scaled(b))
    return *_merge(a[:3], b[:3]), pl.when(large).then(mean), pl.when(large).then(squares)


_PLAIN = PartialAggregate("moments", _lift, _merge, fields=3)
MOMENTS = PartialAggregate("moments", _lift_any, _merge_any, fields=5, spare=2, plain=_PLAIN, is_plain=_is_small)
"""The count, the mean and the squares; and where an input is large, which would overflow them, the same of all over 2**600."""


def _float(aggregate: Aggregate, result: pl.DataType) -> pl.DataType:
    if not result.is_float():
        raise aggregate.refuse(result, "float")
    return pl.Float64()


@dataclass(frozen=True)
class Var(Aggregate, name="var"):
    """The sample variance of the inputs; null for a single one, as in Polars."""

    rounds = True

    @property
    def parts(self) -> tuple[PartialAggregate, ...]:
        """See ``Aggregate.parts``."""
        return (MOMENTS,)

    def input_dtype(self, result: pl.DataType) -> pl.DataType:
        """Return float."""
        return _float(self, result)

    def finish(self, *columns: Any) -> Any:
        """Return the squared differences by the number less one; null for one that no float holds."""
        return _number(columns, root=False)

    def finished(self, *columns: pl.Expr) -> pl.Expr:
        """Return the squared differences by the number less one."""
        return _column(columns, root=False)


@dataclass(frozen=True)
class Std(Aggregate, name="std"):
    """The sample standard deviation of the inputs; null for a single one, as in Polars."""

    rounds = True

    @property
    def parts(self) -> tuple[PartialAggregate, ...]:
        """See ``Aggregate.parts``."""
        return (MOMENTS,)

    def input_dtype(self, result: pl.DataType) -> pl.DataType:
        """Return float."""
        return _float(self, result)

    def finish(self, *columns: Any) -> Any:
        """Return the variance's root."""
        return _number(columns, root=True)

    def finished(self, *columns: pl.Expr) -> pl.Expr:
        """Return the variance's root."""
        return _column(columns, root=True)


def _number(columns: Sequence[Any], *, root: bool) -> float | None:
    """Return the variance, or its root; null for one that no float holds."""
    count, scaled = columns[0], len(columns) > 3 and columns[4] is not None
    if not count > 1:
        return None
    variance = (columns[4] if scaled else columns[2]) / (count - 1)
    if not scaled:
        return sqrt(variance) if root else variance
    spread = sqrt(variance) * _SCALE if root else variance * _SCALE * _SCALE
    return None if isinf(spread) else spread


def _column(columns: Sequence[pl.Expr], *, root: bool) -> pl.Expr:
    """Return the same as an expression."""
    count, plain = columns[0], columns[2] / (columns[0] - 1)
    spread = plain.sqrt() if root else plain
    if len(columns) > 3:
        scaled = columns[4] / (count - 1)
        large = scaled.sqrt() * _SCALE if root else scaled * _SCALE * _SCALE
        spread = pl.when(columns[4].is_null()).then(spread).when(~large.is_infinite()).then(large)
    return pl.when(count > 1).then(spread)
