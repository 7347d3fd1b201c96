"""A process that writes to a project in all ways there are, tells what was acknowledged, and stands still at a given point.

``python -m tests.workers.power_worker FOLDER REGISTRY FIRST POINT``: at its point (``tests.crashes``) the process is stopped
(SIGSTOP), as if the power were cut. 0 is for none: it ends after a round.
"""

import itertools
import signal
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from featurestore import Entity, FeatureStore, FeatureView, ParquetSource, count
from featurestore.materialization import push
from tests.crashes import signalled_at

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
_ROUND = (
    "push", "push", "run", "push", "push", "forget", "push", "push", "push", "push", "upkeep", "push", "run", "backup", "push",
)  # fmt: skip


def rows(key: str, *numbers: int) -> pl.DataFrame:
    """The rows of some numbers, each with an instant of its own."""
    at = [BEGAN + timedelta(seconds=number) for number in numbers]
    return pl.DataFrame({"k": [key] * len(numbers), "at": at, "x": numbers}, schema_overrides={"at": pl.Datetime("us", "UTC")})


def project(folder: Path, registry: str) -> FeatureStore:
    """The project's store, its definitions applied. Its source lies beside the folder, on a disk that has no power cuts."""
    source = ParquetSource("rows", "../data/*.parquet", event_time="at")
    person = Entity("person", k=str)

    class Latest(FeatureView, entity=person, source=source):
        x: int

    class Counts(FeatureView, entity=person, source=source):
        n: int = count().over("10000d")

    store = FeatureStore(folder, project=f"power-{folder.parent.name}", registry=registry or None)
    store.apply([Latest, Counts])
    return store


def acts(store: FeatureStore, first: int) -> Iterator[str]:
    """Does one thing after the other; yields what is acknowledged by each, and before it what may be."""
    data = store.settings.root.parent / "data"
    for number, act in enumerate(itertools.cycle(_ROUND), first):
        yield f"try {act} {number}"
        if act == "push":
            store.push("rows", rows(f"k{number % 5}", number))
        elif act == "run":
            rows("source", number).write_parquet(data / f".{number}")
            (data / f".{number}").rename(data / f"{number}.parquet")
            store.materialize()
        elif act == "upkeep":
            store.admin.maintain(retention=timedelta(0))
        elif act == "backup":
            store.admin.backup(f"backup-{number}")
        else:
            store.push("rows", rows(f"gone{number}", number))
            store.admin.forget("person", {"k": f"gone{number}"})
        yield f"{act} {number}"


def main(folder: str, registry: str, first: str, point: str) -> None:
    """Does all that until it is stopped; without a point, a round."""
    push._MOST_SEGMENTS = 3  # so that pushes fold their log too
    store = project(Path(folder), registry)
    with signalled_at(int(point), signal.SIGSTOP):
        for step, told in enumerate(acts(store, int(first)), 1):
            print(told, flush=True)
            if point == "0" and step == 2 * len(_ROUND):
                break


if __name__ == "__main__":
    main(*sys.argv[1:])
