"""Streams to the online store, on Redis Streams and Valkey: how many events a second, and how soon one can be read."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import redis

from benchmarks.measure import DATA, Line
from featurestore import Entity, FeatureStore, FeatureView, StreamSource, count, sum_

EVENTS, BATCH, ENTITIES = 200_000, 5_000, 20_000
RATE, SECONDS = 5_000, 20
START = datetime(2013, 7, 1, tzinfo=UTC)


def lines(*, full: bool) -> Iterator[Line]:
    """Measures how fast a stream is drained, and how old an event is when it can be read while others come at a rate."""
    from tests.servers.valkey import ValkeyServer

    for kind in ("latest values", "windows"):
        with ValkeyServer() as server, redis.Redis.from_url(server.url) as raw:
            topic = "events"
            _fill(raw, topic, EVENTS)
            bare = _bare(raw, topic)
            ours = _drain(server.url, topic, kind)
        yield Line(
            f"stream of {EVENTS:,} events to {kind} online and history", f"{ours:,.0f} events/s",
            f"{bare:,.0f} events/s (XREADGROUP, JSON, SETs, XACK)", f"{ours / bare:.2f}×", "≥ 20,000 events/s", ours >= 20_000,
        )  # fmt: skip
    for kind in ("latest values", "windows"):
        with ValkeyServer() as server:
            ages = _ages(server.url, kind)
        middle, late = ages[len(ages) // 2], ages[len(ages) * 99 // 100]
        yield Line(
            f"XADD to readable, {RATE:,} events/s to {kind}", f"p99 {late * 1e3:.0f} ms", f"p50 {middle * 1e3:.0f} ms", "-",
            "p99 ≤ 250 ms", late <= 0.25,
        )  # fmt: skip


def _event(number: int) -> bytes:
    at = START + timedelta(milliseconds=number)
    return json.dumps({"entity": f"user_{number * 97 % ENTITIES}", "at": at.isoformat(), "x": number / 7}).encode()


def _fill(raw: "redis.Redis", topic: str, events: int) -> None:
    for first in range(0, events, 5_000):
        pipeline = raw.pipeline(transaction=False)
        for number in range(first, min(events, first + 5_000)):
            pipeline.xadd(topic, {"payload": _event(number)})
        pipeline.execute()


def _bare(raw: "redis.Redis", topic: str) -> float:
    """The floor: the same entries, decoded, their values set, acknowledged. No history, no checks."""
    raw.xgroup_create(topic, "bare", "0")
    began, done = time.perf_counter(), 0
    while found := raw.xreadgroup("bare", "one", {topic: ">"}, count=BATCH):
        entries = found[0][1]
        pipeline = raw.pipeline(transaction=False)
        for _, fields in entries:
            row = json.loads(fields[b"payload"])
            pipeline.set(f"bare/{row['entity']}", json.dumps([row["at"], row["x"]]))
        pipeline.xack(topic, "bare", *(name for name, _ in entries))
        pipeline.execute()
        done += len(entries)
    return done / (time.perf_counter() - began)


def _store(url: str, topic: str, kind: str) -> FeatureStore:
    columns = {"entity": str, "at": datetime, "x": float}
    source = StreamSource("events", url, topic=topic, columns=columns, event_time="at")

    class Latest(FeatureView, entity=Entity("user", entity=str), source=source):
        x: float

    class Windows(FeatureView, entity=Entity("user", entity=str), source=source):
        total: float = sum_("x").over("1h")
        events: int = count().over("1h")

    place = DATA / f"streams-{uuid4().hex[:8]}"
    place.mkdir(parents=True)
    store = FeatureStore(place, project=place.name, online=url)
    store.apply([Latest if kind == "latest values" else Windows])
    return store


def _drain(url: str, topic: str, kind: str) -> float:
    with _store(url, topic, kind) as store:
        began = time.perf_counter()
        [counts] = store.streams.run(batch=BATCH, once=True)
        return counts.entries / (time.perf_counter() - began)


def _ages(url: str, kind: str) -> list[float]:
    """How long after its XADD each of some events could be read: each bears the time, and is looked for until it is there."""
    topic = "events"
    with _store(url, topic, kind) as store:
        view = "latest" if kind == "latest values" else "windows"
        stop, ages = threading.Event(), list[float]()
        worker = threading.Thread(target=lambda: store.streams.run(batch=BATCH, stop=stop))
        worker.start()
        producer = subprocess.Popen([sys.executable, "-m", "benchmarks.streams", url, topic, str(RATE), str(SECONDS)])
        raw = redis.Redis.from_url(url)
        try:
            number = 0
            while producer.poll() is None:
                key = f"probe_{number}"
                number += 1
                began = time.perf_counter()
                raw.xadd(topic, {"payload": json.dumps({"entity": key, "at": START.isoformat(), "x": 1.0})})
                feature = "x" if view == "latest" else "events"
                at = START + timedelta(minutes=1)
                while not store.online(view, [{"entity": key}], at=at).to_dicts()[0][feature]:
                    time.sleep(0.002)
                ages.append(time.perf_counter() - began)
        finally:
            raw.close()
            stop.set()
            worker.join()
    return sorted(ages)


def produce(url: str, topic: str, rate: str, seconds: str) -> None:
    """Adds so many events a second, fifty times a second."""
    raw = redis.Redis.from_url(url)
    each = int(rate) // 50
    began = time.perf_counter()
    for turn in range(int(seconds) * 50):
        pipeline = raw.pipeline(transaction=False)
        for number in range(turn * each, turn * each + each):
            pipeline.xadd(topic, {"payload": _event(number)})
        pipeline.execute()
        time.sleep(max(0.0, began + (turn + 1) / 50 - time.perf_counter()))
    raw.close()


if __name__ == "__main__":
    produce(*sys.argv[1:])
