r"""The row codec: a row of features as bytes, the same for every online store, and the order that decides ties (S4).

A value is three MessagePack objects, one after the other, so that a service in any language can read it:

1. ``bin`` of 16 bytes: the event time, then the effective available time, each as microseconds since the epoch plus
   2**63, big-endian. Compared as unsigned bytes, the newer row is the greater one. Where the source names an ``order_by``, the
   ``bin`` has 32 bytes: after the times comes that number times 10**9, plus 2**127, big-endian; zeros for null.
2. ``array`` of the view's features, in their order, without the nulls at its end. Dates are days, times of day nanoseconds,
   durations and timestamps microseconds, all as integers; decimals are text; a fixed-size vector of numbers is ``bin`` of its
   elements, little-endian; everything else is MessagePack's own.
3. ``uint 32``: the CRC-32C of the key and of the value up to its last four bytes, little-endian, so that damage, and a value that
   stands under another's key, is noticed (``seal``, ``unpack_values``). It never decides which value is the greater one: two
   that agree in the objects before it agree in it.

Without the nulls at its end a row is what it was before its view got another feature that may be null, and one that has a
value there is greater: an array's first byte rises with its length.

A whole value, compared as unsigned bytes, therefore orders by event time, available time and then by the values: the one
total order of S4 and S15. A key is ``project/registry/view/version/{entity}``, where ``registry`` is the registry's id and
``entity`` is the join keys, each as one MessagePack object; the braces make a Redis Cluster keep all views of one entity together.
"""

import sys
from array import array
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Context, Decimal
from hashlib import blake2b
from operator import add
from struct import Struct
from typing import Any

import msgspec
import polars as pl
from crc32c import crc32c

from featurestore.clock import from_micros, to_micros
from featurestore.dtypes import inner_dtype
from featurestore.errors import OnlineStoreError

BIAS = 1 << 63
"""Added to a time, so that its unsigned big-endian bytes order as the times do, those before the epoch included."""

HEADER_SIZE = 18
MISSING = b"\xc4\x00\xc0\x00"
"""What stands for a value that is not there, when many are decoded at once: an empty header, nil for a row, and no checksum."""

_UINT32 = b"\xce"
_WHOLE = 0x48674BC7
"""The CRC-32C of any bytes followed by their own CRC-32C, little-endian: a whole value is checked in one call."""

_HEADER = Struct(">2sQQ")
_STATE = Struct(">2sQ8s")
_TIMES = Struct(">QQ")
_BOUND = Struct(">Q")
_SINGLE = Struct("<f")
_DIGITS = tuple(f"%.{digits}g" for digits in range(1, 10))
_LARGEST, _LEAST_NORMAL = 3.4028235e38, 2.0**-126
_FEW = 12
_BIN16 = b"\xc4\x10"
_BIN32 = b"\xc4\x20"
_ORDER_BIAS = 1 << 127
_EXACT = Context(prec=38)
_ARRAY32 = b"\xdd"
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode

_ELEMENTS: dict[Any, str] = {
    pl.Float32: "f", pl.Float64: "d", pl.Int8: "b", pl.Int16: "h", pl.Int32: "i", pl.Int64: "q",
    pl.UInt8: "B", pl.UInt16: "H", pl.UInt32: "I", pl.UInt64: "Q",
}  # fmt: skip
"""The ``array`` type code of each dtype whose vectors are packed as bytes."""


def _vector_code(dtype: pl.DataType) -> str | None:
    return _ELEMENTS.get(dtype.inner.base_type()) if isinstance(dtype, pl.Array) else None


def wire_dtype(dtype: pl.DataType) -> pl.DataType:
    """Return the dtype in which a column's values are written.

    Example:
        >>> wire_dtype(pl.List(pl.Date))
        List(Int32)
    """
    if isinstance(dtype, (pl.Datetime, pl.Duration, pl.Time)):
        return pl.Int64()
    if isinstance(dtype, pl.Date):
        return pl.Int32()
    if isinstance(dtype, (pl.Decimal, pl.Int128)):
        return pl.String()
    if isinstance(dtype, (pl.List, pl.Array)):
        return pl.List(wire_dtype(inner_dtype(dtype)))
    return dtype


