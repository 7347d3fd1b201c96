"""The join plan of a training frame: one point-in-time lookup for each join and bucket."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import polars as pl

from featurestore.clock import YEARS
from featurestore.definitions.feature import FeatureSpec
from featurestore.dtypes import fits
from featurestore.errors import RequestError, did_you_mean
from featurestore.instants import instants
from featurestore.rows.buckets import bucket
from featurestore.rows.point_in_time import TIME, PointInTime
from featurestore.rows.total_order import merge_files
from featurestore.rows.transform import fitted
from featurestore.rows.widths import COPIES, width_of
from featurestore.selection.request_fields import check_fields
from featurestore.selection.select import Join, Selection, check_clashes
from featurestore.windows.lookup import WindowLookUp, empty_value

ROW = "featurestore row"
ROW_DTYPE = pl.UInt64()
"""Spines may have more rows than 32 bits count."""
BUCKET = "featurestore bucket"


class Rows(Protocol):
    """A history's rows that can be read where the task runs."""

    @property
    def parts(self) -> int:
        """How many frames ``read`` returns; a single one is in the total order."""

    @property
    def rows(self) -> int:
        """How many rows there are, about."""

    def read(
        self, columns: Sequence[str] | None = None, *, since: int | None = None, until: int | None = None
    ) -> list[pl.DataFrame]:
        """Return the rows of each file whose event times lie between some microseconds, both included."""


class SpinePart(Protocol):
    """A bucket of the spine that can be read where the task runs."""

    def read(self) -> pl.DataFrame:
        """Return the columns ``_row``, ``_time`` and the join keys."""


LookUp = PointInTime | WindowLookUp
"""What a join looks up: each entity's latest row, or windows of its events."""

Columns = tuple[tuple[str, FeatureSpec], ...]
"""The name of each column of a join's result, and the feature it shows."""

Span = tuple[int, int]
"""A stretch of time in microseconds: its first instant, and the first one after it."""


@dataclass(frozen=True)
class Joined:
    """What a join found for some spine rows.

    Args:
        join: which of the selection's joins it is.
        rows: the column ``_row`` and the features.
    """

    join: int
    rows: pl.DataFrame


@dataclass(frozen=True)
class JoinTask:
    """The look-ups of one join in one bucket, in memory: what an engine runs. It can be pickled.

    Args:
        join: which of the selection's joins it is for.
        plan: what to look up.
        spine: the bucket's spine rows.
        history: the bucket's history; None where it has none.
        columns: the name of each column of the result, and the feature it shows.
        weight: about how many bytes of memory it takes.
    """

    join: int
    plan: LookUp
    spine: SpinePart
    history: Rows | None
    columns: Columns
    weight: int

    def run(self) -> Joined:
        """Return the column ``_row`` and the features, in the order of the bucket's spine rows."""
        spine = self.spine.read()
        history = None if self.history is None or spine.is_empty() else read_history(self.history, self.plan)
        return Joined(self.join, look_up(spine, history, self.plan, self.columns))

    def split(self, parts: int) -> None:
        """See ``Task.split``: its spine rows are in memory already."""


def read_history(history: Rows, plan: LookUp, span: Span | None = None) -> pl.DataFrame:
    """Return the rows of a bucket in the total order: all, or those that spine rows of a stretch of time can see."""
    # Several files may hold rows of one key and time, whose order all of the view's values decide.
    columns = plan.columns if history.parts == 1 else plan.all_columns
    if span is None:
        return merge_files(history.read(columns), plan.keys, plan.tie_columns)
    since = None if plan.reach is None else span[0] - plan.reach
    parts = history.read(columns, since=since, until=span[1] - 1)
    for place, part in enumerate(parts):
        parts[place] = plan.seen_within(part, *span)
    return merge_files(parts, plan.keys, plan.tie_columns)


def look_up(spine: pl.DataFrame, history: pl.DataFrame | None, plan: LookUp, columns: Columns) -> pl.DataFrame:
    """Return the column ``_row`` and the features of spine rows, in their order."""
    if history is None or history.is_empty():
        return spine.select(ROW).hstack(empty_columns(columns, spine.height))
    features = plan.look_up(spine, history)
    return spine.select(ROW).hstack(features.select(pl.col(feature.name).alias(name) for name, feature in columns))


def columns_of(join: Join) -> Columns:
    """Return the columns of a join's result."""
    return tuple((column.name, column.feature) for column in join.columns)


def weight_of(join: Join, plan: LookUp, rows: int) -> int:
    """Return about how many bytes of memory it takes to look something up, of so many rows of spine and history together."""
    stored = join.applied.spec.stored_schema
    dtypes = [stored[name] for name in plan.columns if name in stored]
    return COPIES * (8 * (3 + len(plan.keys)) + width_of(dtypes)) * rows


def empty_columns(columns: Sequence[tuple[str, FeatureSpec]], rows: int) -> list[pl.Series]:
    """Return what features are of entities without any row: null, or S8's values of empty windows."""
    return [pl.Series(name, [empty_value(feature)], dtype=feature.dtype).new_from_index(0, rows) for name, feature in columns]


