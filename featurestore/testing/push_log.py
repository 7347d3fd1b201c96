"""The contract of the logs of pushes: every adapter's tests subclass it."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from datetime import date

import polars as pl
import pytest

from featurestore.clock import from_micros
from featurestore.definitions.window_features import EVENT_ID
from featurestore.offline.base import CORRECTS, Appended, OfflineStore, Table
from featurestore.rows.buckets import bucket
from featurestore.rows.total_order import sort_history
from featurestore.testing.offline import INSTANT, PLAIN, Limited, Limits, every_dtype, read, rows, run, table_of

EVENTS = table_of({"x": pl.Float64(), EVENT_ID: pl.String()}, "events")


def events(*given: tuple[str, int, float, str]) -> pl.DataFrame:
    """Return rows of ``EVENTS``: key, time, feature, event id."""
    frame = rows(*((key, event, event, x) for key, event, x, _ in given)).rename({"temp": "x"})
    return frame.with_columns(pl.Series(EVENT_ID, [row[3] for row in given], dtype=pl.String))


def fold(store: OfflineStore, table: Table, number: int) -> int:
    """Commit the segments of the log of pushes as one run."""
    return store.commit(table, number, [segment.staged for segment in store.log.segments(table)])


def outcome_of(appended: Appended) -> tuple[int | None, int, tuple[int, ...], int]:
    """Return what an append says, as plain values."""
    return appended.seq, appended.rows.height, appended.segments, appended.known.height


class PushLogContract(Limited):
    """What the log of every offline store does. Subclasses give the fixture ``store``: an empty one for each test."""

    @pytest.fixture
    def store(self) -> OfflineStore:
        raise NotImplementedError("the adapter's tests bring the store")

    def test_what_is_appended_is_in_the_next_snapshot(self, store: OfflineStore) -> None:
        assert outcome_of(store.log.append(PLAIN, rows(("JFK", 5, 6, 1.0), ("LGA", 1, 1, None)))) == (1, 2, (), 0)
        snapshot = store.snapshot(PLAIN)
        assert (snapshot.rows, snapshot.spans, snapshot.segments, snapshot.last_run) == (2, (1, 5), (1,), 0)
        run(store, PLAIN, 1, rows(("JFK", 9, 9, 3.0)))
        second, *others = outcome_of(store.log.append(PLAIN, rows(("JFK", 7, 7, 2.0))))
        assert second is not None
        assert second > 1
        assert others == [1, (), 0]
        snapshot = store.snapshot(PLAIN)
        assert (snapshot.rows, snapshot.spans, snapshot.segments, snapshot.last_run) == (4, (1, 9), (1, second), 1)
        assert [history.rows for history in snapshot.buckets.values()] == [4]
        assert [history.parts for history in snapshot.buckets.values()] == [2]
        assert read(store, PLAIN)["temp"].to_list() == [1.0, 2.0, 3.0, None]

    def test_nothing_appended_is_no_segment(self, store: OfflineStore) -> None:
        appended = store.log.append(PLAIN, rows())
        assert outcome_of(appended) == (None, 0, (), 0)
        assert appended.rows.columns == ["origin", "event_time", "available_time", "temp", CORRECTS]
        assert store.log.segments(PLAIN) == []
        assert store.snapshot(PLAIN).version == -1
        assert store.log.read(PLAIN, 1) is None
        assert not store.log.exists(PLAIN, 1)
        store.log.remove(PLAIN)

    def test_s17_what_is_known_is_not_appended_again(self, store: OfflineStore) -> None:
        stored, pushed, new = ("JFK", 1, 1, 1.0), ("JFK", 2, 2, float("nan")), ("LGA", 3, 3, None)
        run(store, PLAIN, 1, rows(stored))
        first = store.log.append(PLAIN, rows(pushed, pushed))
        assert outcome_of(first) == (first.seq, 1, (), 0)
        appended = store.log.append(PLAIN, rows(new, stored, pushed, new))
        assert outcome_of(appended) == (appended.seq, 1, (first.seq,), 1)
        assert (first.seq or 0) < (appended.seq or 0)
        assert appended.rows.drop(CORRECTS).equals(rows(new))
        assert appended.known.equals(rows(stored))
        assert (appended.log_segments, appended.log_rows) == (2, 2)
        assert outcome_of(store.log.append(PLAIN, rows(stored, pushed, new))) == (None, 0, (first.seq, appended.seq), 1)
        # A row is known only where it is the same in everything.
        others = rows(("JFK", 1, 1, 2.0), ("JFK", 1, 2, 1.0), ("JFK", 2, 2, None), ("LGA", 1, 1, 1.0))
        assert outcome_of(store.log.append(PLAIN, others))[1] == 4
        assert store.snapshot(PLAIN).rows == 7

    def test_segments_tell_their_rows(self, store: OfflineStore) -> None:
        given = [rows(("JFK", event, event, 1.0), ("LGA", event, event, 2.0)) for event in range(3)]
        for frame in given:
            store.log.append(PLAIN, frame)
        assert [(segment.seq, segment.rows) for segment in store.log.segments(PLAIN)] == [(1, 2), (2, 2), (3, 2)]
        for seq, frame in enumerate(given, 1):
            assert store.log.exists(PLAIN, seq)
            segment_rows = store.log.read(PLAIN, seq)
            assert segment_rows is not None
            assert segment_rows.sort("origin").equals(frame.with_columns(pl.lit(value=False).alias(CORRECTS)))

    def test_a_fold_moves_the_segments_it_names(self, store: OfflineStore) -> None:
        run(store, PLAIN, 1, rows(("JFK", 0, 0, 0.0)))
        numbers = [store.log.append(PLAIN, rows(("JFK", event, event, 1.0))).seq or 0 for event in range(1, 4)]
        folded = store.log.segments(PLAIN)
        numbers.append(store.log.append(PLAIN, rows(("JFK", 9, 9, 1.0))).seq or 0)
        assert numbers == sorted(set(numbers))
        last = numbers[-1]
        store.log.remove(PLAIN)
        assert [segment.seq for segment in store.log.segments(PLAIN)] == numbers
        assert store.commit(PLAIN, 2, [segment.staged for segment in folded]) == 3
        assert store.commit(PLAIN, 2, [segment.staged for segment in folded]) == 3
        assert [segment.seq for segment in store.log.segments(PLAIN)] == [last]
        # Those that were committed are named for as long as somebody may try them again.
        assert store.snapshot(PLAIN).segments == tuple(numbers)
        assert [store.log.exists(PLAIN, seq) for seq in numbers] == [True] * 4
        assert [frame["event_time"].len() for history in store.committed(PLAIN, 2) for frame in history.read()] == [3]
        store.log.remove(PLAIN)
        assert [store.log.exists(PLAIN, seq) for seq in numbers] == [False, False, False, True]
        assert store.snapshot(PLAIN).segments == (last,)
        assert store.log.read(PLAIN, numbers[1]) is None
        assert read(store, PLAIN)["event_time"].to_physical().to_list() == [0, 1, 2, 3, 9]
        assert outcome_of(store.log.append(PLAIN, rows(("JFK", 2, 2, 1.0), ("JFK", 9, 9, 1.0)))) == (None, 0, (last,), 1)

    def test_numbers_are_never_given_again(self, store: OfflineStore) -> None:
        numbers = []
        for number in range(1, 4):
            numbers.append(store.log.append(PLAIN, rows(("JFK", number, number, 1.0))).seq or 0)
            assert fold(store, PLAIN, number) == 1
            store.log.remove(PLAIN)
        assert store.log.segments(PLAIN) == []
        numbers.append(store.log.append(PLAIN, rows(("JFK", 9, 9, 1.0))).seq or 0)
        assert numbers == sorted(set(numbers))

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
        self.limit(monkeypatch, Limits(bucket_rows=8))
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
        appended = store.log.append(table, frame)
        assert appended.rows.height == 2
        assert read(store, table).equals(sort_history(frame, ["origin"], list(table.features)), null_equal=True)
        assert read(store, table).schema == frame.schema
        assert outcome_of(store.log.append(table, frame)) == (None, 0, (appended.seq,), 0)
        assert run(store, table, 1, frame) == 0
        assert fold(store, table, 2) == 2
        assert outcome_of(store.log.append(table, frame)) == (None, 0, (), 2)

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
        assert outcome_of(store.log.append(table, frame)) == (None, 0, (), 1)
        assert store.log.append(table, frame.with_columns(n=2)).rows.height == 1

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
        assert store.log.append(EVENTS, events(("JFK", 100, 1.0, "a")), since=50).rows.height == 1
        assert outcome_of(store.log.append(EVENTS, old, since=50)) == (None, 0, (), 2)
        assert outcome_of(store.log.append(EVENTS, old, since=0)) == (None, 0, (), 2)

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
        assert outcome_of(store.log.append(PLAIN, rows(("JFK", 0, 0, 1.0)))) == (1, 1, (), 0)
