"""Read progress of a run: its rejected rows, and how far the source has certainly been read (S18)."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from featurestore.access.pii import without_unkeyed
from featurestore.definitions.feature_view import ViewSpec
from featurestore.definitions.source import Source
from featurestore.rows.total_order import AVAILABLE
from featurestore.rows.transform import REASON, TransformResult, stack_rejects
from featurestore.sources.base import accepted


def latest_accepted(rows: pl.DataFrame, shaped: TransformResult, source: Source) -> int | None:
    """Return the greatest effective available time of a chunk's rows that were accepted, in microseconds; None without any.

    Where none was rejected, all were accepted, those too that a transform leaves out.

    Args:
        rows: the source's rows.
        shaped: what became of them.
        source: their source.
    """
    if shaped.rejected:
        times = shaped.rows[AVAILABLE]
    else:
        times = rows.select(pl.max_horizontal(*source.time_columns).alias("t")).to_series()
    latest = times.to_physical().max()
    return None if latest is None else int(latest)  # type: ignore[arg-type]  # it is a column of integers


def accepted_cursor(span: Mapping[str, Any], bodies: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return a run's cursor where the rows that were accepted end; of a run that moves none, the one it was given.

    Args:
        span: the run's span, as it was pinned.
        bodies: what is recorded of each chunk; none where the run read no source. All who work on a run have the same ones, and
            so the same cursor (S17).
    """
    cursor: Mapping[str, Any] | None = span["cursor"]
    # Some may have been staged by a version that did not look.
    if cursor is None or span.get("still") or not bodies or not all("latest" in body for body in bodies):
        return cursor
    return accepted(cursor, max((body["latest"] for body in bodies if body["latest"] is not None), default=None))


def rejects(shaped: TransformResult, view: ViewSpec) -> pl.DataFrame:
    """Return the rows of a chunk that were rejected as they are kept, each with its reason."""
    frame = without_unkeyed(stack_rejects(shaped.rejected), view)
    return frame.select(pl.exclude(REASON), REASON)
