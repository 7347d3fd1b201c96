"""A process that materializes, and may be killed at a point: ``python -m tests.workers.worker FOLDER ONLINE POINT``."""

import sys
from pathlib import Path

from featurestore import FeatureStore, ParquetSource
from featurestore.clock import from_micros
from tests.crashes import killed_at
from tests.projects import view_of

NOW = 10_000
KEYS = {"k": str}
FEATURES = {"x": float | None, "n": int}


def store_of(folder: Path, online: str | None) -> FeatureStore:
    """The project's store, its definitions applied."""
    store = FeatureStore(folder, project=folder.name, online=online, clock=lambda: from_micros(NOW), chunk_rows=100)
    source = ParquetSource("rows", "../data/*.parquet", event_time="event", available_time="available")
    store.apply([view_of(source, KEYS, FEATURES, ttl="1d"), view_of(source, KEYS, {"n": int}, name="w")])
    return store


def main(folder: str, online: str, point: str) -> None:
    """Materializes everything."""
    with store_of(Path(folder), online or None) as store, killed_at(int(point)):
        store.materialize()


if __name__ == "__main__":
    main(*sys.argv[1:])
