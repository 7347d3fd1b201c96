"""Transforming source rows: runs the transform, and checks every row (S1, S2, S19)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any, TypeVar

import polars as pl

from featurestore.access.redaction import described, is_personal
from featurestore.clock import YEARS
from featurestore.definitions.feature import LENGTH_CONSTRAINTS, FeatureSpec
from featurestore.definitions.feature_view import ViewSpec
from featurestore.definitions.fingerprint import Transform
from featurestore.definitions.window_features import COPY, ORDER, ROW_HASH, WithInputs
from featurestore.dtypes import fits, inner_dtype, python_name
from featurestore.errors import DefinitionError, did_you_mean
from featurestore.instants import INSTANT, instants
from featurestore.rows.python_values import values_of
from featurestore.rows.total_order import AVAILABLE, EVENT
from featurestore.rows.unreadable import UNREAD, foreign_type, shown, shown_rows, take_unread
from featurestore.shortage import shortage_of

T = TypeVar("T")

REASON = "_reason"
FORGOTTEN = "its entity was forgotten"
"""Why rows of forgotten entities are passed over."""
_UNFIT = "_unfit "
_ORDERED = (pl.Date, pl.Datetime, pl.Boolean, pl.Null)
"""What rows may be ordered by, beside numbers."""
_DAY = 86_400_000_000


@dataclass(frozen=True)
class TransformResult:
    """What became of a source's rows.

    Args:
        rows: the history's rows: keys, ``event_time``, ``available_time`` (effective, S2), features.
        rejected: the rows that failed a check, as they were there, with ``_reason``.
        forgotten: how many more there were of entities that were forgotten. Of these nothing is kept.
    """

    rows: pl.DataFrame
    rejected: tuple[pl.DataFrame, ...]
    forgotten: int = 0

    @property
    def reasons(self) -> dict[str, int]:
        """How many rows were rejected for each reason."""
        counts: dict[str, int] = {}
        for frame in self.rejected:
            for reason, count in frame.group_by(REASON, maintain_order=True).len().iter_rows():
                counts[reason] = counts.get(reason, 0) + count
        if self.forgotten:
            counts[FORGOTTEN] = self.forgotten
        return counts

    def without(self, forgotten: int) -> "TransformResult":
        """Return the same, and how many more rows of forgotten entities there were."""
        return replace(self, forgotten=self.forgotten + forgotten)


def shape_rows(rows: pl.DataFrame, view: ViewSpec, transform: Transform | None) -> TransformResult:
    """Return a view's history rows made of a source's rows, and the rows rejected.

    Args:
        rows: the source's rows, their times as ``Datetime("us", "UTC")``.
        view: the view.
        transform: its transform; None for none.

    Raises:
        DefinitionError: the transform fails, or returns other columns or dtypes than the view declares.
    """
    rows, rejected = take_unread(rows, _used(rows, view, transform), REASON)
    rows, timeless = _with_times(rows, view)
    rejected += timeless
    if transform is not None:
        rows, again = _with_times(collect_transform(rows, view, transform), view)
        rejected += again
    faults = check_columns(view, rows.schema)
    if faults:
        raise DefinitionError("\n".join(faults), view.place)
    if view.source.order_by is not None:
        rows = rows.with_columns(_order(pl.col(view.source.order_by), rows.schema[view.source.order_by]).alias(ORDER))
    wanted = {
        **{key: (dtype, False) for key, dtype in view.entity.keys.items()},
        **{column.name: (column.dtype, column.nullable) for column in view.stored},
    }
    event = pl.col(view.source.event_time)
    available = event if view.source.available_time is None else pl.max_horizontal(event, pl.col(view.source.available_time))
    fits_of = {name: fitted(pl.col(name), rows.schema[name], dtype) for name, (dtype, _) in wanted.items()}
    shaped = rows.select(
        *(value.alias(name) for name, (value, _) in fits_of.items()), event.alias(EVENT), available.alias(AVAILABLE),
        *(unfit.fill_null(value=False).alias(_UNFIT + name) for name, (_, unfit) in fits_of.items() if unfit is not None),
    )  # fmt: skip
    breaks: list[tuple[pl.Expr, str]] = []
    for name, (dtype, nullable) in wanted.items():
        if fits_of[name][1] is not None:
            said = view.source.order_by if name == ORDER else name
            breaks.append((pl.col(_UNFIT + name), f"{said} does not fit {python_name(dtype, nullable=False)}"))
        if not nullable and shaped[name].null_count():
            breaks.append((pl.col(name).is_null(), f"{name} is null"))
    for feature in view.stored:
        breaks += broken_constraints(feature)
    if breaks:
        bad = shaped.select(pl.any_horizontal(broken.fill_null(value=False) for broken, _ in breaks).alias("bad")).to_series()
        if bad.any():
            reason = pl.coalesce(pl.when(broken.fill_null(value=False)).then(pl.lit(text)) for broken, text in breaks)
            rejected.append(
                rows.drop(ORDER, strict=False).filter(bad).with_columns(shaped.select(reason.alias(REASON)).filter(bad).to_series())
            )
            shaped = shaped.filter(~bad)
    return TransformResult(shaped.select(*view.entity.keys, EVENT, AVAILABLE, *view.stored_schema), tuple(rejected))


def _order(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Return what orders rows of one key and time as numbers: times in microseconds."""
    if isinstance(dtype, (pl.Date, pl.Datetime)):
        return column.cast(pl.Datetime("us")).to_physical()
    return column.cast(pl.UInt8) if isinstance(dtype, pl.Boolean) else column


