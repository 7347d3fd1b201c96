"""The reader of queries, in DuckDB and on a PostgreSQL server."""

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from adbc_driver_postgresql import dbapi
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore.clock import from_micros
from featurestore.errors import MissingExtraError, SourceError
from featurestore.sources.databases import open_database
from featurestore.sources.sql import SQLReader
from featurestore.spec.source import SQLSource
from tests.sources.contract import BASES, EVENT, MANY, TIMES, SourceReaderContract, frame, new_folder, pin, read, run
from tests.sources.places import INSTANT, Place, SQLOverDuckDB, SQLOverFiles, SQLOverPostgres


class TestSQLOverFiles(SourceReaderContract):
    kind = SQLOverFiles


class TestSQLOverDuckDB(SourceReaderContract):
    kind = SQLOverDuckDB


class TestSQLOverPostgres(SourceReaderContract):
    @pytest.fixture(scope="class")
    @classmethod
    def new_place(cls, tmp_path_factory: pytest.TempPathFactory, postgres_dsn: str) -> Callable[[], Place]:
        return lambda: SQLOverPostgres(new_folder(tmp_path_factory), postgres_dsn)


def reader(root: Path, query: str, event_time: str = "t", **words: Any) -> SQLReader:
    return SQLReader(SQLSource("s", query, event_time=event_time, **words), root)


def test_s18_lateness_reaches_back(tmp_path: Path) -> None:
    place = SQLOverFiles(tmp_path)
    place.write(frame([(1, 100, 100)]))
    _, cursor = run(place.reader(event_time=EVENT), None, 200)
    place.write(frame([(2, 150, 150), (3, 149, 149)]))
    assert run(place.reader(event_time=EVENT), cursor, 300)[0] == []
    assert run(place.reader(event_time=EVENT, lateness="50us"), cursor, 300)[0] == [2]
    assert run(place.reader(**TIMES, lateness="51us"), cursor, 300)[0] == [2, 3]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    times=st.lists(st.sampled_from([0, 1, 2, 3, 500, 10**6, 10**15, -(10**15)]) | st.integers(-50, 50), max_size=60),
    chunk_rows=st.integers(1, 12),
    start=st.none() | st.integers(-60, 60),
)
def test_slices_hold_no_more_rows_than_told(tmp_path: Path, times: list[int], chunk_rows: int, start: int | None) -> None:
    path = tmp_path / "times.parquet"
    path.unlink(missing_ok=True)
    frame([(number, each, each) for number, each in enumerate(times)]).write_parquet(path)
    there = reader(tmp_path, "select * from 'times.parquet'", **TIMES)
    span = there.span(None, None if start is None else from_micros(start), from_micros(10**6), chunk_rows)
    chunks = [there.read(chunk) for chunk in span.chunks]
    found = sorted(number for chunk in chunks for number in chunk["id"])
    assert found == [number for number, each in enumerate(times) if each <= 10**6 and (start is None or each >= start)]
    assert span.rows == len(found)
    for chunk in chunks:
        # Only rows that share one microsecond stay together beyond the limit.
        assert 0 < chunk.height <= chunk_rows or chunk[EVENT].n_unique() == 1


def test_slices_of_the_far_past_and_future(tmp_path: Path) -> None:
    rows = ["0044-03-15 (BC)", "0001-01-01", "2013-01-01", "9999-12-31 23:59:59.999999", "infinity", "-infinity"]
    values = ", ".join(f"({number}, timestamp '{each}')" for number, each in enumerate(rows))
    there = reader(tmp_path, f"from (values {values}) v(id, t)")
    span = there.span(None, None, datetime(2014, 1, 1, tzinfo=UTC), 1)
    found = [number for chunk in span.chunks for number in there.read(chunk)["id"]]
    assert sorted(found) == [0, 1, 2, 5]


def test_an_empty_span_has_no_chunks(tmp_path: Path) -> None:
    there = reader(tmp_path, "select 1 as id, timestamp '2013-01-01' as t")
    span = there.span(None, None, datetime(2012, 1, 1, tzinfo=UTC), MANY)
    assert (span.chunks, span.rows) == ((), 0)


