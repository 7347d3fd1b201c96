"""What a source cannot tell is said at apply, and what became of corrections there by the doctor."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake

from featurestore import CSVSource, DeltaSource, Entity, FeatureStore, FeatureView, ParquetSource, SQLSource, count, last, sum_
from featurestore.definitions.source import Source
from featurestore.project.source_notices import decimal_notices, source_notices

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
        told = {each.check: each for each in store.admin.doctor()}
        assert (told["source of values"].state, told["corrections: values"].state) == ("ok", "ok")
        DeltaTable(tmp_path / "table").update({"v": "75.0"}, predicate="k = 1")
        [summary] = store.materialize()
        assert any("took away or changed rows" in notice for notice in summary.notices)
        told = {each.check: each for each in store.admin.doctor()}
        assert "version 1 of its Delta table" in told["source of values"].message
        assert told["corrections: values"].state == "warning"
        assert "1 keys have several rows of one instant" in told["corrections: values"].message
        [status] = store.status()
        assert status.notices == (told["source of values"].message,)
        assert f"    ! {status.notices[0]}" in repr(store.status())
        store.materialize()
        assert [each.notices for each in store.status()] == [status.notices], "it is told as long as the doctor tells it"


def test_a_rewritten_file_that_lost_rows_is_told(store: FeatureStore, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("k,t,v\n1,2026-03-01,1\n2,2026-03-01,2\n")
    with store:
        store.apply([values_of(CSVSource("o", "a.csv", event_time="t"))])
        store.materialize()
        path.write_text("k,t,v\n2,2026-03-01,2\n")
        [summary] = store.materialize()
        assert any("rewritten with 1 rows fewer" in notice for notice in summary.notices)


AMOUNTS = pl.Series([Decimal("0.10"), Decimal("0.50")], dtype=pl.Decimal(10, 2))
MONEY = pl.DataFrame({"k": [1, 2], "t": [NOON] * 2, "got": [NOON] * 2, "v": AMOUNTS})


@pytest.mark.parametrize(
    ("found", "kind", "words"),
    [
        (pl.Decimal(10, 2), float, "equal no float"),
        (pl.Decimal(38, 9), float, "cast(v as double precision)"),
        (pl.Decimal(10, 2), int, "rows with a fraction are rejected"),
        (pl.List(pl.Decimal(10, 2)), list[float], "equal no float"),
        (pl.Decimal(10, 2), Decimal, ""),
        (pl.Decimal(10, 0), int, ""),
        (pl.Decimal(10, 0), float, ""),
        (pl.Float64(), int, ""),
        (pl.Int64(), float, ""),
        (None, float, ""),
    ],
)
def test_s22_decimals_for_a_float_or_an_int_are_named(found: pl.DataType | None, kind: type, words: str) -> None:
    source = ParquetSource("o", "x", event_time="t", event_id="id")
    view = type(FeatureView)("Values", (FeatureView,), {"__annotations__": {"v": kind}}, entity=KEY, source=source)
    told = list(decimal_notices(view.__view__, {} if found is None else {"v": found}))
    assert len(told) == bool(words)
    assert all(words in each for each in told)


@pytest.mark.parametrize("kind", ["parquet", "delta", "duckdb", "postgres"])
def test_s22_apply_and_doctor_warn_where_most_decimals_would_be_rejected(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    MONEY.write_parquet(tmp_path / "a.parquet")
    write_deltalake(tmp_path / "table", MONEY)
    query = "select 1::bigint as k, timestamptz '2026-03-01 12:00:00Z' as t, now() as got, 0.1::numeric(10, 2) as v"
    times = {"event_time": "t", "available_time": "got"}
    source: Source = {
        "parquet": lambda: ParquetSource("o", "a.parquet", **times),
        "delta": lambda: DeltaSource("o", "table", **times),
        "duckdb": lambda: SQLSource("o", "select * from 'a.parquet'", **times),
        "postgres": lambda: SQLSource("o", query, database=request.getfixturevalue("postgres_dsn"), **times),
    }[kind]()
    with FeatureStore(tmp_path, clock=lambda: NOON) as store:
        told = [each for each in store.apply([values_of(source)]).warnings if "S22" in each]
        assert len(told) == 1
        assert "view 'values' declares 'v' as Float64, and source 'o' has Decimal(" in told[0]
        assert "Annotated[Decimal, pl.Decimal(" in told[0]
        again = store.apply([values_of(source)])
        assert (again.is_empty, [each for each in again.warnings if "S22" in each]) == (True, told)
        assert [each.message for each in store.admin.doctor() if each.state == "warning" and "S22" in each.message] == told
        if kind == "parquet":  # what was said comes true
            [summary] = store.materialize()
            assert summary.rows_rejected == 1


def test_s22_a_transform_that_rounds_and_windows(store: FeatureStore, tmp_path: Path) -> None:
    """A sum rounds what it adds to a float; what is kept as it is must fit."""
    MONEY.write_parquet(tmp_path / "a.parquet")
    source = ParquetSource("o", "a.parquet", event_time="t", event_id="k")

    class Rounded(FeatureView, entity=KEY, source=source):
        v: float | None

        @staticmethod
        def transform(rows: pl.LazyFrame) -> pl.LazyFrame:
            return rows.with_columns(pl.col("v").cast(pl.Float64))

    class Sums(FeatureView, entity=KEY, source=source):
        total: float = sum_("v").over("1d")

    class Lasts(FeatureView, entity=KEY, source=source):
        newest: float | None = last("v").over("1d")

    with store:
        assert not [each for each in store.apply([Rounded, Sums]).warnings if "S22" in each]
        [told] = [each for each in store.apply([Lasts]).warnings if "S22" in each]
        assert told.startswith("view 'lasts' declares 'v' as Float64")
        assert {each.view: each.rows_rejected for each in store.materialize()} == {"rounded": 0, "sums": 0, "lasts": 1}
