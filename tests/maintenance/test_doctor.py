"""The doctor finds what is wrong, says what to do, and repairs what follows from the history; teardown leaves the others alone."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
import redis

from featurestore import Entity, FeatureStore, FeatureView, sum_
from featurestore.clock import from_micros, to_micros, utc_now
from featurestore.definitions.source import Source
from featurestore.maintenance.doctor import DoctorReport, check_clock, check_room
from featurestore.registry.leases import Leases
from featurestore.testing import FakeClock
from tests.oracle import Row
from tests.projects import frame_of, parquet_of, store_at, view_of

KEYS = {"k": str}
"""What the views of a project are by."""


def rows(now: int, count: int = 60) -> pl.DataFrame:
    """Rows until lately."""
    made = [
        Row((f"k{at % 7}",), now - 60_000_000 * (count - at), now - 60_000_000 * (count - at), (float(at),)) for at in range(count)
    ]
    return frame_of(made, dict.fromkeys(KEYS, pl.String), {"x": pl.Float64})


def windowed_view(source: Source) -> type[FeatureView]:
    """A view of a window, which changes as time passes."""

    class W(FeatureView, entity=Entity("entity_w", **KEYS), source=source):
        total: float = sum_("x").over("30m")

    return W


@pytest.fixture(params=["lmdb", "valkey"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FeatureStore]:
    """A project of two views, in order."""
    online = request.getfixturevalue("valkey_url") if request.param == "valkey" else None
    now = to_micros(utc_now())
    source = parquet_of(tmp_path / "data", [rows(now)])
    with store_at(tmp_path / "project", utc_now, online=online, project=f"doctor-{request.param}-{tmp_path.name}") as made:
        made.apply([view_of(source, KEYS, {"x": float | None}, freshness="1h"), windowed_view(source)])
        made.materialize()
        yield made


def wrong(found: DoctorReport) -> dict[str, str]:
    return {each.check: each.message for each in found if each.state == "error"}


def test_a_project_in_order_is_well(store: FeatureStore) -> None:
    found = store.admin.doctor()
    assert found.is_well, found
    checks = {each.check for each in found}
    assert checks >= {"settings", "versions", "folder: history", "disk: history", "registry", "online store", "source: rows"}
    assert checks >= {"runs: v", "history: v", "online: v", "online: w", "freshness: v"}
    assert found.summary in repr(found)
    assert found.to_dict()["well"] is True


def test_values_that_were_lost_online_are_found_and_written_anew(store: FeatureStore) -> None:
    for view in store.components.views(None):
        store.components.online.delete(f"{store.components.watched_online.space()}/{view.spec.name}/".encode())
    found = store.admin.doctor()
    assert wrong(found) == {
        **{f"online: {view}": "7 of 7 entities have other values than the history makes of them" for view in "vw"},
        **{f"online values: {view}": "of 7 entities 7 have no value" for view in "vw"},
    }
    assert not found.is_well
    assert all("--rebuild-online" in each.advice for each in found if each.state == "error")
    assert store.admin.doctor(repair=True).is_well


def test_a_history_that_was_lost_is_found(store: FeatureStore) -> None:
    [applied] = store.components.views(["v"])
    store.components.offline.drop(store.components.table(applied))
    assert wrong(store.admin.doctor()) == {
        "history: v": "run 1 is done by the registry, but the history has none",
        "freshness: v": "there is no event, promised to be at most 1h old",
    }


def test_an_interrupted_run_is_told_and_completed(store: FeatureStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def killed(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    later = rows(to_micros(utc_now()), 70)[60:]
    later.write_parquet(tmp_path / "data" / "1.parquet")
    with monkeypatch.context() as patch:
        patch.setattr(store.components.offline, "commit", killed)
        with pytest.raises(KeyboardInterrupt):
            store.materialize(["v"])
    assert [each.check for each in store.admin.doctor() if "under way, or was interrupted" in each.message] == ["runs: v"]
    repaired = store.admin.doctor(repair=True)
    assert "run 2 is completed" in [each.message for each in repaired]
    assert store.sql("from v").height == 70


def test_a_failed_run_an_old_event_and_a_lost_lease_are_told(tmp_path: Path) -> None:
    clock = FakeClock(to_micros(utc_now()))
    source = parquet_of(tmp_path / "data", [rows(clock.micros)])
    with store_at(tmp_path / "project", clock) as store:
        store.apply([view_of(source, KEYS, {"x": float | None}, freshness="1h")])
        assert "it was never materialized" in [each.message for each in store.admin.doctor()]
        store.materialize()
        leases = Leases(store.components.registry)
        assert leases.acquire("v", "somebody", 30) is not None
        run = store.components.ledger.begin("v", 1, 2, {"chunks": [], "cursor": {}})
        store.components.ledger.update(run, state="failed", error="the disk was full")
        clock.micros += 2 * 3_600_000_000
        found = store.admin.doctor()
        assert wrong(found)["runs: v"] == "run 2 failed: the disk was full"
        assert wrong(found)["freshness: v"] == "the latest event is 7,260 s old, promised to be at most 1h old"
        assert "its holder ended without releasing it" in [each.message for each in found if each.check == "lease: v"]
        assert wrong(found)["clock: history"].startswith("differs from this process's by 7")
        assert leases.acquire("v", "another", 30) is not None


def test_what_is_not_applied_and_what_cannot_be_reached_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    (folder / "definitions").mkdir(parents=True)
    definitions = folder / "definitions" / "users.py"
    definitions.write_text(
        "from featurestore import *\n"
        "source = ParquetSource('s', '../gone/*', event_time='at')\n"
        "class V(FeatureView, entity=Entity('user', user=str), source=source):\n    x: int\n"
    )
    with store_at(folder, utc_now, online="redis://127.0.0.1:1") as store:
        found = store.admin.doctor()
        assert next(each.state for each in found if each.check == "definitions") == "warning"
        assert "The online store at redis://127.0.0.1:1 failed" in wrong(found)["online store"]
        definitions.write_text("nonsense(")
        assert "definitions" in wrong(store.admin.doctor())
    definitions.unlink()
    (folder / "file").write_text("")
    with store_at(folder, utc_now, offline="file") as store:
        assert "cannot be written to" in wrong(store.admin.doctor())["folder: history"]


def test_an_online_store_that_cannot_be_opened_is_a_finding_among_the_others(tmp_path: Path) -> None:
    """The doctor ended with the store's error, and found nothing else."""
    source = parquet_of(tmp_path / "data", [rows(to_micros(utc_now()))])
    with store_at(tmp_path / "project", utc_now) as store:
        store.apply([view_of(source, KEYS, {"x": float | None})])
        store.materialize()
    data = tmp_path / "project" / ".featurestore" / "online" / "data.mdb"
    data.write_bytes(data.read_bytes()[:4096])
    with store_at(tmp_path / "project", utc_now) as store:
        for repair in (False, True):
            found = store.admin.doctor(repair=repair)
            assert all("its file was cut short" in told for told in wrong(found).values())
            assert {"online store", "online: v", "online values: v"} <= wrong(found).keys()
            assert {each.check for each in found if each.state == "ok"} >= {"registry", "history: v", "source: rows"}


