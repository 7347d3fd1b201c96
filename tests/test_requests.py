"""What a user brings to a call: spines, rows, times, queries and sinks, and what is said of those that are wrong."""

import threading
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import pytest

from featurestore import FeatureStore
from featurestore.clock import from_micros, parse_duration
from featurestore.errors import DefinitionError, RequestError
from featurestore.testing import FakeClock
from tests.oracle import Row
from tests.projects import frame_of, memory_of, store_at, view_of

KEYS, FEATURES = {"k": str}, {"x": float | None}
POLARS_KEYS, POLARS = {"k": pl.String}, {"x": pl.Float64}
ROWS = [Row(("a",), 1, 1, (1.0,)), Row(("b",), 3, 3, (None,))]
T = from_micros(8)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(10)


@pytest.fixture
def store(tmp_path: Path, clock: FakeClock) -> Any:
    with store_at(tmp_path / "project", clock) as opened:
        opened.apply([view_of(memory_of(frame_of(ROWS, POLARS_KEYS, POLARS)), KEYS, FEATURES)])
        opened.materialize()
        yield opened


def integer_store(tmp_path: Path, dtype: Any, polars: Any, rows: list[Row]) -> FeatureStore:
    opened = store_at(tmp_path / "other", FakeClock(10))
    opened.apply([view_of(memory_of(frame_of(rows, {"k": polars}, POLARS)), {"k": dtype}, FEATURES)])
    opened.materialize()
    return opened


# -- spines ----------------------------------------------------------------------------------------------------------------


def test_a_spine_of_rows_keeps_what_first_occurs_in_a_late_row(store: FeatureStore) -> None:
    rows: list[dict[str, Any]] = [{"k": "a", "t": T, "n": 1} for _ in range(150)]
    rows += [{"k": "a", "t": T, "n": 1.5, "label": "late"}]
    frame = store.training_frame(rows, "v", time="t")
    assert frame["n"].to_list()[-1] == 1.5
    assert frame["label"].to_list()[-1] == "late"


def spines() -> dict[str, tuple[Any, str]]:
    import pandas as pd
    import pyarrow as pa

    twice = pd.DataFrame([["a", 1, 2]], columns=["k", "c", "c"])
    return {
        "ragged": ({"k": ["a", "b"], "t": [T]}, "'k' has 2, 't' has 1"),
        "mixed in rows": ([{"k": "a", "t": T, "c": [1]}, {"k": "a", "t": T, "c": {"d": 1}}], "'c'.*dict, list"),
        "mixed in columns": ({"k": ["a", "a"], "t": [T, T], "c": [1, "x"]}, "'c'.*int, str"),
        "names": ([{"k": "a", "t": T, 1: 2}], "name 1 is not a string"),
        "mixed in pandas": (pd.DataFrame({"k": ["a", "b"], "c": [1, "x"]}), "'c'.*int, str"),
        "twice in pandas": (twice, "several columns are named 'c'"),
        "twice in Arrow": (pa.table([["a"], ["b"]], names=["k", "k"]), "more than once"),
        "lazy": (pl.LazyFrame({"k": ["a"]}).select("kk"), "unable to find column"),
        "surrogate": ([{"k": "\ud800", "t": T}], "'k'"),
    }


@pytest.mark.parametrize("case", spines())
def test_a_spine_that_makes_no_frame_is_told(store: FeatureStore, case: str) -> None:
    given, message = spines()[case]
    with pytest.raises(RequestError, match=message):
        store.training_frame(given, "v", time="t")


def test_a_spine_in_another_format_is_told(store: FeatureStore) -> None:
    root = store.settings.root
    (root / "spine.csv").write_text("k,t\na,1\n" * 10)
    (root / "empty").mkdir()
    for path, message in (
        ("spine.csv", "as Parquet"),
        ("empty", "as Parquet"),
        ("no*.parquet", "as Parquet"),
        ("x" * 5000, "neither a path"),
    ):
        with pytest.raises(RequestError, match=message):
            store.training_frame(path, "v", time="t")


def test_a_spine_may_be_a_folder_a_glob_or_have_a_globs_characters(store: FeatureStore) -> None:
    folder = store.settings.root / "spines"
    folder.mkdir()
    for name in ("a[1]", "b"):
        pl.DataFrame({"k": ["a"], "t": [T]}).write_parquet(folder / f"{name}.parquet")
    for path, rows in (("spines", 2), ("spines/*.parquet", 2), ("spines/a[1].parquet", 1)):
        assert store.training_frame(path, "v", time="t")["x"].to_list() == [1.0] * rows


@pytest.mark.parametrize(
    "before",
    ["", "-- the spine\n", "/* the\nspine */ ", "  (", "--a\n/* b */--c\n"],
    ids=["plain", "dashes", "stars", "paren", "all"],
)
def test_a_query_may_begin_with_a_comment_or_a_parenthesis(store: FeatureStore, before: str) -> None:
    query = f"{before}Select k, event_time as t from v where k = 'a'" + ")" * before.count("(")  # noqa: S608 - the test's own
    assert store.training_frame(query, "v", time="t")["x"].to_list() == [1.0]


