"""The contract of offline stores: every adapter's tests subclass it."""

import pickle
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from threading import Event
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore.clock import from_micros, to_micros, utc_now
from featurestore.definitions.window_features import EVENT_ID
from featurestore.errors import OfflineStoreError
from featurestore.offline.base import CORRECTS, Appended, OfflineStore, Removed, Snapshot, Table, Upkeep
from featurestore.rows.buckets import bucket
from featurestore.rows.total_order import sort_history
from tests.projects import Hand

INSTANT = pl.Datetime("us", "UTC")


def table_of(features: dict[str, pl.DataType], name: str = "weather") -> Table:
    return Table("flights", name, 1, {"origin": pl.String()}, features)


PLAIN = table_of({"temp": pl.Float64()})


def rows(*given: tuple[str, int, int, float | None]) -> pl.DataFrame:
    schema = {"origin": pl.String, "event_time": pl.Int64, "available_time": pl.Int64, "temp": pl.Float64}
    return pl.DataFrame(list(given), schema=schema, orient="row").with_columns(pl.col("event_time", "available_time").cast(INSTANT))


def read(store: OfflineStore, table: Table) -> pl.DataFrame:
    frames = [frame for history in store.snapshot(table).buckets.values() for frame in history.read()]
    columns = {**table.keys, "event_time": INSTANT, "available_time": INSTANT, **table.features}
    return sort_history(pl.concat([pl.DataFrame(schema=columns), *frames]), list(table.keys), list(table.features))


def run(store: OfflineStore, table: Table, number: int, *chunks: pl.DataFrame) -> int:
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


class OfflineStoreContract:
    """What every offline store does."""

    @pytest.fixture
    def store(self) -> OfflineStore:
        raise NotImplementedError("the adapter's tests bring the store")

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
        monkeypatch.setattr("featurestore.rows.buckets.bits_for.__defaults__", (8,))
        monkeypatch.setattr("featurestore.offline.delta.commit.ROWS_PER_BUCKET", 8)
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


EVENTS = table_of({"x": pl.Float64(), EVENT_ID: pl.String()}, "events")


def events(*given: tuple[str, int, float, str]) -> pl.DataFrame:
    frame = rows(*((key, event, event, x) for key, event, x, _ in given)).rename({"temp": "x"})
    return frame.with_columns(pl.Series(EVENT_ID, [each[3] for each in given], dtype=pl.String))


def fold(store: OfflineStore, table: Table, number: int) -> int:
    return store.commit(table, number, [segment.staged for segment in store.log.segments(table)])


def told(appended: Appended) -> tuple[int | None, int, tuple[int, ...], int]:
    return appended.seq, appended.rows.height, appended.segments, appended.known.height


