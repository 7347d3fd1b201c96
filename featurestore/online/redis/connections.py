"""Connections to a Redis server, or to the nodes of a Cluster."""

import asyncio
import re
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from featurestore.online.base import Entry, Epoch
from featurestore.online.batching import batches
from featurestore.online.redis.layouts import Command, Layout, Script, checked
from featurestore.online.redis.per_loop import PerEventLoop

_ENTRIES_A_ROUND = 8000  # sent ahead of their answers, so that the server computes while the next ones are packed
_BYTES_A_ROUND = 8 << 20
_KEYS_A_SCAN = 1000
_MARKS = 64
"""How many marks a Cluster has: of its slots so many that each primary keeps one where slots are moved."""
_UNMARKED = (b"", b"")


class RedisDriver(Protocol):
    """What the links need of the client library."""

    errors: Any
    pack: Any
    most: int
    """How many connections there may be at once."""

    def pool(self) -> Any:
        """Return connections to a single server."""

    def pool_async(self) -> Any:
        """Return connections to a single server, for the running event loop."""

    def cluster(self) -> Any:
        """Return a client of a Cluster, which it asks for its nodes."""

    def cluster_async(self) -> Any:
        """Return a client of a Cluster, for the running event loop."""


class RedisBackend(Protocol):
    """What a single server and a Cluster do differently."""

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the value of each key, in order; None where there is none."""

    async def read_async(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Like ``read``, for the running event loop."""

    def rounds(self, entries: Iterable[Entry], epoch: Epoch | None) -> Iterator[list[Script]]:
        """Yield the runs of the script that write some entries: as many as to send at once."""

    def marks(self, key: bytes) -> list[tuple["Connections", list[bytes]]]:
        """Return each primary with the keys of marks that lie on it; what is given they begin with."""

    def look_again(self) -> None:
        """Ask where the primaries are."""

    def run(self, scripts: Sequence[Script]) -> list[Any]:
        """Return how many each wrote, or the error with which the server answered it."""

    def each(self, commands: Sequence[Command]) -> list[Any]:
        """Return the answers to commands of one key each, or the error with which the server answered it."""

    def servers(self) -> list["Connections"]:
        """Return the primaries."""

    def close(self) -> None:
        """Close the connections."""


class Connections:
    """The connections to one server. Commands are packed and answers read here: half the time of redis-py's methods."""

    def __init__(self, driver: RedisDriver, pool: Any) -> None:
        self._errors = driver.errors
        self._pack = driver.pack
        self._pool = pool

    def ask(self, *command: bytes) -> Any:
        """Return the answer to one command; raise the error that it is."""
        (answer,) = self.ask_all([command])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def ask_all(self, commands: Sequence[tuple[bytes, ...]]) -> list[Any]:
        """Return the answers to commands, which are sent at once; an error is an answer. Lost connections are renewed."""
        packed = [self._pack(command) for command in commands]
        try:
            return self._exchange(packed)
        except self._errors.ConnectionError:
            return self._exchange(packed)

    def scan(self, prefix: bytes) -> Iterator[list[bytes]]:
        """Yield the server's keys that begin with a prefix, some at a time; it looks through all that it has."""
        pattern = re.sub(rb"([*?\[\]\\])", rb"\\\1", prefix) + b"*"
        cursor = b"0"
        while True:
            cursor, keys = self.ask(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"%d" % _KEYS_A_SCAN)
            if keys:
                yield keys
            if cursor == b"0":
                return

    def size(self) -> int:
        """Return how many keys the server has, in all its databases."""
        info: bytes = self.ask(b"INFO", b"keyspace")
        return sum(int(keys) for keys in re.findall(rb":keys=(\d+)", info))

    def close(self) -> None:
        """Close the connections."""
        self._pool.disconnect()

    def _exchange(self, packed: Sequence[bytes]) -> list[Any]:
        connection = self._pool.get_connection()
        try:
            connection.send_packed_command(packed)
            return [self._answer(connection) for _ in packed]
        except BaseException:
            connection.disconnect()  # an answer that nobody waits for any more must not be taken for the next one's
            raise
        finally:
            self._pool.release(connection)

    def _answer(self, connection: Any) -> Any:
        try:
            return connection.read_response()
        except self._errors.ResponseError as error:
            return error


