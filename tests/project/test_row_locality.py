"""S20: which transforms are row-local, and which are refused."""

from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest

from featurestore import Entity, FrameSource
from featurestore.definitions.feature_view import ViewSpec
from featurestore.errors import DefinitionError
from featurestore.project.row_locality import check_row_local
from featurestore.rows.transform import collect_transform
from tests.projects import INSTANT, memory_of, store_at, view_of

FRAME = pl.DataFrame(
    {
        "k": [f"k{number % 7}" for number in range(50)],
        "event": pl.Series(range(50)).cast(INSTANT),
        "x": [float(number * 37 % 11) for number in range(50)],
        "many": [[1, 2, 3][: number % 4] for number in range(50)],
    }
)
STATIC = pl.LazyFrame({"k": ["k1", "k2"], "y": [1.0, 2.0]})


def check(transform: Any, frame: pl.DataFrame = FRAME) -> None:
    check_row_local(view_of(memory_of(frame, late=False), {"k": str}, {"x": float}, transform=transform).__view__, transform, frame)


@pytest.mark.parametrize(
    "transform",
    [
        lambda rows: rows,
        lambda rows: rows.filter(pl.col("x") > 3),
        lambda rows: rows.with_columns(y=pl.col("x") * 2).select("k", "event", "y"),
        lambda rows: rows.explode("many"),
        lambda rows: rows.join(STATIC, on="k", how="left"),
        lambda rows: rows.with_columns(pl.col("many").list.mean()),
        lambda rows: rows.filter(pl.col("x") > 1e9),
    ],
)
def test_s20_row_local_transforms_pass(transform: Any) -> None:
    check(transform)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda rows: rows.sort("x"), "sorts its rows"),
        (lambda rows: rows.with_columns(x=pl.col("x") - pl.col("x").mean()), "'x' differ"),
        (lambda rows: rows.with_columns(x=pl.col("x").cum_sum()), "'x' differ"),
        (lambda rows: rows.with_columns(x=pl.col("x").sum().over("k")), "'x' differ"),
        (lambda rows: rows.with_columns(x=pl.col("x").shift(1)), "'x' differ"),
        (lambda rows: rows.with_columns(x=pl.col("x").rolling_mean(3)), "'x' differ"),
        (lambda rows: rows.with_row_index("number"), "'number' differ"),
        (lambda rows: rows.group_by("k").agg(pl.all().first()), "makes 7 rows of a sample at once"),
        (lambda rows: rows.unique(subset="k"), "makes 7 rows of a sample at once"),
        (lambda rows: rows.head(3), "makes 3 rows of a sample at once"),
        (lambda rows: rows.with_columns(pl.col("x").rank().over("k")), "'x' differ"),
    ],
)
def test_s20_others_are_refused_by_the_columns_that_differ(transform: Any, message: str) -> None:
    with pytest.raises(DefinitionError, match=message) as caught:
        check(transform)
    assert "is a windowed feature" in str(caught.value)


def test_s20_a_group_over_distinct_rows_is_found_out() -> None:
    """On a sample without repeated keys a group changes nothing, until the sample is given twice."""
    with pytest.raises(DefinitionError, match="not row-local"):
        check(lambda rows: rows.unique(subset="k"), FRAME.head(5))


def test_s20_apply_refuses_and_writes_nothing(tmp_path: Any) -> None:
    view = view_of(
        memory_of(FRAME, late=False), {"k": str}, {"x": float}, transform=lambda rows: rows.with_columns(pl.col("x").shift(1))
    )
    with store_at(tmp_path, lambda: None) as store:
        with pytest.raises(DefinitionError, match=r"not row-local .*'x' differ"):
            store.apply([view])
        assert dict(store.catalog.views) == {}


@pytest.mark.parametrize(
    "transform",
    [
        lambda rows: rows.with_columns(third=pl.col("temp") / 3),
        lambda rows: rows.with_columns(third=pl.col("temp") / 3).explode("tags"),
        lambda rows: rows.filter(pl.col("temp") > 1e9).with_columns(third=pl.col("temp") / 3),
        lambda rows: rows.with_columns(third=pl.col("temp") / 3).join(
            pl.LazyFrame({"origin": ["JFK", "JFK", "LGA"], "gate": [1, 2, 3]}), on="origin"
        ),
    ],
)
def test_s17_s20_a_row_alone_becomes_what_it_becomes_among_others(transform: Any) -> None:
    """Polars takes a column of one row for a constant, by which it divides otherwise than by a column."""
    at = datetime(2013, 7, 1, tzinfo=UTC)
    temps = [0.7, 84.74337369372327, 76.3774618976614, 49.54350870919409, 0.1]
    tags = [["a", "b"], ["c"], ["d", "d"], [], ["e"]]
    rows = pl.DataFrame({"origin": ["JFK", "JFK", "LGA", "LGA", "LGA"], "at": at, "temp": temps, "tags": tags})
    view = ViewSpec("w", Entity("airport", origin=str), FrameSource("o", rows, event_time="at"), ())
    whole = collect_transform(rows, view, transform)
    parts = pl.concat([collect_transform(row, view, transform) for row in rows.iter_slices(1)])
    assert sorted(map(repr, whole.rows())) == sorted(map(repr, parts.rows()))
