"""The contract of offline stores: every adapter's tests subclass it."""

import pickle
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal

import polars as pl
import pytest

from featurestore.clock import from_micros
from featurestore.offline.base import OfflineStore, Table
from featurestore.rows.buckets import bucket
from featurestore.rows.total_order import sort_history

INSTANT = pl.Datetime("us", "UTC")


def table_of(features: dict[str, pl.DataType], name: str = "weather") -> Table:
    """Return a table of these features."""
    return Table("flights", name, 1, {"origin": pl.String()}, features)


_MICROS = pl.col("event_time").to_physical()
PLAIN = table_of({"temp": pl.Float64()})


def rows(*given: tuple[str, int, int, float | None]) -> pl.DataFrame:
    """Return rows of ``PLAIN``: key, event time, available time, feature."""
    schema = {"origin": pl.String, "event_time": pl.Int64, "available_time": pl.Int64, "temp": pl.Float64}
    return pl.DataFrame(list(given), schema=schema, orient="row").with_columns(pl.col("event_time", "available_time").cast(INSTANT))


def read(store: OfflineStore, table: Table) -> pl.DataFrame:
    """Return all rows of a table, in the order of the history."""
    frames = [frame for history in store.snapshot(table).buckets.values() for frame in history.read()]
    columns = {**table.keys, "event_time": INSTANT, "available_time": INSTANT, **table.features}
    return sort_history(pl.concat([pl.DataFrame(schema=columns), *frames]), list(table.keys), list(table.features))


def run(store: OfflineStore, table: Table, number: int, *chunks: pl.DataFrame) -> int:
    """Stage and commit chunks as one run; return how many rows it added."""
    staged = [store.stage(table, number, index, chunk) for index, chunk in enumerate(chunks)]
    return store.commit(table, number, staged)


def every_dtype() -> tuple[Table, pl.DataFrame]:
    """A table with a column of each dtype, and two rows of it: one with values at the edges, one with nulls."""
    values: dict[str, pl.Series] = {
        "b": pl.Series([True, None], dtype=pl.Boolean), "i8": pl.Series([-128, None], dtype=pl.Int8),
        "u8": pl.Series([255, None], dtype=pl.UInt8), "u16": pl.Series([65535, None], dtype=pl.UInt16),
        "u32": pl.Series([2**32 - 1, None], dtype=pl.UInt32), "u64": pl.Series([2**64 - 1, None], dtype=pl.UInt64),
        "i64": pl.Series([-(2**63), None], dtype=pl.Int64), "f32": pl.Series([0.1, None], dtype=pl.Float32),
        "f64": pl.Series([float("nan"), None], dtype=pl.Float64), "s": pl.Series(["é\x00", None], dtype=pl.String),
        "y": pl.Series([b"\x00\xff", None], dtype=pl.Binary), "d": pl.Series([date(1960, 1, 1), None], dtype=pl.Date),
        "t": pl.Series([from_micros(-1), None], dtype=INSTANT),
        "dur": pl.Series([timedelta(microseconds=-5), None], dtype=pl.Duration("us")),
        "time": pl.Series([time(23, 59, 59, 999999), None], dtype=pl.Time),
        "dec": pl.Series([Decimal("-1.50"), None], dtype=pl.Decimal(10, 2)),
        "l": pl.Series([[1, None], None], dtype=pl.List(pl.UInt32)),
        "ll": pl.Series([[["a"], []], None], dtype=pl.List(pl.List(pl.String))),
        "v": pl.Series([[1.5, -2.0], None], dtype=pl.Array(pl.Float32, 2)),
    }  # fmt: skip
    table = table_of({name: column.dtype for name, column in values.items()}, "types")
    times = {"origin": ["JFK", "LGA"], "event_time": [from_micros(0)] * 2, "available_time": [from_micros(1)] * 2}
    frame = pl.DataFrame({**times, **values}, schema_overrides={"event_time": INSTANT, "available_time": INSTANT})
    return table, frame


@dataclass(frozen=True)
class Limits:
    """Sizes so small that a few rows exceed them.

    Args:
        bucket_rows: how many rows a bucket of a table may have before the table has twice as many.
        split_rows: how many rows a commit has, so that it is cut into buckets; as ``bucket_rows`` by default.
        file_rows: how many rows a file may have; None for as many as always.
        small_files: how many small files are worth merging; None for as many as always.
    """

    bucket_rows: int
    split_rows: int | None = None
    file_rows: int | None = None
    small_files: int | None = None


