"""The kernel against the oracle: S3-S6, on frames alone."""

from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from featurestore import Entity, FeatureStore, FeatureView, FrameSource
from featurestore.rows import total_order as histories
from featurestore.rows.point_in_time import PointInTime, latest_as_of
from featurestore.rows.total_order import count_tied, sort_history
from tests.oracle import Row, latest

INSTANT = pl.Datetime("us", "UTC")
KEYS = st.sampled_from(["a", "b", "c"])
TIMES = st.integers(-3, 12)
VALUES = st.none() | st.sampled_from([0.0, 1.5, -2.0, float("inf")])


def rows_of() -> st.SearchStrategy[list[Row]]:
    row = st.builds(
        lambda key, event, late, value: Row((key,), event, event + late, (value,)), KEYS, TIMES, st.integers(-2, 6), VALUES
    )
    return st.lists(row, max_size=25)


def history_of(rows: list[Row]) -> pl.DataFrame:
    data = [(row.key[0], row.event, row.known, row.values[0]) for row in rows]
    schema = {"k": pl.String, "event_time": pl.Int64, "available_time": pl.Int64, "x": pl.Float64}
    frame = pl.DataFrame(data, schema=schema, orient="row").with_columns(pl.col("event_time", "available_time").cast(INSTANT))
    return sort_history(frame, ["k"], ["x"])


@pytest.mark.parametrize("as_known", [True, False])
@pytest.mark.parametrize("ttl", [None, 1, 3])
@given(rows=rows_of(), spine=st.lists(st.tuples(KEYS, TIMES), max_size=12))
def test_s3_s4_s5_s6_kernel_equals_oracle(rows: list[Row], spine: list[tuple[str, int]], ttl: int | None, as_known: bool) -> None:
    frame = pl.DataFrame(spine, schema={"k": pl.String, "_time": pl.Int64}, orient="row").with_columns(
        pl.col("_time").cast(INSTANT)
    )
    plan = PointInTime(("k",), ("x",), ("x",), ttl=ttl, as_known=as_known, late=True)
    found = latest_as_of(frame, history_of(rows), plan)["x"].to_list()
    expected = [latest(rows, (key,), t, ttl=ttl, as_known=as_known) for key, t in spine]
    assert found == [None if values is None else values[0] for values in expected]


@pytest.mark.parametrize("as_known", [True, False])
@pytest.mark.parametrize("ttl", [None, 1, 3])
@given(rows=rows_of(), spine=st.lists(st.tuples(KEYS, TIMES), max_size=12), edges=st.sets(TIMES, max_size=4), late=st.booleans())
@example(rows=[Row(("a",), 1, 1, (0.0,)), Row(("a",), 2, 5, (1.5,))], spine=[("a", 4), ("a", 5)], edges={3}, late=True)
@example(rows=[Row(("a",), 1, 5, (0.0,)), Row(("a",), 2, 2, (1.5,))], spine=[("a", 2), ("a", 5)], edges={3}, late=True)
def test_s3_s4_s5_s6_split_by_time_it_equals_the_oracle(
    rows: list[Row], spine: list[tuple[str, int]], edges: set[int], ttl: int | None, as_known: bool, late: bool
) -> None:
    """Each stretch of time has only what was available within it, and each entity's last row from before."""
    rows = rows if late else [Row(row.key, row.event, row.event, row.values) for row in rows]
    plan = PointInTime(("k",), ("x",), ("x",), ttl=ttl, as_known=as_known, late=late)
    history = history_of(rows)
    for start, end in pairwise([-99, *sorted(edges), 99]):
        near = history if ttl is None else history.filter(pl.col("event_time").to_physical() >= start - ttl)
        seen = plan.seen_within(near.select(plan.columns), start, end)
        asked = [(key, t) for key, t in spine if start <= t < end]
        frame = pl.DataFrame(asked, schema={"k": pl.String, "_time": pl.Int64}, orient="row").with_columns(
            pl.col("_time").cast(INSTANT)
        )
        values = latest_as_of(frame, seen, plan)["x"].to_list()
        expected = [latest(rows, (key,), t, ttl=ttl, as_known=as_known) for key, t in asked]
        assert values == [None if row is None else row[0] for row in expected]


def test_what_is_older_than_an_entitys_last_row_is_left_out() -> None:
    history = history_of([Row((key,), event, event, (1.0,)) for key in "ab" for event in range(20)])
    plan = PointInTime(("k",), ("x",), ("x",), late=True)
    seen = plan.seen_within(history, 10, 12)
    assert seen["event_time"].to_physical().to_list() == [9, 10, 11] * 2


@given(rows=rows_of())
def test_s4_history_is_the_sorted_set_of_distinct_rows(rows: list[Row]) -> None:
    twice = history_of(rows + rows[::-1])
    assert twice.equals(history_of(rows), null_equal=True)
    assert twice.height == len({(row.key, row.event, row.known, row.values) for row in rows})


def test_s4_one_row_has_no_tie_and_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A push counts the ties of what it writes, and often that is one row."""
    row = pl.DataFrame({"k": [1], "event_time": [0], "available_time": [0], "x": [1.0]})
    assert count_tied(pl.concat([row, row.with_columns(x=2.0)]), ["k"]) == 2
    monkeypatch.delattr(histories, "same_as_before")
    assert (count_tied(row, ["k"]), count_tied(row.clear(), ["k"])) == (0, 0)


def test_s4_s16_of_tied_rows_training_and_online_take_the_same(tmp_path: Path) -> None:
    """The one whose values have the greater bytes, in whichever order the source has them."""
    at = datetime(2013, 7, 1, tzinfo=UTC)
    for number, values in enumerate(([1.0, 2.0, 1.5], [2.0, 1.5, 1.0], [1.5, 1.0, 2.0])):
        rows = pl.DataFrame({"k": ["a"] * 3, "at": [at] * 3, "x": values})

        class Tied(FeatureView, entity=Entity("e", k=str), source=FrameSource("rows", rows, event_time="at")):
            x: float

        with FeatureStore(tmp_path, project=f"tied{number}") as store:
            store.apply([Tied])
            store.materialize()
            spine = pl.DataFrame({"k": ["a"], "t": [datetime(2013, 7, 2, tzinfo=UTC)]})
            assert store.training_frame(spine, Tied, time="t")["x"].to_list() == [2.0]
            assert store.online(Tied, [{"k": "a"}]).to_dicts() == [{"k": "a", "x": 2.0}]