def _wire_column(column: pl.Series) -> pl.Series | list[Any]:
    """Return a column as it is written: its values in the wire's dtype, vectors as bytes."""
    code = _vector_code(column.dtype)
    if code is None:
        return column.cast(wire_dtype(column.dtype))
    width = column.dtype.size * array(code).itemsize  # type: ignore[attr-defined]  # an Array has a size
    numbers = array(code, column.drop_nulls().explode().to_list())
    if sys.byteorder == "big":
        numbers.byteswap()
    packed = numbers.tobytes()
    rows = iter(range(0, len(packed), width))
    return [packed[(start := next(rows)) : start + width] if there else None for there in column.is_not_null().to_list()]


def _wire_rows(frame: pl.DataFrame) -> list[tuple[Any, ...]]:
    columns = [_wire_column(column) for column in frame.get_columns()]
    if not columns:
        return [()] * frame.height
    if all(isinstance(column, pl.Series) for column in columns):
        return pl.DataFrame(columns).rows()
    return list(zip(*(column if isinstance(column, list) else column.to_list() for column in columns), strict=True))


def _pack_row(row: tuple[Any, ...]) -> bytes:
    if row and row[-1] is None:
        end = len(row) - 1
        while end and row[end - 1] is None:
            end -= 1
        row = row[:end]
    return _encode(row)


def full_row(row: Sequence[Any], width: int) -> list[Any]:
    """Return a row with as many values as its view has features: null where it has none, less what a later version has.

    Example:
        >>> full_row([1.5], 3), full_row([1.5, 2], 1)
        ([1.5, None, None], [1.5])
    """
    return [*row[:width], *[None] * (width - len(row))]


def pack_rows(frame: pl.DataFrame) -> list[bytes]:
    """Return each row's values packed, without the header: what decides between rows of one key and time (S4)."""
    return [_pack_row(row) for row in _wire_rows(frame)]


def pack_values(frame: pl.DataFrame, features: Sequence[str], *, order: str | None = None) -> list[bytes]:
    """Return the online value of each row.

    Args:
        frame: the columns ``event_time``, ``available_time`` (effective) and the features.
        features: the view's features, in their order.
        order: the column of ``Decimal(38, 9)`` that orders rows of one key and time before their values do; None for none.
    """
    events = frame["event_time"].to_physical().to_list()
    available = frame["available_time"].to_physical().to_list()
    pack = _HEADER.pack
    rows = _wire_rows(frame.select(features))
    if order is not None:
        orders = [_pack_order(value) for value in frame[order].to_list()]
        return [
            pack(_BIN32, e + BIAS, a + BIAS) + o + _pack_row(row)
            for e, a, o, row in zip(events, available, orders, rows, strict=True)
        ]
    return [pack(_BIN16, e + BIAS, a + BIAS) + _pack_row(row) for e, a, row in zip(events, available, rows, strict=True)]


def _pack_order(value: Decimal | None) -> bytes:
    return bytes(16) if value is None else (int(value.scaleb(9, _EXACT)) + _ORDER_BIAS).to_bytes(16, "big")


def pack_state(event: int, body: Sequence[Any]) -> bytes:
    """Return the online value of a windowed view's entity (``plan.tiles``).

    Its header has the greatest event time, in microseconds, and a digest of the body: two values that begin alike are
    alike, so a writer can tell whether the one it read is still there.
    """
    packed = _encode(body)
    return _STATE.pack(_BIN16, event + BIAS, blake2b(packed, digest_size=8).digest()) + packed


