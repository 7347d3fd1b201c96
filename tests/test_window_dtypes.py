"""Every type a windowed feature may have, through both stores: written by a run and by pushes, read at once and later."""

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any

import polars as pl
import pytest

import featurestore
from featurestore import Entity, FeatureView, FrameSource
from featurestore.clock import from_micros
from tests.numbers import single
from tests.projects import INSTANT
from tests.window_oracle import same
from tests.windowed import project

VALUES: dict[str, tuple[Any, pl.DataType, list[Any]]] = {
    "bool": (bool, pl.Boolean(), [True, False, True, True]),
    "str": (str, pl.String(), ["b", "", "é\x00", "a" * 300]),
    "bytes": (bytes, pl.Binary(), [b"b", b"", b"\xff\x00", b"a"]),
    "date": (date, pl.Date(), [date(2020, 2, 29), date(1, 1, 1), date(9999, 12, 31), date(1969, 12, 31)]),
    "datetime": (
        datetime,
        INSTANT,
        [datetime(2020, 1, 1, tzinfo=UTC), datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999999, UTC)],
    ),
    "time": (Annotated[time, pl.Time()], pl.Time(), [time(12), time(0), time(23, 59, 59, 999999)]),
    "duration": (
        Annotated[timedelta, pl.Duration("us")],
        pl.Duration("us"),
        [timedelta(1), timedelta(microseconds=-1), timedelta(days=10_000)],
    ),
    "decimal": (
        Annotated[Decimal, pl.Decimal(20, 3)],
        pl.Decimal(20, 3),
        [Decimal("1.500"), Decimal(f"-{10**17 - 1}.999"), Decimal("0.001")],
    ),
    "int": (int, pl.Int64(), [0, 2**63 - 1, -(2**63), 5]),
    "Int8": (Annotated[int, pl.Int8], pl.Int8(), [0, 127, -128, 5]),
    "UInt32": (Annotated[int, pl.UInt32], pl.UInt32(), [0, 2**32 - 1, 5]),
    "UInt64": (Annotated[int, pl.UInt64], pl.UInt64(), [0, 2**64 - 1, 5]),
    "float": (float, pl.Float64(), [0.0, float("inf"), 5e-324, -1.7e308, float("nan")]),
    "Float32": (Annotated[float, pl.Float32], pl.Float32(), [0.0, float("-inf"), 1.5, 2.0**-149]),
}
ORDERED = {"min": min, "max": max}


def numbers(values: list[Any]) -> list[Any]:
    return [value for value in values if value == value]


ANSWERS: dict[str, tuple[Callable[[Any], Any], str, tuple[Any, ...], Callable[[list[Any]], Any]]] = {
    "first": (lambda kind: kind | None, "first", (), lambda values: values[0]),
    "last": (lambda kind: kind | None, "last", (), lambda values: values[-1]),
    "few": (lambda kind: list[kind], "last_n", (3,), lambda values: values[-3:]),
    "kinds": (lambda kind: int, "count_distinct", (), lambda values: len({repr(value) for value in values})),
    "least": (lambda kind: kind | None, "min_", (), lambda values: min(numbers(values))),
    "most": (lambda kind: kind | None, "max_", (), lambda values: max(numbers(values))),
}
"""Each feature: its type, the aggregate, its arguments, and its value."""


def as_singles(shown: Any) -> Any:
    """What is shown by its shortest text, as the Float32 that it is."""
    if isinstance(shown, list):
        return [single(each) for each in shown]
    return single(shown) if isinstance(shown, float) else shown


@pytest.mark.parametrize("name", VALUES)
def test_s12_s16_a_type_survives(name: str) -> None:
    kind, dtype, values = VALUES[name]
    values = [*values, None, values[0], values[1]]
    asked = [each for each in ANSWERS if not (name in ("bytes", "time", "duration", "decimal") and each in ("least", "most"))]
    body: dict[str, Any] = {"__annotations__": {each: ANSWERS[each][0](kind) for each in asked}, "__module__": __name__}
    for each in asked:
        body[each] = getattr(featurestore, ANSWERS[each][1])("x", *ANSWERS[each][2]).over("9us", tile="3us")
    times = pl.Series(range(len(values))).cast(INSTANT)
    frame = pl.DataFrame({"k": ["a"] * len(values), "at": times, "x": pl.Series(values, dtype=dtype)})
    source = FrameSource("rows", frame, event_time="at")
    view = type("V", (FeatureView,), body, entity=Entity("e", k=str), source=source)
    half = len(values) // 2
    with project([view], half - 1) as (store, clock):
        for number in range(half, len(values) + 1):
            now = number - 1
            clock.micros = now
            if number == half:
                store.materialize(end=from_micros(now))
            else:
                store.push(source, frame[now:number])
            instants = [now, now + 4, now + 9]
            spine = pl.DataFrame({"k": ["a"] * 3, "t": [from_micros(t) for t in instants]})
            frame_at = store.training_frame(spine, view, time="t").drop("t").to_dicts()
            for t, trained in zip(instants, frame_at, strict=True):
                held = [each for at, each in enumerate(values[:number]) if each is not None and at >= (t - 9) // 3 * 3]
                [online] = store.online(view, [{"k": "a"}], at=from_micros(t)).to_dicts()
                for each in asked:
                    expected = ANSWERS[each][3](held) if held else {"few": [], "kinds": 0}.get(each)
                    shown = as_singles(online[each]) if name == "Float32" else online[each]
                    for found in (shown, trained[each]):
                        alike = all(map(same, found, expected)) if isinstance(expected, list) else same(found, expected)
                        assert alike, (each, t, found, expected)


@pytest.mark.parametrize("dtype", [pl.Int8, pl.UInt8, pl.Int32, pl.UInt32, pl.Float32])
def test_s10_what_is_computed_of_small_numbers_is_large(dtype: Any) -> None:
    """Sums are of the widest type of their kind, whatever the input's is."""
    kind = float if dtype is pl.Float32 else int
    body = {
        "__annotations__": {"total": kind, "middle": float | None, "spread": float | None},
        "__module__": __name__,
        "total": featurestore.sum_("x").over("9us", tile="3us"),
        "middle": featurestore.mean("x").over("9us", tile="3us"),
        "spread": featurestore.var("x").over("9us", tile="3us"),
    }
    top = 2.0**127 if dtype is pl.Float32 else pl.select(dtype.max()).item()
    frame = pl.DataFrame({"k": ["a"] * 5, "at": pl.Series(range(5)).cast(INSTANT), "x": pl.Series([top] * 5, dtype=dtype)})
    view = type("V", (FeatureView,), body, entity=Entity("e", k=str), source=FrameSource("rows", frame, event_time="at"))
    with project([view], 5) as (store, _):
        store.materialize()
        [online] = store.online(view, [{"k": "a"}]).to_dicts()
        [trained] = store.training_frame(pl.DataFrame({"k": ["a"], "t": [from_micros(5)]}), view, time="t").drop("t").to_dicts()
        assert online == trained == {"k": "a", "total": kind(top * 5), "middle": float(top), "spread": 0.0}
