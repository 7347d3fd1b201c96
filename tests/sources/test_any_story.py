"""S18 as a property: whatever happens to a source between runs, a history has every row that any of the runs could read.

``SOURCE_EXAMPLES=10000`` tries that many at the level of readers.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from featurestore.clock import from_micros
from featurestore.definitions.source import CSVSource, DeltaSource, ParquetSource, SQLSource
from featurestore.sources.base import Cursor, SourceReader, accepted
from featurestore.sources.csv import CSVReader
from featurestore.sources.delta import DeltaReader
from featurestore.sources.parquet import ParquetReader
from featurestore.sources.sql import SQLReader
from featurestore.testing.sources import AVAILABLE, EVENT, TIMES, Row, frame, new_folder, saved
from tests.effort import examples

EXAMPLES = int(os.environ.get("SOURCE_EXAMPLES", examples(25)))
BASE = 1_356_998_400_000_000
DAY = 86_400_000_000
LATENESS = 3_600_000_000
MANY = 1_000


@dataclass
class Files:
    """Files that grow, are written anew, put in each other's place, and touched."""

    root: Path
    ending: str
    rows: dict[str, list[Row]] = field(default_factory=dict)

    def reader(self) -> SourceReader:
        if self.ending == "csv":
            return CSVReader(CSVSource("s", "*.csv", columns={"k": str, "x": float, "id": int}, **TIMES), self.root)
        return ParquetReader(ParquetSource("s", "*.parquet", **TIMES), self.root)

    def add(self, rows: list[Row], choice: int) -> None:
        """Adds rows: to a new file, or to one that is there, in place or by another put there, with its old time or a new one."""
        name = f"{choice % 3}.{self.ending}"
        path = self.root / name
        before = path.stat() if path.exists() else None
        self.rows[name] = [*self.rows.get(name, []), *rows]
        target = self.root / "_new" if choice % 2 and before else path
        self._write(frame(self.rows[name]), target)
        if target != path:
            target.replace(path)
        if before is not None and choice % 5 < 3:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def disturb(self, choice: int) -> None:
        """Rewrites a file with the same number of rows, and as many bytes, of which one is another."""
        paths = sorted(self.root.glob(f"*.{self.ending}"))
        if not paths:
            return
        path = paths[choice % len(paths)]
        before, rows = path.stat(), self.rows[path.name]
        if rows:
            number, event, received = rows[-1]
            self.rows[path.name] = [*rows[:-1], (number + 1_000 if number < 1_000 else number, event, received)]
        self._write(frame(self.rows[path.name]), path)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def held(self) -> set[int]:
        return {number for rows in self.rows.values() for number, _, _ in rows}

    def _write(self, rows: pl.DataFrame, path: Path) -> None:
        if self.ending == "csv":
            # Numbers of four digits, so that another one is as long.
            texts = rows.with_columns(pl.col("id").cast(pl.String).str.zfill(4), x=pl.lit(0.5))
            texts.write_csv(path, datetime_format="%Y-%m-%d %H:%M:%S%.f")
        else:
            rows.write_parquet(path, compression="uncompressed", statistics=False)


class Lake(Files):
    """A Delta table that grows and is compacted."""

    def reader(self) -> SourceReader:
        return DeltaReader(DeltaSource("s", "table", **TIMES), self.root)

    def add(self, rows: list[Row], choice: int) -> None:
        self.rows.setdefault("table", []).extend(rows)
        write_deltalake(self.root / "table", frame(rows), mode="append")

    def disturb(self, choice: int) -> None:
        if (self.root / "table").exists():
            table = DeltaTable(self.root / "table")
            table.optimize.compact()
            if choice % 2:
                table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)


class Table(Files):
    """A table of a DuckDB file."""

    def reader(self) -> SourceReader:
        return SQLReader(SQLSource("s", "from o", database="o.duckdb", **TIMES), self.root)

    def add(self, rows: list[Row], choice: int) -> None:
        self.rows.setdefault("o", []).extend(rows)
        new_rows = frame(rows)
        with duckdb.connect(self.root / "o.duckdb") as connection:
            connection.register("new_rows", new_rows)
            connection.execute("create table if not exists o as select * from new_rows limit 0")
            connection.execute("insert into o select * from new_rows")

    def disturb(self, choice: int) -> None:
        """Nothing disturbs it."""


Step = tuple[str, int, int, int]
"""What happens, a choice, how long after what was before, and by how much a clock or a stamp is off."""


AHEAD: list[Step] = [
    ("add", 6, 0, 0),
    ("run", 0, 0, DAY),  # by a clock that is a day ahead
    ("add", 6, LATENESS, 0),  # stamped before the instant at which that run took place
    ("run", 1, DAY, 0),
    ("run", 0, 0, 0),
]
"""A story that a cursor which is a run's clock does not end well: by the third run all is read, it says, up to the day after."""


def stories(*happenings: str, least: int = 0) -> st.SearchStrategy[list[Step]]:
    """Stories of what may happen; what is named twice happens twice as often."""
    step = st.tuples(
        st.sampled_from(happenings),
        st.integers(0, 29),
        st.sampled_from([0, 1, 1_000_000, 60_000_000, LATENESS // 2, LATENESS, DAY // 2, DAY]),
        st.sampled_from([0, 0, 1, -1, 1_000_000, LATENESS // 3, DAY, -DAY]),
    )
    return st.lists(step, min_size=least, max_size=9)


def follow(place: Files, story: list[Step], read: Any) -> Iterator[None]:
    """Follows a story, and yields after its last runs, when the clocks are right and all is known."""
    now, number = BASE, 0
    for what, choice, after, off in story:
        now += after
        if what == "add":
            late = LATENESS * (choice % 4) // 3  # by which a row is stamped before it can be seen
            rows = [(number + each, now - late - DAY * (choice % 2) - each, now - late) for each in range(choice % 3 + 1)]
            number += len(rows)
            place.add(rows, choice)
        elif what == "disturb":
            place.disturb(choice)
        elif place.rows:
            read(now + off)
    if place.rows:
        read(now)
        read(now + LATENESS)
    yield


@pytest.mark.parametrize("kind", ["parquet", "csv", "delta", "duckdb"])
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(story=stories("add", "add", "run", "disturb"))
@example(story=AHEAD)
def test_s18_any_story_ends_with_every_row_that_a_run_could_read(
    tmp_path_factory: pytest.TempPathFactory, kind: str, story: list[Step]
) -> None:
    place = {"delta": Lake, "duckdb": Table}.get(kind, Files)(new_folder(tmp_path_factory), kind)
    seen: set[int] = set()
    cursor: Cursor | None = None

    def read(end: int) -> None:
        nonlocal cursor
        span = place.reader().span(saved(cursor), None, from_micros(end), MANY)
        latest = None
        for chunk in span.chunks:
            rows = place.reader().read(saved(dict(chunk)))
            if rows.is_empty():
                continue
            seen.update(rows["id"])
            last = rows.select(pl.max_horizontal(EVENT, AVAILABLE).to_physical().max()).item()
            assert last <= end
            latest = last if latest is None else max(latest, last)
        cursor = dict(accepted(span.cursor, latest))

    for _ in follow(place, story, read):
        assert place.held() <= seen
