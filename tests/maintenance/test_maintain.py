"""Upkeep changes no feature, whoever is at work beside it and wherever it is broken off; what nobody is given is cleaned up."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import lmdb
import polars as pl
import pytest
from deltalake import DeltaTable

from featurestore import FeatureStore, ParquetSource
from featurestore.clock import from_micros, to_micros, utc_now
from featurestore.errors import FeatureStoreError, NotFoundError, OfflineStoreError, OnlineStoreError, StoreError
from featurestore.offline.local_folder import LocalFolder
from featurestore.online.lmdb.environment import LMDBEnvironments
from featurestore.online.lmdb.store import LMDBStore
from featurestore.registry.serving import Serving
from featurestore.testing import FakeClock, interrupted
from tests.crashes import Worker
from tests.oracle import Row
from tests.projects import frame_of, store_at, view_of
from tests.workers.upkeep_worker import DAY, FEATURES, KEYS, project_at, view_of_rows

ROWS = 10
RUNS = 12


@pytest.fixture
def hand() -> FakeClock:
    return FakeClock(to_micros(utc_now()))


def write(folder: Path, number: int, hand: FakeClock) -> None:
    """Writes a file of rows, as they become known now."""
    hand.micros += 1_000_000
    new = [Row((f"k{index}",), hand.micros - index, hand.micros, (float(number),)) for index in range(ROWS)]
    (folder / "data").mkdir(parents=True, exist_ok=True)
    frame_of(new, {"k": pl.String}, {"x": pl.Float64}).write_parquet(folder / "data" / f"{number:03}.parquet")


def materialized(folder: Path, hand: FakeClock, runs: int = RUNS, **settings: Any) -> FeatureStore:
    """A store whose view had some runs."""
    folder.mkdir(parents=True, exist_ok=True)
    store = project_at(folder, hand, **settings)
    for number in range(runs):
        write(folder, number, hand)
        if not number:
            store.apply([view_of_rows()])
        store.materialize()
    return store


def told(store: FeatureStore) -> dict[str, Any]:
    """What the store has."""
    rows = store.sql("select k, event_time, available_time, x from v").sort(pl.all())
    return {"rows": rows.to_dicts(), "online": store.online("v", [{"k": f"k{index}"} for index in range(ROWS)]).to_dicts()}


def test_upkeep_changes_no_feature(tmp_path: Path, hand: FakeClock) -> None:
    with materialized(tmp_path, hand) as store:
        store.push("rows", [{"k": "k1", "event": from_micros(hand.micros), "available": from_micros(hand.micros), "x": 99.0}])
        before = told(store)
        looked = store.admin.maintain(dry_run=True)
        assert (looked[0].files_before, looked[0].files_after, looked[0].merged) == (RUNS + 1, 2, RUNS)
        report = store.admin.maintain()
        assert looked.to_dicts() == report.to_dicts()
        assert [(each.kind, each.name, each.removed) for each in report] == [("history", "v v1", 0)]
        assert repr(report).splitlines()[1].split() == ["history", "v", "v1", "13", "2", "12", "0", "0", "0"]
        assert told(store) == before
        hand.micros += 8 * DAY
        assert store.admin.maintain("v")[0].removed == RUNS
        assert store.admin.maintain()[0].removed == 0
        assert told(store) == before
        store.materialize(start="1970-01-01")
        assert told(store) == before
        with pytest.raises(NotFoundError):
            store.admin.maintain(["other"])


def test_s17_a_run_that_is_not_done_keeps_what_it_added(tmp_path: Path, hand: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The history has its rows, the online store has not; upkeep comes between; the next run completes it."""
    with materialized(tmp_path, hand) as store:
        write(tmp_path, RUNS, hand)

        def unreachable(*_: Any, **__: Any) -> int:
            raise OnlineStoreError("it went away")

        with monkeypatch.context() as patch:
            patch.setattr(LMDBStore, "write", unreachable)
            with pytest.raises(OnlineStoreError):
                store.materialize()
        assert store.runs.list("v", limit=1)[0].state == "committed"
        assert store.admin.maintain()[0].merged == RUNS
        store.materialize()
        assert {row["x"] for row in told(store)["online"]} == {float(RUNS)}


