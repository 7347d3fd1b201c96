"""The segment tree: aggregates over any range of a sequence of events, for training and online alike.

The events' parts are merged in pairs, the pairs in pairs, and so on: a segment tree whose level ``j`` holds stretches of
``2**j`` events. Any range of events is then some two stretches a level, so a range costs the logarithm of its length; and as
nothing is ever taken away again, what lies outside a range leaves no trace in it (S10).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import polars as pl

from featurestore.aggregates.base import PartialAggregate
from featurestore.definitions.window import WindowSpec

_SECOND = "\x1f"
"""Marks the columns of the later of two stretches."""
AVAILABLE_FIRST, AVAILABLE_LAST = "_available_first", "_available_last"
SUPERSEDED_FIRST, SUPERSEDED_LAST = "_superseded_first", "_superseded_last"
_QUERY, _START, _BLOCK = "_query", "_start", "_block"
_QUARTER = 2**62


@dataclass(frozen=True)
class StateColumns:
    """A part of one input, as columns.

    Args:
        part: the part.
        input: the input's column; empty for rows.
        dtype: the input's dtype.
    """

    part: PartialAggregate
    input: str
    dtype: pl.DataType

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of its columns."""
        return tuple(f"{self.part.name}({self.input})[{number}]" for number in range(self.part.fields))

    @property
    def spare(self) -> tuple[str, ...]:
        """The names of the last of them, which are hardly ever there."""
        return self.columns[self.part.fields - self.part.spare :]

    def lifted(self) -> list[pl.Expr]:
        """Return expressions for its columns of each event."""
        value = pl.col(self.input) if self.input else pl.lit(value=True)
        return [expression.alias(name) for expression, name in zip(self.part.lift(value, self.dtype), self.columns, strict=True)]

    def merged(self) -> list[pl.Expr]:
        """Return expressions for its columns of two stretches, the later one's marked."""
        first = tuple(pl.col(name) for name in self.columns)
        second = tuple(pl.col(name + _SECOND) for name in self.columns)
        return [expression.alias(name) for expression, name in zip(self.part.merged(first, second), self.columns, strict=True)]


@dataclass(frozen=True)
class PartialStates:
    """What is kept of each of some stretches of events.

    Args:
        kept: the parts, each once.
        seen: whether it is also kept from when to when all and any of the events are to be seen (S7, S9).
    """

    kept: tuple[StateColumns, ...]
    seen: bool = False

    @classmethod
    def of(cls, windows: Sequence[WindowSpec], dtypes: Mapping[str, pl.DataType], *, seen: bool = False) -> "PartialStates":
        """Return what some windows need."""
        columns_by_part: dict[tuple[str, str], StateColumns] = {}
        for window in windows:
            for part in window.aggregate.parts:
                dtype = dtypes.get(window.input, pl.Boolean())
                kind = part if part.of is None else part.of(dtype)
                columns_by_part.setdefault((part.name, window.input), StateColumns(kind, window.input, dtype))
        return cls(tuple(columns_by_part.values()), seen)

    def plain(self, events: pl.DataFrame) -> "PartialStates":
        """Return the same without the columns that none of some events, nor any of their sums, needs."""
        asked = [
            (kept, kept.part.is_plain(pl.col(kept.input), kept.dtype, events.height))
            for kept in self.kept
            if kept.part.is_plain is not None
        ]
        if not asked:
            return self
        is_plain = events.select(plain.alias(str(number)) for number, (_, plain) in enumerate(asked)).row(0)
        plain = [kept for (kept, _), fits in zip(asked, is_plain, strict=True) if fits is not False]  # null: there are no inputs
        return self._without(plain)

    def plain_merge(self, *stretches: pl.DataFrame) -> "PartialStates":
        """Return the same without the columns that are null in some stretches, and stay so when two of these are merged."""
        spared = [kept for kept in self.kept if kept.part.spare]
        unused = [
            kept for kept in spared if all(frame[name].null_count() == frame.height for name in kept.spare for frame in stretches)
        ]
        small = [kept for kept in unused if all(_stays_plain(frame[kept.columns[0]]) for frame in stretches)]
        return self._without(small)

    def of_same(self, others: "PartialStates") -> "PartialStates":
        """Return what other states keep, as it is kept in these."""
        known = {(state.part.name, state.input): state for state in self.kept}
        return PartialStates(tuple(known[state.part.name, state.input] for state in others.kept), others.seen)

    def _without(self, plain: Sequence[StateColumns]) -> "PartialStates":
        def convert(kept: StateColumns) -> StateColumns:
            return replace(kept, part=kept.part.plain) if kept in plain and kept.part.plain is not None else kept

        return PartialStates(tuple(convert(kept) for kept in self.kept), self.seen) if plain else self

    def widened(self, frame: pl.DataFrame, dtypes: Mapping[str, pl.DataType]) -> list[pl.Series]:
        """Return the columns of some stretches, null where the frame has none, of these dtypes."""
        blank = pl.Series([None])
        return [
            frame[name] if name in frame.columns else blank.cast(dtypes[name]).new_from_index(0, frame.height).alias(name)
            for name in self.columns
        ]

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The names of all columns of the parts."""
        return tuple(name for state in self.kept for name in state.columns)

    @cached_property
    def all_columns(self) -> tuple[str, ...]:
        """The names of all columns: those of the parts, and those that tell when the events are to be seen."""
        seen = (AVAILABLE_FIRST, SUPERSEDED_FIRST, AVAILABLE_LAST, SUPERSEDED_LAST)
        return (*self.columns, *(seen if self.seen else ()))

    def columns_of(self, window: WindowSpec) -> list[str]:
        """Return the names of the columns that a window's aggregate takes."""
        names = {(state.part.name, state.input): state.columns for state in self.kept}
        return [name for part in window.aggregate.parts for name in names[part.name, window.input]]

    def lift(self, events: pl.DataFrame) -> pl.DataFrame:
        """Return the state of each event alone.

        Args:
            events: the inputs, ``event_time`` and ``available_time`` in microseconds, and where ``seen`` matters
                ``_available_first`` and ``_superseded_first``: from when on, and until when, it is to be seen.
        """
        lifted = [expression for kept in self.kept for expression in kept.lifted()]
        if self.seen:
            lifted += [
                pl.col(AVAILABLE_FIRST), pl.col(SUPERSEDED_FIRST),
                pl.col(AVAILABLE_FIRST).alias(AVAILABLE_LAST), pl.col(SUPERSEDED_FIRST).alias(SUPERSEDED_LAST),
            ]  # fmt: skip
        # A window of rows alone has no column to take its length from.
        return events.with_row_index("_length").select("_length", *lifted).drop("_length")

    def merge(self, first: pl.DataFrame, second: pl.DataFrame) -> pl.DataFrame:
        """Return the states of pairs of neighbouring stretches, row by row; a row of nulls is not a stretch."""
        both = first.hstack([column.alias(column.name + _SECOND) for column in second.get_columns()])
        expressions = [expression for kept in self.kept for expression in kept.merged()]
        if self.seen:
            expressions += [pl.min_horizontal(name, name + _SECOND).alias(name) for name in (AVAILABLE_FIRST, SUPERSEDED_FIRST)]
            expressions += [pl.max_horizontal(name, name + _SECOND).alias(name) for name in (AVAILABLE_LAST, SUPERSEDED_LAST)]
        frame = both.select(expressions)
        for kept in self.kept:
            if kept.part.compact is not None:
                frame = frame.with_columns(kept.part.compact(frame.select(kept.columns)))
        return frame


