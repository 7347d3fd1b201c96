"""Loss marks of a server's shards: detect that a shard lost data.

A mark is a key that holds the epoch and the server's replication id, which is another one after each restart and each failover.
So a mark with the epoch and with the id that the server has now shows that nothing was lost since it was placed. A
single server has one mark. A Cluster has many, in slots of all its primaries, and they move with their slots: a primary that has
one of its own among those that came from others has lost nothing.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from featurestore.online.base import Epoch
from featurestore.online.redis.connections import Connections, RedisBackend

_KEYS_A_SCAN = 5000


class RedisMarks:
    """See ``Marks``.

    Args:
        link: returns the way to the server.
        errors: redis-py's errors.
        explaining: a context that turns its errors into ours.
    """

    def __init__(
        self, link: Callable[[], RedisBackend], errors: Any, explaining: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._link = link
        self._errors = errors
        self._explaining = explaining

    def look(self, epoch: Epoch) -> list[str]:
        """Return what may have been lost, a sentence for each shard whose marks are not an epoch's; none where all are."""
        with self._explaining():
            losses = []
            for server, keys, values in self._held(epoch.key):
                replication = self._replication_id(server)
                if replication is None:  # a user that may only read: the epoch alone tells
                    right = [value is not None and value.startswith(epoch.value + b" ") for value in values]
                else:
                    right = [value == epoch.value + b" " + replication for value in values]
                if not any(right):
                    losses.append(_lost(epoch, values))
                elif replication is not None:
                    lacking = [key for key, there in zip(keys, right, strict=True) if not there]
                    self._set(server, lacking, epoch.value + b" " + replication, or_leave=True)
            return losses

    def place(self, epoch: Epoch) -> None:
        """Mark every shard."""
        with self._explaining():
            for server, keys, _ in self._held(epoch.key):
                self._set(server, keys, epoch.value + b" " + (self._replication_id(server) or b""), or_leave=False)

    def strangers(self, project: bytes, most: int = 1_000_000) -> dict[bytes, int]:
        """Return how many keys of a project have which second part, as far as so many keys of a server are looked at."""
        counts: Counter[bytes] = Counter()
        pattern = b"".join(b"\\" + bytes([byte]) if byte in b"*?[]\\" else bytes([byte]) for byte in project) + b"*"
        with self._explaining():
            for server in self._link().servers():
                cursor, looked = b"0", 0
                while looked == 0 or (cursor != b"0" and looked < most):
                    cursor, keys = server.ask(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"%d" % _KEYS_A_SCAN)
                    counts.update(key[len(project) :].partition(b"/")[0] for key in keys)
                    looked += _KEYS_A_SCAN
        return dict(counts)

    def _held(self, key: bytes) -> list[tuple[Connections, Sequence[bytes], list[bytes | None]]]:
        """Return for each shard its marks' keys and what they hold."""
        try:
            return self._ask(key)
        except (self._errors.ConnectionError, self._errors.MovedError, self._errors.AskError, self._errors.TryAgainError):
            self._link().look_again()  # a Cluster's slots moved, or another node took over
            return self._ask(key)

    def _ask(self, key: bytes) -> list[tuple[Connections, Sequence[bytes], list[bytes | None]]]:
        replies: list[tuple[Connections, Sequence[bytes], list[bytes | None]]] = []
        for server, keys in self._link().marks(key):
            answers = server.ask_all([(b"MGET", batch) for batch in keys])
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
            replies.append((server, keys, [answer[0] for answer in answers]))
        return replies

    def _replication_id(self, server: Connections) -> bytes | None:
        """Return what tells a server from itself before a restart or failover; None where the user may not know."""
        try:
            info: bytes = server.ask(b"INFO", b"replication")
        except self._errors.NoPermissionError:
            return None
        begin = b"master_replid:"
        return next((line[len(begin) :] for line in info.splitlines() if line.startswith(begin)), b"")

    def _set(self, server: Connections, keys: Sequence[bytes], value: bytes, *, or_leave: bool) -> None:
        answers = server.ask_all([(b"SET", key, value) for key in keys]) if keys else []
        for answer in answers:
            if isinstance(answer, Exception) and not (or_leave and isinstance(answer, self._errors.NoPermissionError)):
                raise answer


def _lost(epoch: Epoch, values: Sequence[bytes | None]) -> str:
    if not any(values):
        return "its mark is gone, as after it was emptied or restarted without its data"
    if any(value is not None and value.startswith(epoch.value + b" ") for value in values):
        return "the server restarted, or another one took over, and may lack what was written last"
    return "its mark is not the one that the registry has, as after either was put back from a copy"
