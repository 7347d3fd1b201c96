"""Assembly: the features of all joins put beside the spine's rows, in the spine's order (S11)."""

from collections.abc import Sequence

import polars as pl

from featurestore.on_demand.evaluate import OnDemandPlan
from featurestore.retrieval.join_plan import ROW, ROW_DTYPE, Columns, empty_columns
from featurestore.selection.request_fields import spine_fields


def in_order(frames: Sequence[pl.DataFrame], columns: Columns, start: int, rows: int) -> pl.DataFrame:
    """Return a join's features for the spine rows from ``start`` on, empty ones where no look-up was made.

    Args:
        frames: the column ``_row`` and the features, of different rows each.
        columns: the columns of the result.
        start: the number of the first row.
        rows: how many rows there are.
    """
    schema = {name: feature.dtype for name, feature in columns}
    frame = pl.concat([pl.DataFrame(schema={ROW: ROW_DTYPE, **schema}), *frames])
    if frame.height < rows:
        every = pl.select(pl.int_range(start, start + rows, dtype=ROW_DTYPE).alias(ROW))
        without = every.join(frame, on=ROW, how="anti")
        frame = pl.concat([frame, without.hstack(empty_columns(columns, without.height))])
    # One bucket's rows are in order already, and to move them costs as much as to look them up.
    return (frame if frame[ROW].is_sorted() else frame.sort(ROW)).drop(ROW)


def with_features(
    spine: pl.DataFrame, features: Sequence[pl.Series], computation: OnDemandPlan, names: Sequence[str], start: int = 0
) -> pl.DataFrame:
    """Return spine rows with the features asked for after their own columns, of those found and those computed of them.

    Args:
        spine: the rows.
        features: what the joins found for them.
        computation: what is computed of it.
        names: the names of the features asked for.
        start: the number of the first row, for messages.
    """
    columns = {column.name: column for column in features}
    if computation.steps:
        columns |= spine_fields(computation.fields, spine, start)
        columns |= computation.run(columns, start)
    return spine.hstack([columns[name] for name in names])
