"""Sources through the public API: nothing that a source holds is skipped for good (S18), and what is rejected is told (S19)."""

import gzip
import os
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake

from featurestore import (
    CSVSource,
    DeltaSource,
    Entity,
    FeatureStore,
    FeatureView,
    FrameSource,
    ParquetSource,
    SQLSource,
    count,
    sum_,
)
from featurestore.clock import to_micros
from featurestore.definitions.source import Source
from featurestore.errors import DefinitionError, SourceError
from featurestore.materialization.read_progress import accepted_cursor
from featurestore.offline.base import Table
from featurestore.testing import FakeClock
from tests.effort import spread

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY = Entity("thing", k=int)
TIMES = {"event_time": "t", "available_time": "got"}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOON)


@pytest.fixture
def store(tmp_path: Path, clock: FakeClock) -> Iterator[FeatureStore]:
    with FeatureStore(tmp_path, clock=clock) as opened:
        yield opened


def latest_of(of: Source) -> type[FeatureView]:
    class Values(FeatureView, entity=KEY, source=of):
        v: float | None

    return Values


def windows_of(of: Source) -> type[FeatureView]:
    class Sums(FeatureView, entity=KEY, source=of):
        s: float = sum_("v").over("1d")
        n: int = count().over("1d")

    return Sums


def history(store: FeatureStore, view: str = "values") -> list[tuple[int, float | None]]:
    return sorted(store.sql(f"select k, v from {view}").rows())  # noqa: S608 - a view's name


def rows(*given: tuple[int, datetime, datetime, float | None]) -> pl.DataFrame:
    return pl.DataFrame(list(given), schema=["k", "t", "got", "v"], orient="row").cast({"k": pl.Int64, "v": pl.Float64})


def later(**words: float) -> datetime:
    return NOON + timedelta(**words)


def insert(root: Path, statement: str) -> None:
    with duckdb.connect(root / "o.duckdb") as connection:
        connection.execute("create table if not exists o (k bigint, t timestamp, got timestamp, v double)")
        connection.execute(statement)


ORDERS = "select * from o"


def test_s18_a_row_whose_transaction_commits_after_the_run_is_read(store: FeatureStore, clock: FakeClock, tmp_path: Path) -> None:
    insert(tmp_path, "insert into o values (2, '2026-03-01 12:00', '2026-03-01 12:00:05', 2)")
    store.apply([latest_of(SQLSource("o", ORDERS, database="o.duckdb", **TIMES))])
    clock.micros = to_micros(later(seconds=10))
    store.materialize()
    insert(tmp_path, "insert into o values (1, '2026-03-01 11:59', '2026-03-01 12:00:00', 1)")
    for minutes in (5, 120):
        clock.micros = to_micros(later(minutes=minutes))
        store.materialize()
    assert history(store) == [(1, 1.0), (2, 2.0)]


@pytest.mark.parametrize(("got", "second"), [("DATE", "2026-03-01"), ("TIMESTAMP", "2026-03-01 12:00:00")])
def test_s18_a_row_loaded_later_the_same_day_or_second_is_read(
    store: FeatureStore, clock: FakeClock, tmp_path: Path, got: str, second: str
) -> None:
    with duckdb.connect(tmp_path / "o.duckdb") as connection:
        connection.execute(f"create table o (k bigint, t timestamp, got {got}, v double)")
    insert(tmp_path, f"insert into o values (1, '2026-03-01 11:59', '{second}', 1)")  # noqa: S608 - the test's own
    store.apply([latest_of(SQLSource("o", ORDERS, database="o.duckdb", **TIMES, lateness="1s"))])
    clock.micros = to_micros(later(milliseconds=500))
    store.materialize()
    insert(tmp_path, f"insert into o values (2, '2026-03-01 08:00', '{second}', 2)")  # noqa: S608 - the test's own
    clock.micros = to_micros(later(hours=21))
    store.materialize()
    assert history(store) == [(1, 1.0), (2, 2.0)]


