"""RedisStore with packed values: the contract on each kind of server, that it does what keys of their own do, and the layout."""

import asyncio
import random
from contextlib import ExitStack, closing
from uuid import uuid4

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore.errors import ConfigError, OnlineStoreError
from featurestore.online.base import Entry, Epoch, OnlineLayoutError
from featurestore.online.redis import deletion, loss_marks
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

    def test_a_slot_that_moved(self, store: RedisStore, prefix: bytes, url: str) -> None:
        key = prefix + b"v/1/{moving}"
        name = self.packing.place(key)[0]
        store.write([Entry(key, b"1")])
        with client_of(url.partition("?")[0]) as client:
            slot = client.keyslot(name)
            source = client.get_node_from_key(name)
            target = next(node for node in client.get_primaries() if node.name != source.name)
            holder = client.get_redis_connection(source)
            for held in holder.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1000):
                holder.delete(held)
            identity = client.get_redis_connection(target).execute_command("CLUSTER MYID")
            for node in client.get_primaries():
                client.get_redis_connection(node).execute_command("CLUSTER", "SETSLOT", slot, "NODE", identity)
        assert store.read([key]) == [None]
        assert asyncio.run(store.read_async([key])) == [None]
        assert store.write([Entry(key, b"2", 600_000)]) == 1
        assert store.read([key]) == [b"2"]
        assert store.delete(prefix, keys=[key]) == 1


@pytest.fixture(params=["a server", "a cluster"])
def address(request: pytest.FixtureRequest) -> str:
    """A server's address, and a Cluster's."""
    url: str = request.getfixturevalue("valkey_url" if request.param == "a server" else "valkey_cluster_url")
    return url


@pytest.fixture
def space() -> bytes:
    """What the keys of this test begin with."""
    return b"test/" + uuid4().hex.encode() + b"/"


def commands_of(url: str) -> dict[str, int]:
    """Returns how often a server was sent each command."""
    with redis.Redis.from_url(url) as client:
        return {name.removeprefix("cmdstat_"): stats["calls"] for name, stats in client.info("commandstats").items()}


# -- it does what keys of their own do ---------------------------------------------------------------------------------------

TTLS = st.sampled_from([None, 10**6, 10**8])
VALUES = st.binary(max_size=3)
ENTITIES = st.integers(0, 5)
WRITES = st.lists(st.tuples(ENTITIES, VALUES, TTLS), min_size=1, max_size=5)
SWAPS = st.dictionaries(ENTITIES, st.tuples(VALUES, TTLS, st.none() | st.integers(0, 3)), min_size=1, max_size=4)
STEPS = st.one_of(
    st.tuples(st.just("write"), WRITES),
    st.tuples(st.just("swap"), SWAPS),
    st.tuples(st.just("delete"), st.lists(ENTITIES, max_size=3)),
    st.tuples(st.just("delete below"), st.integers(0, 12)),
)


def key_of(space: bytes, entity: int) -> bytes:
    """Returns the key of an entity: of two views and two versions."""
    return space + [b"one/1/", b"one/2/", b"two/1/"][entity % 3] + b"{%d}" % entity


def done(store: RedisStore, space: bytes, step: tuple[str, object]) -> int:
    """Takes a step, and returns how many values it changed."""
    kind, what = step
    if kind == "write":
        return store.write([Entry(key_of(space, entity), value, ttl) for entity, value, ttl in what])
    if kind == "delete":
        return store.delete(space, keys=[key_of(space, entity) for entity in dict.fromkeys(what)])
    if kind == "delete below":
        return store.delete(key_of(space, what % 6)[: len(space) + what])
    batch = []
    for entity, (value, ttl, begins) in what.items():
        [held] = store.read([key_of(space, entity)])
        replaces = b"" if begins is None else (held or b"other")[:begins]
        batch.append(Entry(key_of(space, entity), value, ttl, replaces=replaces))
    return store.write(batch)


@settings(
    max_examples=examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)
@given(steps=st.lists(STEPS, min_size=1, max_size=12))
def test_s15_packed_values_are_those_of_keys_of_their_own(valkey_url: str, steps: list[tuple[str, object]]) -> None:
    space = b"test/" + uuid4().hex.encode() + b"/"
    keys = [key_of(space, entity) for entity in range(6)]
    packing = Packing.of(4, 8)
    with (
        closing(RedisStore(valkey_url + "/2")) as plain,
        closing(RedisStore(valkey_url + "/3?pack=4&entities=8")) as packed_store,
        redis.Redis.from_url(valkey_url + "/2") as plain_client,
        redis.Redis.from_url(valkey_url + "/3") as packed_client,
    ):
        for step in steps:
            assert done(plain, space, step) == done(packed_store, space, step), step
            assert plain.read(keys) == packed_store.read(keys), step
            assert asyncio.run(packed_store.read_async(keys)) == plain.read(keys)
            now = int(plain_client.time()[0]) * 1000
            for key in keys:
                remaining, stored = plain_client.pttl(key), packed_client.hget(*packing.place(key))
                if stored is None:
                    assert remaining == -2
                elif stored[:1] == NEVER:
                    assert remaining == -1
                else:
                    assert abs(int.from_bytes(stored[:6], "big") - now - remaining) < 60_000


