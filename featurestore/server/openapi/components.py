"""OpenAPI components: schemas of requests and answers, and of each service and view."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from featurestore.access.visibility import Visibility
from featurestore.server.http.content_types import ARROW, JSON, MSGPACK, PARQUET
from featurestore.server.http.problems import KINDS
from featurestore.server.openapi.dtypes import STATUSES, Schema

_TEXT: Schema = {"type": "string"}
_TEXTS: Schema = {"type": "object", "additionalProperties": _TEXT}
_INSTANT: Schema = {"type": "string", "format": "date-time", "nullable": True}
_COUNTS = ("data_version", "rows_read", "rows_new", "rows_known", "rows_rejected", "rows_waiting", "rows_online")
_OF_READERS = ("rows_new", "rows_known", "rows_online")
"""Null to whom may push and not read: they tell whether a row was there already."""


@dataclass(frozen=True)
class Components:
    """What the document's contents are made of.

    Args:
        sight: what the caller may see.
        rows: how many rows a look-up or a push may have.
        questions: the services and views that have schemas of their own, ``….question`` and ``….answer``.
        examples: bodies of look-ups that can be sent as they are, by the service or view.
    """

    sight: Visibility = field(default_factory=Visibility)
    rows: int = 10_000
    questions: tuple[str, ...] = ()
    examples: Mapping[str, Any] = field(default_factory=dict)

    def schemas(self) -> dict[str, Schema]:
        """Returns the schemas that there are whatever is applied."""
        names = sorted({*self.sight.read, *self.sight.features})
        features: Schema = {"type": "array", "items": _one_of(names), "minItems": 1, "uniqueItems": True}
        return {
            "Problem": _problem(),
            "Answer": _any_answer(),
            "Rows": {"type": "object", "additionalProperties": {"type": "array", "items": {}, "maxItems": self.rows}},
            "Question": self.question(features, {"type": "object"}, to("Rows")),
            "Feature": _feature(),
            "Service": _service(),
            "View": _view(),
            "Entity": _named(keys=_TEXTS),
            "Source": _named(kind=_TEXT, views={"type": "array", "items": _TEXT}),
        }

    def question(self, features: Schema, row: Schema, columns: Schema) -> Schema:
        """Returns the schema of a look-up's body, of the schemas of its features, of a row, and of rows as columns."""
        at = _INSTANT | {"description": "As of this instant; now where it is left out or null.", "example": None}
        return {
            "type": "object",
            "required": ["features", "rows"],
            "additionalProperties": False,
            "properties": {
                "features": features,
                "rows": {"anyOf": [{"type": "array", "items": row, "maxItems": self.rows}, columns]},
                "metadata": {"type": "boolean", "default": True, "description": "Whether to answer statuses and event times."},
                "at": at,
                "types": {"type": "boolean", "default": False, "description": "Whether to tell each feature's dtype."},
            },
        }

    def body(self, path: str) -> Schema | None:
        """Returns what a route takes, by media type; None where it takes nothing."""
        if path == "/v1/online":
            schema: Schema = {"anyOf": [*(to(f"{name}.question") for name in self.questions), to("Question")]}
            if not self.examples:
                return {JSON: {"schema": schema}, MSGPACK: {"schema": schema}}
            examples = {name: {"value": body} for name, body in self.examples.items()}
            # NOTE: Swagger UI begins with the schema's example, and lets one choose among the others.
            schema |= {"example": next(iter(self.examples.values()))}
            return {JSON: {"schema": schema, "examples": examples}, MSGPACK: {"schema": schema}}
        if path == "/v1/push/{source}":
            schema = self._push()
            return {JSON: {"schema": schema}, MSGPACK: {"schema": schema}, **_frames()}
        return _frames() if path == "/v1/training" else None

    def answer(self, path: str) -> Schema:
        """Returns what a route answers, words and all."""
        if path == "/v1/online":
            schema = {"anyOf": [*(to(f"{name}.answer") for name in self.questions), to("Answer")]}
            words = (
                "A list for each feature, a value a row. A status is `present`, `null` (the value is null), `expired` (older than "
                "the ttl), or `missing` (nobody knows the entity)."
            )
            return {"description": words, "content": {JSON: {"schema": schema}, MSGPACK: {"schema": schema}}}
        if path in _ANSWERS:
            return _ANSWERS[path]()
        return {"description": "What was asked for.", "content": {JSON: {"schema": {"type": "object"}}}}

    def parameters(self, path: str) -> list[Schema]:
        """Returns the parameters of a route, in its query and in its address."""
        known = {"/v1/services/{name}": self.sight.services, "/v1/views/{name}": self.sight.views}
        found: list[Schema] = []
        if path == "/v1/training":
            names = sorted({*self.sight.read, *self.sight.features})
            found = [_several("features", "Services, views and features, separated by commas.", names, required=True), *_OF_SPINES]
        elif path == "/v1/push/{source}":
            found = [_several("views", "The views to push to, separated by commas; all on the source by default.", [])]
        for part in path.split("/"):
            if part.startswith("{"):
                name = part.strip("{}")
                schema = _one_of(known.get(path, self.sight.pushed))
                found.append({"name": name, "in": "path", "required": True, "schema": schema})
        return found

    def _push(self) -> Schema:
        rows = {"anyOf": [{"type": "array", "items": {"type": "object"}, "maxItems": self.rows}, to("Rows")]}
        views = {"type": "array", "items": _TEXT, "nullable": True, "description": "All on the source where it is left out."}
        properties = {"rows": rows, "views": views}
        return {"type": "object", "required": ["rows"], "additionalProperties": False, "properties": properties}


