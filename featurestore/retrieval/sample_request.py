"""Sample requests: a lookup of a project's features with invented keys."""

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import polars as pl

from featurestore.clock import Clock
from featurestore.dtypes import inner_dtype
from featurestore.selection.select import Selection


class Examples:
    """Make examples of look-ups. They contain no real keys: they are shown to all readers of a document.

    Args:
        clock: tells the present.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def look_up(self, name: str, select: Callable[[Any], Selection]) -> dict[str, Any]:
        """Return the arguments of a look-up of a service or view: ``features`` and ``rows``, one with invented values.

        Args:
            name: the service or view.
            select: resolves it.
        """
        selection = select(name)
        row: dict[str, Any] = {}
        for join in selection.joins:
            for column, dtype in zip(join.on, join.keys.values(), strict=True):
                row.setdefault(column, invented_key(dtype))
        for request_column in selection.computation.fields:
            if request_column.field.required:
                row.setdefault(
                    request_column.field.name, made_up(request_column.field.dtype, self._clock(), request_column.field.constraints)
                )
        return {"features": name, "rows": [row]}


def invented_key(dtype: pl.DataType) -> Any:
    """Return a key of a dtype that is seen to be an example, the same for every project.

    Example:
        >>> invented_key(pl.String()), invented_key(pl.Int64()), invented_key(pl.Int8())
        ('example', 123456789, 123)
    """
    if dtype.is_integer():
        return 123 if dtype in (pl.Int8, pl.UInt8) else 12345 if dtype in (pl.Int16, pl.UInt16) else 123456789
    values: dict[Any, Any] = {
        pl.Boolean: True, pl.String: "example", pl.Binary: b"example", pl.Datetime: datetime(2000, 1, 2, 3, 4, 5, tzinfo=UTC),
        pl.Date: date(2000, 1, 2),
    }  # fmt: skip
    return values[dtype.base_type()]


def made_up(dtype: pl.DataType, now: datetime, constraints: Mapping[str, Any] | None = None) -> Any:
    """Return some value of a dtype that keeps to constraints; only a pattern it does not know how to.

    Example:
        >>> from datetime import UTC
        >>> noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
        >>> made_up(pl.Int64(), noon), made_up(pl.Int64(), noon, {"gt": 5}), made_up(pl.Date(), noon).isoformat()
        (1, 6, '2026-01-01')
        >>> made_up(pl.Float64(), noon, {"lt": 0.5}), made_up(pl.String(), noon, {"min_length": 3})
        (-0.5, 'aaa')
    """
    said = constraints or {}
    if said.get("one_of"):
        return said["one_of"][0]
    length = max(1, said.get("min_length", 1))
    if isinstance(dtype, (pl.List, pl.Array)):
        return [made_up(inner_dtype(dtype), now)] * (dtype.size if isinstance(dtype, pl.Array) else length)
    if dtype.is_numeric():
        number = _within(said)
        return Decimal(str(number)) if dtype.is_decimal() else float(number) if dtype.is_float() else int(number)
    values: dict[Any, Any] = {
        pl.Boolean: True, pl.String: "a" * length, pl.Binary: b"a" * length, pl.Datetime: now.replace(microsecond=0),
        pl.Date: now.date(), pl.Time: time(12), pl.Duration: timedelta(hours=1),
    }  # fmt: skip
    return values[dtype.base_type()]


def _within(said: Mapping[str, Any]) -> Any:
    """Return a number within bounds, 1 if that is."""
    least = max([said[name] + more for name, more in (("ge", 0), ("gt", 1)) if name in said], default=None)
    most = min([said[name] - less for name, less in (("le", 0), ("lt", 1)) if name in said], default=None)
    if least is not None and most is not None and least > most:  # they are close together
        return (max(least - 1, said.get("ge", least - 1)) + min(most + 1, said.get("le", most + 1))) / 2
    number = 1 if least is None else max(1, least)
    return number if most is None else min(number, most)
