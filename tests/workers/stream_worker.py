"""A process that works on a stream, and may be killed: ``python -m tests.workers.stream_worker FOLDER ONLINE BROKER POINT``.

It ends when nothing is left in the stream. Its logs are folded early.
"""

import sys
from datetime import datetime
from pathlib import Path

from featurestore import Entity, FeatureStore, FeatureView, StreamSource, count, last_n, sum_
from featurestore.clock import from_micros
from featurestore.materialization import push
from tests.crashes import killed_at

NOW = 2_000_000_000_000_000


def source_of(broker: str, topic: str) -> StreamSource:
    columns = {"k": str, "x": float, "n": int, "at": datetime}
    return StreamSource("events", broker, topic=topic, columns=columns, event_time="at", group="g")


def views_of(source: StreamSource) -> list[type[FeatureView]]:
    entity = Entity("thing", k=str)

    class Latest(FeatureView, entity=entity, source=source):
        x: float | None
        n: int

    class Windows(FeatureView, entity=entity, source=source):
        total: float = sum_("x").over("60s", "1h")
        events: int = count().over("1h")
        last: list[int] = last_n("n", 3).over("1h")

    return [Latest, Windows]


def store_of(folder: Path, online: str | None, broker: str) -> FeatureStore:
    """The project's store, its definitions applied: a view of latest values and one of windows."""
    folder.mkdir(exist_ok=True)
    store = FeatureStore(folder, project=folder.name, online=online, clock=lambda: from_micros(NOW))
    store.apply(views_of(source_of(broker, folder.name)))
    return store


def main(folder: str, online: str, broker: str, point: str) -> None:
    """Works on the stream until it is empty."""
    push._MOST_SEGMENTS = 3
    store = store_of(Path(folder), online or None, broker)
    with killed_at(int(point)):
        store.streams.run(batch=25, idle_seconds=0.3, once=True)
    store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
