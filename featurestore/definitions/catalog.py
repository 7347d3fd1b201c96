"""The catalog: what is applied in a project at one revision. Readers work from it, without asking the registry."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from featurestore.definitions.entity import Entity
from featurestore.definitions.feature_view import ViewSpec
from featurestore.definitions.on_demand import OnDemandSpec
from featurestore.definitions.request import RequestSpec
from featurestore.definitions.service import FeatureService
from featurestore.definitions.source import Source


@dataclass(frozen=True)
class AppliedView:
    """A feature view as applied.

    Args:
        spec: the definition.
        version: rises with every change of the definition.
        data_version: the version at which the stored values last had to be computed anew; it names their place in both
            stores, so a change of mere words, schedule or ttl goes on with the same rows.
    """

    spec: ViewSpec
    version: int
    data_version: int


@dataclass(frozen=True)
class Catalog:
    """All that is applied in a project, at one revision; revision 0 is the empty one."""

    revision: int = 0
    stamp: str = ""
    """Made at random with each revision: two catalogs of one number may differ, where a registry was restored or made anew."""

    entities: Mapping[str, Entity] = field(default_factory=dict)
    sources: Mapping[str, Source] = field(default_factory=dict)
    views: Mapping[str, AppliedView] = field(default_factory=dict)
    requests: Mapping[str, RequestSpec] = field(default_factory=dict)
    on_demand: Mapping[str, OnDemandSpec] = field(default_factory=dict)
    services: Mapping[str, FeatureService] = field(default_factory=dict)
    versions: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """The newest version ever of each (kind, name), removed ones too, so that a name that returns does not meet old rows."""

    lingering: Mapping[str, AppliedView] = field(default_factory=dict)
    """What readers are given of a view instead of what is applied: until that is materialized, or after a rollback."""

    pinned: frozenset[str] = frozenset()
    """The views whose readers keep what they are given until somebody says otherwise."""

    @property
    def state(self) -> tuple[int, str]:
        """What tells one state of a project from every other: the revision and its stamp."""
        return self.revision, self.stamp

    @cached_property
    def served(self) -> Mapping[str, AppliedView]:
        """The views as readers are given them: as applied, but for those that linger. Jobs write what is in ``views``."""
        return {**self.views, **self.lingering}

    @property
    def online(self) -> list[AppliedView]:
        """The views in each version that is read or written online."""
        return [*self.views.values(), *self.lingering.values()]

    def online_of(self, applied: AppliedView) -> list[AppliedView]:
        """Returns a view in each version that is read or written online."""
        return [applied, *(each for name, each in self.lingering.items() if name == applied.spec.name)]

    @property
    def referable(self) -> Mapping[str, ViewSpec | RequestSpec | OnDemandSpec]:
        """What a definition may refer to, but for services; the kinds share one set of names."""
        return {**{name: view.spec for name, view in self.views.items()}, **self.requests, **self.on_demand}

    @cached_property
    def readable(self) -> Mapping[str, ViewSpec | RequestSpec | OnDemandSpec]:
        """What a reader may ask for, but for services: the same, with views as they are served."""
        return {**{name: view.spec for name, view in self.served.items()}, **self.requests, **self.on_demand}
