"""Addresses of Redis servers, as a user writes them."""

import re
from urllib.parse import urlsplit

from featurestore.online.redis.packing import MOST, MOST_BITS, Packing

_ENTITIES = 100_000_000


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


def split_packing(url: str) -> tuple[str, Packing | None]:
    """Return the address without the options of packing, and how values are packed; None where each has a key of its own.

    Raises:
        ValueError: one of these options is not a number, or has no sense.

    Example:
        >>> split_packing("redis://a/0?pack=64&entities=1000000&socket_timeout=2")
        ('redis://a/0?socket_timeout=2', Packing(bits=14))
    """
    place, mark, query = url.partition("?")
    options = query.split("&") if mark else []
    given = {name: value for name, _, value in (option.partition("=") for option in options) if name in ("pack", "entities")}
    if not given:
        return url, None
    if "pack" not in given:
        raise ValueError("entities= says how many entities are packed, so it goes with pack=64")
    numbers = {"entities": _ENTITIES}
    for name, value in given.items():
        if not (value.isascii() and value.isdigit()) or int(value) < 1:
            raise ValueError(f"{name}={value} must be a whole number from 1 on")
        numbers[name] = int(value)
    if not 2 <= numbers["pack"] <= MOST:
        raise ValueError(f"pack={given['pack']} must be from 2 to {MOST}: so many entities are kept together")
    packing = Packing.of(numbers["pack"], numbers["entities"])
    if packing.bits > MOST_BITS:
        raise ValueError(f"entities={given['entities']} are more than can be packed: at most {numbers['pack'] << MOST_BITS:,}")
    rest = "&".join(option for option in options if option.partition("=")[0] not in given)
    return place + (f"?{rest}" if rest else ""), packing
