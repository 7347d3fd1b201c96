"""Windowed features: aggregates over the events of a time span before the lookup, such as the last hour's mean."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import polars as pl

from featurestore.aggregates.base import Aggregate
from featurestore.aggregates.counts import Count, CountDistinct
from featurestore.aggregates.ends import First, Last, LastN
from featurestore.aggregates.extremes import Max, Min
from featurestore.aggregates.quantiles import Quantile
from featurestore.aggregates.spread import Std, Var
from featurestore.aggregates.sums import Mean, Sum
from featurestore.clock import format_duration, parse_duration
from featurestore.definitions.definition_errors import caller_place
from featurestore.errors import DefinitionError

_MINUTE = 60_000_000
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR


@dataclass(frozen=True)
class WindowSpec:
    """How a windowed feature is computed, as the registry keeps it.

    Args:
        aggregate: what is made of the events.
        input: the stored column it is made of; empty where it counts rows.
        size: the window's length in microseconds.
        tile: its tile in microseconds: where the window's tail may lie (S7).
    """

    aggregate: Aggregate
    input: str
    size: int
    tile: int

    def __str__(self) -> str:
        of = f"({self.input})" if self.input else "()"
        return f"{self.aggregate}{of} over {format_duration(self.size)}, tile {format_duration(self.tile)}"


@dataclass(frozen=True)
class InputSpec:
    """A column that a windowed view keeps of each event, for its aggregates, as the registry keeps it.

    Args:
        name: the column's name in the history.
        dtype: its dtype there.
        expression: what it is computed by, for people to read.
        digest: tells one meaning of it from another.
    """

    name: str
    dtype: pl.DataType
    expression: str
    digest: str


@dataclass(frozen=True, eq=False)
class Input:
    """An aggregate's input as it is defined: an expression over a row, and which rows count."""

    value: pl.Expr | None
    where: pl.Expr | None

    @property
    def column(self) -> str | None:
        """The column's name if the input is a plain column."""
        if self.value is None or self.where is not None:
            return None
        name: str = self.value.meta.output_name() if self.value.meta.is_column() else ""
        return name or None

    @property
    def digest(self) -> str:
        """Tell one meaning from another."""
        parts = [
            None if expression is None else expression.meta.serialize(format="json") for expression in (self.value, self.where)
        ]
        return hashlib.sha256(repr([self.column] if self.column else parts).encode()).hexdigest()

    def __str__(self) -> str:
        value = "rows" if self.value is None else str(self.value)
        return value if self.where is None else f"{value} where {self.where}"


@dataclass(frozen=True, eq=False)
class WindowedField:
    """What a class body says of a windowed feature: an aggregate, its input, and the windows."""

    aggregate: Aggregate
    input: Input
    windows: tuple[tuple[str, int], ...]
    tile: int | None
    description: str = ""
    unit: str = ""
    owner: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    pii: bool = False

    def tile_of(self, size: int) -> int:
        """Return the tile of a window of a length (S7).

        Raises:
            DefinitionError: the one declared does not divide it.
        """
        if self.tile is None:
            return 5 * _MINUTE if size <= 12 * _HOUR else _HOUR if size <= 12 * _DAY else _DAY
        if size % self.tile:
            raise DefinitionError(
                f"tile={format_duration(self.tile)!r} does not divide the window {format_duration(size)!r}; take one that does.",
                caller_place(),
            )
        return self.tile


@dataclass(frozen=True, eq=False)
class Aggregation:
    """An aggregate of an input, which ``.over(…)`` makes a feature of."""

    aggregate: Aggregate
    input: Input

    def over(
        self,
        *windows: str | timedelta,
        tile: str | timedelta | None = None,
        description: str = "",
        unit: str = "",
        owner: str = "",
        tags: Mapping[str, str] | None = None,
        pii: bool = False,
    ) -> Any:
        """Return the feature, or the features, of one or several windows that end at the look-up.

        A window holds the events from ``floor((t - window) / tile) * tile`` to ``t``, both inclusive (S7). Of one window
        the feature is named as the attribute; of several, each has the window after it: ``mean_delay_1h``.

        Args:
            windows: each window's length: ``"1h"``, ``"7d"``, or a ``timedelta``.
            tile: what divides time for the windows' tails; by default 5 minutes for windows up to 12 hours, an hour up to
                12 days, else a day. It must divide each window.
            description: what the feature means.
            unit: what it is measured in.
            owner: who answers for it, where that is not the view's owner.
            tags: anything else, by name.
            pii: whether it is personal information.

        Raises:
            DefinitionError: a window or the tile is not a duration, there is no window, or one is given twice.

        Example:
            >>> mean("dep_delay").over("1h", "1d", "7d").windows
            (('1h', 3600000000), ('1d', 86400000000), ('7d', 604800000000))
        """
        if not windows:
            raise DefinitionError(f'{self.aggregate} needs a window: {self.aggregate.name}(…).over("1h").', caller_place())
        sizes: dict[int, str] = {}
        for window in windows:
            size = _duration(window, "a window")
            text = window if isinstance(window, str) else format_duration(size, weeks=True)
            if size in sizes:
                raise DefinitionError(f"the windows {sizes[size]!r} and {text!r} are the same; leave one out.", caller_place())
            sizes[size] = text
        step = None if tile is None else _duration(tile, "the tile")
        named = tuple((text, size) for size, text in sizes.items())
        field = WindowedField(self.aggregate, self.input, named, step, description, unit, owner, dict(tags or {}), pii)
        for size in sizes:
            field.tile_of(size)
        return field


