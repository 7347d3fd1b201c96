"""What is told of a training frame while it is made: tasks done of how many, and how heavy they were."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from featurestore import FeatureStore
from tests.projects import INSTANT, memory_of, view_of
from tests.retrieval.test_flow import small_batches

ROWS = pl.DataFrame({"k": range(60), "event": range(60), "x": [1.0] * 60}).with_columns(pl.col("event").cast(INSTANT))
SPINE = pl.DataFrame({"k": range(60), "t": [100] * 60}).with_columns(pl.col("t").cast(INSTANT))


class Watching:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.steps: dict[str, list[tuple[int, int, int, int]]] = {}

    def step(self, view: str, stage: str, done: int, total: int, *, size: int = 0, total_size: int = 0) -> None:
        assert view == "training frame"
        self.steps.setdefault(stage, []).append((done, total, size, total_size))


@pytest.mark.parametrize(
    ("sink", "stages"), [("", ["join"]), ("out.parquet", ["cut", "join", "gather"]), ("out/", ["cut", "join", "gather"])]
)
def test_each_step_is_told_from_nothing_to_all(tmp_path: Path, sink: str, stages: list[str]) -> None:
    watching = Watching()
    target: Any = f"{tmp_path}/{sink}" if sink else None
    with small_batches(25, bucket=10), FeatureStore(tmp_path, project="watched") as store:
        store.apply([view_of(memory_of(ROWS, late=False), {"k": int}, {"x": float})])
        store.materialize()
        made: Any = store.training_frame(SPINE, ["v"], time="t", sink=target, progress=watching)
        assert made.lazy().collect().height == SPINE.height
    assert list(watching.steps) == stages
    for steps in watching.steps.values():
        dones, totals, sizes, weights = zip(*steps, strict=True)
        [total], [weight] = set(totals), set(weights)
        assert dones == tuple(range(total + 1))
        assert sizes == tuple(sorted(sizes))
        assert (sizes[0], sizes[-1]) == (0, weight)
        assert weight > 0
    if "cut" in stages:
        assert watching.steps["cut"][0][1] == watching.steps["gather"][0][1] == 3, "of 25 rows each"
