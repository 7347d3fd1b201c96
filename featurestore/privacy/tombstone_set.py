"""The set of forgotten entities: keyed hashes that match their rows without storing who they are."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import polars as pl

from featurestore.definitions.catalog import AppliedView
from featurestore.definitions.entity import Entity
from featurestore.row_codec import encode_keys
from featurestore.rows.python_values import in_calendar, values_of

_SIZE = 16


@dataclass(frozen=True)
class TombstoneSet:
    """The forgotten entities of a project at one instant.

    Args:
        change: tells this instant's tombstones from others.
        secret: the key of the hashes.
        digests: by the entity's name, the hash of each that was forgotten.
        former_secret: the key of the hashes that a former version made.
        former: by the entity's name, the hashes that a former version made: of the encoded keys, in the types they had then.
    """

    change: tuple[Any, ...] = ()
    secret: bytes = field(default=b"", repr=False)
    digests: Mapping[str, frozenset[bytes]] = field(default_factory=dict, repr=False)
    former_secret: bytes = field(default=b"", repr=False)
    former: Mapping[str, frozenset[bytes]] = field(default_factory=dict, repr=False)

    def __bool__(self) -> bool:
        return bool(self.digests or self.former)

    def concern(self, forms: Iterable[Entity]) -> bool:
        """Return whether anybody was forgotten under one of the names that an entity has or had."""
        return any(form.name in self.digests or form.name in self.former for form in forms)

    def rows_of(self, forms: Sequence[Entity], rows: pl.DataFrame) -> pl.Series:
        """Return of each row whether it is of an entity that was forgotten.

        Args:
            forms: the entity as it is and as it was: under former names, by former keys, with keys of former types.
            rows: rows, of any columns. A form counts where all of its keys are among them.
        """
        gone = _none(rows.height)
        if not self.concern(forms):
            return gone
        for names in dict.fromkeys(frozenset(form.keys) for form in forms):
            if not names <= set(rows.columns):
                continue
            keys = rows.select(sorted(names))
            distinct = keys.unique(maintain_order=True)
            hit = [False] * distinct.height
            same = [form for form in forms if form.keys.keys() == names]
            digests = frozenset[bytes]().union(*(self.digests.get(form.name, frozenset()) for form in same))
            if digests:
                hit = [key is not None and digest(self.secret, key) in digests for key in canonical_keys(distinct)]
            for form in same:
                if form.name in self.former:
                    encoded = former_keys(distinct, form)
                    hit = [one or (key is not None and digest(self.former_secret, key) in self.former[form.name])
                           for one, key in zip(hit, encoded, strict=True)]  # fmt: skip
            if any(hit):
                gone = gone | among(keys, distinct.filter(pl.Series(hit, dtype=pl.Boolean)))
        return gone


def digest(secret: bytes, key: bytes) -> bytes:
    """Return the keyed hash of an entity's join keys.

    Example:
        >>> len(digest(b"secret", b"42"))
        16
    """
    return blake2b(key, key=secret, digest_size=_SIZE).digest()


def canonical(column: pl.Series) -> list[bytes | None]:
    """Return what a column's values are whatever their type: 42 and "42" are one, and so are a date and its ISO text.

    Example:
        >>> canonical(pl.Series([42, None])), canonical(pl.Series(["42"]))
        ([b'42', None], [b'42'])
    """
    if column.dtype == pl.Binary:
        return column.to_list()
    if isinstance(column.dtype, (pl.Date, pl.Datetime)):
        column = in_calendar(column)  # a key is never beyond it
    if column.dtype.is_float():
        whole = column.cast(pl.Int64, strict=False)
        column = pl.select(pl.when(whole.cast(column.dtype) == column).then(whole.cast(pl.String))).to_series()
    elif isinstance(column.dtype, pl.Datetime):
        day, time = column.dt.strftime("%Y-%m-%d"), column.dt.strftime("%Y-%m-%dT%H:%M:%S%.6f")
        column = time.zip_with(~time.str.ends_with("T00:00:00.000000").fill_null(value=False), day)
    elif isinstance(column.dtype, pl.Duration):
        column = column.to_physical()
    elif column.dtype.is_nested() or isinstance(column.dtype, pl.Object):
        return [None] * column.len()
    return [None if value is None else value.encode("utf-8", "replace") for value in column.cast(pl.String, strict=False).to_list()]


def canonical_keys(keys: pl.DataFrame) -> list[bytes | None]:
    """Return join keys as the hashes take them: names and values, in the names' order; None where one is null."""
    names = sorted(keys.columns)
    heads = [b"%d:%b" % (len(name.encode()), name.encode()) for name in names]
    columns = [canonical(keys[name]) for name in names]
    return [_joined(heads, values) for values in zip(*columns, strict=True)]


def _joined(heads: Sequence[bytes], values: Sequence[bytes | None]) -> bytes | None:
    parts = [b"%b%d:%b" % (head, len(value), value) for head, value in zip(heads, values, strict=True) if value is not None]
    return b"".join(parts) if len(parts) == len(heads) else None


def former_keys(keys: pl.DataFrame, form: Entity) -> list[bytes | None]:
    """Return join keys as a former version took them for its hashes: encoded, in the types of a form; None where none."""
    cast = pl.DataFrame([_as_key(keys[key], dtype).alias(key) for key, dtype in form.keys.items()])
    whole = cast.select(pl.all_horizontal(pl.all().is_not_null())).to_series().to_list()
    return [key if there else None for key, there in zip(encode_keys(cast), whole, strict=True)]


