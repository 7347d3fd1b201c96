"""RedisStore with packed values: the contract on each kind of server, that it does what keys of their own do, and the layout."""

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from uuid import uuid4

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore.errors import ConfigError, OnlineStoreError
from featurestore.online.base import Entry, Epoch, OnlineLayoutError, OnlineLostError
from featurestore.online.redis import deletion
from featurestore.online.redis.packing import NEVER, Packing
from featurestore.online.redis.store import RedisStore
from featurestore.testing.examples import examples
from featurestore.testing.waiting import wait_until
from tests.online.test_redis import RedisContract, client_of
from tests.servers.valkey import ValkeyServer

OPTIONS = "pack=8&entities=64"
PACKING = Packing.of(8, 64)


def packed(url: str, options: str = OPTIONS) -> str:
    return f"{url}{'&' if '?' in url else '?'}{options}"


class PackedContract(RedisContract):
    """The contract on packed values; subclasses give the server's address in ``url``."""

    packing = PACKING

    def remaining_ms(self, store: RedisStore, key: bytes) -> int | None:
        name, field = self.packing.place(key)
        with client_of(self.url_of_store.partition("?")[0]) as client:
            stored = client.hget(name, field)
            seconds, micros = client.time(**({} if isinstance(client, redis.Redis) else {"target_nodes": client.get_random_node()}))
        if stored[:1] == NEVER:
            return None
        return int.from_bytes(stored[:6], "big") - seconds * 1000 - micros // 1000

    def test_a_key_expires_by_itself(self, store: RedisStore, prefix: bytes) -> None:
        """Here by a sweep, which leaves what has no ttl or some of it left."""
        keys = [prefix + b"v/1/{%d}" % number for number in range(60)]
        ttls = {0: 1, 1: 600_000, 2: None}
        store.write([Entry(key, b"1", ttls[number % 3]) for number, key in enumerate(keys)])
        swept = 0

        def all_swept() -> bool:
            nonlocal swept
            store.write([Entry(keys[1], b"1", 600_000)])  # what is not written to is not looked through
            swept += store.sweep()
            return swept == 20

        wait_until(all_swept, "what has expired is not swept")
        assert store.read(keys) == [None if number % 3 == 0 else b"1" for number in range(60)]
        assert store.sweep() == 0

    def test_the_script_was_forgotten(self, store: RedisStore, prefix: bytes) -> None:
        entries = [Entry(prefix + b"%d" % number, b"1", 1) for number in range(1200)]
        with client_of(self.url_of_store.partition("?")[0]) as client:
            for version in (b"1", b"2"):
                client.script_flush()
                assert store.write([Entry(entry.key, version, 600_000) for entry in entries]) == len(entries)
            client.script_flush()
        assert store.sweep() == 0
        assert store.read([entry.key for entry in entries]) == [b"2"] * len(entries)

    def test_all_views_of_an_entity_lie_in_one_slot_and_a_hash_holds_many(self, store: RedisStore, prefix: bytes) -> None:
        keys = [prefix + b"view%d/1/{%d}" % (view, entity) for view in range(3) for entity in range(400)]
        store.write([Entry(key, b"1") for key in keys])
        with client_of(self.url_of_store.partition("?")[0]) as client:
            names = list(client.scan_iter(prefix + b"*", count=1000))
            sizes = [client.hlen(name) for name in names]
        assert sum(sizes) == len(keys)
        assert len(names) == 3 * self.packing.hashes
        tags = [{name[name.index(b"{") :] for name, _ in map(self.packing.place, keys[entity::400])} for entity in range(400)]
        assert all(len(those) == 1 for those in tags)


class TestValkey(PackedContract):
    @pytest.fixture
    def url(self, valkey_url: str) -> str:
        return packed(valkey_url)


class TestValkeyOverUnixSocket(PackedContract):
    @pytest.fixture
    def url(self, valkey_unix_url: str) -> str:
        return packed(valkey_unix_url)


class TestRedisServer(PackedContract):
    """Redis 7 as distributions have it: nothing is needed of the server that came later."""

    @pytest.fixture
    def url(self, redis_server_url: str) -> str:
        return packed(redis_server_url)


class TestHashTables(PackedContract):
    """Where the server's settings make hash tables of hashes, which take more memory, everything is the same."""

    @pytest.fixture
    def url(self, server: ValkeyServer) -> str:
        with redis.Redis(port=server.port) as client:
            client.config_set("hash-max-listpack-entries", 2)
        return packed(server.url)


class TestCluster(PackedContract):
    packing = Packing.of(2, 64)

    @pytest.fixture
    def url(self, valkey_cluster_url: str) -> str:
        return packed(valkey_cluster_url, "pack=2&entities=64")

    def test_hashes_go_to_all_nodes(self, store: RedisStore, prefix: bytes, url: str) -> None:
        store.write([Entry(prefix + b"%d" % number, b"1") for number in range(300)])
        with client_of(url.partition("?")[0]) as client:
            holders = {client.get_node_from_key(name).name for name in client.scan_iter(prefix + b"*", count=1000)}
        assert len(holders) == 3
        assert store.delete(prefix) == 300
