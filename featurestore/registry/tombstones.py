"""Tombstones: forgotten entities as keyed hashes, so that no run or push brings them back."""

import secrets
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import polars as pl
from sqlalchemy import func, or_, select

from featurestore.clock import to_micros
from featurestore.definitions.catalog import AppliedView
from featurestore.definitions.entity import Entity
from featurestore.definitions.serialization import from_json
from featurestore.definitions.service import FeatureService
from featurestore.errors import RegistryError
from featurestore.privacy.tombstone_set import TombstoneSet, canonical_keys, digest, former_keys, forms_of, related
from featurestore.registry.audit_trail import record
from featurestore.registry.specs import SpecRegistry, read_view
from featurestore.registry.tombstone_secret import TombstoneSecret

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection

_SALT = "tombstones"
_CHECK = "tombstones-check"
_NEW = "2:"
"""What a digest begins with that was made with the secret outside of the registry; those of former versions have no such."""


class Tombstones:
    """The tombstones of one project. Thread-safe.

    Args:
        registry: the project's registry, whose database and clock they share.
        secret: the key of the hashes, which is kept outside of the registry.

    Every method raises ``RegistryError`` where the database cannot be reached, or the secret is not the one that the tombstones
    were made with.
    """

    def __init__(self, registry: SpecRegistry, secret: TombstoneSecret) -> None:
        self._registry = registry
        self._database = registry.database
        self._outside = secret
        self._known = TombstoneSet()

    def current(self) -> TombstoneSet:
        """Return who is forgotten at this moment: one small query where nothing changed since the last call."""
        tombstone = self._database.tables.tombstone
        mine = tombstone.c.project == self._registry.project
        newest = select(tombstone.c.change, tombstone.c.entity, tombstone.c.digest, tombstone.c.forgotten_at, tombstone.c.lifted)
        with self._database.reading() as connection:
            # The number alone would not do: a registry that was restored counts the same numbers once more.
            last = connection.execute(
                newest.where(mine).order_by(tombstone.c.change.desc(), tombstone.c.digest.desc()).limit(1)
            ).first()
            known = self._known
            change = () if last is None else tuple(last)
            if change == known.change:
                return known
            rows = connection.execute(select(tombstone.c.entity, tombstone.c.digest).where(mine & ~tombstone.c.lifted)).all()
            salt = self._salt(connection) or b""
            new = any(row.digest.startswith(_NEW) for row in rows)
            secret = self._secret(connection, salt) if new else b""
        former: dict[str, set[bytes]] = {}
        digests: dict[str, set[bytes]] = {}
        for row in rows:
            of = digests if row.digest.startswith(_NEW) else former
            of.setdefault(row.entity, set()).add(bytes.fromhex(row.digest.removeprefix(_NEW)))
        current = TombstoneSet(change, secret, _frozen(digests), salt, _frozen(former))
        self._known = current
        return current

    def lay(self, name: str, entities: pl.DataFrame, *, new_secret: bool = False) -> int:
        """Lay a tombstone for each of some entities, by their join keys; replace an existing one. Return the change's number.

        From the moment that this returns, ``current`` tells of them everywhere.

        Args:
            name: the entity's name.
            entities: the join keys of each.
            new_secret: give up the tombstones whose secret is lost, and begin with another one.
        """
        tombstone = self._database.tables.tombstone
        with self._database.writing() as connection:
            change = self._next_change(connection)
            salt = self._salt(connection, make=True)
            assert salt is not None, "it was made, here or elsewhere"
            if new_secret:
                mine = (tombstone.c.project == self._registry.project) & tombstone.c.digest.startswith(_NEW)
                connection.execute(tombstone.update().where(mine).values(lifted=True, change=change))
                self._forget_check(connection)
            secret = self._secret(connection, salt, make=True)
            values = {"forgotten_at": to_micros(self._registry.clock()), "erased_at": None, "lifted": False, "change": change}
            digests = list(_digests(secret, entities))
            record(connection, self._registry, "forget", entity=name, digests=digests, new_secret=new_secret)
            for text in digests:
                key = {"project": self._registry.project, "entity": name, "digest": text}
                if not self._database.insert_new(connection, tombstone, {**key, **values}):
                    connection.execute(tombstone.update().where(self._of([name], [text])).values(values))
        return change

    def erased(self, forms: Sequence[Entity], entities: pl.DataFrame, change: int) -> bool:
        """Note that all that there was of some entities is erased, in all forms that they have or had.

        Args:
            forms: the forms.
            entities: the join keys of each.
            change: the number of the change that laid their tombstones.

        Returns:
            False if a writer has said meanwhile that it may have written rows of theirs (``reopen``): erase them again.
        """
        tombstone = self._database.tables.tombstone
        with self._database.writing() as connection:
            now = to_micros(self._registry.clock())
            laid = or_(*self._laid(connection, forms, entities))
            connection.execute(tombstone.update().where(laid & (tombstone.c.change <= change)).values(erased_at=now))
            later = select(tombstone.c.digest).where(laid & (tombstone.c.change > change) & tombstone.c.erased_at.is_(None))
            return connection.execute(later.limit(1)).first() is None

    def reopen(self, seen: TombstoneSet) -> int:
        """Note that the tombstones laid since an instant may not have kept rows out: what was erased has to be erased again.

        Args:
            seen: who was forgotten at that instant.

        Returns:
            How many there are.
        """
        tombstone = self._database.tables.tombstone
        last = seen.change[0] if seen.change else 0
        with self._database.writing() as connection:
            later = (tombstone.c.project == self._registry.project) & (tombstone.c.change > last) & ~tombstone.c.lifted
            if connection.execute(select(tombstone.c.digest).where(later).limit(1)).first() is None:
                return 0
            values = {"erased_at": None, "change": self._next_change(connection)}
            return connection.execute(tombstone.update().where(later).values(values)).rowcount

    def lift(self, forms: Sequence[Entity], entities: pl.DataFrame, *, dry_run: bool = False) -> int:
        """Let entities come back, whichever form they were forgotten in; return how many of them were forgotten.

        Args:
            forms: the forms that they have or had.
            entities: the join keys of each.
            dry_run: count only.
        """
        tombstone = self._database.tables.tombstone
        lifted = 0
        with self._database.reading() if dry_run else self._database.writing() as connection:
            change = 0 if dry_run else self._next_change(connection)
            laid = list(self._laid(connection, forms, entities))
            if laid and not dry_run:
                live = select(tombstone.c.digest).where(or_(*laid) & ~tombstone.c.lifted).order_by(tombstone.c.digest)
                digests = list(connection.execute(live).scalars().all())
                record(connection, self._registry, "unforget", entity=forms[0].name, digests=digests)
            for condition in laid:
                where = condition & ~tombstone.c.lifted
                if dry_run:
                    lifted += connection.execute(select(tombstone.c.digest).where(where).limit(1)).first() is not None
                else:
                    values = {"lifted": True, "change": change}
                    lifted += connection.execute(tombstone.update().where(where).values(values)).rowcount > 0
        return lifted

    def unfinished(self) -> dict[str, int]:
        """Return how many of each entity were to be forgotten and are not wholly erased, because forgetting was interrupted."""
        tombstone = self._database.tables.tombstone
        mine = (tombstone.c.project == self._registry.project) & tombstone.c.erased_at.is_(None) & ~tombstone.c.lifted
        with self._database.reading() as connection:
            rows = connection.execute(
                select(tombstone.c.entity, func.count().label("count")).where(mine).group_by(tombstone.c.entity)
            ).all()
        return {row.entity: int(row._mapping["count"]) for row in rows}

    def tables(self) -> list[AppliedView]:
        """Return every data version that any view of the project ever had, removed ones too, as it was last; the oldest first."""
        spec = self._database.tables.spec
        mine = (spec.c.project == self._registry.project) & (spec.c.kind == "view") & ~spec.c.deleted
        with self._database.reading() as connection:
            rows = connection.execute(spec.select().where(mine).order_by(spec.c.revision, spec.c.name, spec.c.version)).all()
        newest: dict[tuple[str, int], Any] = {}
        for row in rows:
            newest.pop((row.name, row.data_version), None)
            newest[row.name, row.data_version] = row
        return [AppliedView(read_view(row.name, row.version, row.body), row.version, row.data_version) for row in newest.values()]

    def renamed(self) -> set[tuple[tuple[str, str], ...]]:
        """Return what any version of a service or on-demand view says with ``.on(…)``, and nothing for what says nothing."""
        spec = self._database.tables.spec
        mine = (spec.c.project == self._registry.project) & spec.c.kind.in_(("service", "on_demand")) & ~spec.c.deleted
        with self._database.reading() as connection:
            rows = connection.execute(spec.select().where(mine)).all()
        renamed: set[tuple[tuple[str, str], ...]] = {()}
        for row in rows:
            read = from_json(row.kind, row.body)
            references = read.references if isinstance(read, FeatureService) else getattr(read, "inputs", ())
            renamed |= {reference.key_columns for reference in references}
        return renamed

    def cleaned(self) -> set[tuple[str, int]]:
        """Return the data versions of views whose rows were given up."""
        cleaned = self._database.tables.cleaned
        mine = select(cleaned.c.view, cleaned.c.data_version).where(cleaned.c.project == self._registry.project)
        with self._database.reading() as connection:
            return {(row.view, row.data_version) for row in connection.execute(mine).all()}

    def _next_change(self, connection: "Connection") -> int:
        """Return the number of a change, which nobody else gets until the transaction is over.

        So numbers rise in the order of commits: who has seen one has seen all that are smaller.
        """
        project, tombstone = self._database.tables.project, self._database.tables.tombstone
        self._database.insert_new(connection, project, {"project": self._registry.project, "revision": 0})
        connection.execute(project.select().where(project.c.project == self._registry.project).with_for_update())
        mine = tombstone.c.project == self._registry.project
        return int(connection.execute(select(func.max(tombstone.c.change)).where(mine)).scalar() or 0) + 1

    def _salt(self, connection: "Connection", *, make: bool = False) -> bytes | None:
        """Return the project's random number in the registry, which former versions had for a secret; None where there is none."""
        if make:
            row = {"project": self._registry.project, "name": _SALT, "value": secrets.token_hex(32)}
            self._database.insert_new(connection, self._database.tables.secret, row)
        value = self._value(connection, _SALT)
        return None if value is None else bytes.fromhex(value)

    def _secret(self, connection: "Connection", salt: bytes, *, make: bool = False) -> bytes:
        """Return the secret, once it is known to be the one that there are tombstones of."""
        wanted = self._value(connection, _CHECK)
        secret = self._outside.make(salt) if make and wanted is None else self._outside.read(salt)
        check = "" if secret is None else blake2b(secret, digest_size=16, person=b"tombstones-check").hexdigest()
        if make and wanted is None:
            row = {"project": self._registry.project, "name": _CHECK, "value": check}
            self._database.insert_new(connection, self._database.tables.secret, row)
            wanted = self._value(connection, _CHECK)
        if secret is None or check != wanted:
            raise RegistryError(
                f"The secret that the tombstones of {self._registry.project!r} were made with is not in {self._outside.place}: "
                f"{'there is none' if secret is None else 'there is another one'}. Without it nobody can tell who was forgotten, "
                "so nothing is written. Restore it from where it was or from a backup of the history. If it is lost for good, "
                "forget everybody again, the first one with: featurestore forget ENTITY KEY=VALUE --new-secret"
            )
        return secret

    def _forget_check(self, connection: "Connection") -> None:
        secret = self._database.tables.secret
        connection.execute(secret.delete().where((secret.c.project == self._registry.project) & (secret.c.name == _CHECK)))

    def _value(self, connection: "Connection", name: str) -> str | None:
        secret = self._database.tables.secret
        mine = (secret.c.project == self._registry.project) & (secret.c.name == name)
        row = connection.execute(select(secret.c.value).where(mine)).first()
        return None if row is None else str(row.value)

    def _laid(self, connection: "Connection", forms: Sequence[Entity], entities: pl.DataFrame) -> "Iterator[ColumnElement[bool]]":
        """Yield for each entity the condition of its tombstones, in whatever form and by whatever version they were laid."""
        salt = self._salt(connection)
        if salt is None:
            return
        mine = self._database.tables.secret.c.project == self._registry.project
        known = connection.execute(select(self._database.tables.secret.c.name).where(mine)).scalars().all()
        new = list(_digests(self._secret(connection, salt), entities)) if _CHECK in known else [""] * entities.height
        former = [former_keys(entities, form) for form in forms if form.keys.keys() == set(entities.columns)]
        names = {form.name for form in forms}
        for place, text in enumerate(new):
            older = [digest(salt, key).hex() for keys in former if (key := keys[place]) is not None]
            yield self._of(names, [text, *older])

    def _of(self, names: Iterable[str], digests: Sequence[str]) -> "ColumnElement[bool]":
        tombstone = self._database.tables.tombstone
        mine = (tombstone.c.project == self._registry.project) & tombstone.c.entity.in_(sorted(names))
        named: ColumnElement[bool] = mine & tombstone.c.digest.in_(digests)
        return named


