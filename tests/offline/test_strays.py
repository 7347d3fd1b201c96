"""What a desktop, a notebook or a network file system leaves in the folders of a history hinders nobody, and is nobody's row."""

from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from featurestore.clock import from_micros
from featurestore.errors import FeatureStoreError
from tests.oracle import Row
from tests.projects import frame_of, parquet_of, store_at, view_of

STRAYS = (".DS_Store", ".nfs000000000000a1b2", "._0000000000000001-abcdef01.parquet", "._run-00000001-000000.parquet", "Thumbs.db",
          "._00000000000000000000.json", "copy of 00000001", "00000001 (1).parquet", "notes.parquet.tmp.swp")  # fmt: skip
FOLDERS = (".ipynb_checkpoints", "00000001 copy", "x.tmp", "v1 copy")


def litter(folder: Path) -> int:
    """Puts strays into a folder and all that are in it."""
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for each in folders:
        for name in STRAYS:
            (each / name).write_bytes(b"\x00\x05\x16\x07stray")
        for name in FOLDERS:
            (each / name).mkdir(exist_ok=True)
            (each / name / "inner").write_bytes(b"stray")
    return len(folders)


def test_d6_a_stray_entry_in_any_managed_folder_hinders_nothing(tmp_path: Path) -> None:
    def rows(first: int) -> pl.DataFrame:
        made = [Row((f"k{at % 5}",), at, at, (float(at),)) for at in range(first, first + 20)]
        return frame_of([*made, Row((None,), first, first, (0.0,))], {"k": pl.String}, {"x": pl.Float64})

    source = parquet_of(tmp_path / "data", [rows(0)])
    with store_at(tmp_path / "project", lambda: from_micros(1000)) as store:
        store.apply([view_of(source, {"k": str}, {"x": float | None})])
        store.materialize()
        store.push("rows", rows(100))
        table = tmp_path / "project" / ".featurestore" / "offline" / "test" / "v" / "v1"
        # As where a run was killed after its chunk was staged.
        store.components.offline.stage(store.components.table(store.components.views(["v"])[0]), 9, 0, store.sql("from v").clear())
        assert litter(table.parent.parent) >= 5
        for first in (200, 300):
            rows(first).write_parquet(tmp_path / "data" / f"{first}.parquet")
            [done] = store.materialize()
            assert done.rows_written == 20
            store.push("rows", rows(first + 50))
        assert store.sql("from v").height == 120
        assert store.runs.rejected_rows("v").height > 0
        store.admin.maintain(retention=timedelta(0))
        assert store.admin.forget("entity_v", {"k": "k1"})
        store.materialize()
        store.admin.backup("copy")
        assert store.sql("from v").height == 120 - 24
        assert [each.message for each in store.admin.doctor() if each.state == "error" and not each.check.startswith("clock")] == []
        assert all(run.state == "done" for run in store.runs.list())
    with store_at(tmp_path / "project", lambda: from_micros(1000)) as store:
        store.admin.delete_project()


def test_e22_a_process_that_pushed_before_the_first_run_sees_the_table_after_a_forget(tmp_path: Path) -> None:
    """S16, S17: what is pushed is read by a training frame and SQL, whatever was taken out of the log of commits meanwhile."""

    def row(key: str, at: int) -> pl.DataFrame:
        return frame_of([Row((key,), at, at, (float(at),))], {"k": pl.String}, {"x": pl.Float64})

    source = parquet_of(tmp_path / "data", [pl.concat([row("a", 1), row("b", 2)])])
    with store_at(tmp_path / "project", lambda: from_micros(1000)) as store:
        store.apply([view_of(source, {"k": str}, {"x": float | None})])
        store.push("rows", row("b", 10))
        with store_at(tmp_path / "project", lambda: from_micros(1000)) as other:
            other.materialize()
            other.admin.forget("entity_v", {"k": "a"})
        assert [each.rows_new for each in store.push("rows", row("b", 20))] == [1]
        assert [(each.rows_new, each.rows_known) for each in store.push("rows", row("b", 10))] == [(0, 1)]
        assert sorted(store.sql("from v")["x"].to_list()) == [2.0, 10.0, 20.0]
        store.materialize()
        assert sorted(store.sql("from v")["x"].to_list()) == [2.0, 10.0, 20.0]


@pytest.mark.parametrize("name", ["0.parquet", "._.parquet"])
def test_an_unreadable_segment_is_an_error_of_ours(tmp_path: Path, name: str) -> None:
    """Of a name that a segment could have; another one is a stray."""
    rows = frame_of([Row(("a",), 1, 1, (1.0,))], {"k": pl.String}, {"x": pl.Float64})
    with store_at(tmp_path / "project", lambda: from_micros(1000)) as store:
        store.apply([view_of(parquet_of(tmp_path / "data", [rows]), {"k": str}, {"x": float | None})])
        store.push("rows", rows)
        [segment] = (tmp_path / "project").rglob("_pushed/*.parquet")
        segment.with_name(name).write_bytes(b"")
        assert store.sql("from v").height == 1
        segment.write_bytes(b"")
    with (
        store_at(tmp_path / "project", lambda: from_micros(1000)) as store,
        pytest.raises(FeatureStoreError, match="0000000000000001"),
    ):
        store.sql("from v")
