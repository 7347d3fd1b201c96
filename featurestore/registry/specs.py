"""The registry of definitions: every version of each, and which are applied."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import uuid4

import msgspec
from sqlalchemy import Connection, Row

from featurestore.clock import from_micros, to_micros
from featurestore.definitions.catalog import AppliedView, Catalog
from featurestore.definitions.feature_view import ViewSpec
from featurestore.definitions.serialization import KINDS, Spec, from_json, kind_of, to_json
from featurestore.errors import (
    ConcurrentApplyError,
    ConfigError,
    FeatureStoreError,
    NotFoundError,
    RegistryError,
    UnknownAggregateError,
    UnknownSourceError,
)
from featurestore.registry.audit_trail import record
from featurestore.registry.listing import require_data_version
from featurestore.registry.project_database import ProjectDatabase


@dataclass(frozen=True)
class Put:
    """A version of a definition to write.

    Args:
        spec: the definition.
        version: one more than the newest version there ever was of this kind and name.
        data_version: of a view, the version at which its stored values last had to be recomputed; else None.
        lingers: whether a view's readers are given what they were given before until that is materialized.
    """

    spec: Spec
    version: int
    data_version: int | None = None
    lingers: bool = False


@dataclass(frozen=True)
class Version:
    """A version of a definition, as the history tells it; ``deleted`` where it is the removal."""

    version: int
    data_version: int | None
    applied_at: datetime
    deleted: bool


class SpecRegistry(ProjectDatabase):
    """The definitions of one project, kept in a SQL database. Thread-safe; making one does no I/O.

    Every change writes new versions and raises the project's revision by one; nothing is ever overwritten. A removal is a
    version too, so that version numbers go on rising when a name returns.

    Args:
        url: ``sqlite:///path`` or ``postgresql+psycopg://…``.
        project: the project's name; a database holds many projects.
        root: the project's folder, at which a relative path starts.
        clock: tells when a version is applied.

    Raises:
        ConfigError: the address is of another form.
        MissingExtraError: the database's driver is not installed.

    Every method raises ``RegistryError`` where the database cannot be reached or holds what cannot be read.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from featurestore.clock import utc_now
        >>> from featurestore.definitions.entity import Entity
        >>> registry = SpecRegistry("sqlite:///registry.db", "flights", Path(tempfile.mkdtemp()), utc_now)
        >>> registry.commit(0, [Put(Entity("airport", origin=str), version=1)], []).revision
        1
        >>> registry.load().entities
        {'airport': Entity('airport', origin=String)}
        >>> registry.close()
    """

    def load(self) -> Catalog:
        """Return what is applied now, as one consistent snapshot; an empty catalog before the first apply."""
        with self.database.reading() as connection:
            return self.load_within(connection)

    def commit(
        self, base_revision: int, puts: Sequence[Put], deletes: Sequence[tuple[str, str]], unprotected: Sequence[str] = ()
    ) -> Catalog:
        """Write and remove definitions, all or none, if the project is still at a revision.

        Args:
            base_revision: the revision of the catalog from which the changes were worked out.
            puts: the versions to write.
            deletes: the (kind, name) of each definition to remove.
            unprotected: a line for each feature that is not personal any more, for the audit trail.

        Returns:
            The new catalog. Without puts and deletes nothing is written, and it is the present one.

        Raises:
            ConcurrentApplyError: the project is at another revision; the error tells what changed since.
            NotFoundError: a definition to remove is not applied.
        """
        if not puts and not deletes:
            return self.load()
        now = to_micros(self.clock())
        with self.database.writing() as connection:
            self.claim(connection, base_revision)
            catalog = self.load_within(connection)
            before = applied_specs(catalog)
            rows = [
                {"kind": kind_of(put.spec), "name": put.spec.name, "version": put.version, "body": to_json(put.spec),
                 "data_version": put.data_version, "deleted": False}
                for put in puts
            ]  # fmt: skip
            for kind, name in deletes:
                if name not in before.get(kind, ()):
                    raise NotFoundError(kind, name, before.get(kind, ()), hint="Only what is applied can be removed.")
                version = catalog.versions[kind, name] + 1
                rows.append({"kind": kind, "name": name, "version": version, "body": "", "data_version": None, "deleted": True})
            shared = {"project": self.project, "applied_at": now, "revision": base_revision + 1}
            connection.execute(self.database.tables.spec.insert(), [{**row, **shared} for row in rows])
            for put in puts:
                if isinstance(put.spec, ViewSpec):
                    self._serve(connection, catalog, put, now)
            changed = [f"{row['kind']} {row['name']} {'removed' if row['deleted'] else row['version']}" for row in rows]
            record(connection, self, "apply", when=now, revision=base_revision + 1, changed=changed)
            if unprotected:
                record(connection, self, "unprotect", when=now, revision=base_revision + 1, changed=list(unprotected))
            return self.load_within(connection)

    def history(self, kind: str, name: str) -> list[Version]:
        """Return all versions of a definition, the oldest first; none where nothing ever had that name."""
        spec = self.database.tables.spec
        mine = (spec.c.project == self.project) & (spec.c.kind == kind) & (spec.c.name == name)
        with self.database.reading() as connection:
            rows = connection.execute(spec.select().where(mine).order_by(spec.c.version)).all()
        return [Version(row.version, row.data_version, from_micros(row.applied_at), row.deleted) for row in rows]

    def claim(self, connection: Connection, base_revision: int) -> None:
        """Raise the project's revision by one, if it is what it should be; of two who do so at once one comes first.

        Raises:
            ConcurrentApplyError: it is another one; the error tells what changed since.
        """
        project = self.database.tables.project
        self.database.insert_new(connection, project, {"project": self.project, "revision": 0})
        expected = (project.c.project == self.project) & (project.c.revision == base_revision)
        if connection.execute(project.update().where(expected).values(**self.next_state(base_revision))).rowcount == 1:
            return
        spec = self.database.tables.spec
        newer = (spec.c.project == self.project) & (spec.c.revision > base_revision)
        rows = connection.execute(spec.select().where(newer).order_by(spec.c.revision, spec.c.kind, spec.c.name)).all()
        serving = self.database.tables.serving
        newer = (serving.c.project == self.project) & (serving.c.revision > base_revision)
        served_rows = connection.execute(serving.select().where(newer).order_by(serving.c.revision, serving.c.view)).all()
        changes = [
            *_changed_lines(rows),
            *dict.fromkeys(f"view {served.view!r} is served at version {served.version}" for served in served_rows),
        ]
        raise ConcurrentApplyError(changes or [f"the registry is not at revision {base_revision}: it was recreated"])

    def next_state(self, revision: int) -> dict[str, Any]:
        """Return the columns of the project's row at the revision after one."""
        return {"revision": revision + 1, "stamp": uuid4().hex}

    def current_serving_row(self, connection: Connection, view: str) -> Row[Any] | None:
        """Return the newest row of a view's readers; None where they never were given anything but what was applied."""
        serving = self.database.tables.serving
        mine = (serving.c.project == self.project) & (serving.c.view == view)
        return connection.execute(serving.select().where(mine).order_by(serving.c.seq.desc()).limit(1)).first()

    def give(self, connection: Connection, view: str, served: Mapping[str, Any]) -> None:
        """Give a view's readers a version, from the transaction's commit on; ``turn`` has the other columns of its row."""
        before = self.current_serving_row(connection, view)
        place = {"project": self.project, "view": view, "seq": 1 if before is None else before.seq + 1}
        connection.execute(self.database.tables.serving.insert(), {**place, **served})

    def _serve(self, connection: Connection, catalog: Catalog, put: Put, now: int) -> None:
        """Note what readers are given of a view that was added or changed, where that is not simply what is applied."""
        name, revision = put.spec.name, catalog.revision + 1
        assert put.data_version is not None, "a view has one"
        spec, cleaned = self.database.tables.spec, self.database.tables.cleaned
        gone = (cleaned.c.project == self.project) & (cleaned.c.view == name) & (cleaned.c.data_version == put.data_version)
        if connection.execute(cleaned.select().where(gone)).first() is not None:
            raise ConcurrentApplyError([f"the rows of version {put.data_version} of view {name!r} were cleaned up"])
        served_row, served = self.current_serving_row(connection, name), catalog.served.get(name)
        version, data_version, since = put.version, put.data_version, now
        if served is not None and put.lingers and served.data_version != data_version:
            version, data_version = served.version, served.data_version
            mine = (spec.c.project == self.project) & (spec.c.kind == "view") & (spec.c.name == name)
            if served_row is None:
                first = spec.select().where(mine & (spec.c.data_version == data_version)).order_by(spec.c.version).limit(1)
                since = connection.execute(first).one().applied_at
        if served_row is None and version == put.version:
            return
        if served_row is None or served_row.data_version != data_version or served_row.pinned:
            row = {"version": version, "data_version": data_version, "pinned": False, "since": since, "revision": revision}
            self.give(connection, name, row)

    def load_within(self, connection: Connection) -> Catalog:
        """Return what is applied, as a transaction sees it."""
        rows = connection.execute(self.database.tables.newest_specs(self.project)).all()
        applied: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
        previous_versions: dict[str, AppliedView] = {}
        for row in rows:
            if row.kind is not None and not row.deleted:
                spec = _read(row)
                if isinstance(spec, ViewSpec):
                    applied[row.kind][row.name] = AppliedView(spec, row.version, row.data_version)
                    if row.served_body and row.served_data_version != row.data_version:
                        older = read_view(row.name, row.served_version, row.served_body)
                        previous_versions[row.name] = AppliedView(
                            _as_personal(older, spec), row.served_version, row.served_data_version
                        )
                else:
                    applied[row.kind][row.name] = spec
        return Catalog(
            revision=rows[0].revision if rows else 0,
            stamp=(rows[0].stamp or "") if rows else "",
            entities=applied["entity"],
            sources=applied["source"],
            views=applied["view"],
            requests=applied["request"],
            on_demand=applied["on_demand"],
            services=applied["service"],
            versions={(row.kind, row.name): row.version for row in rows if row.kind is not None},
            previous_versions=previous_versions,
            pinned=frozenset(row.name for row in rows if row.pinned and not row.deleted),
        )


