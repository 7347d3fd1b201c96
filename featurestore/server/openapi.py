"""The OpenAPI document, made of the table of routes and of what is applied: each service and view has schemas of its own."""

from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import msgspec

from featurestore.errors import FeatureStoreError
from featurestore.plan.selection import Selection, select
from featurestore.server.bodies import ARROW, JSON, MSGPACK, PARQUET
from featurestore.server.problems import KINDS
from featurestore.server.route import RouteSpec
from featurestore.server.schemas import STATUSES, Schema, of_answer, of_rows
from featurestore.server.visit import Visit
from featurestore.spec.catalog import Catalog
from featurestore.spec.reference import parse_references

if TYPE_CHECKING:
    from featurestore.store import FeatureStore

_PROBLEM = "application/problem+json"
_FAULTS: dict[str, str] = {
    "400": "The request cannot be read.",
    "401": "It is not known who asks.",
    "403": "Whoever asks may not do this.",
    "404": "Nothing has that name; `suggestion` says what was perhaps meant.",
    "408": "The body did not come in time.",
    "409": "The definitions at hand are not those that are applied.",
    "413": "The body is too large.",
    "415": "The body is of another type.",
    "422": "The request is wrong; `row` and `column` say where.",
    "503": "A store cannot be reached, or the server has too much to do; `Retry-After` says when to try again.",
}
_OF_ALL = ("401", "403", "503")
_OF_BODIES = ("400", "404", "408", "409", "413", "415", "422")


class OpenAPIEndpoint:
    """Answers the document, made anew when something else is applied.

    Args:
        store: the store.
        routes: gives the table of routes.
    """

    def __init__(self, store: "FeatureStore", routes: Callable[[], tuple[RouteSpec, ...]]) -> None:
        self._store = store
        self._routes = routes
        self._catalog: Catalog | None = None
        self._body = b""

    async def __call__(self, visit: Visit) -> None:
        """Answers it."""
        catalog = self._store.catalog_at_hand
        if catalog is not self._catalog:
            made = document(catalog, self._routes(), self._store.settings.project)
            self._catalog, self._body = catalog, msgspec.json.encode(made)
        await visit.answer(self._body, b"application/json")


def document(catalog: Catalog, routes: tuple[RouteSpec, ...], project: str) -> dict[str, Any]:
    """Returns the OpenAPI document of a project.

    Args:
        catalog: what is applied.
        routes: the routes there are.
        project: the project's name.
    """
    schemas: dict[str, Schema] = {"Problem": _problem(), "Answer": _any_answer(), "Rows": _any_rows()}
    asked: list[str] = []
    answers: list[str] = []
    for name in [*catalog.services, *catalog.views, *catalog.on_demand]:
        try:
            selection = select(catalog, parse_references(catalog.services.get(name, name)))
        except FeatureStoreError:  # an apply that was allowed to break it
            continue
        kind = "service" if name in catalog.services else "view"
        schemas |= _of_selection(name, kind, selection)
        asked.append(f"{name}.question")
        answers.append(f"{name}.answer")
    schemas["Question"] = _any_question(catalog)
    paths: dict[str, dict[str, Any]] = {}
    for spec in routes:
        if spec.summary:
            paths.setdefault(spec.path, {})[spec.method.lower()] = _operation(spec, asked, answers)
    return {
        "openapi": "3.0.3",
        "info": {
            "title": f"Features of {project}",
            "version": f"{catalog.revision}",
            "description": f"Served by featurestore {version('featurestore')}. The version is the catalog's revision.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "A key or a token."}},
        },
        "security": [{}, {"token": []}],
    }


def _of_selection(name: str, kind: str, selection: Selection) -> dict[str, Schema]:
    row, columns = of_rows(selection)
    question = _question({"type": "string", "enum": [name]}, [_to(f"{name}.row")], _to(f"{name}.columns"))
    return {
        f"{name}.row": row | {"description": f"A row that {kind} {name!r} is asked about; other columns are passed over."},
        f"{name}.columns": columns | {"description": f"Rows that {kind} {name!r} is asked about, as columns of one length."},
        f"{name}.question": question,
        f"{name}.answer": of_answer(selection),
    }


def _question(features: Schema, items: list[Schema], columns: Schema) -> Schema:
    return {
        "type": "object",
        "required": ["features", "rows"],
        "additionalProperties": False,
        "properties": {
            "features": features,
            "rows": {"anyOf": [{"type": "array", "items": items[0], "maxItems": 10_000}, columns]},
            "metadata": {"type": "boolean", "default": True, "description": "Whether to answer statuses and event times."},
            "at": {"type": "string", "format": "date-time", "nullable": True, "description": "As of this instant, if not now."},
            "types": {"type": "boolean", "default": False, "description": "Whether to tell each feature's dtype."},
        },
    }


def _any_question(catalog: Catalog) -> Schema:
    names = [*catalog.services, *catalog.views, *catalog.on_demand]
    names += [f"{name}.{each}" for name, view in catalog.views.items() for each in view.spec.feature_names]
    names += [f"{name}.{each}" for name, view in catalog.on_demand.items() for each in view.feature_names]
    one: Schema = {"type": "string"} | ({"enum": sorted(names)} if names else {})
    features = {"type": "array", "items": one, "minItems": 1, "uniqueItems": True}
    return _question(features, [{"type": "object"}], _to("Rows"))


def _any_rows() -> Schema:
    return {"type": "object", "additionalProperties": {"type": "array", "items": {}}}


