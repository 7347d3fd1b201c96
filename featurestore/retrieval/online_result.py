"""The result of an online read."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from itertools import chain
from operator import itemgetter
from typing import Any, Literal, NamedTuple

import polars as pl

from featurestore.clock import from_micros
from featurestore.errors import RequestError
from featurestore.instants import INSTANT
from featurestore.on_demand.values import compute, python_values
from featurestore.online.plan import OnlineJoin, OnlinePlan
from featurestore.retrieval.spine import to_frame
from featurestore.row_codec import full_row, oldest_header, shortest_of, to_series, unpack_times, unpack_values
from featurestore.windows.tile_reader import WindowValues

Status = Literal["present", "null", "expired", "missing"]

CLOCK_SKEW = 1_000_000
"""By how much a row may lie after a live read, in microseconds.

A writer's clock may run a little ahead of the reader's, and what was written is known. A read as of an instant allows none.
"""
_AVAILABLE: Callable[[bytes], bytes] = itemgetter(slice(8, 16))
"""A header's available time, which is never before its event time (S2)."""


class StatusCounts(NamedTuple):
    """How many values of a view have which status in an answer, and how many seconds ago the newest served event was."""

    view: str
    present: int
    null: int
    expired: int
    missing: int
    age: float | None


class Lookup(NamedTuple):
    """What a look-up asks.

    Args:
        plan: the compiled plan of what is asked for.
        given: the rows asked about.
        brought: the columns that the rows bring for what is computed.
        now: the instant of the read, in microseconds.
        as_of: whether the instant was asked for; a clock's allows for ``CLOCK_SKEW``.
    """

    plan: OnlinePlan
    given: Sequence[Mapping[str, Any]]
    brought: Mapping[str, pl.Series]
    now: int
    as_of: bool


