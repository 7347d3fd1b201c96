"""Requests: fields that the caller of an online read provides, and that a training spine contains."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

import polars as pl
import pydantic
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from featurestore.definitions.definition_errors import caller_place, member_place, report
from featurestore.definitions.entity import RESERVED_COLUMNS, check_name
from featurestore.definitions.feature import LENGTH_CONSTRAINTS, ORDER_CONSTRAINTS, Feature, FeatureField, FeatureSpec, make_feature
from featurestore.definitions.feature_view import snake_case
from featurestore.definitions.reference import Reference, ViewReference
from featurestore.dtypes import read_annotation
from featurestore.errors import DefinitionError

_PYDANTIC = str(Path(pydantic.__file__).parent)


@dataclass(frozen=True)
class RequestField(FeatureSpec):
    """One field of a request: its name, type and constraints, and what it is where the caller does not say it."""

    required: bool = True
    default: Any = None


@dataclass(frozen=True)
class RequestSpec:
    """A request as the registry keeps it."""

    name: str
    features: tuple[RequestField, ...]
    description: str = ""
    owner: str = ""
    place: str = field(default="", compare=False)

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the fields, in their order."""
        return tuple(field.name for field in self.features)

    def feature(self, name: str) -> RequestField | None:
        """Return the field of a name, or None."""
        return next((field for field in self.features if field.name == name), None)


