"""Redis Streams: a consumer group on Redis 7 or Valkey.

Entries that are set aside are in the hash ``<topic>:<group>:rejected``, by their ids, as ``shelved.pack`` packs them. How many
the group was done with, and how many the server dropped before that, is in the hash ``<topic>:<group>:counts``.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from featurestore.errors import ConfigError, MissingExtraError, StreamError, StreamRefusedError
from featurestore.streams.base import DAMAGED, DeadLetter, Entry, Lag, StreamAdapter
from featurestore.streams.dead_letters import expanded, in_order, pack, unpack

try:
    import redis
except ImportError as error:
    raise MissingExtraError("a stream of Redis or Valkey", "redis") from error

T = TypeVar("T")

_SOCKET_SECONDS = 5.0
_PAGE = 10_000
_MOST_PAGES = 10
"""So many pages of entries are counted where the server cannot tell how many there are (after some were deleted)."""
_COMMANDS = (
    "XREADGROUP, XACK, XCLAIM, XAUTOCLAIM, XPENDING, XGROUP, XINFO, XRANGE, XADD, HSET, HGET, HGETALL, HMGET, HDEL, HLEN, HEXISTS, "
    "HINCRBY, EVAL and TIME"
)
_IN_SCRIPTS = ("ACL failure in script", "executing the script can't run")
"""What Valkey and Redis say of a script that runs a command which its user may not; redis-py has no class for that."""
_REFUSALS = ("WRONGTYPE", "WRONGPASS", "NOAUTH", "NOPERM", "no permissions", *_IN_SCRIPTS)
"""What is in answers that will be the same next time."""
_COUNT = Path(__file__).with_name("redis_count.lua").read_bytes()
_MOST_ARGUMENTS = 1_000
_LAST = 253_402_300_799_999_999
"""The last microsecond of year 9999: an id may say more, and is then no time."""


class RedisConsumer(StreamAdapter):
    """The ``StreamConsumer`` of a Redis stream.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, with ``${NAME}`` for what a variable holds.
        topic: the stream's key. A stream that is not there yet is made.
        group: the consumer group. It is made where it is not there, and begins with the oldest entry.
        idle_seconds: after how long an entry that another worker was given and did not acknowledge is taken over.
    """

    def __init__(self, url: str, topic: str, group: str, *, idle_seconds: float) -> None:
        self._errors: Any = redis.exceptions
        self._shown = f"The stream {topic!r} at {url}"
        try:
            self._client: Any = redis.Redis.from_url(expanded(url), socket_timeout=_SOCKET_SECONDS, protocol=2)
        except ValueError as error:
            raise ConfigError(f"{url} is not a valid Redis address: {error}") from error
        self._topic, self._group = topic, group
        self._idle_ms = max(1, round(idle_seconds * 1000))
        self._name = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:6]}"
        self._ready = False
        self._looked: float | None = None
        self._kept = 0.0
        self._counts = f"{topic}:{group}:counts"
        self.shelf = RedisShelf(self, f"{topic}:{group}:rejected")

    @classmethod
    def open(cls, url: str, topic: str, group: str, *, idle_seconds: float) -> "RedisConsumer":
        """See ``StreamAdapter.open``."""
        return cls(url, topic, group, idle_seconds=idle_seconds)

    def read(self, count: int, seconds: float, *, pending: Sequence[Entry] = ()) -> list[Entry]:
        """See ``StreamConsumer.read``."""
        with self.translated():
            return self._again(lambda: self._keep(pending) or self._left_behind(count) or self._new(count, seconds))

    def acknowledge(self, entries: Sequence[Entry]) -> None:
        """See ``StreamConsumer.acknowledge``."""
        with self.translated():
            for first in range(0, len(entries), _MOST_ARGUMENTS):
                self._count(*(entry.id for entry in entries[first : first + _MOST_ARGUMENTS]))

    def set_aside(self, entry: Entry, reason: str) -> None:
        """See ``StreamConsumer.set_aside``."""
        with self.translated():
            self.shelf.put(entry, reason)
            self._count(entry.id)

    def lag(self) -> Lag:
        """See ``StreamConsumer.lag``."""
        with self.translated():
            return self._again(self._lag)

    def check(self) -> str:
        """See ``StreamConsumer.check``."""
        with self.translated():
            facts = self._client.info("server")
            kind = "valkey" if "valkey_version" in facts else "redis"
            return f"{kind} {facts[f'{kind}_version']}"

    def close(self) -> None:
        """See ``StreamConsumer.close``."""
        self._client.close()

    def ask(self, *command: Any) -> Any:
        """Return the answer to a command as the server gives it: redis-py would make dictionaries of it."""
        connection = self._client.connection_pool.get_connection()
        try:
            connection.send_command(*command)
            return connection.read_response()
        except self._errors.ResponseError:
            raise
        except BaseException:
            connection.disconnect()  # an answer that nobody waits for any more must not be taken for the next one's
            raise
        finally:
            self._client.connection_pool.release(connection)

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn redis-py's errors into ``StreamError``."""
        try:
            yield
        except (self._errors.RedisError, OSError) as error:
            refused = isinstance(error, self._errors.AuthenticationError) or any(code in str(error) for code in _REFUSALS)
            kind = StreamRefusedError if refused else StreamError
            raise kind(f"{self._shown} failed: {str(error).rstrip('.')}. {self._advice(error)}") from error

    def add(self, fields: Mapping[bytes, bytes]) -> None:
        """Add an entry to the stream."""
        self.ask("XADD", self._topic, "*", *(part for pair in fields.items() for part in pair))

    def _advice(self, error: Exception) -> str:
        errors = self._errors
        if isinstance(error, errors.NoPermissionError) or any(said in str(error) for said in _IN_SCRIPTS):
            return f"Give its user the commands {_COMMANDS}, on the keys {self._topic} and {self._topic}:*."
        if isinstance(error, (errors.AuthenticationError, errors.AuthorizationError)):
            return "Look at the user and the password in the address."
        if "WRONGTYPE" in str(error):
            return "Another kind of value has that key: name the stream's key as topic=."
        if isinstance(error, errors.ResponseError):
            return "Look at the server's log."
        return "Is the server running, and is the address right? Nothing is lost: it is tried again."

    def _again(self, do: Callable[[], T]) -> T:
        """Do something, after having made the group where the server does not know it (any more)."""
        if not self._ready:
            self._make_group()
        try:
            return do()
        except self._errors.ResponseError as error:
            if "NOGROUP" not in str(error) and "no such key" not in str(error).lower():
                raise
        self._make_group()
        return do()

    def _make_group(self) -> None:
        try:
            self.ask("XGROUP", "CREATE", self._topic, self._group, "0", "MKSTREAM")
        except self._errors.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        else:
            self._count(is_new=True)
        self._ready = True

    def _count(self, *ids: str, is_new: bool = False) -> int:
        """Acknowledge entries, count them, and return how many entries are lost by now."""
        try:
            return int(self.ask("EVAL", _COUNT, 2, self._topic, self._counts, self._group, int(is_new), *ids))
        except (self._errors.NoPermissionError, self._errors.ClusterCrossSlotError):
            # NOTE: a user that may not run scripts, as earlier versions needed none, still works, and so does a server in cluster
            # mode, which takes no script over keys of two slots; what is lost is not told then.
            if ids:
                self.ask("XACK", self._topic, self._group, *ids)
            return 0

    def _keep(self, pending: Sequence[Entry]) -> list[Entry]:
        """Keep entries from being taken for left behind; return none."""
        now = time.perf_counter()
        if not pending or now - self._kept < self._idle_ms / 4000:
            return []
        self._kept = now
        for first in range(0, len(pending), _MOST_ARGUMENTS):
            ids = [entry.id for entry in pending[first : first + _MOST_ARGUMENTS]]
            self.ask("XCLAIM", self._topic, self._group, self._name, 0, *ids, "JUSTID")
        return []

    def _left_behind(self, count: int) -> list[Entry]:
        """Take over entries that were with a worker for too long, be it this one; look for them now and then."""
        now = time.perf_counter()
        if self._looked is not None and now - self._looked < self._idle_ms / 2000:
            return []
        claim = ("XAUTOCLAIM", self._topic, self._group, self._name, self._idle_ms)
        cursor = b"0-0"
        entries_left: list[Any] = []
        while not entries_left:
            cursor, entries_left, *_ = self.ask(*claim, cursor, "COUNT", min(count, 1000))
            if cursor == b"0-0":
                if not entries_left:
                    self._looked = now
                    self._count()
                break
        if not entries_left:
            return []
        delivery_counts = self.ask(
            "XPENDING", self._topic, self._group, entries_left[0][0], entries_left[-1][0], 2 * len(entries_left), self._name
        )
        deliveries = {name: times for name, _, _, times in delivery_counts}
        return [_entry(name, fields, deliveries.get(name, 1)) for name, fields in entries_left if fields is not None]

    def _new(self, count: int, seconds: float) -> list[Entry]:
        # NOTE: 0 would wait for ever.
        block = max(1, min(round(seconds * 1000), round(_SOCKET_SECONDS * 500)))
        wanted = ("GROUP", self._group, self._name, "COUNT", count, "BLOCK", block, "STREAMS", self._topic, ">")
        answer = self.ask("XREADGROUP", *wanted)
        return [_entry(name, fields, 1) for name, fields in answer[0][1]] if answer else []

    def _lag(self) -> Lag:
        groups = self._client.xinfo_groups(self._topic)
        group = next((group_info for group_info in groups if group_info["name"] == self._group.encode()), None)
        if group is None:
            raise self._errors.ResponseError(f"NOGROUP the stream has no group {self._group!r}")
        pending, least, *_ = self.ask("XPENDING", self._topic, self._group)
        after = b"(" + group["last-delivered-id"]
        following = self.ask("XRANGE", self._topic, after, "+", "COUNT", 1)
        waiting = group.get("lag")
        if waiting is None:
            waiting = self._count_after(after)
        oldest = min((_millis(name) for name in ([least] if pending else []) + [name for name, _ in following]), default=None)
        seconds, micros = self.ask("TIME")
        now = int(seconds) * 1_000_000 + int(micros)
        behind = 0.0 if oldest is None else max(0.0, now / 1e6 - oldest / 1000)
        return Lag(waiting, pending, behind, self.ask("HLEN", self.shelf.key), self._count(), now)

    def _count_after(self, after: bytes) -> int:
        counted = 0
        for _ in range(_MOST_PAGES):
            page = self.ask("XRANGE", self._topic, after, "+", "COUNT", _PAGE)
            counted += len(page)
            if len(page) < _PAGE:
                break
            after = b"(" + page[-1][0]
        return counted


