"""What it costs to keep which commit brought a row (S24), and a frame as the store was at an instant."""

import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import polars as pl
import pyarrow.parquet as pq

from benchmarks import data
from benchmarks.measure import DATA, Line, in_process
from benchmarks.project import USER, store
from featurestore import Feature, FeatureView, FrameSource
from featurestore.offline.base import Table
from featurestore.offline.delta.history import DeltaStore
from featurestore.offline.delta.table import open_state
from featurestore.offline.local_folder import LocalFolder
from featurestore.testing.offline import table_of

SPINE, ENTITIES, ROWS, COMMITS = 1_000_000, 100_000, 10_000_000, 100
PUSHED = 1_000
NAMES = data.feature_names("x")
END = datetime(1971, 1, 1, tzinfo=UTC)


def lines(*, full: bool) -> Iterator[Line]:
    """Measures a history of 100 runs that was compacted, and pushes that a run took over."""
    place = f"commits-{uuid4().hex[:8]}"
    try:
        table, instant = _filled(place)
        yield _bytes(f"the commit column of {ROWS // 1_000_000}M rows after {COMMITS} runs and compaction", table, "≤ 1 %")
        spine = str(data.spine(SPINE, ENTITIES))
        ours = in_process("training", place, spine, '["many"]', "", instant, runs=3)
        plain = in_process("training", place, spine, '["many"]', runs=3)
        ratio = ours.seconds / plain.seconds
        yield Line(
            f"as stored at an instant: {SPINE // 1_000_000}M spine × {ROWS // 1_000_000}M rows, half of the commits count",
            f"{ours.seconds:.2f} s, {ours.peak_mib:,} MiB", f"{plain.seconds:.2f} s (without stored_by=)",
            f"{ratio:.2f}×", "≤ 1.3×", ratio <= 1.3,
        )  # fmt: skip
        what = f"the commit column of {COMMITS} pushes of {PUSHED:,} rows that a run took over"
        yield _bytes(what, _pushed(DATA / place / "pushed"), "≤ 2 bytes a row")
    finally:
        shutil.rmtree(DATA / place, ignore_errors=True)


def _filled(place: str) -> tuple[Path, str]:
    """Returns the folder of a table of many commits, and an instant at which half of them were stored."""
    body = {"__annotations__": dict.fromkeys(NAMES, float), "__module__": __name__} | {name: Feature() for name in NAMES}
    source = FrameSource("rows", _rows(0, 10), event_time="event_time")
    many = type("many", (FeatureView,), body, entity=USER, source=source, name="many")
    half = END
    with store(place) as opened:
        opened.apply([many])
        [applied] = opened.catalog.views.values()
        table, offline = Table.of("bench", applied), opened.components.offline
        for number in range(COMMITS):
            rows = _rows(number, ROWS // COMMITS).with_columns(available_time=pl.col("event_time"))
            ordered = rows.select("entity", "event_time", "available_time", *NAMES)
            offline.commit(table, number + 1, [offline.stage(table, number + 1, 0, ordered)])
            if number == COMMITS // 2:
                half = datetime.now(UTC)
                time.sleep(0.01)
        last = opened.components.ledger.begin("many", applied.data_version, COMMITS, {"chunks": [], "cursor": None})
        opened.components.ledger.update(last, state="done")
        opened.admin.maintain()
        [folder] = (DATA / place).rglob("many/v1")
    return folder, half.isoformat()


def _pushed(place: Path) -> Path:
    histories, table = DeltaStore(place), table_of(dict.fromkeys(NAMES, pl.Float64()))
    for number in range(COMMITS):
        rows = _rows(number, PUSHED).with_columns(available_time=pl.col("event_time"))
        histories.log.append(table, rows.select(pl.col("entity").alias("origin"), "event_time", "available_time", *NAMES))
    histories.commit(table, 1, [segment.staged for segment in histories.log.segments(table)])
    return Path(histories.folder(table).address().url)


def _rows(number: int, count: int) -> pl.DataFrame:
    """Returns the rows of one commit: of any entities, in a stretch of the year of its own."""
    n = pl.int_range(count, dtype=pl.Int64)
    step = data.YEAR // COMMITS
    start = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=step * number)
    mixed = (n + number * count).hash(7)
    return pl.select(
        entity="user_" + (mixed % ENTITIES).cast(pl.String),
        event_time=pl.lit(start).cast(data.INSTANT) + pl.duration(microseconds=n * (step // count)),
        **{name: (n + number).hash(place).cast(pl.Float64) / 2**64 for place, name in enumerate(NAMES)},
    )


def _bytes(what: str, folder: Path, reach: str) -> Line:
    whole = commits = rows = 0
    for file in open_state(LocalFolder(folder)).files:
        footer = pq.ParquetFile(folder / file.path).metadata
        rows += footer.num_rows
        for group in range(footer.num_row_groups):
            columns = [footer.row_group(group).column(number) for number in range(footer.num_columns)]
            whole += sum(column.total_compressed_size for column in columns)
            commits += sum(column.total_compressed_size for column in columns if column.path_in_schema == "_commit")
    ratio = commits / (whole - commits)
    return Line(
        what, f"{commits / rows:.2f} bytes a row", f"{(whole - commits) / rows:.1f} bytes (the other columns)",
        f"{ratio:.2%}", reach, ratio <= 0.01 if "%" in reach else commits <= 2 * rows,
    )  # fmt: skip
