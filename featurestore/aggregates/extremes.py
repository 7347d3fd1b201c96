"""Minimum and maximum."""

from abc import ABC
from dataclasses import dataclass
from typing import Any

import polars as pl

from featurestore.aggregates.base import Aggregate, Columns, PartialAggregate, only


def _lift(value: pl.Expr, dtype: pl.DataType) -> Columns:
    # NOTE: a merge must not depend on which of two equal values comes first, so of the two zeros one alone is kept.
    return only(value + 0.0 if dtype.is_float() else value)


# As in Polars, NaN is passed over where there is any number.
MIN = PartialAggregate("min", _lift, lambda a, b: only(pl.min_horizontal(a[0], b[0])))
MAX = PartialAggregate("max", _lift, lambda a, b: only(pl.max_horizontal(a[0], b[0])))


class _Extreme(Aggregate, ABC, name=None):
    """An input that others are compared with. NaN is passed over where there is any number, as in Polars."""

    def input_dtype(self, result: pl.DataType) -> pl.DataType:
        """Return the type declared."""
        if result.is_nested() or isinstance(result, (pl.Binary, pl.Decimal)):
            raise self.refuse(result, "numbers, text, bool, dates and times")
        return result

    def finish(self, *columns: Any) -> Any:
        """Return it."""
        return columns[0]

    def finished(self, *columns: pl.Expr) -> pl.Expr:
        """Return it."""
        return columns[0]


@dataclass(frozen=True)
class Min(_Extreme, name="min"):
    """The least input. NaN is passed over where there is any number, as in Polars."""

    @property
    def parts(self) -> tuple[PartialAggregate, ...]:
        """See ``Aggregate.parts``."""
        return (MIN,)


@dataclass(frozen=True)
class Max(_Extreme, name="max"):
    """The greatest input. NaN is passed over where there is any number, as in Polars."""

    @property
    def parts(self) -> tuple[PartialAggregate, ...]:
        """See ``Aggregate.parts``."""
        return (MAX,)
