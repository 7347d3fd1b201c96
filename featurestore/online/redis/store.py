"""The online store on a server: Redis, Valkey, or a Cluster of either.

A key holds the value as it was given, nothing more, so anything that speaks the protocol can read it; ``layouts`` has the other
layout, values that are packed into hashes. Writes run ``set_if_newer.lua`` inside the server (``compare_and_set.lua`` for entries
that replace something), which compares and sets a few hundred keys in one step.
"""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from featurestore.errors import ConfigError, MissingExtraError, OnlineStoreError
from featurestore.online.base import Entry, Epoch, Marks, OnlineAdapter, OnlineLostError, hide_password
from featurestore.online.batching import greatest
from featurestore.online.redis.address import is_cluster, split_hosts, split_packing
from featurestore.online.redis.connections import Cluster, RedisBackend, Server
from featurestore.online.redis.deletion import delete_below, delete_keys
from featurestore.online.redis.health import packing_facts, server_facts
from featurestore.online.redis.layouts import Packed, Script, layout_of
from featurestore.online.redis.loss_marks import RedisMarks
from featurestore.online.redis.sweep_credit import SweepCredit
from featurestore.plugins import Context

try:
    import hiredis
    import redis.asyncio.cluster
    import redis.backoff
    import redis.cluster
    import redis.retry
except ImportError as error:
    raise MissingExtraError("an online store of Redis or Valkey", "redis") from error

_CONNECTIONS = 64
_SWEPT_A_SCRIPT = 32  # about a millisecond, in which the server answers nobody else
_SCRIPTS_A_ROUND = 500
_REFUSED = -1  # by a script, where the mark is another one
_WAIT = 5  # seconds, for a connection to become free
_COMMANDS = "MGET, MSET, SET, GETRANGE, PEXPIRE, PERSIST, EVALSHA, SCRIPT, SCAN, UNLINK, TIME and INFO"
_COMMANDS_PACKED = (
    "MGET, SET, HGET, HMGET, HSET, HDEL, HLEN, HGETALL, OBJECT, EVALSHA, EVALSHA_RO, SCRIPT, SCAN, UNLINK, TIME and INFO"
)
_DEFAULTS: dict[str, Any] = {
    "socket_timeout": 5.0,
    "socket_connect_timeout": None,  # as socket_timeout
    "socket_read_size": 1 << 16,
    "max_connections": _CONNECTIONS,
    "protocol": 2,  # spares a round trip at connecting, and the messages that a server may push in protocol 3
}
_NOT_OPTIONS = {"decode_responses", "encoding", "encoding_errors", "protocol", "timeout"}


