"""Discovery endpoints: the catalog as JSON, without the addresses of sources."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from featurestore.access.pii import personal_features
from featurestore.access.visibility import Visibility
from featurestore.clock import format_duration
from featurestore.definitions import entity as entities
from featurestore.definitions import source as sources
from featurestore.definitions.catalog import AppliedView, Catalog
from featurestore.definitions.description import feature
from featurestore.definitions.feature import FeatureSpec
from featurestore.definitions.on_demand import OnDemandSpec
from featurestore.definitions.reference import parse_references
from featurestore.definitions.service import FeatureService
from featurestore.dtypes import dtype_name
from featurestore.errors import FeatureStoreError, NotFoundError
from featurestore.selection.select import select
from featurestore.server.http.content_types import JSON
from featurestore.server.http.context import context_of
from featurestore.server.http.routing import ApiRoute, requires
from featurestore.server.http.state import state_of
from featurestore.server.openapi.operation import Operation

F = TypeVar("F", bound="Feature")

Keys = Annotated[dict[str, str], Meta(description="The columns that rows are read by, each with its dtype.")]
Tags = Annotated[dict[str, str], Meta(description="What its definition says besides.")]


class Window(msgspec.Struct):
    """The window of a windowed feature."""

    aggregate: str
    of: Annotated[str, Meta(description="The column that is aggregated; empty where rows are counted.")]
    size: str
    tile: str


class Feature(msgspec.Struct, kw_only=True):
    """A feature of a view."""

    name: str
    type: Annotated[str, Meta(description="The type, as its definition writes it.")]
    dtype: Annotated[str, Meta(description="The Polars dtype of its values.")]
    nullable: Annotated[
        bool,
        Meta(
            description="Whether a stored value may be null; a look-up also answers null of an entity that is missing or expired."
        ),
    ]
    description: str
    unit: str
    owner: str
    tags: Tags
    constraints: Annotated[dict[str, Any], Meta(description="What its values keep to, as ge, lt, max_length or one_of.")]
    pii: Annotated[bool, Meta(description="Whether it is personal information, or computed from some.")]
    window: Window | UnsetType = UNSET


class ServiceFeature(Feature, kw_only=True):
    """A feature of a service, by its name there."""

    of: Annotated[str, Meta(description="The view and the feature that it is.")]


class ComputedFeature(Feature, kw_only=True):
    """A feature of an on-demand view."""

    expression: Annotated[str, Meta(description="What it is computed by.")]


class RequestField(Feature, kw_only=True):
    """A field that rows of a look-up bring."""

    required: bool
    default: Annotated[Any, Meta(description="What it is where rows do not bring it.")] = UNSET


class Service(msgspec.Struct, kw_only=True):
    """A feature service."""

    name: str
    description: str
    owner: str
    tags: Tags
    references: Annotated[list[str], Meta(description="The views and features, as its definition writes them.")]
    keys: Keys | UnsetType = UNSET
    request: Annotated[list[RequestField], Meta(description="The fields that rows bring besides keys.")] | UnsetType = UNSET
    features: list[ServiceFeature] | UnsetType = UNSET
    broken: Annotated[str, Meta(description="Why it cannot be read, after an apply that was allowed to break it.")] | UnsetType = (
        UNSET
    )


class LatestView(msgspec.Struct, tag_field="kind", tag="latest"):
    """A feature view of the latest values."""

    name: str
    description: str
    owner: str
    tags: Tags
    entity: str
    keys: Keys
    source: str
    ttl: Annotated[str | None, Meta(description="How old a value may be that is served, as 30d.")]
    schedule: str | None
    version: Annotated[int, Meta(description="The version of its definition.")]
    data_version: Annotated[int, Meta(description="The version of its history.")]
    features: list[Feature]


class WindowedView(LatestView, tag_field="kind", tag="windowed"):
    """A feature view of values over windows."""


class ComputedView(msgspec.Struct, tag_field="kind", tag="on demand"):
    """An on-demand view, whose features are computed when they are asked for."""

    name: str
    description: str
    owner: str
    tags: Tags
    inputs: Annotated[list[str], Meta(description="The views, features and requests that it is computed from.")]
    features: list[ComputedFeature]


View = LatestView | WindowedView | ComputedView


class Entity(msgspec.Struct):
    """An entity."""

    name: str
    description: str
    owner: str
    keys: Keys


class Source(msgspec.Struct):
    """A source, but not where it lies."""

    name: str
    kind: str
    description: str
    owner: str
    event_time: str
    available_time: str | None
    event_id: str | None
    views: Annotated[list[str], Meta(description="The views on it.")]


class Services(msgspec.Struct):
    """The services that the caller may see."""

    services: list[Service]


class Views(msgspec.Struct):
    """The views that the caller may see, on-demand views among them."""

    views: list[View]


class Entities(msgspec.Struct):
    """The entities that the caller may see."""

    entities: list[Entity]


class Sources(msgspec.Struct):
    """The sources that the caller may see."""

    sources: list[Source]


@requires("read", "catalog")
async def list_services(request: Request) -> Response:
    """List the services."""
    catalog, visible = _visible(request)
    services = [_service(catalog, catalog.services[name]) for name in visible.services]
    return _answer(request, Services(services), len(services))


@requires("read", "service")
async def get_service(request: Request) -> Response:
    """Describe one service. Raises NotFoundError."""
    catalog, visible = _visible(request)
    name = _known(request, "applied feature service", visible.services)
    return _answer(request, _service(catalog, catalog.services[name]), 1)


@requires("read", "catalog")
async def list_views(request: Request) -> Response:
    """List the views."""
    catalog, visible = _visible(request)
    views = [_view(catalog, name) for name in visible.views]
    return _answer(request, Views(views), len(views))


@requires("read", "view")
async def get_view(request: Request) -> Response:
    """Describe one view. Raises NotFoundError."""
    catalog, visible = _visible(request)
    return _answer(request, _view(catalog, _known(request, "applied feature view", visible.views)), 1)


@requires("read", "catalog")
async def list_entities(request: Request) -> Response:
    """List the entities."""
    catalog, visible = _visible(request)
    listed = [_entity(catalog.entities[name]) for name in visible.entities]
    return _answer(request, Entities(listed), len(listed))


@requires("read", "catalog")
async def list_sources(request: Request) -> Response:
    """List the sources."""
    catalog, visible = _visible(request)
    listed = [_source(catalog, catalog.sources[name], visible) for name in visible.sources]
    return _answer(request, Sources(listed), len(listed))


def _visible(request: Request) -> tuple[Catalog, Visibility]:
    return state_of(request).visibility.of(context_of(request).authenticated)


def _known(request: Request, kind: str, names: Sequence[str]) -> str:
    """Return the name in the path. Raises NotFoundError, which suggests only what the caller may see."""
    name: str = request.path_params["name"]
    if name not in names:
        raise NotFoundError(kind, name, names)
    return name


def _answer(request: Request, content: msgspec.Struct, rows: int) -> Response:
    context_of(request).rows = rows
    return Response(msgspec.json.encode(content), media_type=JSON)


def _described(kind: type[F], spec: FeatureSpec, **more: Any) -> F:
    """Return what is known of a feature."""
    known = feature(spec) | more
    if "window" in known:
        known["window"] = Window(**known["window"])
    return kind(**known)


def _service(catalog: Catalog, service: FeatureService) -> Service:
    described = Service(
        name=service.name,
        description=service.description,
        owner=service.owner,
        tags=service.tags,
        references=[repr(reference) for reference in service.references],
    )
    try:
        selection = select(catalog, parse_references(service))
    except FeatureStoreError as error:  # an apply that was allowed to break it
        described.broken = str(error)
        return described
    features = {column.name: (join.applied.spec.name, column.feature) for join in selection.joins for column in join.columns}
    features |= {output.name: (step.view, output.feature) for step in selection.computation.steps for output in step.outputs}
    personal = personal_features(catalog)

    def column(name: str) -> ServiceFeature:
        view, spec = features[name]
        return _described(ServiceFeature, spec, name=name, of=f"{view}.{spec.name}", pii=spec.name in personal.get(view, ()))

    described.keys = {
        on: dtype_name(dtype) for join in selection.joins for on, dtype in zip(join.on, join.keys.values(), strict=True)
    }
    described.request = [_described(RequestField, request_column.field) for request_column in selection.computation.fields]
    described.features = [column(name) for name in selection.names]
    return described


def _view(catalog: Catalog, name: str) -> View:
    personal = personal_features(catalog).get(name, ())
    if name in catalog.served:
        return _stored(catalog.served[name], personal)
    return _computed(catalog.on_demand[name], personal)


def _stored(applied: AppliedView, personal: Iterable[str]) -> LatestView:
    view = applied.spec
    kind = WindowedView if view.windows else LatestView
    return kind(
        name=view.name,
        description=view.description,
        owner=view.owner,
        tags=view.tags,
        entity=view.entity.name,
        keys=_keys(view.entity),
        source=view.source.name,
        ttl=None if view.ttl is None else format_duration(view.ttl),
        schedule=view.schedule,
        version=applied.version,
        data_version=applied.data_version,
        features=[_described(Feature, spec, pii=spec.name in personal) for spec in view.features],
    )


def _computed(view: OnDemandSpec, personal: Iterable[str]) -> ComputedView:
    computed = zip(view.features, view.expressions, strict=True)
    return ComputedView(
        name=view.name,
        description=view.description,
        owner=view.owner,
        tags=view.tags,
        inputs=[repr(reference) for reference in view.inputs],
        features=[
            _described(ComputedFeature, spec, pii=spec.name in personal, expression=expression.text)
            for spec, expression in computed
        ],
    )


def _keys(entity: entities.Entity) -> dict[str, str]:
    return {name: dtype_name(dtype) for name, dtype in entity.keys.items()}


def _entity(entity: entities.Entity) -> Entity:
    return Entity(entity.name, entity.description, entity.owner, _keys(entity))


def _source(catalog: Catalog, source: sources.Source, visible: Visibility) -> Source:
    views = [name for name in visible.views if name in catalog.views and catalog.views[name].spec.source.name == source.name]
    return Source(
        source.name,
        source.kind,
        source.description,
        source.owner,
        source.event_time,
        source.available_time,
        source.event_id,
        views,
    )


_LISTED = "Those that the caller may see."

routes = [
    ApiRoute(
        "/v1/services",
        list_services,
        operation=Operation("listServices", "List the feature services", "discovery", {JSON: Services}, _LISTED),
    ),
    ApiRoute(
        "/v1/services/{name}",
        get_service,
        operation=Operation(
            "getService",
            "Describe a feature service",
            "discovery",
            {JSON: Service},
            "The service.",
            names={"name": lambda visible: visible.services},
        ),
    ),
    ApiRoute(
        "/v1/views",
        list_views,
        operation=Operation("listViews", "List the feature views, on-demand views among them", "discovery", {JSON: Views}, _LISTED),
    ),
    ApiRoute(
        "/v1/views/{name}",
        get_view,
        operation=Operation(
            "getView",
            "Describe a feature view",
            "discovery",
            {JSON: View},
            "The view.",
            names={"name": lambda visible: visible.views},
        ),
    ),
    ApiRoute(
        "/v1/entities",
        list_entities,
        operation=Operation("listEntities", "List the entities", "discovery", {JSON: Entities}, _LISTED),
    ),
    ApiRoute(
        "/v1/sources",
        list_sources,
        operation=Operation("listSources", "List the sources", "discovery", {JSON: Sources}, _LISTED),
    ),
]
