"""Dead letters: entries that cannot be processed, stored with the reason."""

import os
import re
from collections.abc import Iterable
from typing import Annotated

import msgspec

from featurestore.clock import YEARS
from featurestore.errors import ConfigError
from featurestore.streams.base import DAMAGED, DeadLetter, Entry

_LONGEST = 40
_TIME = Annotated[int, msgspec.Meta(ge=YEARS[0], le=YEARS[1])]


def pack(entry: Entry, reason: str) -> bytes:
    """Return an entry and the reason as MessagePack: ``[id, time, {field: value}, reason]``."""
    return msgspec.msgpack.encode([entry.id, entry.time, dict(entry.fields), reason])


def unpack(name: str, value: bytes) -> DeadLetter:
    """Return what ``pack`` packed under a name.

    What is damaged, or was put there by others, is an entry of its own as it is: it must hinder neither who looks at the others
    nor who forgets somebody.
    """
    try:
        _, time, fields, reason = msgspec.msgpack.decode(value, type=tuple[str, _TIME, dict[bytes, bytes], str])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return DeadLetter(Entry(name, 0, {b"": value}, 0), DAMAGED)
    return DeadLetter(Entry(name, time, fields, 0), reason)


def in_order(kept: Iterable[DeadLetter]) -> list[DeadLetter]:
    """Return entries in the order of the stream: by their times, then by the numbers at the end of their ids."""
    return sorted(kept, key=lambda letter: (letter.entry.time, _number(letter.entry.id), letter.entry.id))


def _number(name: str) -> int:
    digits = name.rpartition("-")[2]
    return int(digits) if digits.isdecimal() and len(digits) < _LONGEST else 0


def expanded(url: str) -> str:
    """Return an address with its variables' values in their places.

    Raises:
        ConfigError: a variable is not set.

    Example:
        >>> expanded("redis://localhost:6379/0")
        'redis://localhost:6379/0'
    """

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise ConfigError(f"The address {url} needs the variable {match[1]}, which is not set. Set it where this runs.")
        return os.environ[match[1]]

    return re.sub(r"\$\{(\w+)\}", value, url)
