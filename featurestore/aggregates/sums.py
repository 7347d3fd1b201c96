"""Sum and mean. A stretch's sum is the sum of its pieces' sums, so what lies outside a window leaves no trace (S10).

Whatever the partial sums, none of them overflows (S22). A sum of integers or decimals, the latter as integers of their last
digit, is ``low + high * 2**64``; ``high`` is null while the sum fits 64 bits. A sum of floats is ``small + large * 2**64``;
``large`` has the inputs from ``2**960`` on, and is null where there are none.
"""

import math
from dataclasses import dataclass, replace
from sys import float_info
from typing import Any

import polars as pl

from featurestore.aggregates.base import Aggregate, Columns, PartialAggregate, only
from featurestore.aggregates.counts import COUNT

_LARGE = 2.0**960
"""As many floats below it as there may be do not add up to an infinity."""
_SCALE = 2.0**64
_WORD, _HALF = pl.lit(2**64, pl.Int128), pl.lit(2**63, pl.Int128)


def _units(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Return integers, or decimals as integers of their last digit."""
    return value.to_physical() if isinstance(dtype, pl.Decimal) else value


def _halves(total: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
    """Return 128-bit integers as the lower 64 bits, signed, and what is to be added above them."""
    low = (total + _HALF) % _WORD - _HALF
    return low.cast(pl.Int64), (total - low) // _WORD


def _lift_exact(value: pl.Expr, dtype: pl.DataType) -> Columns:
    low, high = _halves(_units(value, dtype).cast(pl.Int128))
    return low, pl.when(high != 0).then(high)


def _merge_exact(a: Columns, b: Columns) -> Columns:
    low, carried = _halves(a[0].cast(pl.Int128) + b[0].cast(pl.Int128))
    high = a[1].fill_null(0) + b[1].fill_null(0) + carried
    return low, pl.when(high != 0).then(high)


def _fits_word(value: pl.Expr, dtype: pl.DataType, events: int) -> pl.Expr:
    most = pl.lit(2**63 // (events + 1), pl.Int128)
    units = _units(value, dtype)
    return (units.max().cast(pl.Int128) < most) & (units.min().cast(pl.Int128) > -most)


def _lift_float(value: pl.Expr, dtype: pl.DataType) -> Columns:
    large = value.is_finite() & (value.abs() >= _LARGE)
    return pl.when(large).then(0.0).otherwise(value), pl.when(large).then(value / _SCALE)


def _merge_float(a: Columns, b: Columns) -> Columns:
    return a[0] + b[0], pl.coalesce(a[1] + b[1], a[1], b[1])


def _is_small(value: pl.Expr, dtype: pl.DataType, events: int) -> pl.Expr:
    return ~(value.is_finite() & (value.abs() >= _LARGE)).any()


_PLAIN = PartialAggregate("sum", lambda x, dtype: only(_units(x, dtype).cast(_plain_dtype(dtype))), lambda a, b: only(a[0] + b[0]))
_OF_FLOATS = PartialAggregate("sum", _lift_float, _merge_float, fields=2, spare=1, plain=_PLAIN, is_plain=_is_small)
_EXACT = PartialAggregate("sum", _lift_exact, _merge_exact, fields=2, spare=1, plain=_PLAIN, is_plain=_fits_word)
SUM = replace(_OF_FLOATS, of=lambda dtype: _OF_FLOATS if dtype.is_float() else _EXACT)


def _plain_dtype(dtype: pl.DataType) -> pl.DataType:
    return pl.Float64() if dtype.is_float() else pl.Int64()


def _total(first: Any, spare: Any) -> Any:
    """Return a sum of its columns; null for one that no float holds."""
    if spare is None:
        return first
    if isinstance(first, int):
        return first + (int(spare) << 64)
    total = (first / _SCALE + spare) * _SCALE
    return None if math.isinf(total) and not math.isinf(first) else total


def _totals(frame: pl.DataFrame) -> pl.Series:
    """Return the sum of each row of its columns, in 128 bits where it needs them; null for one that nothing holds."""
    first = frame.to_series(0)
    if frame.width == 1 or frame.to_series(1).null_count() == frame.height:
        return first
    low, high = pl.nth(0), pl.nth(1)
    if first.dtype.is_float():
        total = (low / _SCALE + high) * _SCALE
        finite = pl.when(total.is_finite() | ~low.is_finite()).then(total)
        totals = pl.when(high.is_null()).then(low).otherwise(finite)
    else:
        high = high.fill_null(0)
        totals = pl.when(high.is_between(-(2**63), 2**63 - 2)).then(high * _WORD + low.cast(pl.Int128)).otherwise(None)
    return frame.select(totals).to_series()


@dataclass(frozen=True)
class Sum(Aggregate, name="sum"):
    """The sum of the inputs."""

    empty = 0
    rounds = True

    @property
    def parts(self) -> tuple[PartialAggregate, ...]:
        """See ``Aggregate.parts``."""
        return (SUM,)

    def input_dtype(self, result: pl.DataType) -> pl.DataType:
        """Return the widest type of the kind declared: one input may be beyond what the sum is not."""
        if result.is_float():
            return pl.Float64()
        if isinstance(result, pl.UInt64):
            return pl.Decimal(20, 0)  # negative ones too
        if result.is_integer():
            return pl.Int64()
        if isinstance(result, pl.Decimal):
            return pl.Decimal(38, result.scale)
        raise self.refuse(result, "numbers (int, float or Decimal)")

    def finish(self, *columns: Any) -> Any:
        """Return the sum; of decimals as an integer of their last digit."""
        return columns[0] if len(columns) == 1 else _total(*columns)

    def finished(self, *columns: pl.Expr) -> pl.Expr:
        """Return the sum that its first column is where it needs no other."""
        return columns[0]

    def finished_frame(self, frame: pl.DataFrame) -> pl.Series:
        """Return the sum of each row; of decimals as an integer of their last digit."""
        return _totals(frame)


@dataclass(frozen=True)
class Mean(Aggregate, name="mean"):
    """The arithmetic mean of the inputs."""

    rounds = True

    @property
    def parts(self) -> tuple[PartialAggregate, ...]:
        """See ``Aggregate.parts``."""
        return (SUM, COUNT)

    def input_dtype(self, result: pl.DataType) -> pl.DataType:
        """Return float."""
        if not result.is_float():
            raise self.refuse(result, "float")
        return pl.Float64()

    def finish(self, *columns: Any) -> Any:
        """Return the sum by the number."""
        if len(columns) == 2 or columns[1] is None:
            return columns[0] / columns[-1]
        first, large, count = columns
        mean = (first / _SCALE + large) / count * _SCALE
        # It is none of the inputs' magnitudes that is beyond a float, so it is but for the last bit's rounding.
        return mean if math.isinf(first) else min(max(mean, -float_info.max), float_info.max) if mean == mean else mean

    def finished(self, *columns: pl.Expr) -> pl.Expr:
        """Return the sum by the number."""
        if len(columns) == 2:
            return columns[0] / columns[1]
        first, large, count = columns
        mean = (first / _SCALE + large) / count * _SCALE
        beyond = pl.when(first.is_infinite()).then(mean).otherwise(mean.clip(-float_info.max, float_info.max))
        return pl.when(large.is_null()).then(first / count).otherwise(beyond)
