"""Forgotten entities: known by keyed hashes alone, so that their rows can be told without keeping whose they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import polars as pl

from featurestore.codec import encode_keys
from featurestore.spec.entity import Entity

_SIZE = 16


@dataclass(frozen=True)
class Graves:
    """The forgotten entities of a project at one instant.

    Args:
        change: tells this instant's tombstones from others.
        secret: the key of the hashes.
        digests: by the entity's name, the hash of each that was forgotten.
    """

    change: int = 0
    secret: bytes = field(default=b"", repr=False)
    digests: Mapping[str, frozenset[bytes]] = field(default_factory=dict, repr=False)

    def __bool__(self) -> bool:
        return bool(self.digests)

    def hold(self, entity: str, encoded: Sequence[bytes]) -> list[bool]:
        """Tells of each entity, by its encoded join keys, whether it was forgotten."""
        digests = self.digests.get(entity, frozenset())
        return [digest(self.secret, key) in digests for key in encoded] if digests else [False] * len(encoded)

    def rows_of(self, entity: str, keys: pl.DataFrame) -> pl.Series:
        """Tells of each row of join keys, in the entity's order and types, whether its entity was forgotten."""
        if entity not in self.digests:
            return pl.repeat(value=False, n=keys.height, dtype=pl.Boolean, eager=True)
        each = keys.unique(maintain_order=True)
        gone = each.filter(pl.Series(self.hold(entity, encode_keys(each)), dtype=pl.Boolean))
        if gone.is_empty():
            return pl.repeat(value=False, n=keys.height, dtype=pl.Boolean, eager=True)
        return among(keys, gone)


def digest(secret: bytes, encoded: bytes) -> bytes:
    """Returns the keyed hash of an entity's encoded join keys.

    Example:
        >>> len(digest(b"secret", b"42"))
        16
    """
    return blake2b(encoded, key=secret, digest_size=_SIZE).digest()


def among(rows: pl.DataFrame, entities: pl.DataFrame) -> pl.Series:
    """Tells of each row whether its join keys, all of its columns, are those of one of some entities."""
    keys = rows.columns
    wanted = entities.select(keys).unique().with_columns(pl.lit(value=True).alias("_among"))
    joined = rows.join(wanted, on=keys, how="left", nulls_equal=True, maintain_order="left")
    return joined["_among"].fill_null(value=False)


def loosely_among(rows: pl.DataFrame, keys: Mapping[str, pl.DataType], entities: pl.DataFrame) -> pl.Series:
    """Tells of each row that a source gave, of whatever columns and types, whether it may be of one of some entities.

    Where the rows have all join keys, those decide, as text or in the type of the key. Else they came before a transform gave
    them the keys' names, and a row counts in which each of the entity's keys stands in some column.
    """
    found = pl.repeat(value=False, n=rows.height, dtype=pl.Boolean, eager=True)
    named = all(key in rows.columns for key in keys)
    for entity in entities.iter_rows(named=True):
        hit = pl.repeat(value=True, n=rows.height, dtype=pl.Boolean, eager=True)
        for key, dtype in keys.items():
            columns = [rows[key]] if named else rows.get_columns()
            here = pl.repeat(value=False, n=rows.height, dtype=pl.Boolean, eager=True)
            for column in columns:
                here = here | _stands_in(column, pl.Series([entity[key]], dtype=dtype))
            hit = hit & here
        found = found | hit
    return found


def loose_keys(rows: pl.DataFrame, entity: Entity) -> list[pl.DataFrame]:
    """Returns what may be the join keys of rows that a source gave; empty where that cannot be said.

    Of an entity with one key, that is the column of its name or else every column; with several, the columns of their names.
    """
    if all(key in rows.columns for key in entity.keys):
        made = [_as_key(rows[key], dtype).alias(key) for key, dtype in entity.keys.items()]
        return [pl.DataFrame(made)]
    if len(entity.keys) == 1:
        [(key, dtype)] = entity.keys.items()
        return [pl.DataFrame([_as_key(column, dtype).alias(key)]) for column in rows.get_columns()]
    return []


def _as_key(column: pl.Series, dtype: pl.DataType) -> pl.Series:
    """Returns a column in a key's type, null where it has no such value."""
    try:
        return column.cast(dtype, strict=False)
    except pl.exceptions.PolarsError:
        return pl.repeat(None, column.len(), dtype=dtype, eager=True)


def _stands_in(column: pl.Series, value: pl.Series) -> pl.Series:
    text = value.cast(pl.String, strict=False) if value.dtype != pl.Binary else value
    equal: pl.Series = (_as_key(column, value.dtype) == value[0]).fill_null(value=False)
    if text.dtype == pl.String and column.dtype != pl.Binary and not column.dtype.is_nested():
        equal = equal | (_as_key(column, pl.String()) == text[0]).fill_null(value=False)
    return equal
