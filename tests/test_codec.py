"""The row codec: what is written is read back, and its bytes order as S4 and S15 say."""

import math
from struct import unpack
from typing import Any

import msgspec
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.errors import OnlineStoreError
from featurestore.row_codec import (
    encode_keys,
    full_row,
    key_encoder,
    oldest_header,
    pack_values,
    seal,
    shortest,
    shortest_of,
    unpack_times,
    unpack_values,
)

INSTANT = pl.Datetime("us", "UTC")
MICROS = st.integers(-(2**62), 2**62)
VALUES = st.tuples(st.none() | st.floats(), st.none() | st.text(max_size=5), st.none() | st.integers(-(2**63), 2**63 - 1))
SCHEMA = {"event_time": pl.Int64, "available_time": pl.Int64, "x": pl.Float64, "s": pl.String, "i": pl.Int64}


def packed(rows: list[tuple[Any, ...]]) -> list[bytes]:
    frame = pl.DataFrame(rows, schema=SCHEMA, orient="row").with_columns(pl.col("event_time", "available_time").cast(INSTANT))
    return pack_values(frame, ["x", "s", "i"])


def without_last_nulls(row: tuple[Any, ...]) -> tuple[Any, ...]:
    while row and row[-1] is None:
        row = row[:-1]
    return row


@given(st.lists(st.tuples(MICROS, MICROS, VALUES), max_size=8))
def test_what_is_written_is_read_back(rows: list[tuple[int, int, tuple[Any, ...]]]) -> None:
    values = packed([(event, available, *given) for event, available, given in rows])
    keys = [b"key/%d" % number for number in range(len(values))]
    decoded = unpack_values([*keys, b"gone"], [*(seal(key, value) for key, value in zip(keys, values, strict=True)), None])
    assert decoded[-2:] == [b"", None]
    for header, row, (event, available, row_given) in zip(decoded[:-2:2], decoded[1:-2:2], rows, strict=True):
        assert unpack_times(header) == (event, available)
        assert not row or row[-1] is not None
        whole = zip(full_row(row, 3), row_given, strict=True)
        assert all(one == other or (math.isnan(one) and math.isnan(other)) for one, other in whole)


@given(st.tuples(MICROS, MICROS, VALUES), st.tuples(MICROS, MICROS, VALUES))
def test_s4_s15_bytes_order_by_event_then_available_time_then_values(one: Any, other: Any) -> None:
    first, second = packed([(*one[:2], *one[2]), (*other[:2], *other[2])])
    keys = [(event, available, msgspec.msgpack.encode(without_last_nulls(row))) for event, available, row in (one, other)]
    assert (first > second) is (keys[0] > keys[1])


@given(st.tuples(MICROS, MICROS, VALUES), st.tuples(MICROS, MICROS, VALUES))
def test_s4_a_feature_that_was_added_and_is_null_changes_no_byte_and_one_with_a_value_is_greater(one: Any, other: Any) -> None:
    rows = [(*one[:2], *one[2]), (*other[:2], *other[2])]
    times = pl.col("event_time", "available_time").cast(INSTANT)
    frame = pl.DataFrame(rows, schema=SCHEMA, orient="row").with_columns(times)
    later = frame.with_columns(new=pl.lit(None, pl.Int64))
    assert pack_values(later, ["x", "s", "i", "new"]) == packed(rows)
    filled = pack_values(frame.with_columns(new=pl.lit(0, pl.Int64)), ["x", "s", "i", "new"])
    assert all(longer > shorter for longer, shorter in zip(filled, packed(rows), strict=True))


@given(MICROS, MICROS)
def test_s3_the_bound_of_a_ttl_is_inclusive(event: int, bound: int) -> None:
    header = unpack_values([b"k"], [seal(b"k", packed([(event, event, None, None, None)])[0])])[0]
    assert (header < oldest_header(bound)) is (event < bound)


def test_a_service_in_any_language_can_read_it() -> None:
    """The value is two MessagePack objects: the times as biased big-endian numbers, and the row."""
    [value] = packed([(1, 2, 1.5, "a", -1)])
    assert value.hex() == "c4108000000000000001800000000000000293cb3ff8000000000000a161ff"
    assert [number - 2**63 for number in unpack(">QQ", value[2:18])] == [1, 2]
    assert msgspec.msgpack.decode(value[18:]) == [1.5, "a", -1]
    assert [value[18:].hex() for value in packed([(1, 2, 1.5, None, None), (1, 2, None, "a", None), (1, 2, None, None, None)])] == [
        "91cb3ff8000000000000", "92c0a161", "90",
    ]  # fmt: skip


def test_keys_are_message_pack_and_never_run_together() -> None:
    frame = pl.DataFrame({"a": ["x", "xy"], "b": ["yz", "z"]})
    assert encode_keys(frame) == [b"\xa1x\xa2yz", b"\xa2xy\xa1z"]
    assert encode_keys(frame.select("a"))[0] == key_encoder(pl.String())("x") == b"\xa1x"


def test_foreign_bytes_are_told() -> None:
    with pytest.raises(OnlineStoreError, match=r"1 of 1 values .* under p/r/view/1/\{…\} .*--rebuild-online view"):
        unpack_values([b"p/r/view/1/{secret}"], [b"\x93\x01"])


SINGLES = [1.11, 0.1, 16777216.0, 3.4028234663852886e38, -3.4028234663852886e38, 2.0**-149, -0.0, math.inf, 1e-40, 2.0**-126]


@given(st.lists(st.one_of(st.sampled_from(SINGLES), st.floats(width=32)), min_size=1, max_size=20))
def test_a_float32_is_shown_by_its_shortest_text_and_loses_nothing(values: list[float]) -> None:
    """As Polars writes it; as a Float32 it is the same, alone and among many."""
    singles = pl.Series(values, dtype=pl.Float32)
    shown = [shortest(value) for value in singles.to_list()]
    told = [text for text in singles.cast(pl.String).to_list() if text != "NaN"]
    assert [repr(value) for value in shown if value == value] == [repr(float(text)) for text in told]
    assert pl.Series(shown, dtype=pl.Float32).equals(singles)
    assert repr(shortest_of([None, *singles.to_list()])) == repr([None, *shown])