def seal(key: bytes, value: bytes) -> bytes:
    """Return a value with its checksum, as the store keeps it under a key.

    Example:
        >>> unpack_values([b"flights/weather"], [seal(b"flights/weather", pack_state(0, [])[:19])])[1]
        []
    """
    value += _UINT32
    return value + crc32c(key + value).to_bytes(4, "little")


def is_whole(key: bytes, value: bytes) -> bool:
    """Return whether a value is what was written under a key, by its checksum."""
    return crc32c(key + value) == _WHOLE


def unpack_values(keys: Sequence[bytes | None], values: Sequence[bytes | None]) -> list[Any]:
    """Return headers and rows in turn, ``[header, row, header, row, …]``; an empty header and None for a missing value.

    All values are decoded in one call, which costs a third of as many calls.

    Args:
        keys: the key of each value.
        values: the values; None where there is none.

    Raises:
        OnlineStoreError: a value is not what was written under its key.
    """
    if None in values:
        sealed = [(key or b"") + value for key, value in zip(keys, values, strict=True) if value is not None]
        joined = b"".join([MISSING if value is None else value for value in values])
    else:
        sealed = list(map(add, keys, values))
        joined = b"".join(values)  # type: ignore[arg-type]  # none of them is None
    if not {_WHOLE}.issuperset(map(crc32c, sealed)):
        raise _damaged(keys, values)
    decoded: list[Any] = _decode(_ARRAY32 + (3 * len(values)).to_bytes(4, "big") + joined)
    del decoded[2::3]
    return decoded


def _damaged(keys: Sequence[bytes | None], values: Sequence[bytes | None]) -> OnlineStoreError:
    there = [(key or b"", value) for key, value in zip(keys, values, strict=True) if value is not None]
    wrong = [key for key, value in there if not is_whole(key, value)]
    # NOTE: of the key only what comes before the entity, which may be personal.
    views = sorted({key.partition(b"/{")[0].decode(errors="replace") for key in wrong})
    names = " ".join(dict.fromkeys(view.split("/")[-2] for view in views if view.count("/")))
    return OnlineStoreError(
        f"{len(wrong)} of {len(there)} values in the online store under {', '.join(f'{view}/{{…}}' for view in views)} are "
        "damaged, or something else wrote them: their checksums do not fit. Write them again from the history: "
        f"featurestore materialize --rebuild-online {names} (or: featurestore doctor --repair)"
    )


def unpack_times(header: bytes) -> tuple[int, int]:
    """Return the event time and the available time of a header, in microseconds."""
    event, available = _TIMES.unpack_from(header)
    return event - BIAS, available - BIAS


def oldest_header(micros: int) -> bytes:
    """Return the bound below which a header's event time lies before an instant: ``header < bound`` tells it is older."""
    return _BOUND.pack(min(max(micros, -BIAS), BIAS - 1) + BIAS)


def to_python(dtype: pl.DataType) -> Callable[[Any], Any] | None:
    """Return what turns a column's wire values into Python's, or None where they are that already.

    Example:
        >>> to_python(pl.Date())(0)
        datetime.date(1970, 1, 1)
        >>> to_python(pl.Float64()) is None
        True
    """
    code = _vector_code(dtype)
    if code is not None:
        return (lambda value: shortest_of(_vector(code, value))) if code == "f" else lambda value: _vector(code, value)
    if isinstance(dtype, pl.List) and inner_dtype(dtype) == pl.Float32():
        return shortest_of
    if isinstance(dtype, (pl.List, pl.Array)):
        inner = to_python(inner_dtype(dtype))
        return None if inner is None else lambda value: [None if item is None else inner(item) for item in value]
    return _TO_PYTHON.get(dtype.base_type())


def _vector(code: str, value: bytes) -> list[Any]:
    numbers = array(code, value)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()


def shortest(value: float) -> float:
    """Return the number that the shortest text of a Float32 says; as a Float32 it is the same one.

    Example:
        >>> shortest(1.1100000143051147)
        1.11
    """
    try:
        single = _SINGLE.pack(value)
    except OverflowError:  # no Float32
        return value
    for digits in _DIGITS[5 if abs(value) >= _LEAST_NORMAL else 0 :]:
        said = float(digits % value)
        # The greatest ones may round up to what no Float32 holds.
        if abs(said) <= _LARGEST and _SINGLE.pack(said) == single:
            return said
    return value


