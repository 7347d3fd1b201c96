"""Selecting features: resolves the features of a call against the catalog, for training and online reads alike."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from itertools import chain

import polars as pl

from featurestore.access.pii import personal_features
from featurestore.definitions.catalog import AppliedView, Catalog
from featurestore.definitions.feature import FeatureSpec
from featurestore.definitions.reference import FeatureReference, Reference
from featurestore.definitions.request import RequestField
from featurestore.errors import NameClashError, NotFoundError, RequestError
from featurestore.on_demand.evaluate import OnDemandPlan, OnDemandStep, OutputColumn
from featurestore.selection.request_fields import RequestColumn
from featurestore.selection.resolve import ResolvedReference, find_columns, find_inputs


@dataclass(frozen=True)
class Column:
    """One feature of a result, or one that something in it is computed from, under the name it has there.

    Args:
        name: the column's name.
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
        columns: the features asked for, and those that others are computed from.
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
    """What a request asks for: the joins it takes, what is computed of them, and its columns in the order asked for.

    Args:
        joins: the joins. They give columns beside those asked for where something is computed from them.
        names: the names of the columns asked for.
        computation: what is computed of the joins' columns and of what the caller brings.
        said: how the request names each column asked for, for messages.
    """

    joins: tuple[Join, ...]
    names: tuple[str, ...]
    computation: OnDemandPlan = field(default_factory=OnDemandPlan)
    said: Mapping[str, str] = field(default_factory=dict)

    @property
    def schema(self) -> dict[str, pl.DataType]:
        """The dtype of each column of the result, in the order asked for."""
        dtypes = {column.name: column.feature.dtype for join in self.joins for column in join.columns}
        dtypes |= {output.name: output.feature.dtype for output in self.computation.outputs}
        return {name: dtypes[name] for name in self.names}

    @property
    def is_personal(self) -> bool:
        """Whether personal information is among what is read, for what is computed of it too."""
        read: list[Column | OutputColumn] = [*chain.from_iterable(join.columns for join in self.joins), *self.computation.outputs]
        return any(column.feature.pii for column in read)

    @property
    def needed(self) -> tuple[str, ...]:
        """The join keys' columns that a spine or a request's rows must have, each once."""
        return tuple(dict.fromkeys(column for join in self.joins for column in join.on))

    @property
    def brought(self) -> tuple[str, ...]:
        """All columns that a spine or a request's rows bring: the join keys', then the fields of requests, each once."""
        return tuple(dict.fromkeys([*self.needed, *(field.field.name for field in self.computation.fields)]))


def select(catalog: Catalog, references: Sequence[Reference]) -> Selection:
    """Return what references ask for.

    Args:
        catalog: what is applied.
        references: views, features, families and services; a name alone may be that of a service or of a view.

    Raises:
        NotFoundError: a view, feature or service is not applied.
        NameClashError: two columns would have one name (S13).
        RequestError: ``.on(…)`` names a key the entity does not have, a request is asked for, or nothing is.
    """
    asked: dict[str, ResolvedReference] = {}
    # What is asked for twice in the same words, by itself and in a service say, is one and no clash.
    for reference in dict.fromkeys(_expanded(catalog, references)):
        for column in find_columns(catalog, reference):
            if column.kind == "request":
                raise RequestError(
                    f"{reference!r} is a request, which the rows bring and nobody can ask for. Ask for what is computed from it."
                )
            if column.name in asked:
                raise NameClashError(column.name, asked[column.name].said, column.said)
            asked[column.name] = column
    if not asked:
        raise RequestError('No features were asked for. Name a service, a view or features: store.online("delay_model", rows).')
    needs = _Needs(catalog)
    for name, column in asked.items():
        needs.ask(name, column)
    needs.begin_inputs()
    for column in asked.values():
        needs.add_inputs(column)
    joins = needs.joins()
    return Selection(joins, tuple(asked), needs.computation(), {name: column.said for name, column in asked.items()})


def check_clashes(selection: Selection, given: Iterable[str], what: str) -> None:
    """Refuse features named like a column that a spine or request brings (S13).

    Raises:
        NameClashError: there is one.
    """
    for name in given:
        if name in selection.said:
            raise NameClashError(name, f"the {what}'s column {name!r}", selection.said[name])


def _expanded(catalog: Catalog, references: Iterable[Reference]) -> Iterable[Reference]:
    for reference in references:
        if not isinstance(reference, FeatureReference) and reference.view in catalog.services:
            yield from catalog.services[reference.view].references
        else:
            yield reference


_Place = tuple[str, tuple[str, ...]]
"""A view or request, and the columns by which it is joined."""


