"""Sum and mean. A stretch's sum is the sum of its pieces' sums, so what lies outside a window leaves no trace (S10)."""

from dataclasses import dataclass
from typing import Any

import polars as pl

from featurestore.aggregates.base import Aggregate, Part, only
from featurestore.aggregates.counts import COUNT

SUM = Part("sum", lambda x, dtype: only(x), lambda a, b: only(a[0] + b[0]))


@dataclass(frozen=True)
class Sum(Aggregate, name="sum"):
    """The sum of the inputs."""

    empty = 0

    @property
    def parts(self) -> tuple[Part, ...]:
        """See ``Aggregate.parts``."""
        return (SUM,)

    def input_dtype(self, result: pl.DataType) -> pl.DataType:
        """Returns the widest type of the kind declared."""
        if result.is_float():
            return pl.Float64()
        if result.is_integer():
            return pl.Int64()
        raise self.refuse(result, "numbers (int or float)")

    def finish(self, *columns: Any) -> Any:
        """Returns the sum."""
        return columns[0]

    def finished(self, *columns: pl.Expr) -> pl.Expr:
        """Returns the sum."""
        return columns[0]


@dataclass(frozen=True)
class Mean(Aggregate, name="mean"):
    """The arithmetic mean of the inputs."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """See ``Aggregate.parts``."""
        return (SUM, COUNT)

    def input_dtype(self, result: pl.DataType) -> pl.DataType:
        """Returns float."""
        if not result.is_float():
            raise self.refuse(result, "float")
        return pl.Float64()

    def finish(self, *columns: Any) -> Any:
        """Returns the sum by the number."""
        return columns[0] / columns[1]

    def finished(self, *columns: pl.Expr) -> pl.Expr:
        """Returns the sum by the number."""
        return columns[0] / columns[1]
