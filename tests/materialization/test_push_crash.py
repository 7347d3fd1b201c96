"""S17 under fire: pushes, and the folds of what they left, killed at any point and repeated leave what quiet ones leave."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.crashes import Worker
from tests.materialization.test_crash import ENTITIES, SEED, drawn
from tests.projects import frame_of, left
from tests.workers.worker import KEYS, store_of


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with source files, and with files to push: of the same rows, of others, of both, some of them twice."""
    folder = tmp_path_factory.mktemp("push-crash")
    frame = frame_of(drawn(), dict.fromkeys(KEYS, pl.String), {"x": pl.Float64, "n": pl.Int64})
    for place in ("data", "pushed"):
        (folder / place).mkdir()
    for number in range(3):
        frame[number:300:3].write_parquet(folder / "data" / f"{number}.parquet")
    for number in range(14):
        start = 40 * number
        frame[start : start + 60].write_parquet(folder / "pushed" / f"{number:02d}.parquet")
    return folder


def all_left(folder: Path, online: str | None) -> dict[str, Any]:
    """All that a project's stores hold, and what is left of the log. Of what is rejected, why: a run rejects it again."""
    found: dict[str, Any] = {}
    with store_of(folder, online) as store:
        for view in ("v", "w"):
            reasons = Counter(store.runs.rejected_rows(view).filter(pl.col("_run") == 0)["_reason"].to_list())
            found[view] = left(store, view, ENTITIES) | {"rejected": reasons}
            found[f"{view} log"] = [
                path.name
                for path in (folder / ".featurestore/offline" / folder.name / view / "v1/_pushed").glob("*.*")
                if path.suffix != ".last"
            ]
        found["runs"] = {run.state for run in store.runs.list()}
    return found


WORKER = Worker("push_worker")


@pytest.fixture(scope="module")
def quiet(data: Path) -> tuple[dict[str, Any], int]:
    """What an undisturbed process leaves, and how many calls it makes."""
    calls = WORKER.run(data / "quiet", "")
    expected = all_left(data / "quiet", None)
    assert expected["v"]["rejected"]
    assert len(expected["v"]["history"]) > 300
    assert expected["v log"] == []
    return expected, calls


def survive(data: Path, quiet: tuple[dict[str, Any], int], online: str, points: int) -> None:
    """Kills processes at so many random points, two in turn in one project, then lets one finish; compares what is left."""
    expected, calls = quiet
    draw = random.Random(SEED + points + len(online))
    for number in range(points // 2):
        folder = data / f"push-{'valkey' if online else 'lmdb'}-{points}-{number}"  # other tests' projects are on the same server
        WORKER.survive(folder, online, calls=calls, draw=draw)
        assert all_left(folder, online or None) == expected


@pytest.mark.slow
def test_s17_a_killed_push_repeated_leaves_what_an_undisturbed_one_leaves(data: Path, quiet: tuple[dict[str, Any], int]) -> None:
    survive(data, quiet, "", 3)


@pytest.mark.slow
@pytest.mark.parametrize("online", ["", "valkey_url"], ids=["lmdb", "valkey"])
def test_s17_killed_at_many_points(
    data: Path, quiet: tuple[dict[str, Any], int], online: str, request: pytest.FixtureRequest
) -> None:
    survive(data, quiet, online and request.getfixturevalue(online), 6)


@pytest.mark.slow  # tests/test_push.py has four that push at once each time
@pytest.mark.parametrize("online", ["", "valkey_url"], ids=["lmdb", "valkey"])
def test_s17_two_processes_at_once_leave_what_one_leaves(
    data: Path, quiet: tuple[dict[str, Any], int], online: str, request: pytest.FixtureRequest
) -> None:
    address = online and request.getfixturevalue(online)
    folder = data / f"push-twice-{online}"
    folder.mkdir()
    store_of(folder, address or None).close()
    WORKER.run_twice_at_once(folder, address)
    # The last run of one may have come before the last push of the other.
    with store_of(folder, address or None) as store:
        store.materialize()
    assert all_left(folder, address or None) == quiet[0]


def test_s17_what_is_visible_stays_visible_while_it_is_folded(tmp_path: Path) -> None:
    """Readers in another process see every row that was pushed before they looked, once, whatever a fold is at."""
    rows = drawn()
    frame = frame_of(rows, dict.fromkeys(KEYS, pl.String), {"x": pl.Float64, "n": pl.Int64}).filter(
        pl.col("event").is_not_null() & pl.col("n").is_not_null()
    )
    (tmp_path / "data").mkdir()
    frame.clear().write_parquet(tmp_path / "data" / "0.parquet")
    (tmp_path / "pushed").mkdir()
    parts = list(frame.unique(maintain_order=True).iter_slices(20))
    for number, part in enumerate(parts):
        part.write_parquet(tmp_path / "pushed" / f"{number:02d}.parquet")
    (tmp_path / "project").mkdir()
    with store_of(tmp_path / "project", None) as store:
        pusher = WORKER.start(tmp_path / "project", "")
        seen = 0
        while pusher.poll() is None:
            found = store.sql("from v")
            assert found.height >= seen
            assert found.is_unique().all()
            seen = found.height
        WORKER.finish(pusher)
        assert store.sql("from v").height == frame.unique().height
