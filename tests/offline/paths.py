"""Where the tables of a store lie on a disk."""

from pathlib import Path

from featurestore.offline.base import Table
from featurestore.offline.delta.history import DeltaStore


def path_of(store: DeltaStore, table: Table) -> Path:
    path = store.folder(table).address().path
    assert path is not None
    return path
