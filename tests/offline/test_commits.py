"""Which commit brought a row (S24): a history of any steps keeps it, and shows what it held after each commit."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.engines.base import Engine
from featurestore.errors import OfflineStoreError
from featurestore.offline.base import Table
from featurestore.offline.delta.eraser import DeltaEraser
from featurestore.offline.delta.history import DeltaStore
from featurestore.offline.delta.log_entries import LOG
from featurestore.offline.delta.maintenance import DeltaMaintenance
from featurestore.offline.delta.table import open_state
from featurestore.testing.offline import PLAIN, rows, run
from tests.effort import examples
from tests.engines.far import FarEngine
from tests.retrieval.test_flow import small_batches

Row = tuple[str, int, int, float | None]


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """Buckets and files of a few rows."""
    with pytest.MonkeyPatch.context() as patch, small_batches(1000, bucket=4):
        patch.setattr("featurestore.engines.base.FEW_ROWS", 0)
        patch.setattr("featurestore.offline.delta.commit.ROWS_PER_BUCKET", 4)
        patch.setattr("featurestore.offline.delta.commit._SPLIT_AT", 1)
        patch.setattr("featurestore.offline.delta.commit.rows_per_file", lambda *_, **__: 2)
        patch.setattr("featurestore.offline.delta.compaction.rows_per_file", lambda *_, **__: 4)
        patch.setattr("featurestore.offline.delta.compaction._SMALL_FILES", 2)
        yield


class Oracle:
    """Which rows there are, and the commit that brought each."""

    def __init__(self, folder: str, engine: Engine | None) -> None:
        self.store = DeltaStore(Path(folder))
        self.engine = engine
        self.runs = 0
        self.commits: dict[Row, int] = {}

    def take(self, step: tuple[Any, ...]) -> None:
        """Takes a step, and notes which commit its rows are of."""
        kind, *given = step
        sequence = self.store.push_log.sequence(PLAIN)
        if kind == "push":
            number = self.store.log.append(PLAIN, rows(*given[0])).seq
            self.commits = dict.fromkeys(given[0], number or 0) | self.commits
        elif kind == "run":
            self.runs += 1
            staged = [self.store.stage(PLAIN, self.runs, index, rows(*chunk)) for index, chunk in enumerate(given[0])]
            staged += [segment.staged for segment in self.store.log.segments(PLAIN)][: given[1]]
            before = sequence.look().last
            self.store.commit(PLAIN, self.runs, staged, self.runs - 1, self.engine)
            self.store.log.remove(PLAIN)
            self.commits = {row: before + 1 for chunk in given[0] for row in chunk} | self.commits
        elif kind == "compact":
            upkeep = DeltaMaintenance(self.store)
            while upkeep.compact(PLAIN, self.runs, engine=self.engine) is not None:
                pass
        elif kind == "forget":
            DeltaEraser(self.store).erase_waiting(PLAIN, pl.DataFrame({"origin": [given[0]]}), dry_run=False)
            DeltaEraser(self.store).erase(PLAIN, pl.DataFrame({"origin": [given[0]]}), 0.0, dry_run=False)
            self.commits = {row: number for row, number in self.commits.items() if row[0] != given[0]}

    def check(self) -> None:
        """Compares what there is with what was noted, of each commit and of all."""
        for until in (None, *range(max(self.commits.values(), default=0) + 2)):
            wanted = sorted(row for row, number in self.commits.items() if until is None or number <= until)
            assert sorted(read_until(self.store, PLAIN, until)) == wanted, until
        files = self.store.snapshot(PLAIN).buckets.values()
        held = [frame for history in files for frame in history.read(["origin", "event_time", "available_time", "temp", "_commit"])]
        for frame in held:
            for *row, number in frame.with_columns(pl.col("event_time", "available_time").to_physical()).iter_rows():
                assert number == self.commits[tuple(row)], row


def read_until(store: DeltaStore, table: Table, until: int | None) -> list[Row]:
    histories = store.snapshot(table, stored_until=until).buckets.values()
    return [
        row
        for history in histories
        for frame in history.read()
        for row in frame.with_columns(pl.col("event_time", "available_time").to_physical()).iter_rows()
    ]


some_rows = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 9), st.integers(0, 3), st.sampled_from([1.0, 2.0])),
    min_size=1,
    max_size=15,
)
steps_of = st.lists(
    st.tuples(st.just("push"), some_rows)
    | st.tuples(st.just("run"), st.lists(some_rows, max_size=2), st.integers(0, 3))
    | st.tuples(st.just("compact"))
    | st.tuples(st.just("forget"), st.sampled_from("abcdefgh")),
    min_size=1,
    max_size=8,
)


@pytest.mark.parametrize("engine", [None, FarEngine()], ids=["here", "by tasks"])
@given(steps=steps_of)
@settings(max_examples=examples(60), deadline=None)
def test_s24_each_row_keeps_the_commit_that_brought_it(engine: Engine | None, steps: list[tuple[Any, ...]]) -> None:
    with TemporaryDirectory() as folder:
        oracle = Oracle(folder, engine)
        for step in steps:
            oracle.take(step)
            oracle.check()


@pytest.mark.parametrize("first", ["run", "compact", "forget"])
def test_s24_rows_of_the_version_before_are_of_commit_0(tmp_path: Path, first: str) -> None:
    """Its tables had no such column, and its files do not say which commit they are of."""
    store = DeltaStore(tmp_path)
    for number in range(1, 3):  # so few that no bucket is split
        run(store, PLAIN, number, rows(("a", number, number, 1.0), ("b", number, number, 1.0)))
    log = store.folder(PLAIN).address(LOG).path
    assert log is not None
    for entry in log.glob("*.json"):
        entry.write_text("\n".join(json.dumps(as_before(json.loads(line))) for line in entry.read_text().splitlines()))
    assert "_commit" not in open_state(store.folder(PLAIN)).columns
    store, entity = DeltaStore(tmp_path), pl.DataFrame({"origin": ["b"]})
    if first == "compact":
        while DeltaMaintenance(store).compact(PLAIN, 2) is not None:
            pass
    elif first == "forget":
        DeltaEraser(store).erase(PLAIN, entity, 0.0, dry_run=False)
    run(store, PLAIN, 3, rows(("a", 4, 4, 1.0)))
    last = store.push_log.sequence(PLAIN).last()
    while DeltaMaintenance(store).compact(PLAIN, 3) is not None:
        pass
    former = [("a", number, number, 1.0) for number in range(1, 3)]
    if first != "forget":
        former += [("b", number, number, 1.0) for number in range(1, 3)]
    assert sorted(read_until(store, PLAIN, 0)) == sorted(read_until(store, PLAIN, last - 1)) == former
    assert sorted(read_until(store, PLAIN, last)) == sorted([*former, ("a", 4, 4, 1.0)])


def as_before(line: dict[str, Any]) -> dict[str, Any]:
    """Returns a line of a table's log as the version before wrote it."""
    for action in line.values():
        if "schemaString" in action:
            schema = json.loads(action["schemaString"])
            schema["fields"] = [field for field in schema["fields"] if field["name"] != "_commit"]
            action["schemaString"] = json.dumps(schema)
        if "stats" in action:
            stats = json.loads(action["stats"])
            for bounds in ("minValues", "maxValues", "nullCount"):
                del stats[bounds]["_commit"]
            action["stats"] = json.dumps(stats)
    return line


