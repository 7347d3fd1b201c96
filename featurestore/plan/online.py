"""The plan of online reads and writes: keys, bounds and columns, compiled once for a selection and used for every request."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import polars as pl

from featurestore.codec import encode_keys, key_encoder, key_prefix, key_type, pack_values, to_python
from featurestore.online.base import Entry
from featurestore.plan.history import AVAILABLE, EVENT, last_rows
from featurestore.plan.selection import Join, Selection
from featurestore.spec.catalog import AppliedView

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
    blank: tuple[None, ...]


@dataclass(frozen=True, slots=True)
class OnlinePlan:
    """A selection compiled for online reads.

    Args:
        joins: how each join is read.
        names: the columns of the result, in the order asked for.
        order: brings the joins' values into that order; None where they are in it already.
        taken: the same names as a set.
    """

    joins: tuple[OnlineJoin, ...]
    names: tuple[str, ...]
    order: Callable[[tuple[Any, ...]], tuple[Any, ...]] | None
    taken: frozenset[str]


def compile_online(project: str, selection: Selection) -> OnlinePlan:
    """Returns the plan of a selection's online reads."""
    joins = tuple(_join(project, join) for join in selection.joins)
    grouped = [name for join in joins for name in join.names]
    order = None if tuple(grouped) == selection.names else itemgetter(*(grouped.index(name) for name in selection.names))
    return OnlinePlan(joins, selection.names, order, frozenset(selection.names))


def _join(project: str, join: Join) -> OnlineJoin:
    view = join.applied.spec
    places = tuple(view.feature_names.index(column.feature.name) for column in join.columns)
    dtypes = tuple(column.feature.dtype for column in join.columns)
    made = [(place, to_python(dtype)) for place, dtype in enumerate(dtypes)]
    return OnlineJoin(
        label=join.label,
        prefix=key_prefix(project, view.name, join.applied.data_version) + b"{",
        on=join.on,
        key_types=tuple(key_type(dtype) for dtype in join.keys.values()),
        encoders=tuple(key_encoder(dtype) for dtype in join.keys.values()),
        ttl=view.ttl,
        picks=None if places == tuple(range(len(view.features))) else places,
        names=tuple(column.name for column in join.columns),
        dtypes=dtypes,
        conversions=tuple((place, convert) for place, convert in made if convert is not None),
        blank=(None,) * len(places),
    )


def online_entries(project: str, applied: AppliedView, history: pl.DataFrame, now: int) -> list[Entry]:
    """Returns what to write online for a history: each entity's greatest row (S4, S15).

    Args:
        project: whose rows they are.
        applied: the view.
        history: rows in their total order.
        now: the present in microseconds, from which a row's remaining life is counted.
    """
    view = applied.spec
    winners = last_rows(history, view.entity.key_names)
    prefix = key_prefix(project, view.name, applied.data_version) + b"{"
    keys = [prefix + key + b"}" for key in encode_keys(winners.select(view.entity.key_names))]
    values = pack_values(winners.select(EVENT, AVAILABLE, *view.feature_names), view.feature_names)
    return [Entry(key, value, life) for key, value, life in zip(keys, values, _lives(winners, view.ttl, now), strict=True)]


def _lives(winners: pl.DataFrame, ttl: int | None, now: int) -> Sequence[int | None]:
    """Returns for how many milliseconds the store must keep each row: until its ttl is over, and a day more."""
    if ttl is None:
        return [None] * winners.height
    left = (winners[EVENT].to_physical() + (ttl - now)) // 1000 + 1
    return (left.clip(lower_bound=0) + KEEP_MS).to_list()
