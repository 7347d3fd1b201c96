"""The local engine: the contract of engines, and its memory bound."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from featurestore.engines.local import LocalEngine
from featurestore.testing.engines import EngineContract, Sum, Whole


class TestLocalEngine(EngineContract):
    @pytest.fixture
    def engine(self) -> LocalEngine:
        return LocalEngine(threads=3, memory=100)

    @pytest.mark.parametrize(("weight", "at_once"), [(10, 4), (40, 2), (60, 1), (1000, 1)])
    def test_tasks_under_way_weigh_no_more_than_the_memory(self, weight: int, at_once: int) -> None:
        """A task waits for as many others as there is room for, then all of them end."""
        lock, running, most = threading.Lock(), [0], [0]
        together = threading.Barrier(at_once)

        @dataclass(frozen=True)
        class Watched(Whole):
            def run(self) -> int:
                with lock:
                    running[0] += 1
                    most[0] = max(most[0], running[0])
                together.wait(timeout=20)
                with lock:
                    running[0] -= 1
                return super().run()

        engine = LocalEngine(threads=4, memory=100)
        assert len(list(engine.run([Watched((), weight) for _ in range(8)]))) == 8
        assert most[0] == at_once

    def test_a_task_that_fits_nowhere_and_cannot_be_split_runs_alone(self, engine: LocalEngine) -> None:
        assert [result for _, result in engine.run([Whole((1,), weight=10**15), Whole((2,), weight=10**15)])] == [1, 2]

    def test_a_run_that_is_closed_has_ended(self, engine: LocalEngine) -> None:
        """No thread of it writes any more: its files can be deleted."""
        begun, go_on, ended = threading.Event(), threading.Event(), []
        before = set(threading.enumerate())

        @dataclass(frozen=True)
        class Slow(Whole):
            def run(self) -> int:
                begun.set()
                assert go_on.wait(timeout=20)
                ended.append(self.numbers)
                return 0

        results = engine.run([Whole((5,)), *(Slow((number,)) for number in range(2))])
        assert next(results)[1] == 5
        assert begun.wait(timeout=20)
        threading.Timer(0.01, go_on.set).start()
        results.close()
        assert ended
        assert not [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("featurestore_")]

    def test_a_task_is_split_into_so_many_parts_that_each_fits_but_no_further(self) -> None:
        asked = []

        @dataclass(frozen=True)
        class Asked(Sum):
            def split(self, parts: int) -> Sequence[Sum]:
                asked.append(parts)
                return [Asked(self.numbers, 10**9)]

        engine = LocalEngine(threads=1, memory=100)
        assert len(list(engine.run([Asked((1,), weight) for weight in (100, 101, 250, 10**9)]))) == 4
        assert asked == [2, 3, 64]
