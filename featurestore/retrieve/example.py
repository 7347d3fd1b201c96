"""Examples: a look-up that answers with features of the project, for people to begin with."""

from collections.abc import Callable, Mapping
from datetime import datetime, time, timedelta
from decimal import Decimal
from typing import Any

import polars as pl

from featurestore.clock import Clock
from featurestore.dtypes import inner_dtype
from featurestore.errors import FeatureStoreError
from featurestore.offline.base import OfflineStore, Table
from featurestore.plan.selection import Selection
from featurestore.retrieve.online import OnlineReader
from featurestore.spec.catalog import AppliedView

_TIMES = ("event_time", "available_time")


class Examples:
    """Makes examples of what is in the stores.

    Args:
        project: the project.
        offline: has the entities.
        reader: tries an example.
        clock: tells the present.
    """

    def __init__(self, project: str, offline: OfflineStore, reader: OnlineReader, clock: Clock) -> None:
        self._project = project
        self._offline = offline
        self._reader = reader
        self._clock = clock

    def look_up(self, name: str, select: Callable[[Any], Selection]) -> dict[str, Any]:
        """Returns the arguments of a look-up of a service or view: ``features``, ``rows``, and ``at`` where that shows more.

        The keys are those of each view's newest row. Where its features have expired by now, or windows are empty, the
        look-up is as of an instant at which they were there. Where a store cannot be reached the keys are made up.

        Args:
            name: the service or view.
            select: resolves it.
        """
        selection = select(name)
        row: dict[str, Any] = {}
        instants: set[datetime] = set()
        for join in selection.joins:
            keys, known = self._newest(join.applied)
            instants |= {known} if known is not None else set()
            for column, (key, dtype) in zip(join.on, join.keys.items(), strict=True):
                row.setdefault(column, keys.get(key, made_up(dtype, self._clock())))
        for each in selection.computation.fields:
            if each.field.required:
                row.setdefault(each.field.name, made_up(each.field.dtype, self._clock(), each.field.constraints))
        told: dict[str, Any] = {"features": name, "rows": [row]}
        at = self._best(name, select, row, [None, *sorted(instants, reverse=True)])
        return told if at is None else told | {"at": at}

    def _newest(self, applied: AppliedView) -> tuple[Mapping[str, Any], datetime | None]:
        """Returns the keys of a view's newest row, and since when that was known; nothing of an empty view."""
        table = Table.of(self._project, applied)
        try:
            spans = self._offline.snapshot(table).spans
            if spans is None:
                return {}, None
            buckets = self._offline.snapshot(table, since=spans[1]).buckets.values()
            parts = [part for history in buckets for part in history.read([*table.keys, *_TIMES, *table.features])]
        except FeatureStoreError:
            return {}, None
        # Of several that are as new the one with the most features, and of these always the same.
        there = pl.sum_horizontal(pl.col(name).is_not_null() for name in table.features).alias("_there")
        order = [*_TIMES, "_there", *table.keys]
        best = [part.with_columns(there).top_k(1, by=order).select(order) for part in parts]
        row = pl.concat(best).top_k(1, by=order).row(0, named=True)
        return row, max(row[name] for name in _TIMES)

    def _best(
        self, name: str, select: Callable[[Any], Selection], row: Mapping[str, Any], instants: list[datetime | None]
    ) -> datetime | None:
        """Returns the instant at which most features of a row are there; the first of several."""
        plan = self._reader.plan(name, select)

        def there(at: datetime | None) -> int:
            return sum(status == ["present"] for status in self._reader.read(plan, [dict(row)], at).status.values())

        try:
            return max(instants, key=there)
        except FeatureStoreError:  # the store cannot be reached, or a made-up value is against a constraint
            return None


def made_up(dtype: pl.DataType, now: datetime, constraints: Mapping[str, Any] | None = None) -> Any:
    """Returns some value of a dtype that keeps to constraints; only a pattern it does not know how to.

    Example:
        >>> from datetime import UTC
        >>> noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
        >>> made_up(pl.Int64(), noon), made_up(pl.Int64(), noon, {"gt": 5}), made_up(pl.Date(), noon).isoformat()
        (1, 6, '2026-01-01')
        >>> made_up(pl.Float64(), noon, {"lt": 0.5}), made_up(pl.String(), noon, {"min_length": 3})
        (-0.5, 'aaa')
    """
    said = constraints or {}
    if said.get("one_of"):
        return said["one_of"][0]
    length = max(1, said.get("min_length", 1))
    if isinstance(dtype, (pl.List, pl.Array)):
        return [made_up(inner_dtype(dtype), now)] * (dtype.size if isinstance(dtype, pl.Array) else length)
    if dtype.is_numeric():
        number = _within(said)
        return Decimal(str(number)) if dtype.is_decimal() else float(number) if dtype.is_float() else int(number)
    made: dict[Any, Any] = {
        pl.Boolean: True, pl.String: "a" * length, pl.Binary: b"a" * length, pl.Datetime: now.replace(microsecond=0),
        pl.Date: now.date(), pl.Time: time(12), pl.Duration: timedelta(hours=1),
    }  # fmt: skip
    return made[dtype.base_type()]


def _within(said: Mapping[str, Any]) -> Any:
    """Returns a number within bounds, 1 if that is."""
    least = max([said[name] + more for name, more in (("ge", 0), ("gt", 1)) if name in said], default=None)
    most = min([said[name] - less for name, less in (("le", 0), ("lt", 1)) if name in said], default=None)
    if least is not None and most is not None and least > most:  # they are close together
        return (max(least - 1, said.get("ge", least - 1)) + min(most + 1, said.get("le", most + 1))) / 2
    number = 1 if least is None else max(1, least)
    return number if most is None else min(number, most)
