"""The sizes of Delta tables, read from their logs alone: what the store says, or nothing."""

import json
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from featurestore.offline.delta import log_size
from featurestore.offline.delta.eraser import DeltaEraser
from featurestore.offline.delta.history import DeltaStore
from featurestore.offline.delta.log_size import DeltaSizes
from featurestore.offline.delta.maintenance import DeltaMaintenance
from featurestore.offline.history_size import HistorySize
from featurestore.testing.history_sizes import HistorySizesContract, size_of
from featurestore.testing.offline import PLAIN, Limits, rows, run
from featurestore.testing.push_log import fold
from tests.offline.delta_limits import DeltaLimits
from tests.offline.paths import path_of


@pytest.fixture
def store(tmp_path: Path) -> DeltaStore:
    return DeltaStore(tmp_path / "offline")


@pytest.fixture
def sizes(tmp_path: Path) -> DeltaSizes:
    return DeltaSizes(tmp_path / "offline")


class TestDeltaSizes(HistorySizesContract):
    @pytest.fixture
    def store(self, store: DeltaStore) -> DeltaStore:
        return store

    @pytest.fixture
    def sizes(self, sizes: DeltaSizes) -> DeltaSizes:
        return sizes

    def test_what_a_run_took_over_from_the_log_is_known(self, store: DeltaStore, sizes: DeltaSizes) -> None:
        store.log.append(PLAIN, rows(("JFK", 9, 9, 2.0)))
        assert size_of(sizes) is None
        fold(store, PLAIN, 1)
        assert size_of(sizes) == HistorySize(1, 9)
        store.log.append(PLAIN, rows(("JFK", 10, 10, 2.0)))
        assert size_of(sizes) is None
        fold(store, PLAIN, 2)
        store.log.remove(PLAIN)
        assert size_of(sizes) == HistorySize(2, 10)

    def test_the_address_may_be_a_path_or_a_file_url(self, store: DeltaStore, tmp_path: Path) -> None:
        run(store, PLAIN, 1, rows(("JFK", 5, 6, 1.0)))
        for url in ("offline", str(tmp_path / "offline"), f"file://{tmp_path}/offline"):
            assert size_of(DeltaSizes.open(url, tmp_path)) == HistorySize(1, 5)


class TestLimited(DeltaLimits):
    def test_files_that_upkeep_or_a_split_put_others_in_the_place_of(
        self, store: DeltaStore, sizes: DeltaSizes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.limit(monkeypatch, Limits(bucket_rows=4, small_files=2))
        for number in range(1, 9):
            run(store, PLAIN, number, rows(*((key, number * 10 + at, 99, 1.0) for at, key in enumerate(("JFK", "LGA", "BOS")))))
            assert size_of(sizes) == store.snapshot(PLAIN).history_size == HistorySize(3 * number, number * 10 + 2)
        upkeep = DeltaMaintenance(store)
        assert upkeep.compact(PLAIN, 8) is not None
        assert size_of(sizes) == HistorySize(24, 82)
        upkeep.vacuum(PLAIN, timedelta())
        assert size_of(sizes) == HistorySize(24, 82)

    def test_what_an_erasure_leaves(self, store: DeltaStore, sizes: DeltaSizes) -> None:
        run(store, PLAIN, 1, rows(("JFK", 5, 6, 1.0), ("LGA", 9, 9, None)))
        DeltaEraser(store).erase(PLAIN, pl.DataFrame({"origin": ["LGA"]}), 0.0, dry_run=False)
        assert store.snapshot(PLAIN).history_size == HistorySize(1, 5)
        assert size_of(sizes) in (None, HistorySize(1, 5))


def entry(folder: Path, version: int) -> Path:
    return folder / "_delta_log" / f"{version:020d}.json"


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def hint(folder: Path, version: int) -> None:
    (folder / "_delta_log" / "_last_checkpoint").write_text(json.dumps({"version": version, "size": 1}), encoding="utf-8")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "an entry is gone": lambda folder: entry(folder, 1).unlink(),
    "the first entry is gone": lambda folder: entry(folder, 0).unlink(),
    "an entry is empty": lambda folder: entry(folder, 2).write_text("", encoding="utf-8"),
    "an entry is cut off": lambda folder: entry(folder, 2).write_bytes(entry(folder, 2).read_bytes()[:-20]),
    "an entry is not text": lambda folder: entry(folder, 1).write_bytes(b"\xff\xfe"),
    "an entry lacks its last lines": lambda folder: entry(folder, 2).write_text(
        entry(folder, 2).read_text(encoding="utf-8").splitlines()[0], encoding="utf-8"
    ),
    "a file is not counted": lambda folder: replace(entry(folder, 2), "numRecords", "records"),
    "a file's times are unknown": lambda folder: replace(entry(folder, 2), "maxValues", "values"),
    "a file has rows that are deleted": lambda folder: replace(entry(folder, 2), '"add":{', '"add":{"deletionVector":{},'),
    "a file is removed that was never there": lambda folder: entry(folder, 3).write_text(
        '{"remove":{"path":"_bucket=1/x.parquet"}}', encoding="utf-8"
    ),
    "the log of pushes is a file": lambda folder: (
        shutil.rmtree(folder / "_pushed", ignore_errors=True),
        (folder / "_pushed").write_text("", encoding="utf-8"),
    ),
    "its checkpoint is gone": lambda folder: hint(folder, 2),
    "its checkpoint is cut off": lambda folder: (folder / "_delta_log" / f"{2:020d}.checkpoint.parquet").write_bytes(b"PAR1abc"),
    "its checkpoint is empty": lambda folder: (folder / "_delta_log" / f"{2:020d}.checkpoint.parquet").write_bytes(b""),
    "something else lies among the pushes": lambda folder: strange(folder / "_pushed" / ".DS_Store"),
    "pushes are kept under another name": lambda folder: strange(folder / "_pushed" / f"{99:016d}.entry"),
}


