"""RedisStore: the contract on every kind of server, and what is Redis' own."""

import asyncio
import gc
import sys
from contextlib import closing
from functools import partial
from importlib import import_module
from itertools import pairwise

import pytest
import redis

from featurestore.errors import ConfigError, MissingExtraError, OnlineStoreError
from featurestore.online.base import Entry, Epoch, OnlineLostError, hide_password
from featurestore.online.redis.address import split_hosts
from featurestore.online.redis.layouts import WRITE
from featurestore.online.redis.store import RedisStore
from featurestore.testing.online import Make, OnlineStoreContract
from tests.servers.valkey import ValkeyServer, free_port


def client_of(url: str) -> redis.Redis | redis.RedisCluster:
    """Returns a client of our own at the address of a store, to look at what the store did."""
    first, others = split_hosts(url)
    return redis.RedisCluster.from_url(first) if others else redis.Redis.from_url(first)


class RedisContract(OnlineStoreContract):
    @pytest.fixture
    def url(self) -> str:
        raise NotImplementedError

    @pytest.fixture
    def make(self, url: str) -> Make:
        self.url_of_store = url
        return partial(RedisStore, url)

    def remaining_ms(self, store: RedisStore, key: bytes) -> int | None:
        with client_of(self.url_of_store) as client:
            remaining = client.pttl(key)
        return None if remaining == -1 else remaining

    def test_a_key_expires_by_itself(self, store: RedisStore, prefix: bytes) -> None:
        assert store.write([Entry(prefix + b"gone", b"1", 0), Entry(prefix + b"here", b"1", 60_000)]) == 2
        with client_of(self.url_of_store) as client:
            assert client.pttl(prefix + b"gone") in (1, 0, -2)
        assert store.read([prefix + b"here"]) == [b"1"]
        assert store.sweep() == 0

    def test_the_script_was_forgotten(self, store: RedisStore, prefix: bytes) -> None:
        entries = [Entry(prefix + b"%d" % number, b"1") for number in range(1200)]
        with client_of(self.url_of_store) as client:
            for version in (b"1", b"2"):
                client.script_flush()
                assert store.write([Entry(entry.key, version) for entry in entries]) == len(entries)
        assert store.read([entry.key for entry in entries]) == [b"2"] * len(entries)


class TestValkey(RedisContract):
    @pytest.fixture
    def url(self, valkey_url: str) -> str:
        return valkey_url


class TestValkeyOverUnixSocket(RedisContract):
    @pytest.fixture
    def url(self, valkey_unix_url: str) -> str:
        return valkey_unix_url


class TestRedisServer(RedisContract):
    @pytest.fixture
    def url(self, redis_server_url: str) -> str:
        return redis_server_url


class TestTLS(RedisContract):
    @pytest.fixture
    def url(self, valkey_tls_url: str) -> str:
        return valkey_tls_url

    def test_a_wrong_password(self, url: str) -> None:
        store = RedisStore(url.replace("s3cret", "guess"))
        with pytest.raises(OnlineStoreError, match="Look at the user and the password") as raised:
            store.read([b"a"])
        assert "guess" not in str(raised.value)
        with pytest.raises(OnlineStoreError, match="Look at the user and the password"):
            asyncio.run(store.read_async([b"a"]))
        store.close()

    # redis-py leaves the socket of a handshake that failed to the collector, which warns of it when it comes by.
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:unclosed:ResourceWarning")
    def test_a_certificate_that_nobody_vouches_for(self, url: str) -> None:
        store = RedisStore(url.partition("?")[0])
        with pytest.raises(OnlineStoreError, match="certificate verify failed"):
            store.read([b"a"])
        store.close()
        trusting = RedisStore(url.partition("?")[0] + "?ssl_cert_reqs=none&ssl_check_hostname=false")
        assert trusting.read([b"a"]) == [None]
        trusting.close()
        gc.collect()


