"""Durations, schedules and instants (S1)."""

from datetime import UTC, datetime, timedelta, timezone

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.clock import check_schedule, format_duration, from_micros, parse_duration, parse_instant, to_micros
from featurestore.errors import DefinitionError, RequestError
from featurestore.instants import instants


@given(st.integers(1, 100_000 * 86_400_000_000))
def test_a_duration_is_read_back(micros: int) -> None:
    assert parse_duration(format_duration(micros)) == micros


@given(st.datetimes(timezones=st.just(UTC)))
def test_an_instant_is_read_back(moment: datetime) -> None:
    assert from_micros(to_micros(moment)) == moment == parse_instant(moment.isoformat())


@pytest.mark.parametrize("wrong", ["", "6", "h", "6 h", "6h ", "1mo", "1y", "-1h", "0s", "1.5h", timedelta(0), timedelta(-1)])
def test_what_is_no_duration_is_told(wrong: str) -> None:
    with pytest.raises(DefinitionError):
        parse_duration(wrong)


@pytest.mark.parametrize("wrong", ["", "often", "* * * *", "* * * * * *", "1mo"])
def test_what_is_no_schedule_is_told(wrong: str) -> None:
    with pytest.raises(DefinitionError, match="cron line of five fields"):
        check_schedule(wrong)


def test_what_is_no_time_is_told() -> None:
    with pytest.raises(RequestError, match="2013-07-01"):
        parse_instant("yesterday")


@given(st.integers(-(10**17), 10**17))
def test_s1_finer_precision_is_floored(nanos: int) -> None:
    column = pl.Series([nanos]).cast(pl.Datetime("ns"))
    assert pl.select(instants(pl.lit(column), column.dtype)).to_series().to_physical().to_list() == [nanos // 1000]


def test_s1_aware_inputs_are_converted_and_naive_ones_taken_as_utc() -> None:
    moment = datetime(2020, 6, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    assert to_micros(moment) == to_micros(datetime(2020, 6, 1, 10, tzinfo=UTC)) == to_micros(datetime(2020, 6, 1, 10))  # noqa: DTZ001 - meant