@pytest.mark.parametrize("kind", ["lmdb", "valkey"])
def test_what_nobody_is_given_is_cleaned_up_after_its_retention(
    kind: str, tmp_path: Path, hand: FakeClock, valkey_url: str
) -> None:
    online = valkey_url if kind == "valkey" else None
    with store_at(tmp_path, hand, project=f"cleaned-{kind}", online=online) as store:
        frame = frame_of([Row((f"k{index}",), 1, 1, (1.0,)) for index in range(9)], {"k": pl.String}, {"x": pl.Float64})
        path = tmp_path / "rows.parquet"
        frame.write_parquet(path)
        source = ParquetSource("rows", str(path), event_time="event")
        first, other = view_of(source, KEYS, FEATURES), view_of(source, KEYS, FEATURES, name="w")
        store.apply([first, other])
        store.materialize()
        store.apply([view_of(source, KEYS, {"x": float})])
        store.materialize(["v"])
        hand.micros += DAY
        store.components.registry.commit(store.catalog.revision, [], [("view", "w")])
        hand.micros += int(28.5 * DAY)
        assert [each.kind for each in store.admin.maintain()] == ["history", "history"]
        hand.micros += DAY
        # The first is noted to be given up, and then the process ends.
        looked = [(each.name, each.files_before) for each in store.admin.maintain(dry_run=True) if each.kind == "retired"]
        assert looked == [("v v1", 1)]
        with interrupted(0, (store.components.online, "delete")):
            store.admin.maintain()
            pytest.fail("it was not interrupted")
        cleaned = [each for each in store.admin.maintain() if each.kind == "retired"]
        assert [(each.name, each.removed, each.deleted) for each in cleaned] == [("v v1", 1, 9)]
        hand.micros += DAY
        cleaned = [each for each in store.admin.maintain() if each.kind == "retired"]
        assert [(each.name, each.removed, each.deleted) for each in cleaned] == [("w v1", 1, 9)]
        assert [each.kind for each in store.admin.maintain()] == ["history"]
        folders = sorted(str(each.relative_to(tmp_path / ".featurestore" / "offline")) for each in
                         (tmp_path / ".featurestore" / "offline").glob("*/*/v*"))  # fmt: skip
        assert folders == [f"cleaned-{kind}/v/v2"]
        assert store.online("v", [{"k": "k1"}]).to_dicts() == [{"k": "k1", "x": 1.0}]


def test_who_returned_to_a_version_keeps_it(tmp_path: Path, hand: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    with materialized(tmp_path, hand, 1) as store:
        store.apply([view_of(view_of_rows().__view__.source, KEYS, {"x": float})])
        store.materialize()
        hand.micros += 31 * DAY
        clean = Serving.clean

        def after_a_rollback(self: Serving, retired: Any) -> bool:
            store.versions.rollback("v")
            return clean(self, retired)

        monkeypatch.setattr(Serving, "clean", after_a_rollback)
        assert [each.kind for each in store.admin.maintain()] == ["history", "history"]
        assert len(told(store)["rows"]) == ROWS


def test_the_feature_log_is_pruned(tmp_path: Path, hand: FakeClock) -> None:
    with materialized(tmp_path, hand, 1, retention={"logs": "1d"}) as store:
        for days in (0, 2):
            at = from_micros(hand.micros + days * DAY)
            rows = pl.DataFrame({"k": ["k1"], "read_at": [at]}, schema_overrides={"read_at": pl.Datetime("us", "UTC")})
            store.components.feature_log.append("kept", "model", rows)
        hand.micros += 2 * DAY
        [log] = [each for each in store.admin.maintain() if each.kind == "feature log"]
        assert (log.name, log.deleted) == ("model", 1)
        assert store.components.feature_log.read("kept", "model").collect().height == 1


class FullDiskError(OSError, lmdb.DiskError):
    """What a full disk is to the files' adapters and to LMDB's."""

    code = errno.ENOSPC


def full_disk(at: int) -> AbstractContextManager[list[int]]:
    """Lets every write from a certain one on fail for want of space."""
    writes = [
        (pl.DataFrame, "write_parquet"),
        (LocalFolder, "create"),
        (DeltaTable, "create_checkpoint"),
        (LMDBEnvironments, "change"),
    ]
    return interrupted(at, *writes, error=FullDiskError(errno.ENOSPC, os.strerror(errno.ENOSPC)))


def test_a_full_disk_at_each_write_loses_nothing(tmp_path: Path, hand: FakeClock) -> None:
    """A run, a push and upkeep, each told so clearly at every write, and done when it is repeated."""
    with materialized(tmp_path, hand, 9) as store:
        write(tmp_path, 9, hand)
        pushed = [{"k": "k1", "event": from_micros(hand.micros), "available": from_micros(hand.micros), "x": 99.0}]
        for act in (store.materialize, lambda: store.push("rows", pushed), store.admin.maintain, store.materialize):
            failures = repeated_on_a_full_disk(act)
            assert failures or act == store.materialize
        assert len(told(store)["rows"]) == 10 * ROWS + 1
        assert store.admin.maintain()[0].files_before == 2
        assert told(store)["online"][1]["x"] == 99.0
        assert {row["x"] for row in told(store)["online"][2:]} == {9.0}


def repeated_on_a_full_disk(act: Any) -> int:
    """Does something on a disk that is full after ever more writes, until it is done; returns how often it failed."""
    for at in range(20):
        with full_disk(at):
            try:
                act()
            except StoreError as error:
                told_so = str(error)
            else:
                return at
        assert "full" in told_so
    raise AssertionError("it is never done")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a few MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "size=3m", "tmpfs", place], check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("full", ["offline", "online"])
