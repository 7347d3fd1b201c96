"""What a process knows of a table follows the commits of others by their entries alone, where these are of this store."""

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable

from featurestore.errors import OfflineStoreError
from featurestore.locks import FileLocks
from featurestore.offline.delta import table as tables
from featurestore.offline.delta.eraser import DeltaEraser
from featurestore.offline.delta.history import DeltaStore
from featurestore.offline.delta.log_entries import LOG, entry_at
from featurestore.offline.delta.log_tail import read_tail
from featurestore.offline.delta.maintenance import DeltaMaintenance
from featurestore.offline.delta.open import delta_options, from_newest
from featurestore.offline.delta.table import DeltaState, note, open_state, write_checkpoint
from featurestore.offline.folder import Folder
from featurestore.offline.local_folder import LocalFolder
from featurestore.offline.object_folder import ObjectFolder
from featurestore.testing.offline import PLAIN, rows, run


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """Where histories lie."""
    return LocalFolder(tmp_path) if request.param == "folder" else ObjectFolder(request.getfixturevalue("s3_url"))


@pytest.fixture
def store(place: Folder, tmp_path: Path) -> DeltaStore:
    """A history of three runs and a push."""
    store = DeltaStore(place, locks=FileLocks(tmp_path / "_locks"))
    for number in range(1, 4):
        run(store, PLAIN, number, frame(*range(10 * number, 10 * number + 5)))
    store.log.append(PLAIN, frame(90))
    return store


def frame(*numbers: int) -> pl.DataFrame:
    return rows(*(("abc"[number % 3], number, number, float(number)) for number in numbers))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Folder]:
    """The tables that were opened by the library of Delta."""
    folders: list[Folder] = []

    def counted(folder: Folder, take: Callable[[DeltaTable], DeltaState]) -> DeltaState:
        folders.append(folder)
        return from_newest(folder, take)

    monkeypatch.setattr(tables, "from_newest", counted)
    return folders


def fold(store: DeltaStore) -> None:
    store.commit(PLAIN, 4, [segment.staged for segment in store.log.segments(PLAIN)])


def compact(store: DeltaStore) -> None:
    assert DeltaMaintenance(store).compact(PLAIN, 10_000)


def split(store: DeltaStore) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("featurestore.rows.buckets.bits_for.__defaults__", (1,))
        patch.setattr("featurestore.offline.delta.commit.ROWS_PER_BUCKET", 1)
        patch.setattr("featurestore.offline.delta.commit._SPLIT_AT", 1)
        run(store, PLAIN, 4, frame(100, 101, 102))


def forget(store: DeltaStore) -> None:
    DeltaEraser(store).erase(PLAIN, pl.DataFrame({"origin": ["a"]}), 0.0, dry_run=False)


def optimize(store: DeltaStore) -> None:
    delta = DeltaTable(store.folder(PLAIN).address().url, storage_options=delta_options(store.folder(PLAIN).address()))
    assert delta.optimize.compact()["numFilesAdded"]


def take_notice(store: DeltaStore) -> None:
    assert note(open_state(store.folder(PLAIN)), "featurestore.test", "noticed")


def write_many(store: DeltaStore) -> None:
    for number in range(4, 60):
        run(store, PLAIN, number, frame(100 + number))