def _any_answer() -> Schema:
    column = {"type": "array", "items": {"nullable": True}}
    return {
        "type": "object",
        "required": ["features"],
        "properties": {
            "features": {"type": "object", "additionalProperties": column},
            "status": {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "string", "enum": STATUSES}}},
            "event_time": {
                "type": "object",
                "additionalProperties": {"type": "array", "items": {"type": "string", "format": "date-time", "nullable": True}},
            },
            "types": {"type": "object", "additionalProperties": {"type": "string"}},
        },
    }


def _problem() -> Schema:
    told = {
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What was found, and what to do."},
        "error": {"type": "string", "description": "The class of the error in featurestore.errors."},
        "suggestion": {"type": "string"},
        "row": {"type": "integer", "description": "The number of the row, from 0."},
        "column": {"type": "string"},
    }
    kinds = [f"urn:featurestore:problem:{kind}" for kind in KINDS]
    return {
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "properties": {"type": {"type": "string", "enum": kinds}, **told},
        "description": "RFC 9457",
    }


def _operation(spec: RouteSpec, asked: list[str], answers: list[str]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "summary": spec.summary,
        "operationId": f"{spec.method.lower()}{''.join(part.strip('{}').title() for part in spec.path.split('/'))}",
        "responses": {"200": _DONE[spec.path](answers) if spec.path in _DONE else _plain_answer()},
    }
    statuses = set(_OF_ALL) if spec.need.action != "none" else {"503"}
    if spec.method == "POST":
        statuses |= set(_OF_BODIES)
    parameters: list[Schema] = list(_PARAMETERS.get(spec.path, []))
    for part in spec.path.split("/"):
        if part.startswith("{"):
            statuses.add("404")
            parameters.append(
                {"name": part.strip("{}"), "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            )
    if parameters:
        made["parameters"] = parameters
    if spec.path in _BODIES:
        made["requestBody"] = {"required": True, "content": _BODIES[spec.path](asked)}
    made["responses"] |= {status: _fault(status) for status in sorted(statuses)}
    if spec.need.action == "none":
        made["security"] = []
    return made


def _fault(status: str) -> Schema:
    return {"description": _FAULTS[status], "content": {_PROBLEM: {"schema": _to("Problem")}}}


def _to(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _plain_answer() -> Schema:
    return {"description": "What was asked for.", "content": {JSON: {"schema": {"type": "object"}}}}


def _online_answer(answers: list[str]) -> Schema:
    schema = {"anyOf": [*map(_to, answers), _to("Answer")]}
    return {"description": "The features, a value a row.", "content": {JSON: {"schema": schema}, MSGPACK: {"schema": schema}}}


def _online_body(asked: list[str]) -> Schema:
    schema = {"anyOf": [*map(_to, asked), _to("Question")]}
    return {JSON: {"schema": schema}, MSGPACK: {"schema": schema}}


def _push_body(_: list[str]) -> Schema:
    rows = {"anyOf": [{"type": "array", "items": {"type": "object"}}, _to("Rows")]}
    views = {"type": "array", "items": {"type": "string"}, "nullable": True}
    schema = {
        "type": "object",
        "required": ["rows"],
        "additionalProperties": False,
        "properties": {"rows": rows, "views": views},
    }
    return {JSON: {"schema": schema}, MSGPACK: {"schema": schema}, **_frames()}


def _push_answer(_: list[str]) -> Schema:
    counts = ("data_version", "rows_read", "rows_new", "rows_known", "rows_rejected", "rows_online")
    view = {
        "type": "object",
        "required": ["view", *counts, "reasons", "seconds", "rejected"],
        "properties": {
            "view": {"type": "string"},
            **{name: {"type": "integer"} for name in counts},
            "seconds": {"type": "number"},
            "reasons": {"type": "object", "additionalProperties": {"type": "integer"}},
            "rejected": {"type": "array", "items": {"type": "object"}, "description": "The first of them, each with its _reason."},
        },
    }
    schema = {"type": "object", "required": ["views"], "properties": {"views": {"type": "array", "items": view}}}
    return {
        "description": "What became of the rows, view by view.",
        "content": {JSON: {"schema": schema}, MSGPACK: {"schema": schema}},
    }


def _frames() -> Schema:
    binary = {"type": "string", "format": "binary"}
    return {ARROW: {"schema": binary}, PARQUET: {"schema": binary}}


def _text(name: str, words: str, *, required: bool = False, default: str = "") -> Schema:
    schema: Schema = {"type": "string"} | ({"default": default} if default else {})
    return {"name": name, "in": "query", "required": required, "description": words, "schema": schema}


_BODIES: dict[str, Callable[[list[str]], Schema]] = {
    "/v1/online": _online_body,
    "/v1/push/{source}": _push_body,
    "/v1/training": lambda _: _frames(),
}
_DONE: dict[str, Callable[[list[str]], Schema]] = {
    "/v1/online": _online_answer,
    "/v1/push/{source}": _push_answer,
    "/v1/training": lambda _: {
        "description": "The spine's rows with the features after them, an Arrow IPC stream.",
        "content": {ARROW: {"schema": {"type": "string", "format": "binary"}}},
    },
    "/metrics": lambda _: {"description": "What Prometheus reads.", "content": {"text/plain": {"schema": {"type": "string"}}}},
}
_PARAMETERS: dict[str, list[Schema]] = {
    "/v1/training": [
        _text("features", "Services, views and features, separated by commas.", required=True),
        _text("time", "The spine's time column.", default="event_time"),
        {
            "name": "as_known", "in": "query", "schema": {"type": "boolean", "default": True},
            "description": "Whether a row counts only once it was available.",
        },
    ],
    "/v1/push/{source}": [_text("views", "The views to push to, separated by commas; all on the source by default.")],
}  # fmt: skip
