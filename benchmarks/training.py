"""Training frames against bare as-of joins over the same rows."""

import json
from collections.abc import Iterator
from pathlib import Path

from benchmarks import data
from benchmarks.measure import DATA, Line, in_process
from benchmarks.project import materialized, view

SPINE, ENTITIES = 1_000_000, 100_000
VIEWS = (("big", 10_000_000, "f"), ("middle", 1_000_000, "g"), ("small", 100_000, "h"))


def lines(*, full: bool) -> Iterator[Line]:
    """Measures one view, three views, and (in full) a spine of 10M rows and a history of 100M rows."""
    spine = data.spine(SPINE, ENTITIES)
    views = [view(name, rows, ENTITIES, prefix) for name, rows, prefix in VIEWS]
    materialized("training", views).close()
    folders = [data.source(name, rows, ENTITIES, prefix) for name, rows, prefix in VIEWS]
    yield _line("1 view: 1M spine × 10M rows × 10 features", str(spine), ["big"], folders[:1], 1.0, 1536)
    yield _line("3 views: 10M, 1M, 100k rows; 30 features", str(spine), ["big", "middle", "small"], folders, 1.0, 2048)
    if full:
        yield _large_spine()
        materialized("huge", [view("huge", 100_000_000, ENTITIES, "f")]).close()
        sink = str(DATA / "huge.parquet")
        small = in_process("training", "training", str(spine), json.dumps(["big"]), sink, runs=3)
        huge = in_process("training", "huge", str(spine), json.dumps(["huge"]), sink)
        ratio = huge.seconds / small.seconds
        yield Line(
            "1 view: 1M spine × 100M rows, sink=",
            f"{huge.seconds:.1f} s, {huge.peak_mib:,} MiB",
            f"{small.seconds:.2f} s (10M, sink=)",
            f"{ratio:.1f}×",
            "≤ 13×, ≤ 6,144 MiB",
            ratio <= 13 and huge.peak_mib <= 6144,
        )


def _large_spine() -> Line:
    """A spine that is as large as the histories, to a file: ours is in its order, the floor's in that of time."""
    rows, spine = 10_000_000, str(data.spine(10_000_000, ENTITIES))
    names = {"left": "l", "right": "r"}
    materialized("large", [view(name, rows, ENTITIES, prefix) for name, prefix in names.items()]).close()
    files = [data.sorted_file(data.source(name, rows, ENTITIES, prefix), "entity") for name, prefix in names.items()]
    target = str(DATA / "large.parquet")
    floor = in_process("join_asof_file", spine, target, *map(str, files))
    ours = in_process("training", "large", spine, json.dumps(list(names)), target)
    ratio = ours.seconds / floor.seconds
    return Line(
        "2 views: 10M spine × 10M rows, sink=",
        f"{ours.seconds:.1f} s, {ours.peak_mib:,} MiB",
        f"{floor.seconds:.1f} s, {floor.peak_mib:,} MiB (join_asof)",
        f"{ratio:.2f}×",
        "≤ 2×, ≤ 1,024 MiB",
        ratio <= 2 and ours.peak_mib <= 1024,
    )


def _line(what: str, spine: str, names: list[str], folders: list[Path], reach: float, peak: int) -> Line:
    # The floor is the faster of the two orders that a user might keep the rows in.
    floors = [
        in_process("join_asof", spine, *(str(data.sorted_file(folder, by)) for folder in folders), runs=3)
        for by in ("time", "entity")
    ]
    floor = min(floors, key=lambda each: each.seconds)
    ours = in_process("training", "training", spine, json.dumps(names), runs=3)
    ratio = ours.seconds / floor.seconds
    return Line(
        what,
        f"{ours.seconds:.2f} s, {ours.peak_mib:,} MiB",
        f"{floor.seconds:.2f} s, {floor.peak_mib:,} MiB (join_asof)",
        f"{ratio:.2f}×",
        f"≤ {reach:.1f}×, ≤ {peak:,} MiB",
        ratio <= reach and ours.peak_mib <= peak,
    )
