"""The contract of engines: every adapter's tests subclass it."""

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl
import pytest

from featurestore.definitions.feature import FeatureSpec
from featurestore.engines.base import Engine
from featurestore.retrieval.join_plan import ROW, JoinTask
from featurestore.retrieval.spine import FramePart
from featurestore.rows.point_in_time import PointInTime

INSTANT = pl.Datetime("us", "UTC")


@dataclass(frozen=True)
class Rows:
    """A history in memory."""

    frame: pl.DataFrame
    paths: tuple[str, ...] = ("memory",)
    parts: int = 1

    def read(self, columns: object = None) -> list[pl.DataFrame]:
        return [self.frame.select(columns)]  # type: ignore[arg-type]  # a port's columns are texts


def task(number: int, rows: int = 10, weight: int = 1) -> JoinTask:
    """A task whose spine row ``i`` sees the value ``number * 100 + i``."""
    times = pl.Series(range(rows)).cast(INSTANT)
    history = pl.DataFrame(
        {"k": [f"k{i:03}" for i in range(rows)], "event_time": times, "x": [number * 100 + i for i in range(rows)]}
    )
    spine = pl.DataFrame({ROW: range(rows), "k": history["k"], "_time": times}, schema_overrides={ROW: pl.UInt32})
    plan = PointInTime(("k",), ("x",), ("x",))
    return JoinTask(number, plan, FramePart(spine), Rows(history), (("x", FeatureSpec("x", pl.Int64())),), weight)


class Broken(FramePart):
    """A part of a spine that cannot be read."""

    def read(self) -> pl.DataFrame:
        raise RuntimeError("no such part")


class EngineContract:
    """What every engine does."""

    @pytest.fixture
    def engine(self) -> Engine:
        raise NotImplementedError("the adapter's tests bring the engine")

    def test_each_task_is_run_once_and_its_result_comes_with_it(self, engine: Engine) -> None:
        tasks = [task(number) for number in range(20)]
        frames = {done.join: frame for done, frame in engine.run(iter(tasks))}
        assert sorted(frames) == list(range(20))
        for number, frame in frames.items():
            assert frame["x"].to_list() == [number * 100 + i for i in range(10)]
            assert frame.columns == [ROW, "x"]

    def test_no_tasks_no_results(self, engine: Engine) -> None:
        assert list(engine.run([])) == []

    def test_a_task_heavier_than_the_memory_runs_all_the_same(self, engine: Engine) -> None:
        assert len(list(engine.run([task(1, weight=10**15), task(2, weight=10**15)]))) == 2

    def test_the_first_error_is_raised_and_no_further_task_drawn(self, engine: Engine) -> None:
        drawn = []

        def tasks() -> Iterator[JoinTask]:
            for number in range(1000):
                drawn.append(number)
                good = task(number)
                yield (
                    good
                    if number != 3
                    else JoinTask(number, good.plan, Broken(pl.DataFrame()), None, (("x", FeatureSpec("x", pl.Int64())),), 1)
                )

        with pytest.raises(RuntimeError, match="no such part"):
            list(engine.run(tasks()))
        assert len(drawn) < 50

    def test_a_bucket_without_history_gives_nulls_of_the_right_dtype(self, engine: Engine) -> None:
        good = task(1)
        bare = JoinTask(1, good.plan, good.spine, None, (("x", FeatureSpec("x", pl.Int64())),), 1)
        [(_, frame)] = engine.run([bare])
        assert frame.schema == pl.Schema({ROW: pl.UInt32, "x": pl.Int64})
        assert frame["x"].null_count() == 10

    def test_closing_twice_is_no_error(self, engine: Engine) -> None:
        engine.close()
        engine.close()