def _stays_plain(first: pl.Series) -> bool:
    """Return whether a part's first column is so small that two such stretches need no other."""
    return first.dtype.is_float() or bool(first.is_between(-_QUARTER, _QUARTER).all())  # nulls are passed over


def build_levels(states: PartialStates, events: pl.DataFrame, longest: int) -> list[pl.DataFrame]:
    """Return the tree over a sequence of events: at level ``j`` the states of whole stretches of ``2**j``.

    Args:
        states: what is kept.
        events: the events.
        longest: how many events a range has that is asked for, at the most: no longer stretches are made.
    """
    levels = [states.lift(events)]
    while 1 << len(levels) <= longest:
        below = levels[-1]
        pairs = below.height // 2
        levels.append(states.merge(below.gather_every(2).head(pairs), below.gather_every(2, offset=1)))
    return levels


def aggregate_ranges(states: PartialStates, levels: Sequence[pl.DataFrame], low: pl.Series, high: pl.Series) -> pl.DataFrame:
    """Return the state of each range of events ``[low, high)``; a row of nulls for an empty one."""
    blank = levels[0].clear()
    queries = pl.DataFrame({_QUERY: pl.int_range(low.len(), dtype=pl.UInt32, eager=True), "low": low, "high": high})
    left, right = blank.clear(low.len()), blank.clear(low.len())
    done: list[tuple[pl.DataFrame, pl.DataFrame]] = []
    for level in levels:
        going = queries["low"] < queries["high"]
        remaining = int(going.sum())
        if remaining == 0:
            break
        if remaining < queries.height // 2:
            done.append((queries.filter(~going), states.merge(left.filter(~going), right.filter(~going))))
            queries, left, right = queries.filter(going), left.filter(going), right.filter(going)
        odd = queries.select(
            pl.when((pl.col("low") < pl.col("high")) & (pl.col("low") % 2 == 1)).then("low").alias("left"),
            pl.when((pl.col("low") < pl.col("high")) & (pl.col("high") % 2 == 1)).then(pl.col("high") - 1).alias("right"),
        )
        # NOTE: both ends may name one block, when it is the only one left.
        odd = odd.with_columns(pl.when(pl.col("left").eq_missing(pl.col("right"))).then(None).otherwise("right").alias("right"))
        left = states.merge(left, _gather(level, odd["left"]))
        right = states.merge(_gather(level, odd["right"]), right)
        queries = queries.with_columns((pl.col("low") + 1) // 2, pl.col("high") // 2)
    done.append((queries, states.merge(left, right)))
    if len(done) == 1:
        return done[0][1]
    order = pl.concat([queried.select(_QUERY) for queried, _ in done]).with_row_index("_place").sort(_QUERY)["_place"]
    return pl.concat([aggregated for _, aggregated in done])[order]


def aggregate_seen(
    states: PartialStates, levels: Sequence[pl.DataFrame], low: pl.Series, high: pl.Series, at: pl.Series
) -> pl.DataFrame:
    """Return the same, of those events that are to be seen at an instant: available by then, and not superseded (S7, S9).

    Args:
        states: what is kept, with ``seen``.
        levels: the tree.
        low: where each range begins.
        high: where it ends.
        at: the instant of each, in microseconds.
    """
    aggregated = aggregate_ranges(states, levels, low, high)
    whole = (aggregated[AVAILABLE_LAST] <= at) & (aggregated[SUPERSEDED_FIRST] > at)
    partly = ~whole.fill_null(value=True)
    if not partly.any():
        return aggregated
    number = pl.int_range(low.len(), dtype=pl.UInt32, eager=True)
    exact = _seen_parts(states, levels, number.filter(partly), low.filter(partly), high.filter(partly), at)
    rest = aggregated.with_columns(number.alias(_QUERY)).filter(~partly)
    both = pl.concat([rest, exact], how="diagonal")
    missing = number.filter(partly).filter(~number.filter(partly).is_in(exact[_QUERY].implode()))
    return pl.concat([both, pl.DataFrame({_QUERY: missing})], how="diagonal").sort(_QUERY).drop(_QUERY)


def _seen_parts(
    states: PartialStates, levels: Sequence[pl.DataFrame], number: pl.Series, low: pl.Series, high: pl.Series, at: pl.Series
) -> pl.DataFrame:
    """Return ranges of which some events are not to be seen, and their numbers; those that see nothing are left out.

    A stretch whose events are all to be seen is taken whole, one without any is passed over, any other is halved.
    """
    waiting: list[list[pl.DataFrame]] = [[] for _ in levels]
    queries = pl.DataFrame({_QUERY: number, "low": low, "high": high})
    for depth in range(len(levels)):
        queries = queries.filter(pl.col("low") < pl.col("high"))
        waiting[depth].append(queries.filter(pl.col("low") % 2 == 1).select(_QUERY, pl.col("low").alias(_BLOCK)))
        queries = queries.with_columns(pl.col("low") + pl.col("low") % 2)
        ends = queries.filter((pl.col("high") % 2 == 1) & (pl.col("low") < pl.col("high")))
        waiting[depth].append(ends.select(_QUERY, (pl.col("high") - 1).alias(_BLOCK)))
        queries = queries.with_columns(pl.col("low") // 2, pl.col("high") // 2)
    taken: list[pl.DataFrame] = []
    for depth in reversed(range(len(levels))):
        pairs = pl.concat(waiting[depth])
        block = _gather(levels[depth], pairs[_BLOCK])
        instant = at.gather(pairs[_QUERY])
        whole = (block[AVAILABLE_LAST] <= instant) & (block[SUPERSEDED_FIRST] > instant)
        none = (block[AVAILABLE_FIRST] > instant) | (block[SUPERSEDED_LAST] <= instant)
        place = pairs.select(_QUERY, pl.col(_BLOCK).cast(pl.Int64).alias(_START) * (1 << depth))
        taken.append(place.hstack(block).filter(whole))
        if depth:
            mixed = pairs.filter(~whole & ~none)
            waiting[depth - 1] += [mixed.with_columns(pl.col(_BLOCK) * 2), mixed.with_columns(pl.col(_BLOCK) * 2 + 1)]
    return _reduce(states, pl.concat(taken).sort(_QUERY, _START).drop(_START))


def _reduce(states: PartialStates, frame: pl.DataFrame) -> pl.DataFrame:
    """Return one state for each number, merged of those that stand one after the other under it."""
    while not frame.is_empty():
        again = pl.col(_QUERY) == pl.col(_QUERY).shift(1)
        place = frame.select(pl.int_range(pl.len()).over(_QUERY).alias("_place"))["_place"]
        if not place.max():
            break
        index = pl.int_range(frame.height, eager=True)
        followed = frame.select(again.shift(-1).fill_null(value=False)).to_series()
        partner = pl.select(pl.when(followed).then(index + 1)).to_series()
        first = place % 2 == 0
        kept = frame.drop(_QUERY)
        merged = states.merge(kept.filter(first), _gather(kept, partner.filter(first)))
        frame = frame.select(_QUERY).filter(first).hstack(merged)
    return frame


def _gather(frame: pl.DataFrame, places: pl.Series) -> pl.DataFrame:
    """Return the rows at some places; a row of nulls for a null."""
    return frame.select(pl.all().gather(places))