def plan_join(join: Join, *, as_known: bool) -> LookUp:
    """Return what a join looks up for each spine row."""
    view = join.applied.spec
    if view.windows:
        asked = {column.feature.name: column.feature for column in join.columns}
        late = view.source.available_time is not None
        return WindowLookUp(view.entity.key_names, tuple(asked.values()), view.stored_schema, as_known, late)
    return PointInTime(
        keys=view.entity.key_names,
        features=tuple(dict.fromkeys(column.feature.name for column in join.columns)),
        view_features=tuple(view.stored_schema),
        ttl=view.ttl,
        as_known=as_known,
        late=view.source.available_time is not None,
    )


def check_selection(spine: pl.LazyFrame, selection: Selection, time: str) -> pl.Schema:
    """Return a spine's schema, which has all that a selection needs of it.

    Raises:
        RequestError: it lacks a column, or has one of a type that does not fit.
        NameClashError: a feature is named like one of its columns (S13).
    """
    schema = spine.collect_schema()
    check_spine(schema, time, selection)
    check_fields(selection.computation.fields, schema)
    check_clashes(selection, schema, "spine")
    return schema


def check_times(spine: pl.DataFrame, time: str) -> None:
    """Refuse spine rows without a time, or with one that no calendar has.

    Raises:
        RequestError: there are some; the message says how many.
    """
    missing = spine[time].null_count()
    if missing:
        raise RequestError(
            f"{missing} of the spine's {spine.height} rows have no time in {time!r}, so what they could have seen is undefined. "
            f"Drop them: spine.drop_nulls({time!r})."
        )
    given = spine.select(instants(pl.col(time), spine.schema[time]).to_physical()).to_series()
    good = int(given.is_between(*YEARS).sum())
    if good < spine.height:
        raise RequestError(
            f"{spine.height - good} of the spine's {spine.height} rows have a time in {time!r} outside the years 1 to 9999, so "
            "what they could have seen is undefined. Are they in another unit, seconds read as milliseconds? Mend or drop them."
        )


def check_spine(schema: pl.Schema, time: str, selection: Selection) -> None:
    """Refuse a spine that lacks a column or has one of a type that cannot be a key or a time.

    Raises:
        RequestError: it does; the message names the column and what to do.
    """
    for name in (time, *selection.needed):
        if name not in schema:
            what = "time column" if name == time else "join key column"
            raise RequestError(f"The spine has no {what} {name!r}. {did_you_mean(name, schema)}", column=name)
    if not isinstance(schema[time], (pl.Datetime, pl.Date)):
        raise RequestError(
            f"The spine's time column {time!r} is {schema[time]}, not a time. Parse it first: pl.col({time!r}).str.to_datetime().",
            column=time,
        )
    for join in selection.joins:
        for (key, dtype), column in zip(join.keys.items(), join.on, strict=True):
            actual = schema[column]
            # Of floats each is looked at (``check_keys``): pandas makes them of integers where a value is missing.
            if not fits(actual, dtype) or actual.is_decimal() or (actual.is_float() and not dtype.is_integer()):
                raise _wrong_key(column, actual, key, dtype, join)


def check_keys(spine: pl.DataFrame, selection: Selection) -> None:
    """Refuse a spine whose join key is an integer, and has a number in its column that is none.

    Columns that are not floats are not looked at, and need not be there.

    Raises:
        RequestError: it does; the message names the column and what to do.
    """
    float_columns = {name for name, dtype in spine.schema.items() if dtype.is_float()}
    for join in selection.joins:
        for (key, dtype), column in zip(join.keys.items(), join.on, strict=True):
            if column in float_columns:
                _, unfit = fitted(pl.col(column).fill_nan(None), spine.schema[column], dtype)
                if unfit is not None and spine.select(unfit.any()).item():
                    raise _wrong_key(column, spine.schema[column], key, dtype, join)


def _wrong_key(column: str, actual: pl.DataType, key: str, dtype: pl.DataType, join: Join) -> RequestError:
    return RequestError(
        f"The spine's column {column!r} is {actual}, but the join key {key!r} of entity "
        f"{join.applied.spec.entity.name!r} is {dtype}. Cast it first: pl.col({column!r}).cast(pl.{dtype}).",
        column=column,
    )


def spine_columns(
    schema: Mapping[str, pl.DataType], time: str, keys: Mapping[str, pl.DataType], on: Sequence[str]
) -> list[pl.Expr]:
    """Return expressions for what a join needs of the spine: its keys under their own names and dtypes, and ``_time``.

    Args:
        schema: the spine's.
        time: its time column.
        keys: the join keys and their dtypes.
        on: the spine's column for each of them.
    """
    pairs = zip(keys.items(), on, strict=True)
    fit = [fitted(pl.col(column), schema[column], dtype)[0].alias(key) for (key, dtype), column in pairs]
    return [*fit, instants(pl.col(time), schema[time]).alias(TIME)]


def row_numbers(start: int = 0) -> pl.Expr:
    """Return an expression that numbers a spine's rows, from the first one of a batch on."""
    return (pl.int_range(pl.len(), dtype=ROW_DTYPE) + pl.lit(start, ROW_DTYPE)).alias(ROW)


def spine_bucket(keys: Mapping[str, pl.DataType], bits: int) -> pl.Expr:
    """Return an expression for the bucket of a spine row's keys; null where one is null."""
    return bucket(keys, bits).alias(BUCKET)
