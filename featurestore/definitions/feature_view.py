"""Feature views: typed classes, each a table of features of one entity from one source."""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import polars as pl

from featurestore.clock import check_schedule, format_duration, parse_duration
from featurestore.definitions.definition_errors import caller_place, member_place, report
from featurestore.definitions.definition_meta import (
    DefinitionMeta,
    Member,
    declared_members,
    refuse_instance,
    unknown_options,
    without_annotation,
)
from featurestore.definitions.entity import RESERVED_COLUMNS, Entity, check_name
from featurestore.definitions.feature import FeatureField, FeatureSpec, make_feature
from featurestore.definitions.fingerprint import Transform, meaning_of, source_text
from featurestore.definitions.reference import FeatureReference, ViewReference
from featurestore.definitions.source import CSVSource, ParquetSource, Source
from featurestore.definitions.window import Aggregation, InputSpec, WindowedField, WindowSpec
from featurestore.definitions.window_features import COPY, EVENT_ID, ORDER, ROW_HASH, Inputs, WithInputs, windowed_features
from featurestore.dtypes import read_annotation
from featurestore.errors import DefinitionError

OnReject = Literal["keep", "fail"]


@dataclass(frozen=True)
class ViewSpec:
    """A feature view as the registry keeps it: what its values depend on, and the words about it.

    ``transform`` is the source text of the transform, for people to read; ``transform_digest`` is a digest of what
    it means, which comments and layout do not change. The function itself is never stored: it comes from the definitions.
    """

    name: str
    entity: Entity
    source: Source
    features: tuple[FeatureSpec, ...]
    ttl: int | None = None
    schedule: str | None = None
    on_reject: OnReject = "keep"
    transform: str = ""
    transform_digest: str = ""
    description: str = ""
    owner: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    place: str = field(default="", compare=False)
    inputs: tuple[InputSpec, ...] = ()
    freshness: int | None = None

    def __hash__(self) -> int:
        return hash(self.name)

    def __str__(self) -> str:
        ttl = f", ttl {format_duration(self.ttl)}" if self.ttl else ""
        lines = "".join(f"\n  {feature}" for feature in self.features)
        return f"{self.entity.name} from {self.source.name}{ttl}{lines}"

    @property
    def windows(self) -> tuple[WindowSpec, ...]:
        """How each feature is computed, in their order, for a windowed view; empty for a view of latest values."""
        return tuple(feature.window for feature in self.features if feature.window is not None)

    @property
    def source_as_read(self) -> Source:
        """The source with the types that the view declares for its columns, for files that hold only text.

        They are those of the join keys and, where no transform stands between, of the features.
        """
        if not isinstance(self.source, (ParquetSource, CSVSource)):
            return self.source
        features = {} if self.transform_digest or self.windows else self.schema
        # What a transform makes of a CSV column, a key too, may be of another type than the column.
        keys = {} if self.transform_digest and isinstance(self.source, CSVSource) else self.entity.keys
        old = {new: name for name, new in self.source.rename.items()}
        times = self.source.time_columns
        declared = {old.get(name, name): dtype for name, dtype in {**features, **keys}.items() if name not in times}
        return replace(self.source, _declared=declared)

    @property
    def stored(self) -> tuple[FeatureSpec, ...]:
        """The columns that the history keeps of each row: the features, or of a windowed view what they are computed from."""
        order = () if self.source.order_by is None else (FeatureSpec(ORDER, pl.Decimal(38, 9), nullable=True),)
        if not self.windows:
            return (*self.features, *order)
        inputs = tuple(FeatureSpec(column.name, column.dtype, nullable=True) for column in self.inputs)
        if self.source.event_id is not None:
            return (*inputs, *order, FeatureSpec(EVENT_ID, pl.String()))
        hashed = FeatureSpec(ROW_HASH, pl.Int64(), nullable=True)  # null in rows that were stored before there was one
        return (*inputs, *order, hashed, FeatureSpec(COPY, pl.Int64(), nullable=True))

    @property
    def stored_schema(self) -> dict[str, pl.DataType]:
        """The dtype of each stored column, by name, in their order."""
        return {column.name: column.dtype for column in self.stored}

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the features, in their order."""
        return tuple(feature.name for feature in self.features)

    def feature(self, name: str) -> FeatureSpec | None:
        """Return the feature of a name, or None."""
        return next((feature for feature in self.features if feature.name == name), None)

    @property
    def schema(self) -> dict[str, pl.DataType]:
        """The dtype of each feature, by name, in their order."""
        return {feature.name: feature.dtype for feature in self.features}


_METHODS = frozenset({"prefix", "on", "transform"})

if TYPE_CHECKING:
    # NOTE: type checkers do not look at a class's options where its metaclass is not ``type``.
    class _View: ...
else:

    class _View(metaclass=DefinitionMeta):
        """What makes a class a definition."""


class FeatureView(_View):
    """The base of every feature view. A subclass is the definition; it is never instantiated.

    The class's annotations are the features, its docstring the description, its name in snake case the view's name. A
    static method ``transform`` may turn the source's rows into the features' columns: Polars in, Polars out, row-local
    (S20). It must keep the join keys and the source's time columns.

    A view that subclasses another inherits its features, its transform and its options, but for the name; plain classes beside
    it may bring features too.

    Args:
        entity: what the features are about.
        source: where the rows come from.
        ttl: how long after its event time a row may be served (S3); None for always.
        schedule: how often it is materialized: an interval (``"15m"``) or a cron line, after which a time zone may stand.
        freshness: how old the latest event may be (``"30m"``); what is older is a broken promise, which ``status`` tells.
        on_reject: ``"keep"`` to go on without rejected rows, which are kept and counted (S19); ``"fail"`` to stop.
        owner: who answers for it.
        tags: anything else, by name.
        name: the view's name, where it is not to be the class's.

    Raises:
        DefinitionError: the definition is wrong; the message says where and what to do.

    Example:
        >>> from featurestore import Entity, FeatureView, ParquetSource
        >>> class Weather(
        ...     FeatureView,
        ...     entity=Entity("airport", origin=str),
        ...     source=ParquetSource("observations", "data/*.parquet", event_time="observed_at"),
        ...     ttl="6h",
        ... ):
        ...     temp: float | None
        >>> Weather
        Weather: airport from observations, ttl 6h
          temp: float | None
    """

    __spec__: ClassVar[str] = "__view__"
    __view__: ClassVar[ViewSpec]
    __view_name__: ClassVar[str]
    __transform__: ClassVar[Transform | None]
    __opaque__: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(
        cls,
        *,
        entity: Entity | None = None,
        source: Source | None = None,
        ttl: str | timedelta | None = None,
        schedule: str | None = None,
        freshness: str | timedelta | None = None,
        on_reject: OnReject = "keep",
        owner: str = "",
        tags: Mapping[str, str] | None = None,
        name: str = "",
    ) -> None:
        super().__init_subclass__()
        cls.__options__.pop("name", None)  # type: ignore[attr-defined]  # the metaclass made it; a name is not inherited
        place = caller_place()
        said = f"view {cls.__name__}"
        words: dict[str, Any] = {"name": name, "owner": owner, "tags": tags}
        faults = [DefinitionError(f"{said}: {problem}", place) for problem in (*_word_problems(words), *unknown_options(cls))]

        def fault(problem: str, where: str = place) -> None:
            faults.append(DefinitionError(f"{said}: {problem}", where))

        if not isinstance(entity, Entity):
            fault(f"entity= must be an Entity; it is {entity!r}.")
        if not isinstance(source, Source):
            fault(f"source= must be a source such as ParquetSource(…); it is {source!r}.")
        transform = _read_transform(cls, fault)
        inputs = Inputs(entity if isinstance(entity, Entity) else None, source if isinstance(source, Source) else None)
        members = declared_members(cls)
        features = _read_features(cls, members, inputs, place, faults)
        name = str(name or snake_case(cls.__name__))
        faults.extend(check_name("feature view", name, place))
        if name != name.lower():
            fault(f"name={name!r} has capitals, which SQL and some file systems do not tell apart. Write {name.lower()!r}.")
        lasting = _checked(parse_duration, ttl, "ttl", fault)
        windowed = any(feature.window for feature in features)
        if ttl is not None and windowed:
            fault("ttl= is for latest values; how old an event may be that a windowed feature counts is what its window says.")
        schedule = _checked(check_schedule, schedule, "schedule", fault)
        promised = _checked(parse_duration, freshness, "freshness", fault)
        if on_reject not in ("keep", "fail"):
            fault(f'on_reject={on_reject!r} is neither "keep" nor "fail".')
        if not faults:
            text = source_text(transform) if isinstance(transform, FunctionType) else ""
            digest, cls.__opaque__ = meaning_of(transform, cls) if isinstance(transform, FunctionType) else ("", ())
            if windowed:
                transform = WithInputs(transform, source, inputs)  # type: ignore[arg-type]  # checked above
            cls.__transform__ = staticmethod(transform) if transform else None
            cls.__view__ = ViewSpec(
                name, entity, source, tuple(features), lasting, schedule, on_reject, text, digest,  # type: ignore[arg-type]  # checked above
                inspect.cleandoc(cls.__doc__ or ""), owner, dict(tags or {}), place, tuple(inputs.specs), promised,
            )  # fmt: skip
        # Of a faulty view too, so that a service that names it while faults are collected is not a second fault.
        cls.__view_name__ = name
        _set_references(cls, name, members, features)
        report(faults)

    def __init__(self) -> None:
        refuse_instance(self)

    @classmethod
    def prefix(cls, prefix: str) -> ViewReference:
        """Return the view's features, each named with this before its name."""
        return ViewReference(cls.__view_name__).prefix(prefix)

    @classmethod
    def on(cls, **columns: str) -> ViewReference:
        """Return the view's features joined by other columns: ``on(join_key="column of the spine")``."""
        return ViewReference(cls.__view_name__).on(**columns)


