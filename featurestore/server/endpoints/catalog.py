"""Discovery endpoints: the catalog as JSON, without the addresses of sources."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec

from featurestore.access.pii import personal_features
from featurestore.access.visibility import Visibility
from featurestore.clock import format_duration
from featurestore.definitions.catalog import AppliedView, Catalog
from featurestore.definitions.description import feature
from featurestore.definitions.entity import Entity
from featurestore.definitions.on_demand import OnDemandSpec
from featurestore.definitions.reference import parse_references
from featurestore.definitions.service import FeatureService
from featurestore.definitions.source import Source
from featurestore.dtypes import dtype_name
from featurestore.errors import FeatureStoreError, NotFoundError
from featurestore.selection.select import select
from featurestore.server.http.context import RequestContext
from featurestore.server.security.visibility_cache import VisibilityCache

Told = dict[str, Any]


class ListEndpoint:
    """Lists all of a kind that the caller may see.

    Args:
        sights: tells what that is.
        kind: the name of the list.
        of: takes it from the catalog.
    """

    def __init__(self, sights: VisibilityCache, kind: str, of: Callable[[Catalog, Visibility], list[Told]]) -> None:
        self._sights = sights
        self._kind = kind
        self._of = of

    async def __call__(self, visit: RequestContext) -> None:
        """Answers the list."""
        found = self._of(*self._sights.of(visit))
        visit.rows = len(found)
        await visit.answer(msgspec.json.encode({self._kind: found}), b"application/json")


class OneEndpoint:
    """Tells of one by its name.

    Args:
        sights: determines what the caller may see, and so what is suggested.
        kind: what it is, for messages.
        of: takes them from the catalog, by name.
    """

    def __init__(
        self, sights: VisibilityCache, kind: str, of: Callable[[Catalog, Visibility], Mapping[str, Callable[[], Told]]]
    ) -> None:
        self._sights = sights
        self._kind = kind
        self._of = of

    async def __call__(self, visit: RequestContext) -> None:
        """Answers what is known of it. Raises NotFoundError."""
        name = visit.scope["path_params"]["name"]
        known = self._of(*self._sights.of(visit))
        if name not in known:
            raise NotFoundError(self._kind, name, known)
        visit.rows = 1
        await visit.answer(msgspec.json.encode(known[name]()), b"application/json")


def services(catalog: Catalog, sight: Visibility) -> Mapping[str, Callable[[], Told]]:
    """Returns what tells of each service, by name."""
    return {name: partial(_service, catalog, catalog.services[name]) for name in sight.services}


def views(catalog: Catalog, sight: Visibility) -> Mapping[str, Callable[[], Told]]:
    """Returns what tells of each view, stored or on demand, by name."""
    return {
        name: partial(_view, catalog, catalog.served[name])
        if name in catalog.served
        else partial(_on_demand, catalog, catalog.on_demand[name])
        for name in sight.views
    }


def all_of(of: Callable[[Catalog, Visibility], Mapping[str, Callable[[], Told]]]) -> Callable[[Catalog, Visibility], list[Told]]:
    """Returns what lists all that another function tells of one by one."""
    return lambda catalog, sight: [tell() for tell in of(catalog, sight).values()]


def entities(catalog: Catalog, sight: Visibility) -> list[Told]:
    """Returns the entities."""
    return [_entity(catalog.entities[name]) for name in sight.entities]


def sources(catalog: Catalog, sight: Visibility) -> list[Told]:
    """Returns the sources."""
    return [_source(catalog, catalog.sources[name], sight) for name in sight.sources]


def _service(catalog: Catalog, service: FeatureService) -> Told:
    told: Told = {
        "name": service.name,
        "description": service.description,
        "owner": service.owner,
        "tags": service.tags,
        "references": [repr(each) for each in service.references],
    }
    try:
        selection = select(catalog, parse_references(service))
    except FeatureStoreError as error:  # an apply that was allowed to break it
        return told | {"broken": str(error)}
    keys = {on: dtype_name(dtype) for join in selection.joins for on, dtype in zip(join.on, join.keys.values(), strict=True)}
    features = {each.name: (join.applied.spec.name, each.feature) for join in selection.joins for each in join.columns}
    features |= {each.name: (step.view, each.feature) for step in selection.computation.steps for each in step.outputs}
    personal = personal_features(catalog)

    def column(name: str) -> Told:
        view, spec = features[name]
        return feature(spec) | {"name": name, "of": f"{view}.{spec.name}", "pii": spec.name in personal.get(view, ())}

    return told | {
        "keys": keys,
        "request": [feature(each.field) for each in selection.computation.fields],
        "features": [column(name) for name in selection.names],
    }


def _view(catalog: Catalog, applied: AppliedView) -> Told:
    view = applied.spec
    personal = personal_features(catalog).get(view.name, ())
    return {
        "name": view.name,
        "kind": "windowed" if view.windows else "latest",
        "description": view.description,
        "owner": view.owner,
        "tags": view.tags,
        "entity": view.entity.name,
        "keys": {name: dtype_name(dtype) for name, dtype in view.entity.keys.items()},
        "source": view.source.name,
        "ttl": None if view.ttl is None else format_duration(view.ttl),
        "schedule": view.schedule,
        "version": applied.version,
        "data_version": applied.data_version,
        "features": [feature(each) | {"pii": each.name in personal} for each in view.features],
    }


def _on_demand(catalog: Catalog, view: OnDemandSpec) -> Told:
    personal = personal_features(catalog).get(view.name, ())
    computed = zip(view.features, view.expressions, strict=True)
    return {
        "name": view.name,
        "kind": "on demand",
        "description": view.description,
        "owner": view.owner,
        "tags": view.tags,
        "inputs": [repr(each) for each in view.inputs],
        "features": [
            feature(each) | {"pii": each.name in personal, "expression": expression.text} for each, expression in computed
        ],
    }


def _entity(entity: Entity) -> Told:
    keys = {name: dtype_name(dtype) for name, dtype in entity.keys.items()}
    return {"name": entity.name, "description": entity.description, "owner": entity.owner, "keys": keys}


def _source(catalog: Catalog, source: Source, sight: Visibility) -> Told:
    return {
        "name": source.name,
        "kind": source.kind,
        "description": source.description,
        "owner": source.owner,
        "event_time": source.event_time,
        "available_time": source.available_time,
        "event_id": source.event_id,
        "views": [name for name in sight.views if name in catalog.views and catalog.views[name].spec.source.name == source.name],
    }
