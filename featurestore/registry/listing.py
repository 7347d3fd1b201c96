"""The list of what is applied, read from the registry's own texts: what a list shows needs no dtype, and so no Polars."""

import msgspec

from featurestore.definitions.catalog_entry import CatalogEntry, entries_of
from featurestore.errors import RegistryError
from featurestore.registry.project_database import ProjectDatabase

_ORDER = ("entity", "source", "view", "on_demand", "request", "service")


def listed(database: ProjectDatabase) -> list[CatalogEntry]:
    """Return an entry for each applied definition, the same as those of the ``Catalog``.

    Raises:
        RegistryError: the database cannot be reached, or holds what cannot be read.
    """
    with database.database.reading() as connection:
        rows = connection.execute(database.database.tables.newest_specs(database.project)).all()
    applied = [row for row in rows if row.kind in _ORDER and not row.deleted]
    entries: list[CatalogEntry] = []
    for row in sorted(applied, key=lambda row: _ORDER.index(row.kind)):
        try:
            entries += entries_of(row.kind, msgspec.json.decode(row.body), row.version if row.kind == "view" else None)
        except (msgspec.MsgspecError, KeyError, TypeError) as error:
            raise RegistryError(
                f"The registry's {row.kind} {row.name!r} (version {row.version}) cannot be read: {error}. Was it written by a "
                "newer featurestore? Else restore the registry from a backup."
            ) from error
    return entries
