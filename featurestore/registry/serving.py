"""Serving: which version of a view readers get, where it is not the one applied last.

What changes is a row of the table ``serving`` and the project's revision, in one transaction: every reader sees it with the
catalog, and a request works with one catalog.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from featurestore.clock import from_micros, to_micros
from featurestore.definitions.catalog import AppliedView, Catalog
from featurestore.errors import NotFoundError, RollbackError
from featurestore.registry.audit_trail import record
from featurestore.registry.specs import SpecRegistry, read_view
from featurestore.registry.view_versions import (
    ViewVersion,
    cleaned_versions,
    served_rows,
    stored_rows,
    version_rows,
    view_versions,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row


@dataclass(frozen=True)
class Retired:
    """Stored rows of a view that nobody is given and no job writes.

    Args:
        view: the view's name; it may be applied no more.
        data_version: the version that names their place in both stores.
        since: when they were last applied or served.
    """

    view: str
    data_version: int
    since: datetime


class Serving:
    """The versions served to readers of one project. Thread-safe; if two change it at once, one wins and the other gets an error.

    Args:
        registry: the project's registry.

    Every method raises ``RegistryError`` where the database cannot be reached or holds what cannot be read.
    """

    def __init__(self, registry: SpecRegistry) -> None:
        self._registry = registry
        self._database = registry.database
        self._tables = registry.database.tables

    def switch(self, applied: AppliedView, through: datetime) -> Catalog | None:
        """Give readers a view as it is applied, now that it is materialized; return the catalog that says so.

        None where there is nothing to do: readers have it already, it is pinned, or it is applied otherwise by now; or its
        rows do not reach as far yet as those that readers have, which nobody writes since it was applied.

        Args:
            applied: the view.
            through: until when its source was read, without a gap.
        """
        with self._database.writing() as connection:
            self._hold(connection)
            catalog = self._registry.load_within(connection)
            name = applied.spec.name
            now = catalog.views.get(name)
            behind = catalog.previous_versions.get(name)
            if now is None or behind is None or now.data_version != applied.data_version or name in catalog.pinned:
                return None
            before = [row.version for row in self._versions(connection, name) if row.data_version != now.data_version]
            since = next(row for row in self._versions(connection, name) if row.version > max(before)).applied_at
            if to_micros(through) < since:
                return None
            self._give(connection, catalog, now, pinned=False)
            return self._registry.load_within(connection)

    def roll_back(self, view: str, to: int | None, written: Collection[int]) -> Catalog:
        """Give a view's readers the version that they were given before, or a certain one, and pins it.

        Args:
            view: the view.
            to: the version; None for the one served before the present one.
            written: the data versions whose rows are there.

        Raises:
            NotFoundError: the view is not applied, or never had that version.
            RollbackError: there is nothing to return to, or its rows are no longer there.
            ConcurrentApplyError: somebody changed the project at this moment.
        """
        catalog = self._registry.load()
        with self._database.writing() as connection:
            self._registry.claim(connection, catalog.revision)
            served = _applied(catalog.served, view)
            rows = self._versions(connection, view)
            removed = max((row.version for row in rows if row.deleted), default=0)
            known = {row.version: row for row in rows if row.version > removed}
            cleaned = self._cleaned(connection, view)
            if to is None:
                before = [
                    served_row.version
                    for served_row in self._served_rows(connection, view)
                    if served_row.version < served.version
                    and served_row.data_version != served.data_version
                    and served_row.version in known
                ]
                there = [
                    version
                    for version in before
                    if known[version].data_version in written and known[version].data_version not in cleaned
                ]
                to = there[-1] if there else None
                if to is None:
                    gone = " Those before were cleaned up after their retention." if before else ""
                    raise RollbackError(f"View {view!r} has no version that was served before version {served.version}.{gone}")
            row = known.get(to)
            if row is None:
                raise NotFoundError("version", f"{view} {to}", [f"{view} {version}" for version in known])
            self._check_return(catalog, row, cleaned, written)
            spec = read_view(view, row.version, row.body)
            self._give(connection, catalog, AppliedView(spec, row.version, row.data_version), pinned=True)
            record(connection, self._registry, "rollback", view=view, to=row.version)
            return self._registry.load_within(connection)

    def undo(self, view: str) -> Catalog:
        """Take a rollback back: readers are given the applied version again, at once if they had it before.

        Else they are given it once it is materialized.

        Raises:
            NotFoundError: the view is not applied.
            RollbackError: it was not rolled back.
            ConcurrentApplyError: somebody changed the project at this moment.
        """
        catalog = self._registry.load()
        with self._database.writing() as connection:
            self._registry.claim(connection, catalog.revision)
            now, served = _applied(catalog.views, view), catalog.served[view]
            if view not in catalog.pinned:
                raise RollbackError(f"View {view!r} was not rolled back: readers are given version {served.version}.")
            had = any(served_row.data_version == now.data_version for served_row in self._served_rows(connection, view))
            self._give(connection, catalog, now if had else served, pinned=False)
            record(connection, self._registry, "rollback", view=view, undo=True)
            return self._registry.load_within(connection)

    def versions(self, view: str) -> list[ViewVersion]:
        """Return all versions of a view; see ``view_versions``."""
        return view_versions(self._registry, view)

    def retained(self, view: str) -> list[AppliedView]:
        """Return each earlier data version of an applied view that was not cleaned up, as it was last, the newest first."""
        with self._database.reading() as connection:
            rows = self._versions(connection, view)
            cleaned = self._cleaned(connection, view)
        kept = [row for row in stored_rows(rows, cleaned) if row is not rows[-1]]
        return [AppliedView(read_view(view, row.version, row.body), row.version, row.data_version) for row in reversed(kept)]

    def retired(self, before: datetime) -> list[Retired]:
        """Return the data versions that were neither applied nor served since before an instant, and were not cleaned up yet.

        Among them are those of views that were removed. What is pinned is served.
        """
        spec, serving, cleaned = self._tables.spec, self._tables.serving, self._tables.cleaned
        mine = (spec.c.project == self._registry.project) & (spec.c.kind == "view")
        with self._database.reading() as connection:
            rows = connection.execute(spec.select().where(mine).order_by(spec.c.name, spec.c.version)).all()
            given = connection.execute(
                serving.select().where(serving.c.project == self._registry.project).order_by(serving.c.view, serving.c.seq)
            ).all()
            gone = connection.execute(cleaned.select().where(cleaned.c.project == self._registry.project)).all()
        done = {(row.view, row.data_version) for row in gone}
        versions = [version for name in dict.fromkeys(row.name for row in rows) for version in _retired(name, rows, given)]
        return [version for version in versions if version.since < before and (version.view, version.data_version) not in done]

    def clean(self, retired: Retired) -> bool:
        """Note that the rows of a data version are given up, after which nobody returns to it; then delete them.

        Returns whether they may be deleted: not where somebody returned to them since they were found to be retired.
        Idempotent.
        """
        cleaned = self._tables.cleaned
        with self._database.writing() as connection:
            self._hold(connection)
            spec, serving = self._tables.spec, self._tables.serving
            mine = (spec.c.project == self._registry.project) & (spec.c.kind == "view") & (spec.c.name == retired.view)
            rows = connection.execute(spec.select().where(mine).order_by(spec.c.version)).all()
            theirs = (serving.c.project == self._registry.project) & (serving.c.view == retired.view)
            given = connection.execute(serving.select().where(theirs).order_by(serving.c.seq)).all()
            if retired.data_version not in [version.data_version for version in _retired(retired.view, rows, given)]:
                return False
            row = {"project": self._registry.project, "view": retired.view, "data_version": retired.data_version,
                   "cleaned_at": to_micros(self._registry.clock())}  # fmt: skip
            self._database.insert_new(connection, cleaned, row)
            return True

    def is_cleaned(self, view: str, data_version: int) -> bool:
        """Return whether it was noted that the rows of a data version are given up."""
        with self._database.reading() as connection:
            return data_version in self._cleaned(connection, view)

    def _check_return(self, catalog: Catalog, row: "Row[Any]", cleaned: Collection[int], written: Collection[int]) -> None:
        """Refuse a rollback to a version that cannot be served, or need not."""
        view, now, served = row.name, catalog.views[row.name], catalog.served[row.name]
        if row.data_version == served.data_version:
            raise RollbackError(f"Readers of view {view!r} are given the rows of version {row.version} already.")
        if row.data_version == now.data_version:
            raise RollbackError(
                f"Version {row.version} of view {view!r} is what is applied. Take the rollback back: rollback {view} --undo "
                "(store.versions.undo_rollback(…))."
            )
        if row.data_version in cleaned:
            raise RollbackError(f"The rows of version {row.version} of view {view!r} were cleaned up after their retention.")
        if row.data_version not in written:
            raise RollbackError(f"Version {row.version} of view {view!r} has no rows: it was never materialized.")

    def _give(self, connection: "Connection", catalog: Catalog, view: AppliedView, *, pinned: bool) -> None:
        """Give readers a version; the project's revision was raised, or is here."""
        project, name = self._tables.project, self._registry.project
        now = to_micros(self._registry.clock())
        now_at = self._registry.next_state(catalog.revision)
        connection.execute(project.update().where(project.c.project == name).values(now_at))
        served = {"version": view.version, "data_version": view.data_version, "pinned": pinned, "since": now}
        self._registry.give(connection, view.spec.name, {**served, "revision": catalog.revision + 1})

    def _hold(self, connection: "Connection") -> None:
        """Keep others from changing the project until the transaction's end."""
        project = self._tables.project
        connection.execute(project.update().where(project.c.project == self._registry.project).values(revision=project.c.revision))

    def _versions(self, connection: "Connection", view: str) -> "list[Row[Any]]":
        return version_rows(self._registry, connection, view)

    def _served_rows(self, connection: "Connection", view: str) -> "list[Row[Any]]":
        return served_rows(self._registry, connection, view)

    def _cleaned(self, connection: "Connection", view: str) -> set[int]:
        return cleaned_versions(self._registry, connection, view)


