"""Rows as people have them: arrays, series and tuples as columns, pandas' floats for integers, text for categories."""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy
import pandas
import polars as pl
import pyarrow as pa
import pytest

from featurestore import Entity, FeatureStore, FeatureView, FrameSource, mean, sum_
from featurestore.errors import DefinitionError, RequestError
from featurestore.retrieval import online as reader

T = datetime(2024, 1, 1, tzinfo=UTC)
ROWS = pl.DataFrame({"k": [1001, 7], "at": [T, T], "x": [1.11, 2.5]})


class Scores(FeatureView, entity=Entity("user", k=int), source=FrameSource("s", ROWS, event_time="at")):
    x: float | None


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with FeatureStore(tmp_path_factory.mktemp("rows"), clock=lambda: T) as store:
        store.apply([Scores])
        store.materialize()
        yield store


COLUMNS: dict[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "NumPy": numpy.array,
    "Polars": pl.Series,
    "pandas": pandas.Series,
    "pandas Int64": lambda values: pandas.Series(values, dtype="Int64"),
    "index": pandas.Index,
    "Arrow": pa.array,
    "chunks": lambda values: pa.chunked_array([[value] for value in values]),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_c18_a_mapping_has_columns_of_any_kind(kind: str, store: FeatureStore) -> None:
    column = COLUMNS[kind]
    times = list if kind == "pandas Int64" else column
    assert store.online(Scores, {"k": column([1001, 7])}).to_dicts() == [{"k": 1001, "x": 1.11}, {"k": 7, "x": 2.5}]
    spine = {"k": column([1001, 7]), "t": times([T, T])}
    assert store.training_frame(spine, Scores, time="t")["x"].to_list() == [1.11, 2.5]
    [pushed] = store.push("s", {"k": column([1001, 7]), "at": times([T, T]), "x": times([1.11, 2.5])})
    assert (pushed.rows_known, pushed.rows_rejected) == (2, 0)


def test_c18_what_is_no_column_is_still_one_row(store: FeatureStore) -> None:
    for given in ({"k": 1001}, {"k": "1001"}, {"k": numpy.array(1001)}):
        with pytest.raises(RequestError, match="One row is given as a list of one"):
            store.online(Scores, given)


def test_c18_pandas_floats_are_the_integers_that_they_are(store: FeatureStore) -> None:
    frame = pandas.DataFrame({"k": [1001, None], "t": [T, T]})
    assert frame["k"].dtype == float
    found = store.online(Scores, frame[["k"]])
    assert (found.columns(), found.status) == ({"x": (1.11, None)}, {"x": ["present", "missing"]})
    assert store.online(Scores, {"k": frame["k"]}).columns() == {"x": (1.11, None)}
    assert store.training_frame(frame, Scores, time="t")["x"].to_list() == [1.11, None]
    frame.loc[1, "k"] = 7.5
    with pytest.raises(RequestError, match=r"the key 'k' is 1001.0, of type float; it must be int"):
        store.online(Scores, frame[["k"]])
    with pytest.raises(RequestError, match="The spine's column 'k' is Float64, but the join key 'k' of entity 'user' is Int64"):
        store.training_frame(frame, Scores, time="t")


def test_d36_what_is_no_rows_is_said_in_english(store: FeatureStore) -> None:
    assert store.online(Scores, pl.LazyFrame({"k": [1001]})).to_dicts() == [{"k": 1001, "x": 1.11}]
    for call, message in (
        (lambda: store.online(Scores, 5), "5 cannot be read as rows. Give a list of dictionaries"),
        (lambda: store.push("s", 5), "Rows cannot be pushed as an int. Give"),
        (lambda: store.training_frame(5, Scores, time="t"), "A spine cannot be an int. Give"),
    ):
        with pytest.raises(RequestError, match=message):
            call()


def test_d37_what_is_asked_for_twice_is_one(store: FeatureStore) -> None:
    assert store.online(["scores", "scores"], [{"k": 7}]).to_dicts() == [{"k": 7, "x": 2.5}]
    assert store.online([Scores.x, "scores.x"], [{"k": 7}]).to_dicts() == [{"k": 7, "x": 2.5}]


def test_f23_a_request_asked_for_often_is_compiled_once(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_PLANS_KEPT", 8)
    compiled: list[Any] = []
    compile_one = reader.OnlineReader.compile
    monkeypatch.setattr(
        reader.OnlineReader, "compile", lambda self, selection: (compiled.append(selection), compile_one(self, selection))[1]
    )
    often = Scores.x.alias("often")
    store.online(often, [{"k": 7}])
    for number in range(50):
        other = Scores.x.alias(f"x{number}")
        for asked in (other, often, other):
            store.online(asked, [{"k": 7}])
    assert len(compiled) == 51


KINDS = {"Categorical": pl.Categorical(), "Enum": pl.Enum(["gold", "silver"])}


@pytest.mark.parametrize("kind", KINDS)
def test_e08_text_is_pushed_for_categories(kind: str, tmp_path: Path) -> None:
    rows = pl.DataFrame({"k": [1], "at": [T], "tier": ["gold"], "tiers": [["gold", None]]})
    rows = rows.with_columns(pl.col("tier").cast(KINDS[kind]), pl.col("tiers").cast(pl.List(KINDS[kind])))

    class Tiers(FeatureView, entity=Entity("user", k=int), source=FrameSource("s", rows, event_time="at")):
        tier: str | None
        tiers: list[str]

    with FeatureStore(tmp_path, clock=lambda: T) as store:
        store.apply([Tiers])
        store.materialize()
        store.push("s", [{"k": 2, "at": T, "tier": "silver", "tiers": ["gold", "silver"]}])
        store.push("s", {"k": [3], "at": ["2024-01-01"], "tier": [None], "tiers": [[]]})
        found = store.online(Tiers, [{"k": k} for k in (1, 2, 3)]).columns()
        assert [list(each) for each in found["tiers"]] == [["gold", None], ["gold", "silver"], []]
        assert list(found["tier"]) == ["gold", "silver", None]
        if kind == "Enum":
            with pytest.raises(RequestError, match="'bronze' in the column 'tier', which is not a valid Enum"):
                store.push("s", [{"k": 4, "at": T, "tier": "bronze", "tiers": []}])


def test_n21_an_aggregate_of_a_column_that_is_not_there_says_which(tmp_path: Path) -> None:
    rows = pl.DataFrame({"k": [1], "at": [T], "cnt": [1.5]})
    source = FrameSource("s", rows, event_time="at")
    entity = Entity("user", k=int)

    class Win(FeatureView, entity=entity, source=source):
        m: float | None = mean("count").over("1h")

    class Made(FeatureView, entity=entity, source=source):
        n: float = sum_(pl.col("cnt") * pl.col("rate")).over("1h")

        @staticmethod
        def transform(rows: pl.LazyFrame) -> pl.LazyFrame:
            return rows

    with FeatureStore(tmp_path, clock=lambda: T) as store:
        with pytest.raises(DefinitionError) as found:
            store.apply([Win])
        told = "view 'win', feature m = mean('count'): the source has no column 'count'. Did you mean 'cnt'?"
        assert told in str(found.value)
        assert "KeyError" not in str(found.value)
        with pytest.raises(DefinitionError, match=r"view 'made', feature n = sum\(.*\): the transform returns no column 'rate'"):
            store.apply([Made])


MIXED: list[list[Any]] = [
    [2**53 + 1, 1.5], [1.5, 2**53 + 1], [1.5, Decimal("0.1")], [Decimal("1.5"), Decimal("1e37")], [Decimal("NaN"), Decimal(1)],
    [Decimal("1e40")], [2**200], [[1.5], [2**53 + 1]], [[2**53 + 1, 1.5]],
]  # fmt: skip


@pytest.mark.parametrize("values", MIXED, ids=str)
def test_s22_numbers_of_several_kinds_are_no_column_where_one_would_change(values: list[Any], store: FeatureStore) -> None:
    """Polars makes floats of integers among floats, without a word."""
    spine = [{"k": 7, "t": T, "x_given": value} for value in values]
    pushed = [{"k": 7, "at": T, "x": value} for value in values]
    for call in (lambda: store.training_frame(spine, Scores, time="t"), lambda: store.push("s", pushed)):
        with pytest.raises(RequestError, match="cannot be made a frame"):
            call()
    if len(values) > 1 and not isinstance(values[0], list):
        with pytest.raises(RequestError, match="cannot be made a frame"):
            store.push("s", {"k": [7] * len(values), "at": [T] * len(values), "x": values})


def test_s22_numbers_of_several_kinds_are_one_where_none_changes(store: FeatureStore) -> None:
    spine = [{"k": 7, "t": T, "label": value} for value in (1, 2.5, 2**53, None, True)]
    assert store.training_frame(spine, Scores, time="t")["label"].to_list() == [1.0, 2.5, 2.0**53, None, 1.0]
    priced = [{"k": 7, "t": T, "label": value} for value in (1, Decimal("2.50"), Decimal("1.125"))]
    assert store.training_frame(priced, Scores, time="t")["label"].to_list() == [Decimal(1), Decimal("2.5"), Decimal("1.125")]