def test_a_ttl_that_is_over_is_swept_whatever_was_written_after(valkey_url: str, space: bytes) -> None:
    """A version of which nothing is written any more is not looked through, and a value that is no longer to end stays."""
    with closing(RedisStore(packed(valkey_url))) as store:
        store.write([Entry(space + b"v/1/{a}", b"1", 1), Entry(space + b"v/1/{b}", b"1", 1), Entry(space + b"v/1/{b}", b"2")])

        def swept() -> bool:
            store.write([Entry(space + b"v/1/{c}", b"1", 600_000)])
            return store.sweep() == 1

        wait_until(swept, "what has ended is not swept")
        assert store.read([space + b"v/1/{%b}" % entity for entity in (b"a", b"b", b"c")]) == [None, b"2", b"1"]


def test_writes_alone_keep_what_has_ended_from_piling_up(address: str, space: bytes) -> None:
    """Of entities that come, and never again, as a stream's do."""
    with closing(RedisStore(packed(address, "pack=8&entities=800"))) as store, client_of(address) as client:
        for number in range(0, 8000, 400):
            entries = [Entry(space + b"v/1/{%d}" % entity, b"1", 1) for entity in range(number, number + 400)]
            assert store.write(entries) == 400
        fields = sum(client.hlen(name) for name in client.scan_iter(space + b"*", count=1000))
    assert fields < 4000


@pytest.mark.parametrize("command", ["EVALSHA_RO", "EVALSHA"])
def test_a_server_that_is_too_old_is_refused(space: bytes, command: str) -> None:
    keys = [space + b"v/1/{%d}" % number for number in range(10)]
    with ValkeyServer("--rename-command", command, "") as server, closing(RedisStore(packed(server.url))) as store:

        def write() -> None:
            store.write([Entry(key, b"1", 1000) for key in keys])

        def read() -> None:
            store.read(keys)

        def read_async() -> None:
            asyncio.run(store.read_async(keys))

        for use in (read, read_async) if command == "EVALSHA_RO" else (write,):
            with pytest.raises(OnlineStoreError, match=r"EVALSHA.*take Redis 7 or later"):
                use()


# -- reads -------------------------------------------------------------------------------------------------------------------


def test_reads_of_one_turn_share_a_round_trip(valkey_url: str, space: bytes) -> None:
    with closing(RedisStore(packed(valkey_url))) as store:
        keys = [space + b"v/1/{%d}" % number for number in range(16)]
        store.write([Entry(key, b"%d" % number) for number, key in enumerate(keys)])

        async def ask() -> list[list[bytes | None]]:
            await store.read_async(keys)
            before = commands_of(valkey_url).get("evalsha_ro", 0)
            answers = await asyncio.gather(*[store.read_async([key, b"none/none/none/1/{}"]) for key in keys])
            assert commands_of(valkey_url)["evalsha_ro"] == before + 1
            return answers

        assert asyncio.run(ask()) == [[b"%d" % number, None] for number in range(16)]


def test_readers_load_the_script_that_a_server_has_lost(valkey_url: str, space: bytes) -> None:
    with closing(RedisStore(packed(valkey_url))) as store, redis.Redis.from_url(valkey_url) as client:
        keys = [space + b"v/1/{%d}" % number for number in range(40)]
        store.write([Entry(key, b"1") for key in keys])
        client.script_flush()
        assert store.read(keys) == [b"1"] * 40
        client.script_flush()
        assert asyncio.run(store.read_async(keys)) == [b"1"] * 40


# -- the layout --------------------------------------------------------------------------------------------------------------

LAYOUTS = {"plain": "", "packed": "pack=8&entities=640", "packed otherwise": "pack=8&entities=6400"}


