"""An online store that lost data: it is noticed, and nothing is joined to what is left of it (S15, S16)."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest
import redis

from featurestore import Entity, FeatureStore, FeatureView, FrameSource, count, sum_
from featurestore.clock import from_micros
from featurestore.errors import OnlineStoreError
from featurestore.materialization.online_repair import OnlineRepair
from featurestore.online.base import Entry
from featurestore.online.lmdb.store import LMDBStore
from featurestore.server.backend import StoreBackend
from featurestore.testing import FakeClock
from tests.effort import few
from tests.projects import INSTANT, store_at
from tests.servers.valkey import ValkeyServer, wait_until

T0 = datetime(2026, 1, 1, tzinfo=UTC)
NOW = int(T0.timestamp()) * 1_000_000
THING = Entity("thing", k=str)


def rows_of(*rows: tuple[str, int, float]) -> pl.DataFrame:
    """Rows of an entity, so many seconds after the beginning, with a value."""
    frame = pl.DataFrame(list(rows), schema={"k": pl.String, "at": pl.Int64, "x": pl.Float64}, orient="row")
    return frame.with_columns((pl.col("at") * 1_000_000 + NOW).cast(INSTANT))


SOURCE = FrameSource("rows", rows_of(("a", 1, 1.0), ("a", 2, 2.0), ("b", 3, 3.0), ("c", 4, 4.0)), event_time="at")


class Sums(FeatureView, entity=THING, source=SOURCE):
    n: int = count().over("7d")
    total: float = sum_("x").over("7d")


class Newest(FeatureView, entity=THING, source=SOURCE):
    x: float


FEATURES = [Sums, Newest]


class Fate(NamedTuple):
    """What becomes of an online store: where it is, what happens before the last write, how it is lost and where it is then."""

    address: str
    before: Callable[[], object]
    lose: Callable[[], str]


def _lmdb(folder: Path, how: str) -> Iterator[Fate]:
    online, copy = folder / "online", folder / "copy"

    def lose() -> str:
        if how == "one file":
            (online / "data.mdb").unlink()
        else:
            shutil.rmtree(online)
        if how == "put back from a copy":
            shutil.copytree(copy, online)
        return f"lmdb:{online}"

    yield Fate(f"lmdb:{online}", lambda: shutil.copytree(online, copy), lose)


def _valkey(how: str) -> Iterator[Fate]:
    with ValkeyServer() as server, redis.Redis(port=server.port) as client:

        def lose() -> str:
            if how == "FLUSHALL":
                client.flushall()
            elif how == "its mark evicted":
                client.delete(*client.keys("*/!"), *client.keys("*/sums/*"))
            elif how == "restarted from a snapshot":
                server.restart(kill=True)
            else:
                (server.folder / "dump.rdb").unlink()
                server.restart(kill=True)
            return server.url

        yield Fate(server.url, client.save, lose)


def _failed_over() -> Iterator[Fate]:
    with ValkeyServer() as primary, ValkeyServer() as replica, redis.Redis(port=replica.port) as client:
        client.execute_command("REPLICAOF", "127.0.0.1", primary.port)
        wait_until(lambda: client.info("replication")["master_link_status"] == "up", "the replica does not come up")

        def fall_behind() -> None:
            wait_until(lambda: client.dbsize() > 3, "the replica got nothing")
            client.execute_command("REPLICAOF", "127.0.0.1", "1")  # where nobody is: what it has it keeps

        def lose() -> str:
            primary.stop(kill=True)
            client.execute_command("REPLICAOF", "NO", "ONE")
            return replica.url

        yield Fate(primary.url, fall_behind, lose)


LMDB = ["the folder deleted", "one file", "put back from a copy"]
VALKEY = ["FLUSHALL", "restarted empty", "restarted from a snapshot", "its mark evicted", "failed over"]


@pytest.fixture(
    params=few(
        [f"lmdb: {how}" for how in LMDB] + [f"valkey: {how}" for how in VALKEY], ["lmdb: one file", "valkey: restarted empty"]
    )
)
def fate(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fate]:
    store, _, how = request.param.partition(": ")
    yield from _lmdb(tmp_path, how) if store == "lmdb" else _failed_over() if how == "failed over" else _valkey(how)


@pytest.fixture(autouse=True)
def nobody_mends(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process alone does; what is mended in the background is in test_mending."""
    monkeypatch.setattr(OnlineRepair, "begin", lambda *given: None)


def opened(folder: Path, clock: FakeClock, address: str | None = None) -> FeatureStore:
    """Opens the project, where the definitions are at hand."""
    store = store_at(folder, clock, online=address)
    store.apply(FEATURES)
    return store


def served(store: FeatureStore) -> list[dict[str, Any]]:
    return store.online(FEATURES, [{"k": k} for k in "abcd"]).to_dicts()


