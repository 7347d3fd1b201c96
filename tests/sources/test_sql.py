"""The reader of queries, in DuckDB and on a PostgreSQL server."""

import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from adbc_driver_postgresql import dbapi
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore.clock import from_micros, to_micros, utc_now
from featurestore.definitions.source import SQLSource
from featurestore.errors import MissingExtraError, SourceError
from featurestore.rows.unreadable import UNREAD, foreign_type
from featurestore.sources.sql import SQLReader
from featurestore.sources.sql_backends import Postgres, open_database
from featurestore.testing.sources import (
    BASES,
    EVENT,
    INSTANT,
    MANY,
    TIMES,
    Place,
    SourceReaderContract,
    frame,
    new_folder,
    pin,
    read,
    run,
)
from tests.effort import examples, is_quick, spread
from tests.sources.places import SQLOverDuckDB, SQLOverFiles, SQLOverPostgres


@pytest.mark.slow  # its way differs from that of a database in what is opened
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
    place.write(frame([(1, 199, 199)]))
    _, cursor = run(place.reader(event_time=EVENT), None, 200)
    place.write(frame([(2, 150, 150), (3, 148, 148)]))
    assert run(place.reader(event_time=EVENT, lateness="50us"), cursor, 300)[0] == [1, 2]
    assert run(place.reader(**TIMES, lateness="51us"), cursor, 300)[0] == [1, 2, 3]
    # An hour, where none is declared.
    assert run(place.reader(event_time=EVENT), cursor, 300)[0] == [1, 2, 3]
    place.write(frame([(4, 3_600_000_200, 199)]))
    _, cursor = run(place.reader(event_time=EVENT), cursor, 3_600_000_200)
    place.write(frame([(5, 199, 199), (6, 200, 200)]))
    assert run(place.reader(event_time=EVENT), cursor, 3_600_000_300)[0] == [4, 6]