def _applied(views: Any, view: str) -> AppliedView:
    if view not in views:
        raise NotFoundError("applied feature view", view, views, "Definitions take effect once they are applied.")
    applied: AppliedView = views[view]
    return applied


def _retired(name: str, rows: "Iterable[Row[Any]]", given: "Iterable[Row[Any]]") -> list[Retired]:
    """Return the data versions of a view that are neither applied nor served, and since when.

    Args:
        name: the view.
        rows: versions of it, and perhaps of others, the oldest first.
        given: what readers were given of it, and perhaps of others, the oldest first.
    """
    own = [row for row in rows if row.name == name]
    history = [served for served in given if served.view == name]
    numbers = dict.fromkeys(row.data_version for row in own if not row.deleted)
    applied = own[-1].data_version
    kept = set() if own[-1].deleted else {applied, history[-1].data_version if history else applied}
    ended: dict[int, int] = {}
    for row, following in pairwise(own):
        if following.data_version != row.data_version and not row.deleted:
            ended[row.data_version] = following.applied_at
    for served, after in pairwise(history):
        if after.data_version != served.data_version:
            ended[served.data_version] = max(ended.get(served.data_version, 0), after.since)
    if own[-1].deleted:
        ended = {number: max(ended.get(number, 0), own[-1].applied_at) for number in numbers}
    return [Retired(name, number, from_micros(ended[number])) for number in numbers if number not in kept and number in ended]
