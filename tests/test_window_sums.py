"""Sums and means of windows are exact wherever the total fits, and null where it does not: online and in training (S16, S22)."""

import math
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from featurestore import Entity, FeatureView, FrameSource, last_n, mean, quantile, std, sum_, var
from featurestore.row_codec import seal, to_python, unpack_values
from featurestore.rows.total_order import AVAILABLE, EVENT, sort_history
from featurestore.rows.transform import shape_rows
from featurestore.windows.lookup import WindowLookUp, history_events
from featurestore.windows.tile_reader import WindowValues
from featurestore.windows.tiles import TileLayout
from tests.effort import examples
from tests.numbers import numbers_of, same, single
from tests.projects import INSTANT
from tests.window_oracle import Window, order
from tests.windowed import FEW, project

LARGEST = Fraction(1.7976931348623157e308)
WINDOW, LENGTH, TILE = Window(9, 3), "9us", "3us"
SCHEMA = {"i": pl.Int64(), "u": pl.Decimal(20, 0), "d": pl.Decimal(38, 2), "x": pl.Float64()}
ENTITY = Entity("entity", k=str)
NO_ROWS = pl.DataFrame(schema={"k": pl.String(), "at": INSTANT, **SCHEMA})


class Sums(FeatureView, entity=ENTITY, source=FrameSource("rows", NO_ROWS, event_time="at")):
    whole: int = sum_("i").over(LENGTH, tile=TILE)
    short: Annotated[int, pl.Int16] = sum_("i").over(LENGTH, tile=TILE)
    unsigned: Annotated[int, pl.UInt64] = sum_("u").over(LENGTH, tile=TILE)
    most: Annotated[Decimal, pl.Decimal(38, 2)] = sum_("d").over(LENGTH, tile=TILE)
    cents: Annotated[Decimal, pl.Decimal(5, 2)] = sum_("d").over(LENGTH, tile=TILE)
    rounded: float = sum_("d").over(LENGTH, tile=TILE)
    total: float = sum_("x").over(LENGTH, tile=TILE)
    single: Annotated[float, pl.Float32] = sum_("x").over(LENGTH, tile=TILE)
    middle: float | None = mean("x").over(LENGTH, tile=TILE)
    middle_single: Annotated[float, pl.Float32] | None = mean("x").over(LENGTH, tile=TILE)
    variance: float | None = var("x").over(LENGTH, tile=TILE)
    deviation: float | None = std("x").over(LENGTH, tile=TILE)
    half: float | None = quantile("x", 0.5).over(LENGTH, tile=TILE)


VIEW = Sums.__view__
INPUTS = {"whole": "i", "short": "i", "unsigned": "u", "most": "d", "cents": "d", "rounded": "d"}
Row = tuple[int, int | None, Decimal | None, Decimal | None, float | None]


def agrees(name: str, values: Sequence[Any], found: Any) -> bool:
    """Whether a feature of these inputs may be what was found."""
    dtype = VIEW.feature(name).dtype
    if name in ("variance", "deviation"):
        return spreads(name, values, found)
    if name == "half":
        return lies_between(values, found)
    if not values:
        return found is None if name.startswith("middle") else found == 0
    if any(isinstance(value, float) and not math.isfinite(value) for value in values):
        wild = {value for value in values if not math.isfinite(value)}
        return isinstance(found, float) and same(found, wild.pop() if len(wild) == 1 else math.nan)
    total = sum(map(Fraction, values))
    if not dtype.is_float():
        digits = dtype.scale if isinstance(dtype, pl.Decimal) else 0
        bits = (
            10**dtype.precision - 1
            if isinstance(dtype, pl.Decimal)
            else {"whole": 2**63, "short": 2**15, "unsigned": 2**64}[name] - 1
        )
        fits = abs(total * 10**digits) <= bits and not (name == "unsigned" and total < 0)
        fits = fits or (name == "whole" and total == -(2**63)) or (name == "short" and total == -(2**15))
        return found is not None and Fraction(found) == total if fits else found is None
    exact = total / len(values) if name.startswith("middle") else total
    largest = Fraction(single(3.4028234663852886e38) if dtype == pl.Float32() else LARGEST)
    slack = Fraction(1, 10**9) * sum(map(abs, map(Fraction, values))) / (len(values) if name.startswith("middle") else 1)
    if dtype == pl.Float32():
        slack += abs(exact) / 2**23 + Fraction(2) ** -149
    if found is None:
        return abs(exact) + slack > largest and name != "middle"
    return math.isfinite(found) and abs(Fraction(found) - exact) <= slack