def applied_specs(catalog: Catalog) -> dict[str, dict[str, Spec]]:
    """Return what is applied, by kind and name.

    Example:
        >>> applied_specs(Catalog())["view"]
        {}
    """
    views = {name: view.spec for name, view in catalog.views.items()}
    return {
        "entity": {**catalog.entities}, "source": {**catalog.sources}, "view": {**views}, "request": {**catalog.requests},
        "on_demand": {**catalog.on_demand}, "service": {**catalog.services},
    }  # fmt: skip


def read_view(name: str, version: int, body: str) -> ViewSpec:
    """Return a version of a view as the registry holds it.

    Raises:
        RegistryError: it cannot be read.
    """
    spec = _parsed("view", name, version, body)
    assert isinstance(spec, ViewSpec), "of its kind"
    return spec


def _read(row: Row[Any]) -> Spec:
    """Return the definition in a row of the database."""
    if row.kind == "view":
        require_data_version(row)
    return _parsed(row.kind, row.name, row.version, row.body)


def _parsed(kind: str, name: str, version: int, body: str) -> Spec:
    try:
        if kind not in KINDS:
            raise ValueError(f"kind {kind!r}")
        return from_json(kind, body)
    except (UnknownAggregateError, UnknownSourceError, ConfigError):  # what is missing or wrong is a package
        raise
    except (FeatureStoreError, msgspec.MsgspecError, ValueError, TypeError, AttributeError) as error:
        raise RegistryError(
            f"The registry's {kind} {name!r} (version {version}) cannot be read ({error}). "
            "Was it written by a newer version of featurestore? Else restore the registry from a backup."
        ) from error


def _as_personal(served: ViewSpec, applied: ViewSpec) -> ViewSpec:
    """Return an older version of a view whose features are personal where they are by now: that is not to wait for rows."""
    personal = {feature.name for feature in applied.features if feature.pii}
    return replace(
        served, features=tuple(replace(feature, pii=feature.pii or feature.name in personal) for feature in served.features)
    )


def _changed_lines(rows: Iterable[Row[Any]]) -> list[str]:
    """Return a line for each definition among rows of changes, the oldest first: what became of it in the end."""
    lines = {}
    for row in rows:
        what = "was removed" if row.deleted else "was added" if row.version == 1 else f"changed (version {row.version})"
        lines[row.kind, row.name] = f"{row.kind} {row.name!r} {what}"
    return list(lines.values())
