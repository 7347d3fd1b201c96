"""S18 and S9 through the public API: any story of a source ends with every row that a run could read, as often as S9 says.

Files grow, are written anew with as many bytes and their old times, and are put in each other's place; rows come late, and come
again. The runs are of two stores, whose clocks are up to a day off, and which are closed and opened. ``FEATURESTORE_EXAMPLES=500``
tries that many stories of each kind of source.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, example, given, note, settings
from hypothesis import strategies as st

from featurestore import CSVSource, Entity, FeatureStore, FeatureView, ParquetSource, SQLSource, count
from featurestore.definitions.source import Source
from featurestore.testing import FakeClock
from featurestore.testing.sources import AVAILABLE, EVENT, Row, new_folder
from tests.effort import examples
from tests.projects import INSTANT, store_at
from tests.sources.test_any_story import AHEAD, BASE, DAY, LATENESS, Files, Step, Table, stories

AIRPORT = Entity("airport", k=str)
REPORT = Entity("report", id=int)
LATE = {True: LATENESS, False: LATENESS + DAY + 1_000_000}
"""How late a row may be, by its available time, or by its event time where a source has no other."""


def source_of(kind: str, *, stamped: bool) -> Source:
    times: dict[str, Any] = {"event_time": EVENT, "available_time": AVAILABLE if stamped else None}
    if kind == "duckdb":
        lateness = f"{LATE[stamped] // 1_000_000}s"
        return SQLSource("s", "select * from o", database="data/o.duckdb", lateness=lateness, **times)
    return CSVSource("s", "data/*.csv", **times) if kind == "csv" else ParquetSource("s", "data/*.parquet", **times)


def views_of(source: Source) -> list[type[FeatureView]]:
    class Newest(FeatureView, entity=AIRPORT, source=source):
        id: int

    class Times(FeatureView, entity=REPORT, source=source):
        n: int = count().over("12d")  # longer than any story

    return [Newest, Times]


@dataclass
class Project:
    """Two stores of one project, its source, and how often at least and at most its history has each row."""

    folder: Path
    place: Files
    kind: str
    stamped: bool
    clocks: tuple[FakeClock, FakeClock] = field(default_factory=lambda: (FakeClock(BASE), FakeClock(BASE)))
    stores: list[FeatureStore] = field(default_factory=list)
    least: Counter[Row] = field(default_factory=Counter)
    most: Counter[Row] = field(default_factory=Counter)

    def open(self, number: int) -> FeatureStore:
        return store_at(self.folder, self.clocks[number])

    def known(self, row: Row) -> int:
        _, event, received = row
        assert event is not None
        assert received is not None
        return max(event, received) if self.stamped else event

    def run(self, end: int, number: int) -> None:
        """A run: of what it could read, equal rows of one file are in one read; those of several files may be (S9)."""
        if not self.place.rows:
            return
        self.clocks[number].micros = end
        if not self.stores:
            self.stores = [self.open(0), self.open(1)]
            self.stores[number].apply(views_of(source_of(self.kind, stamped=self.stamped)))
        self.stores[number].materialize()
        files = [Counter(row for row in rows if self.known(row) <= end) for rows in self.place.rows.values()]
        for file in files:
            self.least |= file
        self.most |= sum(files, Counter())

    def restart(self, number: int) -> None:
        if self.stores:
            self.stores[number].close()
            self.stores[number] = self.open(number)

    def close(self) -> None:
        for store in self.stores:
            store.close()

    def follow(self, story: list[Step]) -> None:
        """Follows a story, and ends it with runs whose clocks are right."""
        now, new = BASE, 0
        for what, choice, after, off in story:
            now += after
            if what == "add":
                late = LATENESS * (choice % 4) // 3  # by which a row is stamped before it can be seen
                event = now - late - DAY * (choice % 2)
                rows = [(new + each, event - each, now - late) for each in range(choice % 3 + 1)]
                new += len(rows)
                self.place.add(rows * (1 + (choice % 7 == 0)), choice)
            elif what == "again":
                held = [row for rows in self.place.rows.values() for row in rows if now - self.known(row) <= LATE[self.stamped]]
                if held:
                    self.place.add([held[choice % len(held)]], choice)
            elif what == "disturb":
                self.place.disturb(choice)
            elif what == "restart":
                self.restart(choice % 2)
            else:
                self.run(now + off, choice % 2)
        self.run(now, 0)
        self.run(now + LATENESS, 1)
        for clock in self.clocks:
            clock.micros = now + LATENESS

    def check(self) -> None:
        """Compares the history of latest values, and how often each row counts in windows, online and in training."""
        numbers = sorted({number for number, _, _ in self.most} | {9_999})
        least, most = (dict.fromkeys(numbers, 0) for _ in range(2))
        for counted, rows in ((least, self.least), (most, self.most)):
            for (number, _, _), times in rows.items():
                counted[number] += times
        for store, clock in zip(self.stores, self.clocks, strict=False):  # a story without rows opens none
            newest = store.sql("select id, epoch_us(event_time) from newest").rows()
            assert set(newest) == {(number, event) for number, event, _ in self.most}
            online = store.online("times", [{"id": number} for number in numbers])
            spine = pl.DataFrame({"id": numbers, "t": [clock.micros] * len(numbers)}).with_columns(pl.col("t").cast(INSTANT))
            trained = store.training_frame(spine, ["times"], time="t")
            for found in (online.to_dicts(), trained.to_dicts()):
                for number, n in zip(numbers, (row["n"] for row in found), strict=True):
                    assert least[number] <= n <= most[number], f"row {number} counts {n} times"


@pytest.mark.parametrize("kind", ["parquet", "csv", "duckdb"])
@settings(
    max_examples=examples(4), deadline=None, suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a story is short as it is, and takes long to make shorter
)  # fmt: skip
@given(story=stories("add", "add", "add", "again", "run", "run", "run", "disturb", "restart", least=5), stamped=st.booleans())
@example(story=AHEAD, stamped=True)
def test_s18_any_story_ends_with_a_history_of_every_row_that_a_run_could_read(
    tmp_path_factory: pytest.TempPathFactory, kind: str, story: list[Step], stamped: bool
) -> None:
    note(f"{stamped=} {story=}")
    folder = new_folder(tmp_path_factory)
    (folder / "data").mkdir()
    project = Project(folder, (Table if kind == "duckdb" else Files)(folder / "data", kind), kind, stamped)
    try:
        project.follow(story)
        project.check()
    finally:
        project.close()
