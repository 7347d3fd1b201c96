"""Parity check (S16): replays the data as it became available, and compares served values with training values.

All values are compared bit for bit, those of windows too: delays are whole minutes, so their sums have no rounding in them
that S10 would have to allow for.
"""

import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from featurestore.adapters import open_online
from featurestore.clock import utc_now
from featurestore.store import FeatureStore

_UNKNOWN = {"origin": ["BOS", None], "carrier": ["ZZ", None], "tailnum": ["N00000", None], "distance": [0, 1]}
"""An entity that no row is about, and null keys."""
_PUSHED = timedelta(hours=1)
"""How long before each instant the runs over departures end; what left since then is pushed."""


@dataclass(frozen=True)
class Compared:
    """What came of one instant.

    Args:
        at: the instant.
        rows: the rows that the replay had written by then.
        values: the feature values compared.
        equal: those that were equal, bit for bit.
        filled: those that were not null.
        differing: the features of which some were not equal.
    """

    at: datetime
    rows: int
    values: int
    equal: int
    filled: int
    differing: tuple[str, ...]


def sample_instants(store: FeatureStore, count: int) -> list[datetime]:
    """Return instants spread over the time of the data, each the very microsecond at which a row became available."""
    times = store.sql(
        "select available_time from weather union select available_time from last_departure order by available_time"
    ).to_series()
    return [times[int(times.len() * (number + 0.5) / count)] for number in range(count)]


def compare_at(store: FeatureStore, service: str, entities: pl.DataFrame, instants: Sequence[datetime]) -> Iterator[Compared]:
    """Compare a fresh online store at some instants with training frames of a store that knows all rows.

    The fresh store has a registry, history and online store of its own, in a temporary folder or, where the project's is
    a server, on that server under another project's name. At each instant it is brought forward by the rows that became
    available since the one before, and by no other: by runs, and by a push of the departures of the last hour, which the next
    run meets again.

    Args:
        store: the store that knows all rows.
        service: the features to compare.
        entities: the keys to look up; some that nothing is known about are added.
        instants: when, in order.
    """
    keys = pl.concat([entities, pl.DataFrame(_UNKNOWN, schema=entities.schema)])
    with tempfile.TemporaryDirectory(prefix="featurestore-replay-") as folder, _replay(store, Path(folder)) as fresh:
        try:
            fresh.apply()
            rows = 0
            for at in instants:
                rows += _bring_forward(fresh, at)
                served = fresh.online(service, keys.to_dicts(), at=at).to_polars()
                spine = keys.with_columns(pl.lit(at).dt.cast_time_unit("us").alias("at"))
                trained = store.training_frame(spine, service, time="at")
                yield _compare(at, rows, served.drop(keys.columns), trained.drop(spine.columns))
        finally:
            forget_online(fresh)


def _bring_forward(store: FeatureStore, at: datetime) -> int:
    """Write what became available by an instant since the one before; return how many rows that was."""
    views = {name: applied.spec.source.name == "departures" for name, applied in store.catalog.views.items()}
    run = [
        *store.materialize([name for name, pushed in views.items() if pushed], end=at - _PUSHED),
        *store.materialize([name for name, pushed in views.items() if not pushed], end=at),
    ]
    left = pl.col("departed_at").is_between(at - _PUSHED, at, closed="right")
    rows = pl.scan_parquet(store.settings.root / "data" / "flights" / "*.parquet").filter(left).collect()
    written: int = sum(summary.rows_written for summary in run) + sum(
        summary.rows_new for summary in store.push("departures", rows)
    )
    return written


def _replay(store: FeatureStore, folder: Path) -> FeatureStore:
    settings = store.settings
    return FeatureStore(
        settings.root,
        project=f"replay-{uuid.uuid4().hex[:8]}",
        definitions=settings.definitions,
        registry=f"sqlite:///{folder}/registry.db",
        offline=f"{folder}/offline",
        online=f"lmdb:{folder}/online" if settings.online.startswith("lmdb:") else settings.online,
    )


def forget_online(store: FeatureStore) -> None:
    """Delete all that a project has in its online store."""
    online = open_online(store.settings, utc_now)
    try:
        online.delete(f"{store.settings.project}/".encode())
    finally:
        online.close()


def _compare(at: datetime, rows: int, served: pl.DataFrame, trained: pl.DataFrame) -> Compared:
    equal = {name: int(_same(served[name], trained[name]).sum()) for name in trained.columns}
    filled = sum(column.len() - column.null_count() for column in trained.get_columns())
    differing = tuple(name for name, count in equal.items() if count < trained.height)
    return Compared(at, rows, trained.height * trained.width, sum(equal.values()), filled, differing)


def _same(one: pl.Series, other: pl.Series) -> pl.Series:
    """Return which values are the same, nulls and every bit of them included."""
    if one.dtype != other.dtype:
        return pl.zeros(one.len(), dtype=pl.Boolean, eager=True)
    same = one.eq_missing(other)
    # 0.0 and -0.0 are equal; their inverses are not.
    return same & (1 / one).eq_missing(1 / other) if one.dtype.is_float() else same
