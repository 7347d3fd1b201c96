"""The contract of the upkeep of offline stores: every adapter's tests subclass it."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore.clock import to_micros, utc_now
from featurestore.errors import OfflineStoreError
from featurestore.offline.base import OfflineStore, Removed, Snapshot, Table, TableMaintenance
from featurestore.rows.buckets import bucket
from featurestore.rows.total_order import sort_history
from featurestore.testing.clock import FakeClock
from featurestore.testing.examples import examples
from featurestore.testing.faults import interrupted
from featurestore.testing.offline import PLAIN, Limited, Limits, read, rows, run
from featurestore.testing.push_log import fold

Calls = Sequence[tuple[Any, str]]
"""Functions, each as its owner and its name there."""


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


def kept(store: OfflineStore, upkeep: TableMaintenance, table: Table, done: int) -> int:
    """Compact a table until nothing is worth it; return how many files were merged."""
    merged = 0
    while (step := upkeep.compact(table, done)) is not None:
        merged += step.merged
    return merged


class TableMaintenanceContract(Limited):
    """What the upkeep of every offline store does. The clock, which the store and its upkeep go by, is what is now at first.

    Subclasses give the fixtures ``store``, ``upkeep`` and ``make``.

    Attributes:
        writes: the functions by which the adapter changes files, at any call of which its process may be killed.
    """

    writes: Calls = ((pl.DataFrame, "write_parquet"), (Path, "rename"), (Path, "unlink"))

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock(to_micros(utc_now()))

    @pytest.fixture
    def store(self, clock: FakeClock) -> OfflineStore:
        raise NotImplementedError("the adapter's tests bring the store")

    @pytest.fixture
    def upkeep(self, store: OfflineStore, clock: FakeClock) -> TableMaintenance:
        raise NotImplementedError("and its upkeep")

    @pytest.fixture
    def make(self) -> Callable[[FakeClock], tuple[OfflineStore, TableMaintenance]]:
        raise NotImplementedError("and both on a folder of its own for each clock")

    @staticmethod
    def small_runs(store: OfflineStore, numbers: Iterable[int]) -> None:
        for number in numbers:
            run(store, PLAIN, number, rows(*((f"k{index}", number, number, float(index)) for index in range(10))))

    def test_no_table_needs_nothing(self, upkeep: TableMaintenance) -> None:
        assert upkeep.compact(PLAIN, 99) is None
        assert not upkeep.checkpoint(PLAIN)
        assert upkeep.vacuum(PLAIN, timedelta()) == Removed()
        assert (upkeep.files(PLAIN), upkeep.tables("flights")) == (0, [])

    def test_s17_compaction_changes_no_row_and_keeps_the_order(self, store: OfflineStore, upkeep: TableMaintenance) -> None:
        self.small_runs(store, range(1, 31))
        pushed = store.log.append(PLAIN, rows(("k1", 99, 99, None))).seq
        before, snapshot = read(store, PLAIN), store.snapshot(PLAIN)
        assert (upkeep.files(PLAIN), upkeep.tables("flights")) == (31, [("weather", 1)])
        first_step = upkeep.compact(PLAIN, 30, dry_run=True)
        assert first_step is not None
        assert (first_step.merged, first_step.written, upkeep.files(PLAIN)) == (30, 1, 31)
        assert kept(store, upkeep, PLAIN, 30) == 30
        assert upkeep.files(PLAIN) == 2
        now = store.snapshot(PLAIN)
        assert (now.rows, now.spans, now.last_run, now.segments) == (snapshot.rows, snapshot.spans, 30, (pushed,))
        assert read(store, PLAIN).equals(before)
        [history] = now.buckets.values()
        assert history.parts == 2
        assert pl.concat(history.read()[:1]).equals(before.filter(pl.col("temp").is_not_null()))
        # What is known is known still, and a run repeated changes nothing.
        added = run(store, PLAIN, 30, rows(("k1", 500, 500, 1.0)))
        assert (added, read(store, PLAIN).equals(before)) == (10, True)
        assert run(store, PLAIN, 31, rows(("k1", 5, 5, 1.0), ("k1", 99, 99, None), ("k1", 6, 6, -1.0))) == 1
        assert store.log.append(PLAIN, rows(("k2", 7, 7, 2.0))).known.height == 1

    def test_few_or_unlike_files_are_left_alone(self, store: OfflineStore, upkeep: TableMaintenance) -> None:
        run(store, PLAIN, 1, rows(*((f"k{index}", 0, 0, 1.0) for index in range(1000))))
        self.small_runs(store, range(2, 9))
        assert upkeep.compact(PLAIN, 8) is None
        self.small_runs(store, range(9, 10))
        assert kept(store, upkeep, PLAIN, 9) == 8
        assert upkeep.files(PLAIN) == 2

    def test_s17_what_a_run_added_is_found_until_it_is_done(self, store: OfflineStore, upkeep: TableMaintenance) -> None:
        self.small_runs(store, range(1, 21))
        assert kept(store, upkeep, PLAIN, 19) == 19
        added = pl.concat([frame for history in store.committed(PLAIN, 20) for frame in history.read()])
        assert added["event_time"].to_physical().unique().to_list() == [20]

    def test_rows_may_be_left_out(self, store: OfflineStore, upkeep: TableMaintenance) -> None:
        self.small_runs(store, range(1, 21))
        assert upkeep.compact(PLAIN, 20, lambda rows: rows.filter(pl.col("origin") != "k3")) is not None
        assert store.snapshot(PLAIN).rows == 20 * 9
        assert "k3" not in read(store, PLAIN)["origin"].to_list()

    def test_a_table_of_many_buckets(self, store: OfflineStore, upkeep: TableMaintenance, monkeypatch: pytest.MonkeyPatch) -> None:
        """Small runs lie above the buckets, are merged there, and go down as they become more."""
        self.limit(monkeypatch, Limits(bucket_rows=8, split_rows=1 << 20, file_rows=8))
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
            buckets = {node: pl.concat(history.read()) for node, history in snapshot.buckets.items()}
            assert sum(frame.height for frame in buckets.values()) == snapshot.rows == 100 + 6 * (number - 1)
            for node, frame in buckets.items():
                assert frame.select(bucket(PLAIN.keys, 4)).to_series().unique().to_list() in ([node], [])
        assert read(store, PLAIN).equals(sort_history(pl.concat(parts), ["origin"], ["temp"]))

    def test_snapshots_are_readable_until_the_retention(
        self, store: OfflineStore, upkeep: TableMaintenance, clock: FakeClock
    ) -> None:
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
        removable = upkeep.vacuum(PLAIN, week, dry_run=True)
        assert removable.files == 20
        assert removable.size > 0
        assert upkeep.vacuum(PLAIN, week) == removable
        assert upkeep.vacuum(PLAIN, week) == Removed()
        with pytest.raises(OfflineStoreError, match="ask again"):
            history.read()
        assert read(store, PLAIN).equals(rows_before)

    def test_the_log_of_pushes_is_never_vacuumed(self, store: OfflineStore, upkeep: TableMaintenance, clock: FakeClock) -> None:
        self.small_runs(store, [1])
        store.log.append(PLAIN, rows(("k1", 99, 99, 1.0)))
        clock.micros += to_micros(utc_now()) // 2
        assert upkeep.vacuum(PLAIN, timedelta()) == Removed()
        assert store.snapshot(PLAIN).rows == 11

    def test_a_checkpoint_forgets_nothing(self, store: OfflineStore, upkeep: TableMaintenance) -> None:
        self.small_runs(store, range(1, 61))
        pushed = store.log.append(PLAIN, rows(("k1", 99, 99, 1.0))).seq
        fold(store, PLAIN, 61)
        assert upkeep.checkpoint(PLAIN)
        assert not upkeep.checkpoint(PLAIN)
        snapshot = store.snapshot(PLAIN)
        assert (snapshot.rows, snapshot.last_run, snapshot.segments) == (601, 61, (pushed,))
        assert run(store, PLAIN, 61, rows(("k1", 500, 500, 1.0))) == 1
        assert store.snapshot(PLAIN).rows == 601
        store.log.remove(PLAIN)
        assert (store.log.append(PLAIN, rows(("k1", 100, 100, 1.0))).seq or 0) > (pushed or 0)

    def test_s17_compactions_runs_and_pushes_at_once(self, store: OfflineStore, upkeep: TableMaintenance) -> None:
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
            assert sum(future.result() for future in compacting) > 0
        assert store.snapshot(PLAIN).rows == 24 * 10 + 12 * 3
        assert read(store, PLAIN).height == 276
        assert read(store, PLAIN).equals(read(store, PLAIN).unique(maintain_order=True))

    @settings(max_examples=examples(15), deadline=None, suppress_health_check=list(HealthCheck))
    @given(steps=st.lists(STEPS, min_size=4, max_size=14))
    def test_s17_any_order_of_steps_leaves_the_same_rows(
        self, steps: list[tuple[Any, ...]], make: Callable[[FakeClock], tuple[OfflineStore, TableMaintenance]]
    ) -> None:
        """Run, pushes, folds, splits, compactions, vacuums, and any of them broken off and done again."""
        with pytest.MonkeyPatch.context() as patch:
            self.limit(patch, Limits(bucket_rows=6, file_rows=4, small_files=2))
            story = Story(make, self.writes)
            for step, *arguments in steps:
                getattr(story, step)(*arguments)
                story.check()
            story.check_early()


class Story:
    """What happens to one table, and the rows it must have."""

    def __init__(self, make: Callable[[FakeClock], tuple[OfflineStore, TableMaintenance]], writes: Calls) -> None:
        self._writes = writes
        self.clock = FakeClock(to_micros(utc_now()))
        self._make = make
        self.store, self.upkeep = make(self.clock)
        self.expected = rows()
        self.number = 0
        self.early: list[tuple[Snapshot, int]] = []

    def run(self, given: list[tuple[int, int]], writes: int | None) -> None:
        self.number += 1
        staged = [self.store.stage(PLAIN, self.number, 0, self._new(given))]
        with self._broken_off(writes):
            self.store.commit(PLAIN, self.number, staged)
        # It is taken up again, by a process that knows nothing.
        self.store, self.upkeep = self._make(self.clock)
        if self.store.snapshot(PLAIN).last_run < self.number:
            self.store.commit(PLAIN, self.number, staged)

    def push(self, given: list[tuple[int, int]], writes: int | None) -> None:
        new = self._new(given)
        with self._broken_off(writes):
            self.store.log.append(PLAIN, new)
        self.store.log.append(PLAIN, new)

    def fold(self) -> None:
        self.number += 1
        fold(self.store, PLAIN, self.number)
        self.store.log.remove(PLAIN)

    def compact(self, writes: int | None) -> None:
        with self._broken_off(writes):
            kept(self.store, self.upkeep, PLAIN, self.number)
        kept(self.store, self.upkeep, PLAIN, self.number)

    def checkpoint(self) -> None:
        self.upkeep.checkpoint(PLAIN)

    def vacuum(self, writes: int | None) -> None:
        with self._broken_off(writes):
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

    def _broken_off(self, writes: int | None) -> AbstractContextManager[list[int]]:
        """End what is done within at its nth write; None lets it be done."""
        return interrupted(writes, *self._writes)

    def _new(self, given: list[tuple[int, int]]) -> pl.DataFrame:
        new = rows(*((f"k{key}", event, event, float(key)) for key, event in given))
        self.expected = pl.concat([self.expected, new]).unique()
        return new
