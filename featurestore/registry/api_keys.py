"""API keys, stored as hashes beside the definitions.

A key is ``fs_<id>_<secret>``, and the secret 256 random bits in hexadecimal. The registry has its SHA-256. That is the right
hash here: what makes slow hashes (bcrypt, argon2) needful is that people's passwords can be guessed, and nobody guesses 256
random bits. A slow one would only cost every request its time.
"""

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hmac import compare_digest
from typing import TYPE_CHECKING, Any

import msgspec

from featurestore.access.grants import Grant
from featurestore.clock import from_micros, parse_duration, to_micros
from featurestore.errors import ConfigError, NotFoundError
from featurestore.registry.audit_trail import record
from featurestore.registry.specs import SpecRegistry

if TYPE_CHECKING:
    from sqlalchemy import Row

PREFIX = "fs"
"""What every key begins with, so that scanners of repositories find one that was committed by mistake."""


@dataclass(frozen=True)
class Key:
    """An API key, without its secret.

    Args:
        id: what it is called everywhere but in the request: in lists, in the audit log, to revoke it.
        name: whose it is.
        grants: what it may do.
        created_at: when it was made.
        expires_at: from when on it does not count any more; None for never.
        revoked_at: when it was revoked; None where it was not.
        last_four: the end of its secret, to recognize it by.
    """

    id: str
    name: str
    grants: tuple[Grant, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_four: str
    digest: str = field(default="", repr=False)

    def state(self, now: datetime) -> str:
        """Return ``"active"``, ``"expired"`` or ``"revoked"``."""
        if self.revoked_at is not None:
            return "revoked"
        return "active" if self.expires_at is None or now < self.expires_at else "expired"

    def fits(self, secret: str) -> bool:
        """Return, in a time that says nothing, whether a secret is this key's."""
        return compare_digest(_digest(secret), self.digest)

    def to_dict(self) -> dict[str, Any]:
        """Return the key in plain JSON values, without anything secret."""
        times = {name: getattr(self, name) for name in ("created_at", "expires_at", "revoked_at")}
        instants = {name: None if time is None else time.isoformat() for name, time in times.items()}
        grants = [str(grant) for grant in self.grants]
        return {"id": self.id, "name": self.name, "grants": grants, **instants, "last_four": self.last_four}


@dataclass(frozen=True)
class NewKey:
    """A key that was just made.

    Args:
        key: the key.
        secret: the whole of it, ``fs_<id>_<secret>``. It is kept nowhere and cannot be shown again.
    """

    key: Key
    secret: str = field(repr=False)


class Keys:
    """The API keys of one project. Thread-safe.

    Args:
        registry: the project's registry, whose database and clock they share.

    Every method raises ``RegistryError`` where the database cannot be reached.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from featurestore.clock import utc_now
        >>> registry = SpecRegistry("sqlite:///registry.db", "flights", Path(tempfile.mkdtemp()), utc_now)
        >>> keys = Keys(registry)
        >>> made = keys.create("dashboard", ["reader project"], expires="90d")
        >>> made.secret.startswith(f"fs_{made.key.id}_")
        True
        >>> keys.revoke(made.key.id).state(utc_now())
        'revoked'
        >>> registry.close()
    """

    def __init__(self, registry: SpecRegistry) -> None:
        self._registry = registry
        self._database = registry.database

    def create(self, name: str, grants: Iterable[str | Grant], *, expires: str | timedelta | datetime | None = None) -> NewKey:
        """Make a key, and return it with the secret, which is shown this once.

        Args:
            name: whose it is, or what it is for.
            grants: what it may do, as in ``"reader service:delay_model"``; at least one.
            expires: after how long it does not count any more (``"90d"``), or from when on; None for never.

        Raises:
            ConfigError: there is no name or no grant, a grant says nothing, or the time is past.
            DefinitionError: the duration is none.
            NotFoundError: a grant names a service or view that is not applied.
        """
        given = tuple(dict.fromkeys(grant if isinstance(grant, Grant) else Grant.parse(grant) for grant in grants))
        if not name.strip() or not name.isprintable():
            raise ConfigError("A key needs a name that can be read: whose it is, or what it is for.")
        if not given:
            raise ConfigError('A key without a grant may do nothing. Give it one, as in "reader service:delay_model".')
        self._check_names(given)
        now = to_micros(self._registry.clock())
        ends = None if expires is None else to_micros(expires) if isinstance(expires, datetime) else now + parse_duration(expires)
        if ends is not None and ends <= now:
            raise ConfigError(f"expires={expires!s} is past already.")
        secret = secrets.token_hex(32)
        values = {
            "project": self._registry.project, "id": secrets.token_hex(8), "name": name,
            "digest": _digest(secret), "grants": _written(given),
            "created_at": now, "expires_at": ends, "revoked_at": None, "last_four": secret[-4:],
        }  # fmt: skip
        key = self._database.tables.key
        with self._database.writing() as connection:
            connection.execute(key.insert().values(values))
            texts = [str(grant) for grant in given]
            record(connection, self._registry, "key created", key=values["id"], name=name, grants=texts, expires_at=ends)
            row = connection.execute(key.select().where(key.c.project == self._registry.project, key.c.id == values["id"])).one()
        return NewKey(_key(row), f"{PREFIX}_{values['id']}_{secret}")

    def list(self) -> list[Key]:
        """Return all keys, expired and revoked ones too, in the order in which they were made."""
        key = self._database.tables.key
        mine = key.select().where(key.c.project == self._registry.project).order_by(key.c.created_at, key.c.id)
        with self._database.reading() as connection:
            return [_key(row) for row in connection.execute(mine).all()]

    def revoke(self, key_id: str) -> Key:
        """Revoke a key for good, and return it. Servers know within two seconds. Idempotent.

        Raises:
            NotFoundError: there is no such key.
        """
        key = self._database.tables.key
        mine = (key.c.project == self._registry.project) & (key.c.id == key_id)
        now = to_micros(self._registry.clock())
        with self._database.writing() as connection:
            if connection.execute(key.update().where(mine & key.c.revoked_at.is_(None)).values(revoked_at=now)).rowcount:
                record(connection, self._registry, "key revoked", key=key_id)
            row = connection.execute(key.select().where(mine)).first()
        if row is None:
            raise NotFoundError("key", key_id, [known_key.id for known_key in self.list()], "featurestore keys list shows them.")
        return _key(row)

    @staticmethod
    def split(text: str) -> tuple[str, str] | None:
        """Return a key's id and secret; None if the text is not a key.

        Example:
            >>> Keys.split("fs_0123456789abcdef_secret")
            ('0123456789abcdef', 'secret')
        """
        prefix, _, rest = text.partition("_")
        number, _, secret = rest.partition("_")
        return (number, secret) if prefix == PREFIX and number and secret else None

    def _check_names(self, grants: Iterable[Grant]) -> None:
        catalog = self._registry.load()
        known = {"service": catalog.services, "view": {**catalog.views, **catalog.on_demand}}
        for grant in grants:
            if grant.name and grant.name not in known[grant.scope]:
                raise NotFoundError(f"applied {grant.scope}", grant.name, known[grant.scope], "A key is granted what is applied.")


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _written(grants: Iterable[Grant]) -> str:
    return msgspec.json.encode([str(grant) for grant in grants]).decode()


def _key(row: "Row[Any]") -> Key:
    times = {name: None if row._mapping[name] is None else from_micros(row._mapping[name]) for name in ("expires_at", "revoked_at")}
    grants = Grant.parse_all(msgspec.json.decode(row.grants, type=list[str]))
    return Key(row.id, row.name, grants, from_micros(row.created_at), **times, last_four=row.last_four, digest=row.digest)
