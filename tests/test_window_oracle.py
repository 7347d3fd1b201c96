"""The oracle of windowed features itself, against Polars' aggregates of the same values: what a reader would expect."""

import math

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.effort import examples
from tests.window_oracle import RULES, Event, Window, agrees, held, inputs
from tests.windowed import WILD

POLARS = {
    "count": pl.col("x").count().cast(pl.Int64),
    "count_distinct": pl.col("x").drop_nulls().n_unique().cast(pl.Int64),
    "first": pl.col("x").drop_nulls().first(),
    "last": pl.col("x").drop_nulls().last(),
    "last_n": pl.col("x").drop_nulls().tail(3).implode(),
    "max": pl.col("x").max(),
    "mean": pl.col("x").mean(),
    "min": pl.col("x").min(),
    "quantile": pl.col("x").quantile(0.3, "linear"),
    "std": pl.col("x").std(),
    "sum": pl.col("x").sum(),
    "var": pl.col("x").var(),
}
ARGUMENTS = {"last_n": (3,), "quantile": (0.3,)}


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=examples(50), deadline=None)
@given(values=st.lists(st.sampled_from([*WILD, 1.0, 2.5, None]), max_size=12))
def test_a_rule_is_what_polars_does(rule: str, values: list[float | None]) -> None:
    found = pl.DataFrame({"x": pl.Series(values, dtype=pl.Float64)}).select(POLARS[rule]).item()
    found = found.to_list() if isinstance(found, pl.Series) else found
    assert agrees(rule, [[value] for value in values if value is not None], found, *ARGUMENTS.get(rule, ()))


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_tells_what_is_wrong(rule: str) -> None:
    values = [1.0, 2.0, 5.5, 7.0]
    right = RULES[rule].of(values, *ARGUMENTS.get(rule, ()))
    inputs = [[value] for value in values]
    assert agrees(rule, inputs, right, *ARGUMENTS.get(rule, ()))
    for wrong in (None, math.nan, [], [5.5, 2.0, 7.0], right * 2 if isinstance(right, (int, list)) else right * (1 + 1e-7)):
        assert not agrees(rule, inputs, wrong, *ARGUMENTS.get(rule, ()))


def test_what_is_held() -> None:
    def row(event: int, known: int, number: int | None = None) -> Event:
        return Event(("a",), event, known, (event,), number)

    window = Window(9, 3)
    assert [window.tail(t) for t in (9, 11, 12, 0, -1)] == [0, 0, 3, -9, -12]
    rows = [row(0, 0), row(0, 0), row(2, 12), row(5, 5, 1), row(4, 6, 1), row(-1, 8, 2), row(3, 4, 2)]
    assert [each.event for each in held(rows, ("a",), 5, window)] == [0, 0, 5, 3]
    assert [each.event for each in held(rows, ("a",), 11, window)] == [0, 0, 4]
    assert [each.event for each in held(rows, ("a",), 12, window)] == [4]
    assert [each.event for each in held(rows, ("a",), 5, window, as_known=False)] == [0, 0, 2, 4, -1]
    assert not held(rows, ("b",), 5, window)
    assert not held(rows, (None,), 5, window)
    later = [Event(("a",), 1, 2, (9.0,)), Event(("a",), 1, 1, (5.0,)), Event(("a",), 1, 2, (7.0,)), Event(("a",), 1, 2, (None,))]
    assert inputs(later, lambda each: each.values[0], None) == [[5.0], [7.0, 9.0]]
    assert inputs(later, lambda each: each.values[0], lambda each: each.known == 1) == [[5.0]]


@pytest.mark.parametrize(
    ("found", "right"),
    [([5.0, 9.0, 7.0], True), ([7.0, 9.0], False), ([5.0, 7.0, 7.0], False), ([5.0, 7.0], False), ([7.0, 5.0, 9.0], False)],
)
def test_the_last_few_may_be_tied(found: list[float], right: bool) -> None:
    assert agrees("last_n", [[1.0], [5.0], [7.0, 9.0]], found, 3) is right
    assert agrees("last_n", [[1.0], [7.0, 9.0]], [7.0], 1)
    assert agrees("last_n", [[1.0], [7.0, 9.0]], [1.0, 9.0, 7.0], 7)
