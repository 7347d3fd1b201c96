"""One request has the features of the same row among many, to the last bit, whatever the rows beside it hold (S16, S20)."""

import math
import struct
from collections.abc import Sequence
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from featurestore.on_demand.evaluate import evaluate
from tests.effort import examples

X, Y, S = pl.col("x"), pl.col("y"), pl.col("s")
ELEMENT = pl.element()
EXPRESSIONS = {
    "sum": X.list.sum(),
    "inverse": 1.0 / X.list.sum(),
    "mean": X.list.mean(),
    "deviation": X.list.std(),
    "median": X.list.median(),
    "sevenths": X.list.eval(ELEMENT / 7),
    "sum of sevenths": X.list.eval(ELEMENT / 7).list.sum(),
    "first third": X.list.get(0, null_on_oob=True) / 3,
    "head": X.list.head(2).list.sum(),
    "tail": X.list.tail(1).list.sum(),
    "reversed": X.list.reverse().list.sum(),
    "squares": X.list.eval(ELEMENT * ELEMENT).list.sum().sqrt(),
    "positive": X.list.eval(ELEMENT.filter(ELEMENT > 0)).list.sum(),
    "running": X.list.eval(ELEMENT.cum_sum()),
    "without nulls": X.list.drop_nulls().list.sum(),
    "vector": Y.arr.sum(),
    "vector of thirds": Y.arr.eval(ELEMENT / 3).arr.sum(),
    "seventh": S / 7,
    "listed": 1.0 / pl.concat_list(S).list.sum(),
    "mixed": (S * 1.1) / 3 + X.list.sum(),
}
Row = tuple[list[float | None] | None, list[float | None], float | None]


def bits(value: Any) -> Any:
    """A value that tells -0.0 from 0.0, and equals itself where it is NaN."""
    if isinstance(value, (list, pl.Series)):
        return [bits(each) for each in value]
    return struct.pack(">d", math.nan if value != value else value) if isinstance(value, float) else value


def evaluated(rows: Sequence[Row], dtype: pl.DataType) -> list[Any]:
    types = {"x": pl.List(dtype), "y": pl.Array(dtype, 2), "s": dtype}
    columns = [pl.Series(name, [row[place] for row in rows], dtype=types[name]) for place, name in enumerate(types)]
    found = evaluate(columns, [expression.alias(name) for name, expression in EXPRESSIONS.items()])
    assert found.height == len(rows)
    return [{name: bits(value) for name, value in row.items()} for row in found.to_dicts()]


numbers = st.sampled_from([None, 0.0, -0.0, 1.0, 5.0, 0.1, -7.3, 1e15, math.inf, math.nan])
rows = st.tuples(st.none() | st.lists(numbers, max_size=4), st.lists(numbers, min_size=2, max_size=2), numbers)


@pytest.mark.parametrize("dtype", [pl.Float64(), pl.Float32()], ids=str)
@settings(max_examples=examples(60))
@given(st.lists(rows, min_size=1, max_size=5))
@example([([], [1.0, 2.0], 7.0), ([1.0, None], [None, 1.0], None)])
@example([([5.0], [1.0, 2.0], -0.0), ([], [0.0, 0.0], 1.0)])
def test_s16_s20_a_row_alone_is_computed_as_among_others(dtype: pl.DataType, together: list[Row]) -> None:
    assert [evaluated([row], dtype)[0] for row in together] == evaluated(together, dtype)


def test_s16_what_fails_of_nulls_is_computed_without_them() -> None:
    """The rows that stand below must not fail what the rows themselves do not."""
    columns = [pl.Series("x", [[1.0, 2.0, 3.0], [1.0, 2.0, 4.0]])]
    found = evaluate(columns, [pl.col("x").list.get(2), pl.col("x").list.eval(pl.element().cast(pl.Int8)).alias("cast")])
    assert found["x"].to_list() == [3.0, 4.0]
    assert evaluate([pl.Series("x", [None], dtype=pl.List(pl.Float64))], [pl.col("x").list.get(2)])["x"].to_list() == [None]
    with pytest.raises(pl.exceptions.ComputeError):
        evaluate([pl.Series("x", [[1.0]])], [pl.col("x").list.get(2)])