def test_a_disk_that_is_really_full(full: str, tmp_path: Path, small_disk: Path, hand: FakeClock) -> None:
    """Filled up by what it keeps; then a little room is made, and all is there."""
    place = str(small_disk / "offline") if full == "offline" else f"lmdb:{small_disk / 'online'}"
    folder = tmp_path / "project"
    with materialized(folder, hand, 1, **{full: place}) as store:
        filler = small_disk / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        failures = []
        for number in range(1, 40):
            write(folder, number, hand)
            try:
                store.materialize()
            except FeatureStoreError as error:
                failures.append(str(error))
        assert failures
        assert all("full" in failure or "space" in failure for failure in failures)
        filler.unlink()
        store.materialize()
        assert len(told(store)["rows"]) == 40 * ROWS
        assert {row["x"] for row in told(store)["online"]} == {39.0}


WORKER = Worker("upkeep_worker")


def kill_and_repeat(folder: Path, points: list[int], hand: FakeClock) -> None:
    """Upkeep is killed at some points of copies of a project, two at a time, and repeated."""
    with materialized(folder, hand) as store:
        store.push("rows", [{"k": "k1", "event": from_micros(hand.micros), "available": from_micros(hand.micros), "x": 99.0}])
        before = told(store)
    hand.micros += DAY
    for first in range(0, len(points), 2):
        copies = [folder.with_name(f"killed-{point}") for point in points[first : first + 2]]
        for copy in copies:
            shutil.copytree(folder, copy)
        pair = zip(copies, points[first : first + 2], strict=True)
        for process, copy in [(WORKER.start(copy, hand.micros, point=point), copy) for copy, point in pair]:
            WORKER.die(process)
            with project_at(copy, hand) as store:
                assert told(store) == before
                assert store.admin.maintain(retention="1us")[0].files_after == 2
                assert told(store) == before
                # Whatever was left: with time it goes.
                old = (utc_now() - timedelta(days=2)).timestamp()
                files = list((copy / ".featurestore" / "offline").glob("*/*/*/_bucket=*/*.parquet"))
                for path in files:
                    os.utime(path, (old, old))
                store.admin.maintain(retention="1us")
                assert sum(path.exists() for path in files) == 1
                assert told(store) == before
            shutil.rmtree(copy)


def calls_of(folder: Path, hand: FakeClock) -> int:
    with materialized(folder, hand):
        pass
    hand.micros += DAY
    return WORKER.run(folder, hand.micros)


@pytest.mark.slow
def test_s17_killed_half_way_and_repeated(tmp_path: Path, hand: FakeClock) -> None:
    kill_and_repeat(tmp_path / "project", [700, 1100], hand)


@pytest.mark.slow
def test_s17_killed_at_many_points(tmp_path: Path, hand: FakeClock) -> None:
    calls = calls_of(tmp_path / "counted", hand)
    assert calls > 300
    kill_and_repeat(tmp_path / "project", [calls * part // 13 for part in range(1, 13)], hand)


@pytest.mark.parametrize("duration", ["soon", "0s"])
def test_a_retention_that_is_none(duration: str, tmp_path: Path, hand: FakeClock) -> None:
    with project_at(tmp_path, hand) as store, pytest.raises(FeatureStoreError, match="duration"):
        store.admin.maintain(retention=duration)


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path, hand: FakeClock) -> None:
    with materialized(tmp_path, hand, 9) as store, full_disk(0), pytest.raises(OfflineStoreError, match=r"compact .* disk is full"):
        store.admin.maintain()
