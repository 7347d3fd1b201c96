"""Bodies: which types of them are taken and given, and how each is decoded and encoded."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from featurestore.server.problems import Problem

T = TypeVar("T")

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
_UTF8 = frozenset({"utf-8", "utf8", "us-ascii"})


def media_type(header: bytes | None, taken: Sequence[str]) -> str:
    """Returns the type of a body.

    Args:
        header: its Content-Type.
        taken: the types that are taken.

    Raises:
        Problem: it is of another type, or of text in another encoding than UTF-8 (415).

    Example:
        >>> media_type(b"application/json; charset=UTF-8", [JSON, MSGPACK])
        'application/json'
    """
    text = (header or b"").decode("latin-1").strip()
    name, _, parameters = text.partition(";")
    name = name.strip().lower()
    name = _OTHER_NAMES.get(name, name)
    if name not in taken:
        found = f"is {text!r}" if text else "is not told"
        raise Problem(415, "media-type", f"The type of the body {found}. Send one of {', '.join(taken)} as Content-Type.")
    for parameter in parameters.split(";"):
        key, _, value = parameter.partition("=")
        charset = value.strip().strip('"').lower()
        if key.strip().lower() == "charset" and charset not in _UTF8:
            raise Problem(415, "media-type", f"The body's encoding is {charset!r}; send UTF-8.")
    return name


def answer_type(accept: bytes | None, given: str) -> str:
    """Returns whether to answer in JSON or in MessagePack: as is asked for, else like the question.

    Example:
        >>> answer_type(b"application/msgpack", JSON), answer_type(b"*/*", MSGPACK)
        ('application/msgpack', 'application/msgpack')
    """
    wanted = (accept or b"").decode("latin-1").lower()
    if "msgpack" in wanted:
        return MSGPACK
    if JSON in wanted:
        return JSON
    return given if given == MSGPACK else JSON


class Codec(Generic[T]):
    """Decodes bodies of JSON and MessagePack into one type.

    Args:
        kind: the type, of msgspec.
    """

    def __init__(self, kind: type[T]) -> None:
        self._decoders: dict[str, Callable[[bytes | bytearray], T]] = {
            JSON: msgspec.json.Decoder(kind).decode,
            MSGPACK: msgspec.msgpack.Decoder(kind).decode,
        }

    def decode(self, body: bytes | bytearray, name: str) -> T:
        """Returns what a body says.

        Raises:
            Problem: it cannot be read (400), or says something else (422).
        """
        try:
            return self._decoders[name](body)
        except msgspec.ValidationError as error:
            raise Problem(422, "request", f"The body is not as it should be: {error}.") from error
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
            # NOTE: a ValueError is an integer of more digits than Python converts.
            shown = "JSON" if name == JSON else "MessagePack"
            raise Problem(400, "malformed", f"The body is not {shown}: {error}.") from error
        except RecursionError as error:
            raise Problem(400, "malformed", "The body is nested too deeply.") from error


_json = msgspec.json.Encoder().encode
_msgpack = msgspec.msgpack.Encoder().encode
ENCODE: dict[str, Callable[[Any], bytes]] = {JSON: _json, MSGPACK: _msgpack}

_NOT_FINITE = {"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}
FLOATS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
"""What stands in JSON for the floats that it lacks."""


def sayable(values: Iterable[Any]) -> list[Any]:
    """Returns floats, or lists of them, as JSON says them: what is no number as text.

    Example:
        >>> sayable([1.5, float("nan"), None, [float("-inf")]])
        [1.5, 'NaN', None, ['-Infinity']]
    """
    return [
        _NOT_FINITE.get(repr(each), each) if type(each) is float else sayable(each) if isinstance(each, (list, tuple)) else each
        for each in values
    ]