def test_a_lazy_spine_that_fails_on_the_way_is_told(store: FeatureStore) -> None:
    spine = pl.LazyFrame({"k": ["a"], "t": [T], "c": ["x"]}).with_columns(pl.col("c").cast(pl.Int64))
    with pytest.raises(RequestError, match="conversion from `str`"):
        store.training_frame(spine, "v", time="t", sink="out.parquet")


# -- sinks -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "column",
    [
        pl.Series("c", [2**70], dtype=pl.Int128),
        pl.Series("c", [[2**70]], dtype=pl.List(pl.Int128)),
        pl.Series("c", [object()], dtype=pl.Object),
        pl.Series("c", [{}], dtype=pl.Struct([])),
    ],
    ids=lambda column: str(column.dtype),
)
def test_a_column_that_parquet_does_not_hold_is_told(store: FeatureStore, column: pl.Series) -> None:
    spine = pl.DataFrame({"k": ["a"], "t": [T]}).with_columns(column)
    with pytest.raises(RequestError, match=r"'c' is .* Cast it"):
        store.training_frame(spine, "v", time="t", sink="out.parquet")
    assert not list(store.settings.root.glob("*out.parquet*"))
    assert store.training_frame(spine, "v", time="t")["x"].to_list() == [1.0]


def test_a_sink_that_is_a_folder_is_told(store: FeatureStore) -> None:
    (store.settings.root / "out").mkdir()
    with pytest.raises(RequestError, match="is a folder"):
        store.training_frame([{"k": "a", "t": T}], "v", time="t", sink="out")


# -- rows ------------------------------------------------------------------------------------------------------------------


def test_a_key_that_cannot_be_one_is_told_with_its_row(store: FeatureStore, tmp_path: Path) -> None:
    import numpy as np

    with pytest.raises(RequestError, match=r"Row 1: the key 'k' is '\\ud800', which is not valid Unicode text"):
        store.online("v", [{"k": "a"}, {"k": "\ud800"}])
    assert [row["x"] for row in store.online("v", [{"k": np.str_("a")}])] == [1.0]
    with integer_store(tmp_path, int, pl.Int64, [Row((1,), 1, 1, (1.0,))]) as integers:
        for wrong in (2**70, -(2**70), np.array([1, 2]), "1"):
            with pytest.raises(RequestError, match="Row 1: the key 'k'"):
                integers.online("v", [{"k": 1}, {"k": wrong}])
        assert [row["x"] for row in integers.online("v", {"k": [1, np.int64(1), 2**63]})] == [1.0, 1.0, None]


def test_columns_of_unequal_length_are_told(store: FeatureStore) -> None:
    with pytest.raises(RequestError, match="'k' has 1, 'c' has 2"):
        store.online("v", {"k": ["a"], "c": [1, 2]})
    assert store.online("v", {"k": ["a", "b"], "c": [1, "x"]}).to_dicts()[1] == {"k": "b", "c": "x", "x": None}


def test_a_frame_of_rows_that_makes_no_frame_is_told(store: FeatureStore) -> None:
    import pandas as pd

    with pytest.raises(RequestError, match="'c'"):
        store.online("v", pd.DataFrame({"k": ["a", "b"], "c": [1, "x"]}))


@pytest.mark.parametrize(
    "values",
    [[datetime(2020, 1, 1), datetime(2020, 1, 1, tzinfo=UTC)], [[1], {"d": 1}], ["\ud800", "x"], [2**130, 1], [1, object()]],  # noqa: DTZ001 - naive on purpose
    ids=["times", "nested", "surrogate", "huge", "object"],
)
def test_what_is_passed_through_may_be_of_mixed_kinds(store: FeatureStore, values: list[Any]) -> None:
    found = store.online("v", [{"k": "a", "c": values[0]}, {"k": "b", "c": values[1]}])
    frame = found.to_polars()
    assert frame["c"].to_list() == values
    assert frame["x"].to_list() == [1.0, None]
    assert "2 rows" in repr(found)
    assert found._repr_html_()


def test_what_is_passed_through_may_have_names_that_are_no_text(store: FeatureStore) -> None:
    assert store.online("v", [{"k": "a", 1: 2}]).to_polars().columns == ["k", "1", "x"]
    with pytest.raises(RequestError, match="Two columns of the rows are named '1'"):
        store.online("v", [{"k": "a", 1: 2, "1": 3}]).to_polars()


# -- times -----------------------------------------------------------------------------------------------------------------


def test_an_instant_may_be_a_date(store: FeatureStore) -> None:
    assert store.online("v", [{"k": "a"}], at=date(1970, 1, 2)).to_dicts() == [{"k": "a", "x": 1.0}]
    assert store.online("v", [{"k": "a"}], at=date(1970, 1, 1)).status == {"x": ["missing"]}


