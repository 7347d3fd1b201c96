"""Delta tables: the contract of offline stores, and what is their own."""

import errno
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable

from featurestore.errors import OfflineStoreError
from featurestore.locks import FileLocks
from featurestore.offline.delta.commit import CommitBuilder
from featurestore.offline.delta.eraser import DeltaEraser
from featurestore.offline.delta.files import DeltaFiles
from featurestore.offline.delta.history import DeltaStore
from featurestore.testing.offline import PLAIN, OfflineStoreContract, read, rows, run
from featurestore.testing.push_log import PushLogContract, fold, outcome_of
from tests.offline.delta_limits import DeltaLimits
from tests.offline.paths import path_of


class TestDeltaStore(DeltaLimits, OfflineStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> DeltaStore:
        return DeltaStore(tmp_path / "offline")

    def test_anything_that_reads_delta_reads_it(self, store: DeltaStore) -> None:
        run(store, PLAIN, 1, rows(("JFK", 0, 5, 1.0), ("LGA", -1, 5, None)))
        frame = pl.DataFrame(DeltaTable(str(path_of(store, PLAIN))).to_pyarrow_table())
        assert sorted(frame["origin"].to_list()) == ["JFK", "LGA"]
        assert frame["_bucket"].to_list() == [1, 1]

    def test_s17_two_writers_of_one_run_leave_it_once(self, store: DeltaStore) -> None:
        staged = [store.stage(PLAIN, 1, index, rows(("JFK", index, index, 1.0))) for index in range(4)]
        with ThreadPoolExecutor(4) as threads:
            counts = list(threads.map(lambda _: store.commit(PLAIN, 1, staged), range(4)))
        assert counts == [4] * 4
        assert store.snapshot(PLAIN).rows == 4

    def test_s17_writers_of_different_runs_do_not_lose_or_repeat_rows(self, store: DeltaStore) -> None:
        """Later runs hold rows of earlier ones, as they do after a cursor; whoever commits second leaves them out."""
        for number in range(1, 5):
            run(store, PLAIN, number, rows(*(("JFK", event, event, 1.0) for event in range(number * 3))))
        assert read(store, PLAIN).height == 12
        assert store.snapshot(PLAIN).rows == 12

    def test_sorted_files_of_one_bucket_each(self, store: DeltaStore) -> None:
        run(store, PLAIN, 1, rows(("b", 2, 2, 1.0), ("a", 3, 3, 1.0)), rows(("b", 1, 9, 1.0), ("a", 0, 0, 1.0)))
        [history] = store.snapshot(PLAIN).buckets.values()
        [frame] = history.read(["origin", "event_time"])
        assert frame.with_columns(pl.col("event_time").to_physical()).rows() == [("a", 0), ("a", 3), ("b", 1), ("b", 2)]

    def test_a_folder_that_cannot_be_written_says_so(self, tmp_path: Path) -> None:
        (tmp_path / "offline").write_text("a file")
        with pytest.raises(OfflineStoreError, match="could not write"):
            run(DeltaStore(tmp_path / "offline"), PLAIN, 1, rows(("JFK", 0, 0, 1.0)))


def test_s16_forgetting_takes_what_killed_writers_have_left_of_files(tmp_path: Path) -> None:
    """A file that was begun, one without a log, and not what somebody may be writing now."""
    store, eraser = DeltaStore(tmp_path), DeltaEraser(DeltaStore(tmp_path))
    run(store, PLAIN, 1, rows(("JFK", 0, 0, 1.0), ("LGA", 0, 0, 1.0)))
    folder = path_of(store, PLAIN)
    begun, young = folder / "_bucket=1" / "begun.tmp", folder / "_bucket=1" / "young.tmp"
    begun.write_bytes(b"JFK")
    os.utime(begun, (1_000_000_000, 1_000_000_000))
    since = eraser.moment(PLAIN.project)
    young.write_bytes(b"JFK")
    os.utime(young, (since + 60, since + 60))
    entities = pl.DataFrame({"origin": ["JFK"]})
    assert eraser.erase(PLAIN, entities, since, dry_run=True).history == 1
    assert begun.exists()
    eraser.erase(PLAIN, entities, since, dry_run=False)
    assert (begun.exists(), young.exists()) == (False, True)
    shutil.rmtree(folder / "_delta_log")
    assert eraser.erase(PLAIN, pl.DataFrame({"origin": ["LGA"]}), since, dry_run=False).older == 1
    assert not list(folder.glob("_bucket=*/*.parquet"))


class TestDeltaPushLog(DeltaLimits, PushLogContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> DeltaStore:
        return DeltaStore(tmp_path / "offline")

    def test_another_store_of_the_folder_sees_it(self, store: DeltaStore, tmp_path: Path) -> None:
        other = DeltaStore(tmp_path / "offline")
        for event in range(4):
            writer, reader = (store, other) if event % 2 else (other, store)
            assert writer.log.append(PLAIN, rows(("JFK", event, event, 1.0))).seq == event + 1
            assert reader.snapshot(PLAIN).rows == event + 1
            assert reader.log.append(PLAIN, rows(("JFK", event, event, 1.0))).seq is None
        fold(store, PLAIN, 1)
        last = other.log.append(PLAIN, rows(("JFK", 3, 3, 1.0), ("JFK", 4, 4, 1.0))).seq or 0
        assert last > 4
        store.log.remove(PLAIN)
        assert [other.log.exists(PLAIN, seq) for seq in (1, 4, last)] == [False, False, True]

    @pytest.mark.parametrize("buckets", [1, 4])
    def test_s17_a_push_between_a_merge_and_its_commit(
        self, store: DeltaStore, buckets: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is pushed while a run is merged is left out of the run, however often that happens."""
        monkeypatch.setattr("featurestore.rows.buckets.bits_for.__defaults__", (32 // buckets,))
        given = [(f"k{index}", index, index, 1.0) for index in range(32)]
        pushes = iter(range(0, 12, 4))  # the fourth look is with the lock, when nobody can push
        for name in ("add", "leave_out"):
            work = getattr(CommitBuilder, name)

            def disturbed(*arguments: Any, work: Any = work) -> Any:
                done = work(*arguments)
                for first in islice(pushes, 1):
                    assert store.log.append(PLAIN, rows(*given[first : first + 4])).rows.height == 4
                return done

            monkeypatch.setattr(CommitBuilder, name, disturbed)
        assert run(store, PLAIN, 1, rows(*given)) == 20
        assert len(store.log.segments(PLAIN)) == 3
        assert read(store, PLAIN).height == store.snapshot(PLAIN).rows == 32

    def test_what_a_killed_push_left_is_cleared_up(self, store: DeltaStore) -> None:
        store.log.append(PLAIN, rows(("JFK", 0, 0, 1.0)))
        folder = path_of(store, PLAIN) / "_pushed"
        (folder / "abc.tmp").write_bytes(b"half")
        assert store.snapshot(PLAIN).rows == 1
        fold(store, PLAIN, 1)
        store.log.remove(PLAIN)
        assert not list(folder.glob("*.tmp"))
        assert not list(folder.glob("*.parquet"))

    def test_a_lock_that_is_held_for_ever_keeps_nobody_from_writing(
        self, store: DeltaStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Writers who meet too often queue up by a lock; what is right does not depend on it."""
        monkeypatch.setattr("featurestore.offline.delta.sequence._PATIENCE", 0.01)
        monkeypatch.setattr("featurestore.offline.delta.sequence._OPTIMISTIC", 0)
        with FileLocks(tmp_path / "offline" / "_locks").exclusive(f"write {PLAIN}", 1.0):
            store.log.append(PLAIN, rows(("JFK", 0, 0, 1.0)))
            run(store, PLAIN, 1, rows(("JFK", 1, 1, 1.0)))
        assert store.snapshot(PLAIN).rows == 2

    def test_a_file_system_without_hard_links_has_one_order_too(self, store: DeltaStore, monkeypatch: pytest.MonkeyPatch) -> None:
        def refused(*_: object) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr("os.link", refused)
        with ThreadPoolExecutor(4) as threads:
            stores = [DeltaStore(path_of(store, PLAIN).parents[2]) for _ in range(4)]
            pushed = list(threads.map(lambda number: stores[number % 4].log.append(PLAIN, rows(("a", number, 1, 1.0))), range(24)))
        assert sorted(each.seq or 0 for each in pushed) == list(range(1, 25))
        assert store.snapshot(PLAIN).rows == 24

    def test_files_are_read_once(self, store: DeltaStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is known is told by hashes: only where one of them is met the bucket is read again."""
        read_columns: list[Any] = []
        reading = DeltaFiles.read

        def counted(self: DeltaFiles, columns: Any = None, where: Any = None) -> Any:
            read_columns.append(columns)
            return reading(self, columns, where)

        run(store, PLAIN, 1, rows(*((f"k{index}", index, index, 1.0) for index in range(50))))
        run(store, PLAIN, 2, rows(*((f"k{index}", 1000 + index, 1000 + index, 1.0) for index in range(50))))
        monkeypatch.setattr(DeltaFiles, "read", counted)
        for event in range(10):
            assert store.log.append(PLAIN, rows(("k1", 1000 + event, 5000, 1.0))).rows.height == 1
        assert read_columns == [["origin", "event_time", "available_time"]]
        assert outcome_of(store.log.append(PLAIN, rows(("k1", 1001, 1001, 1.0)))) == (None, 0, (), 1)
        assert len(read_columns) == 2
