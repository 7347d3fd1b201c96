"""NATS JetStream."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import nats
import pytest
from nats.js.errors import NoKeysError
from nats.js.kv import KeyValue

from featurestore.errors import StreamError
from featurestore.streams.base import StreamConsumer
from featurestore.streams.nats import NATSConsumer
from featurestore.testing.streams import LONG, StreamContract, payloads, read_all
from tests.servers.nats import NATSServer
from tests.servers.valkey import free_port


def at_broker(url: str, do: Callable[[Any], Awaitable[None]]) -> None:
    async def run() -> None:
        connection = await nats.connect(url)
        await do(connection.jetstream())
        await connection.close()

    asyncio.run(run())


class TestNATS(StreamContract):
    @pytest.fixture(autouse=True)
    def at(self, nats_server: NATSServer) -> None:
        self.server = nats_server

    def consumer(self, topic: str, group: str, idle: float) -> StreamConsumer:
        return NATSConsumer(self.server.url, topic, f"{topic}.{group}", idle_seconds=idle)

    def add(self, topic: str, *payloads: bytes) -> None:
        async def publish(js: Any) -> None:
            for each in payloads:
                await js.publish(topic, each)

        at_broker(self.server.url, publish)

    def damage(self, topic: str, group: str, **values: bytes) -> None:
        async def write(js: Any) -> None:
            bucket = await js.key_value(f"{topic}.{group}_rejected".replace(".", "_"))
            for name, value in values.items():
                await bucket.put(name, value)

        at_broker(self.server.url, write)

    def begin(self, topic: str) -> None:
        at_broker(self.server.url, lambda js: js.add_stream(name=topic, subjects=[topic]))

    def away(self, topic: str) -> StreamConsumer:
        return NATSConsumer(f"nats://127.0.0.1:{free_port()}", topic, "g", idle_seconds=LONG)

    def test_a_subject_that_no_stream_has(self) -> None:
        consumer = self.consumer("nowhere", "g", LONG)
        with pytest.raises(StreamError, match="nats stream add --subjects nowhere"):
            consumer.read(1, 0.01)
        consumer.close()

    def test_the_shelf_is_read_where_the_client_says_too_early_that_it_is_empty(
        self, make: Any, topic: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It does, if the keys that it asked for reach it after the server's count of them."""
        consumer = make()
        self.add(topic, b"1", b"2")
        first, second = read_all(consumer, 2)
        for entry in (first, second):
            consumer.set_aside(entry, "no row")
        assert consumer.shelf.remove([second.id]) == 1

        async def too_early(*_: Any, **__: Any) -> list[str]:
            raise NoKeysError

        monkeypatch.setattr(KeyValue, "keys", too_early)
        assert [each.entry.id for each in consumer.shelf.read()] == [first.id]
        assert consumer.shelf.remove([first.id, second.id]) == 1
        assert consumer.shelf.read() == []


async def purged(js: Any, topic: str, keep: int) -> None:
    await js.purge_stream(topic, keep=keep)


class TestLost:
    """F18: what a server drops before it was read."""

    @pytest.fixture
    def topic(self, nats_server: NATSServer) -> str:
        self.url, name = nats_server.url, f"lost{uuid4().hex[:8]}"
        at_broker(self.url, lambda js: js.add_stream(name=name, subjects=[name]))
        return name

    def add(self, topic: str, count: int) -> None:
        async def publish(js: Any) -> None:
            for number in range(count):
                await js.publish(topic, b"%d" % number)

        at_broker(self.url, publish)

    @pytest.mark.parametrize("done", [0, 3])
    @pytest.mark.parametrize("keep", [4, 0])
    def test_unread_messages_that_were_purged(self, topic: str, done: int, keep: int) -> None:
        consumer = NATSConsumer(self.url, topic, f"{topic}.g", idle_seconds=LONG)
        self.add(topic, done)
        assert consumer.lag().lost == 0
        if done:
            consumer.acknowledge(read_all(consumer, done))
        consumer.close()
        self.add(topic, 10)
        at_broker(self.url, lambda js: purged(js, topic, keep))
        consumer = NATSConsumer(self.url, topic, f"{topic}.g", idle_seconds=LONG)
        assert consumer.lag().lost == 10 - keep
        if keep:
            consumer.acknowledge(read_all(consumer, keep))
        assert consumer.lag().lost == 10 - keep
        consumer.close()
        consumer = NATSConsumer(self.url, topic, f"{topic}.g", idle_seconds=LONG)
        assert consumer.lag().lost == 10 - keep
        consumer.close()

    def test_unread_messages_that_fell_to_the_limits(self, topic: str) -> None:
        consumer = NATSConsumer(self.url, topic, f"{topic}.g", idle_seconds=LONG)
        self.add(topic, 2)
        consumer.acknowledge(read_all(consumer, 2))
        consumer.close()
        at_broker(self.url, lambda js: js.update_stream(name=topic, subjects=[topic], max_msgs=5))
        self.add(topic, 12)
        consumer = NATSConsumer(self.url, topic, f"{topic}.g", idle_seconds=LONG)
        assert consumer.lag().lost == 7
        assert len(read_all(consumer, 5)) == 5
        consumer.close()

    def test_a_stream_that_was_deleted_with_what_was_unread(self, topic: str) -> None:
        consumer = NATSConsumer(self.url, topic, f"{topic}.g", idle_seconds=LONG)
        self.add(topic, 5)
        consumer.acknowledge(read_all(consumer, 2)[:2])
        read = 5 - consumer.lag().waiting
        consumer.close()
        at_broker(self.url, lambda js: js.delete_stream(topic))
        at_broker(self.url, lambda js: js.add_stream(name=topic, subjects=[topic]))
        self.add(topic, 1)
        consumer = NATSConsumer(self.url, topic, f"{topic}.g", idle_seconds=LONG)
        assert consumer.lag().lost == 5 - read
        assert len(read_all(consumer, 1)) == 1
        consumer.close()

    def test_nothing_is_lost_where_what_was_read_is_purged(self, topic: str) -> None:
        consumer = NATSConsumer(self.url, topic, f"{topic}.g", idle_seconds=LONG)
        self.add(topic, 5)
        consumer.acknowledge(read_all(consumer, 5))
        at_broker(self.url, lambda js: purged(js, topic, 0))
        self.add(topic, 2)
        assert consumer.lag().lost == 0
        consumer.acknowledge(read_all(consumer, 2))
        assert consumer.lag().lost == 0
        consumer.close()


def test_a_server_that_was_stopped_and_started() -> None:
    with NATSServer() as server:
        at_broker(server.url, lambda js: js.add_stream(name="t", subjects=["t"]))
        at_broker(server.url, lambda js: js.publish("t", b"1"))
        consumer = NATSConsumer(server.url, "t", "g", idle_seconds=0.2)
        assert payloads(read_all(consumer, 1)) == [b"1"]
        server.stop()
        with pytest.raises(StreamError, match="Is the server running"):
            consumer.lag()
        server.start()
        assert payloads(read_all(consumer, 1)) == [b"1"]
        consumer.close()
