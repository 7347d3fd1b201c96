"""The list of what is applied, read from the registry's own texts: what a list shows needs no dtype, and so no Polars."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from featurestore import plugins
from featurestore.definitions.catalog_entry import CatalogEntry
from featurestore.definitions.reference import reference_of
from featurestore.errors import RegistryError
from featurestore.registry.project_database import ProjectDatabase
from featurestore.type_names import annotated

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
            entries += _entries(row.kind, msgspec.json.decode(row.body), row.version)
        except (msgspec.MsgspecError, KeyError, TypeError) as error:
            raise RegistryError(
                f"The registry's {row.kind} {row.name!r} (version {row.version}) cannot be read: {error}. Was it written by a "
                "newer featurestore? Else restore the registry from a backup."
            ) from error
    return entries


def _entries(kind: str, spec: Mapping[str, Any], version: int) -> Iterator[CatalogEntry]:
    name, description, owner, tags = spec["name"], spec.get("description", ""), spec.get("owner", ""), spec.get("tags", {})
    if kind == "entity":
        yield CatalogEntry("entity", name, ", ".join(key for key, _ in spec["keys"]), description, owner)
    elif kind == "source":
        yield CatalogEntry("source", name, _class_of(spec["kind"]))
    elif kind == "service":
        asked = ", ".join(str(reference_of(reference)) for reference in spec["references"])
        yield CatalogEntry("service", name, asked, description, owner, tags)
    else:
        made_of = {"on_demand": "on demand", "request": "request"}
        of = f"{spec['entity']['name']} from {spec['source']['name']}" if kind == "view" else made_of[kind]
        yield CatalogEntry("view", name, of, description, owner, tags, version if kind == "view" else None)
        yield from _features(name, spec["features"], owner, tags)


def _features(view: str, features: Sequence[Mapping[str, Any]], owner: str, tags: Mapping[str, str]) -> Iterator[CatalogEntry]:
    for feature in features:
        yield CatalogEntry(
            "feature",
            f"{view}.{feature['name']}",
            annotated(feature["dtype"], nullable=feature.get("nullable", False)),
            feature.get("description", ""),
            feature.get("owner") or owner,
            {**tags, **feature.get("tags", {})},
        )


def _class_of(kind: str) -> str:
    """Return the name of the class of a kind of source; the kind itself where no installed package brings it."""
    plugin = plugins.find(plugins.SOURCES, kind)
    return kind if plugin is None else plugin.value.rpartition(":")[2]
