"""A fleet on paper: processes that share nothing but a bucket, a PostgreSQL and a Valkey, and are killed (S11, S16, S17)."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.crashes import ROOT
from tests.workers.fleet_worker import BEGAN, DAY, SHOPS, opened, sales

SECONDS = float(os.environ.get("FLEET_SECONDS", "45"))
KINDS = ("materialize", "train", "push", "maintain")


def start(folder: Path, kind: str, name: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.workers.fleet_worker", str(folder), kind, name]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def expected(
    rows: pl.DataFrame, counted: pl.DataFrame, shop: str, instant: Any
) -> tuple[float | None, float | None, int | None, int | None]:
    """By brute force: the last price, and what was taken and sold in seven days and in all."""
    prices = rows.filter((pl.col("shop") == shop) & (pl.col("at") <= instant)).sort("at")["price"]
    before = counted.filter((pl.col("shop") == shop) & (pl.col("at") <= instant))
    week = before.filter(pl.col("at") > instant - timedelta(days=7))
    return prices[-1] if len(prices) else None, week["price"].sum() if week.height else None, week.height, before.height


@pytest.mark.slow
def test_four_processes_on_one_bucket_and_one_registry_with_kills(
    s3_url: str, postgres_url: str, valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One materializes, another trains, a third pushes, a fourth maintains."""
    for name, value in (("OFFLINE", s3_url), ("REGISTRY", postgres_url), ("ONLINE", valkey_url)):
        monkeypatch.setenv(f"FEATURESTORE_{name}", value)
    (tmp_path / "data").mkdir()
    sales(range(40), "first").write_parquet(tmp_path / "data" / "first.parquet")
    with opened(tmp_path) as store:
        store.materialize()
    draw, ages, printed = random.Random(12), itertools.count(1), list[str]()
    attempts: list[str] = []

    def begun(kind: str) -> "tuple[str, subprocess.Popen[str]]":
        attempts.append(name := f"{kind}-{next(ages)}")
        return kind, start(tmp_path, kind, name)

    alive = [begun(kind) for kind in KINDS]
    end, kills = time.monotonic() + SECONDS, 0
    try:
        while time.monotonic() < end:
            time.sleep(draw.uniform(2.0, 6.0))
            kind, process = alive.pop(draw.randrange(len(alive)))
            process.send_signal(signal.SIGKILL)
            out, error = process.communicate()
            assert process.returncode == -signal.SIGKILL, error
            printed += out.splitlines()
            alive.append(begun(kind))
            kills += 1
        (tmp_path / "stop").touch()
        for _, process in alive:
            out, error = process.communicate(timeout=180)
            assert process.returncode == 0, error
            printed += out.splitlines()
    finally:
        for _, process in alive:
            process.kill()
            process.communicate()
    done = [json.loads(line) for line in printed if line.endswith("]")]
    assert kills >= SECONDS / 10
    assert {kind for kind, *_ in done} >= {"file", "pushed", "trained", "done"}
    with opened(tmp_path) as store:
        store.materialize()
        there = store.sql("select shop, event_time as at, price, sale from last_sale").sort("sale")
        from_files = pl.concat(pl.read_parquet(path) for path in (tmp_path / "data").glob("*.parquet"))
        acknowledged = pl.concat(
            sales(range(first, end), name) for kind, *rest in done if kind == "pushed" for name, first, end in [rest]
        )
        must = pl.concat([from_files, acknowledged]).unique("sale")
        assert there["sale"].n_unique() == there.height, "a sale is there twice"
        assert must.join(there, on=["sale", "shop", "at", "price"], how="anti").is_empty(), "an acknowledged sale is gone"
        # A push that was killed may be in one view and not yet in the other.
        counted = store.sql("select shop, event_time as at, price, event_id as sale from takings").sort("sale")
        assert counted["sale"].n_unique() == counted.height
        assert must.join(counted, on=["sale", "shop", "at", "price"], how="anti").is_empty()
        others = pl.concat([there, counted]).join(must, on="sale", how="anti")["sale"].to_list()
        assert all(sale.rpartition("-")[0] in attempts for sale in others), "a sale is there that nobody made"
        instants = [BEGAN + 2 * DAY, BEGAN + 60 * DAY, BEGAN + 400 * DAY]
        spine = pl.DataFrame([{"shop": shop, "t": instant} for shop in SHOPS for instant in instants])
        frame = store.training_frame(spine, ["last_sale", "takings"], time="t")
        got = frame.select("price", "taken", "sold_7d", "sold_3650d").rows()
        assert [(last, taken or None, sold or 0, all_ or 0) for last, taken, sold, all_ in got] == [
            expected(there, counted, shop, instant) for shop, instant in spine.iter_rows()
        ]
        at = there["at"].max()
        trained = store.training_frame(pl.DataFrame({"shop": SHOPS, "t": [at] * 12}), ["last_sale", "takings"], time="t")
        served = store.online(["last_sale", "takings"], [{"shop": shop} for shop in SHOPS], at=at).to_polars()
        assert served.select("price", "taken", "sold_7d", "sold_3650d").equals(
            trained.select("price", "taken", "sold_7d", "sold_3650d")
        )
        assert not [finding for finding in store.admin.doctor() if finding.state == "error"]
