"""Mentions: whether a dead letter of any encoding may name a forgotten entity."""

import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Mapping
from datetime import datetime
from json import loads
from typing import Any

import polars as pl

from featurestore.clock import to_micros
from featurestore.privacy.tombstone_set import canonical, scalars


class _Pairs(list[Any]):
    """An object of JSON: of two pairs with one name both count."""


def is_of(fields: Mapping[bytes, bytes], entities: pl.DataFrame) -> bool:
    """Return whether an entry that was set aside may be of some entities.

    Its fields, or the object in one of them, are checked like rejected rows, to any depth. A field that is not JSON, or cannot
    be read, counts if the texts of all keys of an entity stand somewhere in it, written plainly or with JSON's escapes; in a field
    that does not begin as JSON, as words.

    Args:
        fields: the entry's.
        entities: the join keys.
    """
    row: dict[str, Any] = {}
    unread: list[bytes] = []
    payloads: list[bytes] = []
    for name, value in fields.items():
        row[name.decode("utf-8", "replace")] = value
        begun = value.removeprefix(b"\xef\xbb\xbf").lstrip().startswith((b"{", b"["))
        try:
            read = loads(value, object_pairs_hook=_Pairs)
        except (ValueError, RecursionError):
            (unread if begun else payloads).append(value)
            continue
        if isinstance(read, str):
            payloads.append(read.encode("utf-8", "replace"))
        elif isinstance(read, list):
            for key, item in read if isinstance(read, _Pairs) else enumerate(read):
                row[str(key)] = [row.get(str(key)), item]
    wanted = list(zip(*map(_forms, entities.get_columns()), strict=True))
    if all(key in row for key in entities.columns):
        mentioned = [set(scalars(row[key])) for key in entities.columns]
        if any(not any(map(set.isdisjoint, mentioned, item)) for item in wanted):
            return True
    else:
        cells = set(scalars(row))
        if any(not any(map(cells.isdisjoint, item)) for item in wanted):
            return True
        words = [value for value in payloads if len(fields) == 1 or _may_be_rows(value)]
        if any(all(any(_word(one).search(text) for text in words for one in forms) for forms in item) for item in wanted):
            return True
    texts = [form for value in unread for form in (value, _ESCAPED.sub(_unescaped, value))]
    return any(all(any(one in text for text in texts for one in forms) for forms in item) for item in wanted)


def _may_be_rows(text: bytes) -> bool:
    """Return whether a text may be more than one value, in whatever form: CSV, a query, MessagePack, JSON behind something."""
    return _ROWS.search(text) is not None or not _is_text(text)


_ROWS = re.compile(rb"[\x00-\x1f{\[=&,;|]")


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _word(text: bytes) -> "re.Pattern[bytes]":
    return re.compile(rb"(?<![0-9A-Za-z_])%b(?![0-9A-Za-z_])" % re.escape(text))


def _forms(column: pl.Series) -> list[set[bytes]]:
    """Return how each value of a key may be written in an entry: bytes in base64 too, and times in any of ISO 8601's forms."""
    forms = [set() if value is None else {value} for value in canonical(column)]
    if column.dtype == pl.Binary:
        for value in [value for value in forms if value]:
            [plain] = value
            value.update((b64encode(plain), urlsafe_b64encode(plain)))
    elif isinstance(column.dtype, pl.Datetime):
        for value, instant in zip(forms, column.to_list(), strict=True):
            if instant is not None:
                value.update(text.encode() for text in _instants(instant))
    return forms


def _instants(instant: datetime) -> set[str]:
    plain = instant.replace(tzinfo=None)
    texts = {plain.isoformat(timespec=unit) for unit in ("minutes", "seconds", "milliseconds", "microseconds")}
    texts = {text for text in texts if plain.fromisoformat(text) == plain}
    texts |= {text.rstrip("0") for text in texts if "." in text and not text.endswith(".000000") and not text.endswith(".000")}
    texts |= {text.replace("T", " ") for text in texts}
    return {f"{text}{zone}" for text in texts for zone in ("", "Z", "+00:00", "+0000")} | {str(to_micros(instant))}


_ESCAPED = re.compile(rb"(?:\\u[0-9a-fA-F]{4})+|\\[^u]")


def _unescaped(match: "re.Match[bytes]") -> bytes:
    """Return what one of JSON's escapes stands for."""
    if match[0].startswith(b"\\u"):
        units = b"".join(bytes.fromhex(unit.decode()) for unit in match[0].split(b"\\u")[1:])
        return units.decode("utf-16-be", "replace").encode("utf-8", "replace")
    return {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"b": b"\b", b"f": b"\f"}.get(match[0][1:], match[0][1:])
