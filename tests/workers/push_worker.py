"""A process that pushes and materializes, and may be killed: ``python -m tests.workers.push_worker FOLDER ONLINE POINT``.

It pushes files one after the other, some of which a run has read or will read; its log is folded early, so folds are among what is
killed.
"""

import sys
from pathlib import Path

import polars as pl

from featurestore.materialization import push
from tests.crashes import killed_at
from tests.workers.worker import store_of


def main(folder: str, online: str, point: str) -> None:
    """Pushes all files there are, a run in their midst and one at the end."""
    push._MOST_SEGMENTS = 4
    store = store_of(Path(folder), online or None)
    with killed_at(int(point)):
        for number, file in enumerate(sorted(Path(folder).parent.glob("pushed/*.parquet"))):
            if number == 7:
                store.materialize()
            store.push("rows", pl.read_parquet(file))
        store.materialize()
    store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
