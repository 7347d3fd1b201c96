"""Counts: of rows, of inputs, and of distinct inputs."""

from dataclasses import dataclass
from typing import Any

import polars as pl

from featurestore.aggregates.base import Aggregate, PartialAggregate, only
from featurestore.identity import distinct_values

ROWS = PartialAggregate("rows", lambda _, dtype: only(pl.lit(1, pl.Int64)), lambda a, b: only(a[0] + b[0]))
COUNT = PartialAggregate(
    "count", lambda x, dtype: only(pl.when(x.is_not_null()).then(pl.lit(1, pl.Int64))), lambda a, b: only(a[0] + b[0])
)
VALUES = PartialAggregate(
    "distinct",
    lambda x, dtype: only(pl.when(x.is_not_null()).then(pl.concat_list(x))),
    lambda a, b: only(pl.concat_list(a[0], b[0]).list.unique(maintain_order=True)),
    listed=True,
)


@dataclass(frozen=True)
class Count(Aggregate, name="count"):
    """How many inputs there are, or rows where it is given none."""

    empty = 0
    of_rows: bool = False

    @property
    def parts(self) -> tuple[PartialAggregate, ...]:
        """See ``Aggregate.parts``."""
        return (ROWS,) if self.of_rows else (COUNT,)

    def input_dtype(self, result: pl.DataType) -> pl.DataType:
        """Return bool: whether there is an input is all that counts."""
        if not result.is_integer():
            raise self.refuse(result, "whole numbers (int)")
        return pl.Boolean()

    def finish(self, *columns: Any) -> Any:
        """Return the number."""
        return columns[0]

    def finished(self, *columns: pl.Expr) -> pl.Expr:
        """Return the number."""
        return columns[0]


@dataclass(frozen=True)
class CountDistinct(Aggregate, name="count_distinct"):
    """The number of distinct inputs. They are kept as text, so that values of any type can be distinguished."""

    empty = 0

    @property
    def parts(self) -> tuple[PartialAggregate, ...]:
        """See ``Aggregate.parts``."""
        return (VALUES,)

    def input_dtype(self, result: pl.DataType) -> pl.DataType:
        """Return text."""
        if not result.is_integer():
            raise self.refuse(result, "whole numbers (int)")
        return pl.String()

    def finish(self, *columns: Any) -> Any:
        """Return the number."""
        return distinct_values(columns[0])

    def finished(self, *columns: pl.Expr) -> pl.Expr:
        """Return the number."""
        return columns[0].list.n_unique()
