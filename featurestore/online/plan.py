"""The plan of online reads and writes: keys, limits and columns, compiled once for each selection."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import polars as pl

from featurestore.definitions.catalog import AppliedView
from featurestore.definitions.window_features import ORDER
from featurestore.on_demand.evaluate import OnDemandPlan
from featurestore.online.base import Entry
from featurestore.row_codec import encode_keys, key_encoder, key_prefix, key_type, pack_values, seal, to_python
from featurestore.rows.total_order import EVENT, last_rows
from featurestore.selection.select import Join, Selection
from featurestore.windows.tile_reader import WindowValues

KEEP_MS = 86_400_000
"""How long a store keeps a row after its ttl, so that a read can tell `expired` from `missing`: a day."""


@dataclass(frozen=True, slots=True)
class OnlineJoin:
    """How one join of a request is read.

    Args:
        label: its name in the result's event times.
        prefix: what its store keys begin with.
        on: the request's column for each join key.
        key_types: the Python type that each of them must have.
        encoders: what encodes each of them.
        ttl: how old an event may be, in microseconds; None for any age.
        picks: the place of each feature asked for in the packed row; None where it is the whole row in its order.
        names: the features' names in the result.
        dtypes: their dtypes.
        conversions: what turns a wire value into Python's, by the place among the features asked for.
        blank: the features' values where there is no row.
        windows: how the values of a windowed view are read; None for a view of latest values.
        view: the view's name.
        key_dtypes: the dtypes of the join keys.
        singles: the places of Float32 among the features asked for, which are shown by their shortest text.
        width: how many features the view has; a row may have fewer values, or more by a later version of the view.
    """

    label: str
    prefix: bytes
    on: tuple[str, ...]
    key_types: tuple[type, ...]
    encoders: tuple[Callable[[Any], bytes], ...]
    ttl: int | None
    picks: tuple[int, ...] | None
    names: tuple[str, ...]
    dtypes: tuple[pl.DataType, ...]
    conversions: tuple[tuple[int, Callable[[Any], Any]], ...]
    blank: tuple[Any, ...]
    windows: WindowValues | None = None
    view: str = ""
    key_dtypes: tuple[pl.DataType, ...] = ()
    width: int = 0
    singles: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class OnlinePlan:
    """A selection compiled for online reads.

    Args:
        joins: how each join is read.
        names: the columns of the result, in the order asked for.
        order: brings the joins' values, and what is computed after them, into that order; None where they are in it already.
        taken: the same names as a set.
        computation: what is computed of the joins' values and of what the rows bring.
        inputs: the joins' values that it needs: the join, the place in it, the column's name and dtype.
    """

    joins: tuple[OnlineJoin, ...]
    names: tuple[str, ...]
    order: Callable[[tuple[Any, ...]], tuple[Any, ...]] | None
    taken: frozenset[str]
    computation: OnDemandPlan
    inputs: tuple[tuple[int, int, str, pl.DataType], ...]

    @property
    def whole_keys(self) -> frozenset[str]:
        """The columns of join keys that are integers."""
        return frozenset(name for join in self.joins for name, kind in zip(join.on, join.key_types, strict=True) if kind is int)


def compile_online(space: str, selection: Selection) -> OnlinePlan:
    """Return the plan of a selection's online reads, of keys in a space (``codec.key_prefix``)."""
    joins = tuple(_join(space, join) for join in selection.joins)
    computation = selection.computation
    grouped = [*(name for join in joins for name in join.names), *(output.name for output in computation.outputs)]
    order = None if tuple(grouped) == selection.names else _picker([grouped.index(name) for name in selection.names])
    needed = {column for step in computation.steps for _, column, _ in step.inputs}
    inputs = tuple(
        (number, place, name, dtype)
        for number, join in enumerate(joins)
        for place, (name, dtype) in enumerate(zip(join.names, join.dtypes, strict=True))
        if name in needed
    )
    return OnlinePlan(joins, selection.names, order, frozenset(selection.names), computation, inputs)


def _picker(places: Sequence[int]) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    if len(places) == 1:  # an itemgetter of one place gives no tuple
        [only] = places
        return lambda values: (values[only],)
    return itemgetter(*places)


def _join(space: str, join: Join) -> OnlineJoin:
    view = join.applied.spec
    places = tuple(view.feature_names.index(column.feature.name) for column in join.columns)
    dtypes = tuple(column.feature.dtype for column in join.columns)
    singles = tuple(place for place, dtype in enumerate(dtypes) if isinstance(dtype, pl.Float32))
    converters = [(place, to_python(dtype)) for place, dtype in enumerate(dtypes) if place not in singles]
    windows = WindowValues.of(view, [column.feature for column in join.columns]) if view.windows else None
    return OnlineJoin(
        label=join.label,
        prefix=key_prefix(space, view.name, join.applied.data_version) + b"{",
        on=join.on,
        key_types=tuple(key_type(dtype) for dtype in join.keys.values()),
        encoders=tuple(key_encoder(dtype) for dtype in join.keys.values()),
        ttl=view.ttl,
        picks=None if windows is not None or places == tuple(range(len(view.features))) else places,
        names=tuple(column.name for column in join.columns),
        dtypes=dtypes,
        conversions=tuple((place, convert) for place, convert in converters if convert is not None),
        blank=(None,) * len(places) if windows is None else windows.blank,
        windows=windows,
        view=view.name,
        key_dtypes=tuple(join.keys.values()),
        width=len(view.features),
        singles=singles,
    )


def online_entries(space: str, applied: AppliedView, history: pl.DataFrame, now: int) -> list[Entry]:
    """Return what to write online for a history: each entity's greatest row (S4, S15).

    Args:
        space: what the keys begin with (``codec.key_prefix``).
        applied: the view.
        history: rows in their total order.
        now: the present in microseconds, from which a row's remaining life is counted.
    """
    view = applied.spec
    winners = last_rows(history, view.entity.key_names)
    keys = entity_keys(space, applied, winners)
    values = pack_values(winners, view.feature_names, order=ORDER if view.source.order_by is not None else None)
    ends = lives(winners[EVENT].to_physical(), view.ttl, now)
    return [Entry(key, seal(key, value), life) for key, value, life in zip(keys, values, ends, strict=True)]


def entity_keys(space: str, applied: AppliedView, entities: pl.DataFrame) -> list[bytes]:
    """Return the store's key of each entity, whose join keys are among some columns."""
    prefix = key_prefix(space, applied.spec.name, applied.data_version) + b"{"
    return [prefix + key + b"}" for key in encode_keys(entities.select(applied.spec.entity.key_names))]


def lives(events: pl.Series, reach: int | None, now: int) -> Sequence[int | None]:
    """Return for how many milliseconds the store must keep each value: until it has nothing to serve, and a day more.

    Args:
        events: the last event of each, in microseconds.
        reach: for how many microseconds after it there is something to serve; None for ever.
        now: the present, in microseconds.
    """
    if reach is None:
        return [None] * events.len()
    left = (events + (reach - now)) // 1000 + 1
    return (left.clip(lower_bound=0) + KEEP_MS).to_list()
