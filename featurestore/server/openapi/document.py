"""The OpenAPI document, built from the table of routes and from what the caller may see."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from featurestore.access.visibility import Visibility
from featurestore.definitions.catalog import Catalog
from featurestore.definitions.reference import parse_references
from featurestore.errors import FeatureStoreError
from featurestore.selection.select import Selection, select
from featurestore.server.endpoints.online import OnlineRequest, ServiceRequest
from featurestore.server.endpoints.push import PushRequest
from featurestore.server.http.content_types import JSON
from featurestore.server.http.context import context_of
from featurestore.server.http.problems import ProblemDetails
from featurestore.server.http.routing import ApiRoute, requires
from featurestore.server.http.state import AppState, state_of
from featurestore.server.openapi.dialect import Schema, one_of, to, to_openapi
from featurestore.server.openapi.dtypes import NOT_FINITE, of_answer, of_rows
from featurestore.server.openapi.names import schema_names
from featurestore.server.openapi.operation import Operation

_PROBLEM = "application/problem+json"
_FAULTS: dict[str, str] = {
    "400": "The request cannot be read.",
    "401": "It is not known who asks.",
    "403": "The caller may not do this.",
    "404": "Nothing has that name; `suggestion` says what was perhaps meant.",
    "408": "The body did not come in time.",
    "409": "The server's definitions are not those that are applied.",
    "413": "The body is too large.",
    "415": "The body is of another type.",
    "422": "The request is wrong; `row` and `column` say where.",
    "429": "Bodies of this sender have ended the decoder; `Retry-After` says when Arrow and Parquet are taken again.",
    "503": "A store cannot be reached, or the server has too much to do; `Retry-After` says when to try again.",
}
_OF_ALL = ("401", "403", "503")
_OF_BODIES = ("400", "404", "408", "409", "413", "415", "422", "429")
_TAGS = {
    "features": "Look features up, train on them, push rows.",
    "discovery": "What is applied.",
    "health": "Whether the server lives and can answer.",
}
_MOST_EXAMPLES = 8
_MOST_KEPT = 32


@requires("read", "catalog")
async def openapi(request: Request) -> Response:
    """Return the document of what the caller may see."""
    return Response(await state_of(request).part(_Documents).of(request), media_type=JSON)


class _Documents:
    """Make documents, again when something else is applied.

    Args:
        state: the store, what callers may see, and the server's limits.
    """

    def __init__(self, state: AppState) -> None:
        self._backend = state.backend
        self._visibility = state.visibility
        self._limits = state.limits
        self._control = state.pools.control
        self._catalog: Catalog | None = None
        self._bodies: dict[Visibility, bytes] = {}

    async def of(self, request: Request) -> bytes:
        """Return the document of a caller."""
        catalog, visible = self._visibility.of(context_of(request).authenticated)
        if catalog is not self._catalog:
            self._catalog, self._bodies = catalog, {}
        kept = self._bodies
        body = kept.get(visible)
        if body is None:
            routes = [route for route in request.app.routes if isinstance(route, ApiRoute)]
            body = await self._control.run(partial(self._make, catalog, routes, visible))
            if len(kept) < _MOST_KEPT:
                kept[visible] = body
        return body

    def _make(self, catalog: Catalog, routes: Sequence[ApiRoute], visible: Visibility) -> bytes:
        examples = self._examples(visible)
        contents = document(catalog, routes, self._backend.settings.project, visible, rows=self._limits.rows, examples=examples)
        return msgspec.json.encode(contents)

    def _examples(self, visible: Visibility) -> dict[str, Any]:
        """Return look-ups to begin with; their keys are invented."""
        examples: dict[str, Any] = {}
        for name in visible.read if visible.everything else ():
            if len(examples) == _MOST_EXAMPLES:
                break
            try:
                examples[name] = self._backend.sample_request(name)
            except FeatureStoreError:  # an apply that was allowed to break it
                continue
        return examples


def document(
    catalog: Catalog,
    routes: Sequence[ApiRoute],
    project: str,
    visible: Visibility,
    *,
    rows: int = 10_000,
    examples: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the OpenAPI document of a project.

    Args:
        catalog: what is applied.
        routes: the routes there are.
        project: the project's name.
        visible: what of the project the caller may see.
        rows: how many rows a look-up or a push may have.
        examples: look-ups to begin with, by the service or view.
    """
    operations = [(route, route.operation) for route in routes if route.operation is not None]
    schemas = _schemas_of_structs([operation for _, operation in operations], visible, rows)
    names = schema_names(catalog.services, schemas)
    paths: dict[str, dict[str, Any]] = {}
    for route, operation in operations:
        if not _is_of_use(route, visible):
            continue
        if operation.of_each_service:
            for service, selection in _selections(catalog, visible):
                schemas |= _schemas_of_service(names[service], service, selection, schemas, rows)
                one = _of_service(route, operation, service, names[service], (examples or {}).get(service))
                paths[route.path.replace("{name}", service)] = {route.method.lower(): one}
            continue
        described = _described(route, operation, visible)
        if operation.bodies:
            described["requestBody"] = {"required": True, "content": _content(operation.bodies)}
            if examples and operation.id == "lookUp":
                _add_examples(described["requestBody"]["content"], examples)
        described["responses"] = _responses(route, operation.description, _content(operation.answers))
        paths.setdefault(route.path, {})[route.method.lower()] = described
    return {
        "openapi": "3.0.3",
        "info": {
            "title": f"Features of {project}",
            "version": f"{catalog.revision}",
            "description": f"Served by featurestore {version('featurestore')}. The version is the catalog's revision.",
        },
        "tags": [{"name": name, "description": words} for name, words in _TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": {name: schema for name, schema in schemas.items() if name != ServiceRequest.__name__},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "A key or a token."}},
        },
        "security": [{}, {"token": []}],
    }


