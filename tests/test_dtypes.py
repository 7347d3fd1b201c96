"""Column types: what an annotation may say, and what comes of it, end to end."""

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Optional

import polars as pl
import pytest

from featurestore.clock import from_micros
from featurestore.dtypes import SIMPLE_TYPES, as_dtype, dtype_from_name, dtype_name, fits, read_annotation
from featurestore.errors import DefinitionError
from featurestore.on_demand.values import python_values
from tests.projects import INSTANT, memory_of, same, store_at, view_of

WHEN = datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
VALUES: list[tuple[Any, pl.DataType, list[Any]]] = [
    (bool, pl.Boolean(), [True, False]),
    (int, pl.Int64(), [-(2**63), 2**63 - 1, 0]),
    (float, pl.Float64(), [0.1, float("nan"), float("-inf"), -0.0, 5e-324]),
    (str, pl.String(), ["", "é", "\x00", "{}"]),
    (bytes, pl.Binary(), [b"", b"\x00\xff"]),
    (datetime, INSTANT, [WHEN, datetime(2300, 1, 1, tzinfo=UTC)]),
    (date, pl.Date(), [date(1, 1, 1), date(9999, 12, 31)]),
    (Decimal, pl.Decimal(38, 9), [Decimal("-1.500000000"), Decimal("12345678901234567890.123456789")]),
    (list[float], pl.List(pl.Float64()), [[], [1.5, None], [float("inf")]]),
    (list[list[str]], pl.List(pl.List(pl.String())), [[], [[], ["a", None]], [None]]),
    (list[date], pl.List(pl.Date()), [[date(2020, 1, 1), None]]),
    (Annotated[int, pl.Int8], pl.Int8(), [-128, 127]),
    (Annotated[int, pl.UInt64], pl.UInt64(), [0, 2**64 - 1]),
    (Annotated[int, pl.UInt16()], pl.UInt16(), [65535]),
    (Annotated[float, pl.Float32], pl.Float32(), [0.5, 3.4028234663852886e38]),
    (Annotated[Decimal, pl.Decimal(10, 2)], pl.Decimal(10, 2), [Decimal("0.01"), Decimal("-99999999.99")]),
    (Annotated[timedelta, pl.Duration("us")], pl.Duration("us"), [timedelta(microseconds=-1), timedelta(days=900)]),
    (Annotated[time, pl.Time], pl.Time(), [time(0), time(23, 59, 59, 999_999)]),
    (Annotated[list[float], pl.Array(pl.Float32, 3)], pl.Array(pl.Float32, 3), [[1.5, -2.0, 0.0]]),
    (Annotated[list[int], pl.Array(pl.UInt8, 2)], pl.Array(pl.UInt8, 2), [[0, 255]]),
    (Annotated[list[datetime], pl.List(pl.Datetime("ms"))], pl.List(INSTANT), [[WHEN, None]]),
]


@pytest.mark.parametrize(("annotation", "dtype", "values"), VALUES, ids=[str(dtype) for _, dtype, _ in VALUES])
def test_s12_s16_every_dtype_survives_to_training_and_online(
    annotation: Any, dtype: pl.DataType, values: list[Any], tmp_path: Path
) -> None:
    """Missing rows and nulls leave the dtype as it is; online values equal the training frame's, as Python and in Polars."""
    assert read_annotation(annotation) == (dtype, False)
    given = [*values, None]
    keys = [f"k{place}" for place in range(len(given))]
    source = memory_of(
        pl.DataFrame({"k": keys, "event": [from_micros(0)] * len(keys), "x": pl.Series(given, dtype=dtype)}), late=False
    )
    view = view_of(source, {"k": str}, {"x": Optional[annotation]})  # noqa: UP045 - `|` does not take an Annotated on 3.11
    with store_at(tmp_path, lambda: from_micros(5)) as store:
        store.apply([view])
        assert store.materialize()[0].rows_written == len(keys)
        spine = pl.DataFrame({"k": [*keys, "never"], "t": [from_micros(1)] * (len(keys) + 1)})
        frame = store.training_frame(spine, view, time="t")
        assert frame.schema["x"] == dtype
        assert frame["x"].equals(pl.Series("x", [*given, None], dtype=dtype), null_equal=True)
        rows = store.online(view, spine.select("k"))
        assert rows.to_polars().equals(frame.drop("t"), null_equal=True)
        expected = python_values(frame["x"])  # a Float32 is shown by its shortest text
        assert all(same(row["x"], value) or repr(row["x"]) == repr(value) for row, value in zip(rows, expected, strict=True))
        assert rows.status["x"] == ["present"] * len(values) + ["null", "missing"]


