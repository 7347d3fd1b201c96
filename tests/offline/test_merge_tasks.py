"""Commits and compactions whose buckets are merged by tasks leave what those of one process leave."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.engines.base import Engine
from featurestore.offline.delta.history import DeltaStore
from featurestore.offline.delta.maintenance import DeltaMaintenance
from featurestore.testing.offline import PLAIN, read, rows
from tests.effort import examples
from tests.engines.far import FarEngine
from tests.retrieval.test_flow import small_batches

FORGOTTEN = "a"


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """Buckets and files of a few rows, and no run that is too small for tasks."""
    with pytest.MonkeyPatch.context() as patch, small_batches(1000, bucket=4):
        patch.setattr("featurestore.engines.base.FEW_ROWS", 0)
        patch.setattr("featurestore.offline.delta.commit.rows_per_file", lambda *_, **__: 2)
        patch.setattr("featurestore.offline.delta.commit.TASK_BYTES", 1500)  # a few buckets a task
        patch.setattr("featurestore.offline.delta.compaction.rows_per_file", lambda *_, **__: 4)
        yield


def without_forgotten(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.filter(pl.col("origin") != FORGOTTEN)


some_rows = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 9), st.integers(0, 9), st.none() | st.sampled_from([1.0, 2.0])),
    max_size=30,
)
steps_of = st.lists(
    st.tuples(st.just("run"), st.lists(some_rows, min_size=1, max_size=3), some_rows) | st.tuples(st.just("compact")),
    min_size=1,
    max_size=6,
)


class Side:
    """A store, and what its steps have returned."""

    def __init__(self, folder: str, engine: Engine | None) -> None:
        self.store = DeltaStore(Path(folder))
        self.engine = engine
        self.runs = 0
        self.told: list[Any] = []

    def take(self, step: tuple[Any, ...]) -> None:
        if step[0] == "compact":
            upkeep = DeltaMaintenance(self.store)
            while (done := upkeep.compact(PLAIN, self.runs, without_forgotten, engine=self.engine)) is not None:
                self.told.append((done.merged, done.written))
            return
        self.runs += 1
        _, chunks, pushed = step
        staged = [self.store.stage(PLAIN, self.runs, index, rows(*chunk)) for index, chunk in enumerate(chunks)]
        # What is pushed meanwhile is in the log as the run is committed.
        self.told.append(self.store.log.append(PLAIN, rows(*pushed)).rows.height)
        self.told.append(self.store.commit(PLAIN, self.runs, staged, self.runs - 1, self.engine))


@given(steps=steps_of)
@settings(max_examples=examples(40), deadline=None)
def test_s17_tasks_leave_what_one_process_leaves(steps: list[tuple[Any, ...]]) -> None:
    with TemporaryDirectory() as here, TemporaryDirectory() as there:
        sides = [Side(here, None), Side(there, FarEngine())]
        for step in steps:
            for side in sides:
                side.take(step)
            one, other = [read(side.store, PLAIN) for side in sides]
            assert one.equals(other, null_equal=True)
            assert sides[0].told == sides[1].told
        histories = [side.store.snapshot(PLAIN) for side in sides]
        assert {node: history.rows for node, history in histories[0].buckets.items()} == {
            node: history.rows for node, history in histories[1].buckets.items()
        }


def test_many_buckets_are_several_tasks(tmp_path: Path) -> None:
    engine = FarEngine()
    store = DeltaStore(tmp_path)
    chunk = rows(*((f"k{number}", number, number, 1.0) for number in range(64)))
    assert store.commit(PLAIN, 1, [store.stage(PLAIN, 1, 0, chunk)], 0, engine) == 64
    assert len(store.snapshot(PLAIN).buckets) > 8
    assert engine.ran.count("MergeTask") > 3
