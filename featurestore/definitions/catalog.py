"""The catalog: all definitions applied in a project at one revision. Readers use it without asking the registry."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from featurestore.definitions.catalog_entry import CatalogEntry, Kind, entries_of, matching
from featurestore.definitions.entity import Entity
from featurestore.definitions.feature_view import ViewSpec
from featurestore.definitions.fingerprint import Transform
from featurestore.definitions.on_demand import OnDemandSpec
from featurestore.definitions.request import RequestSpec
from featurestore.definitions.serialization import Spec, kind_of, to_plain
from featurestore.definitions.service import FeatureService
from featurestore.definitions.source import Source
from featurestore.errors import NotFoundError


@dataclass(frozen=True)
class AppliedView:
    """A feature view as applied.

    Args:
        spec: the definition.
        version: rises with every change of the definition.
        data_version: the version at which the stored values last had to be recomputed; it names their place in both
            stores, so a change of mere words, schedule or ttl goes on with the same rows.
    """

    spec: ViewSpec
    version: int
    data_version: int


@dataclass(frozen=True)
class BoundView:
    """An applied view together with its definition: what a job needs to make its rows.

    Args:
        applied: the view as applied, its source as the definition has it.
        transform: the definition's transform, which the registry does not keep; None where there is none.
    """

    applied: AppliedView
    transform: Transform | None = None

    @property
    def spec(self) -> ViewSpec:
        """The view's definition."""
        return self.applied.spec

    @property
    def data_version(self) -> int:
        """The version of its stored values."""
        return self.applied.data_version


@dataclass(frozen=True)
class Catalog:
    """All that is applied in a project, at one revision; revision 0 is the empty one."""

    revision: int = 0
    stamp: str = ""
    """A random value per revision: two catalogs of one number may differ if a registry was restored or recreated."""

    entities: Mapping[str, Entity] = field(default_factory=dict)
    sources: Mapping[str, Source] = field(default_factory=dict)
    views: Mapping[str, AppliedView] = field(default_factory=dict)
    requests: Mapping[str, RequestSpec] = field(default_factory=dict)
    on_demand: Mapping[str, OnDemandSpec] = field(default_factory=dict)
    services: Mapping[str, FeatureService] = field(default_factory=dict)
    versions: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """The newest version ever of each (kind, name), removed ones too, so that a name that returns does not meet old rows."""

    previous_versions: Mapping[str, AppliedView] = field(default_factory=dict)
    """What readers are given of a view instead of what is applied: until that is materialized, or after a rollback."""

    pinned: frozenset[str] = frozenset()
    """The views whose readers keep what they are given until somebody says otherwise."""

    def search(
        self, text: str = "", *, kind: Kind | None = None, owner: str | None = None, tag: str | None = None
    ) -> list[CatalogEntry]:
        """Return the definitions that match, in the order entities, sources, views and their features, services.

        Args:
            text: words that all occur in the name, type, description, owner or tags, in any case and order.
            kind: ``"entity"``, ``"source"``, ``"view"``, ``"feature"`` or ``"service"``; all of them, if left out.
            owner: who answers for it.
            tag: ``"name"`` or ``"name=value"``.

        Raises:
            RequestError: there is no such kind.

        Example:
            >>> catalog = Catalog(entities={"airport": Entity("airport", origin=str, owner="ops")})
            >>> [entry.name for entry in catalog.search("origin", owner="ops")]
            ['airport']
        """
        return matching(catalog_entries(self), text, kind=kind, owner=owner, tag=tag)

    @property
    def state(self) -> tuple[int, str]:
        """What tells one state of a project from every other: the revision and its stamp."""
        return self.revision, self.stamp

    @cached_property
    def served(self) -> Mapping[str, AppliedView]:
        """The views as readers are given them: as applied, but for those that linger. Jobs write what is in ``views``."""
        return {**self.views, **self.previous_versions}

    @property
    def online(self) -> list[AppliedView]:
        """The views in each version that is read or written online."""
        return [*self.views.values(), *self.previous_versions.values()]

    def online_of(self, applied: AppliedView) -> list[AppliedView]:
        """Return a view in each version that is read or written online."""
        return [applied, *(previous for name, previous in self.previous_versions.items() if name == applied.spec.name)]

    @property
    def referable(self) -> Mapping[str, ViewSpec | RequestSpec | OnDemandSpec]:
        """What a definition may refer to, but for services; the kinds share one set of names."""
        return {**{name: view.spec for name, view in self.views.items()}, **self.requests, **self.on_demand}

    @cached_property
    def readable(self) -> Mapping[str, ViewSpec | RequestSpec | OnDemandSpec]:
        """What a reader may ask for, but for services: the same, with views as they are served."""
        return {**{name: view.spec for name, view in self.served.items()}, **self.requests, **self.on_demand}


def find_entries(catalog: Catalog, name: str) -> list[CatalogEntry]:
    """Return the entries of a name, for definitions of several kinds may share one.

    Raises:
        NotFoundError: nothing has that name.
    """
    entries = list(catalog_entries(catalog))
    if not (named := [entry for entry in entries if entry.name == name]):
        raise NotFoundError("definition", name, [entry.name for entry in entries])
    return named


def catalog_entries(catalog: Catalog) -> Iterator[CatalogEntry]:
    """Yield all entries of a catalog: entities, sources, views with their features, services."""
    specs: list[Spec] = [*catalog.entities.values(), *catalog.sources.values(), *(view.spec for view in catalog.views.values())]
    specs += [*catalog.on_demand.values(), *catalog.requests.values(), *catalog.services.values()]
    for spec in specs:
        version = catalog.views[spec.name].version if isinstance(spec, ViewSpec) else None
        yield from entries_of(kind_of(spec), to_plain(spec), version)
