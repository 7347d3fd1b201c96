"""The dialect of OpenAPI 3.0: JSON schemas as msgspec makes them, in the words that the document and its page understand."""

from typing import Any

Schema = dict[str, Any]

_NULL: Schema = {"type": "null"}
_LEFT_OUT = frozenset({"title", "propertyNames", "examples"})


def to_openapi(schema: Schema) -> Schema:
    """Return a schema of JSON Schema 2020-12 in the dialect of OpenAPI 3.0.

    Example:
        >>> to_openapi({"anyOf": [{"type": "string"}, {"type": "null"}], "default": None})
        {'default': None, 'type': 'string', 'nullable': True}
    """
    converted: Schema = {key: _converted(key, value) for key, value in schema.items() if key not in _LEFT_OUT}
    if "examples" in schema:
        converted["example"] = schema["examples"][0]
    if not converted.get("required", True):
        del converted["required"]  # an empty list is not allowed
    if converted.get("type") == "array":
        converted.setdefault("items", {})
    if "enum" in converted and all(isinstance(value, str) for value in converted["enum"]):
        converted.setdefault("type", "string")
    alternatives = converted.get("anyOf", [])
    if _NULL in alternatives:
        del converted["anyOf"]
        left = [alternative for alternative in alternatives if alternative != _NULL]
        converted |= (left[0] if len(left) == 1 else {"anyOf": left}) | {"nullable": True}
    if "$ref" in converted and len(converted) > 1:
        converted["allOf"] = [{"$ref": converted.pop("$ref")}]  # what stands beside a reference is passed over
    return converted


def _converted(key: str, value: Any) -> Any:
    if key == "properties":
        return {name: to_openapi(schema) for name, schema in value.items()}
    if key == "anyOf":
        return [to_openapi(schema) for schema in value]
    if key == "description":
        return str(value).split("\n\n")[0].replace("\n", " ")
    return to_openapi(value) if key in ("items", "additionalProperties") and isinstance(value, dict) else value


def nullable(schema: Schema) -> Schema:
    """Return the schema of the same values and null."""
    if "enum" in schema:
        return schema | {"nullable": True, "enum": [*schema["enum"], None]}
    return schema | {"nullable": True}


def to(name: str) -> Schema:
    """Return a reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def one_of(names: Any) -> Schema:
    """Return the schema of a name: one of some, or any where there are none."""
    return {"type": "string", "enum": list(names)} if names else {"type": "string", "minLength": 1}
