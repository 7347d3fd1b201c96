"""Small runs on large histories, what many of them leave, and filling an online store anew."""

import shutil
import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import polars as pl

from benchmarks import data
from benchmarks.measure import DATA, Line, in_process
from benchmarks.project import USER, store, windowed
from featurestore import Feature, FeatureStore, FeatureView, FrameSource, ParquetSource
from featurestore.offline.base import Table
from featurestore.rows.transform import shape_rows

ENTITIES, BATCH, RUNS, WARM_UP = 100_000, 1_000, 9, 3
SIZES = (1_000_000, 10_000_000, 100_000_000)
SMALL_RUNS, SPINE = 1_000, 1_000_000
REBUILT = 1_000_000
SPAN = 30 * data.DAY
START = datetime(1970, 1, 31, tzinfo=UTC)
_ROOM = 15 << 30


def lines(*, full: bool) -> Iterator[Line]:
    """Measures runs of 1,000 rows on histories of 1M, 10M and (in full) 100M rows, and training after 1,000 of them."""
    sizes = SIZES if full else SIZES[:2]
    if full and shutil.disk_usage(DATA.parent).free < _ROOM:
        raise SystemExit(f"The history of 100M rows needs {_ROOM >> 30} GiB of disk.")
    for kind in ("latest values", "windows to 7d"):
        yield from _incremental(kind, sizes)
    yield from _fragmented()
    yield _rebuilt()


def _incremental(kind: str, sizes: tuple[int, ...]) -> Iterator[Line]:
    smallest = 0.0
    for rows in sizes:
        seconds = _small_runs(kind, rows)
        smallest = smallest or seconds
        ratio = seconds / smallest
        # Windows are computed from the history of their entities, of which a larger history has more.
        reach, most = ("≤ 2 s, ≤ 1.5×", 1.5) if kind == "latest values" else ("≤ 2 s", float("inf"))
        yield Line(
            f"run of {BATCH:,} new rows, {rows // 1_000_000}M before, {kind}", f"{seconds:.2f} s", f"{smallest:.2f} s (1M before)",
            f"{ratio:.2f}×", reach, seconds <= 2 and ratio <= most,
        )  # fmt: skip


def _small_runs(kind: str, rows: int) -> float:
    """Returns the median seconds of runs with a few new rows each, on a history of so many rows."""
    folder = data.source("grown", rows, ENTITIES, "x", features=2, span=SPAN)
    for left in folder.glob("zz-*.parquet"):
        left.unlink()
    place = f"upkeep-{uuid4().hex[:8]}"
    source = ParquetSource("grown_rows", str(folder / "*.parquet"), event_time="event_time")
    view = windowed("grown", source, "x0") if kind.startswith("windows") else _latest("grown", source)
    try:
        with store(place) as opened:
            opened.apply([view])
            _fabricate(opened, folder)
            times = []
            for number in range(WARM_UP + RUNS):
                batch(number).write_parquet(folder / f"zz-{number:04}.parquet")
                began = time.perf_counter()
                [summary] = opened.materialize(end=START + timedelta(days=1))
                times.append(time.perf_counter() - began)
                assert (summary.rows_read, summary.rows_written, summary.rows_online) == (BATCH,) * 3
    finally:
        shutil.rmtree(DATA / place, ignore_errors=True)
        for left in folder.glob("zz-*.parquet"):
            left.unlink()
    return statistics.median(times[WARM_UP:])


def _fabricate(opened: FeatureStore, folder: Path) -> None:
    """Makes a source's files the history's first run, without what a run writes online."""
    [applied] = opened.catalog.views.values()
    bound = opened.components.definition_loader.bind(applied)
    applied, transform = bound.applied, bound.transform
    table, view = Table.of("bench", applied), applied.spec
    reader = opened.components.open_source(view.source)
    span = reader.span(None, None, START + timedelta(days=1), 2_000_000)
    run = opened.components.ledger.begin(view.name, applied.data_version, 1, {"chunks": [], "cursor": dict(span.cursor)})
    staged = []
    for index, chunk in enumerate(span.chunks):
        staged.append(opened.components.offline.stage(table, 1, index, shape_rows(reader.read(chunk), view, transform).rows))
    opened.components.offline.commit(table, 1, staged)
    opened.components.ledger.update(run, state="done")