class _Needs:
    """Gather what is fetched and what is computed for the columns asked for."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._fetched: dict[_Place, list[Column]] = {}
        self._prefixes: dict[_Place, str] = {}
        self._seen: list[_Place] = []
        self._fields: dict[str, tuple[RequestField, str, list[str]]] = {}
        self._outputs: dict[str, list[OutputColumn]] = {}
        self._inputs: dict[str, dict[str, ResolvedReference]] = {}
        self._names: dict[tuple[_Place, str], str] = {}
        self._visited: set[tuple[str, str]] = set()

    def ask(self, name: str, column: ResolvedReference) -> None:
        """Take in a column under a name; several may show one feature."""
        place = (column.owner, column.on)
        self._names.setdefault((place, column.feature.name), name)
        if column.kind == "view":
            self._prefixes.setdefault(place, column.prefix)
            self._fetched.setdefault(place, []).append(Column(name, column.feature, column.said))
        elif column.kind == "on_demand":
            expression = self._catalog.on_demand[column.owner].expression(column.feature.name)
            self._outputs.setdefault(column.owner, []).append(OutputColumn(name, column.feature, expression))
        elif isinstance(column.feature, RequestField):
            self._fields[name] = (column.feature, column.owner, [])

    def begin_inputs(self) -> None:
        """Note that what follows was not asked for, but is needed by what was."""
        self._seen = list(self._fetched)

    def add_inputs(self, asked: ResolvedReference) -> None:
        """Take in what a column is computed from, and what that is computed from, under names that nobody sees."""
        name = asked.feature.name
        if asked.kind != "on_demand" or (asked.owner, name) in self._visited:
            return
        self._visited.add((asked.owner, name))
        spec = self._catalog.on_demand[asked.owner]
        if asked.owner not in self._inputs:
            try:
                self._inputs[asked.owner] = find_inputs(self._catalog, spec)
            except (NotFoundError, NameClashError) as error:  # an apply that was allowed to break it
                raise RequestError(f"{asked.owner}.{name} cannot be computed. {error}") from error
        for column in spec.expression(name).columns:
            given = self._inputs[asked.owner].get(column)
            if given is None:
                raise RequestError(
                    f"{asked.owner}.{name} is computed from {column!r}, which is not one of its inputs. Apply it again."
                )
            key = ((given.owner, given.on), given.feature.name)
            if key not in self._names:
                self.ask(f"featurestore {given.owner}.{given.feature.name} {given.on}", given)
            if given.kind == "request":
                self._fields[self._names[key]][2].append(f"{asked.owner}.{name}")
            self.add_inputs(given)

    def joins(self) -> tuple[Join, ...]:
        # What is computed beside them does not change what the joins asked for are called.
        labels = _labels(self._seen, self._prefixes, {})
        labels |= _labels([place for place in self._fetched if place not in labels], self._prefixes, labels)
        views = self._catalog.served
        return tuple(Join(views[place[0]], place[1], tuple(columns), labels[place]) for place, columns in self._fetched.items())

    def computation(self) -> OnDemandPlan:
        fields = tuple(RequestColumn(name, *parts[:2], tuple(parts[2])) for name, parts in self._fields.items())
        return OnDemandPlan(fields, tuple(self._step(view) for view in self._in_order()))

    def _in_order(self) -> list[str]:
        """Return the on-demand views that are computed, each after those it needs."""
        graph = {
            view: [source.owner for source in self._used(view).values() if source.kind == "on_demand"] for view in self._outputs
        }
        try:
            return list(TopologicalSorter(graph).static_order())
        except CycleError as error:
            raise RequestError(f"On-demand views need one another in a circle: {' → '.join(reversed(error.args[1]))}.") from error

    def _used(self, view: str) -> dict[str, ResolvedReference]:
        """Return the inputs that what is asked of an on-demand view needs, by their names in the expressions."""
        columns = dict.fromkeys(column for output in self._outputs[view] for column in output.expression.columns)
        return {column: self._inputs[view][column] for column in columns}

    def _step(self, view: str) -> OnDemandStep:
        inputs = tuple(
            (column, self._names[(source.owner, source.on), source.feature.name], source.feature.dtype)
            for column, source in self._used(view).items()
        )
        personal = personal_features(self._catalog)
        are_personal = [source.feature.name in personal.get(source.owner, ()) for source in self._used(view).values()]
        return OnDemandStep(view, inputs, tuple(self._outputs[view]), any(are_personal) or view in personal)


def _labels(places: Sequence[_Place], prefixes: Mapping[_Place, str], taken: Mapping[_Place, str]) -> dict[_Place, str]:
    labels: dict[_Place, str] = {}
    plain = [prefixes[place] + place[0] for place in places]
    for place, label in zip(places, plain, strict=True):
        alone = plain.count(label) == 1 and label not in taken.values()
        name = label if alone else f"{label}[{', '.join(place[1])}]"
        while name in (*labels.values(), *taken.values()):
            name += "'"
        labels[place] = name
    return labels
