"""Addresses: which of them only this machine can reach."""

import ipaddress
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Tells whether only this machine can reach a server that listens on an address.

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
    """Tells whether a URL leads to this machine.

    Example:
        >>> is_loopback_url("http://127.0.0.1:8080/keys"), is_loopback_url("http://example.com")
        (True, False)
    """
    return is_loopback(urlsplit(url).hostname or "")
