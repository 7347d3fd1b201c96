"""The audit trail: who changed what a project keeps, grants or forgets. Of people there are keyed hashes alone.

A record is written in the transaction of what it tells of, so there is none without the other.
"""

import getpass
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from featurestore.clock import Clock, from_micros, to_micros
from featurestore.errors import RequestError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from featurestore.registry.database import Database


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
        """Returns it in plain JSON values."""
        return {**asdict(self), "at": self.at.isoformat()}


def record(connection: "Connection", registry: Audited, action: str, **what: Any) -> None:
    """Writes a record, as part of a transaction."""
    row = {
        "project": registry.project, "id": secrets.token_hex(8), "at": to_micros(registry.clock()), "who": _who(),
        "action": action, "what": msgspec.json.encode(what).decode(),
    }  # fmt: skip
    connection.execute(registry.database.tables.audit.insert().values(row))


def records(registry: Audited, limit: int) -> list[AuditRecord]:
    """Returns the latest records of a project, the newest first.

    Raises:
        RequestError: the limit is no positive number.
        RegistryError: the database cannot be reached.
    """
    if limit < 1:
        raise RequestError(f"limit={limit} is not at least 1.")
    audit = registry.database.tables.audit
    newest = audit.select().where(audit.c.project == registry.project).order_by(audit.c.at.desc(), audit.c.id).limit(limit)
    with registry.database.reading() as connection:
        rows = connection.execute(newest).all()
    return [AuditRecord(from_micros(row.at), row.who, row.action, msgspec.json.decode(row.what)) for row in rows]


@cache
def _who() -> str:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