def spreads(name: str, values: Sequence[float], found: Any) -> bool:
    if len(values) < 2:
        return found is None
    if not all(map(math.isfinite, values)):
        return isinstance(found, float) and math.isnan(found)
    numbers = list(map(Fraction, values))
    middle = sum(numbers) / len(numbers)
    exact = sum((number - middle) ** 2 for number in numbers) / (len(numbers) - 1)
    slack = Fraction(1, 10**9) * sum(number**2 for number in numbers) / (len(numbers) - 1)
    if found is None:
        return exact + slack > LARGEST ** (2 if name == "deviation" else 1)
    square = Fraction(found) ** 2 if name == "deviation" else Fraction(found)
    # Squares below the least float are none.
    return abs(square - exact) <= slack + Fraction(2) ** -1060


def lies_between(values: Sequence[float], found: Any) -> bool:
    if not values:
        return found is None
    ranked = sorted(values, key=order)
    low, high = ranked[(len(ranked) - 1) // 2], ranked[len(ranked) // 2]
    if not (math.isfinite(low) and math.isfinite(high)):
        return isinstance(found, float) and not math.isfinite(found)
    exact = (Fraction(low) + Fraction(high)) / 2
    return abs(Fraction(found) - exact) <= Fraction(1, 10**9) * (abs(Fraction(low)) + abs(Fraction(high))) + Fraction(2) ** -1074


def check(rows: Sequence[Row], t: int, found: dict[str, Any]) -> None:
    for name in VIEW.feature_names:
        column = INPUTS.get(name, "x")
        values = [row[1 + list(SCHEMA).index(column)] for row in rows if WINDOW.tail(t) <= row[0] <= t]
        values = [value for value in values if value is not None]
        assert agrees(name, values, found[name]), (name, values, found[name])


def frame(rows: Sequence[Row]) -> pl.DataFrame:
    columns = zip(*rows, strict=True) if rows else [()] * 5
    at, *values = columns
    data = [pl.Series(name, column, dtype=dtype) for (name, dtype), column in zip(SCHEMA.items(), values, strict=True)]
    return pl.DataFrame(
        {"k": pl.Series(["a"] * len(rows), dtype=pl.String), "at": pl.Series(at, dtype=pl.Int64).cast(INSTANT)}
    ).with_columns(data)


def of(dtype: pl.DataType) -> st.SearchStrategy[Any]:
    values = numbers_of(dtype)
    if dtype == pl.Decimal(20, 0):
        values = st.one_of(numbers_of(pl.UInt64()), numbers_of(pl.Int64())).map(Decimal)
    if dtype.is_float():
        values = st.one_of(values, st.sampled_from([1e308, -1e308, 1.7e308, 3e38, 0.1, 0.2, 1e15, 1e-3, 5e-324]))
    elif dtype == pl.Int64():
        values = st.one_of(values, st.sampled_from([2**62, -(2**62), 2**63 - 1, -(2**63), 1, 0]))
    return st.none() | values


@st.composite
def row_lists(draw: st.DrawFn) -> list[Row]:
    tame = draw(st.booleans())
    kinds = [
        st.sampled_from([None, 1, -7, 300]),
        *[st.sampled_from([None, Decimal(1), Decimal(-7)])] * 2,
        st.sampled_from([None, 0.5, 0.1]),
    ]
    values = kinds if tame else [of(dtype) for dtype in SCHEMA.values()]
    # NOTE: no two rows are equal; how often those count is another matter (S9).
    return draw(st.lists(st.tuples(st.integers(-9, 12), *values), max_size=8, unique_by=repr))


def stored(rows: Sequence[Row]) -> pl.DataFrame:
    shaped = shape_rows(frame(rows), VIEW, Sums.__transform__)
    assert not shaped.rejected
    return sort_history(shaped.rows, VIEW.entity.key_names, list(VIEW.stored_schema))


def alternating(t: int) -> Row:
    pair = (-1) ** (t // 2)
    return t, (-1) ** t * 2**62, Decimal((-1) ** t * 2**62), Decimal(9 * 10**35) * pair, 1e308 * pair


EXACT: list[list[Row]] = [
    [(t, 2**62, Decimal(2**64 - 1), Decimal("900000000000000000000000000000000000.01"), 1e308) for t in range(4)],
    [alternating(t) for t in range(7)],
    [(t, 2**63 - 1 if t else 1, Decimal(5), Decimal("0.10"), 1.7976931348623157e308) for t in range(3)],
]


@settings(max_examples=examples(60))
@given(row_lists(), st.lists(st.integers(0, 2), min_size=8, max_size=8), st.integers(0, 30))
@example(EXACT[0], [0] * 8, 0)
@example(EXACT[1], [0, 1] * 4, 0)
@example(EXACT[2], [1, 0] * 4, 2)
def test_s22_sums_of_any_split_are_exact_wherever_the_total_fits(rows: list[Row], split: list[int], later: int) -> None:
    """The kernel: the look-up of training, and tiles that were joined of parts, packed and read."""
    layout, keys = TileLayout.of(VIEW), list(VIEW.entity.key_names)
    entity = pl.DataFrame({"k": ["a"]})
    tiles = layout.decode([(None, None, None)])
    for part in range(3):
        events = history_events(
            stored([row for row, place in zip(rows, split, strict=False) if place == part]), keys, identified=False, as_known=False
        )
        joined = layout.join(tiles, layout.build(events, entity))
        [value] = layout.encode(joined, [[]])
        if value is not None:
            _, (_, groups) = unpack_values([b""], [seal(b"", value)])
            tiles = layout.decode([(joined.latest[0], groups, None)])
    t = max([row[0] for row in rows], default=0) + later
    spine = pl.DataFrame({"k": ["a"], "_time": pl.Series([t]).cast(INSTANT)})
    plan = WindowLookUp(("k",), VIEW.features, VIEW.stored_schema)
    [trained] = plan.look_up(spine, stored(rows)).to_dicts() if rows else [{}]
    if rows:
        check(rows, t, trained)
        read = WindowValues.of(VIEW, VIEW.features).read(groups, t)
        online = {}
        for feature, got in zip(VIEW.features, read, strict=True):
            convert = to_python(feature.dtype) if isinstance(feature.dtype, pl.Decimal) else None
            online[feature.name] = got if got is None or convert is None else convert(got)
        check(rows, t, online)
        exact = [feature.name for feature in VIEW.features if not feature.dtype.is_float()]
        assert {name: online[name] for name in exact} == {name: trained[name] for name in exact}


@settings(FEW, max_examples=examples(6))
@given(row_lists(), st.integers(0, 8), st.integers(0, 30))
@example(EXACT[0], 2, 0)
@example(EXACT[1], 3, 0)
@example(EXACT[2], 1, 0)
def test_s22_sums_of_runs_and_pushes_are_those_of_training(rows: list[Row], ran: int, later: int) -> None:
    t = max([row[0] for row in rows], default=0) + later
    source = FrameSource("rows", frame(rows[:ran]), event_time="at")
    view = view_on(source)
    with project([view], t) as (store, _):
        store.materialize()
        if rows[ran:]:
            store.push("rows", frame(rows[ran:]))
        found = store.online(view, [{"k": "a"}])
        [online] = found.to_dicts()
        spine = pl.DataFrame({"k": ["a"], "t": pl.Series([t]).cast(INSTANT)})
        [trained] = store.training_frame(spine, view, time="t").drop("t").to_dicts()
        assert found.to_polars().schema == store.training_frame(spine, view, time="t").drop("t").schema
    check(rows, t, online)
    check(rows, t, trained)
    for name in VIEW.feature_names:
        assert same(online[name] is None, trained[name] is None), name
        if not VIEW.feature(name).dtype.is_float():
            assert same(online[name], trained[name])


def view_on(source: FrameSource) -> type[FeatureView]:
    body: dict[str, Any] = {"__annotations__": dict(Sums.__annotations__), "__module__": __name__}
    others: dict[str, Any] = {"middle": mean, "middle_single": mean, "variance": var, "deviation": std}
    for feature in VIEW.features:
        made = quantile("x", 0.5) if feature.name == "half" else others.get(feature.name, sum_)(INPUTS.get(feature.name, "x"))
        body[feature.name] = made.over(LENGTH, tile=TILE)
    return type("Sums", (FeatureView,), body, entity=ENTITY, source=source)


class Kept(FeatureView, entity=ENTITY, source=FrameSource("rows", NO_ROWS, event_time="at")):
    whole: int = sum_("i").over(LENGTH, tile=TILE)
    total: float = sum_("x").over(LENGTH, tile=TILE)
    middle: float | None = mean("x").over(LENGTH, tile=TILE)
    spread: float | None = std("x").over(LENGTH, tile=TILE)
    few: list[int] = last_n("i", 2).over(LENGTH, tile=TILE)


FORMER = bytes.fromhex(
    "c4108000000000000004153a894ccc4b390c9291039193c41000000000000000000100000000000000c4703f00000000000000feffffffffffff3f0000000000000e4003000000000000000000000000000840000000000000f43f000000000000fa3f3f00000000000000000000000000004000000000000000400100000000000000000000000000f03f0000000000000040000000000000000091929205f991cf4000000000000000"
)
"""What the version before 128-bit sums wrote of the events of ``test_s15_a_value_of_the_version_before…``."""


def test_s15_a_value_of_the_version_before_is_read_and_joined() -> None:
    """Where no number is beyond its record a value is what it was, byte for byte; where one comes to be, it is added to it."""
    view, layout = Kept.__view__, TileLayout.of(Kept.__view__)
    entity = pl.DataFrame({"k": ["a"]})
    x = pl.Series("x", [1.5, 0.25, 2.0])
    events = pl.DataFrame({"k": ["a"] * 3, EVENT: [0, 2, 4], AVAILABLE: [0, 2, 4], "i": [5, -7, 2**62], "x": x})
    assert layout.encode(layout.build(events, entity), [[3]]) == [FORMER]
    _, (segments, groups) = unpack_values([b""], [seal(b"", FORMER)])
    read = WindowValues.of(view, view.features).read
    assert (segments, read(groups, 4)) == ([3], [2**62 - 2, 3.75, 1.25, float(x.std() or 0), [-7, 2**62]])
    more = pl.DataFrame({"k": ["a"], EVENT: [5], AVAILABLE: [9], "i": [2**62 + 5], "x": [1e308]})
    joined = layout.join(layout.decode([(4, groups, None)]), layout.build(more, entity))
    [value] = layout.encode(joined, [[3, 4]])
    assert value is not None
    _, (_, groups, known) = unpack_values([b""], [seal(b"", value)])
    whole, total, middle, spread, few = read(groups, 5)
    assert (whole, total, middle, few, known) == (None, 1e308, 2.5e307, [2**62, 2**62 + 5], 9)
    assert spread == pytest.approx(5e307)
