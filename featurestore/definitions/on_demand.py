"""On-demand views: features computed at request time from other features and from request fields."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from featurestore.definitions.definition_errors import caller_place, member_place, report
from featurestore.definitions.definition_meta import (
    DefinitionMeta,
    Member,
    declared_members,
    refuse_instance,
    unknown_options,
    without_annotation,
)
from featurestore.definitions.entity import RESERVED_COLUMNS, check_name
from featurestore.definitions.expression import Expression, read_expression
from featurestore.definitions.feature import FeatureField, FeatureSpec, make_feature
from featurestore.definitions.feature_view import snake_case
from featurestore.definitions.reference import FeatureReference, Reference, ViewReference, parse_references
from featurestore.definitions.request import Request
from featurestore.dtypes import read_annotation
from featurestore.errors import DefinitionError, RequestError


@dataclass(frozen=True)
class OnDemandSpec:
    """An on-demand view as the registry keeps it.

    Args:
        name: the view's name.
        inputs: what its expressions may use.
        features: its features.
        expressions: what computes each of them.
        description: what it is.
        owner: who answers for it.
        tags: anything else, by name.
    """

    name: str
    inputs: tuple[Reference, ...]
    features: tuple[FeatureSpec, ...]
    expressions: tuple[Expression, ...]
    description: str = ""
    owner: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    place: str = field(default="", compare=False)

    def __hash__(self) -> int:
        return hash(self.name)

    def __str__(self) -> str:
        pairs = zip(self.features, self.expressions, strict=True)
        lines = "".join(f"\n  {feature.name}: {feature.type_name} = {expression.text}" for feature, expression in pairs)
        return f"on demand from {', '.join(map(repr, self.inputs))}{lines}"

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the features, in their order."""
        return tuple(feature.name for feature in self.features)

    def feature(self, name: str) -> FeatureSpec | None:
        """Return the feature of a name, or None."""
        return next((feature for feature in self.features if feature.name == name), None)

    def expression(self, name: str) -> Expression:
        """Return what computes the feature of a name."""
        return self.expressions[self.feature_names.index(name)]


_METHODS = frozenset({"prefix", "on"})

if TYPE_CHECKING:
    # NOTE: type checkers do not look at a class's options where its metaclass is not ``type``.
    class _View: ...
else:

    class _View(metaclass=DefinitionMeta):
        """What makes a class a definition."""


