"""Known keys: what the keys are called under which a table's values lie online, as its history names their entities.

Every entity that is online is in the history, which is written first, and one that is forgotten is erased in both. So they are all,
unless the history lost rows that are online still. Data versions are never used again, so what may be left is never read.
"""

from collections.abc import Iterator

import polars as pl

from featurestore.definitions.catalog import AppliedView
from featurestore.offline.base import OfflineStore, Table
from featurestore.online.plan import entity_keys

_BATCH = 50_000


def known_keys(offline: OfflineStore, project: str, applied: AppliedView, space: str) -> Iterator[list[bytes]]:
    """Yield the store's keys of all entities that the history of a view's version has, in batches, bucket by bucket.

    Args:
        offline: the histories.
        project: whose.
        applied: the view at that version.
        space: what all keys begin with (``codec.key_prefix``).
    """
    names = list(applied.spec.entity.key_names)
    for history in offline.snapshot(Table.of(project, applied)).buckets.values():
        entities = pl.concat(history.read(names)).unique()
        for batch in entities.iter_slices(_BATCH):
            yield entity_keys(space, applied, batch)
