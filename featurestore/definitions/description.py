"""Descriptions of features as plain values, for JSON and tables."""

from typing import Any

from featurestore.clock import format_duration
from featurestore.definitions.feature import FeatureSpec
from featurestore.definitions.request import RequestField
from featurestore.dtypes import dtype_name


def feature(spec: FeatureSpec) -> dict[str, Any]:
    """Return what is known of a feature, or of a request's field."""
    description: dict[str, Any] = {
        "name": spec.name,
        "type": spec.type_name,
        "dtype": dtype_name(spec.dtype),
        "nullable": spec.nullable,
        "description": spec.description,
        "unit": spec.unit,
        "owner": spec.owner,
        "tags": spec.tags,
        "constraints": spec.constraints,
        "pii": spec.pii,
    }
    if spec.window is not None:
        window = spec.window
        description["window"] = {
            "aggregate": str(window.aggregate),
            "of": window.input,
            "size": format_duration(window.size),
            "tile": format_duration(window.tile),
        }
    if isinstance(spec, RequestField):
        description |= {"required": spec.required} if spec.required else {"required": False, "default": spec.default}
    return description
