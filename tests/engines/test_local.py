"""The local engine: the contract of engines, and its memory bound."""

import threading
from dataclasses import dataclass

import polars as pl
import pytest

from featurestore.engines.local import LocalEngine
from featurestore.retrieval.join_plan import JoinTask
from featurestore.testing.engines import EngineContract, task


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
        class Watched(JoinTask):
            def run(self) -> pl.DataFrame:
                with lock:
                    running[0] += 1
                    most[0] = max(most[0], running[0])
                together.wait(timeout=20)
                with lock:
                    running[0] -= 1
                return super().run()

        good = task(0)
        fields = (good.join, good.plan, good.spine, good.history, good.columns, weight)
        engine = LocalEngine(threads=4, memory=100)
        assert len(list(engine.run([Watched(*fields) for _ in range(8)]))) == 8
        assert most[0] == at_once
