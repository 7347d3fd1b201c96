"""Pushing rows into both stores, against a bare Parquet file, flushed to the disk, and pipelined SETs of the same values."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import polars as pl

from benchmarks import data
from benchmarks.measure import DATA, Line, flush
from benchmarks.project import materialized, windowed
from featurestore import FeatureStore, ParquetSource

BATCH, PUSHES, ENTITIES, EVENTS = 1_000, 100, 100_000, 10_000_000
START = datetime(1970, 1, 31, tzinfo=UTC)


def lines(*, full: bool) -> Iterator[Line]:
    """Measures pushes of 1,000 events of a thousand of a hundred thousand entities, with 10M events before them."""
    import redis

    from tests.servers.valkey import ValkeyServer

    folder = data.source("events", EVENTS, ENTITIES, "x", features=1, span=30 * data.DAY)
    for name, event_id in (("no event id", None), ("event ids", "event_id")):
        source = ParquetSource("pushed_events", str(_with_ids(folder) / "*.parquet"), event_time="event_time", event_id=event_id)
        view = windowed("pushed", source, "x0")
        with ValkeyServer() as server:
            place = f"push-{uuid4().hex[:8]}"
            opened = materialized(place, [view], server.url)
            ours = _push(opened, source, PUSHES)
            raw = redis.Redis.from_url(server.url)
            keys = list(raw.scan_iter(count=BATCH))[:BATCH]
            values = dict(zip(keys, raw.mget(keys), strict=True))
            began = time.perf_counter()
            for number in range(PUSHES):
                bare_file = DATA / place / f"bare-{number}.parquet"
                _batch(number + PUSHES).write_parquet(bare_file)
                flush(bare_file)
                raw.mget(keys)
                pipeline = raw.pipeline(transaction=False)
                for key, value in values.items():
                    pipeline.set(key, value)
                pipeline.execute()
            bare = PUSHES * BATCH / (time.perf_counter() - began)
            raw.close()
            opened.close()
        yield Line(
            f"push 1,000 rows to Delta's log and Valkey, 10M before, {name}", f"{ours:,.0f} rows/s",
            f"{bare:,.0f} rows/s (Parquet, fsync, MGET, SETs)", f"{ours / bare:.2f}×", "≥ 20,000 rows/s", ours >= 20_000,
        )  # fmt: skip


def _push(opened: FeatureStore, source: ParquetSource, pushes: int) -> float:
    """Returns how many rows a second are pushed, after a first push that makes known what is there."""
    opened.push(source, _batch(0))
    began = time.perf_counter()
    for number in range(1, pushes):
        opened.push(source, _batch(number))
    return (pushes - 1) * BATCH / (time.perf_counter() - began)


def _batch(number: int) -> pl.DataFrame:
    """Returns new events, a second's in each batch."""
    base = pl.select(n=pl.int_range(BATCH, dtype=pl.Int64))
    return base.select(
        entity="user_" + ((pl.col("n") * 97 + number * 1_009) % ENTITIES).cast(pl.String),
        event_time=pl.lit(START + timedelta(seconds=number)) + pl.duration(microseconds=pl.col("n") * 1_000),
        x0=pl.col("n").cast(pl.Float64),
        event_id=pl.lit(f"new-{number}-") + pl.col("n").cast(pl.String),
    )


def _with_ids(folder: Path) -> Path:
    """Returns the events with an id each."""
    target = folder.with_name(folder.name + "-ids")
    if not (target / "done").exists():
        target.mkdir(parents=True, exist_ok=True)
        for file in sorted(folder.glob("*.parquet")):
            frame = pl.read_parquet(file).with_row_index("event_id")
            frame.with_columns((pl.lit(f"{file.stem}-") + pl.col("event_id").cast(pl.String)).alias("event_id")).write_parquet(
                target / file.name
            )
        (target / "done").touch()
    return target