@pytest.mark.parametrize(
    ("kind", "ahead"), spread(["sql", "parquet", "csv", "delta"], [timedelta(seconds=2), timedelta(hours=1), timedelta(days=1)])
)
def test_s18_a_clock_that_was_ahead_costs_no_row(
    store: FeatureStore, clock: FakeClock, tmp_path: Path, ahead: timedelta, kind: str
) -> None:
    def add(name: str, frame: pl.DataFrame) -> None:
        if kind == "parquet":
            frame.write_parquet(tmp_path / f"{name}.parquet")
        elif kind == "csv":
            frame.write_csv(tmp_path / f"{name}.csv")
        elif kind == "delta":
            write_deltalake(tmp_path / "table", frame, mode="append")
        else:
            insert(tmp_path, "select 1")
            with duckdb.connect(tmp_path / "o.duckdb") as connection:
                connection.execute("insert into o select * from frame")

    sources: dict[str, Source] = {
        "sql": SQLSource("o", ORDERS, database="o.duckdb", **TIMES),
        "parquet": ParquetSource("o", "*.parquet", **TIMES),
        "csv": CSVSource("o", "*.csv", **TIMES),
        "delta": DeltaSource("o", "table", **TIMES),
    }
    add("a", rows((1, NOON, NOON, 1.0)))
    store.apply([latest_of(sources[kind])])
    clock.micros = to_micros(later(seconds=1) + ahead)
    store.materialize()
    clock.micros = to_micros(later(seconds=2))
    add("b", rows((2, NOON, later(seconds=1.5), 2.0)))
    [summary] = store.materialize()
    assert history(store) == [(1, 1.0), (2, 2.0)]
    assert kind == "sql" or any("a clock is wrong" in notice for notice in summary.notices)
    clock.micros = to_micros(later(hours=2))
    store.materialize()
    assert history(store) == [(1, 1.0), (2, 2.0)]


def test_s18_a_rejected_row_moves_no_cursor(store: FeatureStore, clock: FakeClock, tmp_path: Path) -> None:
    class Values(FeatureView, entity=KEY, source=SQLSource("o", ORDERS, database="o.duckdb", **TIMES, lateness="1s")):
        v: float

    insert(
        tmp_path,
        "insert into o values (1, '2026-03-01 12:00', '2026-03-01 12:00', 1), (2, '2026-03-01 12:00', '2026-03-01 15:00', null)",
    )
    store.apply([Values])
    clock.micros = to_micros(later(hours=4))
    [summary] = store.materialize()
    assert (summary.rows_written, summary.rows_rejected) == (1, 1)
    insert(tmp_path, "insert into o values (3, '2026-03-01 12:00', '2026-03-01 13:00', 3)")
    store.materialize()
    assert history(store) == [(1, 1.0), (3, 3.0)]


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_s18_a_late_row_in_a_rewritten_file_is_read(store: FeatureStore, clock: FakeClock, tmp_path: Path, ending: str) -> None:
    write = pl.DataFrame.write_parquet if ending == "parquet" else pl.DataFrame.write_csv
    source = (ParquetSource if ending == "parquet" else CSVSource)("o", f"*.{ending}", **TIMES)
    first = (1, later(hours=-2), later(hours=-1), 1.0)
    write(rows(first), tmp_path / f"a.{ending}")
    store.apply([latest_of(source)])
    clock.micros = to_micros(later(minutes=30))
    store.materialize()
    write(rows(first, (2, later(hours=-2), later(minutes=10), 2.0)), tmp_path / f"a.{ending}")
    clock.micros = to_micros(later(hours=1))
    store.materialize()
    assert history(store) == [(1, 1.0), (2, 2.0)]