@pytest.mark.parametrize("dtype", [pl.String, pl.Binary, pl.Boolean, pl.Date, INSTANT, pl.Int8, pl.Int64, pl.UInt32, pl.UInt64])
def test_every_key_type_joins_and_looks_up(dtype: Any, tmp_path: Path) -> None:
    samples: dict[Any, list[Any]] = {
        pl.String: ["a", ""], pl.Binary: [b"\x00", b""], pl.Boolean: [True, False], pl.Date: [date(2020, 1, 1), date(1960, 1, 1)],
        INSTANT: [WHEN, from_micros(0)],
    }  # fmt: skip
    keys = samples.get(dtype, [0, 7])
    frame = pl.DataFrame({"k": pl.Series(keys, dtype=dtype), "event": [from_micros(0)] * 2, "x": [1.0, 2.0]})
    view = view_of(memory_of(frame, late=False), {"k": dtype}, {"x": float})
    with store_at(tmp_path, lambda: from_micros(5)) as store:
        store.apply([view])
        store.materialize()
        spine = frame.select("k", pl.col("event").alias("t"))
        assert store.training_frame(spine, view, time="t")["x"].to_list() == [1.0, 2.0]
        assert [row["x"] for row in store.online(view, [{"k": key} for key in keys])] == [1.0, 2.0]


def test_names_of_dtypes_are_read_back() -> None:
    for dtype in [*SIMPLE_TYPES.values(), *(dtype for _, dtype, _ in VALUES)]:
        assert dtype_from_name(dtype_name(dtype)) == dtype


@pytest.mark.parametrize("wrong", [complex, dict, pl.Object, pl.Struct, list, pl.List, int | str, "float", None])
def test_types_no_column_can_have_are_refused_with_those_that_can(wrong: Any) -> None:
    with pytest.raises(DefinitionError):
        read_annotation(wrong)


def test_a_string_annotation_names_the_future_import() -> None:
    with pytest.raises(DefinitionError, match="from __future__ import annotations"):
        read_annotation("float | None")


@pytest.mark.parametrize(
    ("found", "wanted", "expected"),
    [
        (pl.Int64(), pl.Int8(), True),
        (pl.Float64(), pl.Int64(), True),
        (pl.String(), pl.Float64(), False),
        (pl.Int64(), pl.String(), False),
        (pl.Boolean(), pl.Int64(), False),
        (pl.Null(), pl.String(), True),
        (pl.Datetime("ns"), INSTANT, True),
        (pl.Date(), INSTANT, True),
        (INSTANT, pl.Date(), False),
        (pl.List(pl.Int8), pl.List(pl.Int64), True),
        (pl.List(pl.String), pl.List(pl.Int64), False),
        (pl.Categorical(), pl.String(), True),
    ],
)
def test_which_types_fit(found: pl.DataType, wanted: pl.DataType, expected: bool) -> None:
    assert fits(found, wanted) is expected


def test_as_dtype_takes_what_users_write() -> None:
    assert as_dtype(pl.Decimal) == pl.Decimal(38, 9)
    assert as_dtype(pl.Datetime("ns", "Europe/Berlin")) == INSTANT
    assert as_dtype(list[int]) == pl.List(pl.Int64)
