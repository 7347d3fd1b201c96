"""Column types: annotations to Polars dtypes, dtypes to text and back, and which dtypes fit which.

One table says which Python type is which Polars dtype. Where that is too coarse, ``Annotated`` carries the Polars dtype:
``Annotated[int, pl.Int32]``, ``Annotated[list[float], pl.Array(pl.Float32, 384)]``.
"""

import types
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Union, get_args, get_origin

import polars as pl

from featurestore.errors import DefinitionError
from featurestore.instants import INSTANT
from featurestore.type_names import annotated

PYTHON_TYPES: dict[type, pl.DataType] = {
    bool: pl.Boolean(),
    int: pl.Int64(),
    float: pl.Float64(),
    str: pl.String(),
    bytes: pl.Binary(),
    datetime: INSTANT,
    date: pl.Date(),
    Decimal: pl.Decimal(38, 9),
    time: pl.Time(),
    timedelta: pl.Duration("us"),
}
"""The Polars dtype of each Python type an annotation may name."""

SIMPLE_TYPES: dict[str, pl.DataType] = {
    str(dtype): dtype
    for dtype in (
        pl.Boolean(), pl.Int8(), pl.Int16(), pl.Int32(), pl.Int64(), pl.UInt8(), pl.UInt16(), pl.UInt32(), pl.UInt64(),
        pl.Float32(), pl.Float64(), pl.String(), pl.Binary(), pl.Date(), pl.Time(),
    )
}  # fmt: skip
"""The dtypes without parameters that a feature may have, by their name."""

_BARE = frozenset(type(dtype) for dtype in SIMPLE_TYPES.values()) | {pl.Datetime, pl.Duration}
"""The dtype classes that may be written without parentheses."""

KEY_TYPES = (pl.String, pl.Binary, pl.Boolean, pl.Date, pl.Datetime, pl.Int8, pl.Int16, pl.Int32, pl.Int64,
             pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64)  # fmt: skip
"""The dtypes a join key may have: those whose equality is beyond doubt (no floats)."""


def as_dtype(given: Any) -> pl.DataType:
    """Return the Polars dtype that a Python type, Polars dtype or dtype class stands for.

    Every ``Datetime`` becomes ``Datetime("us", "UTC")`` (S1), every ``Duration`` one of microseconds.

    Raises:
        DefinitionError: no feature can have it; the message lists those that one can have.

    Example:
        >>> as_dtype(pl.Int32), as_dtype(float)
        (Int32, Float64)
    """
    if isinstance(given, type) and given in PYTHON_TYPES:
        return PYTHON_TYPES[given]
    if get_origin(given) is list:
        return pl.List(as_dtype(get_args(given)[0]))
    if given is pl.List or given is pl.Array:  # NOTE: not `in`: every list type equals the class pl.List
        raise DefinitionError(f"{given.__name__} needs the type of its elements: pl.List(pl.Float64), pl.Array(pl.Float32, 384).")
    if given is pl.Decimal:
        return PYTHON_TYPES[Decimal]
    dtype = given() if isinstance(given, type) and given in _BARE else given
    if isinstance(dtype, (pl.Datetime, pl.Duration, pl.Decimal, pl.List, pl.Array)):
        return _with_parameters(dtype)
    if isinstance(dtype, pl.DataType) and str(dtype) in SIMPLE_TYPES:
        return dtype
    raise DefinitionError(
        f"{given!r} is not a type a column can have. Use bool, int, float, str, bytes, datetime, date, time, "
        "timedelta, Decimal, list[…], or a Polars dtype as in Annotated[int, pl.Int32]."
    )


def _with_parameters(dtype: pl.Datetime | pl.Duration | pl.Decimal | pl.List | pl.Array) -> pl.DataType:
    if isinstance(dtype, pl.Datetime):
        return INSTANT
    if isinstance(dtype, pl.Duration):
        return pl.Duration("us")
    if isinstance(dtype, pl.List):
        return pl.List(as_dtype(dtype.inner))
    if isinstance(dtype, pl.Array):
        return pl.Array(as_dtype(dtype.inner), dtype.size)
    return dtype if dtype.precision is not None else pl.Decimal(38, dtype.scale)


def read_annotation(annotation: Any) -> tuple[pl.DataType, bool]:
    """Return the dtype an annotation names, and whether it admits null (``float | None``).

    Raises:
        DefinitionError: the annotation is a string, a union of several types, or no type of a column.

    Example:
        >>> read_annotation(float | None)
        (Float64, True)
        >>> read_annotation(Annotated[int, pl.Int32])
        (Int32, False)
    """
    if isinstance(annotation, str):
        raise DefinitionError(
            f"the annotation is the string {annotation!r}, not a type. "
            "Remove `from __future__ import annotations` (or the quotes) from the module that defines features."
        )
    if get_origin(annotation) in (Union, types.UnionType):
        members = [member for member in get_args(annotation) if member is not types.NoneType]
        if len(members) != 1:
            raise DefinitionError(f"{annotation} names several types; a column has one (and may add `| None`).")
        return read_annotation(members[0])[0], True
    if get_origin(annotation) is Annotated:
        base, *extras = get_args(annotation)
        for extra in extras:
            if isinstance(extra, pl.DataType) or (isinstance(extra, type) and issubclass(extra, pl.DataType)):
                return as_dtype(extra), read_annotation(base)[1]
        return read_annotation(base)
    if get_origin(annotation) is list:
        return pl.List(read_annotation(get_args(annotation)[0])[0]), False
    return as_dtype(annotation), False


