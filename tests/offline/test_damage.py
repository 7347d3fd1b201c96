"""Damaged files and full disks are told for what they are, with what to do; readers beside those who delete files go on."""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from deltalake.exceptions import DeltaError

from featurestore import FeatureStore, durable
from featurestore.clock import from_micros
from featurestore.errors import FeatureStoreError, OfflineStoreError
from featurestore.maintenance import doctor
from featurestore.maintenance.check_history import check_access
from featurestore.offline.delta.files import translated
from tests.oracle import Row
from tests.projects import frame_of, parquet_of, store_at, view_of


def rows(first: int, count: int = 20) -> pl.DataFrame:
    made = [Row((f"k{at % 5}",), at, at, (float(at),)) for at in range(first, first + count)]
    return frame_of(made, {"k": pl.String}, {"x": pl.Float64})


@contextmanager
def project(tmp_path: Path) -> Iterator[FeatureStore]:
    with store_at(tmp_path / "project", lambda: from_micros(100_000)) as store:
        store.apply([view_of(parquet_of(tmp_path / "data", [rows(0)]), {"k": str}, {"x": float | None})])
        store.materialize()
        yield store


@pytest.mark.parametrize("query", ["from v", "select count(*) from v", "select k from v where x > 3"])
@pytest.mark.parametrize("damage", [b"", b"PAR1 is how it begins, and it does not end so", b"\0" * 5000])
def test_f24_sql_over_a_damaged_file_is_an_error_of_ours(tmp_path: Path, query: str, damage: bytes) -> None:
    with project(tmp_path) as store:
        [path] = (tmp_path / "project").rglob("_bucket=*/*.parquet")
        path.write_bytes(damage)
        with pytest.raises(OfflineStoreError, match="featurestore doctor"):
            store.sql(query)
        with pytest.raises(OfflineStoreError, match="doctor"):
            store.training_frame({"k": ["k1"], "t": [from_micros(50)]}, "v", time="t")


def test_f24_an_error_of_delta_has_no_backtrace() -> None:
    trace = "Kernel error: Json error: Truncated record\n   0: <unknown>\n  12: start_thread\n             at ./nptl/x.c"
    with pytest.raises(OfflineStoreError) as raised, translated("open", "somewhere"):
        raise DeltaError(trace)
    assert "<unknown>" not in str(raised.value)
    assert "Truncated record" in str(raised.value)


@pytest.mark.parametrize(
    ("number", "advice"), [(errno.ENOSPC, "make room"), (errno.EDQUOT, "make room"), (errno.EACCES, "yours|user's to write")]
)
def test_f24_a_full_disk_is_told_as_one(number: int, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with pytest.raises(OfflineStoreError, match=advice), translated("write", "somewhere"):
        full()
    monkeypatch.setattr(doctor, "TemporaryFile", full)
    [found] = doctor.check_folder("history", tmp_path, lambda: from_micros(0))
    assert (found.state, "oom" in found.advice) == ("error", number != errno.EACCES)


@pytest.mark.parametrize("damage", ["cut", "zeroed", "no database"])
def test_f17_a_damaged_registry_is_found(tmp_path: Path, damage: str) -> None:
    with project(tmp_path) as store:
        for number in range(40):
            store.components.ledger.begin("v", 9, number + 1, {"chunks": [], "cursor": {}, "words": "x" * 2000})
    path = tmp_path / "project" / ".featurestore" / "registry.db"
    whole = path.read_bytes()
    path.write_bytes(
        {
            "cut": whole[: len(whole) // 2],
            "zeroed": whole[:8192] + b"\0" * (len(whole) - 16384) + whole[-8192:],
            "no database": b"this is no database, whatever its name says" * 100,
        }[damage]
    )
    for left in path.parent.glob("registry.db-*"):
        left.unlink()
    with store_at(tmp_path / "project", lambda: from_micros(100_000)) as store:
        told = [each.message + each.advice for each in store.admin.doctor() if each.state == "error" and each.check == "registry"]
        assert told
        assert "backup" in told[0]


@pytest.mark.parametrize("left", ["nothing", "an empty file"])
def test_f17_a_registry_that_is_gone_beside_a_full_history_is_found(tmp_path: Path, left: str) -> None:
    with project(tmp_path):
        pass
    for path in (tmp_path / "project" / ".featurestore").glob("registry.db*"):
        path.unlink()
    if left == "an empty file":
        (tmp_path / "project" / ".featurestore" / "registry.db").touch()
    with store_at(tmp_path / "project", lambda: from_micros(100_000)) as store:
        found = store.admin.doctor()
        assert not found.is_well
        [told] = [each for each in found if each.check == "registry" and each.state == "error"]
        assert "knows nothing of 1 views whose histories are there: 'v'" in told.message
        assert "backup" in told.advice


def test_f29_readers_and_runs_beside_forgetting_and_upkeep_without_retention_go_on(tmp_path: Path) -> None:
    failed: list[FeatureStoreError] = []
    stop = threading.Event()

    def tidy() -> None:
        try:
            with store_at(tmp_path / "project", lambda: from_micros(100_000)) as other:
                for number in range(12):
                    other.admin.maintain(retention=timedelta(0))
                    other.admin.forget("entity_v", {"k": f"nobody{number}"})
        except FeatureStoreError as error:
            failed.append(error)
        finally:
            stop.set()

    with project(tmp_path) as store:
        thread = threading.Thread(target=tidy)
        thread.start()
        number = 0
        while not stop.is_set():
            number += 1
            try:
                rows(1000 * number, 5).write_parquet(tmp_path / "data" / f"{number}.parquet")
                store.materialize()
                store.push("rows", rows(1000 * number + 500, 1))
                assert store.sql("from v").height == 20 + 6 * number
                spine = {"k": ["k1"], "t": [from_micros(99_000)]}
                assert store.training_frame(spine, "v", time="t").height == 1
            except FeatureStoreError as error:
                failed.append(error)
        thread.join()
        assert failed == []
        assert {run.state for run in store.runs.list()} == {"done"}


def test_k11_the_doctor_tells_what_is_open_to_others(tmp_path: Path) -> None:
    durable.make_folders(tmp_path / "kept" / "inner")
    durable.write_file(tmp_path / "kept" / "inner" / "file", b"")
    assert [each.state for each in check_access({"history": tmp_path / "kept"}, 0o700)] == ["ok"]
    (tmp_path / "kept" / "inner" / "file").chmod(0o640)
    [found] = check_access({"history": tmp_path / "kept"}, 0o700)
    assert (found.state, "inner/file" in found.message, "chmod -R go-rwx" in found.advice) == ("warning", True, True)
    assert [each.state for each in check_access({"history": tmp_path / "kept"}, 0o770)] == ["ok"]
    (tmp_path / "kept").chmod(0o755)
    assert [each.state for each in check_access({"history": tmp_path / "kept"}, 0o770)] == ["warning"]
    assert list(check_access({"history": tmp_path / "gone"}, 0o700)) == []
