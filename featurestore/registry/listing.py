"""The list of what is applied, read from the registry's own texts: what a list shows needs no dtype, and so no Polars."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from featurestore.definitions.catalog_entry import CatalogEntry, entries_of
from featurestore.definitions.view_terms import ViewTerms
from featurestore.errors import RegistryError
from featurestore.registry.project_database import ProjectDatabase

if TYPE_CHECKING:
    from sqlalchemy import Row

_ORDER = ("entity", "source", "view", "on_demand", "request", "service")


@dataclass(frozen=True)
class AppliedTerms:
    """What a status shows of what is applied.

    Args:
        views: the terms of the views, by their names.
        source_kinds: the kinds of the sources.
    """

    views: list[ViewTerms]
    source_kinds: frozenset[str]


def listed(database: ProjectDatabase) -> list[CatalogEntry]:
    """Return an entry for each applied definition, the same as those of the ``Catalog``.

    Raises:
        RegistryError: the database cannot be reached, or holds what cannot be read.
    """
    entries: list[CatalogEntry] = []
    for row in sorted(_applied_rows(database), key=lambda row: _ORDER.index(row.kind)):
        with _reading(row):
            entries += entries_of(row.kind, msgspec.json.decode(row.body), row.version if row.kind == "view" else None)
    return entries


def listed_terms(database: ProjectDatabase) -> AppliedTerms:
    """Return the terms of all applied views, the same as those of the ``Catalog``, and what kinds of sources there are.

    Raises:
        RegistryError: the database cannot be reached, or holds what cannot be read.
    """
    views: list[ViewTerms] = []
    source_kinds: set[str] = set()
    for row in _applied_rows(database):
        with _reading(row):
            plain = msgspec.json.decode(row.body)
            if row.kind == "view":
                views.append(_terms(row, plain))
            elif row.kind == "source":
                source_kinds.add(plain["kind"])
    return AppliedTerms(sorted(views, key=lambda view: view.name), frozenset(source_kinds))


def require_data_version(row: "Row[Any]") -> None:
    """Raise where the row of a view lacks what every view has.

    Raises:
        RegistryError: it has no data version.
    """
    if row.data_version is None:
        raise RegistryError(
            f"The registry's view {row.name!r} (version {row.version}) has no data version, which every view has: the row was "
            "changed or damaged. Restore the registry from a backup."
        )


def _applied_rows(database: ProjectDatabase) -> "list[Row[Any]]":
    with database.database.reading() as connection:
        rows = connection.execute(database.database.tables.newest_specs(database.project)).all()
    return [row for row in rows if row.kind in _ORDER and not row.deleted]


def _terms(row: "Row[Any]", plain: dict[str, Any]) -> ViewTerms:
    require_data_version(row)
    lingers = row.served_body and row.served_data_version != row.data_version
    served = row.served_data_version if lingers else None
    return ViewTerms(row.name, row.version, row.data_version, plain.get("schedule"), plain.get("freshness"), served)


@contextmanager
def _reading(row: "Row[Any]") -> Iterator[None]:
    """Return a context in which the text of a definition is read; what is wrong with it becomes an error that names it."""
    try:
        yield
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError) as error:
        raise RegistryError(
            f"The registry's {row.kind} {row.name!r} (version {row.version}) cannot be read: {error}. Was it written by a "
            "newer featurestore? Else restore the registry from a backup."
        ) from error