def dtype_name(dtype: pl.DataType) -> str:
    """Return a dtype as text, which ``dtype_from_name`` reads.

    Example:
        >>> dtype_name(pl.List(pl.Datetime("us", "UTC")))
        'List(Datetime)'
    """
    if isinstance(dtype, pl.Array):
        return f"Array({dtype_name(as_dtype(dtype.inner))}, {dtype.size})"
    if isinstance(dtype, pl.List):
        return f"List({dtype_name(as_dtype(dtype.inner))})"
    if isinstance(dtype, pl.Decimal):
        return f"Decimal({dtype.precision}, {dtype.scale})"
    if isinstance(dtype, pl.Datetime):
        return "Datetime"
    if isinstance(dtype, pl.Duration):
        return "Duration"
    return str(dtype)


_PARAMETRIC: dict[str, Callable[[str], pl.DataType]] = {
    "Array": lambda inside: pl.Array(dtype_from_name(inside.rpartition(",")[0]), int(inside.rpartition(",")[2])),
    "List": lambda inside: pl.List(dtype_from_name(inside)),
    "Decimal": lambda inside: pl.Decimal(*(int(number) for number in inside.split(","))),
}


def dtype_from_name(name: str) -> pl.DataType:
    """Return the dtype that ``dtype_name`` wrote.

    Raises:
        DefinitionError: the text names no dtype.

    Example:
        >>> dtype_from_name("Array(Float32, 384)")
        Array(Float32, shape=(384,))
    """
    head, _, rest = name.partition("(")
    if rest and head in _PARAMETRIC:
        return _PARAMETRIC[head](rest.removesuffix(")"))
    if name == "Datetime":
        return INSTANT
    if name == "Duration":
        return pl.Duration("us")
    if name in SIMPLE_TYPES:
        return SIMPLE_TYPES[name]
    raise DefinitionError(f"{name!r} names no dtype that this version of featurestore knows.")


def python_name(dtype: pl.DataType, *, nullable: bool) -> str:
    """Return how a user would annotate a column: ``"float | None"``.

    Example:
        >>> python_name(pl.Float64(), nullable=True)
        'float | None'
    """
    return annotated(dtype_name(dtype), nullable=nullable)


def python_type(dtype: pl.DataType) -> Any:
    """Return the Python type of a column's values.

    Example:
        >>> python_type(pl.Int32()), python_type(pl.List(pl.Date))
        (<class 'int'>, list[datetime.date])
    """
    if isinstance(dtype, (pl.List, pl.Array)):
        return list[python_type(inner_dtype(dtype))]  # type: ignore[misc]  # it is a value, not an annotation
    return dtype.to_python()


def fits(actual: pl.DataType, wanted: pl.DataType) -> bool:
    """Return whether values of one dtype can be values of another, each to be checked by itself where that narrows.

    Numbers fit numbers (a value that does not is a rejected row, S19), times fit times, text fits text; nothing turns
    into text or out of it, and a column of nulls fits all.

    Example:
        >>> fits(pl.Int64(), pl.Int32()), fits(pl.String(), pl.Float64())
        (True, False)
    """
    if actual == wanted or isinstance(actual, pl.Null):
        return True
    if isinstance(wanted, pl.Array) and isinstance(actual, pl.Array) and actual.size != wanted.size:
        return False
    if isinstance(wanted, (pl.List, pl.Array)):
        return isinstance(actual, (pl.List, pl.Array)) and fits(inner_dtype(actual), inner_dtype(wanted))
    if isinstance(wanted, pl.Datetime):
        return isinstance(actual, (pl.Datetime, pl.Date))
    if isinstance(wanted, pl.String):
        return isinstance(actual, (pl.Categorical, pl.Enum))
    if isinstance(wanted, pl.Duration):
        return isinstance(actual, pl.Duration)
    return actual.is_numeric() and wanted.is_numeric()


def inner_dtype(dtype: pl.List | pl.Array) -> pl.DataType:
    """Return the dtype of a list's or vector's elements, which Polars may hold as a class.

    Example:
        >>> inner_dtype(pl.List(pl.Int8))
        Int8
    """
    inner = dtype.inner
    return inner if isinstance(inner, pl.DataType) else inner()
