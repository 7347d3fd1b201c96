"""Layouts: how values lie on a server, each under a key of its own or packed into hashes."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha1
from pathlib import Path
from typing import Any, Protocol

from featurestore.online.base import Entry
from featurestore.online.batching import batches
from featurestore.online.redis.packing import NEVER, Packing, head_in, head_of, value_in

_HERE = Path(__file__).parent


def _script(*names: str) -> bytes:
    return b"\n".join((_HERE / f"{name}.lua").read_bytes() for name in names)


WRITE = _script("conditions", "set_if_newer")
"""What runs inside the server to write the greatest values, each under a key of its own."""
SWAP = _script("conditions", "compare_and_set")
PACKED_WRITE = _script("conditions", "packed_fields", "packed_set_if_newer")
PACKED_SWAP = _script("conditions", "packed_fields", "packed_compare_and_set")
PACKED_SWEEP = _script("packed_fields", "packed_sweep")
PACKED_READ = _script("packed_read")
"""Reads many fields of many hashes: one answer is parsed in a tenth of the time that as many answers take."""


def _sha(script: bytes) -> bytes:
    return sha1(script, usedforsecurity=False).hexdigest().encode()


_SWEEP_SHA = _sha(PACKED_SWEEP)
_READ_SHA = _sha(PACKED_READ)

_ENTRIES_A_SCRIPT = 500  # while a script runs the server answers nobody else: about a millisecond
_BYTES_A_SCRIPT = 1 << 20
_FIELDS_A_SCRIPT = 1000  # that are read

Command = tuple[bytes, ...]
"""A command as it is sent. Its second part is the key, or the first of several."""

Script = tuple[bytes, ...]
"""One run of a script as a command: EVALSHA, its hash, the number of keys, the keys, the mark, the fields of a packed layout, the
values, what they replace, the ttls."""

Gather = Callable[[list[Any]], list[bytes | None]]
"""Makes the values of some keys, in their order, of the answers to the commands that read them."""


class Layout(Protocol):
    """How values lie on a server."""

    tag: bytes
    """What tells it from others in a store's marks; empty for keys of their own."""
    scripts: tuple[bytes, ...]
    """What runs inside the server."""

    def place(self, key: bytes) -> bytes:
        """Return the server's key under which a key's value lies."""

    def lookup(self, keys: Sequence[bytes], *, by_slot: bool = False) -> tuple[list[Command], Gather]:
        """Return the commands that read some values, and what makes the values of the answers.

        Args:
            keys: the values' keys.
            by_slot: whether all keys of a command must be in one slot.
        """

    def writes(self, entries: Sequence[Entry], mark: tuple[bytes, bytes]) -> Iterator[Script]:
        """Yield the runs of the scripts that write some entries, which lie in one slot."""

    def removals(self, keys: Sequence[bytes]) -> list[Command]:
        """Return the commands that delete some keys; each answers how many there were."""

    def scan(self, prefix: bytes) -> bytes:
        """Return what the server's keys begin with that may hold keys of a prefix."""

    def clearing(self, prefix: bytes, names: Sequence[bytes], ask: Callable[[list[Command]], list[Any]]) -> int:
        """Delete what server's keys hold of the keys of a prefix; return how many there were.

        Args:
            prefix: the prefix.
            names: the server's keys.
            ask: sends commands to the server that has them, and returns its answers.
        """


