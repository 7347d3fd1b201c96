"""Selections: what a request asks for, resolved against the catalog. Training and online reads begin with the same one."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from featurestore.errors import NameClashError, NotFoundError, RequestError, did_you_mean
from featurestore.spec.catalog import AppliedView, Catalog
from featurestore.spec.feature import FeatureSpec
from featurestore.spec.reference import FeatureReference, Reference


@dataclass(frozen=True)
class Column:
    """One feature of a result, under the name it has there.

    Args:
        name: the column's name in the result.
        feature: the feature.
        said: how the request names it, for messages.
    """

    name: str
    feature: FeatureSpec
    said: str


@dataclass(frozen=True)
class Join:
    """One view joined by one set of spine columns; a request may join a view several times.

    Args:
        applied: the view.
        on: the spine's column for each join key, in the entity's order.
        columns: the features asked for.
        label: what the join is called in a result's event times: the view's name, with the prefix its features have.
    """

    applied: AppliedView
    on: tuple[str, ...]
    columns: tuple[Column, ...]
    label: str

    @property
    def keys(self) -> Mapping[str, pl.DataType]:
        """The join keys and their dtypes."""
        return self.applied.spec.entity.keys


@dataclass(frozen=True)
class Selection:
    """What a request asks for: the joins it takes, and the names of its columns in the order asked for."""

    joins: tuple[Join, ...]
    names: tuple[str, ...]

    @property
    def schema(self) -> dict[str, pl.DataType]:
        """The dtype of each column of the result, in the order asked for."""
        dtypes = {column.name: column.feature.dtype for join in self.joins for column in join.columns}
        return {name: dtypes[name] for name in self.names}

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns a spine or a request's rows must have, each once."""
        return tuple(dict.fromkeys(column for join in self.joins for column in join.on))


def select(catalog: Catalog, references: Sequence[Reference]) -> Selection:
    """Returns what references ask for.

    Args:
        catalog: what is applied.
        references: views, features and services; a name alone may be that of a service or of a view.

    Raises:
        NotFoundError: a view, feature or service is not applied.
        NameClashError: two columns would have one name (S13).
        RequestError: ``.on(…)`` names a key the entity does not have, or nothing is asked for.
    """
    grouped: dict[tuple[str, tuple[str, ...]], list[Column]] = {}
    prefixes: dict[tuple[str, tuple[str, ...]], str] = {}
    seen: dict[str, str] = {}
    for reference in _expanded(catalog, references):
        applied = _view(catalog, reference.view)
        place = (reference.view, _join_columns(applied, reference))
        prefixes.setdefault(place, reference.name_prefix)
        for column in _columns(applied, reference):
            if column.name in seen:
                raise NameClashError(column.name, seen[column.name], column.said)
            seen[column.name] = column.said
            grouped.setdefault(place, []).append(column)
    if not grouped:
        raise RequestError('No features were asked for. Name a service, a view or features: store.online("delay_model", rows).')
    labels = _labels(list(grouped), prefixes)
    joins = tuple(Join(catalog.views[view], on, tuple(columns), labels[(view, on)]) for (view, on), columns in grouped.items())
    return Selection(joins, tuple(seen))


def check_clashes(selection: Selection, given: Iterable[str], what: str) -> None:
    """Refuses features named like a column that a spine or request brings (S13).

    Raises:
        NameClashError: there is one.
    """
    said = {column.name: column.said for join in selection.joins for column in join.columns}
    for name in given:
        if name in said:
            raise NameClashError(name, f"the {what}'s column {name!r}", said[name])


def _expanded(catalog: Catalog, references: Iterable[Reference]) -> Iterable[Reference]:
    for reference in references:
        if not isinstance(reference, FeatureReference) and reference.view in catalog.services:
            yield from catalog.services[reference.view].references
        else:
            yield reference


def _view(catalog: Catalog, name: str) -> AppliedView:
    if name not in catalog.views:
        known = [*catalog.views, *catalog.services]
        raise NotFoundError("applied feature view or service", name, known, "Definitions take effect once they are applied.")
    return catalog.views[name]


def _columns(applied: AppliedView, reference: Reference) -> Iterable[Column]:
    view = applied.spec
    if isinstance(reference, FeatureReference):
        feature = view.feature(reference.feature)
        if feature is None:
            raise NotFoundError(
                "feature", f"{view.name}.{reference.feature}", [f"{view.name}.{each}" for each in view.feature_names]
            )
        yield Column(reference.column, feature, f"feature {reference!r}")
    else:
        for feature in view.features:
            yield Column(reference.name_prefix + feature.name, feature, f"feature {feature.name!r} of {reference!r}")


def _join_columns(applied: AppliedView, reference: Reference) -> tuple[str, ...]:
    entity = applied.spec.entity
    columns = dict(reference.key_columns)
    for key in columns.keys() - entity.keys.keys():
        raise RequestError(f"{reference!r}: the entity {entity.name!r} has no join key {key!r}. {did_you_mean(key, entity.keys)}")
    return tuple(columns.get(key, key) for key in entity.keys)


def _labels(
    places: Sequence[tuple[str, tuple[str, ...]]], prefixes: Mapping[tuple[str, tuple[str, ...]], str]
) -> dict[tuple[str, tuple[str, ...]], str]:
    labels: dict[tuple[str, tuple[str, ...]], str] = {}
    plain = [prefixes[place] + place[0] for place in places]
    for place, label in zip(places, plain, strict=True):
        name = label if plain.count(label) == 1 else f"{label}[{', '.join(place[1])}]"
        while name in labels.values():
            name += "'"
        labels[place] = name
    return labels
