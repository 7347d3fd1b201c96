"""Redis Streams, on Valkey and on the machine's Redis."""

import pytest
import redis

from featurestore.errors import ConfigError, StreamError
from featurestore.streams.base import StreamConsumer
from featurestore.streams.redis import RedisConsumer
from tests.servers.valkey import ValkeyServer, free_port
from tests.streams.contract import LONG, Make, StreamContract, payloads, read_all


@pytest.fixture(scope="module", params=["valkey_unix_url", "redis_server_url"])
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

    def begin(self, topic: str) -> None:
        """The group makes it."""

    def away(self, topic: str) -> StreamConsumer:
        return RedisConsumer(f"redis://127.0.0.1:{free_port()}", topic, "g", idle_seconds=LONG)

    def test_entries_that_were_trimmed_while_they_were_pending_are_passed_over(self, make: Make, topic: str) -> None:
        self.add(topic, b"1", b"2")
        assert len(read_all(make(idle=0.05), 2)) == 2
        self.raw.xtrim(topic, maxlen=1, approximate=False)
        assert payloads(read_all(make(idle=0.05), 1)) == [b"2"]

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

    def test_a_key_of_another_kind(self, make: Make, topic: str) -> None:
        self.raw.set(topic, "x")
        with pytest.raises(StreamError, match="name the stream's key"):
            make().read(1, 0.01)


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
