"""Look-ups beside hostile bodies: a steady fifty a second, while another key sends bodies that would end a server."""

import time
from collections.abc import Iterator
from itertools import cycle, islice

import httpx

from benchmarks.measure import DATA, Line
from featurestore import FeatureStore
from tests.server.conftest import Serve, make_project
from tests.server.hostile_load import SENDERS, LookUps, bodies, memory, send_all
from tests.servers.valkey import wait_until

BODIES, CALM_SECONDS = 300, 5.0


def lines(*, full: bool) -> Iterator[Line]:
    """Measures the 99th percentile of look-ups in calm and beside hostile bodies, and the memory that these take at most."""
    folder = DATA / f"hostile-{time.monotonic_ns()}"
    folder.mkdir(parents=True)
    make_project(folder)
    with FeatureStore(folder) as store:
        store.apply()
        store.materialize()
        reader, evil = (
            {"authorization": f"Bearer {store.keys.create(name, ['reader project']).secret}"} for name in ("reader", "evil")
        )
    given = list(islice(cycle(bodies()), BODIES))
    with Serve(folder, FEATURESTORE_SERVER__MAX_CONCURRENT_TRAINING=str(SENDERS)) as server:
        wait_until(lambda: httpx.get(f"{server.url}/healthz").status_code == 200, "the server does not answer")
        calm = LookUps(server.url, reader)
        time.sleep(CALM_SECONDS)
        calm.end()
        before = memory(server)
        during = LookUps(server.url, reader)
        send_all(server.url, evil, given)
        during.end()
        ratio = during.p99 / calm.p99
        yield Line(
            f"HTTP: 50 look-ups a second beside {BODIES} hostile bodies, p99",
            f"{during.p99 * 1e3:.1f} ms, longest {max(during.times) * 1e3:.0f} ms", f"{calm.p99 * 1e3:.1f} ms: in calm",
            f"{ratio:.1f}×", "none fails, longest ≤ 3 s", not during.wrong and max(during.times) <= 3,
        )  # fmt: skip
        after = memory(server)
        yield Line(
            "memory of the server after them", f"{after >> 20} MiB", f"{before >> 20} MiB: before them",
            f"{after / before:.2f}×", "", None,
        )  # fmt: skip
