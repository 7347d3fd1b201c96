"""Times at the ends of the calendar: rows of the years 1 to 9999 are good everywhere, others are rejected alone (S1, S11, S19)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import Entity, FeatureStore, FeatureView, FrameSource, ParquetSource, count, last
from featurestore.clock import YEARS, from_micros
from featurestore.errors import RequestError
from featurestore.rows.transform import stack_rejects
from tests.projects import INSTANT

NOW = datetime(2024, 1, 1, tzinfo=UTC)
FIRST, LAST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999999, UTC)
ROWS = pl.DataFrame({"u": ["a", "b", "c"], "at": [FIRST, NOW, FIRST + timedelta(microseconds=1)], "x": [1.0, 2.0, 3.0]})
USER = Entity("user", u=str)
PLAIN = FrameSource("plain", ROWS, event_time="at")
LATE = FrameSource(
    "late", ROWS.with_columns(known=pl.col("at"), id=pl.col("u")), event_time="at", available_time="known", event_id="id"
)


class Counts(FeatureView, entity=USER, source=PLAIN):
    n: int = count().over("1h", "100000d")
    x: float | None = last("x").over("100000d", tile="100000d")


class LateCounts(FeatureView, entity=USER, source=LATE):
    n: int = count().over("1h", "100000d")


class Kept(FeatureView, entity=USER, source=PLAIN, ttl="100000d"):
    x: float


class Brief(FeatureView, entity=USER, source=LATE, ttl="1us"):
    x: float


VIEWS = [Counts, LateCounts, Kept, Brief]


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with filled(tmp_path) as store:
        yield store


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with filled(tmp_path_factory.mktemp("calendar")) as store:
        yield store


@contextmanager
def filled(folder: Path) -> Iterator[FeatureStore]:
    with FeatureStore(folder, clock=lambda: NOW) as store:
        store.apply(VIEWS)
        assert all(summary.rows_rejected == 0 for summary in store.materialize())
        yield store


def test_s1_an_event_of_the_first_day_is_a_row_like_any_other(store: FeatureStore) -> None:
    assert store.online(Counts, [{"u": "b"}]).to_dicts() == [{"u": "b", "n_1h": 1, "n_100000d": 1, "x": 2.0}]
    for source in ("plain", "late"):
        rows = ROWS.with_columns(known=pl.col("at"), id=pl.lit("other")) if source == "late" else ROWS
        pushed = store.push(source, rows.head(1).with_columns(u=pl.lit("d")))
        assert [each.rows_new for each in pushed] == [1, 1]
    store.materialize(start=FIRST)
    store.admin.rebuild_online()
    store.admin.maintain()
    spine = pl.DataFrame({"u": ["a", "a", "d", "b"], "t": [FIRST, LAST, FIRST, LAST]})
    for view in VIEWS:
        trained = store.training_frame(spine, view, time="t").drop("t").to_dicts()
        online = [store.online(view, [{"u": u}], at=t).to_dicts()[0] for u, t in spine.rows()]
        assert trained == online
    assert store.online(Kept, [{"u": "a"}], at=FIRST).event_time == {"kept": [FIRST]}


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59.999999-05:00"])
def test_s19_a_pushed_time_beyond_the_calendar_is_rejected_alone(time: str, store: FeatureStore) -> None:
    for _ in range(2):
        pushed = store.push("plain", [{"u": "e", "at": time, "x": 1.0}, {"u": "f", "at": "2023-12-31T23:59", "x": 2.0}])
        assert [each.reasons for each in pushed] == [{"at lies outside the years 1 to 9999": 1}] * 2
    assert store.online(Kept, [{"u": "e"}, {"u": "f"}]).status == {"x": ["missing", "present"]}
    assert store.runs.rejected_rows("kept").height == 1


BEYOND = [
    ("ms", 2**60),
    ("ms", -(2**63)),
    ("us", 2**62),
    ("us", -(2**63)),
    ("us", 2**63 - 1),
    ("us", YEARS[1] + 1),
    ("us", YEARS[0] - 1),
]


@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
@pytest.mark.parametrize(("unit", "value"), BEYOND)
def test_s11_a_spines_time_beyond_the_calendar_is_counted(unit: Any, value: int, zone: str | None, unchanged: FeatureStore) -> None:
    times = pl.Series("t", [value, 0, value], dtype=pl.Int64).cast(pl.Datetime(unit, zone))
    spine = pl.DataFrame({"u": ["a", "b", "c"], "t": times})
    ways: list[Callable[[], Any]] = [
        lambda: unchanged.training_frame(spine, Counts, time="t"),
        lambda: unchanged.training_frame(spine.lazy(), Kept, time="t"),
    ]
    for way in ways:
        with pytest.raises(RequestError, match="2 of the spine's 3 rows have a time in 't' outside the years 1 to 9999"):
            way()


def test_s11_a_spines_date_beyond_the_calendar_is_counted(unchanged: FeatureStore) -> None:
    dates = pl.Series("t", [2**31 - 1, 0, -(2**31)], dtype=pl.Int32).cast(pl.Date)
    with pytest.raises(RequestError, match="2 of the spine's 3 rows have a time in 't' outside"):
        unchanged.training_frame(pl.DataFrame({"u": ["a"] * 3, "t": dates}), Kept, time="t")
    good = pl.DataFrame({"u": ["a"] * 2, "t": [date(1, 1, 1), date(9999, 12, 31)]})
    assert unchanged.training_frame(good, Counts, time="t")["n_1h"].to_list() == [1, 0]


def test_s1_nanoseconds_reach_no_end_of_the_calendar(unchanged: FeatureStore) -> None:
    times = pl.Series("t", [2**63 - 1, -(2**63)], dtype=pl.Int64).cast(pl.Datetime("ns"))
    assert unchanged.training_frame(pl.DataFrame({"u": ["b", "b"], "t": times}), Kept, time="t")["x"].to_list() == [2.0, None]


def test_s19_a_date_or_time_that_no_microsecond_counts_is_rejected_alone(tmp_path: Path) -> None:
    far = pl.Series([2**31 - 1, 0], dtype=pl.Int32).cast(pl.Date)
    rows = pl.DataFrame({"u": ["a", "b"], "at": [NOW, NOW], "day": far, "when": far}).with_columns(pl.col("at").cast(INSTANT))

    class Days(FeatureView, entity=USER, source=FrameSource("s", rows, event_time="at")):
        day: date
        when: datetime

    with FeatureStore(tmp_path, clock=lambda: NOW) as store:
        store.apply([Days])
        [summary] = store.materialize()
        assert (summary.rows_written, summary.rows_rejected) == (1, 1)


FAR = pl.DataFrame({
    "day": pl.Series([2**31 - 1, -(2**31), 0], dtype=pl.Int32).cast(pl.Date),
    "time": pl.Series([2**63 - 1, 2**62, 0]).cast(INSTANT),
    "days": pl.Series([[2**31 - 1, None], [], None], dtype=pl.List(pl.Int32)).cast(pl.List(pl.Date)),
    "times": pl.Series([[2**62], [-(2**63)], [0]], dtype=pl.Array(pl.Int64, 1)).cast(pl.Array(pl.Datetime("us"), 1)),
    "length": pl.Series([2**62, 1, None]).cast(pl.Duration("ms")),
})  # fmt: skip
TOLD = [
    {"day": "infinity", "time": "infinity", "days": ["infinity", None], "times": ["+148108-07-06T14:00:27.387904"],
     "length": "4611686018427387904ms"},
    {"day": "-infinity", "time": "+148108-07-06T14:00:27.387904+00:00", "days": [], "times": ["-infinity"], "length": "1ms"},
    {"day": "1970-01-01", "time": "1970-01-01T00:00:00.000000+00:00", "days": None, "times": ["1970-01-01T00:00:00.000000"],
     "length": None},
]  # fmt: skip


def test_s19_rejected_rows_can_be_looked_at_whatever_times_they_hold(tmp_path: Path) -> None:
    """Polars panics where a time beyond its calendar is printed or made an object, also one of a column that no feature is of."""
    rows = ROWS.hstack(FAR).with_columns(x=pl.lit(None, pl.Float64))
    source = FrameSource("far", rows, event_time="at")
    body = {"__annotations__": {"x": float}, "__module__": __name__}
    view: Any = type("Far", (FeatureView,), body, entity=USER, source=source)
    with FeatureStore(tmp_path, clock=lambda: NOW) as store:
        store.apply([view])
        [summary] = store.materialize()
        assert summary.reasons == {"x is null": 3}
        rejected = store.runs.rejected_rows(view)
        assert rejected.select(FAR.columns).to_dicts() == TOLD
        assert "infinity" in str(rejected.select("day", "time"))
        [pushed] = store.push("far", rows)
        assert pushed.rows_rejected == 3
        # What an earlier version kept as it was.
        for path in tmp_path.rglob("run-*.parquet"):
            pl.read_parquet(path).drop(FAR.columns).hstack(FAR).write_parquet(path)
        assert store.runs.rejected_rows(view).select(FAR.columns).to_dicts()[:3] == TOLD


@pytest.mark.parametrize("zone", ["+05:30", "-03:00", "UTC+1", "Nowhere/City"])
def test_s1_times_of_any_zone_are_converted(zone: str, tmp_path: Path) -> None:
    """Polars knows no offset of half an hour, as pandas gives it: it refuses frames, and panics over files."""
    micros = [1_704_060_000_000_000 + number for number in range(10)]
    times = pa.array(micros, pa.timestamp("us", zone))
    table = pa.table({"u": list("abcdefghij"), "at": times, "x": [float(each) for each in range(10)], "other": times})
    data = tmp_path / "data"
    data.mkdir()
    pq.write_table(table, data / "1.parquet", row_group_size=3)
    pq.write_table(table.slice(0, 0).append_column("y", pa.array([], pa.int64())), data / "2.parquet")
    right = [{"u": u, "at": from_micros(instant)} for u, instant in zip("abcdefghij", micros, strict=True)]
    for source in (
        ParquetSource("files", str(data), event_time="at"), ParquetSource("single", str(data / "1.parquet"), event_time="at"),
        FrameSource("frame", table, event_time="at"), FrameSource("empty", table.slice(0, 0), event_time="at"),
    ):  # fmt: skip
        body = {"__annotations__": {"x": float, "other": datetime}, "__module__": __name__}
        view: Any = type("Zoned", (FeatureView,), body, entity=USER, source=source)
        with FeatureStore(tmp_path, clock=lambda: NOW, project=source.name, chunk_rows=4) as store:
            store.apply([view])
            store.materialize()
            if source.name == "empty":
                assert store.push("empty", table)[0].rows_new == 10
                assert store.push("empty", table.slice(0, 1))[0].rows_new == 0
            read = store.sql("select u, event_time as at from zoned order by u")
            assert read.to_dicts() == right
            spine = table.select(["u", "at"])
            trained = store.training_frame(spine, view, time="at")
            assert trained["other"].to_list() == [each["at"] for each in right]
            if zone != "-03:00":
                with pytest.raises(RequestError, match=r"cannot be read as Parquet: .*unable to parse time zone"):
                    store.training_frame(data / "1.parquet", view, time="at")
            assert trained["x"].to_list() == store.online(view, table.select(["u"])).to_polars()["x"].to_list()


def test_rejected_times_of_a_zone_in_which_it_is_another_year_are_texts() -> None:
    """In UTC the year is 9999 still; in Tokyo it is 10000, which Python cannot say."""
    late = pl.Series("until", [datetime(9999, 12, 31, 23, tzinfo=UTC)], dtype=pl.Datetime("us", "UTC"))
    [row] = stack_rejects([pl.DataFrame([late.dt.convert_time_zone("Asia/Tokyo")])]).to_dicts()
    assert row["until"].startswith("+10000-01-01T08:00:00")
