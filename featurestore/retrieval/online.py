"""Online reads: the latest values of selected features, in one round trip for all rows and views."""

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from time import perf_counter
from typing import Any, NamedTuple

import polars as pl

from featurestore.clock import Clock, parse_instant, to_micros
from featurestore.errors import NameClashError, OnlineStoreError, RequestError, did_you_mean
from featurestore.online.base import OnlineStore
from featurestore.online.plan import OnlineJoin, OnlinePlan, compile_online
from featurestore.retrieval.online_result import Lookup, OnlineRows
from featurestore.retrieval.spine import is_column, reading_spine, shown_lengths, to_frame, whole_numbers
from featurestore.selection.request_fields import row_fields
from featurestore.selection.select import Selection

Row = Mapping[str, Any]
_Kept = tuple[dict[Any, OnlinePlan], dict[Any, OnlinePlan]]
_PLANS_KEPT = 2048
"""How many plans are kept that were asked for last, and how many from before."""


@dataclass
class RoundTrips:
    """The online store's asynchronous reads so far: their number, their total seconds, and how many failed."""

    count: int = 0
    seconds: float = 0.0
    failed: int = 0


class OnlineReader:
    """Read features online. A request's plan is compiled once and kept for as long as the catalog stays the same.

    Args:
        space: returns what the store's keys begin with (``codec.key_prefix``).
        store: where they lie.
        clock: tells the present.
    """

    def __init__(self, space: Callable[[], str], store: OnlineStore, clock: Clock) -> None:
        self._space = space
        self._store = store
        self._clock = clock
        self._plans: _Kept = ({}, {})
        self._turn = threading.Lock()
        self.trips = RoundTrips()

    def forget_plans(self) -> None:
        """Drop the compiled plans, once another catalog is applied."""
        with self._turn:
            self._plans = ({}, {})

    def plan(self, features: Any, select: Callable[[Any], Selection]) -> OnlinePlan:
        """Return the compiled plan of a request's features, from those kept where it is there."""
        # NOTE: taken before the catalog is read. A plan of the catalog before goes into dictionaries that were dropped with it.
        kept = self._plans
        plans, before = kept
        name = tuple(features) if type(features) is list else features
        try:
            return plans[name]
        except KeyError:
            plan = before.get(name)
        except TypeError:  # a list in a list cannot be looked up; it is compiled each time
            return self.compile(select(features))
        if plan is None:
            plan = self.compile(select(features))
        if len(plans) >= _PLANS_KEPT:
            # Those not asked for since go with the next turn, so whatever is asked for often is never compiled twice.
            with self._turn:
                if self._plans is kept:
                    self._plans = ({}, plans)
                plans = self._plans[0] if self._plans[1] is plans else {}
        plans[name] = plan
        return plan

    def compile(self, selection: Selection) -> OnlinePlan:
        """Return the plan of a selection."""
        return compile_online(self._space(), selection)

    def read(self, plan: OnlinePlan, rows: Any, at: datetime | str | None) -> OnlineRows:
        """Return the features of some rows."""
        question = self._question(plan, rows, at)
        return question.answer(self._store.read(question.keys))

    async def read_async(self, plan: OnlinePlan, rows: Any, at: datetime | str | None) -> OnlineRows:
        """Return the same, without blocking the event loop while the store answers."""
        question = self._question(plan, rows, at)
        began = perf_counter()
        try:
            values = await self._store.read_async(question.keys)
        except OnlineStoreError:
            self.trips.failed += 1
            raise
        finally:
            self.trips.count += 1
            self.trips.seconds += perf_counter() - began
        return question.answer(values)

    def _question(self, plan: OnlinePlan, rows: Any, at: datetime | str | None) -> "_Question":
        given = rows if type(rows) is list else as_rows(rows, plan.whole_keys)
        brought = row_fields(plan.computation.fields, given) if plan.computation.fields else {}
        keys, places = store_keys(plan, given)
        now = to_micros(self._clock() if at is None else parse_instant(at))
        return _Question(Lookup(plan, given, brought, now, at is not None), keys, places)


class _Question(NamedTuple):
    """A look-up with the keys that it asks the store for."""

    lookup: Lookup
    keys: list[bytes]
    places: list[int | None] | None

    def answer(self, values: list[bytes | None]) -> OnlineRows:
        return OnlineRows(self.lookup, _spread(self.keys, self.places), _spread(values, self.places))


def as_rows(given: Any, whole: Collection[str] = ()) -> list[dict[str, Any]]:
    """Return rows as dictionaries, from a list of them, a mapping of columns, or a frame.

    Args:
        given: the rows. A column may be a list, a tuple, an array or a series of any library.
        whole: the columns that are integers. pandas makes floats of those in which a value is missing.

    Raises:
        RequestError: they are none of these, or columns differ in length.
    """
    if isinstance(given, pl.LazyFrame):
        with reading_spine("The lazy frame"):
            given = given.collect()
    if isinstance(given, Mapping) and any(not isinstance(column, (list, tuple)) for column in given.values()):
        if not all(map(is_column, given.values())):
            raise RequestError(f"One row is given as a list of one: store.online(features, [{dict(given)!r}]).")
        given = to_frame(given, "request")
    if isinstance(given, Mapping):
        lengths = {name: len(column) for name, column in given.items()}
        if len(set(lengths.values())) > 1:
            raise RequestError(f"The rows' columns must be equally long: {shown_lengths(lengths)}.")
        return [dict(zip(given, values, strict=True)) for values in zip(*given.values(), strict=True)]
    if isinstance(given, pl.DataFrame) or hasattr(given, "__arrow_c_stream__") or hasattr(given, "__dataframe__"):
        frame = given if isinstance(given, pl.DataFrame) else to_frame(given, "request")
        return frame.with_columns(whole_numbers(frame, whole)).to_dicts()
    if isinstance(given, Iterable) and not isinstance(given, (str, bytes)):
        rows = list(given)
        if all(isinstance(row, Mapping) for row in rows):
            return rows
    raise RequestError(
        f'{given!r} cannot be read as rows. Give a list of dictionaries, [{{"origin": "JFK"}}], a mapping of columns, or a frame.'
    )


