"""Details of a changed definition, as lines of text."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from featurestore.clock import format_duration
from featurestore.definitions.entity import Entity
from featurestore.definitions.feature import FeatureSpec
from featurestore.definitions.feature_view import ViewSpec
from featurestore.definitions.on_demand import OnDemandSpec
from featurestore.definitions.reference import FeatureReference, Reference
from featurestore.definitions.request import RequestField, RequestSpec
from featurestore.definitions.serialization import Spec, to_plain
from featurestore.definitions.service import FeatureService
from featurestore.definitions.source import Source


def details(old: Spec, new: Spec) -> tuple[str, ...]:
    """Return what changed from one definition to another of the same kind and name, a line each.

    Example:
        >>> details(Entity("airport", origin=str), Entity("airport", origin=str, terminal=int))
        ('join key terminal: Int64 added',)
    """
    lines: list[str] = []
    if isinstance(old, Entity) and isinstance(new, Entity):
        lines += _entity(old, new)
    elif isinstance(old, Source) and isinstance(new, Source):
        lines += _source(old, new)
    elif isinstance(old, ViewSpec) and isinstance(new, ViewSpec):
        lines += _view(old, new)
    elif isinstance(old, RequestSpec) and isinstance(new, RequestSpec):
        lines += _request(old, new)
    elif isinstance(old, OnDemandSpec) and isinstance(new, OnDemandSpec):
        lines += _on_demand(old, new)
    elif isinstance(old, FeatureService) and isinstance(new, FeatureService):
        lines += _references(old.references, new.references, "feature")
        lines += _value("log", old.log, new.log)
    return (*lines, *_words(old, new))


def _entity(old: Entity, new: Entity) -> Iterator[str]:
    yield from _columns(
        "join key", {key: str(dtype) for key, dtype in old.keys.items()}, {key: str(dtype) for key, dtype in new.keys.items()}
    )


def _source(old: Source, new: Source) -> Iterator[str]:
    before, after = to_plain(old), to_plain(new)
    for name in dict.fromkeys([*after, *before]):
        if name not in ("name", "description", "owner"):
            yield from _value(name, before.get(name), after.get(name))


def _view(old: ViewSpec, new: ViewSpec) -> Iterator[str]:
    yield from _part("entity", old.entity, new.entity)
    yield from _part("source", old.source, new.source)
    for name in ("ttl", "freshness"):
        micros = (getattr(view, name) for view in (old, new))
        yield from _value(
            name, *(None if micros_or_input is None else format_duration(micros_or_input) for micros_or_input in micros)
        )
    yield from _value("schedule", old.schedule, new.schedule)
    yield from _value("on_reject", old.on_reject, new.on_reject)
    types = [{feature.name: feature.type_name for feature in view.features} for view in (old, new)]
    yield from _columns("feature", *types)
    for feature in new.features:
        before = old.feature(feature.name)
        if before is not None:
            yield from (f"feature {feature.name}: {line}" for line in _feature(before, feature))
    known = {micros_or_input.name: micros_or_input for micros_or_input in old.inputs}
    for micros_or_input in new.inputs:
        if micros_or_input.name in known and known[micros_or_input.name].digest != micros_or_input.digest:
            yield f"input {micros_or_input.name}: {known[micros_or_input.name].expression} → {micros_or_input.expression}"
    if old.transform_digest != new.transform_digest:
        yield f"transform {'added' if not old.transform_digest else 'changed' if new.transform_digest else 'removed'}"
    elif old.transform != new.transform:
        yield "transform: comments or layout changed"


def _part(kind: str, old: Entity | Source, new: Entity | Source) -> Iterator[str]:
    """Return what became of a view's entity or source."""
    if old.name != new.name:
        yield f"{kind}: {old.name} → {new.name}"
    else:
        yield from (f"{kind} {new.name}: {line}" for line in details(old, new))


def _feature(old: FeatureSpec, new: FeatureSpec) -> Iterator[str]:
    before, after = old.constraints, new.constraints
    for name in dict.fromkeys([*before, *after]):
        yield from _value(name, before.get(name), after.get(name))
    yield from _value("window", old.window and str(old.window), new.window and str(new.window))
    yield from _value("unit", old.unit, new.unit)
    yield from _value("pii", *("yes" if feature.pii else "no" for feature in (old, new)))
    yield from _words(old, new)


def _request(old: RequestSpec, new: RequestSpec) -> Iterator[str]:
    yield from _columns("field", *({field.name: field.type_name for field in spec.features} for spec in (old, new)))
    for after in new.features:
        before = old.feature(after.name)
        if before is not None:
            yield from (f"field {after.name}: {line}" for line in _feature(before, after))
            if (before.required, before.default) != (after.required, after.default):
                yield f"field {after.name}: default: {_default(before)} → {_default(after)}"


def _default(field: RequestField) -> str:
    return "none" if field.required else repr(field.default)


def _on_demand(old: OnDemandSpec, new: OnDemandSpec) -> Iterator[str]:
    yield from _references(old.inputs, new.inputs, "input")
    yield from _columns("feature", *({output.name: output.type_name for output in spec.features} for spec in (old, new)))
    for feature in new.features:
        before = old.feature(feature.name)
        if before is not None:
            yield from (f"feature {feature.name}: {line}" for line in _feature(before, feature))
            was, now = old.expression(feature.name), new.expression(feature.name)
            if was.text != now.text:
                yield f"feature {feature.name}: expression: {was.text} → {now.text}"
            elif was != now:
                yield f"feature {feature.name}: expression changed in what its text does not show, or as another Polars writes it"


def _references(old: tuple[Reference, ...], new: tuple[Reference, ...], what: str) -> Iterator[str]:
    before, after = _used(old), _used(new)
    yield from (f"{said} added" for said in after if said not in before)
    yield from (f"{said} removed" for said in before if said not in after)
    if before != after and sorted(before) == sorted(after):
        yield f"{what}s in another order"


def _used(references: tuple[Reference, ...]) -> list[str]:
    return [
        repr(replace(reference, label="") if isinstance(reference, FeatureReference) else reference) for reference in references
    ]


def _columns(what: str, old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    """Return which columns came, went or changed their type."""
    for name, type_name in new.items():
        if name not in old:
            yield f"{what} {name}: {type_name} added"
        elif old[name] != type_name:
            yield f"{what} {name}: {old[name]} → {type_name}"
    yield from (f"{what} {name} removed" for name in old if name not in new)
    if list(old) != list(new) and sorted(old) == sorted(new):
        yield f"{what}s in another order: {', '.join(new)}"


def _words(old: Any, new: Any) -> Iterator[str]:
    """Return of what all definitions may say beside what they mean."""
    if old.description != new.description:
        yield f"description {'added' if not old.description else 'changed' if new.description else 'removed'}"
    yield from _value("owner", old.owner, new.owner)
    before, after = getattr(old, "tags", {}), getattr(new, "tags", {})
    for tag in dict.fromkeys([*before, *after]):
        yield from _value(f"tag {tag}", before.get(tag), after.get(tag))


def _value(name: str, old: Any, new: Any) -> Iterator[str]:
    if old != new:
        yield f"{name}: {_said(old)} → {_said(new)}"


def _said(value: Any) -> str:
    if value is None or value == "":
        return "none"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {item}" for name, item in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(str(item) for item in value) + "]"
    return str(value)
