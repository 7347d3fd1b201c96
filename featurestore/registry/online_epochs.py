"""Epochs of the online store: the registry's id, the store's epoch, and which values are in doubt."""

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featurestore.clock import to_micros
from featurestore.definitions.catalog import Catalog
from featurestore.registry.specs import SpecRegistry

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection

_LETTERS = "23456789abcdefghjkmnpqrstuvwxyz"
_LENGTH = 8


@dataclass(frozen=True)
class Doubt:
    """Why the values of a view are to be written again.

    Args:
        reason: why, in words.
        lost: whether values may be missing or too old; False where they are right, and only to be kept for longer.
    """

    reason: str
    lost: bool


@dataclass(frozen=True)
class OnlineState:
    """What the registry knows of a project's values online.

    Args:
        space: what their keys begin with, ``project/id``.
        epoch: what the store's marks hold; empty before it was marked.
        doubts: the views whose values are to be written again, each with its data version.
    """

    space: str
    epoch: str
    doubts: Mapping[tuple[str, int], Doubt]


class OnlineEpochs:
    """Keep a project's ``OnlineState``. Every method raises ``RegistryError`` where the database cannot be reached.

    Args:
        registry: the registry.
    """

    def __init__(self, registry: SpecRegistry) -> None:
        self._registry = registry
        self._database = registry.database
        self._project = registry.project

    def current(self) -> OnlineState:
        """Return the state; the registry's id is made where it has none yet."""
        state = self.find()
        if state is not None:
            return state
        with self._database.writing() as connection:
            online = self._database.tables.online
            row = {"project": self._project, "id": new_id(), "epoch": ""}
            self._database.insert_new(connection, online, row)
            state = self._read(connection)
        assert state is not None, "it was inserted"
        return state

    def find(self) -> OnlineState | None:
        """Return the state; None where the registry has no id yet."""
        with self._database.reading() as connection:
            return self._read(connection)

    def renew(self, seen: str, places: Iterable[tuple[str, int]], reason: str) -> OnlineState:
        """Begin another epoch, in which the values of some views are in doubt, unless somebody has begun one; return the state.

        Args:
            seen: the epoch that was the present one.
            places: the views, each with its data version.
            reason: why, in words.
        """
        self.current()
        online = self._database.tables.online
        with self._database.writing() as connection:
            mine = (online.c.project == self._project) & (online.c.epoch == seen)
            if connection.execute(online.update().where(mine).values(epoch=secrets.token_hex(8))).rowcount:
                self._doubt(connection, places, reason, lost=True)
            state = self._read(connection)
        assert state is not None, "it is there since it was looked at"
        return state

    def announce(self) -> None:
        """Have all processes look again what the store is like: they load the catalog again, as after an apply."""
        project = self._database.tables.project
        with self._database.writing() as connection:
            mine = project.c.project == self._project
            connection.execute(project.update().where(mine).values(stamp=secrets.token_hex(16)))

    def outgrow(self, before: Catalog, after: Catalog) -> None:
        """Note the views whose ttl became longer: the store would forget what it has of them after the former one."""
        known = {(view.spec.name, view.data_version): view.spec.ttl for view in before.views.values()}
        grown = []
        for view in after.views.values():
            place = view.spec.name, view.data_version
            ttl = known.get(place)
            if ttl is not None and (view.spec.ttl is None or view.spec.ttl > ttl):
                grown.append(place)
        if grown:
            with self._database.writing() as connection:
                self._doubt(connection, grown, "its ttl became longer", lost=False)

    def adopt(self, places: Iterable[tuple[str, int]]) -> None:
        """Note views whose histories were there before this registry had them: their values are to be written online.

        Args:
            places: the views, each with its data version.
        """
        adopted = sorted(places)
        if adopted:
            with self._database.writing() as connection:
                self._doubt(connection, adopted, "this registry has written none of its values", lost=True)

    def settle(self, place: tuple[str, int], epoch: str) -> bool:
        """Note that the values of a view were all written, if it was begun in the present epoch; return whether it was."""
        tables = self._database.tables
        with self._database.writing() as connection:
            state = self._read(connection)
            if state is None or state.epoch != epoch:
                return False
            if place in state.doubts:
                connection.execute(tables.doubt.delete().where(self._of(place)))
            return True

    def materialized(self) -> set[tuple[str, int]]:
        """Return the views that were ever materialized, each with its data versions."""
        run = self._database.tables.run
        with self._database.reading() as connection:
            rows = connection.execute(run.select().where(run.c.project == self._project).with_only_columns(
                run.c.view, run.c.data_version).distinct()).all()  # fmt: skip
        return {(row.view, row.data_version) for row in rows}

    def _doubt(self, connection: "Connection", places: Iterable[tuple[str, int]], reason: str, *, lost: bool) -> None:
        doubt = self._database.tables.doubt
        for view, data_version in places:
            row = {"project": self._project, "view": view, "data_version": data_version}
            if lost:
                connection.execute(doubt.delete().where(self._of((view, data_version))))
            since = to_micros(self._registry.clock())
            self._database.insert_new(connection, doubt, {**row, "reason": reason, "lost": lost, "since": since})

    def _of(self, place: tuple[str, int]) -> "ColumnElement[bool]":
        doubt = self._database.tables.doubt.c
        mine: ColumnElement[bool] = (doubt.project == self._project) & (doubt.view == place[0]) & (doubt.data_version == place[1])
        return mine

    def _read(self, connection: "Connection") -> OnlineState | None:
        tables = self._database.tables
        row = connection.execute(tables.online.select().where(tables.online.c.project == self._project)).first()
        if row is None:
            return None
        doubts = connection.execute(tables.doubt.select().where(tables.doubt.c.project == self._project)).all()
        known = {(doubt.view, doubt.data_version): Doubt(doubt.reason, bool(doubt.lost)) for doubt in doubts}
        return OnlineState(f"{self._project}/{row.id}", row.epoch, known)


def new_id() -> str:
    """Return an id for a registry: eight letters and digits, of which none is taken for another."""
    return "".join(secrets.choice(_LETTERS) for _ in range(_LENGTH))
