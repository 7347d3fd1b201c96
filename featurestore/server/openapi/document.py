"""The OpenAPI document, built from the table of routes and from what the caller may see."""

from collections.abc import Mapping, Sequence
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
from featurestore.server.http.context import context_of
from featurestore.server.http.routing import ApiRoute, requires
from featurestore.server.http.state import AppState, state_of
from featurestore.server.openapi.components import Components, to
from featurestore.server.openapi.dtypes import Schema, of_answer, of_rows

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
    return Response(await state_of(request).part(_Documents).of(request), media_type="application/json")


class _Documents:
    """Makes documents, again when something else is applied.

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
        made = document(catalog, routes, self._backend.settings.project, visible, rows=self._limits.rows, examples=examples)
        return msgspec.json.encode(made)

    def _examples(self, visible: Visibility) -> dict[str, Any]:
        """Return look-ups to begin with; their keys are invented."""
        found: dict[str, Any] = {}
        for name in visible.read if visible.everything else ():
            if len(found) == _MOST_EXAMPLES:
                break
            try:
                found[name] = self._backend.sample_request(name)
            except FeatureStoreError:  # an apply that was allowed to break it
                continue
        return found


def document(
    catalog: Catalog,
    routes: Sequence[ApiRoute],
    project: str,
    sight: Visibility,
    *,
    rows: int = 10_000,
    examples: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the OpenAPI document of a project.

    Args:
        catalog: what is applied.
        routes: the routes there are.
        project: the project's name.
        sight: what of it the caller may see.
        rows: how many rows a look-up or a push may have.
        examples: look-ups to begin with, by the service or view.
    """
    selections: dict[str, Selection] = {}
    for name in sight.read:
        try:
            selections[name] = select(catalog, parse_references(catalog.services.get(name, name)))
        except FeatureStoreError:  # an apply that was allowed to break it
            continue
    contents = Components(sight, rows, tuple(selections), examples or {})
    schemas = contents.schemas()
    for name, selection in selections.items():
        schemas |= _of_selection(name, "service" if name in catalog.services else "view", selection, contents)
    paths: dict[str, dict[str, Any]] = {}
    for spec in routes:
        if spec.summary and _of_use(spec, sight):
            paths.setdefault(spec.path, {})[spec.method.lower()] = _operation(spec, contents)
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
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "A key or a token."}},
        },
        "security": [{}, {"token": []}],
    }


def _of_use(spec: ApiRoute, sight: Visibility) -> bool:
    """Tells whether a route is there for somebody: what they could only be refused is left out."""
    if sight.everything or spec.permission is None:
        return True
    if spec.permission.kind == "features":
        return bool(sight.features or sight.read)
    return bool(sight.pushed) if spec.permission.action == "write" else True


def _of_selection(name: str, kind: str, selection: Selection, contents: Components) -> dict[str, Schema]:
    row, columns = of_rows(selection, contents.rows)
    return {
        f"{name}.row": row | {"description": f"A row that {kind} {name!r} is asked about; other columns are passed over."},
        f"{name}.columns": columns | {"description": f"Rows that {kind} {name!r} is asked about, as columns of one length."},
        f"{name}.question": contents.question({"type": "string", "enum": [name]}, to(f"{name}.row"), to(f"{name}.columns")),
        f"{name}.answer": of_answer(selection),
    }


def _operation(spec: ApiRoute, contents: Components) -> dict[str, Any]:
    made: dict[str, Any] = {
        "summary": spec.summary,
        "operationId": f"{spec.method.lower()}{''.join(part.strip('{}').title() for part in spec.path.split('/'))}",
        "tags": [_tag(spec)],
        "responses": {"200": contents.answer(spec.path)},
    }
    statuses = set(_OF_ALL) if spec.permission is not None else {"503"}
    if spec.method == "POST":
        statuses |= set(_OF_BODIES)
    if "{" in spec.path:
        statuses.add("404")
    parameters = contents.parameters(spec.path)
    if parameters:
        made["parameters"] = parameters
    body = contents.body(spec.path)
    if body is not None:
        made["requestBody"] = {"required": True, "content": body}
    made["responses"] |= {status: _fault(status) for status in sorted(statuses)}
    if spec.permission is None:
        made["security"] = []
    return made


def _tag(spec: ApiRoute) -> str:
    return "health" if spec.permission is None else "features" if spec.method == "POST" else "discovery"


def _fault(status: str) -> Schema:
    return {"description": _FAULTS[status], "content": {_PROBLEM: {"schema": to("Problem")}}}


routes = [ApiRoute("/openapi.json", openapi)]
