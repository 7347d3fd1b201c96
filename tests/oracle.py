"""The rules of SEMANTICS in a few plain lines: slow, and beyond doubt. Tests compare the feature store with them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec


@dataclass(frozen=True)
class Row:
    """A source row: its key, its times in microseconds (None: null), its values in the view's order."""

    key: tuple[Any, ...]
    event: int | None
    available: int | None
    values: tuple[Any, ...]

    @property
    def known(self) -> int:
        """S2: the effective available time."""
        assert self.event is not None
        assert self.available is not None
        return max(self.event, self.available)


def tie(row: Row) -> bytes:
    """S4: the fixed total order of rows equal in both times."""
    values = list(row.values)
    while values and values[-1] is None:
        values.pop()
    return msgspec.msgpack.encode(values)


def winner(rows: Sequence[Row], key: tuple[Any, ...], t: int, *, as_known: bool = True) -> Row | None:
    """S3 without a ttl, S4: the greatest row of an entity as of t."""
    if any(part is None for part in key):
        return None
    candidates = [row for row in rows if row.key == key and row.event is not None and row.available is not None]
    candidates = [row for row in candidates if row.event <= t and (row.known <= t or not as_known)]
    return max(candidates, key=lambda row: (row.event, row.known, tie(row)), default=None)


def latest(
    rows: Sequence[Row], key: tuple[Any, ...], t: int, *, ttl: int | None = None, as_known: bool = True
) -> tuple[Any, ...] | None:
    """S3-S6: the values that an entity has as of t; None for no candidate."""
    found = winner(rows, key, t, as_known=as_known)
    if found is None or (ttl is not None and found.event < t - ttl):
        return None
    return found.values


def status(rows: Sequence[Row], key: tuple[Any, ...], t: int, place: int, *, ttl: int | None = None) -> str:
    """S14: the status of one feature as of t, over the rows written."""
    found = winner(rows, key, t)
    if found is None:
        return "missing"
    if ttl is not None and found.event < t - ttl:
        return "expired"
    return "null" if found.values[place] is None else "present"


def frame(rows: Sequence[Row], keys: Mapping[str, Any], names: Sequence[str]) -> list[dict[str, Any]]:
    """The rows as dictionaries, for a source."""
    return [
        {
            **dict(zip(keys, row.key, strict=True)),
            "event": row.event,
            "available": row.available,
            **dict(zip(names, row.values, strict=True)),
        }
        for row in rows
    ]