class RedisStore(OnlineAdapter):
    """Keep the latest values in Redis 7, Valkey, or a Cluster of either.

    A read is one ``MGET`` (in a Cluster one a slot, at once to all nodes). Keys with a ttl expire by themselves. A
    connection that the server dropped is opened again and the command repeated once, writes too: they may be repeated.

    Args:
        url: where the server is:

            - ``redis://user:password@host:6379/0``
            - ``rediss://…``, the same over TLS
            - ``unix:///path/to.sock?db=0``
            - ``redis+cluster://user:password@host:6379,other:6379`` and ``rediss+cluster://…``: some nodes of a Cluster

            The options of redis-py's connections can follow: ``?socket_timeout=2`` (seconds to wait for an answer and, if
            there is no ``socket_connect_timeout``, for a connection; 5 by default), ``ssl_ca_certs=…``,
            ``ssl_cert_reqs=none``, ``max_connections=64`` (of each process, and of each event loop; a call waits for a
            free one).

            With ``?pack=64`` values are packed: entities are fields of hashes, at most about so many each, which takes less than
            two thirds of the memory. ``&entities=1000000000`` says how many there are in a view, by default 100,000,000; both
            together decide how many hashes there are, so all processes must have the same.

    Raises:
        ConfigError: the address is of another form, or has an unknown option.
        MissingExtraError: redis-py or hiredis is not installed.

    Example:
        >>> store = RedisStore("redis://localhost:6379/0?socket_timeout=2")
        >>> store.write([Entry(b"weather/JFK", b"2"), Entry(b"weather/JFK", b"1", ttl_ms=60_000)])  # doctest: +SKIP
        1
        >>> store.read([b"weather/JFK", b"weather/LGA"])  # doctest: +SKIP
        [b'2', None]
        >>> store.close()
    """

    def __init__(self, url: str) -> None:
        self._address = hide_password(url)
        try:
            url, packing = split_packing(url)
        except ValueError as error:
            raise ConfigError(f"The online store's address {self._address} has a wrong option: {error}") from error
        driver = _RedisPy(url, self._address)
        self._layout = layout_of(packing)
        self._sweep_credit = SweepCredit()
        self._errors = driver.errors
        self._foreign = (self._errors.RedisError, self._errors.RedisClusterException, OSError)
        self._link: RedisBackend | None = Cluster(driver, self._layout) if is_cluster(url) else Server(driver, self._layout)
        self.marks: Marks = RedisMarks(self._open, self._errors, self._explaining, self._layout, self._address)

    @classmethod
    def open(cls, url: str, context: Context) -> "RedisStore":
        """See ``OnlineAdapter.open``."""
        return cls(url)

    @classmethod
    def facts(cls, url: str) -> tuple[datetime, list[str]]:
        """See ``OnlineAdapter.facts``; of a Cluster one primary answers."""
        store = cls(url)
        try:
            now, problems = server_facts(store.ask)
            if store._layout.tag:
                problems += packing_facts(store.ask, store._layout.tag)
            return now, problems
        finally:
            store.close()

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the value of each key, in order; None for a key that is missing or has expired."""
        if not keys:
            return []
        try:
            return self._open().read(keys)
        except self._foreign as error:
            raise self._explain(error) from error

    async def read_async(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Like ``read``, without blocking the event loop. Each loop has connections of its own, closed when it ends."""
        if not keys:
            return []
        try:
            return await self._open().read_async(keys)
        except self._foreign as error:
            raise self._explain(error) from error

    def write(self, entries: Sequence[Entry], *, epoch: Epoch | None = None) -> int:
        """Write each value unless its key has one as great or greater; return how many were written (S15).

        The number may be too small after a connection was lost, when it is not known what was written before: a swap that
        is sent again finds what it wrote itself, and leaves it. So may it where slots of a Cluster moved with their marks.
        """
        with self._explaining():
            kept = greatest(entries)
            written = self._write(kept, epoch)
            if written is None and epoch is not None:
                self._open().look_again()
                missed = self.marks.look(epoch)
                written = None if missed else self._write(kept, epoch)
                if written is None:
                    raise OnlineLostError(f"The online store at {self._address}: {'; '.join(missed) or 'its marks move'}.")
            if isinstance(self._layout, Packed):
                self._look_through(self._layout, self._sweep_credit.note(kept))
            return written or 0

    def delete(self, prefix: bytes, *, keys: Sequence[bytes] | None = None, known: Iterable[Sequence[bytes]] | None = None) -> int:
        """Delete all keys that begin with a prefix; return how many there were.

        Packed values of a view's version are deleted by the names of their hashes. Else it looks through all keys of the server, of
        all shards at once, unless they are given, or known and the server has many. A key that is written meanwhile may stay. What
        the server writes to its disk (snapshots, an append-only file) it rewrites by its own rules.
        """
        with self._explaining():
            if keys is not None:
                return delete_keys(self._open(), self._layout, [key for key in keys if key.startswith(prefix)])
            return delete_below(self._open(), self._layout, prefix, known)

    def sweep(self) -> int:
        """Drop packed values whose ttl is over, and return how many; 0 for keys of their own, which the server drops by itself.

        Writes of packed values do so too, a little each (``sweep_credit``); this is what they have left over.
        """
        if not isinstance(self._layout, Packed):
            return 0
        with self._explaining():
            return self._look_through(self._layout, self._sweep_credit.rest())

    def _look_through(self, layout: Packed, hashes: Mapping[bytes, int]) -> int:
        """Drop what has ended from some hashes of versions of views, beginning with any of them; return how much there was."""
        link = self._open()
        together = 1 if isinstance(link, Cluster) else _SWEPT_A_SCRIPT
        swept = 0
        for head, count in hashes.items():
            scripts = list(layout.sweeps(head, random.randrange(layout.packing.hashes), count, together))
            for start in range(0, len(scripts), _SCRIPTS_A_ROUND):
                swept += sum(self._run(link, scripts[start : start + _SCRIPTS_A_ROUND]))
        return swept

    def check(self) -> str:
        """Return the server's kind and version, such as ``"valkey 9.1.2"``, as far as its user may know them.

        Raises:
            OnlineStoreError: it cannot be reached.
        """
        try:
            servers = self._open().servers()
            info = servers[0].ask(b"INFO", b"server")
        except self._errors.NoPermissionError:
            return "redis or valkey"  # which answers, and whose user may only read
        except self._foreign as error:
            raise self._explain(error) from error
        facts = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
        kind = "valkey" if "valkey_version" in facts else "redis"
        cluster = f", cluster of {len(servers)}" if isinstance(self._link, Cluster) else ""
        return f"{kind} {facts[f'{kind}_version']}{cluster}"

    def ask(self, *command: bytes) -> Any:
        """Return what a server answers to a command; of a Cluster one primary.

        Raises:
            OnlineStoreError: it cannot be reached, or refuses the command.
        """
        try:
            return self._open().servers()[0].ask(*command)
        except self._foreign as error:
            raise self._explain(error) from error

    def close(self) -> None:
        """Close the connections, those of all event loops too. Idempotent."""
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def _open(self) -> RedisBackend:
        if self._link is None:
            raise OnlineStoreError(f"The online store at {self._address} was closed. Make a new RedisStore of that address.")
        return self._link

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except self._foreign as error:
            raise self._explain(error) from error

    def _write(self, entries: Sequence[Entry], epoch: Epoch | None) -> int | None:
        """Return how many entries were written; None where a shard's mark is another one, and so some were not."""
        link = self._open()
        written = 0
        for scripts in link.rounds(entries, epoch):
            replies = self._run(link, scripts)
            if any(reply == _REFUSED for reply in replies):
                return None
            written += sum(replies)
        return written

    def _run(self, link: RedisBackend, scripts: list[Script]) -> list[int]:
        replies = link.run(scripts)
        unknown = [run for run, reply in zip(scripts, replies, strict=True) if isinstance(reply, self._errors.NoScriptError)]
        if unknown:  # a server forgets its scripts when it restarts, or is told to
            for server in link.servers():
                for script in self._layout.scripts:
                    server.ask(b"SCRIPT", b"LOAD", script)
            replies = [reply for reply in replies if not isinstance(reply, self._errors.NoScriptError)]
            replies += link.run(unknown)
        # NOTE: a mark that has moved with its slot to another node cannot be read by a script; redis-py has no class for that.
        replies = [_REFUSED if "non local key" in str(reply) else reply for reply in replies]
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    def _explain(self, error: Exception) -> OnlineStoreError:
        return OnlineStoreError(f"The online store at {self._address} failed: {str(error).rstrip('.')}. {self._advice(error)}")

    def _advice(self, error: Exception) -> str:
        errors = self._errors
        advice: list[tuple[type[Exception] | tuple[type[Exception], ...], str]] = [
            ((errors.AuthenticationError, errors.AuthorizationError), "Look at the user and the password in the address."),
            (
                errors.NoPermissionError,
                self._rights(),
            ),
            (errors.BusyLoadingError, "It has just started and loads its data: try again."),
            (errors.ReadOnlyError, "This is a replica: take the primary's address."),
            (errors.OutOfMemoryError, "Raise its maxmemory, delete views, or give them a ttl."),
            ((errors.MovedError, errors.ClusterCrossSlotError), "This is a node of a Cluster: take redis+cluster:// for redis://."),
            ((errors.ClusterDownError, errors.SlotNotCoveredError), "Wait until all its nodes are up (CLUSTER INFO)."),
            (errors.TimeoutError, "Look at its load and at the network, or raise ?socket_timeout=… (seconds) in the address."),
            ((errors.ConnectionError, errors.RedisClusterException, OSError), "Is it running, and is the address right?"),
        ]
        # These redis-py tells apart by their text only.
        if "ACL failure in script" in str(error) or "executing the script can't run" in str(error):
            return self._rights()
        if "unknown command" in str(error).lower() or "Unknown Redis command" in str(error):
            return "It is older than Redis 7, or has the command turned off: take Redis 7 or later, or Valkey."
        if "Cluster mode is not enabled" in str(error):
            return "This is a single server: take redis:// for redis+cluster://."
        if "No connection available" in str(error):
            return "All connections were in use: raise ?max_connections=… in the address."
        return next((text for kind, text in advice if isinstance(error, kind)), "Look at the server's log.")

    def _rights(self) -> str:
        return f"Give its user the commands {_COMMANDS_PACKED if self._layout.tag else _COMMANDS}."


