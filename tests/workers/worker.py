"""A process that materializes, and kills itself at a given point: ``python -m tests.workers.worker FOLDER ONLINE POINT``.

A point is the number of a call of a function of the feature store, in any thread; 0 for none. At its end the process prints
how many calls it made, so a test can draw points from the whole of a run.
"""

import itertools
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import featurestore
from featurestore import FeatureStore, ParquetSource
from featurestore.clock import from_micros
from tests.projects import view_of

NOW = 10_000
KEYS = {"k": str}
FEATURES = {"x": float | None, "n": int}
_PACKAGE = str(Path(featurestore.__file__).parent)


def store_of(folder: Path, online: str | None) -> FeatureStore:
    """The project's store, its definitions applied."""
    store = FeatureStore(folder, project=folder.name, online=online, clock=lambda: from_micros(NOW), chunk_rows=100)
    source = ParquetSource("rows", "../data/*.parquet", event_time="event", available_time="available")
    store.apply([view_of(source, KEYS, FEATURES, ttl="1d"), view_of(source, KEYS, {"n": int}, name="w")])
    return store


@contextmanager
def killed_at(point: int) -> Iterator[None]:
    """Kills the process at a call of the package within, of whatever thread; prints how many there were if it comes to its end."""
    counter = itertools.count(1)

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(_PACKAGE) and next(counter) == point:
            os.kill(os.getpid(), signal.SIGKILL)

    threading.setprofile(profile)
    sys.setprofile(profile)
    yield
    sys.setprofile(None)
    threading.setprofile(None)
    print(next(counter) - 1)


def main(folder: str, online: str, point: str) -> None:
    """Materializes everything."""
    with store_of(Path(folder), online or None) as store, killed_at(int(point)):
        store.materialize()


if __name__ == "__main__":
    main(*sys.argv[1:])
