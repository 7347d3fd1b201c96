"""The demo's project as it runs in production: a scheduler and a stream worker, rows that arrive, both killed and started again."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
import redis

from featurestore import FeatureStore
from featurestore.clock import utc_now
from featurestore.demo.dataset import prepare_data
from featurestore.demo.project import make_demo_project
from tests.servers.valkey import wait_until

PARTS = 6
ROWS = 3_000
STREAM = """departures = StreamSource(
    "departures",
    "{url}",
    topic="running-departures",
    columns={{
        "flight_id": str, "scheduled_at": pl.Datetime("us", "UTC"), "departed_at": pl.Datetime("us", "UTC"), "origin": str,
        "dest": str, "carrier": str, "flight": int, "tailnum": str, "dep_delay": int, "arr_delay": int, "distance": int,
    }},
    event_time="departed_at",
    event_id="flight_id",
)
"""


class Arriving:
    """The last flights of a month and its weather, moved to end about now, which arrive in parts."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._broker = redis.Redis.from_url(url)
        source = prepare_data(folder, (1,))
        self.entities = source.entities.sample(200, seed=1)
        flights = (
            pl.read_parquet(folder / "data" / "flights" / "*.parquet").drop_nulls("departed_at").sort("departed_at").tail(ROWS)
        )
        later = utc_now() - timedelta(minutes=2) - flights["departed_at"].max()  # type: ignore[operator]  # an instant
        times = pl.col(pl.Datetime("us", "UTC")) + later
        self.flights = flights.with_columns(times)
        weather = pl.read_parquet(folder / "data" / "weather" / "*.parquet").with_columns(times)
        self.weather = weather.filter(pl.col("received_at") < utc_now()).sort("received_at").tail(600)
        for name in ("flights", "weather"):
            for file in (folder / "data" / name).iterdir():
                file.unlink()

    def part(self, number: int) -> None:
        """Lets a part of the rows arrive: flights in the stream, weather in a new file."""
        size = self.flights.height // PARTS
        with self._broker.pipeline(transaction=False) as pipeline:
            for row in (
                self.flights[number * size : (number + 1) * size]
                .with_columns(pl.col(pl.Datetime).dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ"))
                .iter_rows(named=True)
            ):
                pipeline.xadd("running-departures", {"payload": json.dumps(row)})
            pipeline.execute()
        size = self.weather.height // PARTS
        file = self._folder / "data" / "weather" / f"part-{number}.parquet"
        self.weather[number * size : (number + 1) * size].write_parquet(file.with_suffix(".tmp"))
        file.with_suffix(".tmp").rename(file)


def define(folder: Path, url: str) -> None:
    """Changes the demo's definitions: departures come by a stream, all else every second, and is to be fresh."""
    file = folder / "definitions" / "flights.py"
    lines = [
        STREAM.format(url=url) if line.startswith("departures = ParquetSource") else line
        for line in file.read_text().replace("Request, count", "Request, StreamSource, count").splitlines(keepends=True)
    ]
    text = (
        "".join(lines)
        .replace('schedule="15m"', 'schedule="1s", freshness="3h"')
        .replace('schedule="*/5 * * * *"', 'freshness="3h"')
    )
    file.write_text(text.replace('schedule="1d"', 'schedule="1s"'))
    (folder / "featurestore.toml").write_text(
        (folder / "featurestore.toml").read_text() + f'online = "{url}"\nschedule = {{interval = "200ms", lease = "3s"}}\n'
    )


@contextmanager
def running(folder: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A scheduler and a stream worker, as their commands start them; whatever is left of them is killed."""
    program = [sys.executable, "-m", "featurestore.cli"]
    commands = [["schedule", "--json"], ["stream", "--idle", "1", "--json"]]
    with (folder / "log").open("ab") as log:
        processes = [subprocess.Popen([*program, *words], cwd=folder, stdout=log, stderr=log) for words in commands]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def standing(folder: Path) -> dict[str, dict[str, object]]:
    """What ``featurestore status --json`` says, by view."""
    command = [sys.executable, "-m", "featurestore.cli", "status", "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return {view["view"]: view for view in json.loads(done.stdout)}


def test_the_demo_running_killed_and_started_again_has_parity(tmp_path: Path, valkey_url: str) -> None:
    """S16, S17."""
    folder = tmp_path / "running"
    make_demo_project(folder).close()
    arriving = Arriving(folder, valkey_url)
    define(folder, valkey_url)
    arriving.part(0)
    with FeatureStore(folder, project="running") as store:
        os.environ["FEATURESTORE_PROJECT"] = "running"
        try:
            store.apply()
            live(store, folder, arriving)
        finally:
            del os.environ["FEATURESTORE_PROJECT"]


def live(store: FeatureStore, folder: Path, arriving: Arriving) -> None:
    def arrived(parts: int) -> bool:
        rows = {each.view: each.rows for each in store.status()}
        weather, flights = parts * (arriving.weather.height // PARTS), parts * (arriving.flights.height // PARTS)
        [stream] = store.streams.status()
        taken = stream.waiting == stream.pending == 0
        assert rows["weather"] <= weather
        return taken and rows["weather"] == weather and rows["last_departure"] == rows["carrier_delays"] == flights

    with running(folder) as processes:
        wait_until(lambda: arrived(1), "the first rows do not arrive")
        arriving.part(1)
        arriving.part(2)
        for process in processes:
            process.kill()  # as they are at it
    arriving.part(3)
    with running(folder) as processes:
        wait_until(lambda: arrived(4), "what they were at when they were killed is not done")
        for part in range(4, PARTS):
            arriving.part(part)
        wait_until(lambda: arrived(PARTS), "the last rows do not arrive")
        found = standing(folder)
        assert {view: each["state"] for view, each in found.items() if view != "plane"} == dict.fromkeys(
            ("weather", "last_departure", "carrier_delays", "airport_traffic"), "ok"
        )
        assert found["weather"]["next_run"]
        for process in processes:
            process.send_signal(signal.SIGTERM)
        assert [process.wait(60) for process in processes] == [0, 0]
    with FeatureStore(folder) as fresh:
        at = utc_now()
        keys = arriving.entities
        served = fresh.online("delay_model", keys.to_dicts(), at=at).to_polars()
        trained = fresh.training_frame(keys.with_columns(pl.lit(at).dt.cast_time_unit("us").alias("at")), "delay_model", time="at")
        assert served.drop(keys.columns).equals(trained.drop([*keys.columns, "at"]), null_equal=True)
        filled = sum(served[name].len() - served[name].null_count() for name in served.columns if name not in keys.columns)
        assert filled > 1_000
        assert fresh.admin.doctor().is_well, fresh.admin.doctor()


pytestmark = pytest.mark.slow
