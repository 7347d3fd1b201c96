"""Windowed features in a few plain lines, S6-S10: slow, and beyond doubt. Tests compare the feature store with them.

``RULES`` has an entry for each aggregate; the tests go over it, so an aggregate with an entry here is covered by all of them.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

RELATIVE = 1e-9
"""S10: how far a floating-point result may lie from the exact one, of the sum of the inputs' magnitudes."""
EXACT_QUANTILE = 1024
"""Up to how many values in a window a quantile is exact."""
SKETCH = 1 / 256
"""How far a quantile of more values may lie from the exact one, of its own magnitude."""
_MINUTE = 60_000_000
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR


@dataclass(frozen=True)
class Event:
    """A source row: its key, its times in microseconds, its event id (None: the source has none), its other columns."""

    key: tuple[Any, ...]
    event: int
    available: int
    values: tuple[Any, ...]
    id: Hashable = None

    @property
    def known(self) -> int:
        """S2: the effective available time."""
        return max(self.event, self.available)


@dataclass(frozen=True)
class Window:
    """A window and its tile, in microseconds."""

    length: int
    tile: int

    @classmethod
    def of(cls, length: int, tile: int | None = None) -> "Window":
        """S7: with the default tile, where none is given."""
        usual = 5 * _MINUTE if length <= 12 * _HOUR else _HOUR if length <= 12 * _DAY else _DAY
        return cls(length, usual if tile is None else tile)

    def tail(self, t: int) -> int:
        """S7: the first instant that the window holds, as of t."""
        return (t - self.length) // self.tile * self.tile


def held(
    events: Sequence[Event], key: tuple[Any, ...], t: int, window: Window, *, as_known: bool = True, first: int | None = None
) -> list[Event]:
    """S7, S9: the events of an entity in its window as of t, in any order.

    Args:
        events: the rows written.
        key: the entity.
        t: the instant.
        window: the window.
        as_known: S6: whether what was not available by t counts for nothing.
        first: the window's first instant, where it is not the rule's.
    """
    if any(part is None for part in key):
        return []
    versions: dict[Hashable, Event] = {}
    for number, row in enumerate(events):
        if row.key == key and (row.known <= t or not as_known):
            name = ("row", number) if row.id is None else ("event", row.id)
            if name not in versions or row.known > versions[name].known:
                versions[name] = row
    tail = window.tail(t) if first is None else first
    return [row for row in versions.values() if tail <= row.event <= t]


def order(value: Any) -> tuple[bool, Any]:
    """The order of values: NaN above every number, as in Polars."""
    return (value != value, 0.0 if value != value else value)


def inputs(rows: Sequence[Event], value: Callable[[Event], Any], where: Callable[[Event], Any] | None) -> list[list[Any]]:
    """S8: what an aggregate sees: no nulls, oldest first; those equal in both times together, in the order of their values."""
    times: dict[tuple[int, int], list[Any]] = {}
    for row in sorted(rows, key=lambda row: (row.event, row.known)):
        if (where is None or where(row) is True) and value(row) is not None:
            times.setdefault((row.event, row.known), []).append(value(row))
    return [sorted(values, key=order) for values in times.values()]


def total(values: Sequence[Any]) -> Any:
    """The exact sum: of integers an integer, of floats the float nearest to it; NaN and infinities as IEEE 754 has them."""
    wild = [value for value in values if not math.isfinite(value)]
    if wild:
        return math.fsum(wild) if len(set(wild)) == 1 and not math.isnan(wild[0]) else math.nan
    return math.fsum(values) if any(isinstance(value, float) for value in values) else sum(values)


def mean(values: Sequence[Any]) -> float | None:
    if not values:
        return None
    if not all(map(math.isfinite, values)):
        return total(values)
    return float(sum(map(Fraction, values)) / len(values))


def variance(values: Sequence[Any]) -> float | None:
    if len(values) < 2:
        return None
    if not all(map(math.isfinite, values)):
        return math.nan
    exact = [Fraction(value) for value in values]
    middle = sum(exact) / len(exact)
    return float(sum((value - middle) ** 2 for value in exact) / (len(exact) - 1))


def deviation(values: Sequence[Any]) -> float | None:
    found = variance(values)
    return None if found is None else math.sqrt(found)