def test_a_server_that_may_lose_values_is_told(valkey_server: object, tmp_path: Path) -> None:
    from tests.servers.valkey import ValkeyServer

    with ValkeyServer("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru") as server:
        with store_at(tmp_path, utc_now, online=server.url) as store:
            told = [each.message for each in store.admin.doctor() if each.check == "online store" and each.state == "warning"]
        assert any("maxmemory-policy is allkeys-lru" in each for each in told)
        assert any("after a restart its values are gone" in each for each in told)


def test_the_servers_of_a_project_on_postgresql_are_examined(postgres_url: str, valkey_url: str, tmp_path: Path) -> None:
    with store_at(tmp_path, utc_now, registry=postgres_url, online=valkey_url, project="doctor-postgres") as store:
        found = {each.check: each for each in store.admin.doctor()}
        assert found["registry"].message.startswith("PostgreSQL ")
        assert found["clock: registry"].state == found["clock: online store"].state == "ok"
        store.admin.delete_project()


def test_clocks_and_disks_are_judged() -> None:
    now = from_micros(0)
    states = [check_clock("x", now + timedelta(seconds=each), now).state for each in (0, -1.9, 3, -30, 61)]
    assert states == ["ok", "ok", "warning", "warning", "error"]
    gib = 1 << 30
    assert [check_room("x", free, 100 * gib).state for free in (50 * gib, 4 * gib, gib // 2, gib // 20)] == [
        "ok", "warning", "warning", "error",
    ]  # fmt: skip


def test_a_teardown_leaves_nothing_of_a_project_and_all_of_another(postgres_url: str, valkey_url: str, tmp_path: Path) -> None:
    now = to_micros(utc_now())
    source = parquet_of(tmp_path / "data", [rows(now)])
    stores = [
        store_at(tmp_path, utc_now, registry=postgres_url, online=valkey_url, offline="history", project=f"teardown{name}")
        for name in ("", "-other")
    ]
    for store in stores:
        store.apply([view_of(source, KEYS, {"x": float | None})])
        store.materialize()
        store.admin.forget("entity_v", {"k": "k0"})
    one, other = stores
    with redis.Redis.from_url(valkey_url) as server:
        theirs = {key: server.get(key) for key in server.scan_iter("teardown-other/*")}
        counted = one.admin.delete_project(dry_run=True)
        assert one.sql("from v").height > 0
        report = one.admin.delete_project()
        assert {each.name: each.count for each in counted if each.place != "online store"} == {
            each.name: each.count for each in report if each.place != "online store"
        }
        assert {each.name: each.count for each in report}["values"] == 6
        assert {"spec", "run", "tombstone", "secret", "project"} <= {each.name for each in report}
        assert list(server.scan_iter("teardown/*")) == []
        assert {key: server.get(key) for key in server.scan_iter("teardown-other/*")} == theirs
        assert len(theirs) == 6 + 1  # its values, and a mark
    assert not (tmp_path / "history" / "teardown").exists()
    assert one.catalog.views == {}
    assert list(one.admin.delete_project()) == []
    one.apply([view_of(source, KEYS, {"x": float | None})])
    assert one.materialize()[0].rows_written == 60
    assert other.admin.doctor().is_well
    assert other.sql("from v").height == 60 - 9
    for store in stores:
        store.admin.delete_project()
        store.close()
