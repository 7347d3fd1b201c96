"""A project, and servers of it on free ports of the loopback interface."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock_time
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
import uvicorn

from featurestore import FeatureStore
from featurestore.server.app import create_app
from tests.effort import few
from tests.servers.valkey import wait_until

HERE = Path(__file__).parent
START = datetime(2026, 1, 1, tzinfo=UTC)
KEY = {"day": date(2026, 1, 2), "at": datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC), "raw": b"\x00\xff", "number": 7}


def observations() -> pl.DataFrame:
    nan, inf = float("nan"), float("inf")
    rows = [("JFK", 0, 50.0, 10.0), ("JFK", 1, 51.0, 40.0), ("LGA", 0, None, None), ("EWR", 0, nan, inf), ("BOS", 0, -inf, 1e-300)]
    return pl.DataFrame(
        {
            "origin": [row[0] for row in rows],
            "observed_at": [START + timedelta(hours=row[1]) for row in rows],
            "temp": [row[2] for row in rows],
            "gust": [row[3] for row in rows],
        },
        schema_overrides={"observed_at": pl.Datetime("us", "UTC")},
    )


def visits() -> pl.DataFrame:
    features: dict[str, tuple[Any, pl.DataType]] = {
        "yes": (True, pl.Boolean()),
        "small": (-128, pl.Int8()),
        "large": (-(2**63), pl.Int64()),
        "unsigned": (2**64 - 1, pl.UInt64()),
        "single": (0.10000000149011612, pl.Float32()),
        "double": (0.1, pl.Float64()),
        "text": ("né\u0000", pl.String()),
        "blob": (b"\x00\xff", pl.Binary()),
        "instant": (datetime(1969, 12, 31, 23, 59, 59, 999999, UTC), pl.Datetime("us", "UTC")),
        "birthday": (date(1, 1, 1), pl.Date()),
        "clock": (clock_time(23, 59, 59, 999999), pl.Time()),
        "span": (timedelta(days=-1, microseconds=1), pl.Duration("us")),
        "price": (Decimal("-12.340000000"), pl.Decimal(38, 9)),
        "days": ([date(2026, 1, 1), None], pl.List(pl.Date())),
        "vector": ([1.0, float("nan"), -2.5], pl.Array(pl.Float32(), 3)),
    }
    keys = {name: [value] * 2 for name, value in KEY.items()} | {"number": [7, 8]}
    made = {name: [value, None] for name, (value, _) in features.items()}
    dtypes = {name: dtype for name, (_, dtype) in features.items()} | {"at": pl.Datetime("us", "UTC")}
    return pl.DataFrame({**keys, "seen_at": [START] * 2, **made}, schema_overrides={**dtypes, "seen_at": pl.Datetime("us", "UTC")})


def make_project(folder: Path) -> Path:
    """A project with its data, not yet applied."""
    shutil.copytree(HERE / "definitions", folder / "definitions", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "data").mkdir()
    (folder / "featurestore.toml").write_text('project = "lab"\ncatalog_refresh = "100ms"\n')
    observations().write_parquet(folder / "data" / "observations.parquet")
    visits().write_parquet(folder / "data" / "visits.parquet")
    return folder


@contextmanager
def served(app: Any) -> Iterator[str]:
    """Serves an application in a thread; yields its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(app, loop="uvloop", http="httptools", ws="none", lifespan="on", log_level="error", access_log=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(
            target=lambda: asyncio.Runner(loop_factory=config.get_loop_factory()).run(server.serve([listening]))
        )
        thread.start()
        try:
            wait_until(lambda: server.started or not thread.is_alive(), "the server does not start")
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


class Serve:
    """``featurestore serve`` in a process of its own.

    Args:
        folder: the project's.
        options: of the command.
    """

    def __init__(self, folder: Path, *options: str, **variables: str) -> None:
        self._log = folder / f"serve-{time.monotonic_ns()}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "featurestore.cli", "-C", folder, "serve", "--port", "0", *options],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=os.environ | variables,
            )  # fmt: skip
        try:
            wait_until(lambda: self.process.poll() is not None or "Ctrl-C" in self.told, f"serve does not start: {self._log}")
            assert self.process.poll() is None, self.told
            self.url = next(word for word in self.told.split() if word.startswith(("http://", "https://", "unix:")))
        except BaseException:
            self.end(signal.SIGKILL)
            raise

    @property
    def told(self) -> str:
        return self._log.read_text()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Ends it, and returns how it ended."""
        self.process.send_signal(number)
        return self.process.wait(20)

    def __enter__(self) -> "Serve":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.end()


@pytest.fixture(scope="session")
def lab_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project over LMDB, applied and materialized; not to be written to."""
    folder = make_project(tmp_path_factory.mktemp("served") / "lab")
    with FeatureStore(folder) as store:
        store.apply()
        store.materialize()
    return folder


@pytest.fixture(scope="session")
def lab(lab_folder: Path) -> Iterator[FeatureStore]:
    with FeatureStore(lab_folder) as store:
        yield store


@pytest.fixture(scope="session")
def url(lab: FeatureStore) -> Iterator[str]:
    """A server of that project."""
    with served(create_app(lab)) as url:
        yield url


@pytest.fixture(scope="session")
def http(url: str) -> Iterator[httpx.Client]:
    """A client of that server."""
    with httpx.Client(base_url=url) as client:
        yield client


@pytest.fixture(params=few(["lmdb", "valkey"], ["lmdb"]))
def own(request: pytest.FixtureRequest, tmp_path: Path, lab_folder: Path) -> Iterator[FeatureStore]:
    """A store of the test's own, over each online store, which it may write to. Few tests have both in the quick run."""
    if request.param == "lmdb":
        with FeatureStore(shutil.copytree(lab_folder, tmp_path / "own")) as store:
            yield store
        return
    folder = make_project(tmp_path / "own")
    with FeatureStore(folder, online=request.getfixturevalue("valkey_url"), project=f"own_{time.monotonic_ns()}") as store:
        store.apply()
        store.materialize()
        yield store
