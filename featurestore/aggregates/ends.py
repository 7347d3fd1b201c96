"""First, last and last-n: inputs by event order."""

from abc import ABC
from dataclasses import dataclass
from typing import Any

import polars as pl

from featurestore.aggregates.base import AVAILABLE, EVENT, Aggregate, Columns, PartialAggregate, only
from featurestore.dtypes import inner_dtype


def _lift(value: pl.Expr, dtype: pl.DataType) -> Columns:
    there = value.is_not_null()
    return pl.when(there).then(pl.col(EVENT)), pl.col(AVAILABLE), value


def _is_later(a: Columns, b: Columns) -> pl.Expr:
    """Return whether ``a`` is later than ``b``: by event time, then available time, then by the greater value."""
    known = (a[1] > b[1]) | ((a[1] == b[1]) & (a[2] > b[2]))
    return (a[0] > b[0]) | ((a[0] == b[0]) & known)


def _pick(chosen: pl.Expr, a: Columns, b: Columns) -> Columns:
    return tuple(pl.when(chosen).then(x).otherwise(y) for x, y in zip(a, b, strict=True))


FIRST = PartialAggregate("first", _lift, lambda a, b: _pick(_is_later(a, b), b, a), fields=3)
LAST = PartialAggregate("last", _lift, lambda a, b: _pick(_is_later(a, b), a, b), fields=3)


class _End(Aggregate, ABC, name=None):
    """The input at one end, as it is."""

    def input_dtype(self, result: pl.DataType) -> pl.DataType:
        """Return the type declared."""
        if result.is_nested():
            raise self.refuse(result, "single values, not lists")
        return result

    def finish(self, *columns: Any) -> Any:
        """Return the value."""
        return columns[2]

    def finished(self, *columns: pl.Expr) -> pl.Expr:
        """Return the value."""
        return columns[2]


@dataclass(frozen=True)
class First(_End, name="first"):
    """The first input: of the least event time, then available time, then value."""

    @property
    def parts(self) -> tuple[PartialAggregate, ...]:
        """See ``Aggregate.parts``."""
        return (FIRST,)


@dataclass(frozen=True)
class Last(_End, name="last"):
    """The last input: of the greatest event time, then available time, then value."""

    @property
    def parts(self) -> tuple[PartialAggregate, ...]:
        """See ``Aggregate.parts``."""
        return (LAST,)


@dataclass(frozen=True)
class LastN(Aggregate, name="last_n"):
    """The last few inputs, from the oldest to the newest.

    Args:
        n: how many at the most.
    """

    empty = ()
    n: int = 1

    @property
    def parts(self) -> tuple[PartialAggregate, ...]:
        """See ``Aggregate.parts``."""
        n = self.n
        return (
            PartialAggregate(
                f"last_{n}",
                lambda x, dtype: only(pl.when(x.is_not_null()).then(pl.concat_list(x))),
                lambda a, b: only(pl.concat_list(a[0], b[0]).list.tail(n)),
                listed=True,
                in_order=True,
            ),
        )

    def input_dtype(self, result: pl.DataType) -> pl.DataType:
        """Return the type of the elements declared."""
        if not isinstance(result, pl.List) or inner_dtype(result).is_nested():
            raise self.refuse(result, "lists, list[float] say")
        return inner_dtype(result)

    def finish(self, *columns: Any) -> Any:
        """Return the list's end."""
        return columns[0][-self.n :]

    def finished(self, *columns: pl.Expr) -> pl.Expr:
        """Return the list."""
        return columns[0]

    def __str__(self) -> str:
        return f"last_{self.n}"
