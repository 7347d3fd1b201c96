"""Values of any type as Python's, those too that Python cannot say."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from featurestore.privacy.tombstone_set import canonical, loosely_among
from featurestore.rows.python_values import rows_of, values_of

_NUMBERS = [0, 2**31 - 1, -(2**31), None]
DAYS = pl.Series(_NUMBERS, dtype=pl.Int32).cast(pl.Date)
DAY = date(1970, 1, 1)
TIMES = {
    "date": (DAYS, [DAY, 2**31 - 1, -(2**31), None]),
    "us": (
        pl.Series([0, 2**63 - 1, 253_402_300_800_000_000]).cast(pl.Datetime("us", "UTC")),
        [datetime(1970, 1, 1, tzinfo=UTC), 2**63 - 1, 253_402_300_800_000_000],
    ),
    "ms": (pl.Series([0, -(2**63)]).cast(pl.Datetime("ms")), [datetime(1970, 1, 1), -(2**63)]),  # noqa: DTZ001 - as given
    "zone": (
        pl.Series([253_402_300_799_999_999]).cast(pl.Datetime("us", "Pacific/Kiritimati")),
        [253_402_300_799_999_999],
    ),
    "duration": (pl.Series([1, 2**63 - 1, -(2**63)]).cast(pl.Duration("ms")), [timedelta(milliseconds=1), 2**63 - 1, -(2**63)]),
    "list": (
        pl.Series([_NUMBERS, [], None], dtype=pl.List(pl.Int32)).cast(pl.List(pl.Date)),
        [[DAY, 2**31 - 1, -(2**31), None], [], None],
    ),
    "vector": (DAYS.reshape((2, 2)), [[DAY, 2**31 - 1], [-(2**31), None]]),
    "struct": (
        pl.DataFrame({"day": DAYS, "n": [1, 2, 3, None]}).to_struct(),
        [{"day": DAY, "n": 1}, {"day": 2**31 - 1, "n": 2}, {"day": -(2**31), "n": 3}, {"day": None, "n": None}],
    ),
    "lists of structs": (
        pl.Series([[{"day": DAY}], None]),
        [[{"day": DAY}], None],
    ),
    "text": (pl.Series(["a", None]), ["a", None]),
}


@pytest.mark.parametrize("kind", TIMES)
def test_a_time_beyond_pythons_is_the_number_that_it_is(kind: str) -> None:
    column, values = TIMES[kind]
    assert values_of(column) == values
    assert rows_of(column.to_frame("x")) == [{"x": value} for value in values]


@pytest.mark.parametrize("kind", [kind for kind in TIMES if kind != "text"])
def test_a_row_with_any_time_is_looked_through_for_who_is_forgotten(kind: str) -> None:
    """K05: a pushed row with a time beyond the calendar made a panic of every ``forget``, for every person."""
    column: Any = TIMES[kind][0]
    canonical(column)
    rows = pl.DataFrame({"when": column, "who": ["ann"] * column.len()})
    assert loosely_among(rows, ["name"], pl.DataFrame({"name": ["ann"]})).all()
    assert not loosely_among(rows, ["name"], pl.DataFrame({"name": ["bob"]})).any()
    assert not loosely_among(rows, ["when"], pl.DataFrame({"when": [date(2013, 1, 1)]})).any()