def trained(store: FeatureStore) -> list[dict[str, Any]]:
    spine = pl.DataFrame({"k": list("abcd"), "t": [store.components.clock()] * 4})
    return store.training_frame(spine, FEATURES, time="t").drop("t").to_dicts()


def test_s15_what_is_pushed_after_a_loss_is_computed_from_the_history(tmp_path: Path, fate: Fate) -> None:
    clock = FakeClock(NOW + 60_000_000)
    with opened(tmp_path / "p", clock, fate.address) as store:
        store.materialize()
        assert StoreBackend(store).check()["online"]
        assert served(store) == trained(store)
    fate.before()
    with opened(tmp_path / "p", clock, fate.address) as store:
        store.push(SOURCE, rows_of(("a", 10, 10.0), ("b", 11, 11.0)))
        assert served(store) == trained(store)
    address = fate.lose()
    with opened(tmp_path / "p", clock, address) as store, opened(tmp_path / "p", clock, address) as other:
        # A newer event of one, a late one of another: of neither is there what was before.
        store.push(SOURCE, rows_of(("a", 20, 20.0), ("c", 2, 2.0), ("d", 5, 5.0)))
        expected = {row["k"]: row for row in trained(store)}
        found = {row["k"]: row for row in served(store)}
        assert [found[k] for k in "acd"] == [expected[k] for k in "acd"]
        assert expected["a"] == {"k": "a", "n": 4, "total": 33.0, "x": 20.0}
        for each in (store, other):
            told = StoreBackend(each).check()["online"]
            assert isinstance(told, OnlineStoreError), told
            assert "--rebuild-online newest sums" in str(told)
        assert [each.check for each in store.admin.doctor() if each.state == "error" and "materialize" in each.message] == [
            "online store"
        ]
        other.materialize()
        for each in (store, other):
            assert not isinstance(StoreBackend(each).check()["online"], OnlineStoreError)
            assert served(each) == trained(each)
        # And joined to again, by whoever knew of the loss.
        store.push(SOURCE, rows_of(("b", 30, 30.0)))
        assert served(other) == trained(other)


def test_s15_a_loss_is_noticed_by_who_looks_and_by_a_run_that_has_nothing_to_write(tmp_path: Path) -> None:
    clock = FakeClock(NOW + 60_000_000)
    with ValkeyServer() as server, redis.Redis(port=server.port) as client, opened(tmp_path, clock, server.url) as store:
        store.materialize()
        client.flushall()
        assert isinstance(StoreBackend(store).check()["online"], OnlineStoreError)
        found = store.admin.doctor(repair=True)
        assert [each for each in found if each.state == "error" and not each.check.startswith("clock:")] == []
        assert served(store) == trained(store)
        client.flushall()
        store.materialize()
        assert served(store) == trained(store)
        client.flushall()
        assert store.admin.rebuild_online() == {"sums": 3, "newest": 3}
        assert not isinstance(StoreBackend(store).check()["online"], OnlineStoreError)


def test_s15_a_value_that_was_lost_alone_is_not_joined_to(tmp_path: Path) -> None:
    clock = FakeClock(NOW + 60_000_000)
    with ValkeyServer() as server, redis.Redis(port=server.port) as client, opened(tmp_path, clock, server.url) as store:
        store.materialize()
        client.delete(*client.keys("*/sums/*"))
        store.push(SOURCE, rows_of(("a", 20, 20.0)))
        assert served(store)[0] == trained(store)[0]


def test_two_projects_of_one_name_on_one_server_have_nothing_to_do_with_each_other(tmp_path: Path) -> None:
    clock = FakeClock(NOW + 60_000_000)

    def define(value: Any) -> tuple[FrameSource, type[FeatureView]]:
        rows = pl.DataFrame({"k": ["a", "b"], "at": [from_micros(NOW)] * 2, "x": [value, value]})
        source = FrameSource("rows", rows, event_time="at")
        body = {"__annotations__": {"x": type(value)}, "__module__": __name__}
        return source, type("Weather", (FeatureView,), body, entity=THING, source=source)

    with ValkeyServer() as server:
        stores = [store_at(tmp_path / name, clock, online=server.url, project="default") for name in "xy"]
        one, other = stores
        (source, number), (_, text) = define(1.5), define("text")
        one.apply([number])
        other.apply([text])
        assert one.materialize()[0].rows_online == other.materialize()[0].rows_online == 2
        assert one.online("weather", [{"k": "a"}]).to_polars()["x"].to_list() == [1.5]
        assert other.online("weather", [{"k": "a"}]).to_polars()["x"].to_list() == ["text"]
        other.admin.forget("thing", {"k": "a"})
        assert one.online("weather", [{"k": "a"}]).to_dicts() == [{"k": "a", "x": 1.5}]
        one.push(source, pl.DataFrame({"k": ["b"], "at": [from_micros(NOW + 1)], "x": [2.5]}))
        assert other.online("weather", [{"k": "b"}]).to_dicts() == [{"k": "b", "x": "text"}]
        other.admin.delete_project()
        assert one.online("weather", [{"k": "a"}, {"k": "b"}]).to_dicts() == [{"k": "a", "x": 1.5}, {"k": "b", "x": 2.5}]
        for store in stores:
            store.close()