def strange(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_not_as_expected_is_left_to_the_store(store: DeltaStore, sizes: DeltaSizes, damage: str) -> None:
    for number in (1, 2):
        run(store, PLAIN, number, rows(("JFK", number, 6, 1.0)))
    assert size_of(sizes) == HistorySize(2, 2)
    DAMAGES[damage](path_of(store, PLAIN))
    assert size_of(sizes) is None


def test_a_long_log_with_checkpoints_is_known_as_long_as_it_is_all_there(
    store: DeltaStore, sizes: DeltaSizes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featurestore.offline.delta.table.CHECKPOINT_EVERY", 2)
    for number in range(1, 6):
        run(store, PLAIN, number, rows(("JFK", number, 6, 1.0)))
    assert list(path_of(store, PLAIN).glob("_delta_log/*.checkpoint.parquet"))
    assert size_of(sizes) == store.snapshot(PLAIN).history_size == HistorySize(5, 5)


def test_of_all_tables_together_so_much_is_read_as_takes_less_time_than_the_engines_start(
    store: DeltaStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(store, PLAIN, 1, rows(("JFK", 5, 6, 1.0)))
    actions = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in path_of(store, PLAIN).glob("_delta_log/*.json"))
    monkeypatch.setattr(log_size, "MOST_ACTIONS", 2 * actions)
    sizes = DeltaSizes(tmp_path / "offline")
    assert [size_of(sizes) for _ in range(3)] == [HistorySize(1, 5), HistorySize(1, 5), None]


def test_a_fold_between_the_look_at_the_pushes_and_that_at_the_log_hides_no_row(
    store: DeltaStore, sizes: DeltaSizes, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    look = Path.iterdir

    def folding(folder: Path) -> Iterator[Path]:
        looks.append(folder.name)
        if len(looks) == 2:
            fold(store, PLAIN, 2)
            store.log.remove(PLAIN)
        return look(folder)

    run(store, PLAIN, 1, rows(("JFK", 5, 6, 1.0)))
    store.log.append(PLAIN, rows(("JFK", 9, 9, 2.0)))
    monkeypatch.setattr(Path, "iterdir", folding)
    assert size_of(sizes) in (None, HistorySize(2, 9))
    assert looks[0] == "_pushed"
