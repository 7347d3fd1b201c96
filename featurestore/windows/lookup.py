"""The lookup of windowed features: the events of a window at each spine row's time, in one view (S7-S10)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import polars as pl

from featurestore.aggregates.counts import CountDistinct
from featurestore.definitions.feature import FeatureSpec
from featurestore.definitions.window import WindowSpec
from featurestore.definitions.window_features import EVENT_ID
from featurestore.identity import same_values
from featurestore.instants import INSTANT
from featurestore.rows.point_in_time import TIME
from featurestore.rows.total_order import AVAILABLE, EVENT, same_as_before
from featurestore.rows.transform import fitted
from featurestore.windows.segment_tree import (
    AVAILABLE_FIRST,
    SUPERSEDED_FIRST,
    PartialStates,
    aggregate_ranges,
    aggregate_seen,
    build_levels,
)

NEVER = 2**63 - 1
"""When an event is superseded that no other supersedes, in microseconds."""
_INDEX, _START, _ROW = "_index", "_first_of_key", "_row"


@dataclass(frozen=True)
class WindowLookUp:
    """What to look up for each spine row, in one windowed view.

    Args:
        keys: the join keys, in the spine as in the history.
        asked: the features to compute.
        stored: the dtypes of the columns that the view's history keeps.
        as_known: whether only what was available by the spine's time counts (S6, S7).
        late: whether rows may become available after their event.
    """

    keys: tuple[str, ...]
    asked: tuple[FeatureSpec, ...]
    stored: Mapping[str, pl.DataType]
    as_known: bool = True
    late: bool = False

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the features to compute."""
        return tuple(feature.name for feature in self.asked)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the history that are needed of one file."""
        inputs = dict.fromkeys(window.input for window in self.windows if window.input)
        identity = (EVENT_ID,) if self.identified else ()
        return (*self.keys, EVENT, AVAILABLE, *inputs, *(column for column in identity if column not in inputs))

    @property
    def all_columns(self) -> tuple[str, ...]:
        """The columns of the history that tell one row from another as well."""
        return (*self.keys, EVENT, AVAILABLE, *self.stored)

    @property
    def tie_columns(self) -> tuple[str, ...]:
        """The columns that decide between rows of one key and time, in their order."""
        return tuple(self.stored)

    @property
    def identified(self) -> bool:
        """Whether events have ids (S9)."""
        return EVENT_ID in self.stored

    @property
    def windows(self) -> tuple[WindowSpec, ...]:
        """How each feature is computed."""
        return tuple(feature.window for feature in self.asked if feature.window is not None)

    @property
    def reach(self) -> int | None:
        """How far before an instant the events may lie that it sees, in microseconds."""
        return max(window.size + window.tile for window in self.windows)

    @property
    def prunes(self) -> bool:
        """Whether rows outside the reach need not be read: not where a correction may have moved an event there."""
        return not self.identified

    @property
    def splits_by_time(self) -> bool:
        """Whether the spine rows of a stretch of time can be looked up in what ``seen_within`` leaves of the history.

        Not where events have ids: a version may lie anywhere in time, and hide one that lies within.
        """
        return not self.identified

    def seen_within(self, history: pl.DataFrame, start: int, end: int) -> pl.DataFrame:
        """Return the events that windows can hold which end in a stretch of time, in their order.

        Args:
            history: rows with ``columns``.
            start: the first instant, in microseconds.
            end: the first instant after it.
        """
        assert self.reach is not None, "windows reach back so far and no further"
        return history.filter(pl.col(EVENT).to_physical().is_between(start - self.reach, end, closed="left"))

    def look_up(self, spine: pl.DataFrame, history: pl.DataFrame) -> pl.DataFrame:
        """Return the features of each spine row, in the spine's order.

        Args:
            spine: the join keys under the history's names and dtypes, and the instant in ``_time``.
            history: ``columns``, in the total order of ``sort_history``.
        """
        at = spine[TIME].cast(INSTANT).to_physical()
        events = history_events(
            identified_rows(history, self.windows), self.keys, identified=self.identified, as_known=self.as_known
        )
        seen = self.as_known and (self.late or self.identified)
        if seen:
            # Where all is known as it happens and nothing was corrected, time alone decides what a window holds.
            hidden = (pl.col(AVAILABLE_FIRST) > pl.col(EVENT)) | (pl.col(SUPERSEDED_FIRST) < NEVER)
            seen = bool(events.select(hidden.any()).item())
        states = PartialStates.of(self.windows, self.stored, seen=seen).plain(events)
        places = EventIndex(spine.select(*self.keys, at.alias(TIME)), events, self.keys)
        levels = build_levels(states, events, places.longest)
        high = places.after(at)
        ranges: dict[tuple[int, int], pl.DataFrame] = {}
        columns = []
        for feature in self.asked:
            window = feature.window
            assert window is not None, "a windowed view has windowed features"
            span = (window.size, window.tile)
            if span not in ranges:
                low = pl.select(pl.min_horizontal(places.before(window_start(at, window)), high)).to_series()
                together = [other for other in self.windows if (other.size, other.tile) == span]
                several = states.of_same(PartialStates.of(together, self.stored, seen=seen))
                kept = [level.select(several.all_columns) for level in levels]
                ranges[span] = aggregate_seen(several, kept, low, high, at) if seen else aggregate_ranges(several, kept, low, high)
            columns.append(finished(feature, ranges[span], states.columns_of(window)))
        return pl.DataFrame(columns)


def window_start(at: pl.Series, window: WindowSpec) -> pl.Series:
    """Return the first microsecond of the window that ends at each instant: on a tile's edge (S7)."""
    return (at - window.size) // window.tile * window.tile