class _Turn:
    """The reads that were asked for in one turn of an event loop, and the task that makes one round trip of them."""

    __slots__ = ("keys", "values")

    values: "asyncio.Task[list[bytes | None]]"

    def __init__(self) -> None:
        self.keys: list[bytes] = []


class Server(Connections):
    """One server."""

    def __init__(self, driver: RedisDriver, layout: Layout) -> None:
        super().__init__(driver, driver.pool())
        self._layout = layout
        self._loads = [(b"SCRIPT", b"LOAD", script) for script in layout.scripts]
        self._loops = PerEventLoop(driver.pool_async, driver.most)
        self._turns: WeakKeyDictionary[asyncio.AbstractEventLoop, _Turn] = WeakKeyDictionary()

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the value of each key, in order; None where there is none."""
        commands, gather = self._layout.lookup(keys)
        answers = self.ask_all(commands)
        if self._forgot_scripts(answers):
            checked(self.ask_all(self._loads))
            answers = self.ask_all(commands)
        return gather(checked(answers))

    async def read_async(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Like ``read``, for the running event loop. Reads that are asked for in one turn of the loop share a round trip."""
        loop = asyncio.get_running_loop()
        batch = self._turns.get(loop)
        if batch is None:
            batch = self._turns[loop] = _Turn()
            batch.values = loop.create_task(self._read_turn(loop, batch))
        start = len(batch.keys)
        batch.keys += keys
        # NOTE: a reader that is cancelled takes nothing from the others.
        values = await asyncio.shield(batch.values)
        return values[start : start + len(keys)]

    async def _read_turn(self, loop: asyncio.AbstractEventLoop, batch: "_Turn") -> list[bytes | None]:
        del self._turns[loop]  # whoever asks from now on begins another one
        commands, gather = self._layout.lookup(batch.keys)
        packed = [self._pack(command) for command in commands]
        pool, free = await self._loops.client()
        async with free:
            try:
                answers = await self._exchange_async(pool, packed)
            except self._errors.ConnectionError:
                answers = await self._exchange_async(pool, packed)
            if self._forgot_scripts(answers):
                checked(await self._exchange_async(pool, [self._pack(command) for command in self._loads]))
                answers = await self._exchange_async(pool, packed)
        return gather(checked(answers))

    def rounds(self, entries: Iterable[Entry], epoch: Epoch | None) -> Iterator[list[Script]]:
        """Yield the runs of the script that write some entries: as many as to send at once."""
        mark = _UNMARKED if epoch is None else (epoch.key, epoch.value + self._layout.tag)
        for some in batches(entries, _ENTRIES_A_ROUND, _BYTES_A_ROUND):
            yield list(self._layout.writes(some, mark))

    def marks(self, key: bytes) -> list[tuple[Connections, list[bytes]]]:
        """Return the server with its mark."""
        return [(self, [key])]

    def look_again(self) -> None:
        """Do nothing: there is one."""

    def run(self, scripts: Sequence[Script]) -> list[Any]:
        """Return how many each wrote, or the error with which the server answered it."""
        return self.ask_all(scripts)

    def each(self, commands: Sequence[Command]) -> list[Any]:
        """Return the answers to commands of one key each, or the error with which the server answered it."""
        return self.ask_all(commands) if commands else []

    def servers(self) -> list[Connections]:
        """Return the primaries."""
        return [self]

    def close(self) -> None:
        """Close the connections."""
        super().close()
        self._loops.close()

    def _forgot_scripts(self, answers: list[Any]) -> bool:
        """Return whether the server has lost its scripts, as it does when it restarts."""
        return any(isinstance(answer, self._errors.NoScriptError) for answer in answers)

    async def _exchange_async(self, pool: Any, packed: Sequence[bytes]) -> list[Any]:
        connection = await pool.get_connection()
        try:
            await connection.send_packed_command(packed)
            return [await self._answer_async(connection) for _ in packed]
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        finally:
            await pool.release(connection)

    async def _answer_async(self, connection: Any) -> Any:
        try:
            return await connection.read_response()
        except self._errors.ResponseError as error:
            return error


