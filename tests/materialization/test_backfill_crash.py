"""S17 of backfills: killed at any point and repeated, they leave what an undisturbed one does; readers have either version."""

import random
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.crashes import Worker
from tests.materialization.test_crash import ENTITIES, SEED, drawn
from tests.projects import frame_of, left
from tests.workers.backfill_worker import apply, store_of
from tests.workers.worker import KEYS


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with source files and a project whose view was materialized in its first version."""
    folder = tmp_path_factory.mktemp("backfill-crash")
    (folder / "data").mkdir()
    frame = frame_of(drawn(), dict.fromkeys(KEYS, pl.String), {"x": pl.Float64, "n": pl.Int64})
    for number in range(3):
        frame[number::3].write_parquet(folder / "data" / f"{number}.parquet")
    (folder / "backfill-filled").mkdir()
    with store_of(folder / "backfill-filled") as store:
        apply(store, changed=False)
        store.materialize()
    return folder / "backfill-filled"


WORKER = Worker("backfill_worker")


def work(filled: Path, name: str, *points: int) -> tuple[Path, int]:
    """Kills the worker at points in a copy of the project, then lets it do its work; returns how many calls that took."""
    # The project's name, which is in its keys, is its folder's: copies lie in folders of their own.
    folder = filled.parent / name / filled.name
    (filled.parent / name).mkdir()
    (filled.parent / name / "data").symlink_to(filled.parent / "data")
    shutil.copytree(filled, folder)
    for point in points:
        WORKER.kill(folder, point=point)
        look(folder)
    return folder, WORKER.run(folder)


def look(folder: Path) -> None:
    """Readers have all of one version: the x of the first is positive, that of the second negative."""
    with store_of(folder) as store:
        found = [row["x"] for row in store.online("v", [{"k": key} for key in ENTITIES]).to_dicts()]
        known = [x for x in found if x is not None]
        rows = store.sql("select x from v").to_series()
    assert len(known) > 10
    assert all(x > 0 for x in known) or all(x < 0 for x in known)
    assert rows.len() > 300
    assert (rows.drop_nulls() > 0).all() is (known[0] > 0)


def all_left(folder: Path) -> dict[str, Any]:
    with store_of(folder) as store:
        assert not store.catalog.previous_versions
        spans = sorted(repr(run.span["backfill"]) for run in store.runs.list() if "backfill" in run.span)
        return left(store, "v", ENTITIES) | {"spans": spans}


def survive(filled: Path, rounds: int) -> None:
    quiet, calls = work(filled, f"quiet-{rounds}")
    expected = all_left(quiet)
    assert len(expected["spans"]) > 2
    draw = random.Random(SEED + rounds)
    for number in range(rounds):
        folder, _ = work(filled, f"killed-{rounds}-{number}", draw.randrange(1, calls), draw.randrange(1, calls))
        assert all_left(folder) == expected


@pytest.mark.slow
def test_s17_a_backfill_killed_and_repeated_leaves_what_an_undisturbed_one_leaves(filled: Path) -> None:
    survive(filled, 1)


@pytest.mark.slow
def test_s17_a_backfill_killed_at_many_points(filled: Path) -> None:
    survive(filled, 3)
