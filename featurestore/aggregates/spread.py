"""Variance and standard deviation, from the number, the mean and the sum of squared differences from it.

Two stretches are merged as Chan, Golub and LeVeque do ("Updating Formulae and a Pairwise Algorithm for Computing Sample
Variances", 1979), which stays accurate where the mean is large beside the differences.
"""

from dataclasses import dataclass
from math import sqrt
from typing import Any

import polars as pl

from featurestore.aggregates.base import Aggregate, Columns, Part


def _merge(a: Columns, b: Columns) -> Columns:
    count = a[0] + b[0]
    apart = b[1] - a[1]
    return count, a[1] + apart * b[0] / count, a[2] + b[2] + apart * apart * a[0] * b[0] / count


def _lift(value: pl.Expr, dtype: pl.DataType) -> Columns:
    there = value.is_not_null()
    # An infinite or NaN input has no distance from the mean, so neither have the others.
    return pl.when(there).then(pl.lit(1.0)), value, value - value


MOMENTS = Part("moments", _lift, _merge, fields=3)


def _float(aggregate: Aggregate, result: pl.DataType) -> pl.DataType:
    if not result.is_float():
        raise aggregate.refuse(result, "float")
    return pl.Float64()


@dataclass(frozen=True)
class Var(Aggregate, name="var"):
    """The sample variance of the inputs; null for a single one, as in Polars."""

    rounds = True

    @property
    def parts(self) -> tuple[Part, ...]:
        """See ``Aggregate.parts``."""
        return (MOMENTS,)

    def input_dtype(self, result: pl.DataType) -> pl.DataType:
        """Returns float."""
        return _float(self, result)

    def finish(self, *columns: Any) -> Any:
        """Returns the squared differences by the number less one."""
        count, _, squares = columns
        return squares / (count - 1) if count > 1 else None

    def finished(self, *columns: pl.Expr) -> pl.Expr:
        """Returns the squared differences by the number less one."""
        count, _, squares = columns
        return pl.when(count > 1).then(squares / (count - 1))


@dataclass(frozen=True)
class Std(Aggregate, name="std"):
    """The sample standard deviation of the inputs; null for a single one, as in Polars."""

    rounds = True

    @property
    def parts(self) -> tuple[Part, ...]:
        """See ``Aggregate.parts``."""
        return (MOMENTS,)

    def input_dtype(self, result: pl.DataType) -> pl.DataType:
        """Returns float."""
        return _float(self, result)

    def finish(self, *columns: Any) -> Any:
        """Returns the variance's root."""
        variance = Var().finish(*columns)
        return None if variance is None else sqrt(variance)

    def finished(self, *columns: pl.Expr) -> pl.Expr:
        """Returns the variance's root."""
        return Var().finished(*columns).sqrt()
