"""Pushed rows in the form of their source: text as JSON says what it lacks."""

from datetime import timedelta
from typing import Any

import msgspec
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore import ParquetSource
from featurestore.errors import RequestError
from featurestore.rows.pushed import in_source_form

SOURCE = ParquetSource("things", "things.parquet", event_time="at")
INSTANT = pl.Datetime("us", "UTC")
DURATIONS = st.timedeltas(timedelta(days=-100_000_000), timedelta(days=100_000_000))
VALUES: list[tuple[pl.DataType, Any]] = [
    (pl.Binary(), st.binary()),
    (pl.Duration("us"), DURATIONS),
    (pl.Time(), st.times()),
    (pl.Date(), st.dates()),
    (pl.List(pl.Binary()), st.lists(st.none() | st.binary())),
    (pl.List(pl.Duration("us")), st.lists(DURATIONS, min_size=1)),
    (pl.Array(pl.Date(), 2), st.lists(st.dates(), min_size=2, max_size=2)),
]


def pushed(dtype: pl.DataType, *values: Any) -> pl.Series:
    rows = pl.DataFrame({"at": ["2026-01-01"] * len(values), "value": values})
    return in_source_form(rows, SOURCE, pl.Schema({"at": INSTANT, "value": dtype}))["value"]


@pytest.mark.parametrize(("dtype", "values"), VALUES, ids=lambda each: str(each) if isinstance(each, pl.DataType) else "")
def test_what_json_says_is_read(dtype: pl.DataType, values: Any) -> None:
    @given(values)
    def check(value: Any) -> None:
        text = msgspec.json.decode(msgspec.json.encode(value))
        if text:
            found = pushed(dtype, text, None)
            assert (found.to_list(), found.dtype) == ([value, None], dtype)

    check()


@pytest.mark.parametrize("text", ["P", "PT", "PT1", "1D", "P1DT", "PT1.S", "PT1S ", "P-1D", "P106751992D", "PT1.0000001S", ""])
def test_what_is_no_duration_is_told(text: str) -> None:
    with pytest.raises(RequestError, match="which is not a valid Duration"):
        pushed(pl.Duration("us"), text)


def test_parts_of_a_duration_add_up() -> None:
    told = pushed(pl.Duration("us"), "P1DT2H3M4.5S", "-PT90M", "+P2D")
    assert told.to_list() == [timedelta(days=1, hours=2, minutes=3, seconds=4.5), timedelta(minutes=-90), timedelta(days=2)]


@pytest.mark.parametrize(("dtype", "text"), [(pl.Float64(), "-1e400"), (pl.Float32(), "1e39")])
def test_s22_digits_that_no_float_holds_are_no_infinity(dtype: pl.DataType, text: str) -> None:
    with pytest.raises(RequestError, match=f"'{text}' in the column 'value', which is not a valid Float"):
        pushed(dtype, "1.5", text)
    assert pushed(dtype, "inf", "-Infinity", "1e30", None).is_infinite().to_list() == [True, True, False, None]
