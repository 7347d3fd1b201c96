"""What the online store lost is written again before the next run of each view is due (S15)."""

from pathlib import Path

import pytest
import redis

from featurestore import FeatureStore
from featurestore.errors import OnlineStoreError
from tests.jobs.test_lost_online import FEATURES, NOW, SOURCE, opened, rows_of, served, trained
from tests.projects import Hand
from tests.servers.valkey import ValkeyServer, wait_until


def is_well(store: FeatureStore) -> bool:
    return not isinstance(store.check()["online"], OnlineStoreError)


@pytest.mark.parametrize("how", ["restarted with all it had", "emptied"])
@pytest.mark.parametrize("noticed", ["by a readiness check", "by a push", "by a scheduler"])
def test_s15_a_loss_is_mended_in_the_background_by_who_notices_it(tmp_path: Path, how: str, noticed: str) -> None:
    clock = Hand(NOW + 60_000_000)
    with ValkeyServer() as server, redis.Redis(port=server.port) as client, opened(tmp_path, clock, server.url) as store:
        store.materialize()
        if how == "emptied":
            client.flushall()
        else:
            client.save()
            server.restart(kill=True)
        if noticed == "by a readiness check":
            assert isinstance(store.check()["online"], OnlineStoreError)  # and nobody runs or pushes anything
        elif noticed == "by a push":
            store.push(SOURCE, rows_of(("a", 20, 20.0)))
        else:
            store.scheduler().once()  # no view has a schedule
        wait_until(lambda: not store._watched.look(), "nobody mends it")
        assert is_well(store)
        assert served(store) == trained(store)
        store.push(SOURCE, rows_of(("b", 21, 20.0)))
        assert served(store) == trained(store)


def test_of_several_that_notice_a_loss_one_mends_and_an_end_is_waited_for(tmp_path: Path) -> None:
    clock = Hand(NOW + 60_000_000)
    with ValkeyServer() as server, redis.Redis(port=server.port) as client:
        with opened(tmp_path, clock, server.url) as store, opened(tmp_path, clock, server.url) as other:
            store.materialize()
            client.flushall()
            lease = store._mending._leases.acquire("mend:online", "another", 60)
            assert lease is not None
            other._mending.run()
            assert other._watched.doubts()
            store._mending._leases.release(lease)
            for each in (store, other):
                each.check()
        # Closed at once: what was written stands, and whoever looks next goes on.
        with opened(tmp_path, clock, server.url) as store:
            store._mending.run()
            assert is_well(store)
            assert store.online(FEATURES, [{"k": "a"}]).to_dicts() == [{"k": "a", "n": 2, "total": 3.0, "x": 2.0}]