def snake_case(name: str) -> str:
    """Return a class's name as a view's.

    Example:
        >>> snake_case("CarrierDelays"), snake_case("HTTPErrors7d")
        ('carrier_delays', 'http_errors7d')
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _word_problems(words: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the words about a view."""
    for option in ("name", "owner"):
        if not isinstance(words[option] or "", str):
            yield f"{option}={words[option]!r} is not text."
    tags = words["tags"] or {}
    if not isinstance(tags, Mapping) or not all(isinstance(text, str) for pair in tags.items() for text in pair):
        yield f'tags={tags!r} must be texts by name, {{"team": "growth"}}.'


def _checked(check: Callable[[Any], Any], value: str | timedelta | None, option: str, fault: Callable[[str], None]) -> Any:
    if value is None:
        return None
    try:
        return check(value)
    except DefinitionError as error:
        fault(f"{option}: {error.problem}")
        return None


def _set_references(cls: type, view: str, members: Iterable[str], features: Sequence[FeatureSpec]) -> None:
    """Make a view's attributes the references to its features; that of several windows names them all."""
    windows: dict[str, list[tuple[str, str]]] = {}
    for spec in features:
        if spec.window is not None:
            setattr(cls, spec.name, FeatureReference(view, spec.name, label=f"{cls.__name__}.{spec.name}"))
            windows.setdefault(spec.family, []).append((format_duration(spec.window.size), spec.name))
    for feature in members:
        if feature not in _METHODS and not feature.startswith("_"):
            known = tuple(windows.get(feature, ()))
            setattr(cls, feature, FeatureReference(view, feature, label=f"{cls.__name__}.{feature}", windows=known))


