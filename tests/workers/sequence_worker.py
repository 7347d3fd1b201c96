"""A process that works on one table until it is killed or ``FOLDER/stop`` is there: ``… FOLDER ADDRESS KIND NAME``.

A pusher prints each row once it is acknowledged, a reader each row that it saw; both begin with those that they repeat.
"""

import random
import sys
from datetime import timedelta
from pathlib import Path

import polars as pl

from featurestore.errors import OfflineStoreError
from featurestore.locks import FileLocks
from featurestore.offline.base import is_gone
from featurestore.offline.delta.history import DeltaStore
from featurestore.offline.delta.maintenance import DeltaMaintenance
from featurestore.offline.open_folder import open_folder
from featurestore.testing.offline import PLAIN, rows


def row(key: str, number: int) -> pl.DataFrame:
    """Returns one row of a key."""
    return rows((key, number, number, float(number)))


def push(store: DeltaStore, name: str, draw: random.Random, number: int) -> None:
    """Pushes a new row, with some that were pushed before."""
    again = [row(name, draw.randrange(number)) for _ in range(draw.randrange(3)) if number]
    store.log.append(PLAIN, pl.concat([*again, row(name, number)]))
    print(f"{name} {number}", flush=True)


def run(store: DeltaStore, draw: random.Random) -> None:
    """Folds what was pushed, or commits rows of a source that may be pushed at the same time; others may be at the same run."""
    number = store.snapshot(PLAIN).last_run + 1
    if draw.random() < 0.5:
        store.commit(PLAIN, number, [segment.staged for segment in store.log.segments(PLAIN)])
        store.log.remove(PLAIN)
    else:
        frame = pl.concat([row(f"push{draw.randrange(4)}", draw.randrange(200)) for _ in range(20)])
        store.commit(PLAIN, number, [store.stage(PLAIN, number, 0, frame.unique(maintain_order=True))])


def read(store: DeltaStore) -> None:
    """Looks whether a row is there twice, and whether one is gone that was there before."""
    snapshot = store.snapshot(PLAIN)
    try:
        frames = [frame for history in snapshot.buckets.values() for frame in history.read(["origin", "event_time"])]
    except OfflineStoreError as error:
        if not is_gone(error):
            raise
        return  # its files were merged and removed meanwhile: nothing is kept back here, so a reader has to ask again
    there = pl.concat([pl.DataFrame(schema=frames[0].schema), *frames]) if frames else pl.DataFrame({"origin": []})
    assert there.height == there.unique().height == snapshot.rows, "a row is there twice"


def main(folder: str, address: str, kind: str, name: str) -> None:
    """Works at least once."""
    store = DeltaStore(open_folder(address), locks=FileLocks(Path(folder) / "_locks"))
    draw = random.Random(name)
    maintenance = DeltaMaintenance(store)
    number = int(name.partition("-")[2] or 0) * 1000
    is_last = False
    while not is_last:
        is_last = (Path(folder) / "stop").exists()
        if kind == "push":
            push(store, name.partition("-")[0], draw, number)
            number += 1
        elif kind == "run":
            run(store, draw)
        elif kind == "read":
            read(store)
        else:
            maintenance.compact(PLAIN, store.snapshot(PLAIN).last_run)
            maintenance.vacuum(PLAIN, timedelta(0))
    print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
