"""Does a project's upkeep, and may be killed at a point: ``python -m tests.workers.upkeep_worker FOLDER NOW POINT``."""

import sys
from pathlib import Path

from featurestore import FeatureStore, FeatureView, ParquetSource
from featurestore.testing import FakeClock
from tests.crashes import killed_at
from tests.projects import store_at, view_of

DAY = 86_400_000_000
KEYS = {"k": str}
FEATURES = {"x": float | None}


def view_of_rows() -> type[FeatureView]:
    """The project's view, on files in its folder."""
    source = ParquetSource("rows", "data/*.parquet", event_time="event", available_time="available")
    return view_of(source, KEYS, FEATURES)


def project_at(folder: Path, hand: FakeClock, **settings: object) -> FeatureStore:
    """The project's store."""
    return store_at(folder, hand, project="kept", definitions="none", maintenance={"schedule": ""}, **settings)


def main(folder: str, now: str, point: str) -> None:
    """Does what is to be done, with no retention."""
    with project_at(Path(folder), FakeClock(int(now))) as store:
        store.apply([view_of_rows()])
        with killed_at(int(point)):
            store.admin.maintain(retention="1us")


if __name__ == "__main__":
    main(*sys.argv[1:])