def _fragmented() -> Iterator[Line]:
    """Measures a training frame of the rows of a thousand runs, and of the same rows from one."""
    spine = data.spine(SPINE, ENTITIES, span=SPAN)
    places = {name: f"upkeep-{name}-{uuid4().hex[:8]}" for name in ("one", "many")}
    every = pl.concat([batch(number) for number in range(SMALL_RUNS)])
    try:
        with store(places["one"]) as one:
            one.apply([_latest("small", FrameSource("rows", every, event_time="event_time"))])
            one.materialize(end=START + timedelta(days=1))
        with store(places["many"]) as many:
            many.apply([_latest("small", FrameSource("rows", every, event_time="event_time"))])
            [applied] = many.catalog.views.values()
            table = Table.of("bench", applied)
            for number in range(SMALL_RUNS):
                rows = shape_rows(batch(number), applied.spec, None).rows
                many.components.offline.commit(table, number + 1, [many.components.offline.stage(table, number + 1, 0, rows)])
            last = many.components.ledger.begin(applied.spec.name, applied.data_version, SMALL_RUNS, {"chunks": [], "cursor": None})
            many.components.ledger.update(last, state="done")
        floor = in_process("training", places["one"], str(spine), '["small"]', runs=5)
        before = in_process("training", places["many"], str(spine), '["small"]', runs=5)
        with store(places["many"]) as many:
            began = time.perf_counter()
            [kept] = many.admin.maintain()
            seconds = time.perf_counter() - began
            assert (kept.files_before, kept.files_after) == (SMALL_RUNS, 1)
        after = in_process("training", places["many"], str(spine), '["small"]', runs=5)
    finally:
        for place in places.values():
            shutil.rmtree(DATA / place, ignore_errors=True)
    for what, ours, reach in (("before", before, 2.0), (f"after ({seconds:.1f} s)", after, 1.1)):
        ratio = ours.seconds / floor.seconds
        yield Line(
            f"training frame after {SMALL_RUNS:,} small runs, {what} compaction", f"{ours.seconds:.2f} s",
            f"{floor.seconds:.2f} s (one run)", f"{ratio:.2f}×", f"≤ {reach}×", ratio <= reach,
        )  # fmt: skip


def _rebuilt() -> Line:
    """Measures filling Valkey from the history of a million entities, against bare pipelined SETs of the same values."""
    import redis

    from benchmarks.writes import bare_sets
    from tests.servers.valkey import ValkeyServer

    base = pl.select(n=pl.int_range(REBUILT, dtype=pl.Int64))
    columns = {f"x{place}": pl.col("n").cast(pl.Float64) * 0.37 + place for place in range(10)}
    times = pl.lit(START) - pl.duration(microseconds=pl.col("n"))
    rows = base.select(entity="user_" + pl.col("n").cast(pl.String), event_time=times, **columns)
    place = f"upkeep-{uuid4().hex[:8]}"
    try:
        with ValkeyServer() as server, store(place, server.url) as opened:
            opened.apply([_latest("entities", FrameSource("rows", rows, event_time="event_time"), 10)])
            opened.materialize(end=START)
            raw = redis.Redis.from_url(server.url)
            keys = list(raw.scan_iter(count=10_000))
            pairs = [
                pair
                for first in range(0, len(keys), 10_000)
                for pair in zip(keys[first : first + 10_000], raw.mget(keys[first : first + 10_000]), strict=True)
            ]
            found: dict[str, list[float]] = {"ours": [], "bare": []}
            for _ in range(2):
                raw.flushall()
                began = time.perf_counter()
                bare_sets(raw, pairs)
                found["bare"].append(time.perf_counter() - began)
                raw.flushall()
                began = time.perf_counter()
                assert opened.admin.rebuild_online() == {"entities": REBUILT}
                found["ours"].append(time.perf_counter() - began)
            raw.close()
    finally:
        shutil.rmtree(DATA / place, ignore_errors=True)
    ours, bare = (REBUILT / min(found[name]) for name in ("ours", "bare"))
    return Line(
        f"rebuild Valkey from history, {REBUILT:,} entities × 10", f"{ours:,.0f} a second", f"{bare:,.0f} a second (pipelined SET)",
        f"{ours / bare:.2f}×", "≥ 0.5×", ours >= bare / 2,
    )  # fmt: skip


def _latest(name: str, source: ParquetSource | FrameSource, features: int = 2) -> type[FeatureView]:
    names = data.feature_names("x")[:features]
    body = {"__annotations__": dict.fromkeys(names, float), "__module__": __name__} | {each: Feature() for each in names}
    return type(name, (FeatureView,), body, entity=USER, source=source, name=name)


def batch(number: int) -> pl.DataFrame:
    """Returns new rows of a thousand entities, a second later in each batch."""
    base = pl.select(n=pl.int_range(BATCH, dtype=pl.Int64))
    return base.select(
        entity="user_" + ((pl.col("n") * 97 + number * 1_009) % ENTITIES).cast(pl.String),
        event_time=pl.lit(START + timedelta(seconds=number)) + pl.duration(microseconds=pl.col("n") * 1_000),
        x0=pl.col("n").cast(pl.Float64),
        x1=pl.lit(float(number)),
    )