def _duration(value: str | timedelta, what: str) -> int:
    try:
        return parse_duration(value)
    except DefinitionError as error:
        raise DefinitionError(f"{what}: {error.problem}", caller_place()) from error


def aggregate(kind: Aggregate, column: str | pl.Expr | None, *, where: pl.Expr | None = None) -> Aggregation:
    """Return an aggregate of a column; what the functions of the aggregates' names call, and yours may.

    Args:
        kind: the aggregate.
        column: its input: a column's name, or an expression over a row; None where rows are counted.
        where: which rows count; None for all. A row for which it is null does not.

    Raises:
        DefinitionError: the input is neither.
    """
    for what, given in (("where", where), ("the input", column)):
        if not (given is None or isinstance(given, pl.Expr) or (isinstance(given, str) and what != "where")):
            wanted = "a Polars expression" if what == "where" else "a column's name or a Polars expression"
            raise DefinitionError(f"{what} of {kind} must be {wanted}; it is {given!r}.", caller_place())
    return Aggregation(kind, Input(pl.col(column) if isinstance(column, str) else column, where))


def count(column: str | pl.Expr | None = None, *, where: pl.Expr | None = None) -> Aggregation:
    """How many events there are in the window, or, given a column, how many have a value there; 0 for none.

    Example:
        >>> departures = count().over("1h")
        >>> cancelled = count(where=pl.col("dep_time").is_null()).over("1d")
    """
    return aggregate(Count(of_rows=column is None and where is None), column, where=where)


def count_distinct(column: str | pl.Expr, *, where: pl.Expr | None = None) -> Aggregation:
    """How many different values there are in the window; 0 for none. Exact.

    The values are kept as text, online too: a value of an entity that sees many different ones is large.

    Example:
        >>> planes = count_distinct("tailnum").over("7d")
    """
    return aggregate(CountDistinct(), column, where=where)


def sum_(column: str | pl.Expr, *, where: pl.Expr | None = None) -> Aggregation:
    """The sum of the values in the window; 0 for none.

    Example:
        >>> spent = sum_(pl.col("price") * pl.col("quantity")).over("1d")
    """
    return aggregate(Sum(), column, where=where)


def mean(column: str | pl.Expr, *, where: pl.Expr | None = None) -> Aggregation:
    """The arithmetic mean of the values in the window; null for none.

    Example:
        >>> mean_delay = mean("dep_delay").over("1h", "1d")
    """
    return aggregate(Mean(), column, where=where)


def min_(column: str | pl.Expr, *, where: pl.Expr | None = None) -> Aggregation:
    """The least value in the window; null for none. NaN is passed over where there is any number, as in Polars.

    Example:
        >>> coldest = min_("temp").over("1d")
    """
    return aggregate(Min(), column, where=where)


def max_(column: str | pl.Expr, *, where: pl.Expr | None = None) -> Aggregation:
    """The greatest value in the window; null for none. NaN is passed over where there is any number, as in Polars.

    Example:
        >>> worst_delay = max_("dep_delay").over("1d", tile="1h")
    """
    return aggregate(Max(), column, where=where)


def std(column: str | pl.Expr, *, where: pl.Expr | None = None) -> Aggregation:
    """The sample standard deviation of the values in the window; null for none and for a single one.

    Example:
        >>> jitter = std("latency").over("1h")
    """
    return aggregate(Std(), column, where=where)


def var(column: str | pl.Expr, *, where: pl.Expr | None = None) -> Aggregation:
    """The sample variance of the values in the window; null for none and for a single one.

    Example:
        >>> spread = var("latency").over("1h")
    """
    return aggregate(Var(), column, where=where)


def first(column: str | pl.Expr, *, where: pl.Expr | None = None) -> Aggregation:
    """The first value in the window, by event time, then available time; null for none.

    Example:
        >>> opening = first("price").over("1d")
    """
    return aggregate(First(), column, where=where)


def last(column: str | pl.Expr, *, where: pl.Expr | None = None) -> Aggregation:
    """The last value in the window, by event time, then available time; null for none.

    Unlike the latest value of a plain feature it passes over nulls, and grows old with the window.

    Example:
        >>> latest = last("price").over("1d")
    """
    return aggregate(Last(), column, where=where)


def last_n(column: str | pl.Expr, n: int, *, where: pl.Expr | None = None) -> Aggregation:
    """The last few values in the window as a list, from the oldest to the newest; the empty list for none.

    Args:
        column: the input.
        n: how many at the most, 1 or more.
        where: which rows count.

    Example:
        >>> recent = last_n("dest", 5).over("7d")
    """
    if type(n) is not int or n < 1:
        raise DefinitionError(f"last_n takes a number of values of 1 or more; it is {n!r}.", caller_place())
    return aggregate(LastN(n), column, where=where)


def quantile(column: str | pl.Expr, q: float, *, where: pl.Expr | None = None) -> Aggregation:
    """The value below which a part ``q`` of those in the window lies; null for none.

    Exact, interpolated linearly, up to 1,024 values in the window. Of more, each is taken as the middle of its bucket in a
    log-linear histogram: off by at most 1/256 of the value. NaN is greater than every number.

    Args:
        column: the input.
        q: which part, from 0 to 1.
        where: which rows count.

    Example:
        >>> p95 = quantile("latency", 0.95).over("1h")
    """
    if isinstance(q, bool) or not isinstance(q, (int, float)) or not 0 <= q <= 1:
        raise DefinitionError(f"quantile takes a part from 0 to 1; it is {q!r}.", caller_place())
    return aggregate(Quantile(float(q)), column, where=where)
