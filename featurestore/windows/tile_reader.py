"""The tile reader: the values of a windowed view's windows at the time of an online read."""

import sys
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from functools import partial
from itertools import chain
from struct import Struct
from typing import Any

import polars as pl

from featurestore.aggregates.sums import Sum
from featurestore.definitions.feature import FeatureSpec
from featurestore.definitions.feature_view import ViewSpec
from featurestore.definitions.window import WindowSpec
from featurestore.windows.lookup import empty_value
from featurestore.windows.tiles import BITS_A_MASK, TileGroup, TileLayout, little_endian

Finish = Callable[[Sequence[Any], Sequence[Sequence[Any]], int], Any]
"""Makes a feature's value of a record's numbers, the loose columns, and the record's place along them."""

_FLOAT = Struct("<f")
_DIGITS = Context(prec=38)


@dataclass(frozen=True, slots=True)
class _Span:
    """The windows of one length in a group: which features they make, and of what."""

    size: int
    packed: tuple[tuple[int, int, int, Finish], ...]
    loose: tuple[tuple[int, Finish], ...]


@dataclass(frozen=True, slots=True)
class _GroupRead:
    """What is looked at in a group: ``whole`` in place of ``spans`` where it has more loose columns than it always has."""

    number: int
    tile: int
    record: Struct
    always: int
    spans: tuple[_Span, ...]
    whole: tuple[_Span, ...]