def test_times_of_two_types_are_compared_in_utc(tmp_path: Path) -> None:
    pairs = {
        "timestamptz '2013-01-01 02:00:00+02'": "timestamp '2013-01-01 00:00:00'",
        "timestamp_ns '2013-01-01 00:00:00.000000999'": "timestamptz '2013-01-01 00:00:00+00'",
        "date '2013-01-01'": "timestamptz '2012-12-31 19:00:00-05'",
        "timestamp_s '2013-01-01 00:00:00'": "timestamp_ms '2013-01-01 00:00:00'",
        "timestamp_ns '2013-01-01 00:00:00'": "date '2013-01-01'",
    }
    for event, available in pairs.items():
        there = reader(tmp_path, f"from (values (1, {event}, {available})) v(id, t, a), range(3)", available_time="a")
        assert run(there, None, BASES[1] - 1)[0] == [], event
        assert run(there, None, BASES[1], chunk_rows=1)[0] == [1, 1, 1], event
        assert run(there, None, BASES[1], start=BASES[1])[0] == [1, 1, 1], event
        assert read(there, pin(there, None, BASES[1]).chunks)["t"].unique().to_list() == [datetime(2013, 1, 1, tzinfo=UTC)]


def test_files_are_looked_for_in_the_projects_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    root = tmp_path / "o'clock"
    (root / "data").mkdir(parents=True)
    pl.DataFrame({"t": ["2013-01-01"], "v": [1]}).write_csv(root / "data/x.csv")
    there = reader(root, "select * from read_csv('data/*.csv')")
    assert there.sample(5)["v"].to_list() == [1]
    with duckdb.connect(root / "own.duckdb") as connection:
        connection.execute("create table t as select 5 as v")
    there = reader(root, "select t.v, x.t from t, 'data/x.csv' x", database="own.duckdb")
    assert there.sample(5)["v"].to_list() == [5]


def test_a_query_does_not_see_the_programs_variables(tmp_path: Path) -> None:
    database = pl.DataFrame({"t": [datetime(2013, 1, 1, tzinfo=UTC)]})
    assert database.height
    with pytest.raises(SourceError, match="database does not exist"):
        reader(tmp_path, "select * from database").schema()


@pytest.mark.parametrize("query", ["selec 1", "select 1; select 2", "select 1) --", "", "delete from x"])
def test_a_faulty_query_is_told_with_its_first_line(tmp_path: Path, postgres_dsn: str, query: str) -> None:
    for database in (None, postgres_dsn):
        with pytest.raises(SourceError, match=r"(?s)Source 's': .*syntax error.*The query begins: ") as caught:
            reader(tmp_path, f"{query}\n\n", database=database).schema()
        assert str(caught.value).endswith(query or "(it is empty)")


def test_a_database_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"none\.duckdb"):
        reader(tmp_path, "select 1", database="none.duckdb").schema()
    (tmp_path / "broken.duckdb").write_bytes(b"x" * 10_000)
    with pytest.raises(SourceError, match=r"broken\.duckdb.*not a valid DuckDB"):
        reader(tmp_path, "select 1", database="broken.duckdb").schema()
    with pytest.raises(SourceError, match=r"mysql://…, which is not supported"):
        reader(tmp_path, "select 1", database="mysql://user:secret@host/db").schema()


def test_a_database_is_opened_to_be_read_only(tmp_path: Path) -> None:
    place = SQLOverDuckDB(tmp_path)
    place.write(frame([(1, 100, 100)]))
    there = place.reader(**TIMES)
    span = there.span(None, None, from_micros(200), MANY)
    # Between two calls the file is free for its writer.
    place.write(frame([(2, 100, 100)]))
    assert sorted(there.read(span.chunks[0])["id"]) == [1, 2]
    with duckdb.connect(tmp_path / "rows.duckdb"), pytest.raises(SourceError, match=r"rows\.duckdb|same database file"):
        there.schema()


def test_a_type_that_changed_under_a_run_is_named(tmp_path: Path) -> None:
    for number, dtype in enumerate((pl.Int64(), pl.String())):
        frame([(1, 100, 100)]).with_columns(v=pl.lit(None, dtype)).write_parquet(tmp_path / f"{number}.parquet")
    (tmp_path / "0.parquet").rename(tmp_path / "x.parquet")
    there = reader(tmp_path, "select * from 'x.parquet'", **TIMES)
    span = there.span(None, None, from_micros(200), MANY)
    (tmp_path / "1.parquet").rename(tmp_path / "x.parquet")
    with pytest.raises(SourceError, match=r"'v' of the query .* changed type: it was Int64 and is String"):
        there.read(span.chunks[0])