def finished(feature: FeatureSpec, states: pl.DataFrame, columns: Sequence[str]) -> pl.Series:
    """Return a feature's values, from what is kept of each window (S8)."""
    aggregate = feature.window.aggregate if feature.window is not None else None
    assert aggregate is not None, "a windowed feature"
    values = states.select(columns)
    there = values.to_series().is_not_null()
    value = _declared(aggregate.finished_frame(values).alias(feature.name), feature)
    if not there.any():
        value = pl.Series(feature.name, [None], dtype=feature.dtype).new_from_index(0, states.height)
    empty = pl.Series("empty", [empty_value(feature)], dtype=feature.dtype)
    return pl.select(pl.when(there).then(value).otherwise(pl.lit(empty).first()).alias(feature.name)).to_series()


def _declared(value: pl.Series, feature: FeatureSpec) -> pl.Series:
    """Return values in the dtype declared, null where it does not hold them (S22)."""
    wanted = feature.dtype
    if value.dtype == wanted:
        return value
    if isinstance(wanted, pl.Decimal) and value.dtype.is_integer():  # of the last digit
        few = (
            value.cast(pl.Int128)
            .to_frame()
            .select(pl.when(pl.col(value.name).abs() < 10 ** (wanted.precision or 38)).then(value.name))
        )
        return few.to_series().reinterpret(dtype=wanted)
    expression, _ = fitted(pl.col(value.name), value.dtype, wanted)
    return value.to_frame().select(expression.alias(value.name)).to_series()


def empty_value(feature: FeatureSpec) -> Any:
    """Return a feature's value over no events (S8); null for one that is not windowed."""
    empty = None if feature.window is None else feature.window.aggregate.empty
    if isinstance(empty, tuple):
        return list(empty)
    if empty is not None and isinstance(feature.dtype, pl.Decimal):
        return Decimal(empty).scaleb(-feature.dtype.scale)
    return float(empty) if empty is not None and feature.dtype.is_float() else empty


