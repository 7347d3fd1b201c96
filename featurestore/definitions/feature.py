"""Features: a typed column of a view, with its constraints."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import polars as pl

from featurestore.clock import parse_instant
from featurestore.definitions.window import WindowSpec
from featurestore.dtypes import python_name
from featurestore.errors import DefinitionError

Bound = int | float | str
"""A bound as the registry keeps it; the bound of a date or time is its ISO text."""

ORDER_CONSTRAINTS = ("ge", "gt", "le", "lt")
LENGTH_CONSTRAINTS = ("min_length", "max_length")


@dataclass(frozen=True)
class FeatureField:
    """What a class body says of one feature; ``Feature(…)`` makes it."""

    description: str = ""
    unit: str = ""
    owner: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    constraints: Mapping[str, Any] = field(default_factory=dict)
    expression: pl.Expr | None = field(default=None, compare=False)
    pii: bool = False


def Feature(  # noqa: N802 - reads as the thing it declares, as in pydantic's Field
    expression: pl.Expr | None = None,
    *,
    description: str = "",
    unit: str = "",
    owner: str = "",
    tags: Mapping[str, str] | None = None,
    ge: float | date | Decimal | None = None,
    gt: float | date | Decimal | None = None,
    le: float | date | Decimal | None = None,
    lt: float | date | Decimal | None = None,
    min_length: int | None = None,
    max_length: int | None = None,
    pattern: str | None = None,
    one_of: Sequence[Any] | None = None,
    pii: bool = False,
) -> Any:
    """Say more of a feature than its type: what it means, and what its values must be like.

    A row with a value that breaks a constraint is rejected, counted and kept with the reason (S19). A null breaks no
    constraint but that of a type without ``| None``.

    Args:
        expression: of an on-demand view's feature, how it is computed from the view's inputs.
        description: what it means.
        unit: what it is measured in.
        owner: who answers for it, where that is not the view's owner.
        tags: anything else, by name.
        ge: the least a number, date or time may be. A NaN breaks any bound.
        gt: what a number, date or time must be greater than.
        le: the most a number, date or time may be.
        lt: what a number, date or time must be less than.
        min_length: the least length of text (characters), bytes or a list (elements).
        max_length: the greatest length of text (characters), bytes or a list (elements).
        pattern: a regular expression (Rust's dialect) to be found in the text; anchor it with ^ and $.
        one_of: the values there may be.
        pii: whether it is personal information, which a server gives only to whom that is granted. What is computed from it
            on demand is too, without a word.

    Example:
        >>> from featurestore import Entity, FeatureView, ParquetSource
        >>> class Weather(
        ...     FeatureView,
        ...     entity=Entity("airport", origin=str),
        ...     source=ParquetSource("observations", "data/*.parquet", event_time="observed_at"),
        ... ):
        ...     temp: float | None = Feature(description="Air temperature, °F", ge=-60, le=140)
        >>> Weather.temp
        Weather.temp
    """
    given = {
        "ge": ge, "gt": gt, "le": le, "lt": lt, "min_length": min_length, "max_length": max_length, "pattern": pattern,
        "one_of": (one_of,) if isinstance(one_of, str) else None if one_of is None else tuple(one_of),
    }  # fmt: skip
    constraints = {name: value for name, value in given.items() if value is not None}
    return FeatureField(description, unit, owner, dict(tags or {}), constraints, expression, pii)


@dataclass(frozen=True)
class FeatureSpec:
    """One feature of a view: its name, type and constraints, as the registry keeps it.

    A windowed one has a ``window``, and as its ``family`` the attribute that it and its siblings are defined by.
    """

    name: str
    dtype: pl.DataType
    nullable: bool = False
    description: str = ""
    unit: str = ""
    owner: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    ge: Bound | None = None
    gt: Bound | None = None
    le: Bound | None = None
    lt: Bound | None = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None
    one_of: tuple[Bound | bool, ...] | None = None
    family: str = ""
    window: WindowSpec | None = None
    pii: bool = False

    def __str__(self) -> str:
        made_by = "" if self.window is None else f" = {self.window}"
        return f"{self.name}: {self.type_name}{made_by}{' (pii)' if self.pii else ''}"

    @property
    def type_name(self) -> str:
        """The type as a user would annotate it: ``"float | None"``."""
        return python_name(self.dtype, nullable=self.nullable)

    @property
    def constraints(self) -> dict[str, Any]:
        """The constraints that are set, by name."""
        names = (*ORDER_CONSTRAINTS, *LENGTH_CONSTRAINTS, "pattern", "one_of")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


DATA_FIELDS = tuple(
    member.name for member in fields(FeatureSpec) if member.name not in ("description", "unit", "owner", "tags", "pii")
)
"""The fields on which a feature's values depend; the others are words about it."""


def make_feature(name: str, dtype: pl.DataType, said: FeatureField, *, nullable: bool) -> FeatureSpec:
    """Return the feature that an annotation and its ``Feature(…)`` describe.

    Raises:
        DefinitionError: a constraint does not go with the type, or its value is of the wrong form; or there is an
            expression, which only an on-demand view takes (and takes away before it comes here).
    """
    if said.expression is not None:
        raise DefinitionError(
            "it has an expression, which is computed when it is asked for: that is an OnDemandView's. Compute what is to be stored "
            "in the view's transform."
        )
    constraints: dict[str, Any] = {}
    for constraint, value in said.constraints.items():
        if not _applies(constraint, dtype):
            raise DefinitionError(f"{constraint}={value!r} does not go with the type {python_name(dtype, nullable=nullable)}.")
        if (constraint in LENGTH_CONSTRAINTS and type(value) is not int) or (
            constraint == "pattern" and not isinstance(value, str)
        ):
            raise DefinitionError(f"{constraint}={value!r} must be {'text' if constraint == 'pattern' else 'a whole number'}.")
        if constraint in ORDER_CONSTRAINTS:
            constraints[constraint] = _bound(value, dtype)
        elif constraint == "one_of":
            constraints[constraint] = tuple(_bound(bound, dtype) for bound in value)
        else:
            constraints[constraint] = value
    if "pattern" in constraints:
        try:
            pl.select(pl.lit("").str.contains(constraints["pattern"]))
        except pl.exceptions.ComputeError as error:
            raise DefinitionError(f"pattern={constraints['pattern']!r} is not a regular expression: {error}") from error
    words = (said.description, said.unit, said.owner, dict(said.tags))
    return FeatureSpec(name, dtype, nullable, *words, **constraints, pii=said.pii)


def _applies(constraint: str, dtype: pl.DataType) -> bool:
    if constraint in ORDER_CONSTRAINTS:
        return dtype.is_numeric() or isinstance(dtype, (pl.Date, pl.Datetime))
    if constraint in LENGTH_CONSTRAINTS:
        return isinstance(dtype, (pl.String, pl.Binary, pl.List))
    if constraint == "pattern":
        return isinstance(dtype, pl.String)
    return dtype.is_numeric() or isinstance(dtype, (pl.String, pl.Boolean, pl.Date, pl.Datetime))


def _bound(value: Any, dtype: pl.DataType) -> Bound:
    """Return a constraint's value as the registry keeps it."""
    if isinstance(dtype, pl.Datetime) and isinstance(value, (date, str)):
        moment = value if isinstance(value, (datetime, str)) else datetime(value.year, value.month, value.day, tzinfo=UTC)
        return parse_instant(moment).isoformat()
    if isinstance(dtype, pl.Date) and isinstance(value, date):
        return value.isoformat()
    if isinstance(dtype, pl.Decimal) and isinstance(value, (int, float, Decimal)):
        return str(Decimal(str(value)))
    if isinstance(dtype, pl.String) and isinstance(value, str):
        return value
    # Nothing is ordered beside NaN, and an integer is never infinite: such a bound is a slip.
    sound = not isinstance(value, float) or math.isfinite(value) or (math.isinf(value) and dtype.is_float())
    if (dtype.is_numeric() or isinstance(dtype, pl.Boolean)) and isinstance(value, (int, float)) and sound:
        return value
    raise DefinitionError(f"{value!r} cannot bound a column of type {dtype}.")