def _is_of_use(route: ApiRoute, visible: Visibility) -> bool:
    """Tell whether a route is there for a caller: what they could only be refused is left out."""
    if visible.everything or route.permission is None:
        return True
    if route.permission.kind == "features":
        return bool(visible.features or visible.read)
    return bool(visible.pushed) if route.permission.action == "write" else True


def _selections(catalog: Catalog, visible: Visibility) -> Iterator[tuple[str, Selection]]:
    """Yield the services that the caller may read, each with what it reads."""
    for name in visible.read:
        if name in catalog.services:
            try:
                yield name, select(catalog, parse_references(catalog.services[name]))
            except FeatureStoreError:  # an apply that was allowed to break it
                continue


def _schemas_of_structs(operations: Iterable[Operation], visible: Visibility, rows: int) -> dict[str, Schema]:
    """Return the schemas that there are whatever is applied: of what routes take and answer."""
    structs = [ProblemDetails, *(kind for operation in operations for kind in operation.structs)]
    _, components = msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")
    schemas = {name: to_openapi(schema) for name, schema in components.items()}
    schemas["NotFinite"] = NOT_FINITE
    schemas["FeatureName"] = one_of(sorted({*visible.read, *visible.features}))
    schemas["Columns"] = {"type": "object", "additionalProperties": {"type": "array", "items": {}, "maxItems": rows}}
    several = {"type": "array", "items": to("FeatureName"), "minItems": 1, "uniqueItems": True}
    features = schemas[OnlineRequest.__name__]["properties"]["features"]
    features |= {"anyOf": [to("FeatureName"), several]}
    for kind in (OnlineRequest, PushRequest):
        schemas[kind.__name__]["properties"]["rows"] |= _rows({"type": "object"}, to("Columns"), rows)
    return schemas


def _schemas_of_service(
    name: str, service: str, selection: Selection, schemas: Mapping[str, Schema], rows: int
) -> dict[str, Schema]:
    row, columns = of_rows(selection, rows)
    request = schemas[ServiceRequest.__name__]
    asked = request["properties"]["rows"] | _rows(to(f"{name}Row"), to(f"{name}Columns"), rows)
    return {
        f"{name}Row": row | {"description": f"A row that service {service!r} is asked about; other columns are passed over."},
        f"{name}Columns": columns | {"description": f"Rows that service {service!r} is asked about, as columns of one length."},
        f"{name}Request": request
        | {"description": f"A look-up of service {service!r}.", "properties": request["properties"] | {"rows": asked}},
        **of_answer(selection, name),
    }