@pytest.mark.parametrize(("before", "after"), [(a, b) for a in LAYOUTS for b in LAYOUTS if a != b])
def test_a_store_of_another_layout_is_refused_until_it_is_given_this_one(
    address: str, space: bytes, before: str, after: str
) -> None:
    epoch, later = Epoch(space + b"!", b"one"), Epoch(space + b"!", b"two")
    keys = [space + b"v/1/{%d}" % number for number in range(100)]
    with ExitStack() as stack:
        former, present = (
            stack.enter_context(closing(RedisStore(packed(address, LAYOUTS[name]) if LAYOUTS[name] else address)))
            for name in (before, after)
        )
        former.marks.agree(epoch)  # where nothing is marked yet, either will do
        former.marks.place(epoch)
        assert former.write([Entry(key, b"1") for key in keys], epoch=epoch) == 100

        def refused(store: RedisStore, known: Epoch) -> None:
            with pytest.raises(OnlineLayoutError, match="--rebuild-online"):
                store.marks.agree(known)
            with pytest.raises(OnlineLayoutError, match="set the address back"):
                store.marks.look(known)
            for entry in (Entry(keys[0], b"2"), Entry(keys[0], b"2", replaces=b"1"), Entry(keys[0], b"2", 1000)):
                with pytest.raises(OnlineLayoutError, match="in the layout that it asks for"):
                    store.write([entry], epoch=known)

        refused(present, epoch)
        former.marks.agree(epoch)
        assert former.read(keys) == [b"1"] * 100
        present.marks.place(later)
        present.marks.agree(later)
        assert present.marks.look(later) == []
        assert former.read(keys) == [None] * 100
        assert present.write([Entry(key, b"2") for key in keys], epoch=later) == 100
        refused(former, later)
        refused(former, epoch)
        assert present.read(keys) == [b"2"] * 100
        present.delete(space)
        assert present.marks.strangers(space) == {}


def test_a_change_of_layout_that_was_interrupted_is_refused_by_both_until_it_is_repeated(
    valkey_url: str, space: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = Epoch(space + b"!", b"one")
    key = space + b"v/1/{a}"
    with closing(RedisStore(valkey_url)) as plain, closing(RedisStore(packed(valkey_url))) as store:
        plain.marks.place(epoch)
        plain.write([Entry(key, b"1")], epoch=epoch)

        def interrupted(*given: object, **named: object) -> int:
            raise OnlineStoreError("the network is gone")

        with monkeypatch.context() as patch:
            patch.setattr(loss_marks, "delete_scanned", interrupted)
            with pytest.raises(OnlineStoreError, match="the network is gone"):
                store.marks.place(epoch)
        for other in (plain, store):
            with pytest.raises(OnlineLayoutError, match="was interrupted"):
                other.marks.agree(epoch)
            with pytest.raises(OnlineLayoutError, match="was interrupted"):
                other.write([Entry(key, b"2")], epoch=epoch)
        store.marks.place(epoch)
        assert store.write([Entry(key, b"2")], epoch=epoch) == 1
        assert plain.read([key]) == [None]


def test_numbers_that_make_as_many_hashes_are_one_layout(valkey_url: str, space: bytes) -> None:
    keys = [space + b"v/1/{%d}" % number for number in range(50)]
    with (
        closing(RedisStore(packed(valkey_url, "pack=8&entities=64"))) as one,
        closing(RedisStore(packed(valkey_url, "pack=16&entities=128"))) as other,
    ):
        one.marks.place(Epoch(space + b"!", b"one"))
        one.write([Entry(key, b"1") for key in keys])
        other.marks.agree(Epoch(space + b"!", b"one"))
        assert other.read(keys) == [b"1"] * 50


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("pack=1", "pack=1 must be from 2 to 512"),
        ("pack=1000", "from 2 to 512"),
        ("pack=many", "pack=many must be a whole number"),
        ("pack=", "must be a whole number"),
        ("pack=-64", "must be a whole number"),
        ("pack=64&entities=0", "entities=0 must be a whole number from 1 on"),
        ("entities=1000", "goes with pack=64"),
        ("pack=64&entities=" + "9" * 15, "more than can be packed"),
        ("pack=64&sokcet_timeout=1", "sokcet_timeout"),
    ],
)
@pytest.mark.parametrize("scheme", ["redis://:secret@host", "redis+cluster://:secret@a:1,b:2", "unix:///run/s?password=secret"])
def test_an_address_with_wrong_options(scheme: str, options: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as raised:
        RedisStore(packed(scheme, options))
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("entities", "pack", "hashes"), [(1, 64, 1), (64, 64, 1), (65, 64, 2), (10**8, 64, 2**21), (10**9, 64, 2**24)]
)
def test_hashes_have_at_most_so_many_entities_on_average(entities: int, pack: int, hashes: int) -> None:
    assert Packing.of(pack, entities).hashes == hashes


def test_entities_are_spread_evenly_over_hashes() -> None:
    packing = Packing.of(64, 64 << 10)
    for name in (lambda number: b"\xce" + number.to_bytes(4, "big"), lambda number: b"\xaauser_%05d" % number):
        counts = dict.fromkeys(packing.names(b"p/r/v/1/"), 0)
        for number in range(64 << 10):
            counts[packing.place(b"p/r/v/1/{%b}" % name(number))[0]] += 1
        assert max(counts.values()) < 110
        assert min(counts.values()) > 25