@pytest.mark.parametrize("wrong", [5, 1.5, "noon", "10000-01-01", "9999-12-31T23:59:59-23:00", "0001-01-01T00:00:00+23:00", True])
def test_an_instant_that_is_none_is_told(store: FeatureStore, wrong: Any) -> None:
    with pytest.raises(RequestError, match=r"is not a time|out of range"):
        store.online("v", [{"k": "a"}], at=wrong)
    with pytest.raises(RequestError, match=r"is not a time|out of range"):
        store.materialize(start=wrong)
    with pytest.raises(RequestError, match=r"is not a time|out of range"):
        store.materialize(end=wrong)


def test_a_time_of_pandas_that_is_none_is_told(store: FeatureStore) -> None:
    import pandas as pd

    with pytest.raises(RequestError, match="NaT is not a time"):
        store.online("v", [{"k": "a"}], at=pd.NaT)


@pytest.mark.parametrize("wrong", ["100001d", "9" * 5000 + "d", timedelta.max])
def test_a_duration_longer_than_any_history_is_refused(wrong: Any) -> None:
    with pytest.raises(DefinitionError):
        view_of(memory_of(frame_of(ROWS, POLARS_KEYS, POLARS)), KEYS, FEATURES, ttl=wrong)
    assert parse_duration("100000d") == 100_000 * 86_400_000_000


def test_s14_a_row_after_the_read_is_not_served_but_for_the_clocks_skew(store: FeatureStore, clock: FakeClock) -> None:
    second = 1_000_000
    clock.micros = 20 * second
    frame = frame_of([Row(("a",), 5, 10 * second, (5.0,)), Row(("b",), 2, 2, (2.0,))], POLARS_KEYS, POLARS)
    store.apply([view_of(memory_of(frame), KEYS, FEATURES, name="late")])
    store.materialize(["late"])
    for now, live in ((10 * second, 5.0), (9 * second, 5.0), (9 * second - 1, None)):
        clock.micros = now
        rows = store.online("late", [{"k": "a"}, {"k": "b"}, {"k": "c"}])
        assert [row["x"] for row in rows] == [live, 2.0, None]
        assert rows.status == {"x": ["present" if live else "missing", "present", "missing"]}
        assert rows.event_time["late"][0] == (from_micros(5) if live else None)
    assert [row["x"] for row in store.online("late", [{"k": "a"}], at=from_micros(10 * second))] == [5.0]
    assert [row["x"] for row in store.online("late", [{"k": "a"}], at=from_micros(10 * second - 1))] == [None]


def test_a_plan_of_the_catalog_before_is_not_kept(store: FeatureStore) -> None:
    reader, select = store.components.online_reader, store.components.select_cached
    begun, applied = threading.Event(), threading.Event()

    def slow(features: Any) -> Any:
        selection = select(features)
        begun.set()
        assert applied.wait(60)
        return selection

    thread = threading.Thread(target=lambda: reader.plan("v", slow))
    thread.start()
    assert begun.wait(60)
    store.apply([view_of(memory_of(frame_of(ROWS, POLARS_KEYS, POLARS).with_columns(y=1)), KEYS, {"y": int})])
    store.materialize()
    applied.set()
    thread.join()
    assert store.online("v", [{"k": "a"}]).to_dicts() == [{"k": "a", "y": 1}]


# -- queries ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["interval 1 day", "[interval 1 day]", "1::union(a int, b varchar)"])
def test_a_type_that_polars_has_not_is_told(store: FeatureStore, value: str) -> None:
    with pytest.raises(RequestError, match=r"odd (INTERVAL|UNION).*Cast it"):
        store.sql(f"select {value} as odd")


def test_a_view_without_rows_has_the_types_of_one_with(tmp_path: Path) -> None:
    import pyarrow as pa

    kinds: dict[str, Any] = {
        "d": pl.Duration("us"), "u": pl.UInt64, "s": pl.UInt8, "a": pl.Array(pl.Float32, 2), "l": pl.List(pl.UInt32), "t": pl.Time,
    }  # fmt: skip
    values = (timedelta(1), 1, 1, [1.0, 2.0], [1], None)
    view = view_of(
        memory_of(frame_of([Row(("a",), 1, 1, values)], POLARS_KEYS, kinds)),
        KEYS,
        {name: Annotated[int, dtype] | None for name, dtype in kinds.items()},
    )
    with store_at(tmp_path / "kinds", FakeClock(10)) as store:
        store.apply([view])
        empty = store.sql("select * from v").schema
        store.materialize()
        assert store.sql("select * from v").schema == empty
    assert pa is not None


def test_views_that_differ_in_case_alone_are_told_apart_by_their_exact_names(store: FeatureStore) -> None:
    tables = {name: store.components.table(store.catalog.views["v"]) for name in ("abc", "ABC")}
    from featurestore.offline.delta.sql import query_history

    for name in tables:
        assert query_history(f"select * from {name}", tables, store.components.backend.history).height == 2  # noqa: S608 - the test's own
    for query in ("select * from abc, ABC", "select * from Abc"):
        with pytest.raises(RequestError, match="'ABC' and 'abc' differ only in case"):
            query_history(query, tables, store.components.backend.history)
    assert store.sql("select * from V").height == 2