class Forms:
    """The forms that the entities of a project have and had, as its registry tells them at one moment.

    Args:
        tombstones: the project's tombstones.
    """

    def __init__(self, tombstones: Tombstones) -> None:
        self.views = tombstones.tables()
        self._renamed = tombstones.renamed()
        self._related = related(self.views)
        self._stored = {(view.spec.name, view.data_version): view for view in self.views}
        self._entities = {place: view.spec.entity for place, view in self._stored.items()}

    @property
    def names(self) -> list[str]:
        """The names of all entities that a view is or was on."""
        return list(self._related)

    def of_entity(self, name: str) -> list[Entity]:
        """Return the forms of an entity under all names that it has or had, the latest first; none of an unknown one."""
        return forms_of(self._related.get(name, ()), self.views)

    def of_view(self, name: str) -> list[Entity]:
        """Return the forms of the entities that a view is or was on, the latest first."""
        own = {entity.name for (view, _), entity in self._entities.items() if view == name}
        return forms_of(own.union(*(self._related[entity_name] for entity_name in own)), self.views)

    def stored(self, view: str, data_version: int) -> AppliedView | None:
        """Return a view as one of its data versions is stored; None where that never was."""
        return self._stored.get((view, data_version))

    def keyed(self, view: str, data_version: int) -> Entity | None:
        """Return the entity by which a data version of a view is stored."""
        return self._entities.get((view, data_version))

    def columns(self, forms: Iterable[Entity]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
        """Return the join keys of each form with the columns that they came in, wherever something was asked for."""
        keys = dict.fromkeys(form.key_names for form in forms)
        return [
            (names, columns)
            for names in keys
            for columns in dict.fromkeys(tuple(dict(renaming).get(key, key) for key in names) for renaming in sorted(self._renamed))
        ]


def _digests(secret: bytes, entities: pl.DataFrame) -> Iterator[str]:
    for key in canonical_keys(entities):
        assert key is not None, "keys of entities are not null"
        yield _NEW + digest(secret, key).hex()


def _frozen(digests: dict[str, set[bytes]]) -> dict[str, frozenset[bytes]]:
    return {entity: frozenset(members) for entity, members in digests.items()}