class Cluster:
    """A Cluster. redis-py knows which node has which slot, and follows when slots move or a node fails over."""

    def __init__(self, driver: RedisDriver, layout: Layout) -> None:
        self._driver = driver
        self._layout = layout
        self._lock = threading.Lock()
        self._client: Any = None
        self._known: dict[bytes, dict[str, list[bytes]]] = {}
        self._loops = PerEventLoop(driver.cluster_async, driver.most)

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the value of each key, in order; None where there is none."""
        if self._layout.tag:
            commands, gather = self._layout.lookup(keys, by_slot=True)
            return gather(checked(self.each(commands)))
        values: list[bytes | None] = self._connected().mget_nonatomic(keys)
        return values

    async def read_async(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Like ``read``, for the running event loop."""
        client, free = await self._loops.client()
        async with free:
            if self._layout.tag:
                commands, gather = self._layout.lookup(keys, by_slot=True)
                pipeline = client.pipeline()
                for name, *rest in commands:
                    pipeline.execute_command(name.decode(), *rest)
                return gather(await pipeline.execute())
            values: list[bytes | None] = await client.mget_nonatomic(keys)
            return values

    def rounds(self, entries: Iterable[Entry], epoch: Epoch | None) -> Iterator[list[Script]]:
        """Yield the runs of the script that write some entries: as many as to send at once."""
        client = self._connected()

        def mark(slot: int) -> tuple[bytes, bytes]:
            if epoch is None:
                return _UNMARKED
            name = client.nodes_manager.slots_cache[slot][0].name
            # NOTE: where slots moved since, the script does not find the mark, and whoever sent it looks again.
            marks = self._known.get(epoch.key, {})
            if name not in marks:
                marks = self._marks(epoch.key)
            # NOTE: no key of the script, as it lies in another slot. A script may read it where it lies on the same node.
            return marks[name][0], epoch.value + self._layout.tag

        for some in batches(entries, _ENTRIES_A_ROUND, _BYTES_A_ROUND):
            slots: dict[int, list[Entry]] = defaultdict(list)
            for entry in some:
                slots[client.keyslot(self._layout.place(entry.key))].append(entry)
            yield [script for slot, those in slots.items() for script in self._layout.writes(those, mark(slot))]

    def marks(self, key: bytes) -> list[tuple[Connections, list[bytes]]]:
        """Return each primary with the keys of marks that lie on it."""
        client, marks = self._connected(), self._marks(key)
        return [
            (Connections(self._driver, client.get_redis_connection(node).connection_pool), marks[node.name])
            for node in client.get_primaries()
            if node.name in marks
        ]

    def look_again(self) -> None:
        """Ask the Cluster where its slots are."""
        self._known = {}
        self._connected().nodes_manager.initialize()

    def _marks(self, key: bytes) -> dict[str, list[bytes]]:
        """Return for each primary that has slots the keys of marks in them: some of many, or the first that lies there."""
        client = self._connected()
        nodes = {slot: holders[0].name for slot, holders in client.nodes_manager.slots_cache.items()}
        keys_by_node: dict[str, list[bytes]] = {name: [] for name in nodes.values()}
        for number in count():
            if number >= _MARKS and all(keys_by_node.values()):
                self._known[key] = keys_by_node
                return keys_by_node
            tagged = key + b"{%d}" % number
            name = nodes.get(client.keyslot(tagged))
            if name is not None and (number < _MARKS or not keys_by_node[name]):
                keys_by_node[name].append(tagged)
        raise AssertionError("unreachable: there are tags of every slot")

    def run(self, scripts: Sequence[Script]) -> list[Any]:
        """Return how many each wrote, or the error with which the server answered it."""
        client = self._connected()
        pipeline = client.pipeline()
        for script in scripts:
            # NOTE: without the node, redis-py asks the server which of the arguments are keys.
            pipeline.execute_command("EVALSHA", *script[1:], target_nodes=[client.get_node_from_key(script[3])])
        answers: list[Any] = pipeline.execute(raise_on_error=False)
        return answers

    def each(self, commands: Sequence[Command]) -> list[Any]:
        """Return the answers to commands of one key each, or the error with which the server answered it."""
        if not commands:
            return []
        client = self._connected()
        pipeline = client.pipeline()
        for name, key, *rest in commands:
            pipeline.execute_command(name.decode(), key, *rest, target_nodes=[client.get_node_from_key(key)])
        answers: list[Any] = pipeline.execute(raise_on_error=False)
        return answers

    def servers(self) -> list[Connections]:
        """Return the primaries."""
        client = self._connected()
        return [Connections(self._driver, client.get_redis_connection(node).connection_pool) for node in client.get_primaries()]

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            if self._client is not None:
                self._client.close()
        self._loops.close()

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = self._driver.cluster()
            return self._client
