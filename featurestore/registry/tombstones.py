"""Tombstones: who was forgotten, as keyed hashes, so that neither a run nor a push brings them back."""

import secrets
from collections.abc import Sequence
from threading import Lock
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from featurestore.clock import to_micros
from featurestore.plan.forgotten import Graves, digest
from featurestore.registry.specs import SpecRegistry, read_view
from featurestore.spec.catalog import AppliedView
from featurestore.spec.entity import Entity
from featurestore.spec.serial import from_json
from featurestore.spec.service import FeatureService

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection

_SECRET = "tombstones"


class Tombstones:
    """The tombstones of one project. Thread-safe.

    Args:
        registry: the project's registry, whose database and clock they share.

    Every method raises ``RegistryError`` where the database cannot be reached.
    """

    def __init__(self, registry: SpecRegistry) -> None:
        self._registry = registry
        self._database = registry.database
        self._lock = Lock()
        self._known = Graves()

    def current(self) -> Graves:
        """Returns who is forgotten at this moment: one small query where nothing changed since the last call."""
        with self._database.reading() as connection:
            change = self._change(connection)
            known = self._known
            if change == known.change:
                return known
            tombstone = self._database.tables.tombstone
            mine = (tombstone.c.project == self._registry.project) & ~tombstone.c.lifted
            rows = connection.execute(select(tombstone.c.entity, tombstone.c.digest).where(mine)).all()
            secret = self._secret(connection)
        digests: dict[str, set[bytes]] = {}
        for row in rows:
            digests.setdefault(row.entity, set()).add(bytes.fromhex(row.digest))
        found = Graves(change, secret or b"", {entity: frozenset(each) for entity, each in digests.items()})
        with self._lock:
            if found.change > self._known.change:
                self._known = found
        return found

    def lay(self, entity: str, encoded: Sequence[bytes]) -> None:
        """Lays a tombstone for each of some entities, by their encoded join keys; where there is one, it is laid anew.

        From the moment that this returns, ``current`` tells of them everywhere.
        """
        tombstone = self._database.tables.tombstone
        with self._database.writing() as connection:
            secret = self._secret(connection)
            if secret is None:
                self._database.insert_new(
                    connection,
                    self._database.tables.secret,
                    {"project": self._registry.project, "name": _SECRET, "value": secrets.token_hex(32)},
                )
                secret = self._secret(connection)
            assert secret is not None, "it was made, here or elsewhere"
            values = {"forgotten_at": to_micros(self._registry.clock()), "erased_at": None, "lifted": False,
                      "change": self._change(connection) + 1}  # fmt: skip
            for each in encoded:
                told = digest(secret, each).hex()
                key = {"project": self._registry.project, "entity": entity, "digest": told}
                if not self._database.insert_new(connection, tombstone, {**key, **values}):
                    connection.execute(tombstone.update().where(self._of(entity, [told])).values(values))

    def erased(self, entity: str, encoded: Sequence[bytes]) -> None:
        """Notes that all that there was of some entities is erased."""
        tombstone = self._database.tables.tombstone
        with self._database.writing() as connection:
            digests = self._digests(connection, encoded)
            now = to_micros(self._registry.clock())
            connection.execute(tombstone.update().where(self._of(entity, digests)).values(erased_at=now))

    def lift(self, entity: str, encoded: Sequence[bytes]) -> int:
        """Lets entities come back; returns how many of them were forgotten."""
        tombstone = self._database.tables.tombstone
        with self._database.writing() as connection:
            where = self._of(entity, self._digests(connection, encoded)) & ~tombstone.c.lifted
            change = self._change(connection) + 1
            return connection.execute(tombstone.update().where(where).values(lifted=True, change=change)).rowcount

    def unfinished(self) -> dict[str, int]:
        """Returns of each entity how many were to be forgotten and are not wholly erased: whoever did it was interrupted."""
        tombstone = self._database.tables.tombstone
        mine = (tombstone.c.project == self._registry.project) & tombstone.c.erased_at.is_(None) & ~tombstone.c.lifted
        with self._database.reading() as connection:
            rows = connection.execute(
                select(tombstone.c.entity, func.count().label("count")).where(mine).group_by(tombstone.c.entity)
            ).all()
        return {row.entity: int(row._mapping["count"]) for row in rows}

    def tables(self) -> list[AppliedView]:
        """Returns every data version that any view of the project ever had, removed ones too, as it was last."""
        spec = self._database.tables.spec
        mine = (spec.c.project == self._registry.project) & (spec.c.kind == "view") & ~spec.c.deleted
        with self._database.reading() as connection:
            rows = connection.execute(spec.select().where(mine).order_by(spec.c.name, spec.c.version)).all()
        newest = {(row.name, row.data_version): row for row in rows}
        return [AppliedView(read_view(row.name, row.version, row.body), row.version, row.data_version) for row in newest.values()]

    def joins(self) -> dict[str, list[tuple[Entity, tuple[str, ...]]]]:
        """Returns, by the entity's name, each entity that a view is or was on, with the columns that its keys came in.

        These are the keys' own names, and what any version of a service or on-demand view says with ``.on(…)``.
        """
        entities: dict[tuple[str, tuple[str, ...]], Entity] = {}
        for view in self.tables():
            entities[view.spec.entity.name, view.spec.entity.key_names] = view.spec.entity
        spec = self._database.tables.spec
        mine = (spec.c.project == self._registry.project) & spec.c.kind.in_(("service", "on_demand")) & ~spec.c.deleted
        with self._database.reading() as connection:
            rows = connection.execute(spec.select().where(mine)).all()
        renamed: set[tuple[tuple[str, str], ...]] = {()}
        for row in rows:
            read = from_json(row.kind, row.body)
            references = read.references if isinstance(read, FeatureService) else getattr(read, "inputs", ())
            renamed |= {each.key_columns for each in references}
        found: dict[str, list[tuple[Entity, tuple[str, ...]]]] = {}
        for (name, keys), entity in entities.items():
            columns = dict.fromkeys(tuple(dict(each).get(key, key) for key in keys) for each in sorted(renamed))
            found.setdefault(name, []).extend((entity, each) for each in columns)
        return found

    def _change(self, connection: "Connection") -> int:
        tombstone = self._database.tables.tombstone
        mine = tombstone.c.project == self._registry.project
        return int(connection.execute(select(func.max(tombstone.c.change)).where(mine)).scalar() or 0)

    def _secret(self, connection: "Connection") -> bytes | None:
        secret = self._database.tables.secret
        mine = (secret.c.project == self._registry.project) & (secret.c.name == _SECRET)
        row = connection.execute(secret.select().where(mine)).first()
        return None if row is None else bytes.fromhex(row.value)

    def _digests(self, connection: "Connection", encoded: Sequence[bytes]) -> list[str]:
        secret = self._secret(connection)
        return [] if secret is None else [digest(secret, each).hex() for each in encoded]

    def _of(self, entity: str, digests: Sequence[str]) -> "ColumnElement[bool]":
        tombstone = self._database.tables.tombstone
        mine = (tombstone.c.project == self._registry.project) & (tombstone.c.entity == entity)
        named: ColumnElement[bool] = mine & tombstone.c.digest.in_(digests)
        return named
