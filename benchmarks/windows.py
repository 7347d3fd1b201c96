"""Windowed features: training against DuckDB's RANGE windows, and online reads against reads of latest values."""

import json
from collections.abc import Iterator
from typing import Any

import polars as pl

from benchmarks import data
from benchmarks.measure import DATA, Line, in_process, in_turn, microseconds
from benchmarks.project import USER, events, materialized, store, windowed
from featurestore import FeatureView, FrameSource

SPINE, ENTITIES, EVENTS = 1_000_000, 100_000, 10_000_000
SPAN = 30 * data.DAY
CALLS = 1_000


def lines(*, full: bool) -> Iterator[Line]:
    """Measures training over 10M events (in full also 100M), and online reads of twelve windowed features."""
    spine = data.spine(SPINE, ENTITIES, span=SPAN)
    source = events(EVENTS, ENTITIES)
    materialized("windows", [windowed("recent", source, "x0")]).close()
    folder = data.source("events", EVENTS, ENTITIES, "x", features=1, span=SPAN)
    floor = in_process("range_windows", str(spine), str(folder / "*.parquet"))
    ours = in_process("training", "windows", str(spine), json.dumps(["recent"]), runs=3)
    ratio = ours.seconds / floor.seconds
    yield Line(
        "3 windows × 4 aggregates: 1M spine × 10M events",
        f"{ours.seconds:.2f} s, {ours.peak_mib:,} MiB",
        f"{floor.seconds:.1f} s, {floor.peak_mib:,} MiB (RANGE)",
        f"{ratio:.2f}×",
        "≤ 0.33×, ≤ 3,072 MiB",
        ratio <= 1 / 3 and ours.peak_mib <= 3072,
    )
    if full:
        materialized("windows-huge", [windowed("recent_huge", events(100_000_000, ENTITIES), "x0")]).close()
        sink = str(DATA / "windows-huge.parquet")
        small = in_process("training", "windows", str(spine), json.dumps(["recent"]), sink, runs=3)
        huge = in_process("training", "windows-huge", str(spine), json.dumps(["recent_huge"]), sink)
        ratio = huge.seconds / small.seconds
        yield Line(
            "the same × 100M events, sink=",
            f"{huge.seconds:.1f} s, {huge.peak_mib:,} MiB",
            f"{small.seconds:.2f} s (10M, sink=)",
            f"{ratio:.1f}×",
            "≤ 13×, ≤ 6,144 MiB",
            ratio <= 13 and huge.peak_mib <= 6144,
        )
    yield from _online()


def _online() -> Iterator[Line]:
    from tests.servers.valkey import ValkeyServer

    one = [{"entity": "user_77"}]
    hundred = [{"entity": f"user_{number * 97}"} for number in range(100)]
    with ValkeyServer() as server, store("windows-online", server.url) as opened:
        plain, recent = _latest(12), _events()
        opened.apply([plain, recent])
        opened.materialize(start="1970-01-01", end="1970-01-31")
        opened.admin.rebuild_online()  # the history may be of an earlier run, the server is new
        for rows, what in ((one, "1 row"), (hundred, "100 rows")):
            # At the events' end, so that the windows are full.
            ours, latest = in_turn(
                lambda rows=rows: opened.online(recent, rows, at="1970-01-31").to_dicts(),  # type: ignore[misc]
                lambda rows=rows: opened.online(plain, rows, at="1970-01-31").to_dicts(),  # type: ignore[misc]
                CALLS,
            )
            yield Line(
                f"Valkey: {what} × 12 windowed features, to_dicts()", f"{microseconds(ours)} p50",
                f"{microseconds(latest)} (12 latest values)", f"{ours / latest:.2f}×", "≤ 3×", ours <= 3 * latest,
            )  # fmt: skip


def _latest(features: int) -> type[FeatureView]:
    names = [f"z{number}" for number in range(features)]
    base = pl.select(n=pl.int_range(10_000, dtype=pl.UInt64))
    columns = {name: pl.col("n").cast(pl.Float64) * 0.37 + place for place, name in enumerate(names)}
    frame = base.select(entity="user_" + pl.col("n").cast(pl.String), event_time=pl.lit(1).cast(data.INSTANT), **columns)
    body: dict[str, Any] = {"__annotations__": dict.fromkeys(names, float), "__module__": __name__}
    return type("Plain", (FeatureView,), body, entity=USER, source=FrameSource("plain_rows", frame, event_time="event_time"))


def _events() -> type[FeatureView]:
    """Returns a windowed view of ten thousand entities with a hundred events each in thirty days."""
    base = pl.select(n=pl.int_range(1_000_000, dtype=pl.UInt64))
    frame = base.select(
        entity="user_" + (pl.col("n") * 7919 % 10_000).cast(pl.String),
        event_time=(pl.col("n").cast(pl.Int64) * (SPAN // 1_000_000)).cast(data.INSTANT),
        x0=pl.col("n").cast(pl.Float64) * 0.37,
    )
    return windowed("recent_online", FrameSource("online_events", frame, event_time="event_time"), "x0")
