"""featurestore schedule: what it prints, and how it ends."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.cli.conftest import Invoke
from tests.cli.test_entry_point import ENVIRONMENT, PROGRAM
from tests.servers.valkey import wait_until

DEFINITIONS = """
import time
from pathlib import Path

import polars as pl

from featurestore import Entity, FeatureView, ParquetSource

rows = ParquetSource("rows", "data/*.parquet", event_time="at")


class Slow(FeatureView, entity=Entity("thing", k=str), source=rows, schedule="1d"):
    n: int

    @staticmethod
    def transform(rows: pl.LazyFrame) -> pl.LazyFrame:
        if Path("seconds").exists():
            Path("began").touch()
            time.sleep(float(Path("seconds").read_text()))
        return rows
"""


@pytest.fixture(autouse=True)
def runs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told here is told of runs, not of upkeep."""
    monkeypatch.setenv("FEATURESTORE_MAINTENANCE__SCHEDULE", "")


def test_upkeep_is_done_beside_the_runs(invoke: Invoke, shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEATURESTORE_MAINTENANCE__SCHEDULE")
    told = [json.loads(line) for line in invoke("-C", shop, "schedule", "--once", "--json").stdout.splitlines()]
    assert {each["name"] for each in told} == {
        f"{kind}{view}" for kind in ("", "upkeep:") for view in ("account", "last_order", "spending")
    }
    assert {each["state"] for each in told} == {"done"}


def test_once_runs_what_is_due_and_ends(invoke: Invoke, shop: Path) -> None:
    told = invoke("-C", shop, "schedule", "--once").stdout.splitlines()
    assert sorted(line.split()[2] for line in told) == ["account", "last_order", "spending"]
    assert all(" done: " in line and " read, " in line for line in told)
    assert invoke("-C", shop, "schedule", "--once").stdout == ""


def test_once_ends_with_1_where_something_failed(invoke: Invoke, shop: Path) -> None:
    for file in (shop / "data").glob("orders*"):
        file.write_bytes(b"no parquet")
    lines = invoke("-C", shop, "schedule", "--once", "--json", code=1).stdout.splitlines()
    told = {each["name"]: each for each in map(json.loads, lines)}
    assert told["account"]["state"] == "done"
    assert (told["spending"]["state"], told["spending"]["attempts"]) == ("retrying", 1)
    assert told["spending"]["error"]
    assert told["spending"]["next_at"]


def test_its_help_shows_an_example(invoke: Invoke) -> None:
    assert "featurestore schedule --once" in invoke("schedule", "--help").stdout


@pytest.mark.parametrize(("seconds", "end"), [pytest.param(0.2, "done", marks=pytest.mark.slow), (60, "given back")])
def test_sigterm_lets_it_finish_or_gives_it_back(seconds: float, end: str, tmp_path: Path) -> None:
    """The end comes with 0 in any case; whoever comes next resumes what was not finished, at once."""
    for name in ("definitions", "data"):
        (tmp_path / name).mkdir()
    (tmp_path / "definitions" / "slow.py").write_text(DEFINITIONS)
    frame = pl.DataFrame({"k": ["a"], "at": ["2013-07-01"], "n": [1]}).with_columns(pl.col("at").str.to_datetime())
    frame.write_parquet(tmp_path / "data" / "0.parquet")
    environment = {
        **ENVIRONMENT,
        "FEATURESTORE_MAINTENANCE__SCHEDULE": "",
        "FEATURESTORE_SCHEDULE__SHUTDOWN_TIMEOUT": "30s" if end == "done" else "0s",
    }
    options: dict[str, Any] = {"cwd": tmp_path, "env": environment, "text": True}
    subprocess.run([PROGRAM, "apply", "--yes"], **options, capture_output=True, check=True)
    (tmp_path / "seconds").write_text(str(seconds))
    with subprocess.Popen([PROGRAM, "schedule", "--json"], **options, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        first = json.loads(running.stdout.readline())
        assert (first["name"], first["state"]) == ("slow", "new")
        wait_until((tmp_path / "began").exists, "the run does not begin")
        running.send_signal(signal.SIGTERM)
        out, err = running.communicate(timeout=60)
    assert running.returncode == 0, err
    if end == "done":
        assert [json.loads(line)["state"] for line in out.splitlines()] == ["done"]
        assert err == ""
        return
    assert out == ""
    assert "'slow' was not finished and is released" in err
    (tmp_path / "seconds").unlink()
    done = subprocess.run([PROGRAM, "schedule", "--once", "--json"], **options, capture_output=True, check=True)
    assert [json.loads(line)["state"] for line in done.stdout.splitlines()] == ["done"], done.stderr
