"""The cache of visibility: what each caller sees of the current catalog."""

from typing import cast

from featurestore.access.visibility import Visibility, see
from featurestore.definitions.catalog import Catalog
from featurestore.errors import Forbidden
from featurestore.server.backend import Backend
from featurestore.server.security.guard import Guard, Kind, Principal, Resource

_MOST_KEPT = 256


class VisibilityCache:
    """Ask the guard what may be seen.

    Args:
        backend: has the catalog.
        guard: decides.
    """

    def __init__(self, backend: Backend, guard: Guard) -> None:
        self._backend = backend
        self._guard = guard
        self._project = backend.settings.project
        self._catalog: Catalog | None = None
        self._visible: dict[Principal, Visibility] = {}

    def of(self, principal: Principal) -> tuple[Catalog, Visibility]:
        """Return the catalog, and what a caller sees of it."""
        catalog = self._backend.catalog
        if catalog is not self._catalog:
            self._catalog, self._visible = catalog, {}
        visible = self._visible.get(principal)
        if visible is None:
            visible = see(catalog, lambda action, kind, name: self._may(principal, action, kind, name))
            if len(self._visible) >= _MOST_KEPT:
                self._visible.clear()
            self._visible[principal] = visible
        return catalog, visible

    def names(self, principal: Principal) -> frozenset[str] | None:
        """Return the names that a caller may see, features' too; None if these are all there are."""
        visible = self.of(principal)[1]
        if visible.everything:
            return None
        features = [part for name in visible.features for part in (name, name.partition(".")[2])]
        return frozenset(
            {*visible.services, *visible.views, *visible.entities, *visible.sources, *visible.read, *visible.pushed, *features}
        )

    def _may(self, principal: Principal, action: str, kind: str, name: str) -> bool:
        try:
            self._guard.check(principal, action, Resource(cast("Kind", kind), (name,) if name else (), self._project))
        except Forbidden:
            return False
        return True