class OnDemandView(_View):
    """The base of every on-demand view. A subclass is the definition; it is never instantiated.

    Its features are computed when they are asked for, by the same expressions for one request and for every row of a
    training spine. An expression sees the columns of the inputs, by the names they have in a result, and is row-local (S20):
    what a row's value is does not depend on other rows. Nothing is stored, and only what is asked for is computed.

    A view that subclasses another inherits its inputs and features.

    Args:
        inputs: features, views, families of windowed features, other on-demand views and their features, and requests.
            ``.alias()``, ``.prefix()`` and ``.on()`` rename them and join them by other columns.
        owner: who answers for it.
        tags: anything else, by name.
        name: the view's name, where it is not to be the class's.

    Raises:
        DefinitionError: the definition is wrong; the message says where and what to do.

    Example:
        >>> import polars as pl
        >>> from featurestore import Feature, OnDemandView, Request
        >>> class Trip(Request):
        ...     distance: float
        >>> class Risk(OnDemandView, inputs=["weather.gusty", Trip]):
        ...     long_and_gusty: bool = Feature(pl.col("gusty") & (pl.col("distance") > 1000))
        >>> Risk
        Risk: on demand from weather.gusty, trip
          long_and_gusty: bool = [(col("gusty")) & ([(col("distance")) > (dyn int: 1000)])]
    """

    __spec__: ClassVar[str] = "__on_demand__"
    __on_demand__: ClassVar[OnDemandSpec]
    __requests__: ClassVar[tuple[type[Request], ...]]
    __view_name__: ClassVar[str]

    def __init_subclass__(
        cls, *, inputs: Sequence[Any] = (), owner: str = "", tags: Mapping[str, str] | None = None, name: str = ""
    ) -> None:
        super().__init_subclass__()
        cls.__options__.pop("name", None)  # type: ignore[attr-defined]  # the metaclass made it; a name is not inherited
        place = caller_place()
        faults: list[DefinitionError] = []

        def fault(problem: str) -> None:
            faults.append(DefinitionError(f"on-demand view {cls.__name__}: {problem}", place))

        for problem in unknown_options(cls):
            fault(problem)
        name = name or snake_case(cls.__name__)
        faults.extend(check_name("on-demand view", name, place))
        if name != name.lower():
            fault(f"name={name!r} has capitals, which views do not have. Write {name.lower()!r}.")
        given = inputs if isinstance(inputs, (list, tuple)) else ()
        references: tuple[Reference, ...] = ()
        if not given:
            fault("inputs= must list what the expressions use: inputs=[Weather.gusty, Trip].")
        else:
            try:
                references = parse_references(given, where="in inputs=")
            except RequestError as error:
                fault(str(error))
        members = declared_members(cls)
        features, expressions = _read_features(cls, members, place, faults)
        cls.__view_name__ = name
        cls.__requests__ = tuple(item for item in given if isinstance(item, type) and issubclass(item, Request))
        if not faults:
            cls.__on_demand__ = OnDemandSpec(
                name, references, tuple(features), tuple(expressions), inspect.cleandoc(cls.__doc__ or ""), owner, dict(tags or {}),
                place,
            )  # fmt: skip
        for feature in members:
            if feature not in _METHODS and not feature.startswith("_"):
                setattr(cls, feature, FeatureReference(name, feature, label=f"{cls.__name__}.{feature}"))
        report(faults)

    def __init__(self) -> None:
        refuse_instance(self)

    @classmethod
    def prefix(cls, prefix: str) -> ViewReference:
        """Return the view's features, each named with this before its name."""
        return ViewReference(cls.__view_name__).prefix(prefix)

    @classmethod
    def on(cls, **columns: str) -> NoReturn:
        """Refuse: an on-demand view has no join keys; its inputs are what is joined.

        Raises:
            RequestError: always.
        """
        raise RequestError(NO_KEYS.format(cls.__name__))


NO_KEYS = (
    "{} is an on-demand view, which has no join keys. Say .on(…) of its inputs: inputs=[Weather.on(origin='dest').prefix('dest_')]."
)


def _read_features(
    cls: type, members: dict[str, Member], place: str, faults: list[DefinitionError]
) -> tuple[list[FeatureSpec], list[Expression]]:
    features, expressions = [], []
    for name, (annotation, said, owner) in members.items():
        try:
            if name in RESERVED_COLUMNS or name in _METHODS or name.startswith("_"):
                raise DefinitionError("the name is the store's own; choose another.")
            if not isinstance(said, FeatureField) or said.expression is None:
                raise DefinitionError(f"it needs an expression: {name}: … = Feature(pl.col(…) > 1000).")
            expression = read_expression(said.expression)
            dtype, nullable = read_annotation(annotation)
            features.append(make_feature(name, dtype, replace(said, expression=None), nullable=nullable))
            expressions.append(expression)
        except DefinitionError as error:
            where = member_place(place, owner, name)
            faults.append(DefinitionError(f"feature {cls.__name__}.{name}: {error.problem}", where))
    for name in without_annotation(cls, members, (FeatureField,)):
        where = member_place(place, cls.__name__, name)
        problem = f"feature {cls.__name__}.{name} has no type; write {name}: float | None = Feature(…)."
        faults.append(DefinitionError(problem, where))
    if not members:
        problem = (
            f"on-demand view {cls.__name__} has no features; write some, as in `far: bool = Feature(pl.col('distance') > 1000)`."
        )
        faults.append(DefinitionError(problem, place))
    return features, expressions