class OnlineRows:
    """The rows that were asked about, with their features: nothing is decoded before it is looked at.

    A feature is null where there is no row to serve; ``status`` says why (S14). Iterating gives dictionaries, as
    ``to_dicts()`` does.

    Args:
        lookup: what was asked.
        keys: the store's keys, join by join, each in the order of the rows; None for a null key.
        values: the values under them.
    """

    __slots__ = ("__dict__", "_as_of", "_brought", "_decoded", "_given", "_keys", "_now", "_plan", "_values")

    def __init__(self, lookup: Lookup, keys: Sequence[bytes | None], values: Sequence[bytes | None]) -> None:
        self._plan, self._given, self._brought, self._now, self._as_of = lookup
        self._keys = keys
        self._values = values
        self._decoded: list[tuple[list[bytes], list[Any]]] | None = None

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return the rows given, each with its features after its own values, as Python values.

        Timestamps are aware and in UTC; a list or vector is a list. A Float32 is the number that its shortest text says, 1.11.
        """
        parts = [self._python(join, rows) for join, (_, rows) in zip(self._plan.joins, self._served, strict=True)]
        if self._plan.computation.steps:
            parts.append(list(zip(*map(python_values, self._computed.values()), strict=True)))
        names, order = self._plan.names, self._plan.order
        rows = zip(self._given, *parts, strict=True)
        # One zip into one dict: a third of the time of filling it in steps.
        if order is None:
            return [dict(zip(chain(given, names), chain(given.values(), *values), strict=True)) for given, *values in rows]
        return [
            dict(zip(chain(given, names), chain(given.values(), order(tuple(chain(*values)))), strict=True))
            for given, *values in rows
        ]

    def columns(self) -> dict[str, Sequence[Any]]:
        """Return each feature's values in the order of the rows, without the rows' own columns, as ``to_dicts()`` has them."""
        columns: dict[str, Sequence[Any]] = {name: python_values(column) for name, column in self._computed.items()}
        for join, (_, rows) in zip(self._plan.joins, self._served, strict=True):
            columns.update(
                zip(join.names, zip(*self._python(join, rows), strict=True) if rows else [()] * len(join.names), strict=True)
            )
        return {name: columns[name] for name in self._plan.names}

    def to_polars(self) -> pl.DataFrame:
        """Return the rows given, with the features after their own columns, in the dtypes the views declare (S12).

        A column passed through whose values have no dtype in common is one of Python objects.

        Raises:
            RequestError: two columns of the rows have one name once the names are text.
        """
        return _given_frame(self._given).with_columns(self._series())

    def _series(self) -> list[pl.Series]:
        """Return the features as columns."""
        features = dict(self._computed)
        for join, (_, rows) in zip(self._plan.joins, self._served, strict=True):
            columns = zip(*(join.blank if row is None else row for row in rows), strict=True) if rows else ([] for _ in join.names)
            for name, dtype, column in zip(join.names, join.dtypes, columns, strict=True):
                features[name] = to_series(name, list(column), dtype)
        return [features[name] for name in self._plan.names]

    @property
    def status(self) -> dict[str, list[Status]]:
        """For each feature and row, why it has its value (S14).

        ``present``; ``null``: the row holds a null; ``expired``: there is a row but for the ttl; ``missing``: no row of
        that entity, or one that lies after the read. What is computed is ``present`` or ``null``.
        """
        statuses: dict[str, list[Status]] = {}
        for join, (headers, rows) in zip(self._plan.joins, self._served, strict=True):
            there: list[Status] = [
                "present" if row is not None else "expired" if header else "missing"
                for header, row in zip(headers, rows, strict=True)
            ]
            statuses.update((name, there.copy()) for name in join.names)
            if _nulls(rows):  # hardly ever
                for place, name in enumerate(join.names):
                    feature_statuses = statuses[name]
                    for number, row in enumerate(rows):
                        if row is not None and row[place] is None:
                            feature_statuses[number] = "null"
        for name, column in self._computed.items():
            statuses[name] = ["null" if null else "present" for null in column.is_null()]
        return {name: statuses[name] for name in self._plan.names}

    @property
    def event_time(self) -> dict[str, list[datetime | None]]:
        """For each view and row: the event time of the row that is served or expired; None where one is missing."""
        served = [headers for headers, _ in self._served]
        # Rows of one entity have the same, and views that come from one source.
        instants = {header: from_micros(unpack_times(header)[0]) for header in {*chain.from_iterable(served)} if header}
        return {join.label: list(map(instants.get, headers)) for join, headers in zip(self._plan.joins, served, strict=True)}

    def status_counts(self, most: int = 128) -> "Iterator[StatusCounts]":
        """Yield for each join how many of its values have which status, at little cost.

        Args:
            most: of more rows than these, every second, third … is looked at, and counts for those between.
        """
        step = -(-len(self._given) // most) or 1
        for join, (headers, rows) in zip(self._plan.joins, self._served, strict=True):
            headers, rows = headers[::step], rows[::step]
            served = [header for header, row in zip(headers, rows, strict=True) if row is not None]
            known, null, width = len([header for header in headers if header]), _nulls(rows), len(join.names)
            present, expired, missing = len(served) * width - null, (known - len(served)) * width, (len(rows) - known) * width
            newest = max(served, default=b"")
            age = (self._now - unpack_times(newest)[0]) / 1e6 if newest else None
            yield StatusCounts(join.view, present * step, null * step, expired * step, missing * step, age)

    @property
    def _served(self) -> list[tuple[list[bytes], list[Any]]]:
        """For each join: the winners' headers (empty: missing), and the values asked for (None: not to be served)."""
        # NOTE: a cached_property of Python 3.11 takes a lock at each first use.
        decoded = self._decoded
        if decoded is None:
            decoded = self._decoded = self._decode()
        return decoded

    def _decode(self) -> list[tuple[list[bytes], list[Any]]]:
        decoded = unpack_values(self._keys, self._values)
        rows = len(self._given)
        until = self._now if self._as_of else self._now + CLOCK_SKEW
        latest = oldest_header(until)
        # One look at all of them: hardly ever does a row lie after the read.
        some_later = max(map(_AVAILABLE, decoded[::2]), default=b"") > latest
        served = []
        for number, join in enumerate(self._plan.joins):
            part = decoded[2 * number * rows : 2 * (number + 1) * rows]
            headers, values = part[::2], part[1::2]
            if join.windows is not None:
                served.append(_windows(join.windows, headers, values, self._now, until))
                continue
            if some_later:
                known = [_AVAILABLE(header) <= latest for header in headers]
                headers = [header if there else b"" for header, there in zip(headers, known, strict=True)]
                values = [row if there else None for row, there in zip(values, known, strict=True)]
            if join.ttl is not None:
                bound = oldest_header(self._now - join.ttl)
                values = [None if header < bound else row for header, row in zip(headers, values, strict=True)]
            # Where a row has no value for a feature, or one for a feature of a later version of the view.
            if join.picks is not None:
                values = _picked(join.picks, join.width, values)
            elif [1 for row in values if row is not None and len(row) != join.width]:
                values = [None if row is None else full_row(row, join.width) for row in values]
            served.append((headers, values))
        return served

    @property
    def _computed(self) -> dict[str, pl.Series]:
        """The columns that are computed, in the order of the plan's computation."""
        return self._on_demand if self._plan.computation.steps else {}

    @cached_property
    def _on_demand(self) -> dict[str, pl.Series]:
        return compute(self._plan, self._served, self._brought)

    def _python(self, join: OnlineJoin, rows: list[Any]) -> list[Any]:
        if not join.conversions and not join.singles:
            return [join.blank if row is None else row for row in rows] if None in rows else rows
        converted = []
        for row in rows:
            cells = list(join.blank if row is None else row)
            for place, convert in join.conversions:
                if cells[place] is not None:
                    cells[place] = convert(cells[place])
            converted.append(cells)
        for place in join.singles:
            for cells, value in zip(converted, shortest_of([cells[place] for cells in converted]), strict=True):
                cells[place] = value
        return converted

    def __len__(self) -> int:
        return len(self._given)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.to_dicts())

    def __repr__(self) -> str:
        count = len(self)
        return f"OnlineRows: {count} {'row' if count == 1 else 'rows'} at {from_micros(self._now).isoformat()}\n{self.to_polars()}"

    def _repr_html_(self) -> str:
        return self.to_polars()._repr_html_()