def test_intervals_are_refused(tmp_path: Path, postgres_dsn: str) -> None:
    for database in (None, postgres_dsn):
        with pytest.raises(SourceError, match=r"column 'i' is an interval.*extract"):
            reader(tmp_path, "select timestamp '2013-01-01' as t, interval '1' day as i", database=database).schema()


@pytest.mark.parametrize(
    ("address", "secret"),
    [
        ("postgresql://me:hunter2@127.0.0.1:1/db", "hunter2"),
        ("postgresql://me:hun%40ter2@127.0.0.1:1/db", "hun"),
        ("postgresql://me:hunter/2@127.0.0.1:1/db", "hunter"),
        ("postgresql://me:hunter%zz@127.0.0.1:1/db", "hunter"),
        ("postgresql://127.0.0.1:1/db?user=me&password=hunter%zz", "hunter"),
    ],
)
def test_a_password_is_never_told(tmp_path: Path, address: str, secret: str) -> None:
    with pytest.raises(SourceError) as caught:
        reader(tmp_path, "select 1", database=address).schema()
    assert secret not in str(caught.value)
    assert secret not in str(caught.value.__cause__)


def test_a_missing_driver_is_told_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "adbc_driver_postgresql", None)
    with pytest.raises(MissingExtraError, match=r"source 's', which reads PostgreSQL.*featurestore\[postgres\]") as caught:
        reader(tmp_path, "select 1", database="postgresql://me:hunter2@host/db").schema()
    assert "hunter2" not in str(caught.value)


def test_postgres_types(tmp_path: Path, postgres_dsn: str) -> None:
    query = """select timestamptz '2013-01-01 02:00:00+02' as t, 12.345::numeric as n, sum(2::bigint) over () as s,
        null::numeric as e, '[1]'::jsonb as j, array[1, 2] as l, 'a'::char(3) as c, true as b, date '2013-01-01' as d"""
    rows = reader(tmp_path, query, database=postgres_dsn).sample(5)
    assert rows.row(0, named=True) == {
        "t": datetime(2013, 1, 1, tzinfo=UTC), "n": Decimal("12.345"), "s": Decimal(2), "e": None, "j": "[1]", "l": [1, 2],
        "c": "a  ", "b": True, "d": datetime(2013, 1, 1, tzinfo=UTC).date(),
    }  # fmt: skip
    assert rows.schema["t"] == INSTANT
    assert rows.schema["n"] == pl.Decimal(38, 9)
    for wrong in ("0.0000000001", "'NaN'", "1e30"):
        with pytest.raises(SourceError, match=r"'n'|decimal"):
            reader(tmp_path, f"select now() as t, {wrong}::numeric as n", database=postgres_dsn).sample(5)


def test_s1_a_servers_own_time_zone_changes_nothing(tmp_path: Path, postgres_dsn: str) -> None:
    with dbapi.connect(postgres_dsn, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute("alter role current_user set timezone = 'America/New_York'")
    try:
        query = "select 1 as id, timestamp '2013-01-01 00:00:00' as t, date '2013-01-01' as a"
        there = reader(tmp_path, query, database=postgres_dsn, available_time="a")
        assert run(there, None, BASES[1])[0] == [1]
        assert run(there, None, BASES[1] - 1)[0] == []
    finally:
        with dbapi.connect(postgres_dsn, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute("alter role current_user reset timezone")


@pytest.mark.parametrize("server", [False, True])
def test_s1_databases_count_floored_microseconds(tmp_path: Path, postgres_dsn: str, server: bool) -> None:
    times = {
        "timestamp '1969-12-31 23:59:59.999999'": (pl.Datetime("us"), -1),
        "timestamptz '1970-01-01 02:00:00.000001+02'": (INSTANT, 1),
        "date '1969-12-31'": (pl.Date(), -86_400_000_000),
    }
    if not server:
        times |= {
            f"timestamp_ns '{text}'": (pl.Datetime("ns"), micros)
            for text, micros in {
                "1969-12-31 23:59:59.999999999": -1, "1969-12-31 23:59:59.999999000": -1, "1969-12-31 23:59:59.999998999": -2,
                "1970-01-01 00:00:00.000000999": 0, "1970-01-01 00:00:00.000001000": 1,
            }.items()
        }  # fmt: skip
    source = SQLSource("s", "select 1", event_time="t", database=postgres_dsn if server else None)
    with open_database(source, tmp_path) as database:
        for literal, (dtype, micros) in times.items():
            assert database.fetch(f"select {database.micros(literal, dtype)} as n").item() == micros, literal