class RedisShelf:
    """The ``DeadLetterQueue`` of a Redis stream.

    Args:
        consumer: the consumer whose it is.
        key: the key of the hash.
    """

    def __init__(self, consumer: RedisConsumer, key: str) -> None:
        self._consumer = consumer
        self.key = key

    def put(self, entry: Entry, reason: str) -> None:
        """Put an entry there."""
        self._consumer.ask("HSET", self.key, entry.id, pack(entry, reason))

    def read(self) -> list[DeadLetter]:
        """See ``DeadLetterQueue.read``."""
        with self._consumer.translated():
            names_and_values = self._consumer.ask("HGETALL", self.key)
        return in_order(
            unpack(name.decode(errors="replace"), value)
            for name, value in zip(names_and_values[::2], names_and_values[1::2], strict=True)
        )

    def remove(self, ids: Sequence[str]) -> int:
        """See ``DeadLetterQueue.remove``."""
        with self._consumer.translated():
            return int(self._consumer.ask("HDEL", self.key, *ids)) if ids else 0

    def put_back(self, ids: Sequence[str]) -> int:
        """See ``DeadLetterQueue.put_back``."""
        if not ids:
            return 0
        put = 0
        with self._consumer.translated():
            for name, value in zip(ids, self._consumer.ask("HMGET", self.key, *ids), strict=True):
                if value is not None and (kept := unpack(name, value)).reason != DAMAGED:
                    self._consumer.add(kept.entry.fields)
                    put += self._consumer.ask("HDEL", self.key, name)
        return put


def _entry(name: bytes, fields: list[bytes], deliveries: int) -> Entry:
    # NOTE: the last microsecond of the millisecond, for the entry was not there at all of them: nobody knew it before (S2).
    time = min(_millis(name) * 1000 + 999, _LAST)
    return Entry(name.decode(), time, dict(zip(fields[::2], fields[1::2], strict=True)), deliveries)


def _millis(name: bytes) -> int:
    return int(name.partition(b"-")[0])
