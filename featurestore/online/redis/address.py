"""Addresses of Redis servers, as a user writes them."""

import re
from urllib.parse import urlsplit


def is_cluster(url: str) -> bool:
    """Return whether an address names a Cluster."""
    return url.partition("://")[0].endswith("+cluster")


def split_hosts(url: str) -> tuple[str, list[tuple[str, int]]]:
    """Return the address with the first host only, as redis-py takes it, and the other hosts.

    Raises:
        ValueError: a port is not a number.

    Example:
        >>> split_hosts("rediss+cluster://user:secret@a:7000,b:7001?socket_timeout=2")
        ('rediss://user:secret@a:7000?socket_timeout=2', [('b', 7001)])
    """
    scheme, _, rest = url.partition("://")
    if not is_cluster(url):
        return url, []
    place = re.split(r"[/?]", rest, maxsplit=1)[0]
    options = rest[len(place) :]
    user, at, hosts = place.rpartition("@")
    first, *others = hosts.split(",")
    parts = [urlsplit(f"//{other}") for other in others]
    plain = f"{scheme.removesuffix('+cluster')}://{user}{at}{first}{options}"
    return plain, [(part.hostname or "localhost", part.port or 6379) for part in parts]
