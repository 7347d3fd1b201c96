"""The cache of visibility: what each caller sees of the current catalog."""

from typing import TYPE_CHECKING, cast

from featurestore.access.visibility import Visibility, see
from featurestore.definitions.catalog import Catalog
from featurestore.server.http.context import RequestContext
from featurestore.server.security.guard import Kind, Principal, Resource

if TYPE_CHECKING:
    from featurestore.server.backend import Backend

_MOST_KEPT = 256


class VisibilityCache:
    """Asks the guard what may be seen.

    Args:
        backend: has the catalog.
    """

    def __init__(self, backend: "Backend") -> None:
        self._backend = backend
        self._project = backend.settings.project
        self._catalog: Catalog | None = None
        self._seen: dict[Principal, Visibility] = {}

    def of(self, visit: RequestContext) -> tuple[Catalog, Visibility]:
        """Return the catalog, and what the caller sees of it."""
        catalog = self._backend.catalog
        if catalog is not self._catalog:
            self._catalog, self._seen = catalog, {}
        assert visit.principal is not None, "a route that needs something admits first"
        found = self._seen.get(visit.principal)
        if found is None:
            found = see(catalog, lambda action, kind, name: visit.may(action, self._resource(kind, name)))
            if len(self._seen) >= _MOST_KEPT:
                self._seen.clear()
            self._seen[visit.principal] = found
        return catalog, found

    def names(self, visit: RequestContext) -> frozenset[str] | None:
        """Return the names that the caller may see, features' too; None if these are all there are."""
        sight = self.of(visit)[1]
        if sight.everything:
            return None
        features = [part for name in sight.features for part in (name, name.partition(".")[2])]
        return frozenset({*sight.services, *sight.views, *sight.entities, *sight.sources, *sight.read, *sight.pushed, *features})

    def _resource(self, kind: str, name: str) -> Resource:
        return Resource(cast("Kind", kind), (name,) if name else (), self._project)
