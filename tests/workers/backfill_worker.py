"""Fills a changed view in spans, and may be killed at a point: ``python -m tests.workers.backfill_worker FOLDER POINT``."""

import sys
from pathlib import Path

import polars as pl

from featurestore import FeatureStore, ParquetSource
from featurestore.clock import from_micros
from tests.crashes import killed_at
from tests.projects import view_of
from tests.workers.worker import FEATURES, KEYS, NOW


def negated(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Makes the second version of the view."""
    return rows.with_columns(x=-pl.col("x"))


def store_of(folder: Path) -> FeatureStore:
    """The project's store."""
    return FeatureStore(folder, project=folder.name, clock=lambda: from_micros(NOW), chunk_rows=100)


def apply(store: FeatureStore, *, changed: bool) -> None:
    """Applies the view in its first or second version."""
    source = ParquetSource("rows", "../data/*.parquet", event_time="event", available_time="available")
    store.apply([view_of(source, KEYS, FEATURES, transform=negated if changed else None)])


def main(folder: str, point: str) -> None:
    """Backfills."""
    store = store_of(Path(folder))
    apply(store, changed=True)
    with killed_at(int(point)):
        store.materialize(end=from_micros(399), chunk="100us")
        store.materialize()
    store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
