"""A PostgreSQL that falls silent for two minutes under everything that runs: look-ups go on, and all comes back by itself."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import httpx
import polars as pl
import pytest
import redis

from featurestore import FeatureStore
from featurestore.clock import utc_now
from featurestore.errors import RegistryError
from tests.registry.test_timeouts import behind
from tests.servers.postgres import postgres_socket
from tests.servers.proxy import proxy_of_socket
from tests.servers.valkey import free_port, wait_until

pytestmark = pytest.mark.slow

SILENT_SECONDS = float(os.environ.get("SILENT_SECONDS", "45"))
"""How long the server is silent: longer than any time-out of ours. Two minutes by hand."""

DEFINITIONS = """
from datetime import datetime

from featurestore import Entity, FeatureView, ParquetSource, StreamSource

place = Entity("place", place=str)
files = ParquetSource("files", "data/*.parquet", event_time="at")
columns = {{"place": str, "at": datetime, "streamed": float}}
entries = StreamSource("entries", "{url}", topic="silent-entries", columns=columns, event_time="at")


class Filed(FeatureView, entity=place, source=files, schedule="1s"):
    value: float


class Streamed(FeatureView, entity=place, source=entries):
    streamed: float
"""


class Project:
    """A project whose registry is behind a proxy, its values in Valkey."""

    def __init__(self, folder: Path, registry: str, online: str) -> None:
        self.folder = folder
        self._broker = redis.Redis.from_url(online)
        (folder / "definitions").mkdir()
        (folder / "data").mkdir()
        (folder / "definitions" / "places.py").write_text(DEFINITIONS.format(url=online))
        (folder / "featurestore.toml").write_text(
            f'project = "silent"\nregistry = "{registry}"\nonline = "{online}"\n'
            'schedule = {interval = "200ms", lease = "5s", shutdown_timeout = "10s"}\ncatalog_refresh = "500ms"\n'
        )
        self.sent = 0

    def arrive(self) -> int:
        """Lets a row arrive in a file, and one in the stream; returns their value."""
        self.sent += 1
        at = utc_now() - timedelta(seconds=1)
        row = pl.DataFrame(
            {"place": ["here"], "at": [at], "value": [float(self.sent)]}, schema_overrides={"at": pl.Datetime("us", "UTC")}
        )
        part = self.folder / "data" / f"{self.sent}.tmp"
        row.write_parquet(part)
        part.rename(part.with_suffix(".parquet"))
        self._broker.xadd("silent-entries", {"payload": json.dumps({"place": "here", "at": at.isoformat(), "streamed": self.sent})})
        return self.sent


@contextmanager
def running(folder: Path, port: int) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """The scheduler, a stream worker and a server, as their commands start them."""
    commands = {"schedule": ["--json"], "stream": ["--idle", "1", "--json"], "serve": ["--port", str(port)]}
    processes = {}
    try:
        for name, words in commands.items():
            with (folder / f"{name}.log").open("ab") as log:
                program = [sys.executable, "-m", "featurestore.cli", name, *words]
                processes[name] = subprocess.Popen(program, cwd=folder, stdout=log, stderr=log)
        yield processes
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


def told(client: httpx.Client) -> tuple[object, object]:
    """What the server answers of the one entity: the value from files, and that of the stream."""
    answer = client.post("/v1/online", json={"features": ["filed", "streamed"], "rows": [{"place": "here"}]})
    assert answer.status_code == 200, answer.text
    features = answer.json()["features"]
    return features["value"][0], features["streamed"][0]


def timed(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def test_a_silent_postgres_stops_nobody_for_good(postgres_dsn: str, valkey_url: str, tmp_path: Path) -> None:
    with proxy_of_socket(postgres_socket(postgres_dsn)) as proxy:
        project = Project(tmp_path, behind(postgres_dsn, proxy), valkey_url)
        with FeatureStore(tmp_path) as store:
            store.apply()
        port = free_port()
        with running(tmp_path, port) as processes, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=35) as client:

            def served() -> bool:
                try:
                    return told(client) == (project.sent, project.sent)
                except httpx.TransportError:
                    return False

            project.arrive()
            wait_until(served, "the first rows are not served")

            proxy.fall_silent()
            end = time.monotonic() + SILENT_SECONDS
            before, slowest = told(client), 0.0
            project.arrive()
            ready = client.get("/readyz")
            assert ready.status_code == 503
            # Whether the online store has lost anything is known by what the registry says of it.
            assert set(ready.json()["failing"]) <= {"registry", "online"}
            assert "registry" in ready.json()["failing"]
            with FeatureStore(tmp_path) as store:
                began = time.monotonic()
                with pytest.raises(RegistryError):
                    store.status()
                assert time.monotonic() - began < 60, "who asks is told"
            while time.monotonic() < end:
                # What the stream worker and the scheduler had begun may still arrive; nothing else changes, and nothing fails.
                slowest = max(slowest, timed(lambda: told(client)))
                time.sleep(0.1)
            assert told(client)[0] in (before[0], project.sent)
            assert slowest < 5, "look-ups do not ask the registry"
            assert {name: process.poll() for name, process in processes.items()} == dict.fromkeys(processes)

            proxy.speak()
            project.arrive()
            wait_until(served, "what arrived in the silence is not served after it")
            assert client.get("/readyz").status_code == 200

            proxy.fall_silent()
            time.sleep(2)
            for process in processes.values():
                process.send_signal(signal.SIGTERM)
            took = timed(lambda: [process.wait(60) for process in processes.values()])
            assert took < 45, "a silent registry does not keep processes from ending"
    with FeatureStore(tmp_path, registry=postgres_dsn.replace("postgresql://", "postgresql+psycopg://", 1)) as store:
        assert sorted(store.sql("select value from filed")["value"]) == [1, 2, 3]
        assert sorted(store.sql("select streamed from streamed")["streamed"]) == [1, 2, 3]
