"""Definitions as JSON and back: the one codec of the registry."""

import hashlib
from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from math import isfinite
from typing import Any

import msgspec

from featurestore import plugins
from featurestore.aggregates import AGGREGATES, Aggregate
from featurestore.definitions.entity import Entity
from featurestore.definitions.expression import Expression
from featurestore.definitions.feature import ORDER_CONSTRAINTS, FeatureSpec
from featurestore.definitions.feature_view import ViewSpec, without_words
from featurestore.definitions.on_demand import OnDemandSpec
from featurestore.definitions.reference import reference_of
from featurestore.definitions.request import RequestField, RequestSpec
from featurestore.definitions.service import FeatureService
from featurestore.definitions.source import Source
from featurestore.definitions.window import InputSpec, WindowSpec
from featurestore.dtypes import dtype_from_name, dtype_name, python_type
from featurestore.errors import DefinitionError, RegistryError, UnknownAggregateError, UnknownSourceError

Spec = Entity | Source | ViewSpec | RequestSpec | OnDemandSpec | FeatureService

KINDS: dict[str, type] = {
    "entity": Entity, "source": Source, "view": ViewSpec, "request": RequestSpec, "on_demand": OnDemandSpec,
    "service": FeatureService,
}  # fmt: skip
"""The kinds of spec the registry keeps, in the order in which one refers to another."""

_NOT_WRITTEN = frozenset({"place", "label", "windows", "frame", "_", "_declared"})
"""Fields that say where a definition was made, or hold rows; the registry knows nothing of them."""


def kind_of(spec: Spec) -> str:
    """Return a spec's kind, as the registry names it."""
    return next(kind for kind, cls in KINDS.items() if isinstance(spec, cls))


def to_plain(spec: Spec) -> dict[str, Any]:
    """Return a spec as plain values: what JSON can say, defaults left out."""
    if isinstance(spec, Entity):
        # Pairs, not an object: the order of the keys is part of what they mean, and objects are written sorted.
        keys = [(key, dtype_name(dtype)) for key, dtype in spec.keys.items()]
        return {**_plain_fields(spec), "keys": keys}
    if isinstance(spec, Source):
        return _plain_source(spec)
    if isinstance(spec, FeatureService):
        return {**_plain_fields(spec), "references": [_plain_fields(member) for member in spec.references]}
    if isinstance(spec, RequestSpec):
        return {**_plain_fields(spec), "features": [_plain_feature(member) for member in spec.features]}
    if isinstance(spec, OnDemandSpec):
        parts = {"inputs": spec.inputs, "expressions": spec.expressions}
        plain = {**_plain_fields(spec), "features": [_plain_feature(member) for member in spec.features]}
        return plain | {name: [_plain_fields(member) for member in part] for name, part in parts.items()}
    plain = _plain_fields(spec)
    plain["entity"] = to_plain(spec.entity)
    plain["source"] = to_plain(spec.source)
    plain["features"] = [_plain_feature(member) for member in spec.features]
    if spec.inputs:
        plain["inputs"] = [{**_plain_fields(member), "dtype": dtype_name(member.dtype)} for member in spec.inputs]
    return plain


def from_plain(kind: str, plain: Mapping[str, Any]) -> Spec:
    """Return the spec that ``to_plain`` took apart.

    Raises:
        RegistryError: the values are not those of such a spec, as when a newer version of featurestore wrote them.
    """
    values = dict(plain)
    try:
        if kind == "entity":
            keys: dict[str, Any] = {key: dtype_from_name(name) for key, name in values.pop("keys")}
            return Entity(values.pop("name"), keys=keys, **values)
        if kind == "source":
            return _source(values)
        if kind == "service":
            references = tuple(reference_of(member) for member in values.pop("references"))
            return FeatureService(values.pop("name"), references, **values)
        if kind == "request":
            return RequestSpec(**{**values, "features": tuple(_request_field(member) for member in values["features"])})
        if kind == "on_demand":
            parts = {"inputs": reference_of, "features": _feature, "expressions": _expression}
            return OnDemandSpec(**{**values, **{name: tuple(map(read, values[name])) for name, read in parts.items()}})
        values["entity"] = from_plain("entity", values["entity"])
        values["source"] = from_plain("source", values["source"])
        values["features"] = tuple(_feature(member) for member in values["features"])
        inputs = values.pop("inputs", ())
        values["inputs"] = tuple(InputSpec(**{**member, "dtype": dtype_from_name(member["dtype"])}) for member in inputs)
        return ViewSpec(**values)
    except (KeyError, TypeError) as error:
        raise RegistryError(
            f"The registry holds a {kind} that this version of featurestore cannot read ({error}). Was it written by a newer one?"
        ) from error


def to_json(spec: Spec) -> str:
    """Return a spec as JSON text, the same for equal specs."""
    return msgspec.json.encode(to_plain(spec), order="sorted").decode()


def from_json(kind: str, text: str) -> Spec:
    """Return the spec that ``to_json`` wrote."""
    return from_plain(kind, msgspec.json.decode(text))


