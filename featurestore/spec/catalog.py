"""The catalog: what is applied in a project at one revision. Readers work from it, without asking the registry."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from featurestore.spec.entity import Entity
from featurestore.spec.on_demand import OnDemandSpec
from featurestore.spec.request import RequestSpec
from featurestore.spec.service import FeatureService
from featurestore.spec.source import Source
from featurestore.spec.view import ViewSpec


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
    entities: Mapping[str, Entity] = field(default_factory=dict)
    sources: Mapping[str, Source] = field(default_factory=dict)
    views: Mapping[str, AppliedView] = field(default_factory=dict)
    requests: Mapping[str, RequestSpec] = field(default_factory=dict)
    on_demand: Mapping[str, OnDemandSpec] = field(default_factory=dict)
    services: Mapping[str, FeatureService] = field(default_factory=dict)
    versions: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """The newest version ever of each (kind, name), removed ones too, so that a name that returns does not meet old rows."""

    @property
    def referable(self) -> Mapping[str, ViewSpec | RequestSpec | OnDemandSpec]:
        """What a reference may name, but for services; the kinds share one set of names."""
        return {**{name: view.spec for name, view in self.views.items()}, **self.requests, **self.on_demand}
