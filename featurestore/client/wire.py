"""Values on the wire: MessagePack requests, and answers as Python values."""

import datetime
from collections.abc import Callable, Iterable, Mapping, Sized
from decimal import Decimal
from functools import partial
from types import ModuleType
from typing import Any

import msgspec

from featurestore.errors import RequestError

_FROM_TEXT: dict[str, Callable[[str], Any]] = {
    "Date": datetime.date.fromisoformat,
    "Time": datetime.time.fromisoformat,
    "Duration": partial(msgspec.convert, type=datetime.timedelta),
    "Decimal": Decimal,
}
"""What makes a value of its text, by its dtype; the values of all other dtypes MessagePack carries as they are."""


def encode(value: Any) -> bytes:
    """Return a request in MessagePack.

    Raises:
        RequestError: it holds a value that MessagePack cannot say.
    """
    try:
        return msgspec.msgpack.encode(value, enc_hook=_plain)
    except (TypeError, OverflowError, ValueError) as error:
        raise RequestError(
            f"The rows cannot be sent: {error}. Leave out columns that are neither keys nor fields, or convert them."
        ) from error


def _plain(value: Any) -> Any:
    """Return a value of another library, or of a subclass, as Python's own."""
    kinds: tuple[type, ...] = (str, bytes, int, float)
    for kind in kinds:
        if isinstance(value, kind):
            return kind(value)
    if hasattr(value, "item"):  # NumPy's
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a value of type {type(value).__name__} has no form in MessagePack")


def from_wire(dtype: str, values: list[Any]) -> list[Any]:
    """Return an answer's column as Python values.

    Args:
        dtype: the dtype's name, as the server tells it.
        values: the column.

    Example:
        >>> from_wire("List(Date)", [["2013-07-01", None], None])
        [[datetime.date(2013, 7, 1), None], None]
    """
    convert = _converter(dtype)
    return values if convert is None else [None if value is None else convert(value) for value in values]


def _converter(dtype: str) -> Callable[[Any], Any] | None:
    head, _, rest = dtype.partition("(")
    if head in ("List", "Array"):
        inner = _converter(rest.removesuffix(")") if head == "List" else rest.rpartition(",")[0])
        return None if inner is None else lambda values: [None if item is None else inner(item) for item in values]
    return _FROM_TEXT.get(head)


def names_of(features: Any) -> str | list[str]:
    """Return features as the server takes them: the name of a service, or a list of names.

    Args:
        features: names, or definitions: services, views, features.

    Raises:
        RequestError: a feature is renamed or joined by other columns, which only a service can say to a server.

    Example:
        >>> names_of("delay_model"), names_of(["weather.temp", "plane"])
        ('delay_model', ['weather.temp', 'plane'])
    """
    if isinstance(features, (list, tuple)):
        return [name for feature in features for name in _listed(names_of(feature))]
    return _name_of(features)


def _listed(names: str | list[str]) -> list[str]:
    return [names] if isinstance(names, str) else names


def _name_of(given: Any) -> str:
    if isinstance(given, str):
        return given
    name = getattr(given, "__view_name__", None)
    if isinstance(name, str):
        return name
    if hasattr(given, "references") and isinstance(getattr(given, "name", None), str):
        return str(given.name)
    if isinstance(getattr(given, "view", None), str):
        if getattr(given, "name_prefix", "") or getattr(given, "new_name", None) or getattr(given, "key_columns", ()):
            raise RequestError(f"{given!r} is renamed or joined otherwise, which a server does not take. Put it into a service.")
        feature = getattr(given, "feature", None)
        return f"{given.view}.{feature}" if feature else str(given.view)
    raise RequestError(
        f'{given!r} is not a feature. Name a service ("delay_model"), a view ("weather") or features ("weather.temp").'
    )


def rows_of(rows: Any) -> list[dict[str, Any]]:
    """Return the rows of a look-up as dictionaries.

    Args:
        rows: a list of dictionaries, a mapping of columns, or a frame.

    Raises:
        RequestError: they are none of these, or columns differ in length.
    """
    if isinstance(rows, Mapping):
        if all(map(_is_column, rows.values())) and not all(isinstance(column, (list, tuple)) for column in rows.values()):
            arrays: list[dict[str, Any]] = load_frames().as_frame(rows, "request").to_dicts()
            return arrays
        columns = {name: list(column) for name, column in rows.items() if isinstance(column, (list, tuple))}
        if len(columns) != len(rows):
            raise RequestError(f"One row is given as a list of one: store.online(features, [{dict(rows)!r}]).")
        if len(set(map(len, columns.values()))) > 1:
            lengths = ", ".join(f"{name!r} has {len(column)}" for name, column in columns.items())
            raise RequestError(f"The rows' columns must be equally long: {lengths}.")
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    if is_frame(rows):
        dicts: list[dict[str, Any]] = load_frames().as_frame(rows, "request").to_dicts()
        return dicts
    if isinstance(rows, Iterable) and not isinstance(rows, (str, bytes)):
        listed = list(rows)
        if all(isinstance(row, Mapping) for row in listed):
            return [dict(row) for row in listed]
    raise RequestError(
        f'{rows!r} cannot be read as rows. Give a list of dictionaries, [{{"origin": "JFK"}}], a mapping of columns, or a frame.'
    )


def load_frames() -> ModuleType:
    """Return the module of frames, ``featurestore.client.frames``."""
    from featurestore.client import frames  # it loads Polars, which who asks with dictionaries need not wait for

    return frames


def _is_column(given: Any) -> bool:
    """Return whether something is a list, a tuple, an array or a series."""
    return isinstance(given, Sized) and not isinstance(given, (str, bytes, Mapping)) and getattr(given, "ndim", 1) > 0


def is_frame(given: Any) -> bool:
    """Return whether something is a frame of some library."""
    return hasattr(given, "__arrow_c_stream__") or hasattr(given, "__dataframe__") or hasattr(given, "collect_schema")
