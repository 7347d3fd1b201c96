"""Runs whose pieces are tasks that open the project for themselves write what runs of one process write.

On a cluster: ``test_ray_runs.py``.
"""

from pathlib import Path

import polars as pl
import pytest

from tests.engines.far import FarEngine
from tests.materialization.elsewhere import Fleet, Written, events
from tests.retrieval.test_flow import small_batches

ROWS = 12_000


@pytest.fixture
def fleet(tmp_path: Path, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    monkeypatch.setattr("featurestore.engines.base.FEW_ROWS", 1000)
    return Fleet(tmp_path, "", valkey_url, "", "", rows=ROWS)


def test_s17_a_run_by_tasks_writes_what_a_run_here_writes(fleet: Fleet) -> None:
    engine = FarEngine()
    with small_batches(1000, bucket=2000):
        with fleet.local("here") as store:
            store.apply()
            expected = Written.of(store, store.materialize())
        with fleet.cluster("there", engine) as store:
            store.apply()
            Written.of(store, store.materialize()).require_same(expected)
            assert {*engine.ran} == {"StageTask", "MergeTask", "OnlineTask"}
            assert engine.ran.count("StageTask") == 2 * fleet.files
            engine.ran.clear()
            store.admin.rebuild_online()
            assert Written.of(store, []).online == expected.online
            assert {*engine.ran} == {"OnlineTask"}


def test_s16_files_are_merged_by_tasks_without_who_is_forgotten(fleet: Fleet) -> None:
    """Rows of somebody whose erasure is not done yet are in none of the new files."""
    engine, root = FarEngine(), fleet.root("kept")
    for file in (root / "events").iterdir():
        file.unlink()
    with fleet.cluster("kept", engine) as store:
        store.apply()
        for part in range(10):
            events(ROWS, part, 10).write_parquet(root / "events" / f"{part}.parquet")
            store.materialize()
        store.components.tombstones.lay("user", pl.DataFrame({"k": ["k7"]}))
        assert store.admin.maintain()[0].merged
        assert "CompactTask" in engine.ran
        assert not store.sql("from latest").filter(pl.col("k") == "k7").height
        assert store.sql("from latest").height > ROWS - 100
