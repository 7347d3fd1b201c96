"""The audit trail: who changed, granted or forgot what. People appear only as keyed hashes.

A record is written in the transaction of what it tells of, so there is none without the other.
"""

import getpass
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from functools import cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from featurestore.clock import Clock, from_micros, to_micros
from featurestore.errors import RequestError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from featurestore.registry.database import Database


_SECRET = "audit"
_DIGEST_SIZE = 12


class Audited(Protocol):
    """A project's registry, as far as the trail goes."""

    @property
    def project(self) -> str:
        """The project's name."""

    @property
    def clock(self) -> Clock:
        """Tells the present."""

    @property
    def database(self) -> "Database":
        """Where it is kept."""


@dataclass(frozen=True)
class AuditRecord:
    """Something that somebody did.

    Args:
        at: when.
        who: the system's user and the machine.
        action: ``apply``, ``unprotect``, ``rollback``, ``forget``, ``unforget``, ``key created``, ``key revoked`` or ``teardown``.
        what: what was concerned, in plain JSON values.
    """

    at: datetime
    who: str
    action: str
    what: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return it in plain JSON values."""
        return {**asdict(self), "at": self.at.isoformat()}


def record(connection: "Connection", registry: Audited, action: str, *, when: int | None = None, **what: Any) -> None:
    """Write a record, as part of a transaction; ``when`` is the transaction's instant in microseconds, if it has one."""
    at = to_micros(registry.clock()) if when is None else when
    row = {
        "project": registry.project, "id": secrets.token_hex(8), "at": at, "who": _who(),
        "action": action, "what": msgspec.json.encode(what).decode(),
    }  # fmt: skip
    connection.execute(registry.database.tables.audit.insert().values(row))


def records(registry: Audited, limit: int) -> list[AuditRecord]:
    """Return the latest records of a project, the newest first.

    Raises:
        RequestError: the limit is not a positive number.
        RegistryError: the database cannot be reached.
    """
    if limit < 1:
        raise RequestError(f"limit={limit} is not at least 1.")
    audit = registry.database.tables.audit
    newest = audit.select().where(audit.c.project == registry.project).order_by(audit.c.at.desc(), audit.c.id).limit(limit)
    with registry.database.reading() as connection:
        rows = connection.execute(newest).all()
    return [AuditRecord(from_micros(row.at), row.who, row.action, msgspec.json.decode(row.what)) for row in rows]


class EntityDigests:
    """Keyed digests of entities, by which a server's audit log names whom was asked about. Thread-safe.

    The key is a random number in the registry, made when it is first needed: who has the log alone cannot try values. Who has
    both can.

    Args:
        registry: the project's registry.
    """

    def __init__(self, registry: Audited) -> None:
        self._registry = registry
        self._key = b""

    def of(self, entity: str, keys: Mapping[str, Any]) -> str:
        """Return the digest of one entity, by its name and join keys: ``airport:3f2a…``. 42 and "42" are one.

        Raises:
            RegistryError: the key is not known yet, and the database cannot be reached.

        Example:
            >>> from featurestore import FeatureStore
            >>> with FeatureStore(".", project="audited") as store:
            ...     one, other = (store.admin.entity_digests.of("user", {"id": value}) for value in (42, "42"))
            >>> one == other, one[:5]
            (True, 'user:')
        """
        self._key = self._key or self._made()
        parts = [entity.encode(), *(part for name in sorted(keys) for part in (name.encode(), _as_bytes(keys[name])))]
        message = b"".join(b"%d:%b" % (len(part), part) for part in parts)
        return f"{entity}:{blake2b(message, key=self._key, digest_size=_DIGEST_SIZE).hexdigest()}"

    def _made(self) -> bytes:
        table, project = self._registry.database.tables.secret, self._registry.project
        mine = table.select().where(table.c.project == project, table.c.name == _SECRET)
        with self._registry.database.reading() as connection:
            row = connection.execute(mine).first()
        if row is None:
            with self._registry.database.writing() as connection:
                new = {"project": project, "name": _SECRET, "value": secrets.token_hex(32)}
                self._registry.database.insert_new(connection, table, new)
                row = connection.execute(mine).one()
        return bytes.fromhex(row.value)


def _as_bytes(value: Any) -> bytes:
    """Return a join key's value whatever its type: 42, 42.0 and "42" are one, and so are a date and its ISO text."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, datetime) and value.tzinfo is not None:
        value = value.astimezone(UTC).replace(tzinfo=None)
    if isinstance(value, datetime) and (value.hour, value.minute, value.second, value.microsecond) == (0, 0, 0, 0):
        value = value.date()
    text = value.isoformat() if isinstance(value, date) else str(value).lower() if isinstance(value, bool) else str(value)
    return text.encode("utf-8", "replace")


@cache
def _who() -> str:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
