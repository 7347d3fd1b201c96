"""NATS JetStream: a durable pull consumer.

Entries that are set aside are in the key-value bucket ``<durable>_rejected``, by their ids, as ``shelved.pack`` packs them. How far
the workers have read, and how many messages the server dropped before that, is in the bucket ``<durable>_counts``.
"""

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from featurestore.clock import Clock, from_micros, to_micros, utc_now
from featurestore.errors import MissingExtraError, StreamError, StreamRefusedError
from featurestore.streams.base import DAMAGED, DeadLetter, Entry, Lag, StreamAdapter
from featurestore.streams.dead_letters import expanded, in_order, pack, unpack

try:
    import nats.aio.client
    import nats.errors
    import nats.js.api
    import nats.js.errors
except ImportError as error:
    raise MissingExtraError("a stream of NATS", "nats") from error

T = TypeVar("T")

_PAYLOAD = b"payload"
_SECONDS = 5.0
_PATIENCE = 30.0
_MOST_PENDING = 200_000
_ROOM = 4_096
"""So many bytes of a message are left for what stands beside its payload."""
_NOTE_SECONDS = 1.0
_TRIES = 5


@dataclass(frozen=True)
class _Place:
    """How far a stream was read: the last message that a worker was given, the stream's last one then, and how many are lost."""

    read: int
    last: int
    lost: int = 0