class Plain:
    """Each value under a key of its own. See ``Layout``."""

    tag = b""
    scripts: tuple[bytes, ...] = (WRITE, SWAP)

    def __init__(self) -> None:
        self._write = _sha(WRITE)
        self._swap = _sha(SWAP)

    def place(self, key: bytes) -> bytes:
        """See ``Layout.place``."""
        return key

    def lookup(self, keys: Sequence[bytes], *, by_slot: bool = False) -> tuple[list[Command], Gather]:
        """See ``Layout.lookup``. Of keys in one slot alone, as ``MGET`` is."""
        return [(b"MGET", *keys)], _only

    def writes(self, entries: Sequence[Entry], mark: tuple[bytes, bytes]) -> Iterator[Script]:
        """See ``Layout.writes``."""
        for batch, replaced in _batched(entries):
            sha = self._write if replaced is None else self._swap
            keys = [entry.key for entry in batch]
            yield _run(sha, keys, mark, [entry.value for entry in batch], replaced or (), _ttls(batch))

    def removals(self, keys: Sequence[bytes]) -> list[Command]:
        """See ``Layout.removals``."""
        return [(b"UNLINK", key) for key in keys]

    def scan(self, prefix: bytes) -> bytes:
        """See ``Layout.scan``."""
        return prefix

    def clearing(self, prefix: bytes, names: Sequence[bytes], ask: Callable[[list[Command]], list[Any]]) -> int:
        """See ``Layout.clearing``."""
        # One command a key: the keys that one node of a Cluster holds are of many slots.
        return counted(ask(self.removals(names)))


class Packed:
    """Values as fields of hashes. See ``Layout``.

    Args:
        packing: how they are spread over hashes.
    """

    scripts: tuple[bytes, ...] = (PACKED_WRITE, PACKED_SWAP, PACKED_SWEEP, PACKED_READ)

    def __init__(self, packing: Packing) -> None:
        self.packing = packing
        self.tag = packing.tag
        self._write = _sha(PACKED_WRITE)
        self._swap = _sha(PACKED_SWAP)

    def place(self, key: bytes) -> bytes:
        """See ``Layout.place``."""
        return self.packing.place(key)[0]

    def lookup(self, keys: Sequence[bytes], *, by_slot: bool = False) -> tuple[list[Command], Gather]:
        """See ``Layout.lookup``."""
        names, fields = self.packing.places(keys)
        if by_slot or names.count(names[0]) == len(names):
            return _lookup_by_hash(names, fields)
        commands: list[Command] = []
        for first in range(0, len(names), _FIELDS_A_SCRIPT):
            last = first + _FIELDS_A_SCRIPT
            some = names[first:last]
            commands.append((b"EVALSHA_RO", _READ_SHA, b"%d" % len(some), *some, *fields[first:last]))
        return commands, _one_after_the_other

    def writes(self, entries: Sequence[Entry], mark: tuple[bytes, bytes]) -> Iterator[Script]:
        """See ``Layout.writes``."""
        for batch, replaced in _batched(entries):
            sha = self._write if replaced is None else self._swap
            names, fields = self.packing.places([entry.key for entry in batch])
            yield _run(sha, names, mark, [*fields, *[NEVER + entry.value for entry in batch]], replaced or (), _ttls(batch))

    def removals(self, keys: Sequence[bytes]) -> list[Command]:
        """See ``Layout.removals``."""
        fields: dict[bytes, list[bytes]] = {}
        for name, field in zip(*self.packing.places(keys), strict=True):
            fields.setdefault(name, []).append(field)
        return [(b"HDEL", name, *of_name) for name, of_name in fields.items()]

    def scan(self, prefix: bytes) -> bytes:
        """See ``Layout.scan``."""
        return head_in(prefix)

    def clearing(self, prefix: bytes, names: Sequence[bytes], ask: Callable[[list[Command]], list[Any]]) -> int:
        """See ``Layout.clearing``. What lies under a key of its own, as marks do, goes too."""
        head = head_in(prefix)
        heads = {name: head_of(name) for name in names}
        whole = [name for name, its in heads.items() if its is not None and its.startswith(prefix)]
        single = [name for name, its in heads.items() if its is None and name.startswith(prefix)]
        cleared = self.whole(whole, ask) + counted(ask([(b"UNLINK", name) for name in single]))
        # Of hashes in which others lie too, the fields.
        part = [name for name, its in heads.items() if its == head and not head.startswith(prefix)]
        chosen = []
        for name, answer in zip(part, checked(ask([(b"HKEYS", name) for name in part])), strict=True):
            fields = [field for field in answer if (head + field).startswith(prefix)]
            chosen += [(b"HDEL", name, *fields)] if fields else []
        return cleared + counted(ask(chosen))

    @staticmethod
    def whole(names: Sequence[bytes], ask: Callable[[list[Command]], list[Any]]) -> int:
        """Delete hashes with all that is in them; return how many fields there were."""
        answers = checked(ask([command for name in names for command in ((b"HLEN", name), (b"UNLINK", name))]))
        return sum(answers[::2])

    def sweeps(self, head: bytes, first: int, count: int, together: int) -> Iterator[Script]:
        """Yield the runs of the script that deletes what may be forgotten from some hashes of a view's version.

        Args:
            head: what their names begin with.
            first: the first hash's number.
            count: how many hashes.
            together: how many a script may have: in a Cluster they lie in as many slots.
        """
        names = list(self.packing.names(head, first, count))
        for start in range(0, len(names), together):
            some = names[start : start + together]
            yield (b"EVALSHA", _SWEEP_SHA, b"%d" % len(some), *some)