class PushLogContract:
    """What the log of every offline store does."""

    @pytest.fixture
    def store(self) -> OfflineStore:
        raise NotImplementedError("the adapter's tests bring the store")

    def test_what_is_appended_is_in_the_next_snapshot(self, store: OfflineStore) -> None:
        assert told(store.log.append(PLAIN, rows(("JFK", 5, 6, 1.0), ("LGA", 1, 1, None)))) == (1, 2, (), 0)
        snapshot = store.snapshot(PLAIN)
        assert (snapshot.rows, snapshot.spans, snapshot.segments, snapshot.last_run) == (2, (1, 5), (1,), 0)
        run(store, PLAIN, 1, rows(("JFK", 9, 9, 3.0)))
        assert told(store.log.append(PLAIN, rows(("JFK", 7, 7, 2.0)))) == (2, 1, (), 0)
        snapshot = store.snapshot(PLAIN)
        assert (snapshot.rows, snapshot.spans, snapshot.segments, snapshot.last_run) == (4, (1, 9), (1, 2), 1)
        assert [history.rows for history in snapshot.buckets.values()] == [4]
        assert [history.parts for history in snapshot.buckets.values()] == [2]
        assert read(store, PLAIN)["temp"].to_list() == [1.0, 2.0, 3.0, None]

    def test_nothing_appended_is_no_segment(self, store: OfflineStore) -> None:
        appended = store.log.append(PLAIN, rows())
        assert told(appended) == (None, 0, (), 0)
        assert appended.rows.columns == ["origin", "event_time", "available_time", "temp", CORRECTS]
        assert store.log.segments(PLAIN) == []
        assert store.snapshot(PLAIN).version == -1
        assert store.log.read(PLAIN, 1) is None
        assert not store.log.exists(PLAIN, 1)
        store.log.remove(PLAIN)

    def test_s17_what_is_known_is_not_appended_again(self, store: OfflineStore) -> None:
        stored, pushed, new = ("JFK", 1, 1, 1.0), ("JFK", 2, 2, float("nan")), ("LGA", 3, 3, None)
        run(store, PLAIN, 1, rows(stored))
        assert told(store.log.append(PLAIN, rows(pushed, pushed))) == (1, 1, (), 0)
        appended = store.log.append(PLAIN, rows(new, stored, pushed, new))
        assert told(appended) == (2, 1, (1,), 1)
        assert appended.rows.drop(CORRECTS).equals(rows(new))
        assert appended.known.equals(rows(stored))
        assert (appended.log_segments, appended.log_rows) == (2, 2)
        assert told(store.log.append(PLAIN, rows(stored, pushed, new))) == (None, 0, (1, 2), 1)
        # A row is known only where it is the same in everything.
        others = rows(("JFK", 1, 1, 2.0), ("JFK", 1, 2, 1.0), ("JFK", 2, 2, None), ("LGA", 1, 1, 1.0))
        assert told(store.log.append(PLAIN, others))[1] == 4
        assert store.snapshot(PLAIN).rows == 7

    def test_segments_tell_their_rows(self, store: OfflineStore) -> None:
        given = [rows(("JFK", event, event, 1.0), ("LGA", event, event, 2.0)) for event in range(3)]
        for each in given:
            store.log.append(PLAIN, each)
        assert [(segment.seq, segment.rows) for segment in store.log.segments(PLAIN)] == [(1, 2), (2, 2), (3, 2)]
        for seq, each in enumerate(given, 1):
            assert store.log.exists(PLAIN, seq)
            found = store.log.read(PLAIN, seq)
            assert found is not None
            assert found.sort("origin").equals(each.with_columns(pl.lit(value=False).alias(CORRECTS)))

    def test_a_fold_moves_the_segments_it_names(self, store: OfflineStore) -> None:
        run(store, PLAIN, 1, rows(("JFK", 0, 0, 0.0)))
        for event in range(1, 4):
            store.log.append(PLAIN, rows(("JFK", event, event, 1.0)))
        folded = store.log.segments(PLAIN)
        store.log.append(PLAIN, rows(("JFK", 9, 9, 1.0)))
        store.log.remove(PLAIN)
        assert [segment.seq for segment in store.log.segments(PLAIN)] == [1, 2, 3, 4]
        assert store.commit(PLAIN, 2, [segment.staged for segment in folded]) == 3
        assert store.commit(PLAIN, 2, [segment.staged for segment in folded]) == 3
        assert [segment.seq for segment in store.log.segments(PLAIN)] == [4]
        # Those that were committed are named for as long as somebody may try them again.
        assert store.snapshot(PLAIN).segments == (1, 2, 3, 4)
        assert [store.log.exists(PLAIN, seq) for seq in (1, 2, 3, 4)] == [True] * 4
        assert [frame["event_time"].len() for history in store.committed(PLAIN, 2) for frame in history.read()] == [3]
        store.log.remove(PLAIN)
        assert [store.log.exists(PLAIN, seq) for seq in (1, 2, 3, 4)] == [False, False, False, True]
        assert store.snapshot(PLAIN).segments == (4,)
        assert store.log.read(PLAIN, 2) is None
        assert read(store, PLAIN)["event_time"].to_physical().to_list() == [0, 1, 2, 3, 9]
        assert told(store.log.append(PLAIN, rows(("JFK", 2, 2, 1.0), ("JFK", 9, 9, 1.0)))) == (None, 0, (4,), 1)

    def test_numbers_are_never_given_again(self, store: OfflineStore) -> None:
        for number in range(1, 4):
            assert store.log.append(PLAIN, rows(("JFK", number, number, 1.0))).seq == number
            assert fold(store, PLAIN, number) == 1
            store.log.remove(PLAIN)
        assert store.log.segments(PLAIN) == []
        assert store.log.append(PLAIN, rows(("JFK", 9, 9, 1.0))).seq == 4

    def test_s17_a_run_leaves_out_what_was_pushed(self, store: OfflineStore) -> None:
        pushed = rows(("JFK", 1, 1, 1.0), ("LGA", 1, 1, None))
        store.log.append(PLAIN, pushed)
        assert run(store, PLAIN, 1, pushed) == 0
        assert run(store, PLAIN, 2, pushed, rows(("LGA", 2, 2, 1.0))) == 1
        assert store.snapshot(PLAIN).rows == 3
        assert fold(store, PLAIN, 3) == 2
        assert store.snapshot(PLAIN).rows == 3
        assert run(store, PLAIN, 4, pushed) == 0

    def test_a_snapshot_stays_what_it_was(self, store: OfflineStore) -> None:
        run(store, PLAIN, 1, rows(("JFK", 1, 1, 1.0)))
        store.log.append(PLAIN, rows(("JFK", 2, 2, 2.0)))
        [history] = store.snapshot(PLAIN).buckets.values()
        store.log.append(PLAIN, rows(("JFK", 3, 3, 3.0)))
        fold(store, PLAIN, 2)
        store.log.remove(PLAIN)
        assert [frame["temp"].to_list() for frame in history.read()] == [[1.0], [2.0]]

    def test_pushed_rows_travel_with_their_bucket_in_their_order(self, store: OfflineStore) -> None:
        given = rows(("b", 1, 1, 2.0), ("a", 3, 3, 1.0), ("b", 1, 1, 1.0), ("a", 1, 9, 5.0))
        store.log.append(PLAIN, given)
        [history] = store.snapshot(PLAIN).buckets.values()
        [frame] = pickle.loads(pickle.dumps(history)).read(["temp", "origin"])
        assert frame.columns == ["temp", "origin"]
        assert frame.equals(sort_history(given, ["origin"], ["temp"]).select("temp", "origin"))

    def test_snapshot_leaves_out_pushed_rows_outside_the_span(self, store: OfflineStore) -> None:
        store.log.append(PLAIN, rows(("JFK", 0, 0, 1.0), ("JFK", 100, 100, 2.0)))
        near = store.snapshot(PLAIN, since=50, until=200)
        assert [frame["temp"].to_list() for frame in near.buckets[1].read()] == [[2.0]]
        assert (near.rows, near.spans) == (2, (0, 100))
        assert dict(store.snapshot(PLAIN, since=101).buckets) == {}
        assert store.snapshot(PLAIN, until=0).buckets[1].rows == 1

    def test_pushed_rows_are_in_the_buckets_of_the_table(self, store: OfflineStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("featurestore.rows.buckets.bits_for.__defaults__", (8,))
        monkeypatch.setattr("featurestore.offline.delta.commit.ROWS_PER_BUCKET", 8)
        everything = [rows(*((f"k{index}", 0, 0, float(index)) for index in range(0, 30, 3)))]
        run(store, PLAIN, 1, everything[0])
        for number in range(1, 6):
            new = rows(*((f"k{index}", number, number, float(index)) for index in range(30)))
            everything.append(new)
            assert store.log.append(PLAIN, new).rows.height == 30
            snapshot = store.snapshot(PLAIN)
            for node, history in snapshot.buckets.items():
                for frame in history.read():
                    assert frame.select(bucket(PLAIN.keys, snapshot.bits)).to_series().unique().to_list() in ([node], [])
            assert read(store, PLAIN).equals(sort_history(pl.concat(everything), ["origin"], ["temp"]))
            assert store.log.append(PLAIN, new).seq is None
            if number in (2, 4):
                assert fold(store, PLAIN, number) == 60
        assert snapshot.bits > 2

    def test_every_dtype_can_be_pushed_and_is_known(self, store: OfflineStore) -> None:
        table, frame = every_dtype()
        assert told(store.log.append(table, frame))[:2] == (1, 2)
        assert read(store, table).equals(sort_history(frame, ["origin"], list(table.features)), null_equal=True)
        assert read(store, table).schema == frame.schema
        assert told(store.log.append(table, frame)) == (None, 0, (1,), 0)
        assert run(store, table, 1, frame) == 0
        assert fold(store, table, 2) == 2
        assert told(store.log.append(table, frame)) == (None, 0, (), 2)

    @pytest.mark.parametrize(
        ("key", "dtype"),
        [(2**64 - 1, pl.UInt64()), (-5, pl.Int8()), (b"\xff", pl.Binary()), (True, pl.Boolean()), (date(1960, 1, 1), pl.Date())],
    )
    def test_rows_are_known_by_keys_of_every_dtype(self, store: OfflineStore, key: object, dtype: pl.DataType) -> None:
        table = Table("flights", "keys", 1, {"k": dtype, "n": pl.Int64()}, {"x": pl.Float64()})
        times = {"event_time": [from_micros(0)], "available_time": [from_micros(1)]}
        frame = pl.DataFrame(
            {"k": [key], "n": [1], **times, "x": [1.0]},
            schema_overrides={"k": dtype, "event_time": INSTANT, "available_time": INSTANT},
        )
        assert run(store, table, 1, frame) == 1
        assert told(store.log.append(table, frame)) == (None, 0, (), 1)
        assert store.log.append(table, frame.with_columns(n=2)).seq == 1

    def test_s9_other_versions_of_an_event_are_marked(self, store: OfflineStore) -> None:
        run(store, EVENTS, 1, events(("JFK", 100, 1.0, "a"), ("JFK", 20, 1.0, "old")))
        store.log.append(EVENTS, events(("JFK", 101, 1.0, "b")), since=50)
        appended = store.log.append(
            EVENTS,
            events(
                ("JFK", 100, 1.0, "a"),  # known
                ("JFK", 102, 2.0, "a"),  # another version of one in the table
                ("JFK", 103, 2.0, "b"),  # of one in the log
                ("LGA", 103, 2.0, "b"),  # another entity's
                ("JFK", 104, 1.0, "c"),
                ("JFK", 104, 2.0, "d"),  # twice in this push
                ("JFK", 105, 3.0, "d"),
            ),
            since=50,
        )
        marks = {(row["origin"], row[EVENT_ID], row["x"]): row[CORRECTS] for row in appended.rows.iter_rows(named=True)}
        assert marks == {
            ("JFK", "a", 2.0): True,
            ("JFK", "b", 2.0): True,
            ("LGA", "b", 2.0): False,
            ("JFK", "c", 1.0): False,
            ("JFK", "d", 2.0): True,
            ("JFK", "d", 3.0): True,
        }
        assert appended.known.height == 1
        assert appended.seq is not None
        assert store.log.read(EVENTS, appended.seq) is not None
        assert store.log.read(EVENTS, appended.seq).sort(pl.all()).equals(appended.rows.sort(pl.all()))  # type: ignore[union-attr]  # as asserted

    def test_s17_events_before_the_span_are_known_all_the_same(self, store: OfflineStore) -> None:
        old = events(("JFK", 20, 1.0, "old"), ("LGA", 30, 1.0, "older"))
        run(store, EVENTS, 1, old)
        assert store.log.append(EVENTS, events(("JFK", 100, 1.0, "a")), since=50).seq == 1
        assert told(store.log.append(EVENTS, old, since=50)) == (None, 0, (), 2)
        assert told(store.log.append(EVENTS, old, since=0)) == (None, 0, (), 2)

    def test_s17_pushes_at_once_leave_each_row_once(self, store: OfflineStore) -> None:
        """Threads push rows, some of them the same; runs with the same rows, and folds, come between."""
        parts = [rows(*((f"k{index}", event, event, float(index)) for index in range(20))) for event in range(12)]

        def push(start: int) -> int:
            order = parts[start:] + parts[:start]
            return sum(store.log.append(PLAIN, part).rows.height for part in order)

        def commit() -> int:
            count = 0
            for number in range(1, 7):
                if number % 2:
                    fold(store, PLAIN, number)
                    store.log.remove(PLAIN)
                else:
                    count += run(store, PLAIN, number, *parts[number - 2 : number + 2])
            return count

        with ThreadPoolExecutor(5) as threads:
            committing = threads.submit(commit)
            pushed = sum(threads.map(push, (0, 3, 6, 9)))
            assert pushed + committing.result() == 240
        assert store.snapshot(PLAIN).rows == 240
        fold(store, PLAIN, 7)
        assert store.snapshot(PLAIN).rows == 240
        assert read(store, PLAIN).equals(sort_history(pl.concat(parts), ["origin"], ["temp"]))

    def test_one_folds_at_a_time(self, store: OfflineStore) -> None:
        with store.log.folding(PLAIN) as first, store.log.folding(PLAIN) as second, store.log.folding(EVENTS) as other:
            assert (first, second, other) == (True, False, True)
        with store.log.folding(PLAIN) as again:
            assert again

    def test_drop_leaves_no_log(self, store: OfflineStore) -> None:
        store.log.append(PLAIN, rows(("JFK", 0, 0, 1.0)))
        store.drop(PLAIN)
        assert store.log.segments(PLAIN) == []
        assert told(store.log.append(PLAIN, rows(("JFK", 0, 0, 1.0)))) == (1, 1, (), 0)


class Killed(BaseException):
    """What was being done ends here, as if the process had been killed."""


@contextmanager
def broken_off(writes: int | None) -> Iterator[None]:
    """Ends what is done within at its nth write of a file, of the table's log or of a name; None lets it be done."""
    if writes is None:
        yield
        return
    left = [writes]

    def counted(work: Any) -> Any:
        def counting(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return work(*arguments, **options)

        return counting

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pl.DataFrame, "write_parquet", counted(pl.DataFrame.write_parquet))
        patch.setattr(DeltaTable, "create_write_transaction", counted(DeltaTable.create_write_transaction))
        for name in ("rename", "unlink"):
            patch.setattr(Path, name, counted(getattr(Path, name)))
        with suppress(Killed):
            yield


_GIVEN = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), min_size=1, max_size=12)
_BREAK = st.one_of(st.none(), st.integers(0, 4))
STEPS = st.one_of(
    st.tuples(st.just("run"), _GIVEN, _BREAK),
    st.tuples(st.just("run"), _GIVEN, st.none()),
    st.tuples(st.just("push"), _GIVEN, _BREAK),
    st.tuples(st.just("fold")),
    st.tuples(st.just("compact"), _BREAK),
    st.tuples(st.just("vacuum"), _BREAK),
    st.tuples(st.just("checkpoint")),
)


