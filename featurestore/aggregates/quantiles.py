"""Quantiles: exact up to a number of values, then from a histogram with a stated error.

The histogram is log-linear, like HdrHistogram's and Circllhist's (Hartmann and Schlossnagle, "Circllhist: The Log-Linear
Histogram", 2020): a bucket is what the leading nineteen bits of a float say, its sign, its exponent and seven bits more, so
each power of two is cut into 128 buckets. It does not depend on the order of anything, so a window has one value however
it was put together.
"""

import math
from dataclasses import dataclass
from struct import Struct
from typing import Any

import polars as pl

from featurestore.aggregates.base import Aggregate, Columns, PartialAggregate

EXACT = 1024
"""Up to so many values in a window a quantile is exact."""

_BUCKET = 1 << 45  # of a float's 64 bits the leading 19 name the bucket
_INFINITY = 0x7FF << 52
_SIGN = 1 << 63
_BITS, _FLOAT = Struct("<Q"), Struct("<d")


def _middle(value: float) -> float:
    """Return the middle of a value's bucket; zero, the infinities and NaN stand for themselves."""
    (bits,) = _BITS.unpack(_FLOAT.pack(value))
    if value == 0 or bits & _INFINITY == _INFINITY:
        return value
    middle: float = _FLOAT.unpack(_BITS.pack(bits - bits % _BUCKET + _BUCKET // 2))[0]
    return middle


def _middles(values: pl.Expr) -> pl.Expr:
    """Return the same as an expression."""
    bits = values.reinterpret(dtype=pl.UInt64)
    middle = (bits - bits % _BUCKET + _BUCKET // 2).reinterpret(dtype=pl.Float64)
    return pl.when((values == 0) | values.is_nan() | values.is_infinite()).then(values).otherwise(middle)


def _compact(frame: pl.DataFrame) -> pl.DataFrame:
    """Count the values of a bucket together, where there are more than are kept as they are."""
    values, counts = frame.columns
    large = frame.with_row_index("_row").filter(pl.col(values).list.len() > EXACT)
    if large.is_empty():
        return frame
    counted = (
        large.explode(values, counts)
        .group_by("_row", _middles(pl.col(values)), maintain_order=True)
        .agg(pl.col(counts).sum())
        .group_by("_row", maintain_order=True)
        .agg(values, counts)
    )
    return frame.with_row_index("_row").update(counted, on="_row").drop("_row")


def _lift(value: pl.Expr, dtype: pl.DataType) -> Columns:
    there = value.is_not_null()
    return pl.when(there).then(pl.concat_list(value)), pl.when(there).then(pl.concat_list(pl.lit(1, pl.Int64)))


SAMPLES = PartialAggregate(
    "samples",
    _lift,
    lambda a, b: (pl.concat_list(a[0], b[0]), pl.concat_list(a[1], b[1])),
    fields=2,
    listed=True,
    compact=_compact,
)


@dataclass(frozen=True)
class Quantile(Aggregate, name="quantile"):
    """The value below which a part ``q`` of the inputs lies, interpolated linearly between the two nearest.

    Up to 1,024 inputs it is exact. Of more, each is taken as the middle of its bucket, which is off by at most 1/256 of
    the value, and there is no interpolation. NaN is greater than every number, as in Polars.

    Args:
        q: which part, from 0 to 1.
    """

    rounds = True
    q: float = 0.5

    @property
    def parts(self) -> tuple[PartialAggregate, ...]:
        """See ``Aggregate.parts``."""
        return (SAMPLES,)

    def input_dtype(self, result: pl.DataType) -> pl.DataType:
        """Return float."""
        if not result.is_float():
            raise self.refuse(result, "float")
        return pl.Float64()

    def finish(self, *columns: Any) -> Any:
        """Return the quantile."""
        values, counts = columns
        total = sum(counts)
        place = self.q * (total - 1)
        low = math.floor(place)
        if total <= EXACT:
            ranked = sorted(values, key=_rank)
            below, above = ranked[low], ranked[math.ceil(place)]
            if place == low or below == above:
                return below
            if math.isinf(above - below) and math.isfinite(below) and math.isfinite(above):
                return _apart(below, above, place - low)
            return below + (above - below) * (place - low)
        passed = 0
        for value, count in sorted(((_middle(value), count) for value, count in zip(values, counts, strict=True)), key=_first_rank):
            passed += count
            if passed > low:
                return value
        raise AssertionError("the counts add up to the total")

    def finished(self, *columns: pl.Expr) -> pl.Expr:
        """Return the quantile of values that are few enough."""
        values, counts = columns
        place = self.q * (counts.list.sum() - 1).cast(pl.Float64)
        low = place.floor()
        ranked = values.list.sort()
        below = ranked.list.get(low.cast(pl.Int64), null_on_oob=True)
        above = ranked.list.get(place.ceil().cast(pl.Int64), null_on_oob=True)
        between = below + (above - below) * (place - low)
        far = (above - below).is_infinite() & below.is_finite() & above.is_finite()
        between = pl.when(far).then(_apart(below, above, place - low)).otherwise(between)
        return pl.when((place == low) | (below == above)).then(below).otherwise(between)

    def finished_frame(self, frame: pl.DataFrame) -> pl.Series:
        """Return the quantile of each row of its columns, few values or many."""
        values, counts = frame.columns
        exact = super().finished_frame(frame)
        many = frame.with_row_index("_row").filter(pl.col(counts).list.sum() > EXACT)
        if many.is_empty():
            return exact
        ranked = (
            many.explode(values, counts)
            .with_columns(_middles(pl.col(values)))
            .sort("_row", values)
            .with_columns(pl.col(counts).cum_sum().over("_row").alias("_passed"), pl.col(counts).sum().over("_row").alias("_total"))
            .filter(pl.col("_passed") > (self.q * (pl.col("_total") - 1)).floor())
            .group_by("_row", maintain_order=True)
            .agg(pl.col(values).first().alias("_value"))
        )
        quantiles = (
            frame.select(exact.alias("_value")).with_row_index("_row").join(ranked, on="_row", how="left", maintain_order="left")
        )
        return quantiles.select(
            pl.when(pl.col("_row").is_in(ranked["_row"].implode())).then("_value_right").otherwise("_value")
        ).to_series()

    def __str__(self) -> str:
        return f"quantile({self.q:g})"


def _apart(below: Any, above: Any, share: Any) -> Any:
    """Return what lies between two values that are too far apart to take one from the other."""
    return below * (1 - share) + above * share


def _rank(value: float) -> tuple[bool, float]:
    """Order numbers, NaN the greatest."""
    return (True, 0.0) if math.isnan(value) else (False, value)


def _first_rank(pair: tuple[float, int]) -> tuple[bool, float]:
    return _rank(pair[0])