def _rows(row: Schema, columns: Schema, most: int) -> Schema:
    return {"anyOf": [{"type": "array", "items": row, "maxItems": most}, columns]}


def _of_service(
    route: ApiRoute, operation: Operation, service: str, name: str, example: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the operation of one service, whose schemas have a name of their own."""
    request: dict[str, Any] = {"schema": to(f"{name}Request")}
    if example is not None:
        request["example"] = {key: value for key, value in example.items() if key != "features"}
    response = {"schema": to(f"{name}Response")}
    return {
        "summary": operation.summary.replace("a service", service),
        "operationId": f"{operation.id}{name}",
        "tags": [operation.tag],
        "requestBody": {"required": True, "content": dict.fromkeys(operation.bodies, request)},
        "responses": _responses(route, operation.description, dict.fromkeys(operation.answers, response)),
    }


def _described(route: ApiRoute, operation: Operation, visible: Visibility) -> dict[str, Any]:
    described: dict[str, Any] = {"summary": operation.summary, "operationId": operation.id, "tags": [operation.tag]}
    parameters = [*_query_parameters(operation, visible), *_path_parameters(route, operation, visible)]
    if parameters:
        described["parameters"] = parameters
    if route.permission is None:
        described["security"] = []
    return described


def _query_parameters(operation: Operation, visible: Visibility) -> Iterator[Schema]:
    if operation.query is None:
        return
    _, components = msgspec.json.schema_components([operation.query])
    described = to_openapi(components[operation.query.__name__])
    for name, schema in described["properties"].items():
        parameter = {"name": name, "in": "query", "required": name in described.get("required", ()), "schema": schema}
        if "description" in schema:
            parameter["description"] = schema.pop("description")
        if schema.get("type") == "array":
            names = operation.names[name](visible) if name in operation.names else ()
            parameter |= {"style": "form", "explode": False}
            schema |= {"items": one_of(names), "uniqueItems": True, "minItems": 1}
            schema.pop("default", None)
        yield parameter


def _path_parameters(route: ApiRoute, operation: Operation, visible: Visibility) -> Iterator[Schema]:
    for name in route.param_convertors:
        names = operation.names[name](visible) if name in operation.names else ()
        yield {"name": name, "in": "path", "required": True, "schema": one_of(names)}


def _content(kinds: Mapping[str, Any]) -> dict[str, Schema]:
    return {media: {"schema": _schema_of(kind)} for media, kind in kinds.items()}


def _schema_of(kind: Any) -> Schema:
    if kind is bytes:
        return {"type": "string", "format": "binary"}
    (schema,), _ = msgspec.json.schema_components([kind], ref_template="#/components/schemas/{name}")
    return to_openapi(schema)


def _add_examples(content: dict[str, Schema], examples: Mapping[str, Any]) -> None:
    # NOTE: Swagger UI begins with the schema's example, and lets one choose among the others.
    content[JSON]["examples"] = {name: {"value": body} for name, body in examples.items()}
    for described in content.values():
        described["schema"] = {"allOf": [described["schema"]], "example": next(iter(examples.values()))}


def _responses(route: ApiRoute, description: str, content: Mapping[str, Schema]) -> dict[str, Any]:
    statuses = set(_OF_ALL) if route.permission is not None else {"503"}
    if route.method == "POST":
        statuses |= set(_OF_BODIES)
    if route.param_convertors:
        statuses.add("404")
    answers: dict[str, Any] = {"200": {"description": description, "content": content}}
    return answers | {
        status: {"description": _FAULTS[status], "content": {_PROBLEM: {"schema": to(ProblemDetails.__name__)}}}
        for status in sorted(statuses)
    }


routes = [ApiRoute("/openapi.json", openapi)]
