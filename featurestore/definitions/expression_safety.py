"""Safety of serialized expressions: data and Polars' own functions are allowed, and nothing that can run code.

Polars writes a Python function as a pickle, a plug-in as the path of a shared library, and a plan as files to be read. Anyone who
may write to the registry could plant one, and each process that reads the registry would run it. So a serialized expression is
checked before Polars sees it, by a list of what is allowed: what a later version of Polars adds is refused until it is looked at.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

_LONGEST = 4 << 20
"""An expression of more characters is refused; one with a list of 100,000 numbers has some 3 million."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NODES: Mapping[str, tuple[str, ...]] = {
    "BinaryExpr": ("left", "right"), "Cast": ("expr",), "Eval": ("expr", "evaluation"), "Explode": ("input",),
    "Filter": ("input", "by"), "Function": ("input",), "Gather": ("expr", "idx"),
    "Over": ("function", "partition_by", "order_by"), "RenameAlias": ("expr",),
    "Slice": ("input", "offset", "length"), "Sort": ("expr",), "SortBy": ("expr", "by"), "StructEval": ("expr", "evaluation"),
    "Ternary": ("predicate", "truthy", "falsy"),
}  # fmt: skip
"""The nodes with fields that are expressions, and these fields."""

_LEAVES = frozenset({"Column", "Field"})
_UNITS = frozenset({"Element", "Len"})
_AGGREGATES = _words(
    "AggGroups All Any Count First FirstNonNull Implode Item Last LastNonNull Max MaxBy Mean Median Min MinBy NUnique Quantile Std "
    "Sum Var"
)
_RENAMES = frozenset({"Prefix", "Replace", "Suffix", "ToLowercase", "ToUppercase"})
_FAMILIES = _words(
    "Abs All Any ApproxNUnique ArgMax ArgMin ArgSort ArgUnique ArgWhere ArrayExpr AsStruct Atan2 BackwardFill BinaryExpr "
    "Bin Bitwise Boolean Business Categorical Ceil Clip Coalesce ConcatExpr Correlation Count CumCount CumMax CumMean CumMin "
    "CumProd CumSum Cut Diff DropNans DropNulls Entropy EwmMean EwmMeanBy EwmStd EwmVar Exp ExtendConstant FillNull "
    "FillNullWithStrategy First FirstNonNull Floor ForwardFill Fused GatherEvery Hash Hist Implode IndexOf Interpolate "
    "InterpolateBy Item Kurtosis Last LastNonNull ListExpr Log Log1p LowerBound Max MaxBy MaxHorizontal Mean MeanHorizontal "
    "Median Min MinBy MinHorizontal Mode NUnique Negate NullCount PctChange PeakMax PeakMin Pow Product QCut Quantile RLE "
    "RLEID Range Rank Reinterpret Repeat RepeatBy Replace ReplaceStrict Reshape Reverse RollingExpr RollingExprBy Round "
    "RoundSF RowDecode RowEncode SearchSorted SetSortedFlag Shift ShiftAndFill ShrinkType Sign Skew Std StringExpr "
    "StructExpr Sum SumHorizontal TemporalExpr ToPhysical TopK TopKBy Trigonometry Truncate Unique UniqueCounts UpperBound "
    "ValueCounts Var"
)
_PYTHON = frozenset({"AnonymousAgg", "AnonymousFunction", "CumFoldHorizontal", "CumReduceHorizontal", "FoldHorizontal", "Map",
                     "ReduceHorizontal"})  # fmt: skip
"""What holds a Python function: said by that name in a message."""

_TAGS = _PYTHON | {"FfiPlugin", "MapFieldNames", "OfExpr", "SubPlan"}
"""What may stand nowhere among the options of a function: expressions, Python functions, libraries."""

_ARROW = b"\xff\xff\xff\xff"
"""How the bytes of a column begin."""

_FEW_NUMBERS = 8

_CODE = frozenset({"FfiPlugin", "MapFieldNames", "OfExpr", "SubPlan", "Object", "a column of objects", "bytes among options"})
"""What else can run code: a shared library, files and functions that a plan reads, pickled values."""

_FOREIGN = (b"ARROW:extension", b"POLARS_EXTENSION")
"""What marks a column of extension types, such as Python objects, within the bytes of a literal column."""


class ForbiddenPartError(Exception):
    """An expression holds what may not be kept.

    Args:
        part: what, in Polars' words.
    """

    def __init__(self, part: str) -> None:
        super().__init__(part)
        self.part = part

    @property
    def is_python(self) -> bool:
        """Whether it is a Python function."""
        return self.part in _PYTHON

    @property
    def is_code(self) -> bool:
        """Whether it runs code when it is read, as far as this version knows."""
        return self.is_python or self.part in _CODE


