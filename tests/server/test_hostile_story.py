"""A reader's key that sends 2,000 hostile bodies of every kind, while others look features up."""

import os
import sys
import threading
import time
from itertools import cycle
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx
import pytest

from featurestore import FeatureStore
from tests.server import hostile
from tests.server.conftest import Serve, make_project
from tests.server.hostile_load import DEADLINE, SENDERS, LookUps, bodies, memory, send_all
from tests.server.test_access import bearer
from tests.servers.valkey import wait_until

BODIES = int(os.environ.get("HOSTILE_BODIES", "2000"))


@pytest.mark.slow
def test_a_hostile_reader_is_noticed_by_nobody_else(tmp_path: Path) -> None:
    """Not one look-up of others fails or takes as long as the server's deadline, and the memory comes back."""
    folder = make_project(tmp_path / "lab")
    with FeatureStore(folder) as store:
        store.apply()
        store.materialize()
        reader = bearer(store.keys.create("others", ["reader project"]).secret)
        evil = bearer(store.keys.create("evil", ["reader project"]).secret)
    every = bodies()
    given = [body for body, _ in zip(cycle(every), range(BODIES), strict=False)]
    with Serve(folder, FEATURESTORE_SERVER__MAX_CONCURRENT_TRAINING=str(SENDERS)) as server:
        wait_until(lambda: httpx.get(f"{server.url}/healthz").status_code == 200, "it does not answer")
        sound: dict[str, Any] = {"content": hostile.sound(), "headers": reader | {"content-type": hostile.ARROW}}
        httpx.post(f"{server.url}/v1/training?features=weather.temp", **sound, timeout=60)
        calm = LookUps(server.url, reader)
        time.sleep(5)  # what is measured is a pace, in which nothing else happens
        calm.end()
        before, most = memory(server), 0
        done = threading.Event()

        def watch() -> None:
            nonlocal most
            while not done.wait(0.05):
                most = max(most, memory(server))

        watching = threading.Thread(target=watch)
        watching.start()
        during = LookUps(server.url, reader)
        began = perf_counter()
        try:
            statuses = send_all(server.url, evil, given)
        finally:
            seconds = perf_counter() - began
            during.end()
            done.set()
            watching.join()
        paces = f"p99 {during.p99 * 1e3:.0f} ms, longest {max(during.times) * 1e3:.0f} ms; calm p99 {calm.p99 * 1e3:.0f} ms"
        taken = f"memory {before >> 20} MiB, at most {most >> 20} MiB"
        print(
            f"{BODIES} hostile bodies in {seconds:.0f} s: {statuses}; {len(during.times)} look-ups, {paces}; {taken}",
            file=sys.stderr,
        )
        assert not calm.wrong
        assert not during.wrong, during.wrong[:5]
        assert sum(statuses.values()) == BODIES
        assert {status for status in statuses if status >= 500} <= {503}
        assert max(during.times) < DEADLINE
        wait_until(lambda: memory(server) - before < 150 << 20, "the memory does not come back")
        assert "Traceback" not in server.told
        assert server.process.poll() is None
