"""``featurestore stream``: what it tells, what it shows of entries that were set aside, and that it ends cleanly."""

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import redis

from featurestore import FeatureStore
from tests.cli.conftest import Invoke
from tests.servers.valkey import free_port, wait_until

ROOT = Path(__file__).parents[2]
DEFINITIONS = """
from datetime import datetime
from featurestore import Entity, FeatureView, StreamSource, count

orders = StreamSource("orders", "{url}", topic="{topic}", event_time="at", columns={{"k": str, "at": datetime}})

class Counts(FeatureView, entity=Entity("thing", k=str), source=orders):
    orders: int = count().over("1h")
"""
GOOD = b'{"k": "a", "at": "2013-07-01T12:00:00Z"}'


@pytest.fixture
def topic() -> str:
    return f"orders-{uuid4().hex[:8]}"


@pytest.fixture
def raw(valkey_url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(valkey_url) as client:
        yield client


@pytest.fixture
def project(tmp_path: Path, valkey_url: str, topic: str, invoke: Invoke) -> Path:
    (tmp_path / "definitions").mkdir()
    (tmp_path / "definitions" / "orders.py").write_text(DEFINITIONS.format(url=valkey_url, topic=topic))
    invoke("-C", tmp_path, "apply", "--yes")
    return tmp_path


def test_once(project: Path, invoke: Invoke, raw: "redis.Redis", topic: str) -> None:
    for payload in (GOOD, b"bad", GOOD):
        raw.xadd(topic, {"payload": payload})
    told = invoke("stream", "-C", project, "--once", "--idle", "0.3").stdout
    assert f"orders: {topic} at redis://" in told
    assert "→ counts" in told
    assert "3 entries, 2 rows new, 1 set aside" in told
    shown = invoke("dead-letters", "list", "-C", project).stdout
    assert "malformed" in shown
    assert "payload=bad" in shown
    assert json.loads(invoke("dead-letters", "list", "-C", project, "orders", "--json").stdout)["orders"][0]["fields"] == {
        "payload": "bad"
    }
    assert "1 entry requeued" in invoke("dead-letters", "requeue", "-C", project).stdout
    assert "There are no dead letters" in invoke("dead-letters", "list", "-C", project).stdout
    [last] = invoke("stream", "-C", project, "--once", "--json").stdout.splitlines()[-1:]
    assert (json.loads(last)["source"], json.loads(last)["set_aside"]) == ("orders", 1)
    [letter] = json.loads(invoke("dead-letters", "list", "-C", project, "orders", "--json").stdout)["orders"]
    assert "Name the one stream" in invoke("dead-letters", "discard", "-C", project, "--id", letter["id"], "--yes", code=2).stderr
    assert "there is no terminal" in invoke("dead-letters", "discard", "-C", project, code=2).stderr.lower()
    discarded = invoke("dead-letters", "discard", "-C", project, "orders", "--id", letter["id"], "--yes", "--json").stdout
    assert json.loads(discarded) == {"orders": 1}
    assert "There are no dead letters" in invoke("dead-letters", "list", "-C", project).stdout


def test_there_must_be_a_stream(invoke: Invoke, shop: Path) -> None:
    assert "No stream is applied" in invoke("stream", "-C", shop, "--once", code=1).stderr


def test_sigterm_ends_it_and_metrics_are_served(project: Path, raw: "redis.Redis", topic: str) -> None:
    port = free_port()
    command = [sys.executable, "-m", "featurestore.cli", "stream", "-C", str(project), "--metrics-port", str(port), "--json"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    raw.xadd(topic, {"payload": GOOD})

    def metric() -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    wait_until(lambda: 'featurestore_stream_rows_total{outcome="new",source="orders"} 1.0' in metric(), "nothing is pushed")
    assert 'featurestore_stream_lag_entries{source="orders"} 0.0' in metric()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["entries"] == 1
    with FeatureStore(project) as store:
        assert store.streams.status()[0].pending == 0
