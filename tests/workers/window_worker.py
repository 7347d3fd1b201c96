"""Pushes and materializes windowed views, and may be killed: ``python -m tests.workers.window_worker FOLDER ONLINE POINT``."""

import sys
from pathlib import Path

import polars as pl

from featurestore import FeatureStore, ParquetSource
from featurestore.clock import from_micros
from featurestore.materialization import push
from tests.crashes import killed_at
from tests.windowed import Layout, cases_of

NOW = 2_000
LAYOUT = Layout([cases_of(rule)[0] for rule in ("count", "last_n", "mean", "quantile", "sum")], ("60us", "300us"), "20us")
TIMES = {"event_time": "event", "available_time": "available"}
EVENTS = ParquetSource("events", "../data/*.parquet", event_id="id", **TIMES)
ROWS = ParquetSource("rows", "../data/*.parquet", **TIMES)


def store_of(folder: Path, online: str | None) -> FeatureStore:
    """The project's store, its definitions applied: one view of events with ids, one of rows without."""
    store = FeatureStore(folder, project=folder.name, online=online, clock=lambda: from_micros(NOW), chunk_rows=60)
    store.apply([LAYOUT.view(EVENTS, name="v"), LAYOUT.view(ROWS, name="w")])
    return store


def main(folder: str, online: str, point: str) -> None:
    """Pushes what is also in the files, materializes all, pushes what is nowhere else. Logs are folded early."""
    push._MOST_SEGMENTS = 1
    store = store_of(Path(folder), online or None)
    with killed_at(int(point)):
        for part in sorted(Path(folder).parent.glob("push/*.parquet")):
            if part.stem == "2":
                store.materialize()
            for source in (EVENTS, ROWS):
                store.push(source, pl.read_parquet(part))
    store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