def data_digest(view: ViewSpec) -> str:
    """Return a digest of all that a view's stored values depend on: a change of it means recomputing them."""
    return hashlib.sha256(to_json(without_words(view)).encode()).hexdigest()


def stored_digests(view: ViewSpec) -> tuple[str, ...]:
    """Return the digest of a view, and those of what it may have been before nullable features were added to it.

    Rows that it had then need only lack them, so they are the same rows still.
    """
    digests = [data_digest(view)]
    count = len(view.features)
    while not view.windows and count > 1 and view.features[count - 1].nullable:
        count -= 1
        digests.append(data_digest(replace(view, features=view.features[:count])))
    return tuple(digests)


def _plain_fields(value: Any) -> dict[str, Any]:
    """Return the fields of a definition that differ from their defaults, but for those that stay in the process."""
    plain = {}
    for field in fields(value):
        if field.name not in _NOT_WRITTEN:
            given = getattr(value, field.name)
            default = field.default if field.default_factory is MISSING else field.default_factory()
            if given != default:
                plain[field.name] = given
    return plain


def _plain_feature(feature: FeatureSpec) -> dict[str, Any]:
    # JSON has no infinity: such a bound is written as text and read back by the feature's type.
    bounds = {name: str(value) for name, value in feature.constraints.items() if isinstance(value, float) and not isfinite(value)}
    plain = {**_plain_fields(feature), **bounds, "dtype": dtype_name(feature.dtype)}
    if feature.window is not None:
        kind = feature.window.aggregate
        plain["window"] = {**_plain_fields(feature.window), "aggregate": {"name": kind.name, **kind.options}}
    if isinstance(feature, RequestField) and feature.default is not None:
        infinite = isinstance(feature.default, float) and not isfinite(feature.default)
        plain["default"] = str(feature.default) if infinite else msgspec.to_builtins(feature.default)
    return plain


def _plain_source(source: Source) -> dict[str, Any]:
    _check_installed(source)
    plain = source.encode(_plain_fields(source))
    if "batch" in plain:
        plain["batch"] = _plain_source(plain["batch"])
    return {"kind": source.kind, **plain}


def _source(values: dict[str, Any]) -> Source:
    plain = dict(values)
    kind = plain.pop("kind")
    if plugins.find(plugins.SOURCES, kind) is None:
        raise UnknownSourceError(kind, plugins.names(plugins.SOURCES))
    cls: type[Source] = plugins.load(plugins.SOURCES, kind, Source)
    if "batch" in plain:
        plain["batch"] = _source(plain["batch"])
    return cls(**cls.decode(plain), place="registry")


def _check_installed(source: Source) -> None:
    """Refuse a source that another process could not read from the registry."""
    cls, there = type(source), plugins.find(plugins.SOURCES, source.kind)
    # A module that was imported again, as in a notebook, has other classes of the same names.
    declared = None if there is None else plugins.load(plugins.SOURCES, source.kind, Source)
    if declared is None or (declared.__module__, declared.__qualname__) != (cls.__module__, cls.__qualname__):
        finding = "no installed package declares that kind" if there is None else f"that kind is {there}"
        raise DefinitionError(
            f"source {source.name!r} is a {cls.__module__}.{cls.__qualname__} of the kind {source.kind!r}, but {finding}: other "
            f"processes could not read it from the registry. Declare the class as the entry point {source.kind!r} in the group "
            f"{plugins.SOURCES.name} of an installed package.",
            source.place,
        )


def _expression(values: dict[str, Any]) -> Expression:
    return Expression(**{**values, "columns": tuple(values["columns"])})


def _request_field(values: dict[str, Any]) -> RequestField:
    own = {name: values[name] for name in ("required", "default") if name in values}
    feature = _feature({name: value for name, value in values.items() if name not in own})
    if own.get("default") is not None:
        own["default"] = msgspec.convert(own["default"], python_type(feature.dtype), strict=False)
    return RequestField(**{attribute.name: getattr(feature, attribute.name) for attribute in fields(feature)}, **own)


def _feature(values: dict[str, Any]) -> FeatureSpec:
    dtype, one_of = dtype_from_name(values["dtype"]), values.get("one_of")
    infinite = [name for name in ORDER_CONSTRAINTS if dtype.is_float() and isinstance(values.get(name), str)]
    bounds = {name: float(values[name]) for name in infinite}
    window = values.get("window")
    parsed = {
        "dtype": dtype,
        "one_of": None if one_of is None else tuple(one_of),
        "window": None if window is None else _window(window),
    }
    return FeatureSpec(**{**values, **bounds, **parsed})


def _window(values: dict[str, Any]) -> WindowSpec:
    options = dict(values["aggregate"])
    name = options.pop("name")
    return WindowSpec(**{**values, "aggregate": _aggregate(name)(**options)})


def _aggregate(name: str) -> type[Aggregate]:
    if name not in AGGREGATES and plugins.find(plugins.AGGREGATES, name) is not None:
        plugins.load(plugins.AGGREGATES, name, Aggregate)  # defining the class puts it into the table
    if name not in AGGREGATES:
        raise UnknownAggregateError(name)
    return AGGREGATES[name]