class Limited:
    """Suites in which tables grow beyond limits. Subclasses extend ``limit`` by where their adapter keeps these sizes."""

    def limit(self, patch: pytest.MonkeyPatch, limits: Limits) -> None:
        """Make the sizes small for as long as a patch holds."""
        patch.setattr("featurestore.rows.buckets.bits_for.__defaults__", (limits.bucket_rows,))
        if limits.file_rows is not None:
            patch.setattr("featurestore.rows.buckets.ROWS_PER_FILE", limits.file_rows)


class OfflineStoreContract(Limited):
    """What every offline store does. Subclasses give the fixture ``store``: an empty one for each test."""

    @pytest.fixture
    def store(self) -> OfflineStore:
        raise NotImplementedError("the adapter's tests bring the store")

    def test_s24_a_snapshot_shows_what_was_stored_until_a_commit(self, store: OfflineStore) -> None:
        seqs = [store.log.append(PLAIN, rows(("JFK", event, event, 1.0), ("LGA", event, event, 1.0))).seq for event in range(3)]
        first, second, third = (seq for seq in seqs if seq is not None)
        run(store, PLAIN, 1, rows(("JFK", 9, 9, 1.0)))
        for folded in (False, True):
            if folded:
                store.commit(PLAIN, 2, [segment.staged for segment in store.log.segments(PLAIN)])
                store.log.remove(PLAIN)
            for until, wanted in ((first - 1, set()), (first, {0}), (second, {0, 1}), (third, {0, 1, 2}), (None, {0, 1, 2, 9})):
                histories = store.snapshot(PLAIN, stored_until=until).buckets.values()
                frames = [frame for history in histories for frame in history.read(["event_time", "_commit"])]
                shown = {event: commit for frame in frames for event, commit in frame.with_columns(_MICROS).iter_rows()}
                assert set(shown) == wanted
                assert [shown[event] for event in range(3) if event in shown] == [first, second, third][: len(wanted - {9})]
                assert until is not None or shown[9] > third

    def test_a_bucket_is_read_between_two_instants(self, store: OfflineStore) -> None:
        run(store, PLAIN, 1, rows(*(("JFK", event, event + 100, 1.0) for event in range(0, 10, 2))))
        run(store, PLAIN, 2, rows(*(("JFK", event, event + 100, 1.0) for event in range(1, 10, 2))))
        store.log.append(PLAIN, rows(("JFK", 10, 110, 1.0), ("JFK", 11, 111, 1.0)))
        [history] = store.snapshot(PLAIN).buckets.values()
        for since, until in ((None, None), (3, None), (None, 4), (4, 4), (3, 10), (11, 20), (5, 4)):
            frames = history.read(["event_time"], since=since, until=until)
            events = sorted(event for frame in frames for event in frame["event_time"].to_physical())
            assert events == [event for event in range(12) if (since or 0) <= event <= (20 if until is None else until)]

    def test_no_table_is_an_empty_snapshot(self, store: OfflineStore) -> None:
        snapshot = store.snapshot(PLAIN)
        assert (snapshot.rows, snapshot.last_run, dict(snapshot.buckets), snapshot.spans) == (0, 0, {}, None)
        assert store.committed(PLAIN, 1) == []
        store.drop(PLAIN)

    def test_s17_staged_rows_are_invisible_until_the_commit(self, store: OfflineStore) -> None:
        staged = [store.stage(PLAIN, 1, index, rows(("JFK", index, index, 1.0))) for index in range(3)]
        assert store.snapshot(PLAIN).rows == 0
        assert store.commit(PLAIN, 1, staged) == 3
        assert read(store, PLAIN)["event_time"].to_physical().to_list() == [0, 1, 2]

    def test_s17_a_repeated_commit_changes_nothing(self, store: OfflineStore) -> None:
        assert run(store, PLAIN, 1, rows(("JFK", 0, 0, 1.0))) == 1
        before = store.snapshot(PLAIN)
        assert run(store, PLAIN, 1, rows(("JFK", 5, 5, 2.0))) == 1
        assert store.snapshot(PLAIN) == before

    def test_a_repeated_commit_returns_what_the_first_one_added(self, store: OfflineStore) -> None:
        assert run(store, PLAIN, 1, rows(("JFK", 0, 0, 1.0), ("JFK", 1, 1, 1.0))) == 2
        assert run(store, PLAIN, 2, rows(("JFK", 1, 1, 1.0), ("JFK", 2, 2, 1.0))) == 1
        assert run(store, PLAIN, 3) == 0
        assert [run(store, PLAIN, number) for number in (1, 2, 3)] == [2, 1, 0]

    def test_s17_rows_read_twice_are_written_once(self, store: OfflineStore) -> None:
        first = rows(("JFK", 0, 0, 1.0), ("JFK", 1, 2, None), ("LGA", 1, 1, float("nan")))
        assert run(store, PLAIN, 1, first, first) == 3
        assert (
            run(store, PLAIN, 2, rows(("JFK", 1, 2, None), ("LGA", 1, 1, float("nan")), ("JFK", 1, 2, 7.0), ("JFK", 1, 3, None)))
            == 2
        )
        assert read(store, PLAIN).equals(read(store, PLAIN).unique(maintain_order=True), null_equal=True)
        assert store.snapshot(PLAIN).rows == 5

    def test_committed_tells_what_a_run_added(self, store: OfflineStore) -> None:
        run(store, PLAIN, 1, rows(("JFK", 0, 0, 1.0)))
        run(store, PLAIN, 2, rows(("JFK", 1, 1, 2.0), ("LGA", 1, 1, 3.0)))
        added = pl.concat([frame for history in store.committed(PLAIN, 2) for frame in history.read()])
        assert sorted(added["temp"].to_list()) == [2.0, 3.0]

    def test_an_empty_run_counts_as_done(self, store: OfflineStore) -> None:
        assert run(store, PLAIN, 1) == 0
        assert store.snapshot(PLAIN).last_run == 1

    def test_snapshot_leaves_out_files_outside_the_span(self, store: OfflineStore) -> None:
        run(store, PLAIN, 1, rows(("JFK", 0, 0, 1.0)))
        run(store, PLAIN, 2, rows(("JFK", 100, 100, 2.0)))
        near = store.snapshot(PLAIN, since=50, until=200)
        [history] = near.buckets.values()
        assert history.rows == 1
        assert near.rows == 2
        assert near.spans == (0, 100)
        assert store.snapshot(PLAIN, since=0, until=0).buckets[1].rows == 1

    def test_history_can_be_pickled_and_projects_columns_in_order(self, store: OfflineStore) -> None:
        run(store, PLAIN, 1, rows(("JFK", 0, 5, 1.0)))
        [history] = store.snapshot(PLAIN).buckets.values()
        [frame] = pickle.loads(pickle.dumps(history)).read(["temp", "origin"])
        assert frame.columns == ["temp", "origin"]

    def test_every_dtype_survives(self, store: OfflineStore) -> None:
        table, frame = every_dtype()
        assert run(store, table, 1, frame) == 2
        assert run(store, table, 2, frame) == 0
        assert read(store, table).equals(sort_history(frame, ["origin"], list(table.features)), null_equal=True)
        assert read(store, table).schema == frame.schema

    def test_a_table_that_grows_is_split_and_keeps_its_rows(self, store: OfflineStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.limit(monkeypatch, Limits(bucket_rows=8))
        everything = []
        for number in range(1, 6):
            new = rows(*((f"k{index}", number, number, float(index)) for index in range(30)))
            everything.append(new)
            assert run(store, PLAIN, number, new) == 30
        snapshot = store.snapshot(PLAIN)
        assert snapshot.bits > 2
        assert read(store, PLAIN).equals(sort_history(pl.concat(everything), ["origin"], ["temp"]))
        for node, history in snapshot.buckets.items():
            for frame in history.read():
                assert frame.select(bucket(PLAIN.keys, snapshot.bits)).to_series().unique().to_list() in ([node], [])

    def test_s19_rejected_rows_are_kept_once_with_their_reason(self, store: OfflineStore) -> None:
        bad = pl.DataFrame({"x": [1], "_reason": ["x is odd"]})
        store.keep_rejected(PLAIN, 1, 0, bad)
        store.keep_rejected(PLAIN, 1, 0, bad)
        store.keep_rejected(PLAIN, 2, 0, pl.DataFrame({"x": ["text"], "y": [2.0], "_reason": ["y is even"]}))
        assert store.rejected(PLAIN).select("x", "_reason", "_run").rows() == [("1", "x is odd", 1), ("text", "y is even", 2)]

    def test_drop_leaves_nothing(self, store: OfflineStore) -> None:
        run(store, PLAIN, 1, rows(("JFK", 0, 0, 1.0)))
        store.drop(PLAIN)
        assert store.snapshot(PLAIN).version == -1
