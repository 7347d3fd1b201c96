"""Online writes against bare pipelined SETs of the same values, and the memory an entity takes in Redis."""

import itertools
import time
from collections.abc import Iterator
from typing import Any

import polars as pl

from benchmarks import data
from benchmarks.measure import Line
from benchmarks.project import materialized, view
from featurestore.clock import to_micros, utc_now
from featurestore.materialization.online_writer import LatestWriter
from featurestore.materialization.progress import Silence
from featurestore.offline.base import Table
from featurestore.online.plan import online_entries
from featurestore.online.redis.store import RedisStore

ENTITIES = 1_000_000
_BATCH = 1_000


def lines(*, full: bool) -> Iterator[Line]:
    """Measures writing a million entities to Valkey, and what an entity of 10 and of 50 features takes there."""
    import redis

    from tests.servers.valkey import ValkeyServer

    made = view("entities", ENTITIES, 50 * ENTITIES, "e")  # nearly every row an entity of its own
    with materialized("entities", [made]) as opened:
        applied = opened.catalog.views["entities"]
        parts = opened.components.offline.committed(Table.of("bench", applied), 1)
        entries = [entry for part in parts for frame in part.read() for entry in online_entries("bench", applied, frame, 0)]
        pairs = [(entry.key, entry.value) for entry in entries]
        times: dict[str, list[float]] = {"ours": [], "bare": []}
        with ValkeyServer() as server:
            raw = redis.Redis.from_url(server.url)
            for _ in range(2):
                raw.flushall()
                began = time.perf_counter()
                bare_sets(raw, pairs)
                times["bare"].append(time.perf_counter() - began)
                raw.flushall()
                online = RedisStore(server.url)
                began = time.perf_counter()
                writer = LatestWriter("bench", opened.components.offline, online, utc_now)
                assert writer.write_run(applied, parts, Silence(), first=True).online == len(pairs)
                times["ours"].append(time.perf_counter() - began)
                online.close()
            raw.close()
    ours, bare = (len(pairs) / min(times[name]) for name in ("ours", "bare"))
    yield Line(
        f"materialize {len(pairs):,} entities × 10 to Valkey", f"{ours:,.0f} rows/s", f"{bare:,.0f} rows/s (pipelined SET)",
        f"{ours / bare:.2f}×", "≥ 0.5×", ours >= bare / 2,
    )  # fmt: skip
    for features in (10, 50):
        yield _memory(features)


def bare_sets(client: Any, pairs: list[tuple[bytes, bytes]]) -> None:
    """Writes pairs as fast as the client's own pipeline does."""
    for batch in itertools.batched(pairs, _BATCH) if hasattr(itertools, "batched") else _batches(pairs):
        pipeline = client.pipeline(transaction=False)
        for key, value in batch:
            pipeline.set(key, value)
        pipeline.execute()


def _batches(pairs: list[tuple[bytes, bytes]]) -> Iterator[list[tuple[bytes, bytes]]]:
    for first in range(0, len(pairs), _BATCH):
        yield pairs[first : first + _BATCH]


def _memory(features: int) -> Line:
    """Measures the memory of a hundred thousand entities, under our keys and under keys as one would set them by hand."""
    import redis

    from featurestore import FeatureView, FrameSource
    from featurestore.definitions.catalog import AppliedView
    from tests.servers.valkey import ValkeyServer

    entities = 100_000
    names = [f"f{number}" for number in range(features)]
    columns = {name: pl.col("n").cast(pl.Float64) * 0.37 + place for place, name in enumerate(names)}
    base = pl.select(n=pl.int_range(entities, dtype=pl.Int64))
    frame = base.select(entity="user_" + pl.col("n").cast(pl.String), event_time=pl.lit(0).cast(data.INSTANT), **columns)
    body = {"__annotations__": dict.fromkeys(names, float), "__module__": __name__}
    from benchmarks.project import USER

    source = FrameSource("rows", frame, event_time="event_time")
    spec = type("Weather", (FeatureView,), body, entity=USER, source=source).__view__
    history = frame.with_columns(available_time="event_time")
    entries = online_entries("shop/5k2m8xqa", AppliedView(spec, 1, 1), history.sort("entity"), to_micros(utc_now()))
    users = history.sort("entity")["entity"]
    by_hand = [(f"weather:{user}".encode(), entry.value[:-5]) for user, entry in zip(users, entries, strict=True)]
    used = []
    for write in ("ours", "bare"):
        with ValkeyServer() as server:
            client = redis.Redis.from_url(server.url)
            before = client.info("memory")["used_memory"]
            if write == "ours":
                online = RedisStore(server.url)
                online.write(entries)
                online.close()
            else:
                bare_sets(client, by_hand)
            used.append((client.info("memory")["used_memory"] - before) / entities)
            client.close()
    ratio = used[0] / used[1]
    return Line(
        f"Valkey memory an entity, {features} features", f"{used[0]:,.0f} bytes", f"{used[1]:,.0f} bytes (keys by hand)",
        f"{ratio:.2f}×", "≤ 1.15×", ratio <= 1.15,
    )  # fmt: skip
