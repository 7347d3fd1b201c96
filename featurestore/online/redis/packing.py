"""Packing: keep entities as fields of hashes, some dozens each, where each would else be a key of its own.

A key is ``project/registry/view/version/{entity}``. What stands before the entity and the entity's bytes alone decide in which hash
it lies, and how many hashes there are is part of their names, so hashes of another number are never taken for them.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from zlib import crc32

MOST = 512
"""How many entities a hash may be meant to have: with more, finding one of them takes longer than the round trip."""

MOST_BITS = 30

_SEGMENTS = 4
"""Up to which slash a key names what the hashes of a view's version have in common: project, registry, view and version."""

_NAME = re.compile(rb"((?:[^/]*/){0,4})#\d+\{\d+\}", re.DOTALL)
NEVER = b"\0"
"""How a field's value begins that the store keeps for ever. Any other begins with six bytes of milliseconds since 1970."""
_ENDING = 6


@dataclass(frozen=True, slots=True)
class Packing:
    r"""How entities are spread over hashes.

    Args:
        bits: each version of a view has ``2**bits`` hashes.

    Example:
        >>> packing = Packing.of(pack=64, entities=100_000_000)
        >>> packing.hashes
        2097152
        >>> packing.place(b"flights/5k2m8xqa/weather/1/{\xa3JFK}")
        (b'flights/5k2m8xqa/weather/1/#21{486275}', b'{\xa3JFK}')
    """

    bits: int

    @classmethod
    def of(cls, pack: int, entities: int) -> "Packing":
        """Return the packing of so many entities a hash or fewer, where a view has so many entities."""
        return cls((-(-entities // pack) - 1).bit_length())

    @property
    def hashes(self) -> int:
        """How many hashes each version of a view has."""
        return 1 << self.bits

    @property
    def tag(self) -> bytes:
        """What tells this packing from others, in the names of hashes and in marks."""
        return b"#%d" % self.bits

    def place(self, key: bytes) -> tuple[bytes, bytes]:
        """Return the name of the hash in which a key's value lies, and the field."""
        names, fields = self.places([key])
        return names[0], fields[0]

    def places(self, keys: Iterable[bytes]) -> tuple[list[bytes], list[bytes]]:
        """Return for each key the name of the hash in which its value lies, and for each the field."""
        names: list[bytes] = []
        fields: list[bytes] = []
        last = (1 << self.bits) - 1
        head, length = b"/", 1  # with which no key begins that has a project
        begin = b""
        for key in keys:
            if key.startswith(head):  # of the same version of a view as the one before
                field = key[length:]
            else:
                parts = key.split(b"/", _SEGMENTS)
                field = parts[-1]
                length = len(key) - len(field)
                begin = b"%b#%d{" % (key[:length], self.bits)
                head = key[:length] if len(parts) > _SEGMENTS else b"/"
            # NOTE: in a Cluster the number in braces alone decides about the slot, so all views of an entity are in one.
            names.append(b"%b%d}" % (begin, crc32(field) & last))
            fields.append(field)
        return names, fields

    def names(self, head: bytes, first: int = 0, count: int | None = None) -> Iterator[bytes]:
        """Yield the names of all hashes of a version, or of so many from one on; after the last comes the first."""
        for number in range(first, first + (self.hashes if count is None else min(count, self.hashes))):
            yield b"%b#%d{%d}" % (head, self.bits, number & (1 << self.bits) - 1)


def head_of(name: bytes) -> bytes | None:
    """Return what the keys in a hash begin with, by its name; None where it is not the name of a hash.

    Example:
        >>> head_of(b"flights/5k2m8xqa/weather/1/#21{486275}")
        b'flights/5k2m8xqa/weather/1/'
        >>> head_of(b"flights/5k2m8xqa/weather/1/{JFK}")
    """
    parsed = _NAME.fullmatch(name)
    return None if parsed is None else parsed[1]


def head_in(prefix: bytes) -> bytes:
    """Return what the names of the hashes begin with in which keys of a prefix can lie.

    Example:
        >>> head_in(b"flights/5k2m8xqa/weather/1/{J"), head_in(b"flights/5k2")
        (b'flights/5k2m8xqa/weather/1/', b'flights/')
    """
    return prefix[: len(prefix) - len(prefix.split(b"/", _SEGMENTS)[-1])]


def is_version(prefix: bytes) -> bool:
    """Return whether a prefix is that of all keys of one version of a view.

    Example:
        >>> is_version(b"flights/5k2m8xqa/weather/1/"), is_version(b"flights/5k2m8xqa/")
        (True, False)
    """
    return prefix.endswith(b"/") and prefix.count(b"/") == _SEGMENTS


def value_in(stored: bytes | None) -> bytes | None:
    """Return the value that a field holds, without when it may be forgotten.

    Example:
        >>> value_in(NEVER + b"value"), value_in(bytes.fromhex("019af0000000") + b"value")
        (b'value', b'value')
    """
    if stored is None:
        return None
    return stored[1:] if stored[:1] == NEVER else stored[_ENDING:]


def described(tag: bytes) -> str:
    """Return what a tag says about how values lie, for people to read."""
    if not tag:
        return "each under a key of its own"
    return f"packed into {1 << int(tag[1:]):,} hashes for each version of a view"


def option(tag: bytes) -> str:
    """Return what an address must have for values to lie so, for people to read."""
    return f"?pack=64&entities={64 << int(tag[1:])}" if tag else "no ?pack="