def least(values: Sequence[Any]) -> Any:
    """As Polars' min: a NaN only where there is nothing else."""
    return min([value for value in values if value == value] or values, default=None)


def greatest(values: Sequence[Any]) -> Any:
    return max([value for value in values if value == value] or values, default=None)


def distinct(values: Sequence[Any]) -> int:
    """-0.0 and 0.0 are one value, and all NaNs are one."""
    return len({value if value == value else "NaN" for value in values})


def neighbours(values: Sequence[Any], q: float) -> tuple[float, float, float]:
    """The two values that a quantile lies between, and how far from the first to the second."""
    ranked = sorted(values, key=order)
    place = q * (len(ranked) - 1)
    return float(ranked[math.floor(place)]), float(ranked[math.ceil(place)]), place - math.floor(place)


def quantile(values: Sequence[Any], q: float) -> float | None:
    """By linear interpolation."""
    if not values:
        return None
    low, high, share = neighbours(values, q)
    return low if low == high or share == 0 else low + share * (high - low)


@dataclass(frozen=True)
class Rule:
    """What an aggregate is.

    Args:
        of: its value, of the inputs oldest first, and of its own arguments.
        error: by how much the store's value may differ, of the same, where all inputs are finite; None for not at all.
        measure: what of the two values is compared.
    """

    of: Callable[..., Any]
    error: Callable[..., float] | None = None
    measure: Callable[[float], float] = float


def _magnitudes(values: Sequence[Any]) -> float:
    return RELATIVE * math.fsum(map(abs, values))


def _squares(values: Sequence[Any]) -> float:
    return RELATIVE * math.fsum(float(value) ** 2 for value in values) / (len(values) - 1)


def _interpolated(values: Sequence[Any], q: float) -> float:
    low, high, share = neighbours(values, q)
    if len(values) > EXACT_QUANTILE:
        return abs(high - low) + SKETCH * max(abs(low), abs(high))
    # It is one of the values, or between two of them, where the products may be rounded in whatever way they are written.
    return 0.0 if share == 0 or low == high else 4e-16 * len(values) * max(abs(low), abs(high))


RULES: dict[str, Rule] = {
    "count": Rule(len),
    "count_distinct": Rule(distinct),
    "first": Rule(lambda values: values[0] if values else None),
    "last": Rule(lambda values: values[-1] if values else None),
    "last_n": Rule(lambda values, n: list(values[-n:])),
    "max": Rule(greatest),
    "mean": Rule(mean, lambda values: _magnitudes(values) / len(values)),
    "min": Rule(least),
    "quantile": Rule(quantile, _interpolated),
    "std": Rule(deviation, _squares, lambda value: value * value),
    "sum": Rule(total, lambda values: 0.0 if all(isinstance(value, int) for value in values) else _magnitudes(values)),
    "var": Rule(variance, _squares),
}
"""For each aggregate, by the name it has in ``featurestore.aggregates``, what it is."""


def agrees(name: str, inputs: Sequence[Sequence[Any]], found: Any, *arguments: Any) -> bool:
    """S10: whether an aggregate of these inputs, oldest first and those of one instant together, may be what was found."""
    rule = RULES[name]
    values = [value for together in inputs for value in together]
    if name == "sum" and not values:
        return found == 0 and found is not False  # of no integers 0, of no floats 0.0
    if name == "last_n":
        return isinstance(found, list) and _are_last(inputs, found, *arguments)
    expected = rule.of(values, *arguments)
    if rule.error is None or not isinstance(expected, float) or not math.isfinite(expected):
        return same(found, expected)
    if not isinstance(found, float) or not math.isfinite(found):
        return False
    return abs(rule.measure(found) - rule.measure(expected)) <= rule.error(values, *arguments)


def _are_last(inputs: Sequence[Sequence[Any]], found: list[Any], n: int) -> bool:
    """Whether values are the last ones; nothing is said of the order of those of one instant, nor which of them are left out."""
    if len(found) != min(n, sum(map(len, inputs))):
        return False
    end = len(found)
    for together in reversed(inputs):
        newest = found[max(0, end - len(together)) : end]
        for value in newest:
            if sum(same(value, each) for each in newest) > sum(same(value, each) for each in together):
                return False
        end -= len(newest)
    return True


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same; all NaNs are."""
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (one != one and other != other)
    return type(one) is type(other) and one == other
