"""A backup that is made while rows are pushed and runs go on, restored for real in another place."""

import shutil
import threading
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from featurestore import FeatureStore
from featurestore.cli.app import app
from featurestore.errors import RequestError
from featurestore.offline.delta import copy
from featurestore.offline.folder import Folder
from tests.sales import BEGAN, sales, views
from tests.servers.valkey import wait_until

ROWS = 400
SALES = sales(ROWS)


def frame(store: FeatureStore) -> pl.DataFrame:
    spine = pl.DataFrame({"shop": range(7), "t": [BEGAN + timedelta(days=1)] * 7})
    return store.training_frame(spine, ["last_sale", "takings"], time="t").sort("shop")


def restore(backup: Path, project: Path) -> None:
    """What docs/how-to/deploy.md says."""
    project.mkdir()
    shutil.copytree(backup, project / ".featurestore")


def test_a_backup_under_writes_has_all_that_was_there_when_it_began(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    defined = views(SALES.head(100))
    pushed = 100
    with FeatureStore(tmp_path / "one", project="backed_up") as store:
        store.apply(defined)
        store.materialize()
        stop = threading.Event()
        failed: list[Exception] = []

        def write() -> None:
            nonlocal pushed
            try:
                while not stop.is_set() and pushed < ROWS:
                    store.push("sales", SALES[pushed : pushed + 5])
                    pushed += 5
                    if pushed % 50 == 0:
                        store.materialize()  # folds what was pushed
            except Exception as error:  # noqa: BLE001 - it is raised below
                failed.append(error)

        writer = threading.Thread(target=write)
        writer.start()
        wait_until(lambda: pushed >= 150 or bool(failed), "nothing is pushed")
        before = pushed
        made = store.admin.backup(tmp_path / "backup")
        after = pushed
        stop.set()
        writer.join()
        assert not failed
        assert made.registry
        assert made.files > 0
        whole = frame_after_all(store)
    restore(tmp_path / "backup", tmp_path / "two")
    with FeatureStore(tmp_path / "two", project="backed_up") as other:
        other.apply(defined)
        sold = frame(other)["sold"].sum()
        assert before <= sold <= after + 5
        other.admin.rebuild_online()
        at = BEGAN + timedelta(days=1)
        rows = other.online(["last_sale", "takings"], [{"shop": shop} for shop in range(7)], at=at).to_polars()
        assert rows.equals(frame(other).drop("t"))
        assert frame_after_all(other).equals(whole)
        assert [each for each in other.admin.doctor() if each.state == "error"] == []


def frame_after_all(store: FeatureStore) -> pl.DataFrame:
    """The training frame once all sales were pushed, those known already again."""
    store.push("sales", SALES)
    store.materialize()
    return frame(store)


def test_a_backup_has_what_was_pushed_to_a_view_that_no_run_has_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pushes become a table while another one is copied."""
    with FeatureStore(tmp_path, project="backed_up") as store:
        store.apply(views(SALES.head(0)))
        store.push("sales", SALES.head(20))
        store.materialize(["takings"])
        copying = iter([lambda: store.materialize()])
        emptied = copy.delete_below

        def meanwhile(folder: Folder, *prefixes: str) -> None:
            for act in copying:
                act()
            emptied(folder, *prefixes)

        monkeypatch.setattr(copy, "delete_below", meanwhile)
        store.admin.backup("copy")
        rows = store.sql("from last_sale").height
    restore(tmp_path / "copy", tmp_path / "two")
    with FeatureStore(tmp_path / "two", project="backed_up") as other:
        other.apply(views(SALES.head(0)))
        assert other.sql("from last_sale").height == rows == 20


def test_a_backup_that_did_not_come_to_its_end_is_not_restored(tmp_path: Path) -> None:
    with FeatureStore(tmp_path, project="backed_up") as store:
        store.apply(views(SALES.head(3)))
        store.materialize()
        store.admin.backup("copy")
    (tmp_path / "copy" / "backup.json").unlink()
    (tmp_path / "two").mkdir()
    with FeatureStore(tmp_path / "two", project="backed_up") as other:
        with pytest.raises(RequestError, match="one that did not come to its end"):
            other.admin.restore(tmp_path / "copy")
        (tmp_path / "two" / ".featurestore").mkdir()
        (tmp_path / "two" / ".featurestore" / "registry.db-wal").touch()
        with pytest.raises(RequestError, match=r"registry\.db-wal, which is not written over"):
            other.admin.restore(tmp_path / "copy")


def test_a_registry_on_postgresql_is_left_to_its_own_tools(tmp_path: Path, postgres_url: str) -> None:
    with FeatureStore(tmp_path, registry=postgres_url, project="backed_up_elsewhere") as store:
        store.apply(views(SALES.head(3)))
        store.materialize()
        made = store.admin.backup("copy")
    assert not made.registry
    assert "pg_dump" in str(made)
    assert not (tmp_path / "copy" / "registry.db").exists()


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "old").touch()
    with FeatureStore(tmp_path) as store, pytest.raises(RequestError, match="not an empty folder"):
        store.admin.backup("copy")


def test_the_command(tmp_path: Path) -> None:
    with FeatureStore(tmp_path) as store:
        store.apply(views(SALES.head(3)))
        store.materialize()
    (tmp_path / "definitions").mkdir()
    done = CliRunner().invoke(app, ["backup", str(tmp_path / "copy"), "-C", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "files of the history" in done.output
    assert (tmp_path / "copy" / "registry.db").exists()


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_an_address_of_something_else_is_refused_by_the_commands(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was taken for a folder of that name below the one that the command was run in."""
    (tmp_path / "definitions").mkdir()
    (tmp_path / "featurestore.toml").touch()
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [command, "https://h/x"])
    assert done.exit_code == 1
    assert "is an address of https" in " ".join(done.output.split())
    assert not (tmp_path / "https:").exists()