def kept(store: OfflineStore, upkeep: Upkeep, table: Table, done: int) -> int:
    """Compacts a table until nothing is worth it; returns how many files were merged."""
    merged = 0
    while (step := upkeep.compact(table, done)) is not None:
        merged += step.merged
    return merged


class UpkeepContract:
    """What the upkeep of every offline store does. The clock, which the store and its upkeep go by, is what is now at first."""

    @pytest.fixture
    def clock(self) -> Hand:
        return Hand(to_micros(utc_now()))

    @pytest.fixture
    def store(self, clock: Hand) -> OfflineStore:
        raise NotImplementedError("the adapter's tests bring the store")

    @pytest.fixture
    def upkeep(self, store: OfflineStore, clock: Hand) -> Upkeep:
        raise NotImplementedError("and its upkeep")

    @pytest.fixture
    def make(self) -> Callable[[Hand], tuple[OfflineStore, Upkeep]]:
        raise NotImplementedError("and both on a folder of its own for each clock")

    @staticmethod
    def small_runs(store: OfflineStore, numbers: Iterable[int]) -> None:
        for number in numbers:
            run(store, PLAIN, number, rows(*((f"k{index}", number, number, float(index)) for index in range(10))))

    def test_no_table_needs_nothing(self, upkeep: Upkeep) -> None:
        assert upkeep.compact(PLAIN, 99) is None
        assert not upkeep.checkpoint(PLAIN)
        assert upkeep.vacuum(PLAIN, timedelta()) == Removed()
        assert (upkeep.files(PLAIN), upkeep.tables("flights")) == (0, [])

    def test_s17_compaction_changes_no_row_and_keeps_the_order(self, store: OfflineStore, upkeep: Upkeep) -> None:
        self.small_runs(store, range(1, 31))
        store.log.append(PLAIN, rows(("k1", 99, 99, None)))
        before, snapshot = read(store, PLAIN), store.snapshot(PLAIN)
        assert (upkeep.files(PLAIN), upkeep.tables("flights")) == (31, [("weather", 1)])
        told = upkeep.compact(PLAIN, 30, dry_run=True)
        assert told is not None
        assert (told.merged, told.written, upkeep.files(PLAIN)) == (30, 1, 31)
        assert kept(store, upkeep, PLAIN, 30) == 30
        assert upkeep.files(PLAIN) == 2
        now = store.snapshot(PLAIN)
        assert (now.rows, now.spans, now.last_run, now.segments) == (snapshot.rows, snapshot.spans, 30, (1,))
        assert read(store, PLAIN).equals(before)
        [history] = now.buckets.values()
        assert history.parts == 2
        assert pl.concat(history.read()[:1]).equals(before.filter(pl.col("temp").is_not_null()))
        # What is known is known still, and a run repeated changes nothing.
        added = run(store, PLAIN, 30, rows(("k1", 500, 500, 1.0)))
        assert (added, read(store, PLAIN).equals(before)) == (10, True)
        assert run(store, PLAIN, 31, rows(("k1", 5, 5, 1.0), ("k1", 99, 99, None), ("k1", 6, 6, -1.0))) == 1
        assert store.log.append(PLAIN, rows(("k2", 7, 7, 2.0))).known.height == 1

    def test_few_or_unlike_files_are_left_alone(self, store: OfflineStore, upkeep: Upkeep) -> None:
        run(store, PLAIN, 1, rows(*((f"k{index}", 0, 0, 1.0) for index in range(1000))))
        self.small_runs(store, range(2, 9))
        assert upkeep.compact(PLAIN, 8) is None
        self.small_runs(store, range(9, 10))
        assert kept(store, upkeep, PLAIN, 9) == 8
        assert upkeep.files(PLAIN) == 2

    def test_s17_what_a_run_added_is_found_until_it_is_done(self, store: OfflineStore, upkeep: Upkeep) -> None:
        self.small_runs(store, range(1, 21))
        assert kept(store, upkeep, PLAIN, 19) == 19
        added = pl.concat([frame for history in store.committed(PLAIN, 20) for frame in history.read()])
        assert added["event_time"].to_physical().unique().to_list() == [20]

    def test_rows_may_be_left_out(self, store: OfflineStore, upkeep: Upkeep) -> None:
        self.small_runs(store, range(1, 21))
        assert upkeep.compact(PLAIN, 20, lambda found: found.filter(pl.col("origin") != "k3")) is not None
        assert store.snapshot(PLAIN).rows == 20 * 9
        assert "k3" not in read(store, PLAIN)["origin"].to_list()

    def test_a_table_of_many_buckets(self, store: OfflineStore, upkeep: Upkeep, monkeypatch: pytest.MonkeyPatch) -> None:
        """Small runs lie above the buckets, are merged there, and go down as they become more."""
        monkeypatch.setattr("featurestore.rows.buckets.bits_for.__defaults__", (8,))
        monkeypatch.setattr("featurestore.offline.delta.commit.ROWS_PER_BUCKET", 1 << 20)
        monkeypatch.setattr("featurestore.rows.buckets.ROWS_PER_FILE", 8)
        monkeypatch.setattr("featurestore.offline.delta.compaction.ROWS_PER_FILE", 8)
        parts = [rows(*((f"k{index}", 0, 0, float(index)) for index in range(100)))]
        run(store, PLAIN, 1, parts[0])
        assert store.snapshot(PLAIN).bits == 4
        for number in range(2, 26):
            new = rows(*((f"k{(index * 7 + number) % 100}", number, number, 1.0) for index in range(6)))
            parts.append(new)
            assert run(store, PLAIN, number, new, parts[-2]) == 6
            if number % 12 == 0:
                assert kept(store, upkeep, PLAIN, number)
            snapshot = store.snapshot(PLAIN)
            assert snapshot.bits == 4
            held = {node: pl.concat(history.read()) for node, history in snapshot.buckets.items()}
            assert sum(frame.height for frame in held.values()) == snapshot.rows == 100 + 6 * (number - 1)
            for node, frame in held.items():
                assert frame.select(bucket(PLAIN.keys, 4)).to_series().unique().to_list() in ([node], [])
        assert read(store, PLAIN).equals(sort_history(pl.concat(parts), ["origin"], ["temp"]))

    def test_snapshots_are_readable_until_the_retention(self, store: OfflineStore, upkeep: Upkeep, clock: Hand) -> None:
        self.small_runs(store, range(1, 21))
        before, week = store.snapshot(PLAIN), timedelta(days=7)
        rows_before = read(store, PLAIN)
        kept(store, upkeep, PLAIN, 20)
        for days in (0, 6):
            clock.micros = to_micros(utc_now() + timedelta(days=days))
            assert upkeep.vacuum(PLAIN, week) == Removed()
            [history] = before.buckets.values()
            assert pl.concat(history.read()).height == 200
        clock.micros = to_micros(utc_now() + timedelta(days=8))
        told = upkeep.vacuum(PLAIN, week, dry_run=True)
        assert told.files == 20
        assert told.size > 0
        assert upkeep.vacuum(PLAIN, week) == told
        assert upkeep.vacuum(PLAIN, week) == Removed()
        with pytest.raises(OfflineStoreError, match="ask again"):
            history.read()
        assert read(store, PLAIN).equals(rows_before)

    def test_the_log_of_pushes_is_never_vacuumed(self, store: OfflineStore, upkeep: Upkeep, clock: Hand) -> None:
        self.small_runs(store, [1])
        store.log.append(PLAIN, rows(("k1", 99, 99, 1.0)))
        clock.micros += to_micros(utc_now()) // 2
        assert upkeep.vacuum(PLAIN, timedelta()) == Removed()
        assert store.snapshot(PLAIN).rows == 11

    def test_a_checkpoint_forgets_nothing(self, store: OfflineStore, upkeep: Upkeep) -> None:
        self.small_runs(store, range(1, 61))
        store.log.append(PLAIN, rows(("k1", 99, 99, 1.0)))
        fold(store, PLAIN, 61)
        assert upkeep.checkpoint(PLAIN)
        assert not upkeep.checkpoint(PLAIN)
        snapshot = store.snapshot(PLAIN)
        assert (snapshot.rows, snapshot.last_run, snapshot.segments) == (601, 61, (1,))
        assert run(store, PLAIN, 61, rows(("k1", 500, 500, 1.0))) == 1
        assert store.snapshot(PLAIN).rows == 601
        store.log.remove(PLAIN)
        assert store.log.append(PLAIN, rows(("k1", 100, 100, 1.0))).seq == 2

    def test_s17_compactions_runs_and_pushes_at_once(self, store: OfflineStore, upkeep: Upkeep) -> None:
        """Two compact, one runs, one pushes and one vacuums, all at once: each row is there once in the end."""
        running = Event()
        done = [0]

        def compact() -> int:
            merged = 0
            while not running.is_set():
                step = upkeep.compact(PLAIN, done[0])
                merged += 0 if step is None else step.merged
                upkeep.vacuum(PLAIN, timedelta(days=1))
            return merged

        def push() -> None:
            for number in range(1, 13):
                store.log.append(PLAIN, rows(*((f"k{index}", number, number, float(index)) for index in range(10, 13))))

        with ThreadPoolExecutor(3) as threads:
            compacting = [threads.submit(compact) for _ in range(2)]
            pushing = threads.submit(push)
            try:
                for number in range(1, 25):
                    self.small_runs(store, [number])
                    done[0] = number - 1
                pushing.result()
            finally:
                running.set()
            assert sum(each.result() for each in compacting) > 0
        assert store.snapshot(PLAIN).rows == 24 * 10 + 12 * 3
        assert read(store, PLAIN).height == 276
        assert read(store, PLAIN).equals(read(store, PLAIN).unique(maintain_order=True))

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(steps=st.lists(STEPS, min_size=4, max_size=14))
    def test_s17_any_order_of_steps_leaves_the_same_rows(
        self, steps: list[tuple[Any, ...]], make: Callable[[Hand], tuple[OfflineStore, Upkeep]]
    ) -> None:
        """Runs, pushes, folds, splits, compactions, vacuums, and any of them broken off and done again."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("featurestore.rows.buckets.bits_for.__defaults__", (6,))
            patch.setattr("featurestore.offline.delta.commit.ROWS_PER_BUCKET", 6)
            patch.setattr("featurestore.rows.buckets.ROWS_PER_FILE", 4)
            patch.setattr("featurestore.offline.delta.compaction.ROWS_PER_FILE", 4)
            patch.setattr("featurestore.offline.delta.compaction._SMALL_FILES", 2)
            story = Story(make)
            for step, *told in steps:
                getattr(story, step)(*told)
                story.check()
            story.check_early()


class Story:
    """What happens to one table, and the rows it must have."""

    def __init__(self, make: Callable[[Hand], tuple[OfflineStore, Upkeep]]) -> None:
        self.clock = Hand(to_micros(utc_now()))
        self._make = lambda: make(self.clock)
        self.store, self.upkeep = self._make()
        self.expected = rows()
        self.number = 0
        self.early: list[tuple[Snapshot, int]] = []

    def run(self, given: list[tuple[int, int]], writes: int | None) -> None:
        self.number += 1
        staged = [self.store.stage(PLAIN, self.number, 0, self._new(given))]
        with broken_off(writes):
            self.store.commit(PLAIN, self.number, staged)
        # It is taken up again, by a process that knows nothing.
        self.store, self.upkeep = self._make()
        if self.store.snapshot(PLAIN).last_run < self.number:
            self.store.commit(PLAIN, self.number, staged)

    def push(self, given: list[tuple[int, int]], writes: int | None) -> None:
        new = self._new(given)
        with broken_off(writes):
            self.store.log.append(PLAIN, new)
        self.store.log.append(PLAIN, new)

    def fold(self) -> None:
        self.number += 1
        fold(self.store, PLAIN, self.number)
        self.store.log.remove(PLAIN)

    def compact(self, writes: int | None) -> None:
        with broken_off(writes):
            kept(self.store, self.upkeep, PLAIN, self.number)
        kept(self.store, self.upkeep, PLAIN, self.number)

    def checkpoint(self) -> None:
        self.upkeep.checkpoint(PLAIN)

    def vacuum(self, writes: int | None) -> None:
        with broken_off(writes):
            self.upkeep.vacuum(PLAIN, timedelta(days=7))
        self.clock.micros += timedelta(days=1) // timedelta(microseconds=1)

    def check(self) -> None:
        snapshot = self.store.snapshot(PLAIN)
        for node, history in snapshot.buckets.items():
            for frame in history.read():
                assert frame.select(bucket(PLAIN.keys, snapshot.bits)).to_series().unique().to_list() in ([node], [])
        assert snapshot.rows == self.expected.height
        assert read(self.store, PLAIN).equals(sort_history(self.expected, ["origin"], ["temp"]))
        self.early.append((snapshot, self.clock.micros))

    def check_early(self) -> None:
        """What was opened lately can be read."""
        for snapshot, taken in self.early:
            if self.clock.micros - taken < timedelta(days=7) // timedelta(microseconds=1):
                assert sum(frame.height for history in snapshot.buckets.values() for frame in history.read()) == snapshot.rows

    def _new(self, given: list[tuple[int, int]]) -> pl.DataFrame:
        new = rows(*((f"k{key}", event, event, float(key)) for key, event in given))
        self.expected = pl.concat([self.expected, new]).unique()
        return new
