"""Files that outlast a power cut and are their owner's alone: what each function of ``durable`` promises, and who may read what."""

import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from featurestore import Entity, FeatureStore, FeatureView, count, durable
from featurestore.clock import from_micros
from featurestore.testing.feature_log import rows as answers
from tests.oracle import Row
from tests.projects import frame_of, parquet_of, store_at, view_of

KEYS = {"k": str}


@pytest.fixture(params=[0o022, 0o000, 0o077], ids=["usual", "open", "strict"], autouse=True)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    """What is kept is its owner's alone, whatever the process's umask is."""
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    durable.share_with_group(tmp_path / "shared")
    yield tmp_path / "shared"
    durable._shared.clear()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def open_to_others(folder: Path, allowed: int = 0o700) -> dict[str, str]:
    """What lies in a folder, it included, and may be read or written by more than it should."""
    found = [folder, *folder.rglob("*")]
    return {str(path.relative_to(folder)): oct(mode(path)) for path in found if mode(path) & ~allowed}


def project(folder: Path, **settings: object) -> FeatureStore:
    """A project that has of everything that a store keeps: tables, their logs, segments, rejected rows, staged ones, locks."""
    rows = frame_of(
        [Row((f"k{at}",), at, at, (float(at),)) for at in range(9)] + [Row((None,), 1, 1, (1.0,))],
        {"k": pl.String},
        {"x": pl.Float64},
    )
    source = parquet_of(folder.parent / "data", [rows])
    folder.mkdir(exist_ok=True)
    store = store_at(folder, lambda: from_micros(100), **settings)

    class W(FeatureView, entity=Entity("entity_w", **KEYS), source=source):
        n: int = count().over("1h")

    store.apply([view_of(source, KEYS, {"x": float | None}), W])
    store.materialize()
    store.push("rows", rows.with_columns(x=pl.col("x") + 1))
    store.admin.forget("entity_v", {"k": "k0"})
    store.components.feature_log.append(store.settings.project, "service", answers((0, "ann", 1.0)))
    store.push("rows", rows.with_columns(x=pl.col("x") + 2))
    store.admin.maintain(retention=timedelta(0))
    return store


def test_k11_what_a_project_keeps_is_its_owners_alone(tmp_path: Path) -> None:
    with project(tmp_path / "project") as store:
        assert not open_to_others(tmp_path / "project" / ".featurestore")
        store.admin.backup("copy")
        assert not open_to_others(tmp_path / "project" / "copy")


def test_k11_a_setting_lets_the_group_in_and_nobody_else(tmp_path: Path) -> None:
    try:
        with project(tmp_path / "project", file_mode="group"):
            kept = tmp_path / "project" / ".featurestore"
            assert not open_to_others(kept, 0o770)
            lacking = [path for path in kept.rglob("*") if mode(path) & 0o060 != 0o060 and path.parent.name != "online"]
            assert not [path for path in lacking if not path.name.endswith(("-wal", "-shm"))]
    finally:
        durable._shared.clear()


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    durable.write_file(path, b"one")

    def fails(file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]  # an open file
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        durable.replace_file(path, fails)
    assert path.read_bytes() == b"one"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    durable.replace_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert mode(path) == 0o600


def test_each_change_is_on_the_disk_when_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order in which it must come there: bytes, then names, folders before what is in them."""
    synced: list[Path] = []

    def sync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(tmp_path))

    monkeypatch.setattr(durable, "_sync", sync)

    def said(act: object, *given: object) -> list[str]:
        synced.clear()
        act(*given)  # type: ignore[operator]  # a function of durable
        return [each.name if each.suffix != durable.TEMPORARY else "beside" for each in synced]

    assert said(durable.make_folders, tmp_path / "a" / "b") == ["", "a"]
    assert said(durable.make_folders, tmp_path / "a" / "b") == []
    assert said(durable.write_file, tmp_path / "a" / "b" / "f", b"x") == ["f", "b"]
    assert said(durable.replace_file, tmp_path / "a" / "b" / "f", b"y") == ["beside", "b"]
    (tmp_path / "a" / "b" / "theirs").write_bytes(b"z")
    (tmp_path / "a" / "b" / "theirs").chmod(0o644)
    assert sorted(said(durable.settle, tmp_path / "a" / "b")) == ["b", "f", "theirs"], "what it has not seen to itself"
    assert said(durable.settle, tmp_path / "a" / "b") == ["b"]
    assert said(lambda: durable.remove([tmp_path / "a" / "b" / "f"], lasting=True)) == ["b"]
    assert said(lambda: durable.remove([tmp_path / "a" / "b" / "f"])) == []
    assert said(durable.copy_file, tmp_path / "a" / "b" / "theirs", tmp_path / "c" / "theirs") == ["", "theirs", "c"]
    assert said(durable.remove_folder, tmp_path / "a") == [""]
    assert not (tmp_path / "a").exists()
    assert said(durable.remove_folder, tmp_path / "a") == [""]


def test_folders_are_made_by_many_at_once_and_so_removed(tmp_path: Path) -> None:
    folders = [tmp_path / f"a{number}" / "b" / "c" for number in range(20)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(durable.make_folders, folders * 4))
        assert all(each.is_dir() for each in folders)
        for each in folders:
            list(threads.map(durable.remove_folder, [each.parent.parent] * 4))
    assert list(tmp_path.iterdir()) == []


def test_files_under_a_shared_folder_are_the_groups_too(shared: Path) -> None:
    durable.make_folders(shared / "inner")
    durable.write_file(shared / "inner" / "file", b"")
    durable.make_file(shared / "registry.db")
    assert [mode(path) for path in (shared, shared / "inner", shared / "inner" / "file", shared / "registry.db")] == [
        0o770, 0o770, 0o660, 0o660,
    ]  # fmt: skip


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o007])
def test_what_a_library_wrote_is_synced_whatever_the_umask_made_of_it(
    umask: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(umask)
    try:
        (tmp_path / "00.json").write_text("{}")
    finally:
        os.umask(before)
    synced: list[str] = []

    def sync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    monkeypatch.setattr(durable, "_sync", sync)
    durable.settle(tmp_path)
    assert synced == ["00.json", tmp_path.name]
    assert stat.S_IMODE((tmp_path / "00.json").stat().st_mode) == 0o600
    durable.settle(tmp_path)
    assert synced == ["00.json", tmp_path.name, tmp_path.name], "one that was seen to is passed over"
    (tmp_path / "00.json").write_text("{} ")
    durable.settle(tmp_path)
    assert synced.count("00.json") == 2