def _used(rows: pl.DataFrame, view: ViewSpec, transform: Transform | None) -> set[str]:
    """Return the columns with values that could not be read which a view uses: without them its rows cannot be made."""
    if UNREAD not in rows.columns:
        return set()
    source, lazy = view.source, rows.drop(UNREAD).lazy()
    needed = [*view.entity.keys, *source.time_columns, *view.stored_schema]
    used = {name for name in (*source.time_columns, source.event_id, source.order_by) if name is not None}
    for name in rows.schema[UNREAD].to_schema():  # type: ignore[attr-defined]  # with_texts makes a struct of it
        try:
            rest = lazy.drop(name)
            (rest if transform is None else run_transform(rest, view, transform)).select(needed).collect_schema()
        except (DefinitionError, pl.exceptions.PolarsError):
            used.add(name)
    return used


def _with_times(rows: pl.DataFrame, view: ViewSpec) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
    """Take out the rows without a time, or with one that no calendar of Python's has (S1)."""
    names = [name for name in view.source.time_columns if name in rows.columns and rows.schema[name] == INSTANT]
    reasons = []
    for name in names:
        times = rows[name].to_physical()
        if times.null_count():
            reasons.append(pl.when(pl.col(name).is_null()).then(pl.lit(f"{name} is null")))
        if not times.drop_nulls().is_between(*YEARS).all():
            outside = ~pl.col(name).to_physical().is_between(*YEARS)
            reasons.append(pl.when(outside).then(pl.lit(f"{name} lies outside the years 1 to 9999")))
    if not reasons:
        return rows, []
    marked = rows.with_columns(pl.coalesce(reasons).alias(REASON))
    bad = marked.filter(pl.col(REASON).is_not_null())
    far = [shown(bad[name]) for name in names if not bad[name].to_physical().drop_nulls().is_between(*YEARS).all()]
    return marked.filter(pl.col(REASON).is_null()).drop(REASON), [bad.with_columns(far)]