def plan_of(rows: OnlineRows) -> OnlinePlan:
    """Return the plan that rows were read by."""
    return rows._plan


def join_keys_of(answers: Sequence[OnlineRows]) -> pl.DataFrame:
    """Return the join keys of answers of one plan, one below the other; without a column where there are none."""
    joins = answers[0]._plan.joins
    keys = {column: dtype for join in joins for column, dtype in zip(join.on, join.key_dtypes, strict=True)}
    given = [row for answer in answers for row in answer._given]
    return pl.DataFrame([pl.Series(name, [row[name] for row in given], dtype, strict=False) for name, dtype in keys.items()])


def log_frame(rows: OnlineRows) -> pl.DataFrame:
    """Return the whole answer as the feature log has it: the instant, keys, fields, features, statuses, event times."""
    keys, features = join_keys_of([rows]).get_columns(), rows._series()
    known = {column.name for column in keys}
    fields = [rows._brought[field.name].alias(field.field.name) for field in rows._plan.computation.fields]
    status = [pl.Series(f"{name}__status", values, dtype=pl.String) for name, values in rows.status.items()]
    times = [
        pl.Series(f"{re.sub(r'[^0-9A-Za-z_]+', '_', label).strip('_')}__event_time", values, dtype=INSTANT)
        for label, values in rows.event_time.items()
    ]
    instant = pl.Series("read_at", [from_micros(rows._now)] * len(rows), dtype=INSTANT)
    return pl.DataFrame([instant, *keys, *(field for field in fields if field.name not in known), *features, *status, *times])


def _nulls(rows: Sequence[Sequence[Any] | None]) -> int:
    """Return how many values are null in the rows that are there."""
    # NOTE: ``row.count(None)`` asks each value whether it equals None, which takes thrice as long.
    return len([None for row in rows if row is not None for value in row if value is None])


def _picked(picks: Sequence[int], width: int, rows: list[Any]) -> list[Any]:
    """Return the values asked for of each row, which may have fewer than its view has features."""
    try:
        return [None if row is None else [row[place] for place in picks] for row in rows]
    except IndexError:  # one is shorter: looked for only now, for hardly any is
        whole = [None if row is None else full_row(row, width) for row in rows]
        return [None if row is None else [row[place] for place in picks] for row in whole]


def _windows(windows: WindowValues, headers: list[bytes], values: list[Any], now: int, until: int) -> tuple[list[bytes], list[Any]]:
    """Return what windows hold at an instant, and the headers; an entity of whom more is in them than is known is as not there."""
    latest, read = oldest_header(until), windows.read
    headers = [
        header if header[:8] <= latest and (value is None or len(value) < 3 or value[2] <= until) else b""
        for header, value in zip(headers, values, strict=True)
    ]
    return headers, [read(value[1], now) if header else None for header, value in zip(headers, values, strict=True)]


def _given_frame(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    try:
        return to_frame(list(rows), "request")
    except RequestError:
        columns: dict[str, pl.Series] = {}
        for column in dict.fromkeys(chain.from_iterable(rows)):
            name = str(column)
            if name in columns:
                raise RequestError(f"Two columns of the rows are named {name!r}, as text and otherwise. Rename one.") from None
            columns[name] = _given_column(name, [row.get(column) for row in rows])
        return pl.DataFrame(columns)


def _given_column(name: str, values: list[Any]) -> pl.Series:
    try:
        return to_frame([{name: value} for value in values], "request").to_series()
    except RequestError:
        return pl.Series(name, values, dtype=pl.Object)
