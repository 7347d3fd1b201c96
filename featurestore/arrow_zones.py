"""Time zones of Arrow data that Polars does not know, such as +05:30: read as UTC."""

from functools import lru_cache
from typing import Any

import polars as pl
import pyarrow as pa


def in_known_zones(given: Any, schema: pa.Schema | None = None) -> pa.Table | None:
    """Return Arrow data as a table whose times of zones that Polars does not know are in UTC; None where it knows them all.

    Args:
        given: what can be read as a stream of Arrow; it is not read where its schema is given and Polars knows the zones.
        schema: its schema.
    """
    reader = pa.RecordBatchReader.from_stream(given) if schema is None else None
    known = with_known_zones(schema if reader is None else reader.schema)
    return None if known is None else (reader or pa.RecordBatchReader.from_stream(given)).read_all().cast(known)


def with_known_zones(schema: pa.Schema) -> pa.Schema | None:
    """Return a schema with UTC in place of the zones that Polars does not know; None where it knows them all."""
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