def stack_rejects(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Return rejected rows of different shapes as one frame; a column whose types cannot meet, or with times beyond, is text."""
    frames = [shown_rows(frame) for frame in frames]
    try:
        return pl.concat(frames, how="diagonal_relaxed")
    except pl.exceptions.PolarsError:
        types: dict[str, set[str]] = {}
        for frame in frames:
            for name, dtype in frame.schema.items():
                types.setdefault(name, set()).add(str(dtype))
        mixed = {name for name, dtypes in types.items() if len(dtypes) > 1}
        return pl.concat([_as_text(frame, mixed) for frame in frames], how="diagonal_relaxed")


def _as_text(frame: pl.DataFrame, names: set[str]) -> pl.DataFrame:
    texts = [
        pl.Series(name, [None if value is None else str(value) for value in values_of(frame[name])], dtype=pl.String)
        for name in frame.columns
        if name in names
    ]
    return frame.with_columns(texts)


def run_transform(rows: pl.LazyFrame, view: ViewSpec, transform: Transform) -> pl.LazyFrame:
    """Return a transform's result.

    Raises:
        DefinitionError: it fails, or returns something else than a LazyFrame.
    """
    result, schema = _users_code(view, lambda: _with_schema(transform(rows)))
    if schema is None:
        raise DefinitionError(
            f"the transform of view {view.name!r} returns {type(result).__name__}; it takes a pl.LazyFrame and must return one.",
            view.place,
        )
    assert isinstance(result, pl.LazyFrame), "it has a schema"
    return result


def collect_transform(rows: pl.DataFrame, view: ViewSpec, transform: Transform) -> pl.DataFrame:
    """Return the rows that a transform makes of some.

    Raises:
        DefinitionError: it fails, or returns something else than a LazyFrame.
    """
    if rows.height != 1 or (isinstance(transform, WithInputs) and transform.is_plain):
        return _collected(rows, view, transform)
    # NOTE: Polars takes a column of one row for a constant, and divides by a number otherwise than it does in a column: the
    # last bit of a row pushed alone would differ from that of the row among others. So it is given twice, in columns made
    # anew, for those put together of two stay constants; and of what is made of them every second row is taken.
    output = _collected(pl.DataFrame([column.new_from_index(0, 2) for column in rows.get_columns()]), view, transform)
    if not output.width:
        return output
    kept = output.filter(pl.int_range(pl.len()).over(pl.struct(pl.exclude(pl.Object))) % 2 == 0)
    if 2 * kept.height != output.height:
        odd = [name for name in output_columns(output) if output.group_by(name).len().select((pl.col("len") % 2).any()).item()]
        raise DefinitionError(not_the_same_twice(view, odd or output_columns(output)), view.place)
    return kept


def output_columns(output: pl.DataFrame) -> list[str]:
    """Return the columns that a transform has made, without those that only the history has."""
    return [name for name in output.columns if name not in (ROW_HASH, COPY)]


def not_the_same_twice(view: ViewSpec, columns: Sequence[str]) -> str:
    """Return the message for a transform that makes other values of the same row when it is given it again."""
    names = ", ".join(repr(name) for name in columns)
    return (
        f"the transform of view {view.name!r} is not the same twice (S20): {names} differ when the same row is given again, as "
        "random numbers, uuid4() and now() do, and a row read again would be another. Derive them from the row's own columns."
    )


def _collected(rows: pl.DataFrame, view: ViewSpec, transform: Transform) -> pl.DataFrame:
    output = run_transform(rows.lazy(), view, transform)
    # The streaming engine cuts small frames into single rows.
    collected: pl.DataFrame = _users_code(view, lambda: output.collect(engine="in-memory"))
    return collected


def _with_schema(result: Any) -> tuple[Any, pl.Schema | None]:
    return result, result.collect_schema() if isinstance(result, pl.LazyFrame) else None


def _users_code(view: ViewSpec, run: Callable[[], T]) -> T:
    """Return what a view's transform returns. It is the user's code, so it may raise anything."""
    try:
        return run()
    except DefinitionError as error:  # of what an aggregate takes, which is none of the transform's
        raise DefinitionError(f"view {view.name!r}, {error.problem}", view.place) from error
    except (Exception, pl.exceptions.PanicException) as error:
        if not is_personal(view):
            raise DefinitionError(
                f"the transform of view {view.name!r} fails: {type(error).__name__}: {error}", view.place
            ) from error
        description, lacked = described(error), shortage_of(error)
    # Outside of the handler, so that a traceback does not print the text of the error.
    raise DefinitionError(f"the transform of view {view.name!r} fails: {description}", view.place) from lacked


def check_columns(view: ViewSpec, schema: pl.Schema) -> list[str]:
    """Return what is wrong with the columns that a view's rows have before they are shaped; nothing if all is well."""
    made_by = f"the transform of view {view.name!r} returns" if view.transform_digest else f"source {view.source.name!r} has"
    faults = []
    for name in view.source.time_columns:
        if name not in schema:
            faults.append(f"{made_by} no time column {name!r}; keep it. {did_you_mean(name, schema)}")
        elif schema[name] != INSTANT:
            faults.append(f"{made_by} {schema[name]} for the time column {name!r}; leave it as {INSTANT}.")
    order = view.source.order_by
    if order is not None and order not in schema:
        faults.append(f"{made_by} no column {order!r}, the source's order_by; keep it. {did_you_mean(order, schema)}")
    elif order is not None and not (schema[order].is_numeric() or isinstance(schema[order], _ORDERED)):
        faults.append(f"{made_by} {schema[order]} for order_by={order!r}, which takes numbers and times; cast it to one.")
    stored = {name: dtype for name, dtype in view.stored_schema.items() if name != ORDER}
    for name, dtype in [*view.entity.keys.items(), *stored.items()]:
        what = "join key" if name in view.entity.keys else "feature"
        if name not in schema:
            faults.append(f"{made_by} no column {name!r}, a {what} of view {view.name!r}. {did_you_mean(name, schema)}")
        elif not fits(schema[name], dtype):
            kind = foreign_type(schema[name])
            cast = f" Cast it in the query: cast({name} as …), to numeric or text or what it is meant as." if kind else ""
            has = f"the database's type {kind}" if kind else schema[name]
            faults.append(f"{made_by} {has} for the {what} {name!r} of view {view.name!r}, which is declared as {dtype}.{cast}")
    return faults


def fitted(column: pl.Expr, actual: pl.DataType, wanted: pl.DataType) -> tuple[pl.Expr, pl.Expr | None]:
    """Return a column in the dtype wanted, and what tells which of its values do not fit it, if any may not (S19, S22).

    A value fits where it stays the value it is; a float may be rounded to the precision of another float or of a decimal. A
    list fits where its elements do, a vector where it has the length wanted besides, and no holes.
    """
    if isinstance(actual, pl.Null):
        return column.cast(wanted), None
    if isinstance(wanted, (pl.List, pl.Array)):
        return _fitted_list(column, actual, wanted)
    if isinstance(wanted, pl.Datetime):
        value = instants(column, actual)
        return value, ~value.to_physical().is_between(*YEARS) | (value.is_null() & column.is_not_null())
    if isinstance(wanted, pl.Date):
        return column, ~column.to_physical().is_between(YEARS[0] // _DAY, YEARS[1] // _DAY)
    if actual == wanted:
        return column, None
    value = _number(column, actual, wanted) if wanted.is_numeric() else column.cast(wanted, strict=False)
    return value, value.is_null() & column.is_not_null()


def _number(column: pl.Expr, actual: pl.DataType, wanted: pl.DataType) -> pl.Expr:
    """Return numbers in another dtype, null where they would not stay the numbers they are (S22)."""
    if actual.is_float() and wanted.is_float():
        value = column.cast(wanted)
        return pl.when(value.is_finite() | ~column.is_finite()).then(value)
    if actual.is_float() and wanted.is_decimal():
        # NOTE: Polars' own cast rounds the float's binary digits, and fails as a whole where one number is too large.
        return column.cast(pl.String).cast(wanted, strict=False)
    if isinstance(actual, pl.Decimal) and wanted.is_float():
        # A fraction u / 10**s is one of a power of two only where 5**s divides u; then it is (u / 5**s) / 2**s, exactly.
        units, fives = column.to_physical(), pl.lit(5**actual.scale, pl.Int128)
        whole = units // fives
        value = whole.cast(wanted)
        return pl.when((units % fives == 0) & (value.cast(pl.Int128, strict=False) == whole)).then(
            value / pl.lit(2.0**actual.scale, wanted)
        )
    value = column.cast(wanted, strict=False)
    return pl.when(value.cast(actual, strict=False) == column).then(value)


def _fitted_list(column: pl.Expr, actual: pl.DataType, wanted: pl.List | pl.Array) -> tuple[pl.Expr, pl.Expr | None]:
    if isinstance(actual, pl.Array):
        column, actual = column.arr.to_list(), pl.List(actual.inner)
    assert isinstance(actual, pl.List), "dtypes.fits lets nothing else come here"
    inner, inner_unfit = fitted(pl.element(), inner_dtype(actual), inner_dtype(wanted))
    value = column if actual.inner == wanted.inner else column.list.eval(inner)
    unfit = None if inner_unfit is None else column.list.eval(inner_unfit.fill_null(value=False)).list.any()
    if isinstance(wanted, pl.Array):
        # NOTE: a list of another length makes the whole cast fail, strict or not.
        value = pl.when(column.list.len() == wanted.size).then(value).cast(wanted)
        holes = (column.list.len() != wanted.size) | column.list.eval(pl.element().is_null()).list.any()
        unfit = holes if unfit is None else holes | unfit
    return value.cast(wanted), unfit


def broken_constraints(feature: FeatureSpec) -> list[tuple[pl.Expr, str]]:
    """Return the conditions under which a value, in the feature's own dtype, breaks its constraints, with the reasons."""
    column = pl.col(feature.name)
    lengths = column
    if isinstance(feature.dtype, pl.String):
        lengths = column.str.len_chars()
    elif isinstance(feature.dtype, pl.Binary):
        lengths = column.bin.size()
    elif isinstance(feature.dtype, pl.List):
        lengths = column.list.len()
    breaks = []
    for name, bound in feature.constraints.items():
        value = _literals(bound, feature.dtype) if name == "one_of" else _literal(bound, feature.dtype)
        broken: pl.Expr = _BREAKS[name](lengths if name in LENGTH_CONSTRAINTS else column, value)
        if feature.dtype.is_float() and name in ("ge", "gt"):
            broken = broken | column.is_nan()  # Polars orders NaN above every number
        breaks.append((broken, f"{feature.name} breaks {name}={bound!r}"))
    return breaks


_BREAKS: dict[str, Callable[[pl.Expr, Any], Any]] = {
    "ge": lambda column, bound: column < bound,
    "gt": lambda column, bound: column <= bound,
    "le": lambda column, bound: column > bound,
    "lt": lambda column, bound: column >= bound,
    "min_length": lambda length, bound: length < bound,
    "max_length": lambda length, bound: length > bound,
    "pattern": lambda column, bound: ~column.str.contains(bound),
    "one_of": lambda column, bound: ~column.is_in(bound.implode()),
}
"""For each constraint, the expression of its being broken: of the column, or of its length."""


def _literal(bound: Any, dtype: pl.DataType) -> Any:
    if isinstance(dtype, pl.Datetime) and isinstance(bound, str):
        return datetime.fromisoformat(bound)
    if isinstance(dtype, pl.Date) and isinstance(bound, str):
        return date.fromisoformat(bound)
    if isinstance(dtype, pl.Decimal) and isinstance(bound, str):
        return Decimal(bound)
    return bound


def _literals(bounds: Sequence[Any], dtype: pl.DataType) -> pl.Series:
    return pl.Series([_literal(bound, dtype) for bound in bounds], dtype=dtype)
