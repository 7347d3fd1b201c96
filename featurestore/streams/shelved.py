"""Entries that were set aside, as bytes, and addresses of brokers."""

import os
import re
from collections.abc import Iterable

import msgspec

from featurestore.errors import ConfigError
from featurestore.streams.base import Entry, SetAside


def pack(entry: Entry, reason: str) -> bytes:
    """Returns an entry and the reason as MessagePack: ``[id, time, {field: value}, reason]``."""
    return msgspec.msgpack.encode([entry.id, entry.time, dict(entry.fields), reason])


def unpack(value: bytes) -> SetAside:
    """Returns what ``pack`` packed."""
    name, time, fields, reason = msgspec.msgpack.decode(value, type=tuple[str, int, dict[bytes, bytes], str])
    return SetAside(Entry(name, time, fields, 0), reason)


def in_order(kept: Iterable[SetAside]) -> list[SetAside]:
    """Returns entries in the order of the stream: by their times, then by the numbers at the end of their ids."""
    return sorted(kept, key=lambda each: (each.entry.time, int(each.entry.id.rpartition("-")[2])))


def expanded(url: str) -> str:
    """Returns an address with its variables' values in their places.

    Raises:
        ConfigError: a variable is not set.

    Example:
        >>> expanded("redis://localhost:6379/0")
        'redis://localhost:6379/0'
    """

    def value(found: re.Match[str]) -> str:
        if found[1] not in os.environ:
            raise ConfigError(f"The address {url} needs the variable {found[1]}, which is not set. Set it where this runs.")
        return os.environ[found[1]]

    return re.sub(r"\$\{(\w+)\}", value, url)
