"""Time zones that Polars does not know, such as +05:30: read as UTC.

In Arrow a zone is a word beside the column, and the numbers count from the epoch in UTC whatever it says. Polars takes the names of
the IANA database and whole hours; at any other, ``+05:30``, it refuses a frame, and panics over a file.
"""

import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    import pyarrow as pa


def frame_of(given: Any, *, infer_schema_length: int | None = 100) -> pl.DataFrame:
    """Returns what a Polars frame can be made of as one, as ``pl.DataFrame`` does, with times of zones it does not know in UTC.

    Args:
        given: rows, columns, or another library's frame.
        infer_schema_length: how many rows tell the columns' types; None for all.

    Raises:
        polars.exceptions.PolarsError: it makes no frame, and whatever else Polars raises.
    """
    schema = getattr(given, "schema", None)
    if "pyarrow" in sys.modules and isinstance(schema, sys.modules["pyarrow"].Schema):
        known = with_known_zones(schema)
        return pl.DataFrame(given if known is None else _table(given).cast(known), infer_schema_length=infer_schema_length)
    try:
        return pl.DataFrame(given, infer_schema_length=infer_schema_length)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        if not hasattr(given, "reset_index"):
            raise
        # The index of a pandas frame is none of its columns, here and in Polars.
        table = _table(given.reset_index(drop=True))
        known = with_known_zones(table.schema)
        if known is None:
            raise
        return pl.DataFrame(table.cast(known))


def _table(given: Any) -> "pa.Table":
    import pyarrow as pa  # a quarter of a second, which a definition need not pay

    return pa.RecordBatchReader.from_stream(given).read_all()


def with_known_zones(schema: "pa.Schema") -> "pa.Schema | None":
    """Returns a schema with UTC in place of the zones that Polars does not know; None where it knows them all."""
    import pyarrow as pa

    changed = False
    for place, field in enumerate(schema):
        zone = field.type.tz if pa.types.is_timestamp(field.type) else None
        if zone is not None and not _is_known(zone):
            schema = schema.set(place, field.with_type(pa.timestamp(field.type.unit, "UTC")))
            changed = True
    return schema if changed else None


@lru_cache(maxsize=256)
def _is_known(zone: str) -> bool:
    try:
        pl.select(pl.lit(0).cast(pl.Datetime("us", zone)))
    except pl.exceptions.PolarsError:
        return False
    return True