def test_s24_a_table_that_another_program_rewrote_does_not_know_its_commits(tmp_path: Path) -> None:
    store = DeltaStore(tmp_path)
    for number in range(1, 4):
        run(store, PLAIN, number, rows(("a", number, number, 1.0)))
    DeltaTable(store.folder(PLAIN).address().url).optimize.compact()
    assert store.snapshot(PLAIN).rows == 3
    with pytest.raises(OfflineStoreError, match=r"Another program has written files of flights/weather/v1"):
        store.snapshot(PLAIN, stored_until=2)


def test_s24_instants_are_kept_by_upkeep_in_few_files(tmp_path: Path) -> None:
    store = DeltaStore(tmp_path)
    for number in range(1, 41):
        run(store, PLAIN, number, rows(("a", number, number, 1.0)))
    sequence, folder = store.push_log.sequence(PLAIN), store.folder(PLAIN)
    before = sequence.instants()
    assert before["number"].to_list() == list(range(1, 41))
    assert before["stored"].is_sorted()
    assert len(folder.list("_commits/")) == 40
    DeltaMaintenance(store).vacuum(PLAIN, timedelta(days=7), dry_run=True)
    assert len(folder.list("_commits/")) == 40
    DeltaMaintenance(store).vacuum(PLAIN, timedelta(days=7))
    assert len(folder.list("_commits/")) == 1
    assert sequence.instants().equals(before)


def test_a_damaged_push_that_a_run_has_taken_over_hinders_nobody(tmp_path: Path) -> None:
    store = DeltaStore(tmp_path)
    run(store, PLAIN, 1, rows(("a", 1, 1, 1.0)))
    appended = store.log.append(PLAIN, rows(("a", 2, 2, 1.0)))
    store.commit(PLAIN, 2, [segment.staged for segment in store.log.segments(PLAIN)])
    [entry] = tmp_path.rglob(f"{appended.seq:016d}.parquet")
    entry.write_bytes(b"damaged")
    store = DeltaStore(tmp_path)  # another process, which has not read it
    store.log.remove(PLAIN)
    assert not entry.exists()
    assert len(read_until(store, PLAIN, None)) == 2