class TestCluster(RedisContract):
    @pytest.fixture
    def url(self, valkey_cluster_url: str) -> str:
        return valkey_cluster_url

    def test_entries_go_to_all_nodes(self, store: RedisStore, prefix: bytes, url: str) -> None:
        entries = [Entry(prefix + b"%d" % number, b"1") for number in range(300)]
        store.write(entries)
        with client_of(url) as client:
            sizes = [client.get_redis_connection(node).dbsize() for node in client.get_primaries()]
        assert len(sizes) == 3
        assert all(sizes)
        assert store.check().endswith(", cluster of 3")

    def test_a_hash_tag_keeps_an_entity_together(self, store: RedisStore, prefix: bytes, url: str) -> None:
        keys = [prefix + b"%d/{JFK}" % number for number in range(20)]
        assert store.write([Entry(key, b"1") for key in keys]) == 20
        assert store.read(keys) == [b"1"] * 20
        with client_of(url) as client:
            assert len({client.keyslot(key) for key in keys}) == 1

    def test_taken_for_a_single_server(self, url: str) -> None:
        store = RedisStore(split_hosts(url)[0])
        keys = [b"a", b"b", b"c", b"d"]
        with pytest.raises(OnlineStoreError, match=r"take redis\+cluster://"):
            store.read(keys)
        with pytest.raises(OnlineStoreError, match=r"take redis\+cluster://"):
            store.write([Entry(key, b"1") for key in keys])
        store.close()

    def test_a_slot_that_moved(self, store: RedisStore, prefix: bytes, url: str) -> None:
        key = prefix + b"{moving}"
        store.write([Entry(key, b"1"), Entry(b"test/of another test/{moving}", b"1")])
        with client_of(url) as client:
            slot = client.keyslot(key)
            source = client.get_node_from_key(key).name
            target = next(node for node in client.get_primaries() if node.name != source)
            # A node does not give away a slot that still holds keys; those of tests before this one may lie in it too.
            holder = client.get_redis_connection(client.get_node_from_key(key))
            for held in holder.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1000):
                holder.delete(held)
            name = client.get_redis_connection(target).execute_command("CLUSTER MYID")
            for node in client.get_primaries():
                client.get_redis_connection(node).execute_command("CLUSTER", "SETSLOT", slot, "NODE", name)
        assert store.read([key]) == [None]
        assert asyncio.run(store.read_async([key])) == [None]
        assert store.write([Entry(key, b"2")]) == 1
        assert store.read([key]) == [b"2"]

    def test_a_shard_that_was_emptied_alone_is_noticed(self, store: RedisStore, prefix: bytes, url: str) -> None:
        epoch = Epoch(prefix + b"!", b"one")
        entries = [Entry(prefix + b"{%d}" % number, b"1") for number in range(100)]
        store.marks.place(epoch)
        assert store.write(entries, epoch=epoch) == 100
        with client_of(url) as client:
            client.flushdb(target_nodes=[client.get_primaries()[1]])
        assert len(store.marks.look(epoch)) == 1
        with pytest.raises(OnlineLostError, match="its mark is gone"):
            store.write([Entry(entry.key, b"2") for entry in entries], epoch=epoch)
        store.marks.place(epoch)
        assert store.write([Entry(entry.key, b"3") for entry in entries], epoch=epoch) == 100

    def test_marks_move_with_their_slots_and_are_placed_again(self, store: RedisStore, prefix: bytes, url: str) -> None:
        epoch = Epoch(prefix + b"!", b"one")
        store.marks.place(epoch)
        with client_of(url) as client:
            # The mark that writes of its primary look at first, of which the slot moves to another one with all that is in it.
            marks = next(keys for server, keys in store._open().marks(epoch.key))
            mark, slot = marks[0], client.keyslot(marks[0])
            source, target = client.get_node_from_key(mark), None
            target = next(node for node in client.get_primaries() if node.name != source.name)
            giver, taker = client.get_redis_connection(source), client.get_redis_connection(target)
            names = [each.execute_command("CLUSTER MYID") for each in (giver, taker)]
            taker.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", names[0])
            giver.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", names[1])
            held = giver.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1000)
            giver.execute_command("MIGRATE", target.host, target.port, "", 0, 5000, "KEYS", *held)
            for node in (taker, giver, *map(client.get_redis_connection, client.get_primaries())):
                node.execute_command("CLUSTER", "SETSLOT", slot, "NODE", names[1])
        entries = [Entry(prefix + b"{%d}" % number, b"1") for number in range(300)]
        assert store.write(entries, epoch=epoch) <= 300
        assert store.read([entry.key for entry in entries]) == [b"1"] * 300
        assert store.marks.look(epoch) == []

    def test_where_marks_lie_is_worked_out_once_and_not_in_each_write(
        self, store: RedisStore, prefix: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        epoch = Epoch(prefix + b"!", b"one")
        store.marks.place(epoch)
        link, asked = store._open(), []
        find = link._marks
        monkeypatch.setattr(link, "_marks", lambda key: asked.append(key) or find(key))
        for number in range(10):
            assert store.write([Entry(prefix + b"%d" % number, b"1")], epoch=epoch) == 1
        assert len(asked) <= 1

    def test_no_node_is_up(self) -> None:
        store = RedisStore(f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{free_port()}")
        with pytest.raises(OnlineStoreError, match="Is it running"):
            store.read([b"a"])
        with pytest.raises(OnlineStoreError, match="Is it running"):
            asyncio.run(store.read_async([b"a"]))
        with pytest.raises(OnlineStoreError, match="Is it running"):
            store.write([Entry(b"a", b"1")])
        store.close()


class TestAddress:
    @pytest.mark.parametrize(
        ("url", "problem"),
        [
            ("redis://host:port", "is not the address of an online store"),
            ("redis://host?socket_timeout=soon", "Invalid value for 'socket_timeout'"),
            ("redis://host?sokcet_timeout=1", "sokcet_timeout"),
            ("redis://host?decode_responses=true", "must not set decode_responses"),
            ("redis+cluster://host:6379/3", "database 0 only"),
            ("http://host", "is not the address of an online store"),
        ],
    )
    def test_of_another_form(self, url: str, problem: str) -> None:
        with pytest.raises(ConfigError, match=problem):
            RedisStore(url)

    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            ("redis://host:1/0", "redis://host:1/0"),
            ("redis://:pw@host", "redis://:***@host"),
            ("redis://user:p@w/d@host:1", "redis://user:***@host:1"),
            ("redis+cluster://u:pw@a:1,b:2/?socket_timeout=1", "redis+cluster://u:***@a:1,b:2/?socket_timeout=1"),
            ("unix:///run/s?password=pw&db=1", "unix:///run/s?password=***&db=1"),
        ],
    )
    def test_is_shown_without_the_password(self, url: str, shown: str) -> None:
        assert hide_password(url) == shown

    def test_hosts_of_a_cluster(self) -> None:
        assert split_hosts("redis+cluster://a:1,b,[::1]:3") == ("redis://a:1", [("b", 6379), ("::1", 3)])
        assert split_hosts("rediss+cluster://u:pw@a:1?x=1,2") == ("rediss://u:pw@a:1?x=1,2", [])

    def test_another_database(self, server: ValkeyServer) -> None:
        stores = [RedisStore(f"{server.url}/{number}") for number in (0, 1)]
        stores[1].write([Entry(b"a", b"1")])
        assert [store.read([b"a"]) for store in stores] == [[None], [b"1"]]
        for store in stores:
            store.close()

    @pytest.mark.parametrize("missing", ["redis", "hiredis"])
    def test_the_extra_is_missing(self, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
        monkeypatch.setitem(sys.modules, missing, None)
        monkeypatch.delitem(sys.modules, "featurestore.online.redis.store")
        with pytest.raises(MissingExtraError, match=r"Redis or Valkey needs .* pip install 'featurestore\[redis\]'"):
            import_module("featurestore.online.redis.store")


def test_the_script_compares_without_the_locale(valkey_url: str) -> None:
    """The locale of this server orders z before t, unless there was none to compile."""
    values = sorted(bytes([first]) + tail for first in range(256) for tail in (b"", b"z"))
    with redis.Redis.from_url(valkey_url) as client:
        key = b"test/locale"
        for smaller, greater in pairwise(values):
            client.set(key, smaller)
            assert client.eval(WRITE, 1, key, b"", b"", greater) == 1
            assert client.eval(WRITE, 1, key, b"", b"", smaller) == 0
        client.delete(key)


def test_reads_of_one_turn_share_a_round_trip_and_harm_one_another_in_nothing(valkey_url: str) -> None:
    with closing(RedisStore(valkey_url)) as store, redis.Redis.from_url(valkey_url) as raw:
        raw.mset({f"turn{number}": str(number) for number in range(16)})

        def commands() -> int:
            return int(raw.info("commandstats").get("cmdstat_mget", {}).get("calls", 0))

        async def ask() -> list[object]:
            await store.read_async([b"turn0"])
            before = commands()
            tasks = [asyncio.create_task(store.read_async([b"turn%d" % number, b"none"])) for number in range(16)]
            await asyncio.sleep(0)
            tasks[0].cancel()  # the one that began the round trip
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            assert commands() == before + 1
            return answers

        first, *others = asyncio.run(ask())
        assert isinstance(first, asyncio.CancelledError)
        assert others == [[b"%d" % number, None] for number in range(1, 16)]
