"""NATS JetStream."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import nats
import pytest

from featurestore.errors import StreamError
from featurestore.streams.base import StreamConsumer
from featurestore.streams.nats import NATSConsumer
from tests.servers.nats import NATSServer
from tests.servers.valkey import free_port
from tests.streams.contract import LONG, StreamContract, payloads, read_all


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

    def begin(self, topic: str) -> None:
        at_broker(self.server.url, lambda js: js.add_stream(name=topic, subjects=[topic]))

    def away(self, topic: str) -> StreamConsumer:
        return NATSConsumer(f"nats://127.0.0.1:{free_port()}", topic, "g", idle_seconds=LONG)

    def test_a_subject_that_no_stream_has(self) -> None:
        consumer = self.consumer("nowhere", "g", LONG)
        with pytest.raises(StreamError, match="nats stream add --subjects nowhere"):
            consumer.read(1, 0.01)
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
