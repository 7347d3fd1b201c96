"""Does a project's upkeep, and kills itself at a point: ``python -m tests.workers.upkeep_worker FOLDER POINT NOW``."""

import sys
from pathlib import Path

from featurestore import FeatureStore, FeatureView, ParquetSource
from tests.projects import Hand, store_at, view_of
from tests.workers.worker import killed_at

DAY = 86_400_000_000
KEYS = {"k": str}
FEATURES = {"x": float | None}


def view_of_rows() -> type[FeatureView]:
    """The project's view, on files in its folder."""
    source = ParquetSource("rows", "data/*.parquet", event_time="event", available_time="available")
    return view_of(source, KEYS, FEATURES)


def project_at(folder: Path, hand: Hand, **settings: object) -> FeatureStore:
    """The project's store."""
    return store_at(folder, hand, project="kept", definitions="none", maintenance={"schedule": ""}, **settings)


def main(folder: str, point: str, now: str) -> None:
    """Does what is to be done, with no retention."""
    with project_at(Path(folder), Hand(int(now))) as store:
        store.apply([view_of_rows()])
        with killed_at(int(point)):
            store.admin.maintain(retention="1us")


if __name__ == "__main__":
    main(*sys.argv[1:])
