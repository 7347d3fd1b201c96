"""Histories in object storage against the bare reads of the same objects, and tables of many files against few.

The server is a SeaweedFS on the same cores, so it takes its share of them.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl

from benchmarks import data
from benchmarks.measure import DATA, Line, in_process
from benchmarks.project import materialized, view
from featurestore.locks import FileLocks
from featurestore.offline.delta.history import DeltaStore
from featurestore.offline.open_folder import open_folder
from featurestore.testing.offline import PLAIN, rows
from tests.servers.s3_server import BUCKET, S3Server

SPINE, ENTITIES, ROWS = 1_000_000, 100_000, 10_000_000
BATCH, PUSHES = 1_000, 40
MANY, FEW = 65_536, 64
BEGAN = datetime(2024, 1, 1, tzinfo=UTC)


def lines(*, full: bool) -> Iterator[Line]:
    """Measures a training frame and pushes with the history on S3, and tables of 65,536 files."""
    with S3Server() as server:
        os.environ.update(server.variables)
        yield _training()
        yield _pushes()
    yield from _many_files()


def _training() -> Line:
    spine, asked = str(data.spine(SPINE, ENTITIES)), json.dumps(["big"])
    big = view("big", ROWS, ENTITIES, "f")
    materialized("training", [big]).close()
    place = f"objects-{uuid4().hex[:8]}"
    url = f"s3://{BUCKET}/{place}"
    local = in_process("training", "training", spine, asked, runs=3)
    os.environ["FEATURESTORE_OFFLINE"] = url
    try:
        materialized(place, [big]).close()
        ours = in_process("training", place, spine, asked, runs=3)
    finally:
        del os.environ["FEATURESTORE_OFFLINE"]
    files = [file.name for file in open_folder(url).list("") if "/_bucket=" in file.name]
    bare = in_process("scan_objects", json.dumps([f"{url}/{name}" for name in files]), runs=3)
    floor = bare.seconds + local.seconds
    return Line(
        "1 view: 1M spine × 10M rows, history on S3",
        f"{ours.seconds:.2f} s, {ours.peak_mib:,} MiB",
        f"{floor:.2f} s (Polars scan of the objects {bare.seconds:.2f} s + ours in a folder {local.seconds:.2f} s)",
        f"{ours.seconds / floor:.2f}×", "≤ 1.5×", ours.seconds <= 1.5 * floor,
    )  # fmt: skip


def _pushes() -> Line:
    place, locks = uuid4().hex, FileLocks(DATA / "locks")
    local = DeltaStore(DATA / "objects-push" / place)
    remote = DeltaStore(open_folder(f"s3://{BUCKET}/push-{place}"), locks=locks)
    seconds = {local: 0.0, remote: 0.0}
    for number in range(PUSHES + 1):
        for store in (local, remote):
            began = time.perf_counter()
            store.log.append(PLAIN, _batch(number))
            seconds[store] += 0.0 if number == 0 else time.perf_counter() - began
    ratio = seconds[remote] / seconds[local]
    return Line(
        "push 1,000 rows to a history on S3",
        f"{1000 * seconds[remote] / PUSHES:.1f} ms",
        f"{1000 * seconds[local] / PUSHES:.1f} ms (to a folder, flushed)",
        f"{ratio:.2f}×", "≤ 2×", ratio <= 2,
    )  # fmt: skip


def _batch(number: int) -> pl.DataFrame:
    return rows(*((f"k{place % 50}", number * BATCH + place, number * BATCH + place, 1.0) for place in range(BATCH)))


def _many_files() -> Iterator[Line]:
    many, few = _synthetic(MANY), _synthetic(FEW)
    bare = in_process("open_delta", str(many), runs=3)
    ours = in_process("open_history", str(many), runs=3)
    ratio = ours.seconds / bare.seconds
    yield Line(
        f"open a table of {MANY:,} files",
        f"{ours.seconds:.2f} s, {ours.peak_mib - in_process('open_history', str(few)).peak_mib:,} MiB more than of {FEW}",
        f"{bare.seconds:.2f} s (deltalake, with what it says of the files)",
        f"{ratio:.2f}×", "≤ 1.5×", ratio <= 1.5,
    )  # fmt: skip
    for what in ("push", "read", "read after another's commit"):
        after, before = (in_process("then", what, str(_copy(table)), runs=3) for table in (many, few))
        ratio = after.seconds / before.seconds
        yield Line(
            f"then a {what} of a table of {MANY:,} files", f"{1000 * after.seconds:.2f} ms",
            f"{1000 * before.seconds:.2f} ms (of {FEW} files)", f"{ratio:.2f}×", "≤ 1.5×", ratio <= 1.5,
        )  # fmt: skip


def _copy(table: Path) -> Path:
    """Returns a copy of a store, which may be written to."""
    place = DATA / "synthetic-copy"
    shutil.rmtree(place, ignore_errors=True)
    return Path(shutil.copytree(table, place))


def _synthetic(count: int) -> Path:
    """Returns the folder of a store with a table whose log names so many files, which are not there."""
    from deltalake import CommitProperties, DeltaTable, Transaction
    from deltalake.transaction import AddAction

    from featurestore.offline.delta.table import create_table, write_checkpoint

    root = DATA / f"synthetic-{count}"
    if (root / "done").exists():
        return root
    root.mkdir(parents=True, exist_ok=True)
    store = DeltaStore(root)
    folder = store.folder(PLAIN)
    create_table(folder, PLAIN)
    bits = max(1, (count // 4).bit_length() - 1)
    end = (1 << bits) * 4
    for first in range(0, end, 8192):
        actions: list[Any] = []
        for number in range(first, min(end, first + 8192)):
            node, instant = (1 << bits) + number // 4, BEGAN + timedelta(hours=number % 4)
            said = instant.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
            stats = {"numRecords": 1000, "nullCount": {"event_time": 0, "available_time": 0}}
            stats |= {end: {"event_time": said, "available_time": said} for end in ("minValues", "maxValues")}
            name = f"_bucket={node}/run-00000001-{number:032x}.parquet"
            actions.append(AddAction(name, 100_000, {"_bucket": str(node)}, 0, True, json.dumps(stats)))
        delta = DeltaTable(folder.address().url)
        marks = CommitProperties(app_transactions=[Transaction("featurestore", 1)])
        delta.create_write_transaction(actions, "append", delta.schema(), partition_by=["_bucket"], commit_properties=marks)
    write_checkpoint(folder)
    (root / "done").touch()
    return root
