"""Content types of bodies: which are accepted, and how they are decoded and encoded."""

import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Generic, TypeVar, cast

import msgspec
from starlette.requests import Request

from featurestore.errors import LimitError, RequestError
from featurestore.server.http.problems import Problem
from featurestore.server.limits import Limits, check_rows

T = TypeVar("T")

Name = Annotated[str, msgspec.Meta(max_length=200)]
"""The name of a column in a body."""
Rows = dict[Name, list[Any]] | list[dict[Name, Any]]
"""Rows in a body: columns, or objects."""
LARGE = 256 << 10
"""From how many bytes on a body is decoded in a thread, so that no other request waits for it."""
_ONE_AT_A_TIME = threading.Lock()
"""Decoding holds all other threads up: of two large bodies the second waits until others have had their turn."""
_DEEPEST = 16
_MOST_CONTAINERS = 200_000
"""How many lists and objects may be in a body: each costs as much as twenty numbers."""

_MOST_NAMES, _NAMES_AT_ONCE = 200_000, 20_000
"""How many names may be in columns; and in one row, or one object of MessagePack: making an object holds all threads up."""
_NAME = re.compile(rb'"\s*:')

JSON = "application/json"
MSGPACK = "application/msgpack"
ARROW = "application/vnd.apache.arrow.stream"
PARQUET = "application/vnd.apache.parquet"

_OTHER_NAMES = {
    "application/x-msgpack": MSGPACK,
    "application/vnd.msgpack": MSGPACK,
    "application/x-parquet": PARQUET,
    "application/parquet": PARQUET,
}
_EXACT = frozenset({JSON, MSGPACK})
"""The types as nearly every request writes them."""
_UTF8 = frozenset({"utf-8", "utf8", "us-ascii"})


def media_type(header: str | None, taken: Sequence[str]) -> str:
    """Return the type of a body.

    Args:
        header: its Content-Type.
        taken: the types that are taken.

    Raises:
        Problem: it is of another type, or of text in another encoding than UTF-8 (415).

    Example:
        >>> media_type("application/json; charset=UTF-8", [JSON, MSGPACK])
        'application/json'
    """
    text = header or ""
    if text in _EXACT and text in taken:
        return text
    text = text.strip()
    name, _, parameters = text.partition(";")
    name = name.strip().lower()
    name = _OTHER_NAMES.get(name, name)
    if name not in taken:
        finding = f"is {text!r}" if text else "is missing"
        raise Problem(415, "media-type", f"The type of the body {finding}. Send one of {', '.join(taken)} as Content-Type.")
    for parameter in parameters.split(";"):
        key, _, value = parameter.partition("=")
        charset = value.strip().strip('"').lower()
        if key.strip().lower() == "charset" and charset not in _UTF8:
            raise Problem(415, "media-type", f"The body's encoding is {charset!r}; send UTF-8.")
    return name


def answer_type(accept: str | None, given: str) -> str:
    """Return whether to answer in JSON or in MessagePack: as is asked for, else like the question.

    Example:
        >>> answer_type("application/msgpack", JSON), answer_type("*/*", MSGPACK)
        ('application/msgpack', 'application/msgpack')
    """
    wanted = (accept or "").lower()
    if "msgpack" in wanted:
        return MSGPACK
    if JSON in wanted:
        return JSON
    return given if given == MSGPACK else JSON


def check_encoding(header: str | None) -> None:
    """Refuse a compressed body: what it decodes to is not known.

    Raises:
        Problem: it is encoded (415).
    """
    if header is not None and header.strip().lower() not in ("", "identity"):
        raise Problem(415, "media-type", f"The body's encoding is {header[:100]!r}. Send it as it is, without Content-Encoding.")


def body_type(request: Request, taken: Sequence[str]) -> str:
    """Return the type of a request's body. Raises as ``check_encoding`` and ``media_type``."""
    check_encoding(request.headers.get("content-encoding"))
    return media_type(request.headers.get("content-type"), taken)


