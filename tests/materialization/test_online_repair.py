"""What the online store lost is written again before the next run of each view is due (S15)."""

from pathlib import Path

import pytest
import redis

from featurestore import FeatureStore
from featurestore.errors import OnlineStoreError
from featurestore.offline.delta import sequence
from featurestore.offline.delta.table import open_state
from featurestore.registry.leases import Leases
from featurestore.server.backend import StoreBackend
from featurestore.testing import FakeClock
from tests.materialization.test_lost_online import FEATURES, NOW, SOURCE, opened, rows_of, served, trained
from tests.servers.valkey import ValkeyServer, wait_until


def is_well(store: FeatureStore) -> bool:
    return not isinstance(StoreBackend(store).check()["online"], OnlineStoreError)


@pytest.mark.parametrize("how", ["restarted with all it had", "emptied"])
@pytest.mark.parametrize("noticed", ["by a readiness check", "by a push", "by a scheduler"])
def test_s15_a_loss_is_mended_in_the_background_by_who_notices_it(tmp_path: Path, how: str, noticed: str) -> None:
    clock = FakeClock(NOW + 60_000_000)
    with ValkeyServer() as server, redis.Redis(port=server.port) as client, opened(tmp_path, clock, server.url) as store:
        store.materialize()
        if how == "emptied":
            client.flushall()
        else:
            client.save()
            server.restart(kill=True)
        if noticed == "by a readiness check":
            assert isinstance(StoreBackend(store).check()["online"], OnlineStoreError)  # and nobody runs or pushes anything
        elif noticed == "by a push":
            store.push(SOURCE, rows_of(("a", 20, 20.0)))
        else:
            store.scheduler.create().once()  # no view has a schedule
        wait_until(lambda: not store.components.watched_online.look(), "nobody mends it")
        assert is_well(store)
        assert served(store) == trained(store)
        store.push(SOURCE, rows_of(("b", 21, 20.0)))
        assert served(store) == trained(store)


def test_of_several_that_notice_a_loss_one_mends_and_an_end_is_waited_for(tmp_path: Path) -> None:
    clock = FakeClock(NOW + 60_000_000)
    with ValkeyServer() as server, redis.Redis(port=server.port) as client:
        with opened(tmp_path, clock, server.url) as store, opened(tmp_path, clock, server.url) as other:
            store.materialize()
            client.flushall()
            leases = Leases(store.components.registry)
            lease = leases.acquire("mend:online", "another", 60)
            assert lease is not None
            other.components.online_repair.run()
            assert other.components.watched_online.doubts()
            leases.release(lease)
            for each in (store, other):
                StoreBackend(each).check()
        # Closed at once: what was written stands, and whoever looks next goes on.
        with opened(tmp_path, clock, server.url) as store:
            store.components.online_repair.run()
            assert is_well(store)
            assert store.online(FEATURES, [{"k": "a"}]).to_dicts() == [{"k": "a", "n": 2, "total": 3.0, "x": 2.0}]


@pytest.mark.parametrize("ran", [False, True])
def test_s17_a_run_without_the_online_store_adds_to_the_history(tmp_path: Path, ran: bool) -> None:
    clock = FakeClock(NOW + 60_000_000)
    with ValkeyServer() as server, opened(tmp_path, clock, server.url) as store:
        if ran:
            store.materialize()
            store.push(SOURCE, rows_of(("e", 30, 1.0)))  # which the next run takes into the table
        server.stop(kill=True)
        for view in ("sums", "newest"):
            with pytest.raises(OnlineStoreError):
                store.materialize([view])
        assert [store.runs.list(view)[0].state for view in ("sums", "newest")] == ["committed"] * 2
        assert store.sql("select count(*) as n from newest")["n"].to_list() == [5 if ran else 4]
        server.start()
        store.materialize()
        assert is_well(store)
        assert served(store) == trained(store)


def test_a_push_of_a_new_entity_does_not_open_the_table_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock(NOW + 60_000_000)
    with opened(tmp_path, clock) as store:
        store.materialize()
        store.push(SOURCE, rows_of(("new", 20, 20.0)))
        opens: list[Path] = []
        monkeypatch.setattr(sequence, "open_state", lambda folder, before: opens.append(folder) or open_state(folder, before))
        for number in range(3):
            store.push(SOURCE, rows_of((f"newer{number}", 20, 20.0)))
        assert opens == []
        store.materialize()  # whoever commits is seen
        store.push(SOURCE, rows_of(("a", 25, 20.0)))
        assert opens
        assert served(store) == trained(store)