def layout_of(packing: Packing | None) -> Plain | Packed:
    """Return the layout that an address asks for."""
    return Plain() if packing is None else Packed(packing)


def checked(answers: list[Any]) -> list[Any]:
    """Return answers; raise the first that is an error."""
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


def counted(answers: list[Any]) -> int:
    """Return the sum of answers; raise the first that is an error."""
    return sum(checked(answers))


def _lookup_by_hash(names: Sequence[bytes], fields: Sequence[bytes]) -> tuple[list[Command], Gather]:
    fields_of: dict[bytes, list[bytes]] = defaultdict(list)
    numbers: dict[bytes, list[int]] = defaultdict(list)
    for number, (name, field) in enumerate(zip(names, fields, strict=True)):
        fields_of[name].append(field)
        numbers[name].append(number)

    def gather(answers: list[Any]) -> list[bytes | None]:
        values: list[bytes | None] = [None] * len(names)
        for of_name, answer in zip(numbers.values(), answers, strict=True):
            for number, stored in zip(of_name, answer, strict=True):
                values[number] = value_in(stored)
        return values

    return [(b"HMGET", name, *of_name) for name, of_name in fields_of.items()], gather


def _one_after_the_other(answers: list[Any]) -> list[bytes | None]:
    return [value_in(stored) for answer in answers for stored in answer]


def _only(answers: list[Any]) -> list[bytes | None]:
    values: list[bytes | None] = answers[0]
    return values


def _batched(entries: Sequence[Entry]) -> Iterator[tuple[list[Entry], list[bytes] | None]]:
    """Yield entries in batches of which each is one script's, and what those of a batch replace; None where the greatest wins."""
    for batch in batches((entry for entry in entries if entry.replaces is None), _ENTRIES_A_SCRIPT, _BYTES_A_SCRIPT):
        yield batch, None
    for batch in batches((entry for entry in entries if entry.replaces is not None), _ENTRIES_A_SCRIPT, _BYTES_A_SCRIPT):
        yield batch, [entry.replaces for entry in batch if entry.replaces is not None]


def _run(
    sha: bytes,
    keys: Sequence[bytes],
    mark: tuple[bytes, bytes],
    values: Sequence[bytes],
    replaced: Sequence[bytes],
    ttls: Iterable[bytes],
) -> Script:
    return (b"EVALSHA", sha, b"%d" % len(keys), *keys, *mark, *values, *replaced, *ttls)


def _ttls(entries: Sequence[Entry]) -> list[bytes]:
    ttls = {entry.ttl_ms for entry in entries}
    sent: list[int | None] = [] if ttls == {None} else list(ttls) if len(ttls) == 1 else [entry.ttl_ms for entry in entries]
    return [b"" if ttl is None else b"%d" % max(ttl, 1) for ttl in sent]
