"""Whether a feature service finds what it uses."""

from collections.abc import Collection, Mapping

from featurestore.errors import NameClashError, did_you_mean
from featurestore.plan.selection import check_clashes, select
from featurestore.spec.catalog import AppliedView, Catalog
from featurestore.spec.reference import FeatureReference, Reference
from featurestore.spec.service import FeatureService
from featurestore.spec.view import ViewSpec


def service_problems(service: FeatureService, views: Mapping[str, ViewSpec], *, unknown: Collection[str] | None = ()) -> list[str]:
    """Returns what is wrong with the features a service uses, a line each; none where it can be served.

    Args:
        service: the service.
        views: the views there are.
        unknown: the views of which it is not known what they are like, so that using them is no problem; None for all
            that are not among ``views``.

    Example:
        >>> service_problems(FeatureService("delay_model", ["weather.temp"]), {})
        ["service 'delay_model' uses weather.temp, but there is no view 'weather'. There are none yet."]
    """
    problems: list[str] = []
    sound: list[Reference] = []
    for reference in service.references:
        view = views.get(reference.view)
        if view is not None:
            found = _reference_problems(reference, view)
        elif unknown is None or reference.view in unknown:
            continue
        else:
            found = [f"there is no view {reference.view!r}. {did_you_mean(reference.view, views)}"]
        problems += [f"service {service.name!r} uses {reference!r}, but {problem}" for problem in found]
        if not found:
            sound.append(reference)
    if sound:
        try:
            selection = select(Catalog(views={name: AppliedView(view, 0, 0) for name, view in views.items()}), sound)
            check_clashes(selection, selection.needed, "spine")
        except NameClashError as error:
            problems.append(f"service {service.name!r}: {error}")
    return problems


def _reference_problems(reference: Reference, view: ViewSpec) -> list[str]:
    problems = []
    if isinstance(reference, FeatureReference) and view.feature(reference.feature) is None:
        problems.append(
            f"view {view.name!r} has no feature {reference.feature!r}. {did_you_mean(reference.feature, view.feature_names)}"
        )
    for key, _ in reference.key_columns:
        if key not in view.entity.keys:
            problems.append(f"its entity {view.entity.name!r} has no join key {key!r}. {did_you_mean(key, view.entity.keys)}")
    return problems
