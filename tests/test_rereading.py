"""What changes when it is read again, or makes no difference beside another row: it is refused, or said (S9, S20, S4)."""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl
import pytest

from featurestore import Entity, FeatureStore, FeatureView, FrameSource, SQLSource, count, sum_
from featurestore.definitions.source import Source
from featurestore.errors import DefinitionError, DefinitionErrors

AT = datetime(2013, 7, 1, 12, tzinfo=UTC)
CARD = Entity("card", card=str)
ROWS = pl.DataFrame({"card": ["a", "b", "c"], "at": [AT] * 3, "x": [1.0, 2.0, 3.0]})


def numbered(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.with_columns(v=pl.col("x").map_elements(lambda _: uuid4().hex, return_dtype=pl.String))


def numbered_above_two(rows: pl.LazyFrame) -> pl.LazyFrame:
    ident = pl.col("x").map_elements(lambda x: uuid4().hex if x > 2 else "small", return_dtype=pl.String)
    return rows.with_columns(v=ident)


def stamped(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.with_columns(v=pl.lit(datetime.now(UTC).isoformat()))


def drawn(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.with_columns(v=pl.lit(random.random()).cast(pl.String))


def steady(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.with_columns(v=pl.col("x").cast(pl.String))


def view_of(transform: Any, source: Source, *, windowed: bool = False) -> type[FeatureView]:
    body: dict[str, Any] = {"__annotations__": {"v": str}, "transform": staticmethod(transform), "__module__": __name__}
    if windowed:
        body |= {"__annotations__": {"n": int}, "n": count("v").over("1h")}
    return type("V", (FeatureView,), body, entity=CARD, source=source)


def store_in(folder: Path) -> FeatureStore:
    return FeatureStore(folder, clock=lambda: AT + timedelta(minutes=5))


@pytest.mark.parametrize("windowed", [False, True])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("transform", [numbered, stamped, drawn, numbered_above_two])
def test_s20_a_push_through_a_transform_that_is_not_the_same_twice_is_refused(
    tmp_path: Path, transform: Any, rows: int, windowed: bool
) -> None:
    """Also where the source had no rows at ``apply``, so nothing could be tried."""
    with store_in(tmp_path) as store:
        store.apply([view_of(transform, FrameSource("s", ROWS.clear(), event_time="at"), windowed=windowed)])
        for _ in range(2):
            with pytest.raises(DefinitionError, match="is not the same twice \\(S20\\): 'v'"):
                store.push("s", ROWS.tail(rows))


def test_s20_one_that_draws_for_some_rows_alone_is_refused_at_the_first_of_these(tmp_path: Path) -> None:
    with store_in(tmp_path) as store:
        store.apply([view_of(numbered_above_two, FrameSource("s", ROWS.clear(), event_time="at"))])
        assert store.push("s", ROWS[:1])[0].rows_new == 1
        with pytest.raises(DefinitionError, match="is not the same twice"):
            store.push("s", ROWS[2:])


@pytest.mark.parametrize("transform", [numbered, stamped, drawn, numbered_above_two])
def test_s20_apply_refuses_a_transform_that_is_not_the_same_twice(tmp_path: Path, transform: Any) -> None:
    with store_in(tmp_path) as store, pytest.raises(DefinitionErrors, match=r"is not the same twice \(S20\): .*'v'"):
        store.apply([view_of(transform, FrameSource("s", ROWS, event_time="at"))])


@pytest.mark.parametrize("windowed", [False, True])
def test_s20_one_that_is_the_same_twice_is_taken(tmp_path: Path, windowed: bool) -> None:
    with store_in(tmp_path) as store:
        store.apply([view_of(steady, FrameSource("s", ROWS.clear(), event_time="at"), windowed=windowed)])
        assert [store.push("s", rows)[0].rows_new for rows in (ROWS[:1], ROWS, ROWS)] == [1, 2, 0]


class Spent(FeatureView, entity=CARD, source=FrameSource("other", ROWS, event_time="at")):
    n: int = count().over("1h")


def spent(source: Source, transform: Any = None) -> type[FeatureView]:
    body: dict[str, Any] = {"__annotations__": {"n": int, "s": float}, "n": count().over("1h"), "s": sum_("x").over("1h")}
    if transform is not None:
        body["transform"] = staticmethod(transform)
    return type("Spent", (FeatureView,), body | {"__module__": __name__}, entity=CARD, source=source)


@pytest.mark.parametrize(("extra", "names"), [
    ("now() as loaded", "'loaded'"), ("uuid() as u, current_localtimestamp() as l", "'u', 'l'"), ("random() as r, 1 as one", "'r'"),
])  # fmt: skip
def test_s9_apply_names_columns_that_change_each_time_they_are_read(tmp_path: Path, extra: str, names: str) -> None:
    ROWS.write_parquet(tmp_path / "rows.parquet")
    query = f"select *, {extra} from 'rows.parquet'"  # noqa: S608 - the test's own
    with store_in(tmp_path) as store:
        for source, warns in [
            (SQLSource("s", query, event_time="at", lateness="1h"), True),
            (SQLSource("s", query, event_time="at", lateness="1h", event_id="card"), False),
            (SQLSource("s", "select * from 'rows.parquet'", event_time="at", lateness="1h"), False),
        ]:
            told = [each for each in store.plan([spent(source)]).warnings if "each time it is read" in each]
            assert [f"other values of {names} each time" in each for each in told] == [True] * warns


def test_s9_apply_says_where_a_transform_drops_what_tells_rows_apart(tmp_path: Path) -> None:
    def some(rows: pl.LazyFrame) -> pl.LazyFrame:
        return rows.select("card", "at", "x")

    def kept(rows: pl.LazyFrame) -> pl.LazyFrame:
        return rows.select("card", "at", "x", "_row_hash")

    with store_in(tmp_path) as store:
        source = FrameSource("s", ROWS, event_time="at")
        told = {each: store.plan([spent(source, each)]).warnings for each in (some, kept, steady, None)}
    assert [len(warnings) for warnings in told.values()] == [1, 0, 0, 0]
    assert "drops the column '_row_hash'" in told[some][0]


class Balance(FeatureView, entity=CARD, source=FrameSource("s", ROWS, event_time="at")):
    x: float


TIED = pl.DataFrame({"card": ["a", "a", "a", "b", "b", "c"], "at": [AT] * 6, "x": [1.0, 2.0, 2.0, 5.0, 5.0, 6.0]})


def test_s4_ties_are_counted_and_said(tmp_path: Path) -> None:
    """Of a's rows two tie, and a third is equal to one of them, as b's are."""
    view = type("Balance", (FeatureView,), {"__annotations__": {"x": float}, "__module__": __name__}, entity=CARD,
                source=FrameSource("s", TIED, event_time="at"))  # fmt: skip
    with store_in(tmp_path) as store:
        [warning] = store.plan([view]).warnings
        assert warning.startswith("2 of 6 rows of source 's' have the join keys and times of another row")
        assert "order_by=" in warning
        store.apply([view])
        summary = store.materialize()
        assert (summary[0].rows_written, summary[0].rows_known, summary[0].rows_tied) == (4, 2, 2)
        assert "2 known" in repr(summary)
        assert "2 tied" in repr(summary)
        assert (store.materialize()[0].rows_known, store.materialize()[0].rows_tied) == (6, 0)


def test_s4_ties_of_a_push_are_counted_and_said(tmp_path: Path) -> None:
    with store_in(tmp_path) as store:
        store.apply([Balance])
        summary = store.push("s", TIED)
        assert (summary[0].rows_new, summary[0].rows_known, summary[0].rows_tied) == (4, 2, 2)
        assert "2 tied" in repr(summary)
        assert "tied" not in repr(store.push("s", TIED[3:]))


def ordered(rows: pl.DataFrame, order_by: str | None = "seq", **options: Any) -> type[FeatureView]:
    source = FrameSource("s", rows, event_time="at", order_by=order_by)
    body = {"__annotations__": {"x": float | None, "y": str | None}, "__module__": __name__}
    return type("Balance", (FeatureView,), body, entity=CARD, source=source, **options)


def of_seq(*given: tuple[Any, float | None], dtype: Any = pl.Int64) -> pl.DataFrame:
    seqs, values = zip(*given, strict=True)
    seq = pl.Series("seq", seqs, dtype=dtype)
    # The row with more values is the greater one by S4, so that order_by has to come before it.
    return pl.DataFrame({"card": "a", "at": AT, "x": list(values), "y": [None if value == 1.0 else "y" for value in values]},
                        schema_overrides={"x": pl.Float64, "y": pl.String}).with_columns(seq)  # fmt: skip


def winners(store: FeatureStore) -> list[Any]:
    """The winner online and in training, which are the same (S16)."""
    [online] = store.online("balance", [{"card": "a"}]).to_dicts()
    [training] = store.training_frame(pl.DataFrame({"card": ["a"], "event_time": [AT]}), ["balance"]).to_dicts()
    return [online["x"], training["x"]]


ORDERS: dict[str, tuple[Any, list[Any]]] = {
    "integers": (pl.Int64, [None, -(2**62), -1, 0, 2**53, 2**53 + 1, 2**62]),
    "unsigned": (pl.UInt64, [0, 2**63, 2**64 - 1]),
    "floats": (pl.Float64, [None, -1.5, -1.25, 0.0, 0.5, 3.0]),
    "times": (pl.Datetime("ms", "UTC"), [None, datetime(1, 1, 2, tzinfo=UTC), AT, AT + timedelta(milliseconds=1)]),
    "truths": (pl.Boolean, [None, False, True]),
}


@pytest.mark.parametrize(("dtype", "values"), ORDERS.values(), ids=ORDERS)
def test_s4_order_by_decides_ties_before_the_values_do(tmp_path: Path, dtype: Any, values: list[Any]) -> None:
    """In one run, in pushes in any order, and from the history anew; online and in training alike."""
    later = [float(len(values) - number) for number in range(len(values))]
    rows = of_seq(*zip(values, later, strict=True), dtype=dtype)
    for number, reads in enumerate([[rows], [rows[::-1]], [rows[-1:], rows[:-1]], [rows[:-1], rows[-1:]], [*rows.iter_slices(1)]]):
        (tmp_path / str(number)).mkdir()
        with store_in(tmp_path / str(number)) as store:
            store.apply([ordered(rows.clear())])
            for given in reads:
                store.push("s", given)
            assert winners(store) == [1.0, 1.0]
            store.apply([ordered(rows)])
            assert store.materialize()[0].rows_written == 0
            store.admin.rebuild_online()
            store.admin.maintain()
            assert winners(store) == [1.0, 1.0]


def test_s4_of_rows_equal_in_order_by_the_values_decide(tmp_path: Path) -> None:
    rows = of_seq((1, 5.0), (1, 7.0), (0, 9.0))
    with store_in(tmp_path) as store:
        store.apply([ordered(rows)])
        assert store.materialize()[0].rows_tied == 2
        assert winners(store) == [7.0, 7.0]


def test_s4_order_by_makes_another_data_version_and_a_source_without_it_stays_as_it_was(tmp_path: Path) -> None:
    rows = of_seq((2, 1.0), (1, 7.0))
    with store_in(tmp_path) as store:
        store.apply([ordered(rows, None)])
        store.materialize()
        assert winners(store) == [7.0, 7.0]
        assert not [each for each in store.plan([ordered(rows)]).warnings if "order_by" in each]
        store.apply([ordered(rows)])
        store.materialize()
        assert winners(store) == [1.0, 1.0]
        assert store.sql("select count(*) as n from balance").to_dicts() == [{"n": 2}]


@pytest.mark.parametrize(
    ("order_by", "says"), [("missing", "no column 'missing', the source's order_by"), ("y", "which takes numbers and times")]
)
def test_s4_order_by_must_be_a_column_of_numbers_or_times(tmp_path: Path, order_by: str, says: str) -> None:
    with store_in(tmp_path) as store, pytest.raises(DefinitionErrors, match=says):
        store.apply([ordered(of_seq((1, 1.0)), order_by)])


def test_s19_a_row_whose_order_is_no_number_is_rejected(tmp_path: Path) -> None:
    with store_in(tmp_path) as store:
        store.apply([ordered(of_seq((1.0, 1.0), (float("nan"), 2.0), (float("inf"), 3.0), dtype=pl.Float64))])
        [summary] = store.materialize()
        assert summary.rows_written == 1
        assert sum((summary.reasons or {}).values()) == 2
        assert all(reason.startswith("seq does not fit") for reason in summary.reasons or {})
