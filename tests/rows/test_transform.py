"""From a source's rows to a history's: what is rejected and why (S19), and what comes out (S1, S2)."""

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore import Feature
from featurestore.errors import DefinitionError
from featurestore.rows.transform import TransformResult, shape_rows
from tests.projects import INSTANT, memory_of, view_of

WHEN = datetime(2020, 1, 1, tzinfo=UTC)


def shaped(annotation: Any, column: pl.Series, feature: Any = None) -> TransformResult:
    """Shapes rows of one feature ``x``."""
    frame = pl.DataFrame({"k": ["a"] * len(column), "event": [WHEN] * len(column), "x": column})
    frame = frame.with_columns(pl.col("event").cast(INSTANT))
    source = memory_of(frame, late=False)
    body = {"x": annotation}
    if feature is None:
        return shape_rows(frame, view_of(source, {"k": str}, body).__view__, None)
    from featurestore import Entity, FeatureView

    made = type("V", (FeatureView,), {"__annotations__": body, "x": feature}, entity=Entity("e", k=str), source=source)
    return shape_rows(frame, made.__view__, None)


@pytest.mark.parametrize(
    ("annotation", "feature", "good", "bad", "reason"),
    [
        (float, Feature(ge=0), [0.0, 1.5], [-0.1, float("nan")], "x breaks ge=0"),
        (float, Feature(gt=0), [0.1], [0.0, float("nan")], "x breaks gt=0"),
        (float, Feature(le=10), [10.0, -5.0], [10.1, float("nan")], "x breaks le=10"),
        (int, Feature(lt=10), [9], [10], "x breaks lt=10"),
        (str, Feature(min_length=2), ["ab", "éé"], ["a", "é"], "x breaks min_length=2"),
        (str, Feature(max_length=2), ["", "éé"], ["abc"], "x breaks max_length=2"),
        (str, Feature(pattern="^[A-Z]{2}$"), ["UA"], ["ua", "UAL"], "x breaks pattern='^[A-Z]{2}$'"),
        (str, Feature(one_of=["a", "b"]), ["a"], ["c", ""], "x breaks one_of=('a', 'b')"),
        (int, Feature(one_of=[1, 2]), [1, 2], [3], "x breaks one_of=(1, 2)"),
        (list[int], Feature(max_length=1), [[], [1]], [[1, 2]], "x breaks max_length=1"),
        (bytes, Feature(min_length=1), [b"\x00"], [b""], "x breaks min_length=1"),
        (date, Feature(ge=date(2020, 1, 2)), [date(2020, 1, 2)], [date(2020, 1, 1)], "x breaks ge='2020-01-02'"),
        (datetime, Feature(lt=WHEN), [WHEN - timedelta(microseconds=1)], [WHEN], "x breaks lt='2020-01-01T00:00:00+00:00'"),
    ],
)  # fmt: skip
def test_s19_each_constraint_rejects_what_breaks_it_and_nothing_else(
    annotation: Any, feature: Any, good: list[Any], bad: list[Any], reason: str
) -> None:
    result = shaped(annotation | None, pl.Series([*good, *bad, None]), feature)
    assert result.rows["x"].to_list() == [*good, None]
    assert result.reasons == {reason: len(bad)}
    [rejected] = result.rejected
    assert rejected["x"].len() == len(bad)


def test_s19_a_null_where_the_type_says_none_is_rejected() -> None:
    result = shaped(float, pl.Series([1.0, None]))
    assert result.rows["x"].to_list() == [1.0]
    assert result.reasons == {"x is null": 1}


@pytest.mark.parametrize(
    ("annotation", "column", "kept"),
    [
        (Annotated[int, pl.Int8], pl.Series([127, 128, -128, -129]), [127, -128]),
        (int, pl.Series([1.0, 1.5, float("nan"), float("inf"), -2.0]), [1, -2]),
        (Annotated[int, pl.UInt8], pl.Series([0, -1, 255]), [0, 255]),
        (float, pl.Series([2**53, 2**53 + 1]), [2.0**53]),
        (Annotated[float, pl.Float32], pl.Series([0.5, 1e300]), [0.5]),
        (Annotated[list[float], pl.Array(pl.Float32, 2)], pl.Series([[1.0, 2.0], [1.0], [1.0, None]]), [[1.0, 2.0]]),
        (list[int], pl.Series([[1.0], [None], []]), [[1], [None], []]),
    ],
)
def test_s19_a_value_that_does_not_fit_its_type_is_rejected(annotation: Any, column: pl.Series, kept: list[Any]) -> None:
    result = shaped(annotation, column)
    assert result.rows["x"].to_list() == kept
    assert sum(result.reasons.values()) == len(column) - len(kept)


@given(
    rows=st.lists(
        st.tuples(st.none() | st.sampled_from("ab"), st.none() | st.integers(0, 5), st.none() | st.integers(-3, 3)), max_size=12
    )
)
def test_s19_every_row_is_kept_or_rejected_once(rows: list[tuple[Any, Any, Any]]) -> None:
    schema = {"k": pl.String, "event": pl.Int64, "x": pl.Int64}
    frame = pl.DataFrame(rows, schema=schema, orient="row").with_columns(pl.col("event").cast(INSTANT))
    view = view_of(memory_of(frame, late=False), {"k": str}, {"x": Annotated[int, pl.UInt8]}).__view__
    result = shape_rows(frame, view, None)
    good = [row for row in rows if None not in row and row[2] >= 0]
    assert result.rows.height == len(good)
    assert sum(part.height for part in result.rejected) == len(rows) - len(good)
    assert sum(result.reasons.values()) == len(rows) - len(good)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda rows: rows.drop("x"), "returns no column 'x', a feature of view 'v'"),
        (lambda rows: rows.drop("k"), "returns no column 'k', a join key of view 'v'"),
        (lambda rows: rows.drop("event"), "returns no time column 'event'; keep it"),
        (
            lambda rows: rows.with_columns(x=pl.lit("text")),
            "returns String for the feature 'x' of view 'v', which is declared as Float64",
        ),
        (lambda rows: rows.collect(), "returns DataFrame; it takes a pl.LazyFrame and must return one"),
        (lambda rows: rows.select("nope"), "fails: ColumnNotFoundError"),
        (lambda rows: 1 / 0, "fails: ZeroDivisionError"),
    ],
)
def test_a_transform_that_returns_the_wrong_thing_says_what(transform: Any, message: str) -> None:
    frame = pl.DataFrame({"k": ["a"], "event": pl.Series([WHEN]).cast(INSTANT), "x": [1.0]})
    view = view_of(memory_of(frame, late=False), {"k": str}, {"x": float}, transform=transform)
    with pytest.raises(DefinitionError, match=message.replace("'", ".")):
        shape_rows(frame, view.__view__, transform)
