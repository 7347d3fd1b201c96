"""What S22 says of one number, in plain Python: the value that it becomes in another dtype, or that it is rejected."""

import math
import struct
from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from typing import Any

import numpy
import polars as pl
from hypothesis import strategies as st

REJECTED = "rejected"
_EXACT = Context(prec=2000, rounding=ROUND_HALF_EVEN, Emax=999_999, Emin=-999_999)
SIGNED = [pl.Int8(), pl.Int16(), pl.Int32(), pl.Int64(), pl.Int128()]
UNSIGNED = [pl.UInt8(), pl.UInt16(), pl.UInt32(), pl.UInt64(), pl.UInt128()]
BOUNDS: dict[Any, tuple[int, int]] = {
    **{dtype: (-(2 ** (8 * 2**place - 1)), 2 ** (8 * 2**place - 1) - 1) for place, dtype in enumerate(SIGNED)},
    **{dtype: (0, 2 ** (8 * 2**place) - 1) for place, dtype in enumerate(UNSIGNED)},
}
"""The least and the greatest integer of each dtype."""
FLOATS = [pl.Float32(), pl.Float64()]
DECIMALS = [
    pl.Decimal(*each)
    for each in ((38, 0), (38, 9), (38, 38), (38, 30), (20, 0), (18, 4), (10, 2), (5, 2), (1, 0), (1, 1))
]  # fmt: skip
FOUND: list[pl.DataType] = [*BOUNDS, *FLOATS, *DECIMALS]
"""The dtypes that a source's numbers may have."""
WANTED: list[pl.DataType] = [dtype for dtype in FOUND if dtype not in (pl.Int128(), pl.UInt128())]
"""Those that a feature may have."""


def single(value: float) -> float:
    """The Float32 that is nearest to a number, as a Python float; an infinity beyond the greatest."""
    try:
        nearest: float = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)
    return nearest


def becomes(value: Any, found: pl.DataType, wanted: pl.DataType) -> Any:
    """S22: what a value of one dtype is in another; ``REJECTED`` where it would not stay the value it is."""
    if value is None:
        return None
    if isinstance(found, (pl.List, pl.Array)):
        made = [becomes(each, found.inner, wanted.inner) for each in value]
        wrong = isinstance(wanted, pl.Array) and (len(made) != wanted.size or None in made)
        return REJECTED if wrong or REJECTED in made else made
    if found.is_float():
        return _of_float(value, found, wanted)
    exact = Fraction(value)
    if wanted.is_float():
        try:
            nearest = float(exact) if wanted == pl.Float64() else single(float(exact))
        except OverflowError:
            return REJECTED
        return nearest if math.isfinite(nearest) and Fraction(nearest) == exact else REJECTED
    return _of_exact(exact, wanted)


def _of_float(value: float, found: pl.DataType, wanted: pl.DataType) -> Any:
    if wanted.is_float():
        made = single(value) if wanted == pl.Float32() else value
        return REJECTED if math.isinf(made) and math.isfinite(value) else made
    if not math.isfinite(value):
        return REJECTED
    if isinstance(wanted, pl.Decimal):
        text = repr(value) if found == pl.Float64() else str(numpy.float32(value))
        rounded = Decimal(text).quantize(Decimal(1).scaleb(-wanted.scale), context=_EXACT)
        return _of_exact(Fraction(rounded), wanted)
    return _of_exact(Fraction(value), wanted)


def _of_exact(exact: Fraction, wanted: pl.DataType) -> Any:
    if isinstance(wanted, pl.Decimal):
        units = exact * 10**wanted.scale
        fits = units.denominator == 1 and abs(units) < 10 ** (wanted.precision or 38)
        return Decimal(int(units)).scaleb(-wanted.scale, context=_EXACT) if fits else REJECTED
    low, high = BOUNDS[wanted]
    return int(exact) if exact.denominator == 1 and low <= exact <= high else REJECTED


def numbers_of(dtype: pl.DataType) -> st.SearchStrategy[Any]:
    """Numbers of a dtype, many of them at edges: of types, of what floats hold, of decimals' digits."""
    if dtype in BOUNDS:
        low, high = BOUNDS[dtype]
        return st.one_of(st.integers(low, high), _near_edges().map(lambda edge: min(max(edge, low), high)))
    if dtype.is_float():
        width = 32 if dtype == pl.Float32() else 64
        near = st.one_of(_near_edges().map(float), st.sampled_from([999.995, 999.996, 0.005, 2.675, 99999999.996, 0.5, 1.5, 2.5]))
        rounded = st.decimals(-(10**6), 10**6, places=3).map(float)
        tame = st.one_of(near, rounded).map(single) if width == 32 else st.one_of(near, rounded)
        return st.one_of(st.floats(width=width), tame)
    assert isinstance(dtype, pl.Decimal)
    most = 10 ** (dtype.precision or 38) - 1
    units = st.one_of(st.integers(-most, most), _near_edges().map(lambda edge: min(max(edge, -most), most)))
    return units.map(lambda each: Decimal(each).scaleb(-dtype.scale, context=_EXACT))


@st.composite
def _near_edges(draw: st.DrawFn) -> int:
    """Integers near powers of two and of ten."""
    base, most = draw(st.sampled_from([(2, 127), (10, 38)]))
    edge = int(base ** draw(st.integers(0, most)) + draw(st.integers(-2, 2)))
    return -edge if draw(st.booleans()) else edge


@st.composite
def columns(draw: st.DrawFn) -> tuple[pl.DataType, pl.DataType, list[Any]]:
    """A dtype found, one wanted, and values of the first: numbers, or lists and vectors of them."""
    found, wanted = draw(st.sampled_from(FOUND)), draw(st.sampled_from(WANTED))
    values: st.SearchStrategy[Any] = numbers_of(found)
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        size = draw(st.sampled_from([None, None, 1, 2]))
        length = {"max_size": 3} if size is None else {"min_size": size, "max_size": size}
        values = st.lists(st.none() | values, **length)
        found = pl.List(found) if size is None else pl.Array(found, size)
        # A list may become a vector; a vector of another length is refused before any row is looked at.
        wanted = draw(st.sampled_from([pl.List(wanted), pl.Array(wanted, size or 2)]))
    return found, wanted, draw(st.lists(st.none() | values, min_size=1, max_size=6))


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same, NaN like NaN; Decimals with their digits."""
    if isinstance(one, (list, tuple)):
        return isinstance(other, Sequence) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (one != one and other != other)
    return type(one) is type(other) and str(one) == str(other)