@settings(max_examples=examples(15), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    # All but the last instant of year 9999, which is to come; those out of the calendar are read to be rejected.
    assert sorted(found) == [0, 1, 2, 4, 5]
    assert [chunk for chunk in span.chunks if "nulls" in chunk] == [{"nulls": True}]
    assert there.read({"nulls": True})["id"].sort().to_list() == [0, 4, 5]


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


@pytest.mark.thorough
def test_types_that_are_not_read_are_texts_that_say_so(tmp_path: Path, postgres_dsn: str) -> None:
    for database, foreign in ((None, DUCKDB_FOREIGN), (postgres_dsn, POSTGRES_FOREIGN)):
        with prepared(postgres_dsn):
            for expression, kind in itertools.islice(foreign.items(), 3 if is_quick() else None):
                there = reader(tmp_path, f"select timestamp '2013-01-01' as t, {expression} as i, 5 as v", database=database)
                rows = there.sample(5)
                assert rows.schema == there.schema(), expression
                assert foreign_type(rows.schema["i"]) == kind, expression
                assert rows["v"].to_list() == [5]
                assert isinstance(rows["i"].to_list()[0][f"sql {kind}"], str)
                assert read(there, pin(there, None, 2_000_000_000_000_000).chunks).equals(rows)
                with pytest.raises(SourceError, match=r"time column 'i'.*not a time"):
                    reader(tmp_path, f"select {expression} as i", event_time="i", database=database).schema()


DUCKDB_FOREIGN = {
    "interval 1 day": "INTERVAL", "[interval 1 day]": "INTERVAL[]",
    "{'a': 1, 'b': [interval 1 day]}": "STRUCT(a INTEGER, b INTERVAL[])",
    "map {'a': interval 1 day}": "MAP(VARCHAR, INTERVAL)", "[interval 1 day]::interval[1]": "INTERVAL[1]",
    "union_value(a := 1)": "UNION(a INTEGER)", "timetz '12:00:00+05'": "TIME WITH TIME ZONE",
    "[timetz '12:00:00+05']": "TIME WITH TIME ZONE[]",
}  # fmt: skip
POSTGRES_FOREIGN = {
    "12.5::money": "money", "12.5::money::price": "money", "array[12.5::money]": "money[]", "interval '1 day'": "interval",
    "array[12.5::money::price]": "price[]", "array[interval '1 day']": "interval[]", "array[1.5::numeric]": "numeric[]",
    "row(1, 2::money)::amount": "amount", "row(1, 'a')": "record", "array[row(1, 2::money)::amount]": "amount[]",
}  # fmt: skip


@contextmanager
def prepared(dsn: str) -> Iterator[None]:
    """Types of the server's own: a domain over money, and a row with money in it."""
    with dbapi.connect(dsn, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute("create domain price as money")
        cursor.execute("create type amount as (number integer, price money)")
        try:
            yield
        finally:
            cursor.execute("drop domain price")
            cursor.execute("drop type amount")


@pytest.mark.parametrize(
    "expression", ["union_value(a := 1)", "1::bignum", "1::variant", "'101'::bit", "map {'a': 1}", "time '12:00'", "1::uhugeint"]
)
def test_columns_of_any_type_do_not_fail_a_query(tmp_path: Path, expression: str) -> None:
    there = reader(tmp_path, f"select timestamp '2013-01-01' as t, {expression} as i, 5 as v")
    assert read(there, pin(there, None, 2_000_000_000_000_000).chunks)["v"].to_list() == [5]


@pytest.mark.parametrize(
    "expression",
    ["int4range(1, 2)", "'1.2.3.4'::inet", "timetz '12:00+01'", "b'101'", "point(1, 2)", "'a b'::tsvector",
     "'{[1,2)}'::int4multirange", "gen_random_uuid()", "array[array[1, 2]]", "null::regtype", "'{}'::json", "array['{}'::jsonb]"],
)  # fmt: skip
def test_columns_of_any_type_do_not_fail_a_servers_query(tmp_path: Path, postgres_dsn: str, expression: str) -> None:
    there = reader(tmp_path, f"select timestamp '2013-01-01' as t, {expression} as i, 5 as v", database=postgres_dsn)
    assert read(there, pin(there, None, 2_000_000_000_000_000).chunks)["v"].to_list() == [5]


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


def test_s19_a_numeric_that_no_decimal_holds_is_null_and_its_text_kept(tmp_path: Path, postgres_dsn: str) -> None:
    values = ["0.0000000001", "'NaN'", "1e30", "'-Infinity'", "1.500000000000", "null", "-12345678901234567890123456789.123456789"]
    rows = ", ".join(f"({number}, timestamp '2013-01-01', {value}::numeric)" for number, value in enumerate(values))
    there = reader(tmp_path, f"select * from (values {rows}) v(id, t, n)", database=postgres_dsn)  # noqa: S608 - the test's own values
    assert there.sample(9)["n"].null_count() == 5
    [chunk] = pin(there, None, 2_000_000_000_000_000).chunks
    found = there.read(chunk, texts=True).sort("id")
    texts = [None if each is None else each["n"] for each in found[UNREAD].to_list()]
    assert texts == ["0.0000000001", "nan", "1" + "0" * 30, "-inf", None, None, None]
    assert found["n"].to_list()[4:] == [Decimal("1.5"), None, Decimal("-12345678901234567890123456789.123456789")]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("340282366920938463463374607431768211455::uhugeint", "340282366920938463463374607431768211455"),
        ("170141183460469231731687303715884105727::hugeint", "170141183460469231731687303715884105727"),
        ("-100000000000000000000000000000000000000::hugeint", "-1" + "0" * 38),
        ("timestamp_s 'infinity'", "infinity"),
        ("timestamp_s '-infinity'", "-infinity"),
        ("timestamp_ns 'infinity'", "infinity"),
        ("time '24:00:00'", "24:00:00"),
    ],
)
def test_s19_what_arrow_does_not_hold_is_null_and_its_text_kept(tmp_path: Path, value: str, text: str) -> None:
    """DuckDB gives -1 for the largest integer, a time in 1970 for an infinity, and Polars nothing for a day's end."""
    there = reader(tmp_path, f"select timestamp '2013-01-01' as t, n from (values ({value}), (null)) v(n)")  # noqa: S608 - likewise
    [chunk] = pin(there, None, 2_000_000_000_000_000).chunks
    found = there.read(chunk, texts=True)
    assert found["n"].to_list() == [None, None]
    assert sorted(str(each) for each in found[UNREAD].to_list()) == ["None", str({"n": text})]
    assert found.drop(UNREAD).schema == there.schema()


def test_integers_of_128_bits_are_read_as_far_as_a_decimal_has_digits(tmp_path: Path) -> None:
    there = reader(tmp_path, f'select timestamp \'2013-01-01\' as t, {"9" * 38}::hugeint as v, 5::uhugeint as "w """')
    assert there.sample(1).select("v", 'w "').row(0) == (Decimal("9" * 38), Decimal(5))


def test_s19_a_days_end_is_no_null(tmp_path: Path, postgres_dsn: str) -> None:
    there = reader(tmp_path, "select timestamp '2013-01-01' as t, time '24:00' as v", database=postgres_dsn)
    [chunk] = pin(there, None, 2_000_000_000_000_000).chunks
    assert there.read(chunk, texts=True)[UNREAD].to_list() == [{"v": "24:00:00"}]


def test_s1_an_infinity_of_seconds_is_no_event_of_1970(tmp_path: Path) -> None:
    there = reader(tmp_path, "select timestamp_s 'infinity' as t, 5 as v")
    [chunk] = pin(there, None, 2_000_000_000_000_000).chunks
    assert there.read(chunk)["t"].to_list() == [None]


