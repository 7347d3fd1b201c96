"""Rows of a request, from what was typed."""

import re
from datetime import UTC, date, datetime
from typing import Any

import polars as pl
import pytest

from featurestore.cli.arguments import parse_pairs, split_features
from featurestore.errors import RequestError

KEYS: dict[str, pl.DataType] = {"origin": pl.String(), "gate": pl.Int16()}


@pytest.mark.parametrize(
    ("dtype", "text", "value"),
    [
        (pl.String(), "7", "7"),
        (pl.Int64(), "-7", -7),
        (pl.UInt8(), "7", 7),
        (pl.Float64(), "2475", 2475.0),
        (pl.Boolean(), "True", True),
        (pl.Boolean(), "false", False),
        (pl.Binary(), "é", "é".encode()),
        (pl.Date(), "2013-07-01", date(2013, 7, 1)),
        (pl.Datetime("us", "UTC"), "2013-07-01T12:00", datetime(2013, 7, 1, 12, tzinfo=UTC)),
        (pl.Int64(), "", None),
    ],
)
def test_a_value_gets_the_type_of_its_key_or_field(dtype: pl.DataType, text: str, value: Any) -> None:
    for keys, fields in (({"key": dtype}, {}), ({}, {"key": dtype})):
        [row] = parse_pairs([f"key={text}"], keys, fields)
        assert (row["key"], type(row["key"])) == (value, type(value))


def test_lists_make_rows_and_single_values_go_into_each() -> None:
    rows = parse_pairs(["origin=JFK,LGA", "gate=7"], KEYS, {})
    assert rows == [{"origin": "JFK", "gate": 7}, {"origin": "LGA", "gate": 7}]


def test_whether_a_field_must_be_there_is_the_requests_to_say() -> None:
    fields: dict[str, pl.DataType] = {"distance": pl.Float64()}
    assert parse_pairs(["origin=JFK", "gate=7"], KEYS, fields) == [{"origin": "JFK", "gate": 7}]
    rows = parse_pairs(["origin=JFK", "gate=7", "distance=1,2.5"], KEYS, fields)
    assert [row["distance"] for row in rows] == [1.0, 2.5]
    with pytest.raises(RequestError, match=r"no key or request field 'distanc'\. Did you mean 'distance'"):
        parse_pairs(["distanc=1"], KEYS, fields)


def test_a_value_may_hold_the_sign() -> None:
    assert parse_pairs(["origin=a=b", "gate=1"], KEYS, {}) == [{"origin": "a=b", "gate": 1}]


@pytest.mark.parametrize(
    ("pairs", "told"),
    [
        (["origin=JFK,LGA", "gate=1,2,3"], "equally long: origin has 2, gate has 3"),
        (["origin=JFK", "gate=B"], "gate='B': 'gate' is Int16"),
        (["origin=JFK", "gat=1"], "Did you mean 'gate'?"),
        (["origin=JFK"], "Say gate=… too"),
    ],
)
def test_what_does_not_fit_is_told(pairs: list[str], told: str) -> None:
    with pytest.raises(RequestError, match=re.escape(told)):
        parse_pairs(pairs, KEYS, {})


def test_features_are_told_from_keys() -> None:
    assert split_features(["weather", "origin=JFK", "plane.seats"]) == (["weather", "plane.seats"], ["origin=JFK"])