def _read_features(
    cls: type, members: dict[str, Member], inputs: Inputs, place: str, faults: list[DefinitionError]
) -> list[FeatureSpec]:
    features: list[FeatureSpec] = []
    taken = {key.lower(): key for key in (*RESERVED_COLUMNS, *(inputs.entity.keys if inputs.entity else ()))}
    for name, member in members.items():
        try:
            _check_feature_name(name, inputs.entity, taken)
            taken[name.lower()] = name
            value = FeatureField() if member.value is None else member.value
            new_features = _made_features(name, member.annotation, value, inputs)
            for feature in new_features:
                if feature.name != name and feature.name in members:
                    raise DefinitionError(
                        f"its window makes a column {feature.name!r}, and so does the attribute of that name. Rename one."
                    )
            features += new_features
        except DefinitionError as error:
            where = member_place(place, member.owner, name)
            faults.append(DefinitionError(f"feature {cls.__name__}.{name}: {error.problem}", where))
    kinds = {feature.window is not None for feature in features}
    if len(kinds) > 1:
        plain = next(feature.name for feature in features if feature.window is None)
        problem = (
            f"view {cls.__name__} mixes windowed features with latest values ({plain!r} is one). Make two views of it, "
            "or take the value in a window: last(…).over(…)."
        )
        faults.append(DefinitionError(problem, member_place(place, cls.__name__, plain)))
    for name in without_annotation(cls, members, (FeatureField, WindowedField, Aggregation)):
        where = member_place(place, cls.__name__, name)
        problem = f"feature {cls.__name__}.{name} has no type; write {name}: float | None = …"
        faults.append(DefinitionError(problem, where))
    if not members:
        problem = f"view {cls.__name__} has no features; annotate some, as in `temp: float | None`."
        faults.append(DefinitionError(problem, place))
    return features


