"""The audit log of the server: one line of JSON for every request that needs a permission.

It has names, never values: of features, views, services and sources, and the number of rows. Entities that are looked up are in
it by keyed digests, and whether what was read has personal information, however many names there are. No key is in it but by its
id.
"""

import os
import secrets
import sys
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from featurestore.clock import Clock
from featurestore.errors import ConfigError, RegistryError
from featurestore.server.http.context import RequestContext
from featurestore.server.telemetry.events import NullTelemetry

if TYPE_CHECKING:
    from featurestore.registry.audit_trail import EntityDigests

_MOST_NAMES = 100
_MOST_ROWS = 1_000
_LONGEST = 200
_LOOK_EVERY = 64


class AuditLog(NullTelemetry):
    """Write who asked for what.

    Every line is one write to a file that is only ever added to, so the lines of several processes do not mix. A file that
    was moved away, as log rotation does, is created again.

    Args:
        target: a file, or ``stderr``.
        root: the folder at which a relative path starts.
        clock: tells the present.
        digests: names entities without telling who they are.

    Raises:
        ConfigError: the file cannot be written.
    """

    def __init__(self, target: str, root: Path, clock: Clock, digests: "EntityDigests") -> None:
        self._clock = clock
        self._digests = digests
        self._path = None if target == "stderr" else root / Path(target).expanduser()
        self._encoder = msgspec.json.Encoder()
        self._begin = secrets.token_hex(4)
        self._numbers = count(1)
        try:
            self._file = self._open()
        except OSError as error:
            raise ConfigError(f"audit={target!r} cannot be written: {error.strerror}. Name a file that can, or stderr.") from error

    def request(self, route: str, status: int, seconds: float, context: RequestContext) -> None:
        """Write a line, but of what needs nothing."""
        permission = context.permission
        if permission is None:
            return
        number = next(self._numbers)
        if self._path is not None and number % _LOOK_EVERY == 0:
            self._follow(self._path)
        who, asked = context.principal, context.resource
        said = context.header(b"x-request-id")
        client = context.scope.get("client")
        line = {
            "time": self._clock().isoformat(timespec="microseconds"),
            "who": None if who is None else who.name,
            "key": None if who is None else who.key_id or None,
            "action": permission.action,
            "kind": None if asked is None else asked.kind,
            "names": [] if asked is None else [name[:_LONGEST] for name in asked.names[:_MOST_NAMES]],
            "rows": context.rows,
            "entities": self._entities(context),
            "personal": context.personal,
            "decision": _decision(context),
            "status": status,
            "route": route,
            "client": client[0] if client else None,
            "request_id": f"{self._begin}-{number:x}" if said is None else _printable(said),
        }
        os.write(self._file, self._encoder.encode(line) + b"\n")

    def _entities(self, context: RequestContext) -> list[str] | None:
        """Return the digests of the first rows' entities, each once; None if they cannot be determined."""
        try:
            digests = {
                self._digests.of(entity, keys): None
                for entity, columns in context.entities
                for keys in _keys(context.entity_rows, columns)
                if None not in keys.values()
            }
        except RegistryError:  # without the registry there may be no key yet: the rest of the line is worth having
            return None
        return list(digests)

    def close(self) -> None:
        """Close the file."""
        if self._path is not None:
            os.close(self._file)

    def _open(self) -> int:
        if self._path is None:
            return sys.stderr.fileno()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)

    def _follow(self, path: Path) -> None:
        """Reopen the file if it was moved away."""
        now = os.fstat(self._file)
        try:
            there = path.stat()
            moved = (there.st_dev, there.st_ino) != (now.st_dev, now.st_ino)
        except FileNotFoundError:
            moved = True
        if moved:
            before, self._file = self._file, self._open()
            os.close(before)


def _keys(rows: Any, columns: tuple[tuple[str, str], ...]) -> Iterator[dict[str, Any]]:
    """Yield the join keys of the first rows, as the request gave them; of a malformed one nothing."""
    if isinstance(rows, dict):
        names = [key for key, _ in columns]
        if all(isinstance(rows.get(column), list) for _, column in columns):
            values = zip(*(rows[column] for _, column in columns), strict=False)
            yield from (dict(zip(names, key_values, strict=True)) for key_values in islice(values, _MOST_ROWS))
        return
    for row in rows[:_MOST_ROWS]:
        yield {key: row.get(column) for key, column in columns}


def _decision(context: RequestContext) -> str:
    """Return what was decided: ``allowed``, ``denied``, ``unknown`` who asks, or ``none``, where it came to no question."""
    if context.principal is None:
        return "unknown"
    if context.resource is None:
        return "none"
    return "allowed" if context.decided else "denied"


def _printable(text: bytes) -> str:
    return "".join(chr(code) for code in text[:_LONGEST] if 32 < code < 127)