def identified_rows(history: pl.DataFrame, windows: Sequence[WindowSpec]) -> pl.DataFrame:
    """Return a history's rows with the texts that stand for values equal for equal values, regardless of the writer (S9)."""
    kept = {window.input for window in windows if isinstance(window.aggregate, CountDistinct)}
    return same_values(history, [name for name in (*sorted(kept), EVENT_ID) if name in history.columns])


def history_events(history: pl.DataFrame, keys: Sequence[str], *, identified: bool, as_known: bool) -> pl.DataFrame:
    """Return a history's rows as events: times in microseconds, and from when until when each is to be seen.

    Args:
        history: rows in their total order.
        keys: the join keys.
        identified: whether rows of one key and event id are one event (S9).
        as_known: False for corrected history: of each event its last version alone.
    """
    events = history.with_columns(
        pl.col(EVENT).to_physical(),
        pl.col(AVAILABLE).to_physical(),
        pl.col(AVAILABLE).to_physical().alias(AVAILABLE_FIRST),
        pl.lit(NEVER, pl.Int64).alias(SUPERSEDED_FIRST),
    )
    if not identified or events.is_empty():
        return events
    event = [*keys, EVENT_ID]
    if not events.select(pl.struct(event).is_duplicated().any()).item():
        return events
    # The versions of an event, from the first known to the last; among those known at once the history's order decides.
    versions = events.with_row_index(_ROW).sort([*event, AVAILABLE, _ROW])
    superseded = pl.when(same_as_before(event).shift(-1, fill_value=False)).then(pl.col(AVAILABLE).shift(-1)).otherwise(NEVER)
    events = versions.with_columns(superseded.alias(SUPERSEDED_FIRST)).sort(_ROW).drop(_ROW)
    shown = pl.col(SUPERSEDED_FIRST) > pl.col(AVAILABLE_FIRST) if as_known else pl.col(SUPERSEDED_FIRST) == NEVER
    return events.filter(shown)


class EventIndex:
    """Where instants of some entities lie in a sequence of events sorted by entity and event time.

    Args:
        spine: the join keys of each row.
        events: the events.
        keys: the join keys.
    """

    def __init__(self, spine: pl.DataFrame, events: pl.DataFrame, keys: Sequence[str]) -> None:
        self._keys = list(keys)
        self._events = events.height
        self._spine = spine.select(self._keys).with_row_index(_ROW)
        first = ~same_as_before(self._keys)
        numbered = events.select(*self._keys, EVENT, pl.int_range(pl.len(), dtype=pl.Int64).alias(_INDEX))
        self._starts = numbered.filter(first).select(*self._keys, pl.col(_INDEX).alias(_START))
        # NOTE: with several rows of one key and instant an as-of join takes any of them; only the last may be left.
        again = same_as_before([*self._keys, EVENT]).shift(-1, fill_value=False)
        self._steps = numbered.filter(~again)
        self._first = self._spine.join(self._starts, on=self._keys, how="left", maintain_order="left")[_START]

    @property
    def longest(self) -> int:
        """How many events an entity has, at the most."""
        starts = self._starts[_START]
        ends = pl.concat([starts.slice(1), pl.Series([self._events], dtype=pl.Int64)])
        most: int = (ends - starts).max()  # type: ignore[assignment]  # of integers
        return most

    def after(self, at: pl.Series) -> pl.Series:
        """Return the place behind the last event that is at an instant or before it."""
        seen = (
            self._spine.with_columns(at.alias(TIME))
            .sort(TIME)
            .join_asof(self._steps, left_on=TIME, right_on=EVENT, by=self._keys, strategy="backward", check_sortedness=False)
            .select(_ROW, _INDEX)
            .sort(_ROW)[_INDEX]
        )
        return pl.select(pl.coalesce(seen + 1, self._first, 0)).to_series()

    def before(self, at: pl.Series) -> pl.Series:
        """Return the place of the first event that is at an instant or after it."""
        return self.after(at - 1)
