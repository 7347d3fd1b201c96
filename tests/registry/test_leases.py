"""Leases and fencing, on every database."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from pathlib import Path
from threading import Barrier

import pytest

from featurestore.clock import Clock, to_micros
from featurestore.errors import LeaseLostError
from featurestore.registry.leases import Lease, Leases
from featurestore.registry.ledger import Ledger
from featurestore.registry.specs import SpecRegistry
from featurestore.testing import FakeClock
from tests.registry.conftest import BEGIN

SPAN = {"chunks": [], "cursor": {}}


@pytest.fixture
def clock() -> Clock:
    """A clock that stands where the test puts it."""
    return FakeClock(to_micros(BEGIN))


@pytest.fixture
def hand(clock: FakeClock) -> FakeClock:
    return clock


@pytest.fixture
def leases(registry: SpecRegistry) -> Leases:
    return Leases(registry)


def taken(leases: Leases, holder: str = "one", seconds: float = 30) -> Lease:
    lease = leases.acquire("weather", holder, seconds)
    assert lease is not None
    return lease


def pass_seconds(hand: FakeClock, seconds: float) -> None:
    hand.micros += round(seconds * 1e6)


def test_a_thing_is_held_by_one(leases: Leases, open_registry: Callable[[], SpecRegistry]) -> None:
    lease = taken(leases)
    assert lease == Lease("weather", "one", 1, BEGIN + timedelta(seconds=30))
    others = Leases(open_registry())
    assert others.acquire("weather", "another", 30) is None
    assert others.acquire("weather", "one", 30) is None
    assert others.acquire("planes", "another", 30) is not None
    assert [each.name for each in others.holders()] == ["planes", "weather"]


def test_a_lease_ends_by_itself_and_its_token_rises(leases: Leases, hand: FakeClock) -> None:
    first = taken(leases)
    pass_seconds(hand, 29.999)
    assert leases.acquire("weather", "another", 30) is None
    pass_seconds(hand, 0.001)
    assert leases.holders() == []
    second = taken(leases, "another")
    assert (first.token, second.token) == (1, 2)
    with pytest.raises(LeaseLostError, match="'weather' is not one's any more"):
        leases.renew(first, 30)
    leases.release(first)
    assert leases.holders() == [second]


def test_a_lease_is_renewed(leases: Leases, hand: FakeClock) -> None:
    lease = taken(leases)
    for _ in range(3):
        pass_seconds(hand, 20)
        lease = leases.renew(lease, 30)
        assert leases.acquire("weather", "another", 30) is None
    assert lease.expires_at == BEGIN + timedelta(seconds=90)
    assert lease.token == 1


def test_a_lease_that_has_ended_is_renewed_where_nobody_took_it(leases: Leases, hand: FakeClock) -> None:
    lease = taken(leases)
    pass_seconds(hand, 300)
    leases.renew(lease, 30)
    assert leases.acquire("weather", "another", 30) is None


def test_a_lease_that_was_given_back_is_gone_and_its_token_is_not_used_again(leases: Leases) -> None:
    lease = taken(leases)
    leases.release(lease)
    leases.release(lease)
    with pytest.raises(LeaseLostError):
        leases.renew(lease, 30)
    assert taken(leases).token == 2


def test_of_those_that_take_it_at_once_one_gets_it(leases: Leases, open_registry: Callable[[], SpecRegistry]) -> None:
    names, barrier = ["one", "two", "three"], Barrier(3)

    def take(holder: str) -> list[str]:
        own = Leases(open_registry())
        won = []
        for number in range(10):
            barrier.wait(60)
            if own.acquire(f"thing {number}", holder, 600) is not None:
                won.append(f"thing {number}")
        return won

    with ThreadPoolExecutor(3) as pool:
        won = dict(zip(names, pool.map(take, names), strict=True))
    assert sorted(name for each in won.values() for name in each) == [f"thing {number}" for number in range(10)]
    assert all(each.name in won[each.holder] and each.token == 1 for each in leases.holders())


def test_a_late_holder_writes_nothing_to_the_ledger(leases: Leases, ledger: Ledger, hand: FakeClock) -> None:
    late = ledger.fenced(taken(leases))
    run = late.begin("weather", 1, 1, SPAN)
    late.stage(run, 0, {"rows": 1})
    pass_seconds(hand, 31)
    late.stage(run, 1, {"rows": 2})  # its lease has ended, but nobody is at it: what it does is right
    present = ledger.fenced(taken(leases, "another"))
    before = ledger.latest("weather", 1), ledger.staged(run)
    for write in (
        lambda: late.begin("weather", 1, 2, SPAN),
        lambda: late.stage(run, 2, {"rows": 3}),
        lambda: late.update(run, state="committed"),
        lambda: late.update(run, state="failed", error="too late"),
    ):
        with pytest.raises(LeaseLostError):
            write()
    assert (ledger.latest("weather", 1), ledger.staged(run)) == before
    assert present.update(run, state="committed").state == "committed"


def test_who_gave_a_lease_back_writes_nothing_either(leases: Leases, ledger: Ledger) -> None:
    lease = taken(leases)
    leases.release(lease)
    with pytest.raises(LeaseLostError):
        ledger.fenced(lease).begin("weather", 1, 1, SPAN)
    assert ledger.latest("weather", 1) is None


def test_a_lease_is_not_taken_over_in_the_midst_of_a_write(
    leases: Leases, registry: SpecRegistry, hand: FakeClock, open_registry: Callable[[], SpecRegistry], url: str
) -> None:
    """What was checked holds until the transaction's end: a taker waits for it."""
    lease = taken(leases)
    pass_seconds(hand, 31)
    others = Leases(open_registry())
    with ThreadPoolExecutor(1) as pool:
        with registry.database.writing() as connection:
            leases.require(connection, lease)
            taking = pool.submit(others.acquire, "weather", "another", 30)
            assert not wait([taking], 0.3).done
        assert taking.result(60) is not None


def test_projects_do_not_share_leases(url: str, leases: Leases, registry: SpecRegistry, tmp_path: Path) -> None:
    taken(leases)
    other = SpecRegistry(url, registry.project + "b", tmp_path, registry.clock)
    assert Leases(other).acquire("weather", "another", 30) is not None
    other.close()