def store_keys(plan: OnlinePlan, rows: Sequence[Row]) -> tuple[list[bytes], list[int | None] | None]:
    """Return the store keys of a request, join by join, each in the order of the rows.

    Also returns, where a row's key is null, each value's place among the keys (None: no key, so no value).

    Raises:
        RequestError: a row lacks a key, has one of the wrong type, or has a column named like a feature.
    """
    keys: list[bytes] = []
    absent: list[int] = []
    encoded: dict[tuple[str, ...], list[bytes | None]] = {}
    for join in plan.joins:
        entities = encoded.get(join.on)
        if entities is None:
            entities = encoded[join.on] = _entities(join, rows)
        prefix = join.prefix
        if None in entities:
            absent += [len(keys) + place for place, entity in enumerate(entities) if entity is None]
        keys += [prefix + entity if entity is not None else b"" for entity in entities]
    _check_names(plan, rows)
    if not absent:
        return keys, None
    gone = set(absent)
    there = [place for place in range(len(keys)) if place not in gone]
    number = {place: index for index, place in enumerate(there)}
    return [keys[place] for place in there], [number.get(place) for place in range(len(keys))]


def _entities(join: OnlineJoin, rows: Sequence[Row]) -> list[bytes | None]:
    if len(join.on) == 1:
        column, wanted, encode = join.on[0], join.key_types[0], join.encoders[0]
        try:
            values = [row[column] for row in rows]
        except (KeyError, TypeError):
            raise _lacking(join, rows) from None
        if set(map(type, values)) <= {wanted}:
            try:
                return [encode(value) + b"}" for value in values]
            except (OverflowError, UnicodeEncodeError):
                pass  # one of them; told below, with its row
        return [_entity(join, (value,), number) for number, value in enumerate(values)]
    try:
        composite = [tuple(row[column] for column in join.on) for row in rows]
    except (KeyError, TypeError):
        raise _lacking(join, rows) from None
    return [_entity(join, values, number) for number, values in enumerate(composite)]


def _entity(join: OnlineJoin, values: Sequence[Any], number: int) -> bytes | None:
    parts = []
    for value, column, wanted, encode in zip(values, join.on, join.key_types, join.encoders, strict=True):
        if value is None:
            return None
        if type(value) is not wanted:
            value = _converted(value, wanted, column, number)
        try:
            parts.append(encode(value))
        except OverflowError as error:
            raise RequestError(
                f"Row {number}: the key {column!r} is {value!r}, which is beyond 64 bits.", row=number, column=column
            ) from error
        except UnicodeEncodeError as error:
            raise RequestError(
                f"Row {number}: the key {column!r} is {value!r}, which is not valid Unicode text ({error.reason}). Decode it "
                "again.",
                row=number, column=column,
            ) from error  # fmt: skip
    return b"".join(parts) + b"}"


def _converted(value: Any, wanted: type, column: str, number: int) -> Any:
    """Return a key in the type wanted, where that changes nothing of it (a NumPy integer, a subclass)."""
    if wanted is int and hasattr(value, "__index__") and not isinstance(value, bool):
        try:
            return value.__index__()
        except TypeError:
            pass  # an array, which is an integer only if it holds one
    if wanted is str and isinstance(value, str):
        return str.__str__(value)
    if wanted is bytes and isinstance(value, bytes):
        return bytes(value)
    if wanted is not int and isinstance(value, wanted) and not (wanted is date and isinstance(value, datetime)):
        return value
    if wanted is bool and type(value).__name__ in ("bool_", "bool"):
        return bool(value)
    raise RequestError(
        f"Row {number}: the key {column!r} is {value!r}, of type {type(value).__name__}; it must be {wanted.__name__} (or None).",
        row=number, column=column,
    )  # fmt: skip


def _lacking(join: OnlineJoin, rows: Sequence[Row]) -> RequestError:
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            return RequestError(f"Row {number} is {row!r}, not a dictionary of columns.", row=number)
        for column in join.on:
            if column not in row:
                return RequestError(
                    f"Row {number} has no key {column!r}, by which {join.label!r} is joined. {did_you_mean(column, map(str, row))}",
                    row=number, column=column,
                )  # fmt: skip
    return RequestError(f"The rows have no key {join.on}.")


def _check_names(plan: OnlinePlan, rows: Sequence[Row]) -> None:
    free = plan.taken.isdisjoint
    for row in rows:
        if not free(row):
            name = next(name for name in plan.names if name in row)
            labels = [(join.label, join.names) for join in plan.joins]
            labels += [(step.view, tuple(output.name for output in step.outputs)) for step in plan.computation.steps]
            label = next(label for label, names in labels if name in names)
            raise NameClashError(name, f"the rows' column {name!r}", f"feature {name!r} of {label!r}")


def _spread(values: Sequence[bytes | None], places: list[int | None] | None) -> Sequence[bytes | None]:
    return values if places is None else [None if place is None else values[place] for place in places]