@pytest.mark.parametrize(
    ("change", "is_followed"),
    [
        (fold, True), (compact, True), (split, True), (forget, False), (optimize, False), (take_notice, False),
        pytest.param(write_many, False, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_state_follows_what_others_commit(
    store: DeltaStore,
    opened: list[Folder],
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[DeltaStore], None],
    is_followed: bool,
) -> None:
    monkeypatch.setattr("featurestore.offline.delta.compaction._SMALL_FILES", 2)
    folder = store.folder(PLAIN)
    before = open_state(folder)
    change(store)
    opened.clear()
    now = open_state(folder, before)
    assert bool(opened) is not is_followed
    afresh = open_state(folder)
    assert now == afresh
    assert now.version > before.version
    assert now.files.frame.sort("path").equals(afresh.files.frame.sort("path"))
    assert now.is_current()


def test_other_processes_commits_cost_readers_and_pushers_no_opening(
    place: Folder, store: DeltaStore, opened: list[Folder], tmp_path: Path
) -> None:
    other = DeltaStore(place, locks=FileLocks(tmp_path / "_locks"))
    assert other.snapshot(PLAIN).rows == 16
    opened.clear()
    for number in range(4, 8):
        assert run(store, PLAIN, number, frame(100 + number)) == 1
        assert other.snapshot(PLAIN).rows == 17 + 2 * (number - 4)
        assert other.log.append(PLAIN, frame(200 + number)).rows.height == 1
    assert opened == []


def test_the_library_reads_what_is_written_here(store: DeltaStore) -> None:
    address = store.folder(PLAIN).address()
    delta = DeltaTable(address.url, storage_options=delta_options(address))
    assert delta.version() == 3
    assert delta.to_pyarrow_table().num_rows == 15
    assert [commit["run"] for commit in delta.history() if "run" in commit] == ["3", "2", "1"]
    assert {commit["operation"] for commit in delta.history()} == {"WRITE", "CREATE TABLE"}
    delta.create_checkpoint()
    assert open_state(store.folder(PLAIN)).rows == 15
    write_checkpoint(store.folder(PLAIN))
    assert open_state(store.folder(PLAIN)).rows == 15


ADDED = {"path": f"_bucket=1/run-00000001-{'0' * 32}.parquet", "partitionValues": {"_bucket": "1"}, "size": 1}
LINES = {
    "an action of another kind": {"cdc": {"path": "x", "partitionValues": {}, "size": 1, "dataChange": False}},
    "a file of another program": {"add": {**ADDED, "path": "part-1.parquet", "stats": "{}"}},
    "a file without statistics": {"add": ADDED},
    "a file whose rows are deleted in another one": {"add": {**ADDED, "deletionVector": {"storageType": "u"}, "stats": "{}"}},
    "a file that was not there to remove": {"remove": {"path": "_bucket=1/run-00000009-00.parquet", "dataChange": True}},
    "no object": [1],
    "two actions": {"txn": {"appId": "a", "version": 1}, "commitInfo": {}},
}


def can_follow(before: DeltaState) -> bool:
    tail = read_tail(before.folder, before.version, before.marks[:2])
    return tail is not None and before.files.changed(tail.added, tail.removed) is not None


@pytest.mark.parametrize("what", LINES)
def test_what_this_store_does_not_write_is_left_to_the_library(store: DeltaStore, what: str) -> None:
    before = open_state(store.folder(PLAIN))
    entry = "\n".join(json.dumps(line) for line in ({"commitInfo": {}}, LINES[what]))
    assert store.folder(PLAIN).create(entry_at(before.version + 1), entry.encode())
    assert not can_follow(before)


def test_an_entry_that_is_cut_off_is_left_to_the_library(store: DeltaStore) -> None:
    before = open_state(store.folder(PLAIN))
    assert store.folder(PLAIN).create(entry_at(before.version + 1), b'{"add":{"path":')
    assert not can_follow(before)


def test_a_table_that_another_program_has_changed_into_another_kind_is_refused(tmp_path: Path) -> None:
    store = DeltaStore(tmp_path)
    run(store, PLAIN, 1, frame(1))
    log = store.folder(PLAIN).address(LOG).path
    assert log is not None
    protocol = {
        "minReaderVersion": 3,
        "minWriterVersion": 7,
        "readerFeatures": ["deletionVectors"],
        "writerFeatures": ["deletionVectors"],
    }
    (log / f"{2:020d}.json").write_text(json.dumps({"protocol": protocol}))
    for act in (lambda: store.snapshot(PLAIN), lambda: run(store, PLAIN, 2, frame(2)), lambda: store.log.append(PLAIN, frame(3))):
        with pytest.raises(OfflineStoreError, match=r"Another program has changed the table .* deletionVectors"):
            act()
    DeltaTable(store.folder(PLAIN).address().url)  # the library itself reads it