def to(name: str) -> Schema:
    """Returns a reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def _one_of(names: list[str] | tuple[str, ...]) -> Schema:
    return {"type": "string", "enum": list(names)} if names else {"type": "string", "minLength": 1}


def _any_answer() -> Schema:
    column = {"type": "array", "items": {"nullable": True}}
    status = {"type": "array", "items": {"type": "string", "enum": STATUSES}}
    return {
        "type": "object",
        "required": ["features"],
        "properties": {
            "features": {"type": "object", "additionalProperties": column},
            "status": {"type": "object", "additionalProperties": status},
            "event_time": {"type": "object", "additionalProperties": {"type": "array", "items": _INSTANT}},
            "types": _TEXTS,
        },
    }


def _problem() -> Schema:
    told = {
        "title": _TEXT,
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What was found, and what to do."},
        "error": {"type": "string", "description": "The class of the error in featurestore.errors."},
        "suggestion": _TEXT,
        "row": {"type": "integer", "description": "The number of the row, from 0."},
        "column": _TEXT,
    }
    kinds = [f"urn:featurestore:problem:{kind}" for kind in KINDS]
    return {
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "properties": {"type": {"type": "string", "enum": kinds}, **told},
        "description": "RFC 9457",
    }


def _named(**more: Schema) -> Schema:
    """Returns the schema of something with a name, a description and an owner."""
    properties = {"name": _TEXT, "description": _TEXT, "owner": _TEXT, **more}
    return {"type": "object", "required": list(properties), "properties": properties}


def _feature() -> Schema:
    window = {"type": "object", "properties": dict.fromkeys(("aggregate", "of", "size", "tile"), _TEXT | {"nullable": True})}
    more = {"type": _TEXT, "dtype": _TEXT, "nullable": {"type": "boolean"}, "unit": _TEXT, "tags": {"type": "object"}}
    pii: Schema = {"type": "boolean", "description": "Whether it is personal information, or computed from some."}
    made = _named(**more, constraints={"type": "object"}, pii=pii)
    return made | {"properties": made["properties"] | {"window": window}}


def _service() -> Schema:
    features = {"type": "array", "items": to("Feature")}
    made = _named(tags={"type": "object"}, references={"type": "array", "items": _TEXT})
    return made | {"properties": made["properties"] | {"keys": _TEXTS, "request": features, "features": features, "broken": _TEXT}}


def _view() -> Schema:
    kind = {"type": "string", "enum": ["latest", "windowed", "on demand"]}
    made = _named(tags={"type": "object"}, kind=kind, features={"type": "array", "items": to("Feature")})
    said = _TEXT | {"nullable": True}
    stored = {"entity": _TEXT, "keys": _TEXTS, "source": _TEXT, "ttl": said, "schedule": said}
    numbers = {name: {"type": "integer"} for name in ("version", "data_version")}
    return made | {"properties": made["properties"] | stored | numbers | {"inputs": {"type": "array", "items": _TEXT}}}


def _pushed() -> Schema:
    rejected = {"type": "array", "items": {"type": "object"}, "description": "The first of them, each with its _reason."}
    view = {
        "type": "object",
        "required": ["view", *_COUNTS, "reasons", "seconds", "rejected"],
        "properties": {
            "view": _TEXT,
            **{name: {"type": "integer"} | ({"nullable": True} if name in _OF_READERS else {}) for name in _COUNTS},
            "seconds": {"type": "number"},
            "reasons": {"type": "object", "additionalProperties": {"type": "integer"}},
            "rejected": rejected,
        },
    }
    schema = {"type": "object", "required": ["views"], "properties": {"views": {"type": "array", "items": view}}}
    content = {JSON: {"schema": schema}, MSGPACK: {"schema": schema}}
    return {"description": "What became of the rows, view by view.", "content": content}


def _frames() -> Schema:
    binary = {"type": "string", "format": "binary"}
    return {ARROW: {"schema": binary}, PARQUET: {"schema": binary}}


def _frame() -> Schema:
    content = {ARROW: {"schema": {"type": "string", "format": "binary"}}}
    return {"description": "The spine's rows with the features after them, an Arrow IPC stream.", "content": content}


def _told(schema: Schema, words: str) -> Callable[[], Schema]:
    return lambda: {"description": words, "content": {JSON: {"schema": schema}}}


def _list(kind: str, name: str) -> Callable[[], Schema]:
    schema = {"type": "object", "required": [kind], "properties": {kind: {"type": "array", "items": to(name)}}}
    return _told(schema, "Those that the caller may see.")


def _parameter(name: str, words: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "required": False, "description": words, "schema": schema}


def _several(name: str, words: str, names: list[str], *, required: bool = False) -> Schema:
    schema = {"type": "array", "items": _one_of(names), "minItems": 1, "uniqueItems": True}
    return _parameter(name, words, schema) | {"required": required, "style": "form", "explode": False}


_ANSWERS: dict[str, Callable[[], Schema]] = {
    "/v1/push/{source}": _pushed,
    "/v1/training": _frame,
    "/v1/services": _list("services", "Service"),
    "/v1/services/{name}": _told(to("Service"), "The service."),
    "/v1/views": _list("views", "View"),
    "/v1/views/{name}": _told(to("View"), "The view."),
    "/v1/entities": _list("entities", "Entity"),
    "/v1/sources": _list("sources", "Source"),
}
_OF_SPINES = (
    _parameter("time", "The spine's time column.", {"type": "string", "default": "event_time"}),
    _parameter("as_known", "Whether a row counts only once it was available.", {"type": "boolean", "default": True}),
    _parameter("spine", "Whether the spine's columns are in the answer too.", {"type": "boolean", "default": True}),
)
