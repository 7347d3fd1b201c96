"""Packed values in Valkey: their memory, reads and writes, against keys of their own."""

import random
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from time import perf_counter
from typing import Any

from benchmarks.measure import Line, in_turn, microseconds
from featurestore.online.base import Entry
from featurestore.online.redis.store import RedisStore

ENTITIES = 200_000
FULL = 2_000_000
CALLS = 1_000
TTL_MS = 30 * 86_400_000
SETTINGS = ("--hash-max-listpack-value", "1024")
REACH = 0.65
"""How much of the memory of keys of their own packed values of ten numbers may take."""


def entries(size: int, count: int, ttl_ms: int | None = None, version: int = 0) -> list[Entry]:
    """Values of a size, of so many entities; a greater version's are greater."""
    chance = random.Random(size)
    prefix = b"flights/5k2m8xqa/weather/1/{\xab"
    return [
        Entry(prefix + b"user_%07d}" % number, bytes([version]) + chance.randbytes(size - 1), ttl_ms) for number in range(count)
    ]


def options(pack: int, count: int) -> str:
    """What follows the server's address."""
    return f"/0?pack={pack}&entities={count}" if pack else "/0"


def lines(*, full: bool) -> Iterator[Line]:
    """Measures memory, reads of one and of a hundred entities, and writes."""
    import redis

    count = FULL if full else ENTITIES
    for size, ttl_ms, settings in [
        (40, None, SETTINGS), (109, None, SETTINGS), (109, TTL_MS, SETTINGS), (40, None, ()), (109, None, ()),
    ]:  # fmt: skip
        plain = bytes_an_entity(size, 0, count, ttl_ms, settings)
        for pack in (64, 32, 16) if (size, ttl_ms, settings) == (109, None, SETTINGS) else (64,):
            ours = bytes_an_entity(size, pack, count, ttl_ms, settings)
            ttl = ", with a ttl" if ttl_ms else ""
            which = "" if settings else ", the server's default settings"
            holds = ours / plain <= REACH if pack == 64 and size == 109 and settings else None
            cells = (
                f"memory: {size} B{ttl}, pack={pack}{which}",
                f"{ours:.0f} B",
                f"{plain:.0f} B (a key)",
                f"{ours / plain:.2f}×",
            )
            yield Line(*cells, "-" if holds is None else f"≤ {REACH}×", holds)
    yield from _reads(redis, count)
    yield from _writes(count)


def bytes_an_entity(size: int, pack: int, count: int, ttl_ms: int | None, settings: tuple[str, ...]) -> float:
    """How much memory a server takes for each entity."""
    import redis

    from tests.servers.valkey import ValkeyServer

    with ValkeyServer(*settings) as server, redis.Redis(port=server.port) as client:
        before = client.info("memory")["used_memory"]
        with closing(RedisStore(server.url + options(pack, count))) as store:
            store.write(entries(size, count, ttl_ms))
        return float(client.info("memory")["used_memory"] - before) / count


def _reads(redis: Any, count: int) -> Iterator[Line]:
    from tests.servers.valkey import ValkeyServer

    written = entries(109, count)
    with (
        ValkeyServer(*SETTINGS) as plain,
        ValkeyServer(*SETTINGS) as other,
        redis.Redis(port=plain.port) as raw,
        closing(RedisStore(plain.url)) as one,
        closing(RedisStore(other.url + options(64, count))) as two,
    ):
        one.write(written)
        two.write(written)
        for many in (1, 100):
            keys = [entry.key for entry in written[: many * 97 : 97]]
            floor_name = "GET" if many == 1 else f"MGET {many}"
            for name, store in (("a key each", one), ("pack=64", two)):
                ours, floor = in_turn(partial(store.read, keys), partial(raw.mget, keys), CALLS)
                cells = (f"read {many}: {name}", f"{microseconds(ours)} p50", f"{microseconds(floor)} ({floor_name})")
                yield Line(*cells, f"{ours / floor:.2f}×", "-", None)


def _writes(count: int) -> Iterator[Line]:
    from tests.servers.valkey import ValkeyServer

    for what, version, ttl_ms in [("new", 0, None), ("newer", 1, None), ("newer, with a ttl", 2, TTL_MS)]:
        rates = []
        for pack in (0, 64):
            with ValkeyServer(*SETTINGS) as server, closing(RedisStore(server.url + options(pack, count))) as store:
                if version:
                    store.write(entries(109, count, ttl_ms))
                fresh = entries(109, count, ttl_ms, version)
                began = perf_counter()
                store.write(fresh)
                rates.append(count / (perf_counter() - began))
        plain, ours = rates
        yield Line(f"write: {what}, pack=64", f"{ours:,.0f}/s", f"{plain:,.0f}/s (a key each)", f"{ours / plain:.2f}×", "-", None)
