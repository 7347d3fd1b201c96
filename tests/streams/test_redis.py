"""Redis Streams, on Valkey and on the machine's Redis."""

import random

import pytest
import redis

from featurestore.errors import ConfigError, StreamError
from featurestore.streams.base import Entry, StreamConsumer
from featurestore.streams.redis import RedisConsumer
from featurestore.testing.streams import LONG, Make, StreamContract, payloads, read_all, settled
from tests.effort import few
from tests.servers.valkey import ValkeyServer, free_port, wait_until


@pytest.fixture(scope="module", params=few(["valkey_unix_url", "redis_server_url"], ["valkey_unix_url"]))
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(request.param)
    return found


class TestRedis(StreamContract):
    @pytest.fixture(autouse=True)
    def at(self, url: str):
        self.url = url
        with redis.Redis.from_url(url) as self.raw:
            yield

    def consumer(self, topic: str, group: str, idle: float) -> StreamConsumer:
        return RedisConsumer(self.url, topic, group, idle_seconds=idle)

    def add(self, topic: str, *payloads: bytes) -> None:
        for each in payloads:
            self.raw.xadd(topic, {"payload": each})

    def damage(self, topic: str, group: str, **values: bytes) -> None:
        self.raw.hset(f"{topic}:{group}:rejected", mapping=dict(values))

    def begin(self, topic: str) -> None:
        """The group makes it."""

    def away(self, topic: str) -> StreamConsumer:
        return RedisConsumer(f"redis://127.0.0.1:{free_port()}", topic, "g", idle_seconds=LONG)

    def test_entries_that_were_trimmed_while_they_were_pending_are_passed_over(self, make: Make, topic: str) -> None:
        self.add(topic, b"1", b"2")
        assert len(read_all(make(idle=0.05), 2)) == 2
        self.raw.xtrim(topic, maxlen=1, approximate=False)
        assert payloads(read_all(make(idle=0.05), 1)) == [b"2"]

    def begun(self, make: Make, topic: str, count: int, idle: float = LONG) -> StreamConsumer:
        """A consumer that has done with its first entries."""
        consumer = make(idle=idle)
        assert consumer.lag().lost == 0
        self.add(topic, *(b"%d" % number for number in range(count)))
        if count:
            consumer.acknowledge(read_all(consumer, count))
        assert consumer.lag().lost == 0
        return consumer

    @pytest.mark.parametrize("done", [0, 3])
    def test_f18_unread_entries_that_were_trimmed_are_counted_as_lost(self, make: Make, topic: str, done: int) -> None:
        consumer = self.begun(make, topic, done)
        self.add(topic, *(b"%d" % number for number in range(10)))
        self.raw.xtrim(topic, maxlen=4, approximate=False)
        assert make().lag().lost == 6
        consumer.acknowledge(read_all(consumer, 4))
        for _ in range(2):
            assert (settled(consumer).lost, make().lag().lost) == (6, 6)
        self.add(topic, b"more")
        consumer.acknowledge(read_all(consumer, 1))
        assert settled(consumer).lost == 6

    def test_f18_all_that_is_unread_may_be_gone(self, make: Make, topic: str) -> None:
        consumer = self.begun(make, topic, 2)
        self.add(topic, b"1", b"2", b"3")
        self.raw.xtrim(topic, maxlen=0, approximate=False)
        assert consumer.lag().lost == 3

    def test_f18_unread_entries_that_were_deleted_are_counted_as_lost(self, make: Make, topic: str) -> None:
        consumer = self.begun(make, topic, 2)
        self.add(topic, *(b"%d" % number for number in range(6)))
        names = [name for name, _ in self.raw.xrange(topic)]
        self.raw.xdel(topic, names[3], names[5])
        consumer.acknowledge(read_all(consumer, 4))
        assert settled(consumer).lost == 2

    def test_f18_pending_entries_that_were_trimmed_are_counted_as_lost(self, make: Make, topic: str) -> None:
        self.begun(make, topic, 1)
        self.add(topic, b"1", b"2", b"3")
        assert len(read_all(make(idle=0.05), 3)) == 3
        self.raw.xtrim(topic, maxlen=1, approximate=False)
        other = make(idle=0.05)
        [left] = read_all(other, 1)
        assert left.fields == {b"payload": b"3"}
        other.acknowledge([left])
        wait_until(lambda: other.read(1, 0.01) == [] and other.lag().lost == 2, "what was pending is not missed")

    def test_f18_pending_entries_of_a_consumer_that_was_deleted_are_counted_as_lost(self, make: Make, topic: str) -> None:
        consumer = self.begun(make, topic, 1)
        self.add(topic, b"1", b"2", b"3")
        done, *_ = read_all(consumer, 3)
        consumer.acknowledge([done])
        group = self.raw.xinfo_groups(topic)[0]["name"]
        for each in self.raw.xinfo_consumers(topic, group):
            self.raw.xgroup_delconsumer(topic, group, each["name"])
        assert make().lag().lost == 2

    def test_f18_a_stream_that_was_deleted_with_what_was_unread(self, make: Make, topic: str) -> None:
        consumer = self.begun(make, topic, 2)
        self.add(topic, b"1", b"2", b"3")
        assert consumer.lag().waiting == 3
        self.raw.delete(topic)
        self.add(topic, b"4")
        consumer.acknowledge(read_all(consumer, 1))
        assert settled(consumer).lost == 3

    def test_f18_nothing_is_lost_where_a_group_is_set_back(self, make: Make, topic: str) -> None:
        consumer = self.begun(make, topic, 5)
        self.raw.xgroup_setid(topic, self.raw.xinfo_groups(topic)[0]["name"], "0")
        consumer.acknowledge(read_all(consumer, 5))
        assert settled(consumer).lost == 0
        consumer.set_aside(self.more(consumer, topic), "why")
        consumer.shelf.put_back([each.entry.id for each in consumer.shelf.read()])
        consumer.acknowledge(read_all(consumer, 1))
        assert settled(consumer).lost == 0

    def more(self, consumer: StreamConsumer, topic: str) -> Entry:
        self.add(topic, b"more")
        return read_all(consumer, 1)[0]

    @pytest.mark.parametrize("seed", range(3))
    def test_f18_nothing_is_lost_whatever_the_order_of_reads_and_acknowledgements(self, make: Make, topic: str, seed: int) -> None:
        draw = random.Random(seed)
        workers, taken = [make(idle=0.02) for _ in range(3)], []
        dropped = 0
        for _ in range(60):
            what = draw.randrange(5)
            if what == 0:
                self.add(topic, *(b"%d" % number for number in range(draw.randrange(4))))
            elif what == 1:
                taken += draw.choice(workers).read(draw.randrange(1, 4), 0.001)
            elif what == 2 and taken:
                draw.choice(workers).acknowledge([taken.pop(draw.randrange(len(taken)))])
            elif what == 3 and taken:
                draw.choice(workers).set_aside(taken.pop(), "why")
            else:
                assert draw.choice(workers).lag().lost == dropped == 0
        for each in workers:
            each.acknowledge(taken)
        assert workers[0].lag().lost == 0

    def test_a_user_that_may_not_run_scripts_still_works(self, make: Make, topic: str) -> None:
        self.raw.acl_setuser("plain", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-eval"])
        try:
            url = self.url.replace("://", "://plain:x@", 1) if "@" not in self.url else self.url
            consumer = RedisConsumer(url, topic, "g", idle_seconds=LONG)
            self.add(topic, b"1")
            consumer.acknowledge(read_all(consumer, 1))
            assert (settled(consumer).pending, consumer.lag().lost) == (0, 0)
            consumer.close()
        finally:
            self.raw.acl_deluser("plain")

    def test_lag_where_the_server_cannot_tell(self, make: Make, topic: str) -> None:
        consumer = make()
        self.add(topic, *(b"%d" % number for number in range(5)))
        consumer.acknowledge(read_all(consumer, 1))
        self.raw.xdel(topic, self.raw.xrange(topic)[2][0])
        assert consumer.lag().waiting == 3

    def test_a_stream_that_was_deleted_is_made_anew(self, make: Make, topic: str) -> None:
        consumer = make()
        self.add(topic, b"1")
        consumer.acknowledge(read_all(consumer, 1))
        self.raw.delete(topic)
        self.add(topic, b"2")
        assert payloads(read_all(consumer, 1)) == [b"2"]

    def test_a_group_that_was_destroyed_is_made_anew(self, make: Make, topic: str) -> None:
        consumer = make()
        self.add(topic, b"1")
        taken = read_all(consumer, 1)
        [group] = self.raw.xinfo_groups(topic)
        self.raw.xgroup_destroy(topic, group["name"])
        assert consumer.lag().waiting == 1
        self.raw.xgroup_destroy(topic, group["name"])
        consumer.acknowledge(taken)
        assert payloads(read_all(consumer, 1)) == [b"1"]

    def test_what_was_taken_of_a_stream_that_was_deleted_can_be_acknowledged(self, make: Make, topic: str) -> None:
        consumer = make()
        self.add(topic, b"1", b"2")
        taken = read_all(consumer, 2)
        self.raw.delete(topic)
        consumer.acknowledge(taken[:1])
        consumer.set_aside(taken[1], "why")
        lag = consumer.lag()
        assert (lag.waiting, lag.pending, lag.set_aside) == (0, 0, 1)

    def test_a_key_of_another_kind(self, make: Make, topic: str) -> None:
        self.raw.set(topic, "x")
        with pytest.raises(StreamError, match="name the stream's key"):
            make().read(1, 0.01)


def test_a_server_in_cluster_mode_counts_nothing_and_acknowledges_all() -> None:
    """Its two keys are in two slots, over which it runs no script."""
    with (
        ValkeyServer("--cluster-enabled", "yes", "--cluster-port", str(free_port())) as server,
        redis.Redis.from_url(server.url) as raw,
    ):
        raw.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        wait_until(lambda: raw.execute_command("CLUSTER INFO")["cluster_state"] == "ok", "the cluster does not come up")
        consumer = RedisConsumer(server.url, "t", "g", idle_seconds=LONG)
        raw.xadd("t", {"payload": b"1"})
        consumer.acknowledge(read_all(consumer, 1))
        assert (settled(consumer).pending, consumer.lag().lost) == (0, 0)
        consumer.close()


def test_a_server_that_restarts_empty() -> None:
    with ValkeyServer() as server, redis.Redis.from_url(server.url) as raw:
        consumer = RedisConsumer(server.url, "t", "g", idle_seconds=LONG)
        raw.xadd("t", {"payload": b"1"})
        assert len(read_all(consumer, 1)) == 1
        server.stop(kill=True)
        with pytest.raises(StreamError, match="Is the server running"):
            consumer.read(1, 0.01)
        server.start()
        raw.xadd("t", {"payload": b"2"})
        assert payloads(read_all(consumer, 1)) == [b"2"]
        consumer.close()


def test_a_password_comes_from_a_variable_and_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="needs the variable SECRET"):
        RedisConsumer("redis://:${SECRET}@127.0.0.1", "t", "g", idle_seconds=1)
    monkeypatch.setenv("SECRET", "open-sesame")
    with ValkeyServer("--requirepass", "open-sesame") as server:
        address = server.url.replace("127", ":${SECRET}@127", 1)
        consumer = RedisConsumer(address, "t", "g", idle_seconds=1)
        assert consumer.read(1, 0.01) == []
        consumer.close()
        monkeypatch.setenv("SECRET", "wrong-one")
        consumer = RedisConsumer(address, "t", "g", idle_seconds=1)
        with pytest.raises(StreamError, match="Look at the user and the password") as caught:
            consumer.read(1, 0.01)
        assert "wrong-one" not in str(caught.value)
        consumer.close()