def _check_feature_name(name: str, entity: Entity | None, taken: Mapping[str, str]) -> None:
    if name in RESERVED_COLUMNS or name in _METHODS or name.startswith("_"):
        raise DefinitionError("the name is the store's own; choose another.")
    if entity is not None and name in entity.keys:
        raise DefinitionError(f"it is a join key of {entity.name!r}; keys are there without being declared.")
    if name.lower() in taken:
        raise DefinitionError(f"it differs from {taken[name.lower()]!r} in capitals alone, which SQL and Delta do not tell apart.")


def _made_features(name: str, annotation: Any, said: Any, inputs: Inputs) -> list[FeatureSpec]:
    """Return the features that an attribute makes: one, or one for each of its windows."""
    if isinstance(said, Aggregation):
        raise DefinitionError(f'{said.aggregate} needs a window: {said.aggregate.name}(…).over("1h").')
    if not isinstance(said, (FeatureField, WindowedField)):
        raise DefinitionError(f"its value is {said!r}; say more of a feature with Feature(description=…).")
    dtype, nullable = read_annotation(annotation)
    if isinstance(said, WindowedField):
        return windowed_features(name, said, dtype, inputs, nullable=nullable)
    return [make_feature(name, dtype, said, nullable=nullable)]


def _read_transform(cls: type, fault: Callable[[str], None]) -> Transform | None:
    given = inspect.getattr_static(cls, "transform", None)
    if given is None:
        return None
    if not isinstance(given, staticmethod):
        fault("transform must be a @staticmethod: def transform(rows: pl.LazyFrame) -> pl.LazyFrame.")
        return None
    function: Transform = given.__func__
    if not isinstance(function, FunctionType):
        fault("transform must be a function written in Python.")
        return None
    if len(inspect.signature(function).parameters) != 1:
        fault("transform takes one parameter, the source's rows as a pl.LazyFrame.")
        return None
    return function


def without_words(view: ViewSpec) -> ViewSpec:
    """Return a view without what its stored values do not depend on: words, schedule, freshness, ttl (enforced at the read)."""
    features = tuple(replace(member, description="", unit="", owner="", tags={}, pii=False) for member in view.features)
    entity = Entity(view.entity.name, keys=view.entity.keys)
    source = view.source.without_words()
    return replace(
        view, features=features, entity=entity, source=source, ttl=None, schedule=None, freshness=None, on_reject="keep",
        transform="", description="", owner="", tags={}, inputs=tuple(replace(member, expression="") for member in view.inputs),
    )  # fmt: skip
