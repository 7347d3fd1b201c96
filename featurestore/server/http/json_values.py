"""JSON values: what the texts in a look-up's rows stand for, where JSON has no value of the type."""

import base64
from collections.abc import Callable
from datetime import date, time, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import msgspec
import polars as pl

from featurestore.clock import parse_instant
from featurestore.dtypes import inner_dtype
from featurestore.server.http.content_types import FLOATS


def from_json(dtype: pl.DataType) -> Callable[[Any], Any] | None:
    """Return what makes a value of a dtype of its JSON text, or of a list of them; None where JSON says it by itself.

    Example:
        >>> from_json(pl.Date())("2013-07-01")
        datetime.date(2013, 7, 1)
        >>> from_json(pl.String()) is None
        True
    """
    if isinstance(dtype, (pl.List, pl.Array)):
        inner = from_json(inner_dtype(dtype))
        if inner is None:
            return None
        return lambda values: [inner(item) if type(item) is str else item for item in values] if type(values) is list else values
    convert = _FROM_TEXT.get(dtype.base_type())
    return None if convert is None else lambda value: convert(value) if type(value) is str else value


def _decimal(text: str) -> Decimal:
    decimal = Decimal(text)
    if not decimal.is_finite():
        raise ValueError(f"{text!r} is not a decimal number.")
    return decimal


_FROM_TEXT: dict[Any, Callable[[str], Any]] = {
    pl.Date: date.fromisoformat,
    pl.Datetime: parse_instant,
    pl.Binary: partial(base64.b64decode, validate=True),
    pl.Decimal: _decimal,
    pl.Time: partial(msgspec.convert, type=time),
    pl.Duration: partial(msgspec.convert, type=timedelta),
    pl.Float64: lambda text: FLOATS.get(text, text),
    pl.Float32: lambda text: FLOATS.get(text, text),
}
