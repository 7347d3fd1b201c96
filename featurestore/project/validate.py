"""Validation of feature services and on-demand views: everything that they refer to must exist."""

from collections.abc import Collection, Iterator, Mapping

from featurestore.definitions.catalog import AppliedView, Catalog
from featurestore.definitions.feature_view import ViewSpec
from featurestore.definitions.on_demand import NO_KEYS, OnDemandSpec
from featurestore.definitions.reference import FeatureReference, Reference
from featurestore.definitions.request import RequestSpec
from featurestore.definitions.service import FeatureService
from featurestore.errors import NameClashError, NotFoundError, RegistryError, RequestError, did_you_mean
from featurestore.project.expression_check import on_demand_faults
from featurestore.selection.resolve import family_alias, family_of, find_inputs
from featurestore.selection.select import check_clashes, select

Referable = ViewSpec | OnDemandSpec | RequestSpec
Known = Mapping[str, Referable]
"""What there is that references may name."""


def service_problems(service: FeatureService, known: Known, *, unknown: Collection[str] | None = ()) -> list[str]:
    """Return what is wrong with the features a service uses, a line each; none where it can be served.

    Args:
        service: the service.
        known: the views, on-demand views and requests there are.
        unknown: the names whose definition is not known, so that using them is not a problem; None for all
                that are not among ``known``.

    Example:
        >>> service_problems(FeatureService("delay_model", ["weather.temp"]), {})
        ["service 'delay_model' uses weather.temp, but there is no view 'weather'. There are none yet."]
    """
    user = f"service {service.name!r}"
    problems, sound = _split(user, service.references, known, unknown)
    for reference in list(sound):
        if isinstance(known[reference.view], RequestSpec):
            problems.append(
                f"{user} uses {reference!r}, but that is a request, which the rows bring. List what is computed from it."
            )
            sound.remove(reference)
    if sound:
        try:
            selection = select(_catalog(known), sound)
            check_clashes(selection, selection.brought, "spine")
        except NameClashError as error:
            problems.append(f"{user}: {error}")
        except (NotFoundError, RequestError):
            pass  # an on-demand view does not find what it uses, which is told of that view
    return problems


def on_demand_problems(view: OnDemandSpec, known: Known, *, unknown: Collection[str] | None = ()) -> list[str]:
    """Return what is wrong with what an on-demand view uses and computes, a line each; none where it can be computed.

    Args:
        view: the on-demand view.
        known: the views, on-demand views and requests there are, itself among them.
        unknown: as for a service.
    """
    user = f"on-demand view {view.name!r}"
    problems, sound = _split(user, view.inputs, known, unknown)
    circle = _circle(view, known)
    if circle:
        problems.append(f"{user} is computed from itself: {' → '.join(circle)}. Take one of these out of the other's inputs.")
    if len(sound) < len(view.inputs):
        return problems
    try:
        inputs = find_inputs(_catalog(known), view)
        problems += on_demand_faults(view, inputs)
    except (NameClashError, RegistryError) as error:
        problems.append(f"{user}: {error}")
    return problems


def _split(
    user: str, references: tuple[Reference, ...], known: Known, unknown: Collection[str] | None
) -> tuple[list[str], list[Reference]]:
    """Return what is wrong with references, and those that are right."""
    problems: list[str] = []
    sound: list[Reference] = []
    for reference in references:
        spec = known.get(reference.view)
        if spec is not None:
            faults = list(_reference_problems(reference, spec))
        elif unknown is None or reference.view in unknown:
            continue
        else:
            faults = [f"there is no view {reference.view!r}. {did_you_mean(reference.view, known)}"]
        problems += [f"{user} uses {reference!r}, but {problem}" for problem in faults]
        if not faults:
            sound.append(reference)
    return problems, sound


def _reference_problems(reference: Reference, spec: Referable) -> Iterator[str]:
    if isinstance(reference, FeatureReference):
        features = family_of(spec, reference.feature)
        if not features:
            what = "request" if isinstance(spec, RequestSpec) else "view"
            known = dict.fromkeys([*spec.feature_names, *(feature.family for feature in spec.features if feature.family)])
            yield f"{what} {spec.name!r} has no feature {reference.feature!r}. {did_you_mean(reference.feature, known)}"
        elif len(features) > 1 and reference.new_name:
            yield f"that cannot be: {family_alias(reference, features)}"
    if isinstance(spec, ViewSpec):
        for key, _ in reference.key_columns:
            if key not in spec.entity.keys:
                yield f"its entity {spec.entity.name!r} has no join key {key!r}. {did_you_mean(key, spec.entity.keys)}"
    elif reference.key_columns:
        yield NO_KEYS.format(repr(spec.name))


def _catalog(known: Known) -> Catalog:
    return Catalog(
        views={name: AppliedView(spec, 0, 0) for name, spec in known.items() if isinstance(spec, ViewSpec)},
        requests={name: spec for name, spec in known.items() if isinstance(spec, RequestSpec)},
        on_demand={name: spec for name, spec in known.items() if isinstance(spec, OnDemandSpec)},
    )


def _circle(view: OnDemandSpec, known: Known) -> list[str]:
    """Return the way from an on-demand view back to itself; empty where there is none."""
    ways = [[view.name]]
    seen: set[str] = set()
    while ways:
        way = ways.pop()
        spec = known.get(way[-1])
        if isinstance(spec, OnDemandSpec):
            for name in dict.fromkeys(reference.view for reference in spec.inputs):
                if name == view.name:
                    return [*way, name]
                if name not in seen:
                    seen.add(name)
                    ways.append([*way, name])
    return []
