"""What a history's log may lose: a checkpoint that is lost or damaged, or a listing of it, loses nothing of the history."""

import itertools
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable

from featurestore import durable
from featurestore.errors import DamagedHistoryError
from featurestore.offline.base import Table
from featurestore.offline.delta.eraser import DeltaEraser
from featurestore.offline.delta.history import DeltaStore
from featurestore.offline.delta.maintenance import DeltaMaintenance
from featurestore.offline.delta.repair import DeltaRepair
from featurestore.offline.folder import Entry
from featurestore.offline.ledger_record import LedgerRecord
from featurestore.offline.local_folder import LocalFolder
from tests.effort import spread
from tests.offline.paths import path_of

TABLE = Table("p", "v", 1, {"k": pl.Int64()}, {"x": pl.Float64()})
AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody cleans a log up here while it is read: what cannot be read is not tried twenty times, with pauses in between."""
    monkeypatch.setattr("featurestore.offline.delta.open._ATTEMPTS", 2)
    monkeypatch.setattr("featurestore.offline.delta.open._PAUSE", 0.0)


def rows(first: int, count: int = 10) -> pl.DataFrame:
    made = pl.DataFrame({"k": range(first, first + count)}, schema={"k": pl.Int64})
    return made.with_columns(
        event_time=pl.lit(AT, pl.Datetime("us", "UTC")), available_time=pl.lit(AT, pl.Datetime("us", "UTC")), x=pl.lit(1.0)
    )


def run(store: DeltaStore, number: int, count: int = 10) -> int:
    return store.commit(TABLE, number, [store.stage(TABLE, number, 0, rows(number * 10, count))], number - 1)


def keys(folder: Path) -> list[int]:
    snapshot = DeltaStore(folder).snapshot(TABLE)
    return sorted(key for history in snapshot.buckets.values() for frame in history.read() for key in frame["k"])


def log_of(folder: Path) -> Path:
    return path_of(DeltaStore(folder), TABLE) / "_delta_log"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def cut_at_its_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def zeroed(path: Path) -> None:
    path.write_bytes(b"\0" * path.stat().st_size)


def zeroed_inside(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + b"\0" * (len(whole) // 3) + whole[4 + len(whole) // 3 :])


def deleted(path: Path) -> None:
    path.unlink()


def deleted_with_the_hint(path: Path) -> None:
    path.unlink()
    (path.parent / "_last_checkpoint").unlink()


DAMAGE: list[Callable[[Path], None]] = [cut, cut_at_its_end, emptied, zeroed, zeroed_inside, deleted, deleted_with_the_hint]


@pytest.mark.parametrize("asks", ["reads", "writes", "inspects"])
@pytest.mark.parametrize(("damage", "after"), spread(DAMAGE, [0, 2]))
def test_f1_a_lost_checkpoint_whose_entries_are_there_is_not_missed(
    tmp_path: Path, damage: Callable[[Path], None], after: int, asks: str
) -> None:
    """A power cut leaves one so, for the library flushes neither it nor what points to it."""
    store = DeltaStore(tmp_path)
    for number in (1, 2, 3):
        run(store, number)
    DeltaTable(str(path_of(store, TABLE))).create_checkpoint()
    for number in range(4, 4 + after):
        run(store, number)
    before, last = keys(tmp_path), 3 + after
    damage(max(log_of(tmp_path).glob("*.checkpoint.parquet")))
    recorded = LedgerRecord(dict.fromkeys(range(1, last + 1), 10))
    repair = DeltaRepair(DeltaStore(tmp_path))
    if asks == "writes":
        assert run(DeltaStore(tmp_path), last) == 10  # what it added when it was committed
    elif asks == "inspects":
        assert not repair.inspect(TABLE, recorded).problems
    assert keys(tmp_path) == before
    assert not repair.inspect(TABLE, recorded).problems
    assert not repair.mend(TABLE, recorded, give_up=False)
    assert run(DeltaStore(tmp_path), last + 1) == 10
    assert len(keys(tmp_path)) == len(before) + 10


@pytest.mark.parametrize(("damage", "after"), spread(DAMAGE, [0, 1]))
def test_f2_a_lost_checkpoint_of_a_log_that_begins_with_it_loses_no_rows(
    tmp_path: Path, damage: Callable[[Path], None], after: int
) -> None:
    """Forgetting takes the entries before it out of the log, so what the table names is in the checkpoint alone."""
    store = DeltaStore(tmp_path)
    for number in (1, 2, 3):
        run(store, number)
    DeltaEraser(store).erase(TABLE, pl.DataFrame({"k": [11, 25]}), 0.0, dry_run=False)
    for number in range(4, 4 + after):
        run(store, number)
    before, last = keys(tmp_path), 3 + after
    assert len(before) == 28 + 10 * after
    damage(max(log_of(tmp_path).glob("*.checkpoint.parquet")))
    recorded = LedgerRecord(dict.fromkeys(range(1, last + 1), 10))
    repair = DeltaRepair(DeltaStore(tmp_path))
    assert "checkpoint" in repair.inspect(TABLE, recorded).problems[0]
    with pytest.raises(DamagedHistoryError, match=r"checkpoint.*featurestore doctor --repair"):
        run(DeltaStore(tmp_path), last + 1)
    assert repair.mend(TABLE, recorded, give_up=False) == f"{len(before)} rows were put back"
    assert not repair.inspect(TABLE, recorded).problems
    assert keys(tmp_path) == before
    assert run(DeltaStore(tmp_path), last + 1) == 10


def test_f1_a_checkpoint_is_written_once_its_commit_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DeltaStore(tmp_path)
    settled: list[int] = []

    def settle(folder: Path) -> None:
        settled.append(len(list(folder.glob("*.checkpoint.parquet"))))

    monkeypatch.setattr(durable, "settle", settle)
    for number in range(1, 101):
        run(store, number, 1)
    # The entry of version 99 was flushed before there was a checkpoint that takes its place.
    assert settled == [0] * 100 + [1, 1]
    assert [path.name[18:20] for path in log_of(tmp_path).glob("*.checkpoint.parquet")] == ["99"]
    assert len(keys(tmp_path)) == 100


def test_f2_a_listing_that_missed_a_segment_is_no_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is written to while it is listed may be told without a file that is in it; the next time it is not."""
    store = DeltaStore(tmp_path)
    run(store, 1)
    for first in (100, 200, 300):
        store.log.append(TABLE, rows(first))
    listed, looks = LocalFolder.list, itertools.count()

    def missing_one(folder: LocalFolder, prefix: str) -> list[Entry]:
        entries = listed(folder, prefix)
        return entries if next(looks) % 2 else entries[1:]

    monkeypatch.setattr(LocalFolder, "list", missing_one)
    assert not DeltaRepair(store).inspect(TABLE, LedgerRecord({1: 10})).problems
    assert DeltaMaintenance(store).compact(TABLE, 1) is None
    assert run(store, 2) == 10
    monkeypatch.undo()
    # What is gone is found still.
    min(path_of(store, TABLE).glob("_pushed/*.parquet")).unlink()
    assert DeltaRepair(store).inspect(TABLE, LedgerRecord({1: 10, 2: 10})).problems
    with pytest.raises(DamagedHistoryError, match="segments 2"):
        run(store, 3)
    with pytest.raises(DamagedHistoryError, match="segments 2"):
        DeltaMaintenance(store).compact(TABLE, 1)


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("damage", [zeroed, zeroed_inside], ids=lambda each: each.__name__)
def test_f2_a_file_as_long_as_before_with_other_bytes_is_mended(
    tmp_path: Path, damage: Callable[[Path], None], beside: bool
) -> None:
    """A power cut may leave zeros; where another file has the rows still, they are put back."""
    store = DeltaStore(tmp_path)
    for number in (1, 2):
        run(store, number)
    before, recorded, repair = keys(tmp_path), LedgerRecord({1: 10, 2: 10}), DeltaRepair(DeltaStore(tmp_path))
    [file] = path_of(store, TABLE).glob("_bucket=*/run-00000002-*.parquet")
    if beside:
        shutil.copy(file, file.with_name(f"{file.name.removesuffix('.parquet')}0.parquet"))
    damage(file)
    if damage is zeroed:
        assert repair.inspect(TABLE, recorded).problems == (f"its file {file} cannot be read",)
    if beside:
        assert repair.mend(TABLE, recorded, give_up=False) == "10 rows were put back"
        assert keys(tmp_path) == before
    else:
        with pytest.raises(DamagedHistoryError, match="10 rows of it are nowhere on the disk"):
            repair.mend(TABLE, recorded, give_up=False)
        repair.mend(TABLE, recorded, give_up=True)
        assert keys(tmp_path) == before[:10]
    assert not repair.inspect(TABLE, recorded).problems
