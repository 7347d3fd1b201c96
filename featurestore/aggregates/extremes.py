"""The least and the greatest input."""

from dataclasses import dataclass
from typing import Any

import polars as pl

from featurestore.aggregates.base import Aggregate, Columns, Part, only


def _lift(value: pl.Expr, dtype: pl.DataType) -> Columns:
    # NOTE: a merge must not depend on which of two equal values comes first, so of the two zeros one alone is kept.
    return only(value + 0.0 if dtype.is_float() else value)


# As in Polars, NaN is passed over where there is any number.
MIN = Part("min", _lift, lambda a, b: only(pl.min_horizontal(a[0], b[0])))
MAX = Part("max", _lift, lambda a, b: only(pl.max_horizontal(a[0], b[0])))


def _ordered(aggregate: Aggregate, result: pl.DataType) -> pl.DataType:
    if result.is_nested() or isinstance(result, (pl.Binary, pl.Decimal)):
        raise aggregate.refuse(result, "numbers, text, bool, dates and times")
    return result


@dataclass(frozen=True)
class Min(Aggregate, name="min"):
    """The least input. NaN is passed over where there is any number, as in Polars."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """See ``Aggregate.parts``."""
        return (MIN,)

    def input_dtype(self, result: pl.DataType) -> pl.DataType:
        """Returns the type declared."""
        return _ordered(self, result)

    def finish(self, *columns: Any) -> Any:
        """Returns it."""
        return columns[0]

    def finished(self, *columns: pl.Expr) -> pl.Expr:
        """Returns it."""
        return columns[0]


@dataclass(frozen=True)
class Max(Aggregate, name="max"):
    """The greatest input. NaN is passed over where there is any number, as in Polars."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """See ``Aggregate.parts``."""
        return (MAX,)

    def input_dtype(self, result: pl.DataType) -> pl.DataType:
        """Returns the type declared."""
        return _ordered(self, result)

    def finish(self, *columns: Any) -> Any:
        """Returns it."""
        return columns[0]

    def finished(self, *columns: pl.Expr) -> pl.Expr:
        """Returns it."""
        return columns[0]