# -- deletion ----------------------------------------------------------------------------------------------------------------


def test_a_versions_hashes_are_deleted_by_their_names_where_the_server_has_more_keys(
    address: str, space: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletion, "_AT_ONCE", 9)
    with closing(RedisStore(packed(address, "pack=2&entities=64"))) as store:
        gone = [space + b"v/1/{%d}" % number for number in range(300)]
        kept = [space + b"%b{%d}" % (version, number) for version in (b"v/2/", b"v/10/", b"w/1/") for number in range(100)]
        store.write([Entry(key, b"1") for key in gone + kept])
        with client_of(address) as client:
            before = client.info("commandstats", **_everywhere(client))
            assert store.delete(space + b"v/1/") == 300
            after = client.info("commandstats", **_everywhere(client))
        assert _scans(after) == _scans(before)
        assert store.read(gone) == [None] * 300
        assert store.read(kept) == [b"1"] * 300
        assert store.delete(space + b"v/1/") == 0
        assert store.delete(space) == 300


def test_known_keys_of_a_large_server_are_deleted_without_looking_through_it(
    address: str, space: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(RedisStore(address)) as store:
        keys = [space + b"v/1/{%d}" % number for number in range(2500)]
        store.write([Entry(key, b"1") for key in keys])
        assert store.delete(space + b"v/1/", known=[keys[:10]]) == 2500, "a small server is looked through, which misses nothing"
        store.write([Entry(key, b"1") for key in keys])
        monkeypatch.setattr(deletion, "_LOOKED_THROUGH", 0)
        with client_of(address) as client:
            before = client.info("commandstats", **_everywhere(client))
            assert store.delete(space + b"v/1/", known=iter([keys[:2000], keys[2000:2400]])) == 2400
            after = client.info("commandstats", **_everywhere(client))
        assert _scans(after) == _scans(before)
        assert store.delete(space) == 100


def test_what_lies_beside_packed_values_is_deleted_with_the_space(valkey_url: str, space: bytes) -> None:
    """The marks, and keys of their own that nobody deleted when the layout was changed."""
    with closing(RedisStore(packed(valkey_url))) as store, closing(RedisStore(valkey_url)) as plain:
        store.marks.place(Epoch(space + b"!", b"one"))
        store.write([Entry(space + b"v/1/{%d}" % number, b"1") for number in range(100)])
        plain.write([Entry(space + b"v/1/{%d}" % number, b"1") for number in range(100)])
        assert store.delete(space) == 201
        assert plain.marks.strangers(space) == {}


def _everywhere(client: object) -> dict[str, str]:
    return {"target_nodes": "primaries"} if isinstance(client, redis.RedisCluster) else {}


def _scans(stats: dict[str, dict[str, object]]) -> int:
    each = [stats] if any(name.startswith("cmdstat_") for name in stats) else list(stats.values())
    return sum(node.get("cmdstat_scan", {}).get("calls", 0) for node in each)


# -- settings of the server --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "options", "large"),
    [
        (40, (), False),
        (109, (), True),
        (109, ("--hash-max-listpack-value", "1024"), False),
        (40, ("--hash-max-listpack-entries", "4"), True),
    ],
)
def test_settings_that_defeat_packing_are_noticed(size: int, options: tuple[str, ...], large: bool) -> None:
    chance = random.Random(1)
    with ValkeyServer(*options) as server:
        url = packed(server.url, "pack=64&entities=6400")
        assert not any("hash tables" in problem for problem in RedisStore.facts(url)[1])
        with closing(RedisStore(url)) as store:
            store.write([Entry(b"p/r/v/1/{%d}" % number, chance.randbytes(size)) for number in range(6400)])
        assert any("hash-max-listpack-value" in problem for problem in RedisStore.facts(url)[1]) == large
        assert not any("hash-max-listpack-value" in problem for problem in RedisStore.facts(server.url)[1])


def test_packing_takes_at_most_two_thirds_of_the_memory() -> None:
    chance = random.Random(1)
    sizes = {}
    for name, options in (("plain", ""), ("packed", "?pack=64&entities=19200")):
        with ValkeyServer("--hash-max-listpack-value", "1024") as server, redis.Redis(port=server.port) as client:
            before = client.info("memory")["used_memory"]
            with closing(RedisStore(server.url + options)) as store:
                store.write(
                    [Entry(b"project/5k2m8xqa/view/1/{\xabuser_%06d}" % number, chance.randbytes(109)) for number in range(19200)]
                )
            sizes[name] = client.info("memory")["used_memory"] - before
    assert sizes["packed"] < sizes["plain"] * 0.67
