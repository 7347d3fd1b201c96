"""Entries as rows: each type as JSON and as text, and each entry judged by itself."""

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

from featurestore import StreamSource
from featurestore.streams.base import Entry
from featurestore.streams.decoder import Decoded, EntryDecoder, entry_texts

AT = datetime(2013, 7, 1, 12, tzinfo=UTC)
MICROS = int(AT.timestamp() * 1e6)


def decoded(dtype: Any, *values: Any, text: bool = False) -> Decoded:
    source = StreamSource("s", "redis://h", topic="t", columns={"v": dtype, "at": datetime}, event_time="at",
                          payload=None if text else "payload")  # fmt: skip
    entries = []
    for number, value in enumerate(values):
        fields = (
            {b"v": value.encode(), b"at": b"2013-07-01"} if text else {b"payload": json.dumps({"v": value, "at": MICROS}).encode()}
        )
        entries.append(Entry(f"{number}-0", number, fields))
    return EntryDecoder(source).decode(entries)


@pytest.mark.parametrize(
    ("dtype", "given", "expected"),
    [
        (str, "a", "a"), (int, 2**62, 2**62), (pl.UInt64, 2**64 - 1, 2**64 - 1), (pl.Int8, -128, -128), (float, 1, 1.0),
        (bool, True, True), (bytes, "AAE=", b"\x00\x01"),
        (date, "2013-07-01", date(2013, 7, 1)),
        (datetime, "2013-07-01T12:00:00Z", AT), (datetime, "2013-07-01 14:00+02:00", AT), (datetime, MICROS, AT),
        (Decimal, "1.5", Decimal("1.5")), (list[int], [1, None, 3], [1, None, 3]),
        (pl.Array(pl.Float32, 2), [1.0, 0.5], [1.0, 0.5]),
        (pl.Duration("us"), "PT1.5S", timedelta(seconds=1.5)), (str, None, None), (datetime, None, None), (list[str], None, None),
    ],
)  # fmt: skip
def test_json(dtype: Any, given: Any, expected: Any) -> None:
    found = decoded(dtype, given, given)
    assert found.faulty == ()
    assert found.rows["v"].to_list() == [expected, expected]
    assert found.rows.columns == ["v", "at", "entry_id", "entry_time"]
    assert found.rows["at"].to_list() == [AT, AT]
    assert found.rows["entry_id"].to_list() == ["0-0", "1-0"]


@pytest.mark.parametrize(
    ("dtype", "given"),
    [
        (int, "1"), (int, 1.5), (int, 2**63), (pl.UInt64, 2**64), (pl.Int8, 128), (pl.UInt8, -1), (str, 1), (bool, 1),
        (float, "1"), (bytes, "!"),
        (date, "July"), (datetime, "July"), (datetime, 1.5), (datetime, 2**62), (list[int], ["a"]), (list[int], 1),
        (pl.Array(pl.Float32, 2), [1.0]), (pl.Array(pl.Float32, 2), [1.0, None]),
    ],
)  # fmt: skip
def test_what_fits_no_column_is_told_and_the_others_go_on(dtype: Any, given: Any) -> None:
    found = decoded(dtype, None, given, None)
    assert [entry.id for entry, _ in found.faulty] == ["1-0"]
    assert [entry.id for entry in found.entries] == ["0-0", "2-0"] == found.rows["entry_id"].to_list()


@pytest.mark.parametrize(
    ("dtype", "text", "expected"),
    [
        (str, "", ""), (str, "1", "1"), (int, "1", 1), (int, "", None), (float, "1.5", 1.5), (bool, "true", True),
        (date, "2013-07-01", date(2013, 7, 1)),
        (datetime, "2013-07-01T12:00", AT), (datetime, str(MICROS), AT), (Decimal, "2.50", Decimal("2.5")),
    ],
)  # fmt: skip
def test_text(dtype: Any, text: str, expected: Any) -> None:
    assert decoded(dtype, text, text=True).rows["v"].to_list() == [expected]


@pytest.mark.parametrize(("dtype", "text"), [(int, "1.5"), (float, "x"), (bool, "maybe"), (datetime, "9" * 19), (date, "13-7-1")])
def test_text_that_fits_no_column(dtype: Any, text: str) -> None:
    assert len(decoded(dtype, text, text=True).faulty) == 1


def test_entries_cannot_speak_for_each_other() -> None:
    source = StreamSource("s", "redis://h", topic="t", columns={"k": str, "at": datetime}, event_time="at")
    halves = [b'{"k":"a","at":1},{"k":"', b'","at":1}', b'{"k":"a","at":1}{"k":"b","at":2}', b"", b"null"]
    found = EntryDecoder(source).decode([Entry(f"{n}-0", n, {b"payload": half}) for n, half in enumerate(halves)])
    assert len(found.faulty) == len(halves)
    assert found.rows.is_empty()


def test_what_is_no_text_is_shown_as_its_bytes() -> None:
    assert entry_texts(Entry("1-0", 0, {b"payload": b"a\xff"})) == {"payload": "a\\xff"}
