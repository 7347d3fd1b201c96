"""JSON schemas of dtypes, in the dialect of OpenAPI 3.0."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from featurestore.definitions.feature import FeatureSpec
from featurestore.definitions.request import RequestField
from featurestore.dtypes import inner_dtype
from featurestore.selection.select import Selection
from featurestore.server.openapi.dialect import Schema, nullable, to

_TEXT: Schema = {"type": "string"}
NOT_FINITE: Schema = {"type": "string", "enum": ["NaN", "Infinity", "-Infinity"], "description": "A float that JSON lacks."}
"""The component ``NotFinite``."""
_NUMBER: Schema = {"anyOf": [{"type": "number"}, to("NotFinite")], "example": 0.5}
_SIMPLE: dict[Any, Schema] = {
    pl.Boolean: {"type": "boolean"},
    pl.Float32: _NUMBER,
    pl.Float64: _NUMBER,
    pl.String: {"type": "string"},
    pl.Binary: {"type": "string", "format": "byte"},
    pl.Datetime: {"type": "string", "format": "date-time"},
    pl.Date: {"type": "string", "format": "date"},
    pl.Time: {"type": "string", "description": "A time of day, 23:59:59.999999"},
    pl.Duration: {"type": "string", "description": "A duration of ISO 8601, PT3600S"},
    pl.Decimal: {"type": "string", "description": "A decimal number", "pattern": r"^[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?$"},
}
_BITS: dict[Any, tuple[int, int]] = {
    pl.Int8: (-(2**7), 2**7 - 1), pl.Int16: (-(2**15), 2**15 - 1), pl.Int32: (-(2**31), 2**31 - 1), pl.Int64: (-(2**63), 2**63 - 1),
    pl.UInt8: (0, 2**8 - 1), pl.UInt16: (0, 2**16 - 1), pl.UInt32: (0, 2**32 - 1), pl.UInt64: (0, 2**64 - 1),
}  # fmt: skip
_BOUNDS = {"ge": "minimum", "le": "maximum", "gt": "minimum", "lt": "maximum"}
_EXCLUSIVE = {"gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}


def of_dtype(dtype: pl.DataType) -> Schema:
    """Return the schema of a dtype's values in JSON.

    Example:
        >>> of_dtype(pl.List(pl.Date))["items"]
        {'type': 'string', 'format': 'date', 'nullable': True}
    """
    if isinstance(dtype, (pl.List, pl.Array)):
        schema = _array(nullable(of_dtype(inner_dtype(dtype))))
        return schema | ({"minItems": dtype.size, "maxItems": dtype.size} if isinstance(dtype, pl.Array) else {})
    if dtype.base_type() in _BITS:
        least, most = _BITS[dtype.base_type()]
        return {"type": "integer", "minimum": least, "maximum": most, "example": 1}
    return dict(_SIMPLE[dtype.base_type()])


def of_feature(feature: FeatureSpec) -> Schema:
    """Return the schema of a feature's values, with what is said of it."""
    parts = [feature.description, f"in {feature.unit}" if feature.unit else "", str(feature.window) if feature.window else ""]
    words = "; ".join(part for part in parts if part)
    return nullable(of_dtype(feature.dtype)) | ({"description": words} if words else {})


def of_field(field: RequestField) -> Schema:
    """Return the schema of a request's field, with its constraints."""
    schema = of_dtype(field.dtype)
    if field.constraints:
        schema.pop("example", None)
    numeric = (field.dtype.is_numeric() and "type" in schema) or field.dtype.is_float()
    for name, bound in field.constraints.items():
        if name in _BOUNDS and numeric and not isinstance(field.dtype, pl.Decimal):
            target = schema["anyOf"][0] if "anyOf" in schema else schema
            target = dict(target)
            target[_BOUNDS[name]] = bound
            if name in _EXCLUSIVE:
                target[_EXCLUSIVE[name]] = True
            # A bounded number is never NaN, and is not told to be infinite.
            schema = target
        elif name in ("min_length", "max_length"):
            schema[{"min_length": "min", "max_length": "max"}[name] + ("Items" if schema["type"] == "array" else "Length")] = bound
        elif name == "pattern":
            schema["pattern"] = bound
        elif name == "one_of":
            schema["enum"] = list(bound)
    if field.description:
        schema["description"] = field.description
    if not field.required:
        schema["default"] = field.default
    return nullable(schema) if field.nullable else schema


def of_rows(selection: Selection, most: int) -> tuple[Schema, Schema]:
    """Return the schemas of a row that a look-up brings, and of the same rows as columns, no more than ``most`` of them."""
    properties: dict[str, Schema] = {}
    for join in selection.joins:
        for column, (key, dtype) in zip(join.on, join.keys.items(), strict=True):
            said = f"The join key {key!r} of {join.label!r}; null for an entity that nobody knows."
            properties.setdefault(column, nullable(of_dtype(dtype)) | {"description": said})
    required = list(properties)
    for request_column in selection.computation.fields:
        properties.setdefault(request_column.field.name, of_field(request_column.field))
        if request_column.field.required and request_column.field.name not in required:
            required.append(request_column.field.name)
    taken: Schema = {"not": {"anyOf": [{"required": [name]} for name in selection.names]}}
    row: Schema = {"type": "object", "properties": properties, "required": required, **taken}
    columns: Schema = {name: _array(schema) | {"maxItems": most} for name, schema in properties.items()}
    return row, {"type": "object", "properties": columns, "required": required, **taken}


def of_answer(selection: Selection, name: str) -> dict[str, Schema]:
    """Return the schemas of the answer to a look-up: the whole, which is called ``Response`` behind a name, and its parts."""
    features = {column.name: column.feature for join in selection.joins for column in join.columns}
    features |= {output.name: output.feature for output in selection.computation.outputs}
    names = list(selection.names)
    statuses = {"type": "array", "items": to("FeatureStatus")}
    times = {"type": "array", "items": {"type": "string", "format": "date-time", "nullable": True}}
    parts = {
        "features": ("Features", _object({feature: _array(of_feature(features[feature])) for feature in names})),
        "status": ("Statuses", _object(dict.fromkeys(names, statuses))),
        "event_time": ("EventTimes", _object(dict.fromkeys([join.label for join in selection.joins], times))),
        "types": ("Types", _object(dict.fromkeys(names, _TEXT))),
    }
    whole = {
        "type": "object",
        "required": ["features"],
        "additionalProperties": False,
        "properties": {part: to(f"{name}{suffix}") for part, (suffix, _) in parts.items()},
    }
    return {f"{name}Response": whole} | {f"{name}{suffix}": schema for suffix, schema in parts.values()}


def _array(items: Schema) -> Schema:
    # NOTE: of alternatives Swagger UI would show one of each.
    return {"type": "array", "items": items} | ({"example": [items["example"]]} if "anyOf" in items else {})


def _object(properties: dict[str, Schema], required: Sequence[str] | None = None) -> Schema:
    names = list(properties) if required is None else list(required)
    schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return schema | ({"required": names} if names else {})