def shortest_of(values: list[Any]) -> list[Any]:
    """Return the same of each Float32 in a list."""
    if len(values) < _FEW:
        return [None if value is None else shortest(value) for value in values]
    return pl.Series(values, dtype=pl.Float32).cast(pl.String).cast(pl.Float64).to_list()


def _time_of_day(nanos: int) -> time:
    return (from_micros(0) + timedelta(microseconds=nanos // 1000)).time()


_TO_PYTHON: dict[Any, Callable[[Any], Any]] = {
    pl.Datetime: from_micros,
    pl.Date: lambda days: date.fromordinal(days + date(1970, 1, 1).toordinal()),
    pl.Time: _time_of_day,
    pl.Duration: lambda micros: timedelta(microseconds=micros),
    pl.Decimal: Decimal,
    pl.Float32: shortest,
}


def to_series(name: str, values: Sequence[Any], dtype: pl.DataType) -> pl.Series:
    """Return a column from its wire values."""
    code = _vector_code(dtype)
    if code is not None:
        return pl.Series(name, [None if value is None else _vector(code, value) for value in values], dtype=dtype)
    return pl.Series(name, values, dtype=wire_dtype(dtype)).cast(dtype)


_KEY_TYPES: Mapping[Any, tuple[type, ...]] = {
    pl.String: (str,),
    pl.Binary: (bytes,),
    pl.Boolean: (bool,),
    pl.Date: (date,),
    pl.Datetime: (datetime,),
}


def _day_number(day: date) -> int:
    return day.toordinal() - date(1970, 1, 1).toordinal()


def key_type(dtype: pl.DataType) -> type:
    """Return the Python type that a join key of a dtype has in a request.

    Example:
        >>> key_type(pl.Int32())
        <class 'int'>
    """
    return _KEY_TYPES.get(dtype.base_type(), (int,))[0]


def key_encoder(dtype: pl.DataType) -> Callable[[Any], bytes]:
    """Return what encodes one join key of a dtype, given as ``key_type`` says."""
    if isinstance(dtype, pl.Datetime):
        return lambda value: _encode(to_micros(value))
    if isinstance(dtype, pl.Date):
        return lambda value: _encode(_day_number(value))
    return _encode


def encode_keys(frame: pl.DataFrame) -> list[bytes]:
    """Return each row's join keys, encoded; the columns are the keys in the entity's order."""
    columns = [column.cast(wire_dtype(column.dtype)).to_list() for column in frame.get_columns()]
    if len(columns) == 1:
        return [_encode(value) for value in columns[0]]
    return [b"".join([_encode(value) for value in values]) for values in zip(*columns, strict=True)]


def decode_keys(encoded: Sequence[bytes], keys: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Return the join keys that ``encode_keys`` encoded.

    Example:
        >>> decode_keys([b"*"], {"user_id": pl.Int64()}).rows()
        [(42,)]
    """
    rows: list[list[Any]] = [_decode(_ARRAY32 + len(keys).to_bytes(4, "big") + encoded_key) for encoded_key in encoded]
    columns = list(zip(*rows, strict=True)) or [()] * len(keys)
    return pl.DataFrame([to_series(key, values, dtype) for (key, dtype), values in zip(keys.items(), columns, strict=True)])


def key_prefix(space: str, view: str, data_version: int) -> bytes:
    """Return what the keys of one version of a view begin with.

    Args:
        space: the project and its registry's id, ``project/id``.
        view: the view.
        data_version: its data version.

    Example:
        >>> key_prefix("flights/5k2m8xqa", "weather", 1)
        b'flights/5k2m8xqa/weather/1/'
    """
    return f"{space}/{view}/{data_version}/".encode()
