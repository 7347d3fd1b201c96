"""The contract of engines: every adapter's tests subclass it."""

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from uuid import uuid4

import polars as pl
import pytest

from featurestore.definitions.feature import FeatureSpec
from featurestore.engines.base import Engine
from featurestore.errors import NotFoundError
from featurestore.retrieval.join_plan import ROW, ROW_DTYPE, JoinTask
from featurestore.retrieval.spine import FramePart
from featurestore.rows.point_in_time import PointInTime

INSTANT = pl.Datetime("us", "UTC")


@dataclass(frozen=True)
class Sum:
    """Adds numbers up; each part of it adds up some of them."""

    numbers: tuple[int, ...]
    weight: int = 1

    def run(self) -> int:
        return sum(self.numbers)

    def split(self, parts: int) -> "Sequence[Sum]":
        return [replace(self, numbers=self.numbers[place::parts], weight=self.weight // parts) for place in range(parts)]


@dataclass(frozen=True)
class Whole(Sum):
    """One that cannot be split."""

    def split(self, parts: int) -> None:  # type: ignore[override]  # None is what the port allows
        return None


@dataclass(frozen=True)
class Unsplit(Sum):
    """One that nobody may split, as it is light."""

    def split(self, parts: int) -> "Sequence[Sum]":
        raise AssertionError("a task that fits is not split")


@dataclass(frozen=True)
class Failing(Sum):
    """One that fails with an error of the library's."""

    def run(self) -> int:
        raise NotFoundError("part", "seven", ["six", "eight"])


@dataclass(frozen=True)
class Writing:
    """Writes a file, under a name of its own attempt, and returns that name."""

    folder: str
    text: str
    weight: int = 1

    def run(self) -> str:
        path = Path(self.folder) / f"{self.text}-{uuid4().hex}"
        with path.open("x") as file:
            file.writelines(f"{self.text}\n" for _ in range(1000))
        return str(path)

    def split(self, parts: int) -> None:
        return None


@dataclass(frozen=True)
class Rows:
    """A history in memory."""

    frame: pl.DataFrame
    parts: int = 1

    @property
    def rows(self) -> int:
        return self.frame.height

    def read(
        self, columns: Sequence[str] | None = None, *, since: int | None = None, until: int | None = None
    ) -> list[pl.DataFrame]:
        return [self.frame if columns is None else self.frame.select(columns)]


def look_up(number: int, rows: int = 10, weight: int = 1) -> JoinTask:
    """Return a task whose spine row ``i`` sees the value ``number * 100 + i``."""
    times = pl.Series(range(rows)).cast(INSTANT)
    history = pl.DataFrame(
        {"k": [f"k{i:03}" for i in range(rows)], "event_time": times, "x": [number * 100 + i for i in range(rows)]}
    )
    spine = pl.DataFrame({ROW: range(rows), "k": history["k"], "_time": times}, schema_overrides={ROW: ROW_DTYPE})
    plan = PointInTime(("k",), ("x",), ("x",))
    return JoinTask(number, plan, FramePart(spine), Rows(history), (("x", FeatureSpec("x", pl.Int64())),), weight)


class EngineContract:
    """What every engine does. Its tasks write to ``tmp_path``, which all that run them must reach."""

    @pytest.fixture
    def engine(self) -> Engine:
        raise NotImplementedError("the adapter's tests bring the engine")

    def test_each_result_comes_with_its_task(self, engine: Engine) -> None:
        tasks = [Sum((number, 1)) for number in range(20)]
        results = list(engine.run(iter(tasks)))
        assert all(result == task.run() for task, result in results)
        assert sorted(result for _, result in results) == list(range(1, 21))

    def test_no_tasks_no_results(self, engine: Engine) -> None:
        assert list(engine.run([])) == []

    def test_the_look_ups_of_a_training_frame(self, engine: Engine) -> None:
        frames = {joined.join: joined.rows for _, joined in engine.run([look_up(number) for number in range(4)])}
        assert sorted(frames) == list(range(4))
        for number, frame in frames.items():
            assert frame["x"].to_list() == [number * 100 + i for i in range(10)]
            assert frame.columns == [ROW, "x"]

    def test_a_bucket_without_history_gives_nulls_of_the_right_dtype(self, engine: Engine) -> None:
        [(_, joined)] = engine.run([replace(look_up(1), history=None)])
        assert joined.rows.schema == pl.Schema({ROW: pl.UInt64, "x": pl.Int64})
        assert joined.rows["x"].null_count() == 10

    def test_tasks_and_results_can_be_pickled(self, engine: Engine) -> None:
        tasks = [pickle.loads(pickle.dumps(Sum((number,)))) for number in range(3)]
        results = list(engine.run(tasks))
        assert sorted(result for _, result in pickle.loads(pickle.dumps(results))) == [0, 1, 2]

    def test_it_says_what_it_has(self, engine: Engine) -> None:
        assert engine.capacity().cpus >= 1
        assert engine.capacity().memory_per_task >= 1

    def test_a_task_that_is_too_heavy_is_split_and_its_parts_come_in_its_place(self, engine: Engine) -> None:
        numbers = tuple(range(100))
        heavy = Sum(numbers, weight=4 * engine.capacity().memory_per_task)
        results = list(engine.run([Whole((1000,)), heavy, Whole((1000,))]))
        assert heavy not in [task for task, _ in results]
        assert len(results) > 2 + 1
        assert sum(result for _, result in results) == 2000 + sum(numbers)

    def test_a_task_that_fits_is_not_split(self, engine: Engine) -> None:
        [(_, result)] = engine.run([Unsplit((1, 2), weight=engine.capacity().memory_per_task)])
        assert result == 3

    def test_a_task_may_run_twice_also_at_once(self, engine: Engine, tmp_path: Path) -> None:
        """An engine that repeats tasks does the same: what counts is what the receipts name."""
        results = [path for _, path in engine.run([Writing(str(tmp_path), "a")] * 8)]
        assert len(set(results)) == 8
        assert {Path(path).read_text() for path in results} == {"a\n" * 1000}

    def test_tasks_are_drawn_as_there_is_room(self, engine: Engine) -> None:
        """So they may be more than any memory holds, and a reader that has seen enough closes the run."""
        drawn = count()
        results = engine.run(Sum((number,)) for number in drawn)
        first = [result for _, result in islice(results, 5)]
        results.close()
        assert len(set(first)) == 5
        assert next(drawn) < 5 + 16 * (1 + engine.capacity().cpus)

    def test_the_first_error_is_raised_and_no_further_task_drawn(self, engine: Engine) -> None:
        drawn = []

        def tasks() -> Iterator[Sum]:
            for number in range(1000):
                drawn.append(number)
                yield Failing(()) if number == 3 else Sum((number,))

        with pytest.raises(NotFoundError, match="'seven'"):
            list(engine.run(tasks()))
        assert len(drawn) < 50
        assert [result for _, result in engine.run([Sum((1, 2))])] == [3]

    def test_an_error_of_who_makes_the_tasks_is_raised(self, engine: Engine) -> None:
        def tasks() -> Iterator[Sum]:
            yield Sum((1,))
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            list(engine.run(tasks()))

    def test_closing_twice_is_no_error(self, engine: Engine) -> None:
        engine.close()
        engine.close()