def test_a_registry_that_was_lost_and_made_again_reads_nothing_of_the_former_one(tmp_path: Path) -> None:
    clock = FakeClock(NOW + 60_000_000)
    with ValkeyServer() as server:
        with opened(tmp_path, clock, server.url) as store:
            store.materialize()
            before = served(store)
        (tmp_path / ".featurestore" / "registry.db").unlink()
        with opened(tmp_path, clock, server.url) as store:
            assert [row["n"] for row in served(store)] == [0, 0, 0, 0]
            store.materialize()
            assert served(store) == before == trained(store)


def test_a_project_of_before_marks_and_ids_is_told_and_filled_by_the_next_run(tmp_path: Path) -> None:
    clock = FakeClock(NOW + 60_000_000)
    with opened(tmp_path, clock) as store:
        store.materialize()
        # As the version before left it: keys without an id, values without a checksum, a registry without either.
        space, online = store.components.watched_online.space(), store.components.online
        keys = [f"{space}/newest/1/{{".encode() + b"\xa1%b}" % k for k in (b"a", b"b", b"c")]
        values = online.read(keys)
        online.delete(f"{space}/".encode())
        with store.components.registry.database.writing() as connection:
            connection.execute(store.components.registry.database.tables.online.delete())
    with closing(LMDBStore(tmp_path / ".featurestore" / "online")) as bare:
        old = [key.replace(space.encode(), b"test") for key in keys]
        bare.write([Entry(key, value[:-5]) for key, value in zip(old, values, strict=True) if value])
    with opened(tmp_path, clock) as store:
        told = StoreBackend(store).check()["online"]
        assert isinstance(told, OnlineStoreError)
        assert "--rebuild-online newest sums" in str(told)
        store.push(SOURCE, rows_of(("a", 20, 20.0)))
        assert served(store)[0] == trained(store)[0]
        store.materialize()
        assert served(store) == trained(store)
        assert not isinstance(StoreBackend(store).check()["online"], OnlineStoreError)
        # Whoever is forgotten is gone from what nobody reads any more, too.
        store.admin.forget("thing", {"k": "b"})
        assert store.components.online.read(old) == [values[0][:-5], None, values[2][:-5]]


def test_s14_a_longer_ttl_keeps_what_is_unchanged_for_longer(tmp_path: Path) -> None:
    clock = FakeClock(NOW + 60_000_000)

    def define(ttl: str) -> type[FeatureView]:
        body = {"__annotations__": {"x": float}, "__module__": __name__}
        return type("Brief", (FeatureView,), body, entity=THING, source=SOURCE, ttl=ttl)

    with ValkeyServer() as server, redis.Redis(port=server.port) as client, store_at(tmp_path, clock, online=server.url) as store:
        store.apply([define("1h")])
        store.materialize()
        [key, *_] = client.keys("*/brief/*")
        assert client.pttl(key) < timedelta(days=2).total_seconds() * 1000
        store.apply([define("30d")])
        assert not isinstance(StoreBackend(store).check()["online"], OnlineStoreError)  # nothing is wrong as yet
        store.materialize()
        assert client.pttl(key) > timedelta(days=29).total_seconds() * 1000


@pytest.mark.parametrize("late", [1, 3600, 86_400 * 5])
def test_s15_a_late_row_behind_one_that_was_swept_changes_nothing(tmp_path: Path, late: int) -> None:
    clock = FakeClock(NOW)

    class Brief(FeatureView, entity=THING, source=SOURCE, ttl="1h"):
        x: float

    with store_at(tmp_path, clock) as store:
        store.apply([Brief])
        store.push(SOURCE, rows_of(("a", 0, 1.0), ("b", 0, 1.0)))
        clock.micros += 3 * 86_400_000_000
        store.push(SOURCE, rows_of(("b", 3 * 86_400, 2.0)))
        store.components.online.sweep()
        assert store.online(Brief, [{"k": "a"}]).status == {"x": ["missing"]}
        store.push(SOURCE, rows_of(("a", -late, 2.0), ("b", -late, 3.0), ("c", -late, 4.0)))
        found = store.online(Brief, [{"k": k} for k in "abc"])
        assert found.status == {"x": ["missing", "present", "expired"]}
        # The only row of an entity is its winner, however late it comes.
        assert found.event_time["brief"] == [None, from_micros(clock.micros), from_micros(NOW - late * 1_000_000)]
