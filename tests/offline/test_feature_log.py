"""The feature log in Delta tables: the contract of feature logs, and what is its own."""

import os
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable

from featurestore.errors import OfflineStoreError
from featurestore.offline.delta.feature_log import DeltaFeatureLog
from featurestore.testing.feature_log import START, FeatureLogContract, kept, people, rows


def tables(folder: Path) -> list[Path]:
    return [path.parent for path in (folder / "p" / "_logs").glob("*/*/_schema.json")]


def held_by_files(folder: Path) -> set[str]:
    """The people in any file at all, whatever the table says of it."""
    return {
        name for path in folder.rglob("*.parquet") if "_delta_log" not in path.parts for name in pl.read_parquet(path)["person"]
    }


class TestDeltaFeatureLog(FeatureLogContract):
    @pytest.fixture
    def log(self, tmp_path: Path) -> DeltaFeatureLog:
        return DeltaFeatureLog(tmp_path)

    def make(self, folder: str) -> DeltaFeatureLog:
        return DeltaFeatureLog(Path(folder))

    def test_what_was_deleted_is_in_no_file_and_in_no_log(self, log: DeltaFeatureLog, tmp_path: Path) -> None:
        for number in range(3):
            log.append("p", "model", rows((number, "secret-ann", 1.0), (number, "bob", 2.0)))
            log.append("p", "model", rows((number, "secret-ann", 1.0), dest="LGA"))
        log.compact("p", "model")
        log.append("p", "model", rows((9, "secret-ann", 1.0)))
        assert log.delete("p", "model", people("secret-ann")) == 7
        assert held_by_files(tmp_path) == {"bob"}
        for path in tmp_path.rglob("*"):
            assert path.is_dir() or b"secret-ann" not in path.read_bytes(), path

    def test_what_was_pruned_is_in_no_file(self, log: DeltaFeatureLog, tmp_path: Path) -> None:
        log.append("p", "model", rows((0, "ann", 1.0), (5, "bob", 2.0)))
        log.append("p", "model", rows((0, "ann", 1.0)))
        assert log.prune("p", "model", START + timedelta(hours=1)) == 2
        assert held_by_files(tmp_path) == {"bob"}

    def test_what_a_killed_writer_left_is_removed_after_an_hour(self, log: DeltaFeatureLog, tmp_path: Path) -> None:
        log.append("p", "model", rows((0, "bob", 2.0)))
        [table] = tables(tmp_path)
        for name, age in (("new", 60), ("old", 7200)):
            path = table / f"part-{name}.parquet"
            rows((0, name, 1.0)).write_parquet(path)
            then = path.stat().st_mtime - age
            os.utime(path, (then, then))
        log.compact("p", "model")
        assert held_by_files(tmp_path) == {"bob", "new"}  # it may be one that is about to be added
        assert kept(log) == [("bob", 2.0)]

    def test_the_log_of_commits_stays_short(self, log: DeltaFeatureLog, tmp_path: Path) -> None:
        for number in range(3):
            log.append("p", "model", rows((number, "bob", 2.0)))
        log.compact("p", "model")
        [table] = tables(tmp_path)
        assert (table / "_delta_log" / "_last_checkpoint").is_file()
        assert len(DeltaTable(str(table)).file_uris()) == 1

    def test_anything_that_reads_delta_reads_it(self, log: DeltaFeatureLog, tmp_path: Path) -> None:
        log.append("p", "model", rows((0, "ann", 1.0), (0, "bob", 2.0)))
        log.delete("p", "model", people("ann"))
        [table] = tables(tmp_path)
        assert pl.DataFrame(DeltaTable(str(table)).to_pyarrow_table())["person"].to_list() == ["bob"]

    def test_a_folder_that_cannot_be_written_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "p").write_text("a file")
        with pytest.raises(OfflineStoreError, match="could not write"):
            DeltaFeatureLog(tmp_path).append("p", "model", rows((0, "ann", 1.0)))
