"""Time zones that Polars does not know, such as +05:30: read as UTC.

In Arrow a zone is a word beside the column, and the numbers count from the epoch in UTC whatever it says. Polars takes the names of
the IANA database and whole hours; at any other, ``+05:30``, it refuses a frame, and panics over a file.
"""

import sys
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    import pyarrow as pa


def frame_of(given: Any, *, infer_schema_length: int | None = 100) -> pl.DataFrame:
    """Return what a Polars frame can be made of as one, as ``pl.DataFrame`` does, with times of zones it does not know in UTC.

    Args:
        given: rows, columns, or another library's frame.
        infer_schema_length: how many rows tell the columns' types; None for all.

    Raises:
        polars.exceptions.PolarsError: it makes no frame, and whatever else Polars raises.
    """
    schema = getattr(given, "schema", None)
    if "pyarrow" in sys.modules and isinstance(schema, sys.modules["pyarrow"].Schema):
        table = _in_known_zones(given, schema)
        return pl.DataFrame(given if table is None else table, infer_schema_length=infer_schema_length)
    try:
        return pl.DataFrame(given, infer_schema_length=infer_schema_length)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        if not hasattr(given, "reset_index"):
            raise
        # The index of a pandas frame is none of its columns, here and in Polars.
        table = _in_known_zones(given.reset_index(drop=True))
        if table is None:
            raise
        return pl.DataFrame(table)


def _in_known_zones(given: Any, schema: "pa.Schema | None" = None) -> "pa.Table | None":
    from featurestore.arrow_zones import in_known_zones  # it loads pyarrow, which a definition need not wait for

    return in_known_zones(given, schema)