class Request(BaseModel):
    """The base of every request: a pydantic model of what the caller knows at the moment of the request.

    An on-demand view takes it as an input. Online its fields are in the rows that are asked about, in training they are
    columns of the spine; both are checked alike. A field has a type as a feature has, the constraints ``ge gt le lt
    min_length max_length pattern`` of pydantic's ``Field``, and perhaps a default. Validators are refused: they are Python, and
    a process that serves has no definitions.

    Raises:
        DefinitionError: a field has a type, a constraint or a default that it cannot have.

    Example:
        >>> from pydantic import Field
        >>> class Trip(Request):
        ...     distance: float = Field(ge=0, description="Miles to the destination")
        ...     stops: int = 0
        >>> Trip(distance=2475.0)
        Trip(distance=2475.0, stops=0)
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    __request__: ClassVar[RequestSpec]
    __request_name__: ClassVar[str]

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        super().__pydantic_init_subclass__(**options)
        place = caller_place(_PYDANTIC)
        name = snake_case(cls.__name__)
        faults = check_name("request", name, place)
        decorators = cls.__pydantic_decorators__
        if any(
            getattr(decorators, decorator.name)
            for decorator in fields(decorators)
            if "valid" in decorator.name or decorator.name == "computed_fields"
        ):
            problem = (
                f"request {cls.__name__} has validators or computed fields, which are Python, and a process that serves has no "
                "definitions. Use constraints (Field(ge=0)), and compute in an OnDemandView."
            )
            faults.append(DefinitionError(problem, place))
        request_fields = []
        for member, info in cls.model_fields.items():
            try:
                request_fields.append(_read_field(member, _annotation(cls, member), info))
            except DefinitionError as error:
                problem = f"field {cls.__name__}.{member}: {error.problem}"
                faults.append(DefinitionError(problem, member_place(place, cls.__name__, member)))
        if not cls.model_fields:
            faults.append(DefinitionError(f"request {cls.__name__} has no fields; annotate some, as in `distance: float`.", place))
        if not faults:
            cls.__request__ = RequestSpec(
                name, tuple(request_fields), inspect.cleandoc(vars(cls).get("__doc__") or ""), place=place
            )
        cls.__request_name__ = name
        report(faults)

    @classmethod
    def __references__(cls) -> tuple[Reference, ...]:
        return (ViewReference(cls.__request_name__),)


def _annotation(cls: type, name: str) -> Any:
    """Return the annotation as it was written; the one pydantic keeps has lost its Polars dtype."""
    return next(annotations[name] for annotations in map(inspect.get_annotations, cls.__mro__) if name in annotations)


def _read_field(name: str, annotation: Any, info: FieldInfo) -> RequestField:
    if name in RESERVED_COLUMNS or name.startswith("_"):
        raise DefinitionError("the name is the store's own; choose another.")
    if isinstance(info.default, FeatureField):
        raise DefinitionError("a request's fields are pydantic's: say more of it with pydantic's Field(description=…).")
    if info.default_factory is not None:
        raise DefinitionError("a default_factory is Python, and a process that serves has no definitions; give a value as default.")
    if info.alias or info.validation_alias:
        raise DefinitionError("an alias is not kept; name the field as the column of the rows is named.")
    constraints = _constraints(annotation, info)
    annotation, choices = _choices(annotation)
    dtype, nullable = read_annotation(annotation)
    said = Feature(description=info.description or "", one_of=choices, **constraints)
    feature = make_feature(name, dtype, said, nullable=nullable)
    values = {attribute.name: getattr(feature, attribute.name) for attribute in fields(feature)}
    if info.is_required():
        return RequestField(**values)
    return RequestField(**values, required=False, default=_default(info, dtype))


def _choices(annotation: Any) -> tuple[Any, tuple[Any, ...] | None]:
    """Return an annotation in which the type of its values stands for a ``Literal``, and the values."""
    if get_origin(annotation) is Literal:
        values: tuple[Any, ...] = get_args(annotation)
        types = set(map(type, values))
        if len(types) != 1:
            raise DefinitionError(f"{annotation} names values of several types; a column has one.")
        return types.pop(), values
    members = get_args(annotation)
    if len(members) == 2 and type(None) in members and get_origin(members[0]) is Literal:
        inner, choices = _choices(members[0])
        return inner | None, choices
    return annotation, None


def _constraints(annotation: Any, info: FieldInfo) -> dict[str, Any]:
    constraints: dict[str, Any] = {}
    for part in (*_metadata(annotation), *info.metadata):
        if isinstance(part, pl.DataType) or (isinstance(part, type) and issubclass(part, pl.DataType)):
            continue
        said = {name: getattr(part, name) for name in _KNOWN if getattr(part, name, None) is not None}
        if not said and not _is_strict(part):
            raise DefinitionError(
                f"the constraint {part!r} is not one that a request's field can have; those are {', '.join(_KNOWN)}."
            )
        constraints |= said
    if "pattern" in constraints:
        constraints["pattern"] = getattr(constraints["pattern"], "pattern", constraints["pattern"])
    return constraints


_KNOWN = (*ORDER_CONSTRAINTS, *LENGTH_CONSTRAINTS, "pattern")


def _is_strict(constraint: Any) -> bool:
    """Return whether a constraint only says that nothing is to be converted, as is always so here."""
    return bool(getattr(constraint, "strict", False))


def _metadata(annotation: Any) -> Iterator[Any]:
    """Return what an annotation says beside the type, also where it adds ``| None`` outside."""
    if get_origin(annotation) is Annotated:
        base, *extras = get_args(annotation)
        yield from _metadata(base)
        for extra in extras:
            yield from extra.metadata if isinstance(extra, FieldInfo) else (extra,)
    elif get_origin(annotation) in (Union, type(int | None)):
        for member in get_args(annotation):
            yield from _metadata(member)
    elif get_origin(annotation) is list and any(_metadata(get_args(annotation)[0])):
        raise DefinitionError(f"{annotation} constrains a list's elements, which is not kept; constrain the list's length.")


def _default(info: FieldInfo, dtype: pl.DataType) -> Any:
    """Return a default as its column holds it."""
    try:
        kind: Any = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
        TypeAdapter(kind).validate_python(info.default, strict=True)
        return pl.Series([info.default], dtype=dtype).to_list()[0]
    except (ValidationError, pl.exceptions.PolarsError, TypeError, OverflowError, ValueError) as error:
        problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error).splitlines()[0]
        raise DefinitionError(f"its default {info.default!r} is not one of its values: {problem}.") from error
