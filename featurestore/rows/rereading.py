"""Rereading: how rows compare with earlier reads of the same source, and with one another."""

from collections.abc import Iterator

import polars as pl

from featurestore.definitions.feature_view import ViewSpec
from featurestore.definitions.fingerprint import Transform
from featurestore.definitions.window_features import ROW_HASH, WithInputs
from featurestore.errors import DefinitionError
from featurestore.identity import row_hash
from featurestore.rows.total_order import count_tied, sort_history
from featurestore.rows.transform import shape_rows


def rereading_warnings(view: ViewSpec, transform: Transform | None, first: pl.DataFrame, second: pl.DataFrame) -> Iterator[str]:
    """Return what is to be known of a windowed view whose rows have no event id (S9), a line each.

    Args:
        view: the view.
        transform: its transform.
        first: some rows of its source.
        second: the same rows, read again.
    """
    if changing := changing_columns(first, second):
        names = ", ".join(repr(name) for name in changing)
        yield (
            f"source {view.source.name!r} gives other values of {names} each time it is read, so rows that are read again count "
            f"again in view {view.name!r} (S9). Leave them out of the source, or name an event_id= in it."
        )
    if isinstance(transform, WithInputs) and not transform.distinguishes_rows(first.schema):
        yield (
            f"the transform of view {view.name!r} drops the column {ROW_HASH!r}, so rows are distinguished by the columns that it "
            f"returns, and those that agree in them are one row when they come apart (S9). Keep it: select(…, {ROW_HASH!r}); "
            "or name an event_id= in the source."
        )


def changing_columns(first: pl.DataFrame, second: pl.DataFrame) -> list[str]:
    """Return the columns in which rows differ that have been read twice; none where other rows have been read.

    Example:
        >>> changing_columns(pl.DataFrame({"a": [1, 2], "now": [3, 3]}), pl.DataFrame({"a": [2, 1], "now": [4, 4]}))
        ['now']
    """
    if first.schema != second.schema or first.height != second.height:
        return []
    changing = [name for name in first.columns if not _same_bag(first.select(name), second.select(name))]
    rest = pl.exclude(changing)
    return changing if _same_bag(first.select(rest), second.select(rest)) else []


def _same_bag(one: pl.DataFrame, other: pl.DataFrame) -> bool:
    if not one.width:
        return True
    hashes = [frame.select(row_hash(frame.schema)).to_series().sort() for frame in (one, other)]
    return hashes[0].equals(hashes[1])


def tie_warnings(view: ViewSpec, transform: Transform | None, sample: pl.DataFrame) -> Iterator[str]:
    """Return a line where rows of a sample have the keys and times of others, so that something arbitrary decides (S4)."""
    if view.windows or sample.is_empty():
        return
    try:
        rows = shape_rows(sample, view, transform).rows
    except DefinitionError:
        return  # which is told elsewhere, in its own words
    keys = view.entity.key_names
    if tied := count_tied(sort_history(rows, keys, list(view.stored_schema)), keys):
        yield (
            f"{tied} of {rows.height} rows of source {view.source.name!r} have the join keys and times of another row of view "
            f"{view.name!r} and other values; of such rows the greatest by the order of the features is served (S4). "
            "Name a column that tells which is the later one as order_by= in the source."
        )
