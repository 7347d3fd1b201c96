"""What a source cannot tell is said at apply, and what became of corrections there by the doctor."""

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake

from featurestore import CSVSource, DeltaSource, Entity, FeatureStore, FeatureView, ParquetSource, SQLSource, count
from featurestore.plan.source_notices import source_notices
from featurestore.spec.source import Source

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY = Entity("thing", k=int)


def windows_of(of: Source) -> type[FeatureView]:
    class Counts(FeatureView, entity=KEY, source=of):
        n: int = count().over("1d")

    return Counts


def values_of(of: Source) -> type[FeatureView]:
    class Values(FeatureView, entity=KEY, source=of):
        v: float | None

    return Values


def test_a_source_that_cannot_tell_corrections_is_named() -> None:
    plain = ParquetSource("o", "*.parquet", event_time="t")
    for view, words in ((windows_of(plain), "counts twice"), (values_of(plain), "the greater value is served")):
        [notice] = source_notices(view.__view__)
        assert words in notice
    tells = [ParquetSource("o", "x", event_time="t", event_id="id"), ParquetSource("o", "x", event_time="t", available_time="got")]
    assert [list(source_notices(values_of(source).__view__)) for source in tells] == [[], []]


def test_s18_a_query_without_available_time_or_lateness_is_named() -> None:
    [notice] = source_notices(values_of(SQLSource("o", "from o", event_time="t", event_id="id")).__view__)
    assert "more than 1h after it is not found" in notice
    assert not list(source_notices(values_of(SQLSource("o", "from o", event_time="t", event_id="id", lateness="2h")).__view__))


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path, clock=lambda: NOON)


def test_apply_says_what_a_source_cannot_tell(store: FeatureStore, tmp_path: Path) -> None:
    pl.DataFrame({"k": [1], "t": [NOON], "v": [1.0]}).write_parquet(tmp_path / "a.parquet")
    with store:
        plan = store.apply([values_of(ParquetSource("o", "*.parquet", event_time="t"))])
        assert any("corrected in place" in warning for warning in plan.warnings)


def test_the_doctor_tells_of_corrections_and_of_rows_taken_away(store: FeatureStore, tmp_path: Path) -> None:
    rows = pl.DataFrame({"k": [1, 2], "t": [NOON, NOON], "v": [79.0, 5.0]})
    write_deltalake(tmp_path / "table", rows)
    with store:
        store.apply([values_of(DeltaSource("o", "table", event_time="t"))])
        store.materialize()
        told = {each.check: each for each in store.doctor()}
        assert (told["source of values"].state, told["corrections: values"].state) == ("ok", "ok")
        DeltaTable(tmp_path / "table").update({"v": "75.0"}, predicate="k = 1")
        [summary] = store.materialize()
        assert any("took away or changed rows" in notice for notice in summary.notices)
        told = {each.check: each for each in store.doctor()}
        assert "version 1 of its Delta table" in told["source of values"].told
        assert told["corrections: values"].state == "warning"
        assert "1 keys have several rows of one instant" in told["corrections: values"].told


def test_a_rewritten_file_that_lost_rows_is_told(store: FeatureStore, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("k,t,v\n1,2026-03-01,1\n2,2026-03-01,2\n")
    with store:
        store.apply([values_of(CSVSource("o", "a.csv", event_time="t"))])
        store.materialize()
        path.write_text("k,t,v\n2,2026-03-01,2\n")
        [summary] = store.materialize()
        assert any("written anew with 1 rows fewer" in notice for notice in summary.notices)
