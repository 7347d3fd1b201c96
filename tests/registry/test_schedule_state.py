"""The due table, on every database."""

from dataclasses import replace

import pytest

from featurestore.clock import Clock, to_micros
from featurestore.definitions.entity import Entity
from featurestore.errors import LeaseLostError
from featurestore.registry.leases import Lease, Leases
from featurestore.registry.schedule_state import ScheduleSnapshot, ScheduleState, ScheduleStates
from featurestore.registry.specs import Put, SpecRegistry
from featurestore.testing import FakeClock
from tests.registry.conftest import BEGIN

NOW = to_micros(BEGIN)
FIRST = ScheduleState("weather", NOW, "running")


@pytest.fixture
def clock() -> Clock:
    return FakeClock(NOW)


@pytest.fixture
def dues(registry: SpecRegistry) -> ScheduleStates:
    registry.commit(0, [Put(Entity("airport", origin=str), 1)], [])
    return ScheduleStates(registry)


@pytest.fixture
def lease(registry: SpecRegistry) -> Lease:
    lease = Leases(registry).acquire("weather", "one", 30)
    assert lease is not None
    return lease


def test_before_an_apply_there_is_nothing(registry: SpecRegistry) -> None:
    assert ScheduleStates(registry).load() == ScheduleSnapshot()


def test_one_query_tells_the_revision_the_rows_and_who_is_at_them(
    dues: ScheduleStates, lease: Lease, registry: SpecRegistry
) -> None:
    assert dues.load() == ScheduleSnapshot(registry.state())
    assert dues.move(lease, None, FIRST)
    standing = dues.load()
    assert standing.state == registry.state()
    assert standing.dues == {"weather": FIRST}
    assert (standing.dues["weather"].holder, standing.dues["weather"].held_until) == ("one", NOW + 30_000_000)


def test_a_row_is_moved_from_what_it_was_seen_as(dues: ScheduleStates, lease: Lease) -> None:
    assert dues.move(lease, None, FIRST)
    assert not dues.move(lease, None, FIRST)
    later = replace(FIRST, state="retrying", attempts=1, next_at=NOW + 5, error="no")
    assert dues.move(lease, FIRST, later)
    for other in ({"due_at": 1}, {"state": "running"}, {"attempts": 2}, {"deaths": 1}, {"next_at": None}):
        assert not dues.move(lease, replace(later, **other), replace(later, error="wrong"))  # type: ignore[arg-type]
    assert dues.load().dues["weather"] == later
    done = replace(later, state="done", next_at=None, finished_at=NOW + 9, settled_at=NOW, error="")
    assert dues.move(lease, later, done, release=True)
    assert dues.load().dues["weather"] == done


def test_a_lease_is_given_back_with_the_row(dues: ScheduleStates, lease: Lease, registry: SpecRegistry) -> None:
    assert not dues.move(lease, FIRST, FIRST, release=True)
    assert Leases(registry).holders() == [lease]
    assert dues.move(lease, None, FIRST, release=True)
    assert Leases(registry).holders() == []


def test_who_lost_the_lease_changes_nothing(dues: ScheduleStates, lease: Lease, registry: SpecRegistry) -> None:
    assert dues.move(lease, None, FIRST)
    Leases(registry).release(lease)
    with pytest.raises(LeaseLostError):
        dues.move(lease, FIRST, replace(FIRST, state="done"))
    assert dues.load().dues["weather"] == FIRST
