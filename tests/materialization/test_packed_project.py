"""A project whose values are packed: all that it does with them, and a store that is given another layout (S15, S16)."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import redis

from featurestore import FeatureStore, FeatureView
from featurestore.errors import OnlineStoreError
from featurestore.materialization.online_repair import OnlineRepair
from featurestore.online.base import Entry, OnlineLayoutError
from featurestore.online.redis import deletion
from featurestore.server.backend import StoreBackend
from featurestore.testing import FakeClock
from tests.materialization.test_lost_online import FEATURES, NOW, SOURCE, THING, opened, rows_of, served, trained
from tests.projects import store_at
from tests.servers.valkey import ValkeyServer

PACK = "?pack=8&entities=64"


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture(autouse=True)
def empty(server: ValkeyServer) -> None:
    with redis.Redis(port=server.port) as client:
        client.flushall()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW + 60_000_000)


@pytest.fixture
def no_mending(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process alone does; what is mended in the background has tests of its own."""
    monkeypatch.setattr(OnlineRepair, "begin", lambda *given: None)


def kinds(server: ValkeyServer) -> dict[bytes, bytes]:
    """Returns the server's keys, and how each lies there; marks are not among them."""
    with redis.Redis(port=server.port) as client:
        return {key: client.type(key) for key in client.scan_iter("*") if not key.endswith(b"/!")}


def test_all_that_a_project_does(tmp_path: Path, server: ValkeyServer, clock: FakeClock) -> None:
    with opened(tmp_path, clock, server.url + PACK) as store:
        store.materialize()
        assert served(store) == trained(store)
        store.push(SOURCE, rows_of(("a", 10, 10.0), ("d", 11, 11.0)))
        assert served(store) == trained(store)
        assert set(kinds(server).values()) == {b"hash"}
        with redis.Redis(port=server.port) as client:  # fields of hashes lose their values where hashes go
            client.delete(*kinds(server))
        assert store.online("newest", [{"k": "a"}]).status == {"x": ["missing"]}
        store.admin.rebuild_online()
        assert served(store) == trained(store)
        store.admin.forget("thing", {"k": "a"})
        assert store.online(FEATURES, [{"k": "a"}]).status["x"] == ["missing"]
        assert served(store) == trained(store)
        assert [finding for finding in store.admin.doctor() if finding.state == "error" and "clock" not in finding.check] == []
        store.admin.delete_project()
    with redis.Redis(port=server.port) as client:
        assert client.dbsize() == 0


def test_a_value_whose_ttl_is_over_is_expired_and_then_swept(tmp_path: Path, server: ValkeyServer, clock: FakeClock) -> None:
    """The store judges by the server's clock, the reader by its own."""

    class Brief(FeatureView, entity=THING, source=SOURCE, ttl="1m"):
        x: float

    with store_at(tmp_path, clock, online=server.url + PACK) as store:
        store.apply([Brief])
        store.materialize()
        assert store.online(Brief, [{"k": "a"}]).status == {"x": ["present"]}
        clock.micros += 120_000_000
        assert store.online(Brief, [{"k": "a"}]).status == {"x": ["expired"]}
        with redis.Redis(port=server.port) as client:
            [name] = [name for name in kinds(server) if client.hexists(name, b"{\xa1a}")]
            ending = client.hget(name, b"{\xa1a}")
            left = int.from_bytes(ending[:6], "big") / 1000 - int(client.time()[0])
            assert abs(left - timedelta(days=1).total_seconds()) < 120  # a day more, so that it can be told from missing
            client.hset(name, b"{\xa1a}", (2**40).to_bytes(6, "big") + ending[6:])
        store.push(SOURCE, rows_of(("b", 110, 1.0)))
        assert store.components.online.sweep() == 1
        assert store.online(Brief, [{"k": "a"}]).status == {"x": ["missing"]}


