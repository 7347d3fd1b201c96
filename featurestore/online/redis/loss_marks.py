"""Loss marks of a server's shards: detect that a shard lost data.

A mark is a key that holds the epoch and the server's replication id, which is another one after each restart and each failover.
So a mark with the epoch and with the id that the server has now shows that nothing was lost since it was placed. A
single server has one mark. A Cluster has many, in slots of all its primaries, and they move with their slots: a primary that has
one of its own among those that came from others has lost nothing.

Behind the epoch a mark has the layout of the values, where they are packed. So writers whose address asks for another layout find
another mark.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from featurestore.online.base import Epoch, OnlineLayoutError
from featurestore.online.redis.connections import Connections, RedisBackend
from featurestore.online.redis.deletion import delete_scanned
from featurestore.online.redis.layouts import Layout, Plain
from featurestore.online.redis.packing import described, head_of, option

_KEYS_A_SCAN = 5000
_MOVING = b"#moving"
"""The layout of marks while the values of another one are deleted."""


class RedisMarks:
    """See ``Marks``.

    Args:
        link: returns the way to the server.
        errors: redis-py's errors.
        explaining: a context that turns its errors into ours.
        layout: how values lie there.
        address: the store's address, as it may be shown.
    """

    def __init__(
        self,
        link: Callable[[], RedisBackend],
        errors: Any,
        explaining: Callable[[], AbstractContextManager[None]],
        layout: Layout,
        address: str,
    ) -> None:
        self._link = link
        self._errors = errors
        self._explaining = explaining
        self._layout = layout
        self._address = address

    def agree(self, epoch: Epoch) -> None:
        """See ``Marks.agree``: a round trip to each primary."""
        with self._explaining():
            for _, _, values in self._held(epoch.key):
                self._agree(values)

    def look(self, epoch: Epoch) -> list[str]:
        """Return what may have been lost, a sentence for each shard whose marks are not an epoch's; none where all are."""
        with self._explaining():
            losses = []
            begin = epoch.value + self._layout.tag + b" "
            for server, keys, values in self._held(epoch.key):
                self._agree(values)
                replication = self._replication_id(server)
                if replication is None:  # a user that may only read: the epoch alone tells
                    right = [value is not None and value.startswith(begin) for value in values]
                else:
                    right = [value == begin + replication for value in values]
                if not any(right):
                    losses.append(_lost(begin, values))
                elif replication is not None:
                    lacking = [key for key, there in zip(keys, right, strict=True) if not there]
                    self._set(server, lacking, begin + replication, or_leave=True)
            return losses

    def place(self, epoch: Epoch) -> None:
        """Mark every shard. What lies in another layout, which nobody reads from then on, is deleted before."""
        with self._explaining():
            shards = self._held(epoch.key)
            layouts = {_layout_of(value) for _, _, values in shards for value in values if value is not None}
            if layouts - {self._layout.tag}:
                # NOTE: readers and writers of either layout are refused, until nothing of the former one is there.
                self._mark(shards, epoch.value + _MOVING)
                space = epoch.key[: epoch.key.rfind(b"/") + 1]
                delete_scanned(self._link().servers(), Plain(), space, besides=epoch.key)
            self._mark(shards, epoch.value + self._layout.tag)

    def strangers(self, project: bytes, most: int = 1_000_000) -> dict[bytes, int]:
        """Return how many keys of a project have which second part, as far as so many keys of a server are looked at."""
        counts: Counter[bytes] = Counter()
        pattern = b"".join(b"\\" + bytes([byte]) if byte in b"*?[]\\" else bytes([byte]) for byte in project) + b"*"
        with self._explaining():
            for server in self._link().servers():
                cursor, looked = b"0", 0
                while looked == 0 or (cursor != b"0" and looked < most):
                    cursor, keys = server.ask(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"%d" % _KEYS_A_SCAN)
                    for key, size in zip(keys, self._sizes(server, keys), strict=True):
                        counts[key[len(project) :].partition(b"/")[0]] += size
                    looked += _KEYS_A_SCAN
        return dict(counts)

    def _sizes(self, server: Connections, names: Sequence[bytes]) -> list[int]:
        """Return how many keys each of the server's keys holds: of a hash that this layout packs them into, one a field."""
        packed = [name for name in names if self._layout.tag and head_of(name) is not None]
        answers = server.ask_all([(b"HLEN", name) for name in packed]) if packed else []
        sizes = {name: answer for name, answer in zip(packed, answers, strict=True) if isinstance(answer, int)}
        return [sizes.get(name, 1) for name in names]

    def _agree(self, values: Sequence[bytes | None]) -> None:
        """Raise an error where a mark has another layout."""
        for layout in {_layout_of(value) for value in values if value is not None} - {self._layout.tag}:
            if layout == _MOVING:
                raise OnlineLayoutError(
                    f"The online store at {self._address} is being given another layout, or that was interrupted. Wait for it, or "
                    "repeat it: featurestore materialize --rebuild-online"
                )
            raise OnlineLayoutError(
                f"The online store at {self._address} has this project's values {described(layout)}, and the address asks for them "
                f"{described(self._layout.tag)}. Either set the address back ({option(layout)}), or have all values deleted and "
                "written again from the history in the layout that it asks for: featurestore materialize --rebuild-online"
            )

    def _mark(self, shards: "Sequence[_Shard]", value: bytes) -> None:
        for server, keys, _ in shards:
            self._set(server, keys, value + b" " + (self._replication_id(server) or b""), or_leave=False)

    def _held(self, key: bytes) -> "list[_Shard]":
        """Return for each shard its marks' keys and what they hold."""
        try:
            return self._ask(key)
        except (self._errors.ConnectionError, self._errors.MovedError, self._errors.AskError, self._errors.TryAgainError):
            self._link().look_again()  # a Cluster's slots moved, or another node took over
            return self._ask(key)

    def _ask(self, key: bytes) -> "list[_Shard]":
        replies: list[_Shard] = []
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


_Shard = tuple[Connections, Sequence[bytes], list[bytes | None]]
"""A server, the keys of its marks, and what they hold."""


def _layout_of(mark: bytes) -> bytes:
    """Return the layout that a mark has."""
    epoch = mark.partition(b" ")[0]
    return epoch[epoch.index(b"#") :] if b"#" in epoch else b""


def _lost(begin: bytes, values: Sequence[bytes | None]) -> str:
    if not any(values):
        return "its mark is gone, as after it was emptied or restarted without its data"
    if any(value is not None and value.startswith(begin) for value in values):
        return "the server restarted, or another one took over, and may lack what was written last"
    return "its mark is not the one that the registry has, as after either was put back from a copy"