class NATSConsumer(StreamAdapter):
    """The ``StreamConsumer`` of a subject that a JetStream stream has.

    Args:
        url: ``nats://`` or ``tls://``, with ``${NAME}`` for what a variable holds; several servers with commas between them.
        topic: the subject. A JetStream stream must have it.
        group: names the durable consumer, which is made where it is not there, and begins with the oldest message.
        idle_seconds: after how long a message that a worker was given and did not acknowledge is given to another.
        clock: tells the present, where the server does not.
    """

    def __init__(self, url: str, topic: str, group: str, *, idle_seconds: float, clock: Clock = utc_now) -> None:
        self._nats: Any = nats
        self._shown = f"The subject {topic!r} at {url}"
        self._servers = expanded(url).split(",")
        self._topic, self._durable = topic, re.sub(r"[^A-Za-z0-9_-]", "_", group)
        self._idle, self._clock = idle_seconds, clock
        self._given: dict[str, Any] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: Any = None
        self._js: Any = None
        self._subscription: Any = None
        self._stream = ""
        self._bucket: Any = None
        self._counts: Any = None
        self._read_to, self._noted = 0, 0.0
        self._kept = 0.0
        self.shelf = NATSShelf(self)

    @classmethod
    def open(cls, url: str, topic: str, group: str, *, idle_seconds: float) -> "NATSConsumer":
        """See ``StreamAdapter.open``."""
        return cls(url, topic, group, idle_seconds=idle_seconds)

    def read(self, count: int, seconds: float, *, pending: Sequence[Entry] = ()) -> list[Entry]:
        """See ``StreamConsumer.read``."""
        return self.run(lambda: self._read(count, seconds, pending))

    def acknowledge(self, entries: Sequence[Entry]) -> None:
        """See ``StreamConsumer.acknowledge``."""
        if entries:
            self.run(lambda: self._acknowledge(entries))

    def set_aside(self, entry: Entry, reason: str) -> None:
        """See ``StreamConsumer.set_aside``."""
        self.run(lambda: self._set_aside(entry, reason))

    def lag(self) -> Lag:
        """See ``StreamConsumer.lag``."""
        return self.run(self._lag)

    def check(self) -> str:
        """See ``StreamConsumer.check``."""

        async def version() -> str:
            server_version = self._connection.connected_server_version
            return f"nats {server_version.major}.{server_version.minor}.{server_version.patch}"

        return self.run(version)

    def close(self) -> None:
        """See ``StreamConsumer.close``."""
        loop, self._loop = self._loop, None
        if loop is None:
            return
        with suppress(TimeoutError, StreamError), self.translated():
            asyncio.run_coroutine_threadsafe(self._leave(), loop).result(_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join()
        loop.close()

    def run(self, do: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what a coroutine returns, which runs in the thread of this consumer, once there is a connection."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="featurestore-nats", daemon=True)
            self._thread.start()

        async def connected() -> T:
            await self._connect()
            return await do()

        future = asyncio.run_coroutine_threadsafe(connected(), self._loop)
        with self.translated():
            try:
                return future.result(_PATIENCE)
            except TimeoutError:
                future.cancel()
                raise

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn the client's errors into ``StreamError``."""
        try:
            yield
        except self._nats.js.errors.NotFoundError as error:
            self._subscription = None
            raise StreamRefusedError(
                f"{self._shown} is in no JetStream stream: {_message_of(error)}. "
                f"Make one that has it: nats stream add --subjects {self._topic}"
            ) from error
        except (self._nats.errors.Error, self._nats.js.errors.Error, OSError, TimeoutError) as error:
            self._subscription = None
            raise StreamError(
                f"{self._shown} failed: {_message_of(error)}. Is the server running, with JetStream (-js), and is the address "
                "right? Nothing is lost: it is tried again."
            ) from error

    async def bucket(self) -> Any:
        """Return where entries are set aside."""
        if self._bucket is None:
            self._bucket = await self._js.create_key_value(bucket=f"{self._durable}_rejected", history=1)
        return self._bucket

    async def names_kept(self) -> list[str]:
        """Return the ids of the entries that are set aside, and perhaps of some that were removed."""
        bucket = f"{self._durable}_rejected"
        info = await self._js.stream_info(f"KV_{bucket}", subjects_filter=">")
        return [subject.removeprefix(f"$KV.{bucket}.") for subject in info.state.subjects or {}]

    async def message(self, entry: Entry) -> Entry:
        """Return an entry with its payload, which is still in the stream where it was too long for the bucket; else without."""
        if entry.fields:
            return entry
        await self._subscribed()
        with suppress(self._nats.js.errors.NotFoundError):
            message = await self._js.get_msg(self._stream, seq=int(entry.id.rpartition("-")[2]))
            return replace(entry, fields={_PAYLOAD: message.data or b""})
        return entry

    async def add(self, fields: Mapping[bytes, bytes]) -> None:
        """Add a message to the stream."""
        await self._js.publish(self._topic, fields.get(_PAYLOAD, b""), timeout=_SECONDS)

    async def _connect(self) -> None:
        if self._connection is None or self._connection.is_closed:
            self._subscription = self._bucket = self._counts = None
            connection = self._nats.aio.client.Client()
            try:
                await connection.connect(
                    self._servers, connect_timeout=_SECONDS, max_reconnect_attempts=1, reconnect_time_wait=0.1,
                    error_cb=_ignore,
                )  # fmt: skip
            except BaseException:
                await connection.close()
                raise
            self._connection, self._js = connection, connection.jetstream(timeout=_SECONDS)

    async def _subscribed(self) -> Any:
        if self._subscription is None:
            self._given.clear()
            self._stream = await self._js.find_stream_name_by_subject(self._topic)
            api = self._nats.js.api
            config = api.ConsumerConfig(
                durable_name=self._durable, ack_policy=api.AckPolicy.EXPLICIT, ack_wait=self._idle, max_ack_pending=_MOST_PENDING,
                deliver_policy=api.DeliverPolicy.ALL, filter_subject=self._topic,
            )  # fmt: skip
            await self._js.add_consumer(self._stream, config)
            self._subscription = await self._js.pull_subscribe_bind(durable=self._durable, stream=self._stream)
            self._read_to = 0
            await self._lost()
        return self._subscription

    async def _read(self, count: int, seconds: float, pending: Sequence[Entry]) -> list[Entry]:
        subscription = await self._subscribed()
        now = time.perf_counter()
        if pending and now - self._kept > self._idle / 4:
            self._kept = now
            for message in [self._given[entry.id] for entry in pending if entry.id in self._given]:
                await message.in_progress()
        try:
            messages = await subscription.fetch(count, timeout=max(seconds, 0.001))
        except TimeoutError:  # the client's own is one, and where its time is short it raises Python's
            return []
        entries = [self._entry(message) for message in messages]
        self._read_to = max(self._read_to, *(message.metadata.sequence.stream for message in messages), 0)
        if now - self._noted > _NOTE_SECONDS:
            self._noted = now
            await self._lost()
        return entries

    def _entry(self, message: Any) -> Entry:
        facts = message.metadata
        micros = to_micros(facts.timestamp)
        # NOTE: with the time, for a stream that is made anew numbers its messages from 1 again.
        name = f"{micros}-{facts.sequence.stream}"
        self._given[name] = message
        return Entry(name, micros, {_PAYLOAD: message.data}, facts.num_delivered or 1)

    async def _acknowledge(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            message = self._given.pop(entry.id, None)
            if message is not None:
                await message.ack()
        await self._connection.flush(_SECONDS)

    async def _set_aside(self, entry: Entry, reason: str) -> None:
        packed = pack(entry, reason)
        if len(packed) > self._connection.max_payload - _ROOM:
            packed = pack(replace(entry, fields={}), f"{reason} (its payload is too long to be kept: it stays in the stream alone)")
        await (await self.bucket()).put(entry.id, packed)
        await self._acknowledge([entry])

    async def _lag(self) -> Lag:
        await self._subscribed()
        facts = await self._js.consumer_info(self._stream, self._durable)
        waiting, pending = facts.num_pending or 0, facts.num_ack_pending or 0
        seconds, now = 0.0, await self._time()
        if waiting or pending:
            first = (facts.ack_floor.stream_seq if facts.ack_floor else 0) + 1
            with suppress(self._nats.js.errors.NotFoundError):
                oldest = await self._js.get_msg(self._stream, seq=first, subject=self._topic, next=True)
                if oldest.time is not None:
                    seconds = max(timedelta(0), from_micros(now) - oldest.time).total_seconds()
        aside = await self._js.stream_info(f"KV_{self._durable}_rejected") if await self.bucket() else None
        return Lag(waiting, pending, seconds, aside.state.messages if aside is not None else 0, await self._lost(), now)

    async def _lost(self) -> int:
        """Note how far the stream was read, and return how many of its messages were dropped before they were.

        Messages are numbered without gaps, so those between the last one read and the first one that is left are lost. Of a stream
        that has other subjects too it is unknown whose they were.
        """
        errors = self._nats.js.errors
        facts = await self._js.stream_info(self._stream)
        if facts.config.subjects != [self._topic]:
            return 0
        if self._counts is None:
            self._counts = await self._js.create_key_value(bucket=f"{self._durable}_counts", history=1)
        first, last = facts.state.first_seq or 1, facts.state.last_seq
        for _ in range(_TRIES):
            try:
                kept = await self._counts.get(self._stream)
                known, revision = _Place(**json.loads(kept.value)), kept.revision
            except errors.KeyNotFoundError:
                given = (await self._js.consumer_info(self._stream, self._durable)).delivered
                known, revision = _Place(max(first - 1, given.stream_seq if given else 0), last), 0
            lost = known.lost
            if last < known.last:  # it was made anew: what was unread is gone with the old one
                lost += max(0, known.last - max(known.read, self._read_to))
                read = self._read_to = min(self._read_to, last)
            else:
                read = max(known.read, self._read_to)
                lost += max(0, first - 1 - read)
            place = _Place(max(read, first - 1), last, lost)
            if revision and place == known:
                break
            with suppress(errors.KeyWrongLastSequenceError):
                await self._counts.update(self._stream, json.dumps(asdict(place)).encode(), last=revision)
                break
        return place.lost

    async def _time(self) -> int:
        await self._subscribed()
        answer = await self._connection.request(f"$JS.API.CONSUMER.INFO.{self._stream}.{self._durable}", b"", timeout=_SECONDS)
        timestamp = json.loads(answer.data).get("ts")
        # A server before 2.10 does not tell.
        return to_micros(self._clock() if timestamp is None else datetime.fromisoformat(timestamp))

    async def _leave(self) -> None:
        if self._connection is not None:
            with suppress(self._nats.errors.Error, self._nats.js.errors.Error, OSError):
                if self._subscription is not None and self._connection.is_connected:
                    await asyncio.wait_for(self._lost(), _SECONDS / 2)
            await self._connection.close()


class NATSShelf:
    """The ``DeadLetterQueue`` of a subject.

    Args:
        consumer: the consumer whose it is.
    """

    def __init__(self, consumer: NATSConsumer) -> None:
        self._consumer = consumer

    def read(self) -> list[DeadLetter]:
        """See ``DeadLetterQueue.read``."""
        return self._consumer.run(self._read)

    def remove(self, ids: Sequence[str]) -> int:
        """See ``DeadLetterQueue.remove``."""
        return self._consumer.run(lambda: self._remove(ids))

    def put_back(self, ids: Sequence[str]) -> int:
        """See ``DeadLetterQueue.put_back``."""
        return self._consumer.run(lambda: self._put_back(ids))

    async def _read(self) -> list[DeadLetter]:
        kept = [unpack(name, value) for name, value in (await self._values()).items()]
        return in_order([replace(letter, entry=await self._consumer.message(letter.entry)) for letter in kept])

    async def _values(self, ids: Sequence[str] | None = None) -> dict[str, bytes]:
        """Return what is kept, by the ids of the entries; of some entries, or of all."""
        bucket = await self._consumer.bucket()
        values = {}
        names = await self._names(bucket)
        for name in names if ids is None else sorted(set(names).intersection(ids)):
            with suppress(nats.js.errors.KeyNotFoundError):  # it was removed meanwhile
                values[name] = (await bucket.get(name)).value or b""
        return values

    async def _names(self, bucket: Any) -> list[str]:
        try:
            names: list[str] = await bucket.keys()
        except nats.js.errors.NoKeysError:
            # NOTE: the client says this also if the keys that it asked for have not reached it yet. The server knows.
            names = await self._consumer.names_kept()
        return names

    async def _remove(self, ids: Sequence[str]) -> int:
        return await self._purge(await self._values(ids))

    async def _purge(self, names: Collection[str]) -> int:
        bucket = await self._consumer.bucket()
        for name in names:
            await bucket.purge(name)
        if names:
            await bucket.purge_deletes(olderthan=-1)
        return len(names)

    async def _put_back(self, ids: Sequence[str]) -> int:
        put = 0
        for name, value in (await self._values(ids)).items():
            kept = unpack(name, value)
            entry = await self._consumer.message(kept.entry)
            if entry.fields and kept.reason != DAMAGED:
                await self._consumer.add(entry.fields)
                put += await self._purge([name])
        return put


def _message_of(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__


async def _ignore(_: Exception) -> None:
    """Ignore errors that the client reports besides: the call itself raises them for its caller."""