@pytest.mark.parametrize("how", ["in place", "replaced", "without times"])
def test_s18_changed_content_of_equal_size_and_time_is_read(
    store: FeatureStore, clock: FakeClock, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.csv"
    path.write_text("k,t,v\n1,2026-03-01,78.1\n")
    before = path.stat()
    store.apply([latest_of(CSVSource("o", "a.csv", event_time="t"))])
    store.materialize()
    other = tmp_path / "b.tmp"
    (other if how == "replaced" else path).write_text("k,t,v\n2,2026-03-01,75.9\n")
    if how == "replaced":
        other.replace(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    if how == "without times":
        # As on a file system that counts in steps of seconds and numbers no files.
        same = Path.stat
        monkeypatch.setattr(Path, "stat", lambda each, **words: before if each == path else same(each, **words))
    store.materialize()
    assert history(store) == [(1, 78.1), (2, 75.9)]


@pytest.mark.parametrize(
    ("half", "form"), spread(["1,2026-03-01T11:00:00,7", "1,2026-03-0", '1,2026-03-01T11:00:00,"7', "1", "1,"], ["plain", "gzip"])
)
def test_a_record_that_is_still_being_written_is_no_row(
    store: FeatureStore, clock: FakeClock, tmp_path: Path, form: str, half: str
) -> None:
    path = tmp_path / ("a.csv.gz" if form == "gzip" else "a.csv")

    def write(text: str) -> None:
        path.write_bytes(gzip.compress(text.encode()) if form == "gzip" else text.encode())

    head = "k,t,v\n2,2026-03-01T11:00:00,2\n"
    write(head + half)
    source = CSVSource("o", path.name, event_time="t", columns={"k": int, "v": float})
    store.apply([latest_of(source), windows_of(source)])
    summary = store.materialize()[0]
    assert (summary.rows_read, summary.rows_rejected) == (1, 0)
    assert any("may still be being written" in notice for notice in summary.notices)
    write(head + "1,2026-03-01T11:00:00,78.1\n")
    assert not store.materialize()[0].notices
    assert history(store) == [(1, 78.1), (2, 2.0)]
    assert store.online("sums", [{"k": 1}]).to_dicts()[0]["s"] == 78.1


@pytest.mark.parametrize(("before", "others"), [("", []), ("2,2026-03-01T11:00:00,2\n", [(2, 2.0)])])
@pytest.mark.parametrize("how", ["by its time", "by the run's clock"])
def test_a_last_record_without_a_line_end_counts_once_the_file_is_a_minute_old(
    store: FeatureStore, clock: FakeClock, tmp_path: Path, how: str, before: str, others: list[tuple[int, float]]
) -> None:
    path = tmp_path / "a.csv"
    path.write_text("k,t,v\n" + before + "1,2026-03-01T11:00:00,78.1")
    store.apply([latest_of(CSVSource("o", "a.csv", event_time="t", columns={"k": int, "v": float}))])
    store.materialize()
    clock.micros = to_micros(later(seconds=59))
    store.materialize()
    assert history(store) == others
    if how == "by its time":
        os.utime(path, (0, later(seconds=-2).timestamp()))
    clock.micros = to_micros(later(seconds=61))
    [summary] = store.materialize()
    assert history(store) == [(1, 78.1), *others]
    assert not summary.notices
    assert store.materialize()[0].rows_read == 0


def test_s9_a_compaction_of_the_source_changes_nothing(store: FeatureStore, clock: FakeClock, tmp_path: Path) -> None:
    source = DeltaSource("o", "table", event_time="t")
    same = rows((1, later(hours=-1), NOON, 2.0))
    write_deltalake(tmp_path / "table", same)
    store.apply([windows_of(source)])
    store.materialize()
    write_deltalake(tmp_path / "table", same, mode="append")
    store.materialize()
    before = store.online("sums", [{"k": 1}]).to_dicts()
    for compact in (lambda table: table.optimize.compact(), lambda table: table.optimize.z_order(["k"])):
        compact(DeltaTable(tmp_path / "table"))
        assert store.materialize()[0].rows_read == 0
        assert store.online("sums", [{"k": 1}]).to_dicts() == before


def test_s9_a_compaction_of_files_not_all_read_changes_nothing(store: FeatureStore, tmp_path: Path) -> None:
    same = rows((1, later(hours=-1), NOON, 2.0))
    write_deltalake(tmp_path / "table", same)
    store.apply([windows_of(DeltaSource("o", "table", event_time="t"))])
    store.materialize()
    before = store.online("sums", [{"k": 1}]).to_dicts()
    write_deltalake(tmp_path / "table", same, mode="append")
    DeltaTable(tmp_path / "table").optimize.compact()
    assert store.materialize()[0].rows_read == 1
    assert store.online("sums", [{"k": 1}]).to_dicts() == before


def test_a_partition_has_the_type_that_the_view_declares(store: FeatureStore, tmp_path: Path) -> None:
    def add(code: str, v: float) -> None:
        (tmp_path / f"data/code={code}").mkdir(parents=True)
        pl.DataFrame({"t": [NOON], "v": [v]}).write_parquet(tmp_path / f"data/code={code}/x.parquet")

    class Texts(FeatureView, entity=Entity("text", code=str), source=ParquetSource("o", "data", event_time="t")):
        v: float

    class Numbers(FeatureView, entity=Entity("number", code=int), source=ParquetSource("o", "data", event_time="t")):
        v: float

    class Windows(FeatureView, entity=Entity("text", code=str), source=ParquetSource("o", "data", event_time="t")):
        n: int = count().over("1d")

    add("01001", 1.0)
    store.apply([Texts, Numbers, Windows])
    store.materialize()
    assert store.online("texts", [{"code": "01001"}]).to_dicts()[0]["v"] == 1.0
    assert store.online("numbers", [{"code": 1001}]).to_dicts()[0]["v"] == 1.0
    add("2A001", 2.0)
    summaries = {each.view: each for each in store.materialize()}
    assert store.online("texts", [{"code": "2A001"}]).to_dicts()[0]["v"] == 2.0
    assert store.online("windows", [{"code": "2A001"}]).to_dicts()[0]["n"] == 1
    assert summaries["numbers"].rows_rejected == 1
    assert store.runs.rejected_rows("numbers").select("code", "_reason").to_dicts() == [
        {"code": "2A001", "_reason": "code cannot be read as int"}
    ]
    assert store.push("o", [{"code": "01001", "t": NOON, "v": 5.0}])[0].rows_new == 1
    assert store.online("texts", [{"code": "01001"}]).to_dicts()[0]["v"] == 5.0


def test_columns_tells_the_type_of_a_partition(store: FeatureStore, tmp_path: Path) -> None:
    (tmp_path / "data/zip=02116").mkdir(parents=True)
    pl.DataFrame({"t": [NOON], "k": [1]}).write_parquet(tmp_path / "data/zip=02116/x.parquet")

    class Zips(FeatureView, entity=KEY, source=ParquetSource("o", "data", event_time="t", columns={"zip": str})):
        place: str

        @staticmethod
        def transform(rows: pl.LazyFrame) -> pl.LazyFrame:
            return rows.select("k", "t", place=pl.col("zip"))

    store.apply([Zips])
    store.materialize()
    assert store.online("zips", [{"k": 1}]).to_dicts()[0]["place"] == "02116"
    with pytest.raises(DefinitionError, match=r"columns= names 'k', which is not a hive partition"):
        store.apply([latest_of(ParquetSource("o", "data", event_time="t", columns={"k": str}))])


@pytest.mark.parametrize("older", ["1", "3"])
def test_a_nullable_feature_that_a_file_lacks_is_null(store: FeatureStore, tmp_path: Path, older: str) -> None:
    pl.DataFrame({"k": [1], "t": [NOON]}).write_parquet(tmp_path / f"{older}.parquet")
    pl.DataFrame({"k": [2], "t": [NOON], "v": [2.5]}).write_parquet(tmp_path / "2.parquet")
    store.apply([latest_of(ParquetSource("o", "*.parquet", event_time="t"))])
    store.materialize()
    assert history(store) == [(1, None), (2, 2.5)]


def test_s19_a_cell_that_cannot_be_read_rejects_its_row(store: FeatureStore, tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("k,t,v,unused\n1,2026-03-01,1.5,1\n2,2026-03-01,oops,1\n3,garbage,2.5,1\n4,2026-03-01,3.5,no\n")
    source = CSVSource("o", "d.csv", event_time="t", columns={"k": int, "v": float, "unused": int})
    store.apply([latest_of(source), windows_of(source)])
    for view in ("values", "sums"):
        [summary] = store.materialize([view])
        assert summary.rows_rejected == 2
        rejected = store.runs.rejected_rows(view).sort("k").select("k", "t", "v", "_reason").to_dicts()
        assert [(row["k"], row["_reason"]) for row in rejected] == [
            (2, "v cannot be read as float"),
            (3, "t cannot be read as datetime"),
        ]
        assert (rejected[0]["v"], rejected[1]["t"]) == ("oops", "garbage")
    assert history(store) == [(1, 1.5), (4, 3.5)]


FAR = ["infinity", "-infinity", "20000-01-01", "0044-03-15 (BC)"]


@pytest.mark.parametrize(
    ("kind", "time"),
    spread(
        ["sql", "sql in windows", "parquet", "postgres", "delta", "frame"],
        ["t as timestamp", "got as date", "got as timestamp", "t as date"],
    ),
)
def test_s19_times_out_of_the_calendar_are_rejected_everywhere_alike(
    store: FeatureStore, tmp_path: Path, postgres_dsn: str, kind: str, time: str
) -> None:
    (column, type_), windowed = time.split(" as "), kind == "sql in windows"
    if kind == "delta" and type_ == "date":
        pytest.skip("its log has no such dates")
    day = f"{type_} '2026-03-01'"
    values = ", ".join(
        f"({number}, {', '.join([f'{type_} {far!r}', day] if column == 't' else [day, f'{type_} {far!r}'])}, 1.0::float8)"
        for number, far in enumerate([*FAR, "2026-02-28"])
    )
    query = f"select * from (values {values}) v(k, t, got, v)"  # noqa: S608 - the test's own
    source: Source
    if kind in ("sql", "sql in windows", "postgres"):
        source = SQLSource("o", query, database=postgres_dsn if kind == "postgres" else None, **TIMES)
    else:
        frame = pl.DataFrame(duckdb.sql(query.replace("float8", "double")).to_arrow_table()).cast({"k": pl.Int64})
        if kind == "parquet":
            frame.write_parquet(tmp_path / "x.parquet")
        elif kind == "delta":
            write_deltalake(tmp_path / "table", frame)
        sources = {"parquet": ParquetSource("o", "x.parquet", **TIMES), "delta": DeltaSource("o", "table", **TIMES)}
        source = sources[kind] if kind in sources else FrameSource("o", frame, **TIMES)
    store.apply([windows_of(source) if windowed else latest_of(source)])
    [summary] = store.materialize()
    assert summary.reasons == {f"{column} lies outside the years 1 to 9999": 4}
    assert summary.rows_read == 5
    assert store.runs.rejected_rows("sums" if windowed else "values")[column].dtype == pl.String


def test_s19_money_is_never_guessed(store: FeatureStore, postgres_dsn: str) -> None:
    query = "select 1 as k, timestamp '2026-03-01' as t, 1.5::float8 as v, 12.5::money as price, interval '1 day' as i"
    source = SQLSource("o", query, database=postgres_dsn, event_time="t")
    store.apply([latest_of(source)])
    store.materialize()
    assert history(store) == [(1, 1.5)]

    class Paid(FeatureView, entity=KEY, source=source):
        price: float

    with pytest.raises(DefinitionError, match=r"type money for the feature 'price'.*Cast it in the query"):
        store.apply([Paid])


def test_s19_a_numeric_that_is_no_decimal_rejects_its_row_where_it_is_used(store: FeatureStore, postgres_dsn: str) -> None:
    query = (
        "select * from (values (1, timestamp '2026-03-01', 1.5, 'NaN'::numeric), (2, '2026-03-01', 'NaN', 2)) o(k, t, v, unused)"
    )
    store.apply([latest_of(SQLSource("o", query, database=postgres_dsn, event_time="t"))])
    [summary] = store.materialize()
    assert summary.rows_rejected == 1
    assert history(store) == [(1, 1.5)]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "garbage": lambda whole: b"\xff\x00 garbage" * 9,
    "empty": lambda whole: b"",
    "truncated": lambda whole: whole[: len(whole) * 2 // 3],
    "inside": lambda whole: whole[:4] + b"\xff" * 40 + whole[44:],
}


@pytest.mark.parametrize(("damage", "file"), spread(sorted(DAMAGE), ["0.parquet", "2.csv.gz", "2.parquet", "0.csv.gz"]))
def test_a_bad_file_is_set_aside_and_read_once_it_is_whole(store: FeatureStore, tmp_path: Path, damage: str, file: str) -> None:
    name, _, ending = file.partition(".")

    def write(at: str, k: int) -> Path:
        path = tmp_path / f"{at}.{ending}"
        frame = pl.DataFrame({"k": [k] * 50, "t": [NOON] * 50, "v": [float(k)] * 50})
        if ending == "parquet":
            frame.write_parquet(path, compression="uncompressed")
        else:
            path.write_bytes(gzip.compress(frame.write_csv().encode()))
        return path

    kind: Any = ParquetSource if ending == "parquet" else CSVSource
    write("1", 1)
    store.apply([latest_of(kind("o", f"*.{ending}", event_time="t", on_bad_file="set_aside"))])
    bad = write(name, 2)
    bad.write_bytes(DAMAGE[damage](bad.read_bytes()))
    for _ in range(2):
        [summary] = store.materialize()
        assert history(store) == [(1, 1.0)]
        # A text is no CSV file that is damaged, but one with a header alone.
        if not (ending == "csv.gz" and damage in ("empty", "garbage")):
            assert any(f"{name}.{ending} is set aside" in notice for notice in summary.notices)
    write(name, 2)
    [summary] = store.materialize()
    assert history(store) == [(1, 1.0), (2, 2.0)]
    assert not summary.notices
    bad.write_bytes(DAMAGE[damage](bad.read_bytes()))
    store.materialize()
    assert history(store) == [(1, 1.0), (2, 2.0)]


def test_a_bad_file_stops_the_run_unless_it_is_to_be_set_aside(store: FeatureStore, tmp_path: Path) -> None:
    rows((1, NOON, NOON, 1.0)).write_parquet(tmp_path / "1.parquet")
    store.apply([latest_of(ParquetSource("o", "*.parquet", event_time="t"))])
    (tmp_path / "2.parquet").write_bytes(b"garbage")
    with pytest.raises(SourceError, match=r"2\.parquet could not be read"):
        store.materialize()
    with pytest.raises(DefinitionError, match='neither "fail" nor "set_aside"'):
        ParquetSource("o", "*.parquet", event_time="t", on_bad_file="skip")  # type: ignore[arg-type]  # what is refused


def test_one_text_for_null_is_one_text() -> None:
    assert CSVSource("o", "x.csv", event_time="t", null_values="NA").null_values == ("NA",)
    with pytest.raises(DefinitionError, match="null_values= of source 'o' holds"):
        CSVSource("o", "x.csv", event_time="t", null_values=[5])  # type: ignore[list-item]  # what is refused


def test_s18_a_project_of_before_reads_its_files_again(store: FeatureStore, clock: FakeClock, tmp_path: Path) -> None:
    """A cursor of the version before may have passed over rows of a file: the file's size and time alone are not believed."""
    rows((1, NOON, NOON, 1.0), (2, NOON, NOON, 2.0)).write_parquet(tmp_path / "a.parquet")
    view = latest_of(ParquetSource("o", "a.parquet", **TIMES))
    store.apply([view])
    store.materialize(end=later(hours=-1))
    stamp = (tmp_path / "a.parquet").stat()
    ledger, applied = store.components.ledger, store.components.registry.load().views["values"]
    cursor = {"through": int(NOON.timestamp() * 1e6), "files": {"a.parquet": [stamp.st_size, stamp.st_mtime_ns, True]}}
    run = ledger.begin("values", applied.data_version, 1, {"chunks": [], "cursor": cursor})
    # The version before had each run in the history too, also those that brought no rows.
    assert store.components.offline.commit(Table.of("default", applied), run.seq, [], 0) == 0
    ledger.update(run, state="done")
    clock.micros = to_micros(later(minutes=1))
    store.materialize()
    assert history(store) == [(1, 1.0), (2, 2.0)]


def test_s18_a_start_moves_no_cursor(store: FeatureStore, clock: FakeClock, tmp_path: Path) -> None:
    insert(tmp_path, "insert into o values (1, '2026-03-01 10:00', '2026-03-01 10:00', 1)")
    store.apply([latest_of(SQLSource("o", ORDERS, database="o.duckdb", **TIMES, lateness="1s"))])
    store.materialize()
    insert(tmp_path, "insert into o values (2, '2026-03-01 11:59', '2026-03-01 11:59', 2)")
    store.materialize(start=later(minutes=-5))
    insert(tmp_path, "insert into o values (3, '2026-03-01 11:00', '2026-03-01 11:00', 3)")
    store.materialize()
    assert history(store) == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_dates_are_times(store: FeatureStore) -> None:
    frame = pl.DataFrame({"k": [1], "t": [date(2026, 3, 1)], "v": [1.0]})
    store.apply([latest_of(FrameSource("o", frame, event_time="t"))])
    assert store.materialize()[0].rows_written == 1


@pytest.mark.parametrize(
    ("kind", "chosen"), spread(["sql", "parquet", "delta", "frame"], ["earlier rows", "rejected rows", "no rows"])
)
def test_s18_a_start_leaves_the_cursor_as_it_was(
    store: FeatureStore, clock: FakeClock, tmp_path: Path, kind: str, chosen: str
) -> None:
    days = [later(days=day) for day in range(-10, 0)]
    frame = rows(*((number, day, day, None if number == 8 else float(number)) for number, day in enumerate(days)))
    frame = frame.with_columns(k=pl.when(pl.col("k") != 2).then("k"))
    if kind == "delta":
        write_deltalake(tmp_path / "rows", frame)
    frame.write_parquet(tmp_path / "rows.parquet")
    of = {
        "sql": SQLSource("o", "select * from 'rows.parquet'", **TIMES),
        "parquet": ParquetSource("o", "rows.parquet", **TIMES),
        "delta": DeltaSource("o", "rows", **TIMES),
        "frame": FrameSource("o", frame, **TIMES),
    }[kind]
    store.apply([latest_of(of)])
    store.materialize()
    was = cursor_of(store)
    clock.micros = to_micros(later(minutes=5))
    first, last = {"earlier rows": (3, 5), "rejected rows": (2, 2), "no rows": (-3, -2)}[chosen]
    [summary] = store.materialize(start=later(days=first - 10), end=later(days=last - 10, minutes=1))
    assert summary.rows_read == {"earlier rows": 3, "rejected rows": 1, "no rows": 0}[chosen]
    assert cursor_of(store) == was
    # A project of the version before may have a run under way that does not say it.
    assert accepted_cursor({"cursor": {"through": 9, "former": 3}}, [{"latest": 7}]) == {"through": 7, "former": 3}


def cursor_of(store: FeatureStore) -> Any:
    applied = store.components.registry.load().views["values"]
    done = store.components.ledger.last_done("values", applied.data_version)
    assert done is not None
    return done.span["cursor"]
