"""Definitions as a type checker and an editor see them: options that complete, and are refused where they are wrong."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SNIPPETS = """
from datetime import timedelta

import polars as pl

from featurestore import Entity, Feature, FeatureService, FeatureStore, FeatureView, OnDemandView, ParquetSource, Request
from featurestore import count, mean

user = Entity("user", user_id=str, owner="growth")
car = Entity("car", owner=str)
orders = ParquetSource("orders", "orders.parquet", event_time="at")


class Spend(FeatureView, entity=user, source=orders, ttl="6h", schedule="15m", freshness=timedelta(hours=1), tags={"a": "b"}):
    total: float | None = Feature(ge=0)
    vip: bool


class More(Spend, on_reject="fail", owner="growth"):
    extra: int


class Lately(FeatureView, entity=user, source=orders):
    n: int = count().over("1h", timedelta(days=1))
    average: float | None = mean("total").over("1d", tile="1h")


class Cart(Request):
    items: int


class Scored(OnDemandView, inputs=[Spend.total, Cart], owner="growth"):
    each: float | None = Feature(pl.col("total") / pl.col("items"))


service = FeatureService("checkout", [Spend, Lately.n, Scored], owner="growth")
store = FeatureStore(".", project="shop")
runs = store.runs.list(Spend, limit=3, state="failed")
started: object = runs[0].started_at


class Misspelt(FeatureView, entity=user, source=orders, tll="6h"):  # wrong: call-arg
    x: int


class NumberForADuration(FeatureView, entity=user, source=orders, ttl=6):  # wrong: arg-type
    x: int


class TextForAnEntity(FeatureView, entity="user", source=orders):  # wrong: arg-type
    x: int


class OtherChoice(FeatureView, entity=user, source=orders, on_reject="drop"):  # wrong: arg-type
    x: int


class MisspeltOnDemand(OnDemandView, input=[Cart]):  # wrong: call-arg
    x: bool = Feature(pl.col("items") > 1)


FeatureService("checkout", [Spend], ownr="growth")  # wrong: call-arg
count().over(3.5)  # wrong: arg-type
store.runs.list(Spend, state="broken")  # wrong: arg-type
store.admin.maintain(retention=7)  # wrong: arg-type
store.upkeep()  # wrong: attr-defined
store.status().wrong.nothing  # wrong: attr-defined
Feature(ge="0")  # wrong: arg-type
"""


@pytest.mark.slow
def test_options_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "snippets.py"
    file.write_text(SNIPPETS)
    root = Path(__file__).parent.parent.parent
    # With the options of our own check, or each would throw the other's cache away.
    options = [
        "--strict",
        "--no-error-summary",
        "--config-file",
        str(root / "pyproject.toml"),
        "--cache-dir",
        str(root / ".mypy_cache"),
    ]
    command = [sys.executable, "-m", "mypy", *options, str(file)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env=os.environ | {"MYPYPATH": str(root)}
    )
    found = {
        (int(line), code) for line, code in re.findall(r"snippets\.py:(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.MULTILINE)
    }
    wanted = {
        (number, code) for number, line in enumerate(SNIPPETS.splitlines(), 1) for code in re.findall(r"# wrong: ([\w-]+)", line)
    }
    assert found == wanted, done.stdout + done.stderr
