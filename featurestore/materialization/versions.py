"""Versions of views, as ``store.versions``: which readers are given, and the way back to an earlier one."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from featurestore.components import Components
from featurestore.definitions.catalog import Catalog
from featurestore.definitions.reference import parse_references

if TYPE_CHECKING:
    from featurestore.registry.view_versions import ViewVersion


class Versions:
    """The versions of a project's views.

    Args:
        components: what the project is made of.
    """

    def __init__(self, components: Components) -> None:
        self._components = components

    def list(self, view: Any) -> "list[ViewVersion]":
        """Return the versions of a view, the oldest first: when each was applied, its rows, since when readers are given it.

        Versions that differ only in descriptions, a schedule or a ttl share their rows, and so their data version.

        Args:
            view: the view, as a class or by name; also one that was removed.

        Raises:
            NotFoundError: no view ever had that name.
        """
        components, name = self._components, parse_references(view)[0].view
        versions = components.serving.versions(name)
        counts = {retained.data_version: components.count_rows(retained) for retained in components.serving.retained(name)}
        applied = components.catalog_cache.refresh().views.get(name)
        if applied is not None:
            counts[applied.data_version] = components.count_rows(applied)
        return [replace(version, rows=counts.get(version.data_version)) for version in versions]

    def rollback(self, view: Any, *, to: int | None = None) -> Catalog:
        """Give a view's readers the version before, and keep them at it; return the catalog.

        All readers have it within ``catalog_refresh``; no answer mixes two versions. Nothing else changes: jobs go on writing the
        applied version. Readers keep the version until the view is changed and applied, or the rollback is undone.

        Args:
            view: the view, as a class or by name.
            to: the version; None for the one before. Its rows must still exist: ``list`` shows them.

        Raises:
            NotFoundError: the view is not applied, or has no such version.
            RollbackError: there is no earlier version, or its rows are gone.
            ConcurrentApplyError: another process changed the project at this moment; nothing was changed here.
        """
        components = self._components
        [applied] = components.views([view])
        name = applied.spec.name
        kept = [version.data_version for version in components.serving.retained(name) if components.count_rows(version)]
        return components.catalog_cache.use(components.serving.roll_back(name, to, kept))

    def undo_rollback(self, view: Any) -> Catalog:
        """Take a rollback back: readers are given the applied version, as soon as it is materialized. Return the catalog.

        Args:
            view: the view, as a class or by name.

        Raises:
            NotFoundError: the view is not applied.
            RollbackError: the view was not rolled back.
            ConcurrentApplyError: another process changed the project at this moment; nothing was changed here.
        """
        [applied] = self._components.views([view])
        return self._components.catalog_cache.use(self._components.serving.undo(applied.spec.name))