@pytest.mark.parametrize(
    ("unit", "precision"), spread(["day", "hour", "minute", "second"], ["DATE", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP"])
)
def test_s18_a_row_of_the_same_step_that_comes_later_is_read(tmp_path: Path, precision: str, unit: str) -> None:
    """An available time told in steps, and events that are later within the step: the effective time passes over the step."""
    if precision == "DATE" and unit != "day":
        pytest.skip("a date has no such steps")
    length = {"day": 86_400, "hour": 3_600, "minute": 60, "second": 1}[unit] * 1_000_000

    def insert(number: int, event: int) -> None:
        with duckdb.connect(tmp_path / "rows.duckdb") as connection:
            connection.execute(f"create table if not exists o (id int, t timestamp, got {precision})")
            connection.execute(
                f"insert into o values ({number}, make_timestamp({event}), date_trunc('{unit}', make_timestamp({event})))"  # noqa: S608 - likewise
            )

    words = {"available_time": "got", "lateness": "1us", "database": "rows.duckdb"}
    insert(1, BASES[1] + length - 7)
    _, cursor = run(reader(tmp_path, "from o", **words), None, BASES[1] + length - 6)
    insert(2, BASES[1] + 5)
    found, cursor = run(reader(tmp_path, "from o", **words), cursor, BASES[1] + length)
    assert 2 in found


def test_s18_the_cursor_does_not_pass_an_open_transaction(tmp_path: Path, postgres_dsn: str) -> None:
    place = SQLOverPostgres(tmp_path, postgres_dsn)
    place.write(frame([(0, 100, 100)]))
    words = {"event_time": "t", "available_time": "got", "lateness": "1us"}

    def there() -> SQLReader:
        return SQLReader(SQLSource("s", f"table own_{place.table}", database=postgres_dsn, **words), tmp_path)

    with dbapi.connect(postgres_dsn) as slow, dbapi.connect(postgres_dsn, autocommit=True) as quick:
        with quick.cursor() as cursor:
            cursor.execute(f"create table own_{place.table} (id bigint, t timestamptz, got timestamptz default now())")
        with slow.cursor() as cursor:
            cursor.execute(f"insert into own_{place.table} values (1, 'epoch')")  # noqa: S608 - its own table
        with quick.cursor() as cursor:
            cursor.execute(f"insert into own_{place.table} values (2, 'epoch')")  # noqa: S608 - its own table
        now = utc_now() + timedelta(days=1)
        found, known = run(there(), None, to_micros(now))
        assert found == [2]
        slow.commit()
        assert run(there(), known, to_micros(now))[0] == [1, 2]


def test_s18_the_cursor_does_not_pass_the_servers_clock(tmp_path: Path, postgres_dsn: str) -> None:
    """A row stamped by a clock that is ahead, read by a run whose clock is too, hides none that comes after."""
    for database in (None, postgres_dsn):
        ahead = utc_now() + timedelta(hours=20)
        query = "select 1 as id, timestamptz '{}' as t"
        _, cursor = run(reader(tmp_path, query.format(ahead), database=database), None, to_micros(ahead))
        assert cursor["through"] <= to_micros(utc_now())
        found, _ = run(
            reader(tmp_path, query.format(utc_now()), database=database), cursor, to_micros(utc_now() + timedelta(hours=1))
        )
        assert found == [1]


def test_s18_a_cursor_of_before_is_not_believed(tmp_path: Path) -> None:
    place = SQLOverDuckDB(tmp_path)
    place.write(frame([(1, 100, 100)]))
    found, cursor = run(place.reader(**TIMES, lateness="1us"), {"through": 5_000_000_000}, 6_000_000_000)
    assert found == [1]
    assert cursor["through"] == 100


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


def test_s18_each_time_of_a_row_is_computed_once_where_a_span_is_pinned(
    tmp_path: Path, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = "select t, t + interval '1 second' as a from generate_series(timestamptz '2013-01-01', '2013-01-02', '1 minute') as t"
    asked: list[str] = []
    plain = Postgres.fetch

    def noted(self: Postgres, query: str) -> pl.DataFrame:
        asked.append(query)
        return plain(self, query)

    monkeypatch.setattr(Postgres, "fetch", noted)
    there = reader(tmp_path, query, available_time="a", database=postgres_dsn)
    assert there.span(None, None, datetime(2014, 1, 1, tzinfo=UTC), MANY).cursor["grain"] in (1_000_000, 60_000_000)
    [counted] = [each for each in asked if "latest" in each]
    # Once for each of the two times, in rows that PostgreSQL makes first: it would put the expressions in the place of their names.
    assert (counted.count("extract(epoch"), counted.count("offset 0")) == (2, 1)


@pytest.mark.parametrize("at_server", [False, True])
@pytest.mark.parametrize("micros", [1, 999_000, 59_000_000, 60_000_000, 3_600_000_000, 86_400_000_000])
def test_s18_the_grain_is_that_of_the_finest_time(tmp_path: Path, postgres_dsn: str, micros: int, at_server: bool) -> None:
    steps = [86_400_000_000, 3_600_000_000, 60_000_000, 1_000_000, 1_000, 1]
    for sign in (1, -1):
        instant = f"timestamp '1970-01-01' + {sign} * interval '{micros} microseconds'"
        query = f"select timestamp '2013-01-01' as t union all select {instant} as t"
        there = reader(tmp_path, query, database=postgres_dsn if at_server else None)
        cursor = there.span(None, None, datetime(2014, 1, 1, tzinfo=UTC), MANY).cursor
        assert cursor["grain"] == next(step for step in steps if micros % step == 0)
