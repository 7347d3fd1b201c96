"""The upkeep of Delta tables: its contract, and what is its own."""

import os
import random
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from deltalake import DeltaTable

from featurestore.clock import to_micros, utc_now
from featurestore.offline.delta.compaction import worth_merging
from featurestore.offline.delta.history import DeltaStore
from featurestore.offline.delta.maintenance import DeltaMaintenance
from featurestore.offline.delta.table_files import File
from featurestore.offline.local_folder import LocalFolder
from featurestore.rows.buckets import ROOT, bits_of
from featurestore.testing import FakeClock
from featurestore.testing.offline import PLAIN, read, rows, run
from featurestore.testing.upkeep import TableMaintenanceContract, kept
from tests.offline.delta_limits import DeltaLimits
from tests.offline.paths import path_of


class TestDeltaUpkeep(DeltaLimits, TableMaintenanceContract):
    writes = (*TableMaintenanceContract.writes, (LocalFolder, "create"))

    @pytest.fixture
    def store(self, tmp_path: Path, clock: FakeClock) -> DeltaStore:
        return DeltaStore(tmp_path / "offline", clock=clock)

    @pytest.fixture
    def upkeep(self, store: DeltaStore, clock: FakeClock) -> DeltaMaintenance:
        return DeltaMaintenance(store, clock=clock)

    @pytest.fixture
    def make(self, tmp_path: Path) -> Callable[[FakeClock], tuple[DeltaStore, DeltaMaintenance]]:
        folders: dict[FakeClock, Path] = {}

        def make(clock: FakeClock) -> tuple[DeltaStore, DeltaMaintenance]:
            store = DeltaStore(folders.setdefault(clock, tmp_path / uuid4().hex), clock=clock)
            return store, DeltaMaintenance(store, clock=clock)

        return make

    def test_a_compaction_says_that_it_changes_no_data(self, store: DeltaStore, upkeep: DeltaMaintenance) -> None:
        self.small_runs(store, range(1, 11))
        kept(store, upkeep, PLAIN, 10)
        log = sorted((path_of(store, PLAIN) / "_delta_log").glob("*.json"))[-1].read_text()
        assert log.count('"dataChange":false') == 11
        assert '"dataChange":true' not in log
        assert DeltaTable(str(path_of(store, PLAIN))).to_pyarrow_table().num_rows == 100

    def test_what_killed_writers_left_is_removed_once_it_is_old(self, store: DeltaStore, upkeep: DeltaMaintenance) -> None:
        run(store, PLAIN, 1, rows(("k1", 1, 1, 1.0)))
        staged = store.stage(PLAIN, 2, 0, rows(("k1", 2, 2, 1.0)))
        folder = path_of(store, PLAIN)
        left = [folder / "_bucket=1" / "run-00000002-dead.parquet", folder / "_bucket=3" / "run-00000002-dead.parquet",
                folder / "_staging" / "00000001" / "000000-dead.parquet", folder / "_pushed" / "dead.tmp"]  # fmt: skip
        for path in left:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"half")
        assert upkeep.vacuum(PLAIN, timedelta()).files == 0
        old = (utc_now() - timedelta(days=2)).timestamp()
        for path in [*left, left[2].parent, folder / staged["path"], (folder / staged["path"]).parent]:
            os.utime(path, (old, old))
        assert upkeep.vacuum(PLAIN, timedelta(days=3)).files == 0
        assert upkeep.vacuum(PLAIN, timedelta()).files == 4
        assert not any(path.exists() for path in left)
        assert not (folder / "_bucket=3").exists()
        # What waits for a run that is not committed is needed, however old it is.
        assert store.commit(PLAIN, 2, [staged]) == 1
        assert read(store, PLAIN).height == 2

    def test_removals_are_remembered_by_the_checkpoint(self, store: DeltaStore, upkeep: DeltaMaintenance, clock: FakeClock) -> None:
        self.small_runs(store, range(1, 11))
        kept(store, upkeep, PLAIN, 10)
        delta = DeltaTable(str(path_of(store, PLAIN)))
        delta.create_checkpoint()
        for path in (path_of(store, PLAIN) / "_delta_log").glob("*.json"):
            if int(path.stem) < delta.version():
                path.unlink()
        # The files are old, but it is not long since they were replaced.
        old = (utc_now() - timedelta(days=100)).timestamp()
        for path in path_of(store, PLAIN).glob("_bucket=*/*.parquet"):
            os.utime(path, (old, old))
        assert upkeep.vacuum(PLAIN, timedelta(days=7)).files == 0
        clock.micros = to_micros(utc_now() + timedelta(days=8))
        assert upkeep.vacuum(PLAIN, timedelta(days=7)).files == 10


def test_a_row_is_written_anew_a_few_times_only() -> None:
    """Of many runs of any size on a table of 16 buckets: few files remain, and each row was merged a few times."""
    drawn = random.Random(7)
    files = [File(f"_bucket={node}/run-{1:08d}-{node}.parquet", node, 1_000_000, 1, 0, 0) for node in range(16, 32)]
    total = written = 0
    for number in range(2, 3000):
        rows = drawn.choice([10, 1_000, 1_000, 1_000, 5_000, 30_000])
        total += rows
        files.append(File(f"_bucket=1/run-{number:08d}-x.parquet", ROOT, rows, 1, 0, 0))
        while (group := worth_merging(files, number)) is not None:
            moved = sum(file.rows for file in group.files)
            written += moved
            nodes = range(1 << group.bits, 2 << group.bits)
            if all(bits_of(file.node) == 4 and file.rows >= 32_768 for file in group.files):
                nodes = range(group.files[0].node, group.files[0].node + 1)
            files = [file for file in files if file not in group.files]
            files += [File(f"_bucket={node}/{number}-{uuid4().hex}.parquet", node, moved // len(nodes), 1, 0, 0) for node in nodes]
            assert len(nodes) < len(group.files)
    assert written < 15 * total
    assert len(files) < 150
    for leaf in range(16, 32):
        assert sum(file.node in {leaf >> up for up in range(5)} for file in files) < 40
