"""Personal information: features marked ``pii=True``, and on-demand features computed from one."""

from collections.abc import Mapping

import polars as pl

from featurestore.definitions.catalog import Catalog
from featurestore.definitions.feature_view import ViewSpec
from featurestore.definitions.window_features import EVENT_ID, ROW_HASH
from featurestore.errors import NameClashError, NotFoundError, RequestError
from featurestore.rows.total_order import AVAILABLE, EVENT
from featurestore.rows.transform import REASON
from featurestore.selection.resolve import find_inputs

_OWN = (REASON, "_run", EVENT, AVAILABLE)


def personal_features(catalog: Catalog) -> Mapping[str, frozenset[str]]:
    """Return the names of each view's personal features, on-demand views included; a view without any is left out.

    A feature that is computed on demand is personal where its expression names a personal one, whatever the feature itself
    says: what is made of a person's data tells of the person.

    Example:
        >>> personal_features(Catalog())
        {}
    """
    known: dict[str, frozenset[str]] = {}
    for name, applied in catalog.served.items():
        known[name] = frozenset(feature.name for feature in applied.spec.features if feature.pii)
    for name in catalog.on_demand:
        _of_view(catalog, name, known)
    return {name: features for name, features in known.items() if features}


def without_unkeyed(rows: pl.DataFrame, view: ViewSpec) -> pl.DataFrame:
    """Return rejected rows as they may be kept (S19): of those without a key nothing that may be personal.

    Nobody could find such a row to erase it once its person is to be forgotten. Where a view has personal features, what is left
    of the row are its times, and the columns of features that are not personal; what other columns a source has nobody says.
    """
    personal = {feature.name for feature in view.features if feature.pii}
    if not personal:
        return rows
    personal |= {
        feature.window.input for feature in view.features if feature.pii and feature.window is not None and feature.window.input
    }
    keys = view.entity.key_names
    plain = {
        *keys,
        *view.source.time_columns,
        *_OWN,
        *({*view.feature_names, *view.stored_schema} - personal - {ROW_HASH, EVENT_ID}),
    }
    others = [name for name in rows.columns if name not in plain]
    if not all(key in rows.columns for key in keys):
        return rows.drop(others)
    unkeyed = pl.any_horizontal(pl.col(key).is_null() for key in keys)
    return rows.with_columns(pl.when(~unkeyed).then(pl.col(name)).alias(name) for name in others)


def _of_view(catalog: Catalog, name: str, known: dict[str, frozenset[str]]) -> frozenset[str]:
    if name in known:
        return known[name]
    view = catalog.on_demand[name]
    known[name] = frozenset(
        feature.name for feature in view.features if feature.pii
    )  # ends a circle, which cannot be computed anyway
    try:
        inputs = find_inputs(catalog, view)
    except (NotFoundError, NameClashError, RequestError):  # an apply was allowed to break it: nothing of it can be computed
        return known[name]
    personal = {
        column
        for column, source in inputs.items()
        if source.feature.pii or (source.kind == "on_demand" and source.feature.name in _of_view(catalog, source.owner, known))
    }
    expressions = zip(view.features, view.expressions, strict=True)
    known[name] |= {feature.name for feature, expression in expressions if not personal.isdisjoint(expression.columns)}
    return known[name]