def check_serialized(serialized: str) -> None:
    """Check an expression before Polars reads it.

    Args:
        serialized: the expression, as Polars writes it in JSON.

    Raises:
        ForbiddenPartError: it holds something else than data and Polars' own functions.

    Example:
        >>> check_serialized('{"Column":"distance"}')
        >>> check_serialized('{"SubPlan":[]}')
        Traceback (most recent call last):
        featurestore.definitions.expression_safety.ForbiddenPartError: SubPlan
    """
    if len(serialized) > _LONGEST:
        raise ForbiddenPartError(f"{len(serialized)} characters")
    try:
        waiting = [json.loads(serialized)]
    except (ValueError, RecursionError) as error:
        raise ForbiddenPartError("no JSON of an expression") from error
    while waiting:
        waiting += _inside(waiting.pop())


def _inside(node: Any) -> Iterator[Any]:
    """Check one node of an expression, and yield the expressions within it."""
    if node is None or (isinstance(node, str) and node in _UNITS):
        return
    name, body = _variant(node)
    if name in _LEAVES:
        return
    if name == "KeepName":
        yield body
    elif name == "Alias" and isinstance(body, list) and body:
        yield body[0]
    elif name == "Literal":
        _check_data(body)
    elif name in _NODES and isinstance(body, dict):
        yield from _fields(name, body)
    elif name == "Agg":
        yield from _aggregated(body)
    else:
        raise ForbiddenPartError(name)


def _fields(name: str, body: Mapping[str, Any]) -> Iterator[Any]:
    checks = _CHECKS.get(name, {})
    for field, value in body.items():
        if field in _NODES[name]:
            yield from value if isinstance(value, list) else (value,)
        else:
            checks.get(field, _check_plain)(value)


def _variant(node: Any) -> tuple[str, Any]:
    if isinstance(node, str):
        return node, None
    if isinstance(node, dict) and len(node) == 1:
        [(name, body)] = node.items()
        return name, body
    raise ForbiddenPartError(f"a {type(node).__name__} in the place of an expression")


def _aggregated(body: Any) -> Iterator[Any]:
    name, inner = _variant(body)
    if name not in _AGGREGATES:
        raise ForbiddenPartError(name)
    if isinstance(inner, list):  # Std and Var: the expression and the degrees of freedom
        yield from inner[:1]
    elif isinstance(inner, dict) and inner.keys() & {"input", "expr"}:
        for field, value in inner.items():
            if isinstance(value, (dict, str)) and field in ("input", "expr", "quantile", "by"):
                yield value
    else:
        yield inner


def _check_family(function: Any) -> None:
    name, body = _variant(function)
    if name not in _FAMILIES:
        raise ForbiddenPartError(name)
    _check_plain(body)


def _check_rename(function: Any) -> None:
    name, _ = _variant(function)
    if name not in _RENAMES:
        raise ForbiddenPartError(name)


def _check_dtype(dtype: Any) -> None:
    name, body = _variant(dtype)
    if name != "Literal":
        raise ForbiddenPartError(name)
    _check_plain(body)


def _check_plain(value: Any) -> None:
    """Check what is neither expression nor literal: the words and numbers of functions, options and types.

    A Python function is bytes wherever it stands, or the same as text, which then begins with characters below the space. So no
    field needs to be known by name.
    """
    for key, part in _walk(value):
        if key in _TAGS:
            raise ForbiddenPartError(key)
        if isinstance(part, str) and (part in ("Object", "Extension", "Unknown") or any(mark < "\t" for mark in part)):
            raise ForbiddenPartError(part if part.isalpha() else "bytes among options")
        numbers = isinstance(part, list) and sum(isinstance(item, int) for item in part) > _FEW_NUMBERS
        if numbers and key not in ("insertions", "breaks", "probs"):
            _check_column(part, "bytes among options")


def _check_data(body: Any) -> None:
    """Check a literal: a column within it is bytes, which must be of Polars' own types."""
    for key, part in _walk(body):
        if key in ("Series", "List", "Array", "Struct") and isinstance(part, list) and part and isinstance(part[0], int):
            _check_column(part, "a column of objects")


def _check_column(numbers: list[Any], part: str) -> None:
    """Check the bytes of a column: they are those of Arrow's format, and of no type that is not Polars' own."""
    if not all(isinstance(item, int) and 0 <= item < 256 for item in numbers):
        raise ForbiddenPartError(part)
    data = bytes(numbers)
    if not data.startswith(_ARROW) or any(mark in data for mark in _FOREIGN):
        raise ForbiddenPartError("a column of objects" if data.startswith(_ARROW) else part)


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield all that is within some JSON, but for the numbers of lists, with the key that it stands under."""
    waiting = [("", value)]
    while waiting:
        key, part = waiting.pop()
        yield key, part
        if isinstance(part, dict):
            waiting += part.items()
        elif isinstance(part, list) and not (part and isinstance(part[0], (int, float))):
            waiting += [(key, item) for item in part]


_CHECKS: Mapping[str, Mapping[str, Callable[[Any], None]]] = {
    "Function": {"function": _check_family},
    "RenameAlias": {"function": _check_rename},
    "Cast": {"dtype": _check_dtype},
}
