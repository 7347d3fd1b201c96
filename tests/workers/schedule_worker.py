"""A scheduler process that ticks when it is told to, and kills or stops itself at a call that the test draws.

The instant is shared with the test, so that a process which stood still finds on its return that time has passed.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from featurestore import DeltaSource, Entity, FeatureStore, FeatureView, ParquetSource, count
from featurestore.clock import from_micros
from tests.crashes import signalled_at
from tests.projects import view_of
from tests.scheduling.scheduling import FEATURES, KEYS, scheduler_of

LEASE_SECONDS = 3


def views_of(folder: Path, seconds: Mapping[str, int]) -> list[type[FeatureView]]:
    """A view, one that reads its history, and a windowed one, each due every so many seconds."""
    source = ParquetSource("rows", str(folder.parent / "data" / "*.parquet"), event_time="event", available_time="available")
    history = folder / ".featurestore" / "offline" / folder.name / "v" / "v1"
    again = DeltaSource("history", str(history), event_time="event_time", available_time="available_time")
    below = view_of(again, KEYS, FEATURES, name="below", schedule=f"{seconds['below']}s")

    class Often(FeatureView, entity=Entity("entity_often", **KEYS), source=source, schedule=f"{seconds['often']}s"):
        """How many rows a key had lately."""

        seen: int = count().over("1m", tile="10s")

    return [view_of(source, KEYS, FEATURES, name="v", schedule=f"{seconds['v']}s"), below, Often]


def store_of(
    folder: Path, registry: str | None, online: str | None, clock: Callable[[], Any], seconds: Mapping[str, int]
) -> FeatureStore:
    """The project's store, its definitions applied."""
    folder.mkdir(exist_ok=True)
    settings = {"schedule": {"lease": timedelta(seconds=LEASE_SECONDS), "source_poll": "1s", "retry_delay": "1s"}, "chunk_rows": 20}
    stores = {"registry": registry, "online": online}
    store = FeatureStore(folder, project=folder.name, **stores, clock=clock, maintenance={"schedule": ""}, **settings)
    store.apply(views_of(folder, seconds))
    return store


def work(folder: str, registry: str | None, online: str | None, seconds: Mapping[str, int], now: Any, orders: Connection) -> None:
    """Ticks once for each order: at which call to send itself which signal; 0 for none. None ends it."""
    store = store_of(Path(folder), registry, online, lambda: from_micros(now.value), seconds)
    scheduler, told = scheduler_of(store)
    orders.send("ready")
    while (order := orders.recv()) is not None:
        point, number = order
        with signalled_at(point, number) if point else nullcontext():
            scheduler.renew()
            scheduler.step()
        orders.send([(each.name, each.state, each.error) for each in told])
        told.clear()
    store.close()