@pytest.mark.parametrize(("before", "after"), [("", PACK), (PACK, ""), (PACK, "?pack=8&entities=6400")])
@pytest.mark.usefixtures("no_mending")
def test_values_of_another_layout_are_never_silently_missing(
    tmp_path: Path, server: ValkeyServer, clock: FakeClock, before: str, after: str
) -> None:
    with opened(tmp_path, clock, server.url + before) as former:
        former.materialize()
        values = served(former)
        assert values == trained(former)
        with opened(tmp_path, clock, server.url + after) as present:
            uses: list[Callable[[], object]] = [
                lambda: served(present),
                lambda: present.push(SOURCE, rows_of(("a", 20, 20.0))),
                lambda: present.admin.forget("thing", {"k": "unknown"}),
                lambda: StoreBackend(present).check()["online"],
            ]
            for use in uses[:-1]:
                with pytest.raises(OnlineLayoutError, match="featurestore materialize --rebuild-online"):
                    use()
            assert isinstance(uses[-1](), OnlineLayoutError)
            assert any("--rebuild-online" in finding.message for finding in present.admin.doctor() if finding.state == "error")
            assert served(former) == values
            present.admin.rebuild_online()
            assert served(present) == trained(present)
            present.push(SOURCE, rows_of(("b", 30, 30.0)))
            assert served(present) == trained(present)
            with pytest.raises(OnlineLayoutError):
                former.push(SOURCE, rows_of(("b", 31, 31.0)))
            with pytest.raises(OnlineLayoutError):
                former.components.online.delete(b"test/", keys=[b"test/of the other layout"])
            former.components.catalog_cache.refresh()  # as a thread does every few seconds
            with pytest.raises(OnlineLayoutError):
                served(former)
            with pytest.raises(OnlineLayoutError):
                former.admin.forget("thing", {"k": "b"})  # which counts as interrupted
            present.admin.forget("thing", {"k": "b"})
            assert present.online(FEATURES, [{"k": "b"}]).status["x"] == ["missing"]
            present.materialize()
            assert served(present) == trained(present)
            assert set(kinds(server).values()) == ({b"hash"} if after else {b"string"})
            assert all(b"#%d{" % (3 if after == PACK else 10) in name for name in kinds(server) if after)


@pytest.mark.parametrize("options", ["", PACK])
def test_a_retired_version_is_deleted_by_name_from_a_large_server(
    tmp_path: Path, server: ValkeyServer, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    """S17: nothing of it stays, and nothing else goes."""

    class Newest(FeatureView, entity=THING, source=SOURCE):
        x: int

    with opened(tmp_path, clock, server.url + options) as store:
        store.materialize()
        store.push(SOURCE, rows_of(("e", 20, 20.0)))
        store.apply([Newest, FEATURES[0]], allow_breaking=True)
        store.materialize()
        clock.micros += int(timedelta(days=60).total_seconds()) * 1_000_000
        names = kinds(server)
        old = {name for name in names if b"/newest/1/" in name}
        assert old
        monkeypatch.setattr(deletion, "_LOOKED_THROUGH", 0)
        with redis.Redis(port=server.port) as client:
            client.config_resetstat()
            [retired] = [done for done in store.admin.maintain() if done.kind == "retired"]
            scans = client.info("commandstats").get("cmdstat_scan", {"calls": 0})["calls"]
        assert retired.deleted == 4
        assert options or scans == 0
        assert set(kinds(server)) == set(names) - old
        space = f"{store.components.watched_online.space()}/".encode()
        store.components.online.write([Entry(space + b"newest/3/{stray}", b"of no history")])
        assert store.admin.delete_project()
    with redis.Redis(port=server.port) as client:
        assert client.dbsize() == 0


def test_a_store_that_cannot_be_reached_is_no_other_layout(tmp_path: Path, clock: FakeClock) -> None:
    with ValkeyServer() as server, opened(tmp_path, clock, server.url + PACK) as store:
        server.stop()
        with pytest.raises(OnlineStoreError, match="Is it running"):
            served(store)
        server.start()
        assert store.online(FEATURES, [{"k": "a"}]).status["x"] == ["missing"]


def test_the_setting_is_shown_without_its_password(tmp_path: Path, clock: FakeClock) -> None:
    with FeatureStore(tmp_path, project="p", online="redis://:secret@127.0.0.1:1/0?pack=64", clock=clock) as store:
        assert "secret" not in repr(store.admin.doctor())
