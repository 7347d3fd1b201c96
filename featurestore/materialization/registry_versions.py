"""The versions of a view without the stores: what the registry and the histories' logs know of them.

NOTE: neither this module nor what it imports loads Polars, which takes as long as all that such a command does.
"""

from dataclasses import replace

from featurestore.definitions.reference import parse_references
from featurestore.history_sizes import SizesWithoutStores
from featurestore.project_registry import ProjectRegistry
from featurestore.registry.view_versions import ViewVersion, stored_data_versions, view_versions


def registry_versions(registry: ProjectRegistry, view: str) -> list[ViewVersion] | None:
    """Return the versions of a view, the same as ``Versions.list``; None where that takes the stores.

    Raises:
        NotFoundError: no view ever had that name.
        RegistryError: the database cannot be reached.
        ConfigError: the plug-in of the offline store is not as it must be.
    """
    name = parse_references(view)[0].view
    versions, sizes = view_versions(registry.database, name), SizesWithoutStores(registry.settings)
    counts: dict[int, int] = {}
    for data_version in stored_data_versions(registry.database, name):
        size = sizes.of(name, data_version)
        if size is None:
            return None
        counts[data_version] = size.rows
    return [replace(version, rows=counts.get(version.data_version)) for version in versions]
