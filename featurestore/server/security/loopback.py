"""Loopback addresses: which addresses only this machine can reach."""

import ipaddress
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from featurestore.errors import Forbidden

_FORWARDED = (b"forwarded", b"x-real-ip", b"via")
_LONGEST_HOST = 300
"""A name has 253 characters at most; what is longer is none, and is not to be remembered."""
_NEEDS = "Without a key only this machine's own requests are answered: {}. Make a key (featurestore keys create), and send it."


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a server that listens on an address.

    Example:
        >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
        (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_loopback_url(url: str) -> bool:
    """Return whether a URL leads to this machine.

    Example:
        >>> is_loopback_url("http://127.0.0.1:8080/keys"), is_loopback_url("http://example.com")
        (True, False)
    """
    return is_loopback(urlsplit(url).hostname or "")


def check_local(scope: Mapping[str, Any], origins: Sequence[str] = ()) -> None:
    """Refuse what does not come from this machine itself, though it reaches a loopback address.

    A proxy forwards what others ask. A page of anywhere, in this machine's browser, may ask here too, and by another name of its
    own that leads here it may even read the answer.

    Args:
        scope: a request's ASGI scope.
        origins: the origins whose pages may ask, beside the server's own.

    Raises:
        Forbidden: it is forwarded, or the host that it names is not this machine, or it is of a page from elsewhere.
    """
    host = origin = site = ""
    hosts = 0
    for name, value in scope["headers"]:
        if name == b"host":
            host, hosts = value.decode("latin-1").strip().lower(), hosts + 1
        elif name == b"origin":
            origin = value.decode("latin-1").strip()
        elif name == b"sec-fetch-site":
            site = value.decode("latin-1").strip().lower()
        elif name in _FORWARDED or name.startswith(b"x-forwarded-"):
            raise Forbidden(_NEEDS.format(f"this one was forwarded ({name.decode('latin-1')})"))
    if hosts != 1 or not _is_loopback_host(host):
        raise Forbidden(_NEEDS.format(f"the Host is {host[:100]!r}" if host else "this one names no Host"))
    if origin and origin not in origins and origin.lower() not in (f"http://{host}", f"https://{host}"):
        raise Forbidden(_NEEDS.format(f"a page of {origin[:100]!r} asks (server.origins)"))
    if site == "cross-site" and origin not in origins:
        raise Forbidden(_NEEDS.format("a page from elsewhere asks"))


@lru_cache(256)  # every request without a key asks, and nearly all name the same
def _is_loopback_host(host: str) -> bool:
    if len(host) > _LONGEST_HOST:
        return False
    try:
        named = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return is_loopback(named) or named.endswith(".localhost")
