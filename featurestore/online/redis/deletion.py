"""Deletion of all that lies below a prefix: by the server's keys where they are known, else by looking through all of them."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from featurestore.online.redis.connections import Connections, RedisBackend
from featurestore.online.redis.layouts import Layout, Packed, counted
from featurestore.online.redis.packing import is_version

_LOOKED_THROUGH = 1_000_000
"""Of servers with so many keys in all, or fewer, all are looked through, in a second or two: that misses nothing."""
_AT_ONCE = 1000


def delete_keys(link: RedisBackend, layout: Layout, keys: Sequence[bytes]) -> int:
    """Delete some keys; return how many there were."""
    return sum(counted(link.each(layout.removals(keys[first : first + _AT_ONCE]))) for first in range(0, len(keys), _AT_ONCE))


def delete_below(link: RedisBackend, layout: Layout, prefix: bytes, known: Iterable[Sequence[bytes]] | None) -> int:
    """Delete all keys that begin with a prefix; return how many there were.

    Args:
        link: the way to the servers.
        layout: how values lie there.
        prefix: what the keys begin with.
        known: batches of them, which are all of them as far as is known. See ``OnlineStore.delete``.
    """
    servers = link.servers()
    if isinstance(layout, Packed) and is_version(prefix):
        if sum(server.size() for server in servers) > layout.packing.hashes:
            return _delete_hashes(link, layout, prefix)
    elif known is not None and sum(server.size() for server in servers) > _LOOKED_THROUGH:
        return sum(delete_keys(link, layout, keys) for keys in known)
    return delete_scanned(servers, layout, prefix)


def delete_scanned(servers: Sequence[Connections], layout: Layout, prefix: bytes, besides: bytes | None = None) -> int:
    """Look through all keys of some servers, of all at once, and delete those that begin with a prefix; return how many.

    Args:
        servers: the servers.
        layout: how values lie there.
        prefix: what the keys begin with.
        besides: what those begin with that stay.
    """

    def clear(server: Connections) -> int:
        deleted = 0
        for names in server.scan(layout.scan(prefix)):
            chosen = [name for name in names if besides is None or not name.startswith(besides)]
            if chosen:
                deleted += layout.clearing(prefix, chosen, lambda commands: server.ask_all(commands) if commands else [])
        return deleted

    if len(servers) == 1:
        return clear(servers[0])
    with ThreadPoolExecutor(max_workers=len(servers)) as threads:
        return sum(threads.map(clear, servers))


def _delete_hashes(link: RedisBackend, layout: Packed, head: bytes) -> int:
    """Delete the hashes of a view's version by their names; return how many fields there were."""
    packing = layout.packing
    return sum(
        layout.whole(list(packing.names(head, first, min(_AT_ONCE, packing.hashes - first))), link.each)
        for first in range(0, packing.hashes, _AT_ONCE)
    )
