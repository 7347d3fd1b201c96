"""Delta tables: the contract of offline stores, and what is their own."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable

from featurestore.errors import OfflineStoreError
from featurestore.offline.delta import DeltaStore
from tests.offline.contract import PLAIN, OfflineStoreContract, read, rows, run


class TestDeltaStore(OfflineStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> DeltaStore:
        return DeltaStore(tmp_path / "offline")

    def test_anything_that_reads_delta_reads_it(self, store: DeltaStore) -> None:
        run(store, PLAIN, 1, rows(("JFK", 0, 5, 1.0), ("LGA", -1, 5, None)))
        frame = pl.DataFrame(DeltaTable(str(store.path(PLAIN))).to_pyarrow_table())
        assert sorted(frame["origin"].to_list()) == ["JFK", "LGA"]
        assert frame["_bucket"].to_list() == [1, 1]

    def test_s17_two_writers_of_one_run_leave_it_once(self, store: DeltaStore) -> None:
        staged = [store.stage(PLAIN, 1, index, rows(("JFK", index, index, 1.0))) for index in range(4)]
        with ThreadPoolExecutor(4) as threads:
            counts = list(threads.map(lambda _: store.commit(PLAIN, 1, staged), range(4)))
        assert sorted(counts) == [0, 0, 0, 4]
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