class Codec(Generic[T]):
    """Decode bodies of JSON and MessagePack into one type.

    Args:
        kind: the type, of msgspec.
    """

    def __init__(self, kind: type[T]) -> None:
        self._decoders: dict[str, Callable[[bytes | bytearray], T]] = {
            JSON: msgspec.json.Decoder(kind).decode,
            MSGPACK: msgspec.msgpack.Decoder(kind).decode,
        }
        self._kind: Any = kind
        self._takes_rows = {field.encode_name for field in msgspec.structs.fields(cast("Any", kind)) if field.required} == {"rows"}
        fields: Any = [
            (field.encode_name, msgspec.Raw) if field.name == "rows" else (field.encode_name, field.type, field.default)
            for field in sorted(msgspec.structs.fields(cast("Any", kind)), key=lambda field: not field.required)
        ]
        self._parts = msgspec.json.Decoder(msgspec.defstruct("Parts", fields, forbid_unknown_fields=True))

    def decode(self, body: bytes | bytearray, name: str, most: int = 1 << 62) -> T:
        """Return what a body says; an array is the rows of a type that needs no more, ``[{…}]`` for ``{"rows": [{…}]}``.

        Args:
            body: the body.
            name: its type.
            most: how many values it may have.

        Raises:
            Problem: it cannot be read (400), or says something else (422).
            LimitError: it has more values (413).
        """
        if self._takes_rows and body[:1] != b"{":
            body = _as_object(body, name)
        try:
            if len(body) <= LARGE:
                return self._decoders[name](body)
            with _ONE_AT_A_TIME:
                _check_values(body, name, most)
                if name == JSON and body.count(b":") > _NAMES_AT_ONCE:
                    return self._row_by_row(body)
                return self._decoders[name](body)
        except msgspec.ValidationError as error:
            raise Problem(422, "request", f"The body is not as it should be: {error}.") from error
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
            # NOTE: a ValueError is an integer of more digits than Python converts.
            shown = "JSON" if name == JSON else "MessagePack"
            raise Problem(400, "malformed", f"The body is not {shown}: {error}.") from error
        except RecursionError as error:
            raise Problem(400, "malformed", "The body is nested too deeply.") from error

    def _row_by_row(self, body: bytes | bytearray) -> T:
        """Decode a body of very many names in pieces, between which others have their turn."""
        parts: Any = self._parts.decode(body)
        given = bytes(parts.rows)
        if not given.startswith(b"["):
            if sum(1 for _ in _NAME.finditer(given)) > _MOST_NAMES:
                raise LimitError(f"The columns have more than {_MOST_NAMES:,} names in them. Send them in parts.", "body")
            return self._decoders[JSON](body)
        rows = []
        for number, row in enumerate(_RAWS.decode(given)):
            piece = bytes(row)
            if piece.count(b":") > _NAMES_AT_ONCE and sum(1 for _ in _NAME.finditer(piece)) > _NAMES_AT_ONCE:
                raise LimitError(f"Row {number} has more than {_NAMES_AT_ONCE:,} names. Send fewer columns.", "body")
            try:
                rows.append(_ROW.decode(piece))
            except msgspec.ValidationError as error:
                raise msgspec.ValidationError(f"{error} - in `$.rows[{number}]`") from error
        values = {name: getattr(parts, name) for name in parts.__struct_fields__}
        decoded: T = self._kind(**values | {"rows": rows})
        return decoded


def _as_object(body: bytes | bytearray, name: str) -> bytes | bytearray:
    """Return a body as an object, where it is an array of rows."""
    if name == JSON:
        return b"".join((b'{"rows":', body, b"}")) if body.lstrip(b" \t\r\n")[:1] == b"[" else body
    return b"".join((b"\x81\xa4rows", body)) if body and (0x90 <= body[0] < 0xA0 or body[0] in (0xDC, 0xDD)) else body


_RAWS = msgspec.json.Decoder(list[msgspec.Raw])
_ROW = msgspec.json.Decoder(dict[Name, Any])


def _check_values(body: bytes | bytearray, name: str, most: int) -> None:
    """Refuse a body of very many values before anything is made of them.

    Of JSON commas and brackets are counted, in texts too: there are no more values than these. Of MessagePack each value takes a
    byte, each list and object one of a few, and only a body that may have too many of them is walked through.
    """
    if name == JSON:
        containers = body.count(b"[") + body.count(b"{")
        values = containers + body.count(b",")
    else:
        begun = len(body.translate(None, _NO_CONTAINERS))
        many = len(body) > most or begun > _MOST_CONTAINERS or b"\xde" in body or b"\xdf" in body
        values, containers = _count_msgpack(body, most) if many else (0, 0)
    if values > most or containers > _MOST_CONTAINERS:
        if name == JSON and body[:64].lstrip()[:1] != b"{":
            return  # the decoder refuses it at its first byte
        if name == JSON and body[-64:].rstrip()[-1:] != b"}":
            raise Problem(400, "malformed", "The body is not JSON: it ends before its beginning is closed.")
        raise LimitError(
            f"The body has too many values; {most:,} are allowed (server.max_values), {_MOST_CONTAINERS:,} of them lists or "
            "objects. Send it in parts.",
            "body",
        )


