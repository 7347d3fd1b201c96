"""S17 under fire: processes killed at any point, two at once, servers that go away. What is left is what one quiet run leaves."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from featurestore import FeatureStore, ParquetSource
from featurestore.clock import from_micros
from featurestore.errors import OnlineStoreError
from featurestore.registry.ledger import Ledger, Run
from featurestore.testing import Killed
from tests.crashes import Worker
from tests.effort import few
from tests.oracle import Row
from tests.projects import frame_of, left, view_of
from tests.servers.valkey import ValkeyServer
from tests.workers.worker import FEATURES, KEYS, NOW, store_of

ENTITIES = [f"e{number}" for number in range(40)]
SEED = 20130101


def drawn() -> list[Row]:
    """600 rows: late ones, ties, repeated ones, and some to be rejected."""
    draw = random.Random(SEED)
    return [
        Row(
            (draw.choice(ENTITIES),),
            event := draw.randrange(300),
            event + draw.randrange(-5, 50),
            (draw.choice([None, 1.5, 2.5]), draw.choice([1, 2, None])),
        )
        for _ in range(600)
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with source files of 600 rows: late ones, ties, repeated ones, and some to be rejected."""
    folder = tmp_path_factory.mktemp("crash")
    (folder / "data").mkdir()
    frame = frame_of(drawn(), dict.fromkeys(KEYS, pl.String), {"x": pl.Float64, "n": pl.Int64})
    for number in range(5):
        frame[number::5].write_parquet(folder / "data" / f"{number}.parquet")
    frame[:50].write_parquet(folder / "data" / "5.parquet")
    return folder


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    """A server that keeps what it has acknowledged, through a kill."""
    with ValkeyServer("--appendonly", "yes", "--appendfsync", "always") as started:
        yield started


def all_left(folder: Path, online: str | None) -> dict[str, Any]:
    """All that a project's stores hold, and its runs."""
    with store_of(folder, online) as store:
        found: dict[str, Any] = {view: left(store, view, ENTITIES) for view in ("v", "w")}
        found["runs"] = {(run.view, run.state, run.rows_read, run.rows_written, run.rows_rejected) for run in store.runs.list()}
    return found


WORKER = Worker("worker")


@pytest.fixture(scope="module")
def quiet(data: Path) -> tuple[dict[str, Any], int]:
    """What an undisturbed run leaves, and how many calls it makes."""
    calls = WORKER.run(data / "quiet", "")
    expected = all_left(data / "quiet", None)
    assert expected["v"]["rejected"]
    assert len(expected["v"]["history"]) > 300
    return expected, calls


def survive(data: Path, quiet: tuple[dict[str, Any], int], online: str, points: int) -> None:
    """Kills runs at so many random points, two in turn in one project, then lets them finish; compares what is left."""
    expected, calls = quiet
    draw = random.Random(SEED + points + len(online))
    for number in range(points // 2):
        folder = data / f"{'valkey' if online else 'lmdb'}-{points}-{number}"
        WORKER.survive(folder, online, calls=calls, draw=draw)
        assert all_left(folder, online or None) == expected


def test_s17_a_killed_run_repeated_leaves_what_an_undisturbed_one_leaves(data: Path, quiet: tuple[dict[str, Any], int]) -> None:
    survive(data, quiet, "", 2)


@pytest.mark.slow
def test_s17_killed_at_many_points_lmdb(data: Path, quiet: tuple[dict[str, Any], int]) -> None:
    survive(data, quiet, "", 14)


@pytest.mark.slow
def test_s17_killed_at_many_points_valkey(data: Path, quiet: tuple[dict[str, Any], int], valkey_url: str) -> None:
    survive(data, quiet, valkey_url, 14)


@pytest.mark.slow
def test_s17_two_runs_at_once_leave_what_one_leaves(data: Path, quiet: tuple[dict[str, Any], int], valkey_url: str) -> None:
    for number, online in enumerate(("", valkey_url)):
        folder = data / f"twice-{number}"
        folder.mkdir()
        store_of(folder, online or None).close()
        WORKER.run_twice_at_once(folder, online)
        assert all_left(folder, online or None) == quiet[0]


@pytest.mark.parametrize("batch", few([0, 1, 2, 3], [1]))
def test_s17_an_online_server_that_goes_away_half_way(
    batch: int, data: Path, quiet: tuple[dict[str, Any], int], server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featurestore.materialization.online_writer._BATCH", 15)
    folder = data / f"gone-{batch}"
    folder.mkdir()
    with store_of(folder, server.url) as store:
        write, batches = store.components.online.write, iter(range(100))

        def interrupted(entries: Any) -> int:
            if next(batches) == batch:
                server.stop(kill=True)
            return write(entries)

        monkeypatch.setattr(store.components.online, "write", interrupted)
        with pytest.raises(OnlineStoreError):
            store.materialize()
        server.start()
        summary = store.materialize()
        assert any(each.resumed for each in summary)
    assert all_left(folder, server.url) == quiet[0]


@pytest.mark.parametrize("state", ["committed", "done"])
def test_s17_a_run_that_is_resumed_after_its_commit_books_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """Killed just before the ledger is told: of the commit, or of the end."""
    source = ParquetSource("rows", "*.parquet", event_time="event", available_time="available")
    frame = frame_of([Row(("a",), 1, 1, (1.5, 1)), Row(("b",), 2, 2, (2.5, 2)), Row(("b",), 2, 2, (2.5, 2))],
                     dict.fromkeys(KEYS, pl.String), {"x": pl.Float64, "n": pl.Int64})  # fmt: skip
    frame.write_parquet(tmp_path / "0.parquet")
    whole = Ledger.update

    def update(self: Ledger, run: Run, **fields: Any) -> Run:
        if fields.get("state") == state:
            raise Killed
        return whole(self, run, **fields)

    with FeatureStore(tmp_path, clock=lambda: from_micros(NOW)) as store:
        store.apply([view_of(source, KEYS, FEATURES)])
        with monkeypatch.context() as patch:
            patch.setattr(Ledger, "update", update)
            with pytest.raises(Killed):
                store.materialize()
        [summary] = store.materialize()
        assert (summary.resumed, summary.rows_read, summary.rows_written, summary.rows_known) == (True, 3, 2, 1)
        [run] = store.runs.list()
        assert (run.state, run.attempts, run.rows_read, run.rows_written) == ("done", 2, 3, 2)
        assert store.materialize()[0].rows_written == 0
