"""Entities: what may be a key, and what is told of what may not."""

from typing import Any

import polars as pl
import pytest

from featurestore import Entity
from featurestore.errors import DefinitionError


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "has no join key; name one"),
        ({"x": float}, "cannot be compared reliably"),
        ({"x": pl.List(pl.Int64)}, "cannot be compared reliably"),
        ({"event_time": int}, "the store uses that name"),
        ({"_hash": int}, "the store uses that name"),
        ({"x": complex}, "is not a type a column can have"),
    ],
)
def test_keys_that_cannot_be_are_told(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        Entity("user", **keys)


def test_a_name_that_cannot_be_is_told() -> None:
    with pytest.raises(DefinitionError, match="is not a valid name for an entity"):
        Entity("the user", id=int)