@dataclass(frozen=True, slots=True)
class WindowValues:
    """Read some features of a windowed view's values.

    Args:
        groups: which groups are looked at, and for what.
        blank: the features' values over no events (S8).
    """

    groups: tuple[_GroupRead, ...]
    blank: tuple[Any, ...]

    @classmethod
    def of(cls, view: ViewSpec, asked: Sequence[FeatureSpec]) -> "WindowValues":
        """Return what reads features of a view, in the order asked for."""
        groups = []
        for number, group in enumerate(TileLayout.of(view).groups):
            spans = _spans(group, asked, spare=False)
            if spans:
                kinds = "".join("d" if group.dtypes[name].is_float() else "q" for name in group.packed)
                record = Struct("<" + "q" * group.masks + kinds)
                whole = _spans(group, asked, spare=True) if group.spare else spans
                groups.append(_GroupRead(number, group.tile, record, len(group.loose) - len(group.spare), spans, whole))
        return cls(tuple(groups), tuple(map(_written, (empty_value(feature) for feature in asked))))

    def read(self, groups: Sequence[Sequence[Any]], now: int) -> list[Any]:
        """Return the features' values at an instant, in microseconds, of an entity's groups."""
        values = list(self.blank)
        for group in self.groups:
            tiles, records, loose = groups[group.number]
            numbers = memoryview(tiles if sys.byteorder == "little" else little_endian(tiles)).cast("q")
            record, tile = group.record, group.tile
            for span in group.spans if len(loose) <= group.always else group.whole:
                place = bisect_left(numbers, (now - span.size) // tile)
                if place == len(numbers):
                    continue
                if span.packed:
                    fields = record.unpack_from(records, place * record.size)
                    for at, mask, bit, finish in span.packed:
                        if fields[mask] & bit:
                            values[at] = finish(fields, loose, place)
                for at, finish in span.loose:
                    value = finish(record.unpack_from(records, place * record.size), loose, place)
                    if value is not _NOTHING:
                        values[at] = value
        return values


def _spans(group: TileGroup, asked: Sequence[FeatureSpec], *, spare: bool) -> tuple[_Span, ...]:
    """Return what is looked at in a group, with or without the columns that are hardly ever there."""
    spans: dict[int, tuple[list[tuple[int, int, int, Finish]], list[tuple[int, Finish]]]] = {}
    for place, feature in enumerate(asked):
        window = feature.window
        if window is None or window.tile != group.tile:
            continue
        packed, loose = spans.setdefault(window.size, ([], []))
        names = [name for name in group.states.columns_of(window) if spare or name not in group.spare]
        if all(name in group.packed for name in names):
            bit = group.packed.index(names[0])
            packed.append((place, bit // BITS_A_MASK, 1 << bit % BITS_A_MASK, _of_numbers(group, window, names, feature.dtype)))
        else:
            loose.append((place, _of_any(group, window, names, feature.dtype)))
    return tuple(_Span(size, tuple(packed), tuple(loose)) for size, (packed, loose) in spans.items())


_NOTHING = object()


def _written(value: Any) -> Any:
    """Return a value as the row codec writes it."""
    return str(value) if isinstance(value, Decimal) else value


def _of_numbers(group: TileGroup, window: WindowSpec, names: Sequence[str], dtype: pl.DataType) -> Finish:
    """Return what finishes an aggregate of which all is kept as numbers."""
    at = [group.masks + group.packed.index(name) for name in names]
    finish, convert = window.aggregate.finish, None if isinstance(dtype, pl.Int64) else _converter(window, dtype)
    if len(at) == 1:
        only = at[0]
        if convert is None:
            return lambda fields, loose, place: finish(fields[only])
        return lambda fields, loose, place: convert(finish(fields[only]))
    if len(at) == 2 and convert is None:
        first, second = at
        return lambda fields, loose, place: finish(fields[first], fields[second])
    if convert is None:
        return lambda fields, loose, place: finish(*[fields[field_place] for field_place in at])
    return lambda fields, loose, place: convert(finish(*[fields[field_place] for field_place in at]))


def _of_any(group: TileGroup, window: WindowSpec, names: Sequence[str], dtype: pl.DataType) -> Finish:
    """Return what finishes an aggregate of which some is kept as lists or text."""
    finish, convert = window.aggregate.finish, _converter(window, dtype)
    takes = [_taker(group, name) for name in names]

    def value(fields: Sequence[Any], loose: Sequence[Sequence[Any]], place: int) -> Any:
        columns = [take(fields, loose, place) for take in takes]
        if columns[0] is None:
            return _NOTHING
        finished = finish(*columns)
        return finished if convert is None or finished is None else convert(finished)

    return value


def _taker(group: TileGroup, name: str) -> Finish:
    if name in group.packed:
        bit = group.packed.index(name)
        at, mask, flag = group.masks + bit, bit // BITS_A_MASK, 1 << bit % BITS_A_MASK
        return lambda fields, loose, place: fields[at] if fields[mask] & flag else None
    number = group.loose.index(name)
    if name in group.spare:
        return lambda fields, loose, place: loose[number][place] if number < len(loose) else None
    if name not in group.listed:
        return lambda fields, loose, place: loose[number][place]
    # A record has its own tile's list: those of the tiles from there on are joined.
    return lambda fields, loose, place: list(chain.from_iterable(filter(None, loose[number][place:]))) or None


def _converter(window: WindowSpec, dtype: pl.DataType) -> Callable[[Any], Any] | None:
    """Return what makes a number the value that the dtype has for it, null where it has none (S22); None where it is that."""
    if isinstance(dtype, pl.Boolean):
        return bool
    if isinstance(dtype, pl.Float32):
        return _single
    if isinstance(dtype, pl.Decimal) and isinstance(window.aggregate, Sum):
        return partial(_decimal, dtype.scale, 10 ** (dtype.precision or 38))
    if dtype.is_integer() and window.aggregate.empty == 0:  # others are one of the inputs
        bits = int(str(dtype).removeprefix("U").removeprefix("Int"))
        low, high = (0, 2**bits - 1) if dtype.is_unsigned_integer() else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        return lambda value: value if low <= value <= high else None
    return None


def _single(value: float | None) -> float | None:
    """Return a number as a Float32."""
    try:
        return None if value is None else float(_FLOAT.unpack(_FLOAT.pack(value))[0])
    except OverflowError:
        return None


def _decimal(scale: int, bound: int, units: int) -> str | None:
    """Return an integer of a decimal's last digit as the row codec writes the decimal."""
    return str(Decimal(units).scaleb(-scale, _DIGITS)) if -bound < units < bound else None
