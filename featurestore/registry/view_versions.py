"""The versions of a view, as the registry's own rows say: what a list of them shows needs no definition, and so no Polars."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from featurestore.clock import from_micros
from featurestore.errors import NotFoundError
from featurestore.registry.project_database import ProjectDatabase

if TYPE_CHECKING:
    from sqlalchemy import Connection, Row


@dataclass(frozen=True)
class ViewVersion:
    """A version of a view.

    Args:
        version: its number, which rises with every change of the definition.
        data_version: the version from which on it shares its stored rows.
        applied_at: when it was applied.
        applied: whether it is the one that jobs write.
        served_since: since when readers are given it; None where they are not.
        pinned: whether readers keep it, whatever is materialized: a rollback said so.
        cleaned: whether its rows were deleted, so that nobody can return to it.
        rows: how many rows its history holds, where that was counted.
    """

    version: int
    data_version: int
    applied_at: datetime
    applied: bool
    served_since: datetime | None
    pinned: bool
    cleaned: bool
    rows: int | None = None


def view_versions(registry: ProjectDatabase, view: str) -> list[ViewVersion]:
    """Return all versions of a view, the oldest first, without those that are its removal.

    Raises:
        NotFoundError: nothing ever had that name.
        RegistryError: the database cannot be reached.
    """
    with registry.database.reading() as connection:
        newest = connection.execute(registry.database.tables.newest_specs(registry.project)).all()
        rows = version_rows(registry, connection, view)
        history = served_rows(registry, connection, view)
        cleaned = cleaned_versions(registry, connection, view)
    applied = {row.name: row for row in newest if row.kind == "view" and not row.deleted}
    if not rows:
        raise NotFoundError("feature view", view, applied)
    now, served = applied.get(view), None
    if now is not None:
        lingers = now.served_body and now.served_data_version != now.data_version
        served = (now.served_version, now.served_data_version) if lingers else (now.version, now.data_version)
    return [
        ViewVersion(
            row.version,
            row.data_version,
            from_micros(row.applied_at),
            now is not None and now.version == row.version,
            None if served is None or served[0] != row.version else from_micros(_since(served[1], rows, history)),
            now is not None and bool(now.pinned) and served is not None and served[0] == row.version,
            row.data_version in cleaned,
        )
        for row in rows
        if not row.deleted
    ]


def stored_data_versions(registry: ProjectDatabase, view: str) -> list[int]:
    """Return the data versions of an applied view whose rows were not cleaned up, the oldest first; none of a removed view."""
    with registry.database.reading() as connection:
        rows = version_rows(registry, connection, view)
        cleaned = cleaned_versions(registry, connection, view)
    return [row.data_version for row in stored_rows(rows, cleaned)]


def version_rows(registry: ProjectDatabase, connection: "Connection", view: str) -> "list[Row[Any]]":
    """Return the rows of a view's versions, the oldest first, its removals among them."""
    spec = registry.database.tables.spec
    mine = (spec.c.project == registry.project) & (spec.c.kind == "view") & (spec.c.name == view)
    return list(connection.execute(spec.select().where(mine).order_by(spec.c.version)).all())


def served_rows(registry: ProjectDatabase, connection: "Connection", view: str) -> "list[Row[Any]]":
    """Return the rows of what a view's readers were given, the oldest first."""
    serving = registry.database.tables.serving
    mine = (serving.c.project == registry.project) & (serving.c.view == view)
    return list(connection.execute(serving.select().where(mine).order_by(serving.c.seq)).all())


def cleaned_versions(registry: ProjectDatabase, connection: "Connection", view: str) -> set[int]:
    """Return the data versions of a view whose rows are given up."""
    cleaned = registry.database.tables.cleaned
    mine = (cleaned.c.project == registry.project) & (cleaned.c.view == view)
    return {row.data_version for row in connection.execute(cleaned.select().where(mine)).all()}


def stored_rows(rows: "Sequence[Row[Any]]", cleaned: Collection[int]) -> "list[Row[Any]]":
    """Return the newest row of each data version of a view that was not cleaned up, since its last removal.

    Args:
        rows: the rows of its versions, the oldest first.
        cleaned: the data versions whose rows are given up.
    """
    removed = max((row.version for row in rows if row.deleted), default=0)
    newest = {row.data_version: row for row in rows if row.version > removed}
    return [row for number, row in newest.items() if number not in cleaned]


def _since(data_version: int, rows: "Iterable[Row[Any]]", history: "Iterable[Row[Any]]") -> int:
    """Return since when readers are given the rows of a data version, which is what they are given now."""
    since: int | None = None
    last = None
    for served_row in history:
        if served_row.data_version != last:
            since, last = served_row.since, served_row.data_version
    if since is not None and last == data_version:
        return since
    return min(int(row.applied_at) for row in rows if row.data_version == data_version)
