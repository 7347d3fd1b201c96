"""The join plan of a training frame: one point-in-time lookup for each join and bucket."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import polars as pl

from featurestore.definitions.feature import FeatureSpec
from featurestore.dtypes import fits
from featurestore.errors import RequestError, did_you_mean
from featurestore.instants import instants
from featurestore.rows.buckets import bucket
from featurestore.rows.point_in_time import TIME, PointInTime
from featurestore.rows.total_order import merge_files
from featurestore.rows.transform import fitted
from featurestore.selection.select import Join, Selection
from featurestore.windows.lookup import WindowLookUp, empty_value

ROW = "featurestore row"
BUCKET = "featurestore bucket"


class Rows(Protocol):
    """A history's rows that can be read where the task runs."""

    def read(self, columns: Sequence[str] | None = None) -> list[pl.DataFrame]:
        """Return the rows of each file, each in the total order."""

    @property
    def parts(self) -> int:
        """How many frames ``read`` returns."""


class SpinePart(Protocol):
    """A bucket of the spine that can be read where the task runs."""

    def read(self) -> pl.DataFrame:
        """Return the columns ``_row``, ``_time`` and the join keys."""


LookUp = PointInTime | WindowLookUp
"""What a join looks up: each entity's latest row, or windows of its events."""


@dataclass(frozen=True)
class JoinTask:
    """The look-ups of one join in one bucket: what an engine runs. It can be pickled.

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
    columns: tuple[tuple[str, FeatureSpec], ...]
    weight: int

    def run(self) -> pl.DataFrame:
        """Return the column ``_row`` and the features, in the order of the bucket's spine rows."""
        spine = self.spine.read()
        history = None if self.history is None or spine.is_empty() else self._history(self.history)
        if history is None or history.is_empty():
            return spine.select(ROW).hstack(empty_columns(self.columns, spine.height))
        features = self.plan.look_up(spine, history)
        return spine.select(ROW).hstack(features.select(pl.col(feature.name).alias(name) for name, feature in self.columns))

    def _history(self, history: Rows) -> pl.DataFrame:
        # Several files may hold rows of one key and time, whose order all of the view's values decide.
        columns = self.plan.columns if history.parts == 1 else self.plan.all_columns
        return merge_files(history.read(columns), self.plan.keys, self.plan.tie_columns)


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

    Raises:
        RequestError: it does; the message names the column and what to do.
    """
    for join in selection.joins:
        for (key, dtype), column in zip(join.keys.items(), join.on, strict=True):
            if spine.schema[column].is_float():
                _, unfit = fitted(pl.col(column).fill_nan(None), spine.schema[column], dtype)
                if unfit is not None and spine.select(unfit.any()).item():
                    raise _wrong_key(column, spine.schema[column], key, dtype, join)


def _wrong_key(column: str, actual: pl.DataType, key: str, dtype: pl.DataType, join: Join) -> RequestError:
    return RequestError(
        f"The spine's column {column!r} is {actual}, but the join key {key!r} of entity "
        f"{join.applied.spec.entity.name!r} is {dtype}. Cast it first: pl.col({column!r}).cast(pl.{dtype}).",
        column=column,
    )


def spine_columns(schema: pl.Schema, time: str, join: Join) -> list[pl.Expr]:
    """Return expressions for what a join needs of the spine: its keys under their own names and dtypes, and ``_time``."""
    keys = [
        fitted(pl.col(column), schema[column], dtype)[0].alias(key)
        for (key, dtype), column in zip(join.keys.items(), join.on, strict=True)
    ]
    return [*keys, instants(pl.col(time), schema[time]).alias(TIME)]


def spine_bucket(join: Join, bits: int) -> pl.Expr:
    """Return an expression for the bucket of a spine row's keys; null where one is null."""
    return bucket(join.keys, bits).alias(BUCKET)