class _RedisPy:
    """redis-py and hiredis, for one address.

    Args:
        url: the address.
        shown: the address without its password.
    """

    def __init__(self, url: str, shown: str) -> None:
        self._redis: Any = redis
        self.errors: Any = redis.exceptions
        self.pack: Any = hiredis.pack_command
        self._url, self._others, self.most = self._parse(url, shown)

    def pool(self) -> Any:
        return self._redis.BlockingConnectionPool.from_url(self._url, timeout=_WAIT, **_DEFAULTS)

    def pool_async(self) -> Any:
        return self._redis.asyncio.ConnectionPool.from_url(self._url, **_DEFAULTS)

    def cluster(self) -> Any:
        node = self._redis.cluster.ClusterNode
        return self._redis.cluster.RedisCluster(
            url=self._url,
            startup_nodes=[node(host, port) for host, port in self._others],
            connection_pool_class=self._redis.BlockingConnectionPool,
            timeout=_WAIT,
            retry=self._retry(),
            **_DEFAULTS,
        )

    def cluster_async(self) -> Any:
        node = self._redis.asyncio.cluster.ClusterNode
        nodes = [node(host, port) for host, port in self._others]
        return self._redis.asyncio.cluster.RedisCluster.from_url(self._url, startup_nodes=nodes, retry=self._retry(), **_DEFAULTS)

    def _retry(self) -> Any:
        """Return how often, and after which pauses, redis-py looks up a Cluster's slots again."""
        return self._redis.retry.Retry(self._redis.backoff.ExponentialWithJitterBackoff(base=0.05, cap=0.5), 3)

    def _parse(self, url: str, shown: str) -> tuple[str, list[tuple[str, int]], int]:
        """Return the address as redis-py takes it, the other hosts of a Cluster, and how many connections there may be.

        Raises:
            ConfigError: the address is of another form, or redis-py does not know one of its options.
        """
        try:
            plain, others = split_hosts(url)
            options = self._redis.connection.parse_url(plain)
        except ValueError as error:
            raise ConfigError(f"{shown} is not the address of an online store: {error}") from error
        most = options.pop("max_connections", _CONNECTIONS)
        if refused := _NOT_OPTIONS & options.keys():
            raise ConfigError(f"The online store's address {shown} must not set {', '.join(sorted(refused))}.")
        if is_cluster(url) and options.get("db"):
            raise ConfigError(f"A Redis Cluster has the database 0 only: take /{options['db']} out of {shown}.")
        try:
            # Connects only when it is used, which this one never is.
            options.pop("connection_class", self._redis.Connection)(**options)
        except (TypeError, ValueError, self.errors.RedisError) as error:
            raise ConfigError(f"The online store's address {shown} has an option that redis-py does not take: {error}") from error
        return plain, others, most
