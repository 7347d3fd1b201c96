"""Resolving references in a catalog: the columns of views, on-demand views and requests."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from featurestore.definitions.catalog import Catalog
from featurestore.definitions.feature import FeatureSpec
from featurestore.definitions.feature_view import ViewSpec
from featurestore.definitions.on_demand import NO_KEYS, OnDemandSpec
from featurestore.definitions.reference import FeatureReference, Reference
from featurestore.definitions.request import RequestSpec
from featurestore.errors import NameClashError, NotFoundError, RequestError, did_you_mean

Kind = Literal["view", "on_demand", "request"]


@dataclass(frozen=True)
class ResolvedReference:
    """One column that a reference stands for.

    Args:
        name: the column's name.
        kind: what gives it.
        owner: the name of the view or request that gives it.
        feature: the feature, or the request's field.
        on: of a stored view, the spine's column for each join key, in the entity's order.
        prefix: what the reference puts before its names.
        said: how the reference names it, for messages.
    """

    name: str
    kind: Kind
    owner: str
    feature: FeatureSpec
    on: tuple[str, ...]
    prefix: str
    said: str


def find_columns(catalog: Catalog, reference: Reference) -> list[ResolvedReference]:
    """Return the columns that a reference stands for, in their order.

    A family of windowed features (``CarrierDelays.mean_delay``) stands for all of its features.

    Raises:
        NotFoundError: nothing applied has the name.
        RequestError: ``.on(…)`` names a key the entity does not have or something without keys, or ``.alias(…)`` a family.
    """
    spec = catalog.readable.get(reference.view)
    if spec is None:
        known = [*catalog.readable, *catalog.services]
        raise NotFoundError(
            "applied feature view or service", reference.view, known, "Definitions take effect once they are applied."
        )
    on = _join_columns(spec, reference)
    kind: Kind = "view" if isinstance(spec, ViewSpec) else "request" if isinstance(spec, RequestSpec) else "on_demand"
    return [
        ResolvedReference(name, kind, spec.name, feature, on, reference.name_prefix, said)
        for name, feature, said in _named(spec, reference, catalog)
    ]


def find_inputs(catalog: Catalog, view: OnDemandSpec) -> dict[str, ResolvedReference]:
    """Return the columns that an on-demand view's expressions may use, by their names there.

    Raises:
        NotFoundError, RequestError: as ``find_columns``.
        NameClashError: two of them have one name (S13).
    """
    inputs: dict[str, ResolvedReference] = {}
    for reference in view.inputs:
        for column in find_columns(catalog, reference):
            if column.name in inputs:
                raise NameClashError(column.name, inputs[column.name].said, column.said)
            inputs[column.name] = column
    return inputs


def family_of(spec: ViewSpec | OnDemandSpec | RequestSpec, name: str) -> list[FeatureSpec]:
    """Return the features that a name stands for: the one of that name, or those of the family; none if there are none."""
    feature = spec.feature(name)
    return [feature] if feature is not None else [member for member in spec.features if member.family == name]


def _named(
    spec: ViewSpec | OnDemandSpec | RequestSpec, reference: Reference, catalog: Catalog
) -> Iterator[tuple[str, FeatureSpec, str]]:
    if not isinstance(reference, FeatureReference):
        for feature in spec.features:
            yield reference.name_prefix + feature.name, feature, f"feature {feature.name!r} of {reference!r}"
        return
    features = family_of(spec, reference.feature)
    if not features:
        known = dict.fromkeys([*spec.feature_names, *(member.family for member in spec.features if member.family)])
        names = [f"{spec.name}.{member}" for member in known]
        raise NotFoundError("feature", f"{spec.name}.{reference.feature}", names, _coming(reference, catalog))
    if len(features) == 1:
        column = reference.name_prefix + (reference.new_name or features[0].name)
        yield column, features[0], f"feature {reference!r}"
        return
    if reference.new_name:
        raise RequestError(family_alias(reference, features))
    for feature in features:
        yield reference.name_prefix + feature.name, feature, f"feature {feature.name!r} of {reference!r}"


def _coming(reference: FeatureReference, catalog: Catalog) -> str:
    """Return what to do where a feature is not served, though it is applied; empty where it is neither."""
    name = reference.view
    if name not in catalog.previous_versions or not family_of(catalog.views[name].spec, reference.feature):
        return ""
    applied, served = catalog.views[name].version, catalog.previous_versions[name].version
    reason = f"It is in version {applied} of {name!r}, which is applied, but version {served} is served"
    if name in catalog.pinned:
        return f"{reason}, by a rollback. Take that back: featurestore rollback {name} --undo"
    return f"{reason} until the new one is materialized. Run featurestore materialize {name}"


def family_alias(reference: FeatureReference, features: list[FeatureSpec]) -> str:
    """Return what to say of one alias for several features."""
    names = ", ".join(feature.name for feature in features)
    return f"{reference!r} gives one name to several features ({names}). Name one of them, or put .prefix(…) before all."


def _join_columns(spec: ViewSpec | OnDemandSpec | RequestSpec, reference: Reference) -> tuple[str, ...]:
    columns = dict(reference.key_columns)
    if not isinstance(spec, ViewSpec):
        if columns:
            raise RequestError(f"{reference!r}: " + NO_KEYS.format(repr(spec.name)))
        return ()
    entity = spec.entity
    for key in columns.keys() - entity.keys.keys():
        raise RequestError(f"{reference!r}: the entity {entity.name!r} has no join key {key!r}. {did_you_mean(key, entity.keys)}")
    return tuple(columns.get(key, key) for key in entity.keys)
