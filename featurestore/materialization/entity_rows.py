"""Reading the rows of some entities from a history."""

from collections.abc import Mapping

import polars as pl

from featurestore.definitions.entity import Entity
from featurestore.definitions.feature_view import ViewSpec
from featurestore.instants import INSTANT
from featurestore.offline.base import Snapshot
from featurestore.rows.buckets import bucket
from featurestore.rows.total_order import AVAILABLE, EVENT, merge_files

_FEW = 10_000
"""Of so many entities or fewer, the rows are looked for by name, in all buckets at once."""
_BUCKET = "_bucket"


def in_buckets(entities: pl.DataFrame, entity: Entity, snapshot: Snapshot) -> pl.DataFrame:
    """Return entities in the order of their buckets: neighbours lie in few, so a batch of them reads few."""
    return entities.sort(bucket(entity.keys, snapshot.bits))


def entity_rows(
    snapshot: Snapshot, view: ViewSpec, stored: Mapping[str, pl.DataType], entities: pl.DataFrame, *, since: int | None = None
) -> pl.DataFrame:
    """Return the rows of some entities, in their total order.

    Args:
        snapshot: the history.
        view: whose.
        stored: the columns besides keys and times.
        entities: the join keys of each, each once.
        since: leave out rows with event times before these microseconds, as far as that is cheap.
    """
    keys = list(view.entity.key_names)
    bucketed = entities.with_columns(bucket(view.entity.keys, snapshot.bits).alias(_BUCKET))
    columns = [*keys, EVENT, AVAILABLE, *stored]
    frames = [pl.DataFrame(schema={**view.entity.keys, EVENT: INSTANT, AVAILABLE: INSTANT, **stored})]
    nodes = [node for node in bucketed[_BUCKET].unique().sort() if node in snapshot.buckets]
    histories = [snapshot.buckets[node] for node in nodes]
    few = entities.height <= _FEW
    for history in [histories[0].joined(histories[1:])] if few and histories else histories:
        read = history.read(columns, entities=entities if few else None, since=since)
        parts = [frame.join(entities, on=keys, how="semi", maintain_order="left") for frame in read]
        frames.append(merge_files(parts, keys, list(stored)))
    rows = pl.concat(frames)
    return rows.sort(keys, maintain_order=True) if len(frames) > 2 else rows