def keys_as(entities: pl.DataFrame, keys: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Return the keys of those entities that have a value in some types, in these: 1 as "1", "1" as 1, and not "01" as 1."""
    cast = pl.DataFrame([_as_key(entities[key], dtype).alias(key) for key, dtype in keys.items()])
    same = [one == other for one, other in zip(canonical_keys(cast), canonical_keys(entities), strict=True)]
    return cast.filter(pl.Series(same, dtype=pl.Boolean)).drop_nulls()


def related(views: Iterable[AppliedView]) -> dict[str, frozenset[str]]:
    """Return of each entity the names that it has and had.

    Two names are one entity's where a view was on both by the same keys, one after the other; or where views without a
    transform on one source are by the same keys, which are then the same columns.
    """
    groups: dict[str, set[str]] = {}
    places: dict[tuple[Any, ...], str] = {}
    for view in views:
        entity, keys = view.spec.entity.name, frozenset(view.spec.entity.keys)
        group = groups.setdefault(entity, {entity})
        read = () if view.spec.transform_digest else (("source", view.spec.source.name, keys),)
        for place in (("view", view.spec.name, keys), *read):
            other = groups[places.setdefault(place, entity)]
            if other is not group:
                group |= other
                groups.update(dict.fromkeys(other, group))
    return {name: frozenset(group) for name, group in groups.items()}


def forms_of(names: Iterable[str], views: Iterable[AppliedView]) -> list[Entity]:
    """Return the forms that entities of some names have or had, the latest first: each with other keys or other types."""
    wanted = set(names)
    forms: dict[tuple[Any, ...], Entity] = {}
    for view in views:
        entity = view.spec.entity
        if entity.name in wanted:
            form = (entity.name, *entity.keys.items())
            forms.pop(form, None)
            forms[form] = entity
    return list(reversed(forms.values()))


def among(rows: pl.DataFrame, entities: pl.DataFrame) -> pl.Series:
    """Return of each row whether its join keys, all of its columns, are those of one of some entities."""
    keys = rows.columns
    wanted = entities.select(keys).unique().with_columns(pl.lit(value=True).alias("_among"))
    joined = rows.join(wanted, on=keys, how="left", nulls_equal=True, maintain_order="left")
    return joined["_among"].fill_null(value=False)


def loosely_among(rows: pl.DataFrame, keys: Iterable[str], entities: pl.DataFrame) -> pl.Series:
    """Return of each row that a source gave, of whatever columns and types, whether it may be of one of some entities.

    Where the rows have all join keys, those decide, as text or in the type of the key. Else they came before a transform gave
    them the keys' names, and a row counts in which each of the entity's keys stands in some column.
    """
    names = list(keys)
    wanted = set(zip(*(canonical(entities[name]) for name in names), strict=True))
    if all(name in rows.columns for name in names):
        matches = [forms in wanted for forms in zip(*(canonical(rows[name]) for name in names), strict=True)]
        return pl.Series(matches, dtype=pl.Boolean)
    cells: list[set[bytes | None]] = [set() for _ in range(rows.height)]
    for column in rows.get_columns():
        if column.dtype.is_nested() or isinstance(column.dtype, pl.Object):
            for cell, value in zip(cells, values_of(column), strict=True):
                cell.update(scalars(value))
        else:
            for cell, forms in zip(cells, canonical(column), strict=True):
                cell.add(forms)
    return pl.Series([any(cell.issuperset(forms) for forms in wanted) for cell in cells], dtype=pl.Boolean)


def loose_keys(rows: pl.DataFrame, entity: Entity) -> list[pl.DataFrame]:
    """Return what may be the join keys of rows that a source gave; empty where that cannot be said.

    Of an entity with one key, that is the column of its name or else every column; with several, the columns of their names.
    """
    if all(key in rows.columns for key in entity.keys):
        return [rows.select(entity.key_names)]
    if len(entity.keys) == 1:
        [key] = entity.keys
        return [column.alias(key).to_frame() for column in rows.get_columns() if not column.dtype.is_nested()]
    return []


def scalars(value: Any) -> Iterator[bytes]:
    """Yield the canonical values of all that is in a value: in lists and mappings of any depth, names included."""
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, Mapping):
            left += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple, pl.Series)):
            left += item
        elif isinstance(item, bytes):
            yield item
        elif item is not None:
            text = str(int(item)) if isinstance(item, float) and item.is_integer() else str(item)
            yield text.lower().encode() if isinstance(item, bool) else text.encode("utf-8", "replace")


def _as_key(column: pl.Series, dtype: pl.DataType) -> pl.Series:
    """Return a column in a key's type, null where it has no such value."""
    if column.dtype == dtype:
        return column
    if isinstance(column.dtype, (pl.Date, pl.Datetime)):
        column = in_calendar(column)
    if column.dtype == pl.Binary:
        column = pl.Series(column.name, [_text(value) for value in column.to_list()], dtype=pl.String)
    try:
        if column.dtype == pl.String and isinstance(dtype, pl.Date):
            return column.str.to_date("%Y-%m-%d", strict=False)
        return column.cast(dtype, strict=False)
    except pl.exceptions.PolarsError:
        return pl.Series(column.name, [None] * column.len(), dtype=dtype)


def _text(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _none(height: int) -> pl.Series:
    return pl.Series([False] * height, dtype=pl.Boolean)