_AHEAD = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
"""The types of MessagePack that tell the bytes that follow, by the bytes that tell it."""
_FIXED = {
    0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8, 0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9,
    0xD8: 17,
}  # fmt: skip
"""Those of a known number of bytes."""
_NO_CONTAINERS = bytes(kind for kind in range(256) if not (0x80 <= kind < 0xA0 or 0xDC <= kind < 0xE0))
"""What no list and no object begins with."""
_MANY = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}
"""Lists and maps: the number of bytes that give the number of items, and how many values an item is."""


def _count_msgpack(body: bytes | bytearray, most: int) -> tuple[int, int]:
    """Return how many values a body has, up to one more than allowed, and how many of them are lists or maps."""
    place, left, values, containers = 0, 1, 0, 0
    size = len(body)
    while left and place < size and values <= most and containers <= _MOST_CONTAINERS:
        kind = body[place]
        place, left, values = place + 1, left - 1, values + 1
        if kind < 0x80 or kind >= 0xE0:
            continue
        if kind < 0xA0:
            containers += 1
            left += (kind & 15) * (2 if kind < 0x90 else 1)
        elif kind < 0xC0:
            place += kind & 31
        elif kind in _MANY:
            width, items_each = _MANY[kind]
            containers += 1
            items = int.from_bytes(body[place : place + width], "big")
            if items_each == 2 and items > _NAMES_AT_ONCE:
                return most + 1, containers
            left += items * items_each
            place += width
        elif kind in _AHEAD:
            width = _AHEAD[kind]
            place += width + int.from_bytes(body[place : place + width], "big") + (1 if kind in (0xC7, 0xC8, 0xC9) else 0)
        else:
            place += _FIXED.get(kind, 0)
    return values, containers


def brackets(body: bytes | bytearray, given: str) -> int | None:
    """Return how many lists and objects a body has at most; None where that takes a closer look."""
    return body.count(b"[") + body.count(b"{") if given == JSON else None


def check_shape(rows: Mapping[str, list[Any]] | list[dict[str, Any]], limits: Limits, brackets: int | None = None) -> int:
    """Return how many rows there are, where there are no more rows and columns, and no deeper values, than may be.

    Args:
        rows: the rows.
        limits: what may be.
        brackets: how many lists and objects their body has at most, if that is known: of few none can be deep.

    Raises:
        LimitError: there are more rows.
        RequestError: there are more columns, or values are nested deeper.
    """
    if isinstance(rows, Mapping):
        count, widest = max(map(len, rows.values()), default=0), len(rows)
    else:
        count, widest = len(rows), max(map(len, rows), default=0)
    check_rows(count, limits.rows)
    if widest > limits.columns:
        raise RequestError(f"The rows have {widest:,} columns, and {limits.columns} are allowed (server.max_columns).")
    if brackets is not None and brackets - count <= _DEEPEST:
        return count
    columns = rows.values() if isinstance(rows, Mapping) else [row.values() for row in rows]
    layer = [value for column in columns for value in column if type(value) in _CONTAINERS]
    containers = 0
    for _ in range(_DEEPEST):
        if not layer:
            return count
        containers += len(layer)
        if containers > _MOST_CONTAINERS:
            raise RequestError(f"The rows have more than {_MOST_CONTAINERS:,} lists and objects. Send them in parts.")
        inner = [container.values() if type(container) is dict else container for container in layer]
        layer = [value for container in inner for value in container if type(value) in _CONTAINERS]
    raise RequestError(f"The rows have values that are nested deeper than {_DEEPEST} times.")


_CONTAINERS = frozenset({list, dict})


_json = msgspec.json.Encoder().encode
_msgpack = msgspec.msgpack.Encoder().encode
ENCODE: dict[str, Callable[[Any], bytes]] = {JSON: _json, MSGPACK: _msgpack}

_NOT_FINITE = {"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}
FLOATS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
"""What stands in JSON for the floats that it lacks."""


def sayable(values: Iterable[Any]) -> list[Any]:
    """Return floats, or lists of them, as in JSON: those that are not numbers as text.

    Example:
        >>> sayable([1.5, float("nan"), None, [float("-inf")]])
        [1.5, 'NaN', None, ['-Infinity']]
    """
    return [
        _NOT_FINITE.get(repr(value), value)
        if type(value) is float
        else sayable(value)
        if isinstance(value, (list, tuple))
        else value
        for value in values
    ]
