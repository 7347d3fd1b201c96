"""Schedulers whose clocks differ: one that was ahead once stops nobody, and two that disagree each do their work once."""

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from featurestore import FeatureStore, ParquetSource
from featurestore.clock import from_micros, to_micros, utc_now
from featurestore.errors import ConfigError, RegistryError
from featurestore.registry.leases import Leases, longest_lease
from featurestore.registry.schedule_state import ScheduleState, ScheduleStates
from featurestore.registry.specs import SpecRegistry
from featurestore.scheduling.retry_policy import OVER, Belief, RetryPolicy, take_up
from featurestore.testing import FakeClock
from tests.effort import spread
from tests.projects import view_of
from tests.scheduling.scheduling import FEATURES, KEYS, SECOND, Manual, scheduler_of, states
from tests.scheduling.test_scheduler import NOW, Opener, hand, open_store, pass_seconds, row_of, store, view, write

__all__ = ["hand", "open_store", "store"]

DAY = 86_400.0


def tick_ten_times(stores: list[tuple[Any, FakeClock]], seconds: float = 10) -> None:
    for _ in range(10):
        for scheduler, clock in stores:
            pass_seconds(clock, seconds)
            scheduler.tick()


@pytest.mark.parametrize(("ahead", "same"), spread([60, 3_600, DAY, 400 * DAY], [True, False]))
def test_f8_a_clock_that_was_ahead_once_stops_nobody(
    open_store: Opener, tmp_path: Path, hand: FakeClock, ahead: float, same: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Be it this process's clock, which was put right, or another machine's."""
    store = open_store()
    write(tmp_path, "0", ("a", 1, 1, 1.0, 1))
    store.apply([view(tmp_path), view(tmp_path, "w")])
    scheduler, told = scheduler_of(store)
    scheduler.tick()
    hand.micros += round(ahead * SECOND)
    fast, _ = (scheduler, told) if same else scheduler_of(open_store())
    fast.tick()
    hand.micros -= round(ahead * SECOND)
    told.clear()
    assert [each.check for each in store.admin.doctor() if each.check.startswith("schedule: ")] == ["schedule: v", "schedule: w"]
    upcoming = {each.name: each.next_at for each in scheduler.upcoming()}
    assert all(at <= from_micros(hand.micros) for at in upcoming.values()), "status does not use the condition of the tick"
    tick_ten_times([(scheduler, hand)])
    assert states(told) == [("v", "done"), ("w", "done")] * 10
    assert [each.due.timestamp() for each in told[::2]] == [1_000 + 10 * number for number in range(1, 11)]
    assert row_of(store).settled_at == row_of(store).due_at == NOW + 100 * SECOND
    assert caplog.text.count("By the due table v, w was taken up") == 1
    # The day that the clock was at comes: it is done then, too.
    hand.micros += round(ahead * SECOND)
    told.clear()
    scheduler.tick()
    assert states(told) == [("v", "done"), ("w", "done")]


def test_f8_what_reads_another_view_waits_for_it_and_not_for_what_was_done_in_the_future(
    open_store: Opener, tmp_path: Path, hand: FakeClock
) -> None:
    store = open_store()
    history = tmp_path / "project" / ".featurestore" / "offline" / store.settings.project / "v"
    write(tmp_path, "0", ("a", 1, 1, 1.0, 1))
    below = view_of(
        ParquetSource("below", str(history / "*" / "*.parquet"), event_time="event_time"),
        KEYS,
        FEATURES,
        name="below",
        schedule="10s",
    )
    store.apply([view(tmp_path), below])
    scheduler, told = scheduler_of(store)
    hand.micros += round(DAY * SECOND)
    scheduler.once()
    hand.micros -= round(DAY * SECOND)
    pool = Manual()
    scheduler, told = scheduler_of(store, pool)
    assert scheduler.tick() == 1, "both are taken up, though the one reads the other"
    assert row_of(store, "below").state == "waiting"
    pool.do_next()
    assert states(told) == [("v", "done")]
    assert scheduler.tick() == 1


def test_f8_two_clocks_that_disagree_do_each_instant_of_their_own_once(open_store: Opener, tmp_path: Path, hand: FakeClock) -> None:
    """They do not take the row from one another at every tick."""
    other = FakeClock(hand.micros + round(3_600 * SECOND))
    write(tmp_path, "0", ("a", 1, 1, 1.0, 1))
    mine = open_store()
    mine.apply([view(tmp_path, schedule="60s")])
    theirs = FeatureStore(
        tmp_path / "project", clock=other, project=mine.settings.project, definitions="none", maintenance={"schedule": ""}
    )
    with theirs:
        (one, told), (two, others) = scheduler_of(mine), scheduler_of(theirs)
        for _ in range(240):
            for scheduler, clock in ((one, hand), (two, other)):
                pass_seconds(clock, 1)
                scheduler.tick()
        assert 4 <= len(told) <= 5
        assert 4 <= len(others) <= 5
        assert set(states(told + others)) == {("v", "done")}


@pytest.mark.parametrize("state", ["running", "waiting", "retrying"])
def test_f8_what_a_fast_clock_left_unfinished_is_taken_up(open_store: Opener, tmp_path: Path, hand: FakeClock, state: Any) -> None:
    """Its lease, its next attempt and its due instant lie a day ahead."""
    store = open_store()
    write(tmp_path, "0", ("a", 1, 1, 1.0, 1))
    store.apply([view(tmp_path)])
    hand.micros += round(DAY * SECOND)
    leases = Leases(store.components.registry)
    lease = leases.acquire("v", "fast", 30)
    assert lease is not None
    due = ScheduleState("v", hand.micros, state, next_at=None if state == "running" else hand.micros + 60 * SECOND)
    assert ScheduleStates(store.components.registry).move(lease, None, due, release=state != "running")
    hand.micros -= round(DAY * SECOND)
    scheduler, told = scheduler_of(store)
    assert scheduler.tick() == 1
    assert states(told) == [("v", "done")]
    assert row_of(store).due_at == NOW


def test_a_lease_that_ends_beyond_all_leases_is_free(open_store: Opener, hand: FakeClock) -> None:
    leases = Leases(open_store().components.registry)
    hand.micros += longest_lease(30)
    held = leases.acquire("v", "a little ahead", 30)
    hand.micros -= longest_lease(30) - 30 * SECOND
    assert held is not None
    assert leases.acquire("v", "right", 30) is None
    hand.micros -= 31 * SECOND
    assert leases.acquire("v", "right", 30) is not None


def test_leases_go_by_the_clock_of_the_database(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder whose machine's clock is a day ahead takes nothing away, and holds nothing for longer."""
    from featurestore.registry import leases as module

    registry = SpecRegistry(postgres_url, "clocks", tmp_path, utc_now)
    first = Leases(registry).acquire("v", "one", 30)
    assert first is not None

    def fast() -> Any:
        return utc_now() + timedelta(days=1)

    monkeypatch.setattr(module, "utc_now", fast)
    other = SpecRegistry(postgres_url, "clocks", tmp_path, fast)
    try:
        assert Leases(other).acquire("v", "fast", 30) is None
        lease = Leases(other).acquire("w", "fast", 30)
        assert lease is not None
        assert abs(to_micros(lease.expires_at) - to_micros(utc_now())) < 60 * SECOND
    finally:
        registry.close()
        other.close()


@pytest.mark.parametrize("ahead", [0, 29, 31, 1_000, DAY])
@pytest.mark.parametrize("state", ["done", "failed", "running", "waiting", "retrying"])
def test_no_row_stops_its_view_for_longer_than_clocks_and_pauses_reach(state: Any, ahead: float) -> None:
    belief = Belief.of(RetryPolicy(), 30)
    now, far = NOW, NOW + round(ahead * SECOND)
    row = ScheduleState("v", far, state, settled_at=far, next_at=None if state in (*OVER, "running") else far, held_until=far)
    longest = belief.ahead + max(belief.pause, belief.longest)
    later = now + longest + SECOND
    assert take_up("v", replace(row, held_until=None if far > later else far), later, later, belief) is not None or far > later
    taken = take_up("v", row, now, now, belief)
    if far > now + longest:
        assert taken is not None
        assert (taken.due_at, taken.settled_at, taken.next_at) == (now, None, None)


def test_f15_a_scheduler_that_is_stopped_during_a_tick_gives_back_what_it_took(
    open_store: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Stopped between the lease and the pool: no error, no lease held, and nothing that looks like a death."""
    store = open_store()
    write(tmp_path, "0", ("a", 1, 1, 1.0, 1))
    store.apply([view(tmp_path), view(tmp_path, "w")])
    pool = ThreadPoolExecutor(1)
    scheduler, told = scheduler_of(store, pool)
    reached, go_on = Event(), Event()
    move = ScheduleStates.move

    def slow(self: ScheduleStates, lease: Any, seen: Any, due: ScheduleState, **options: Any) -> bool:
        moved = move(self, lease, seen, due, **options)
        if due.state == "running":
            reached.set()
            go_on.wait(30)
        return moved

    monkeypatch.setattr(ScheduleStates, "move", slow)
    failed: list[BaseException] = []

    def tick() -> None:
        try:
            scheduler.tick()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            failed.append(error)

    thread = Thread(target=tick)
    thread.start()
    assert reached.wait(30)
    assert scheduler.stop(0) == 0
    go_on.set()
    thread.join()
    assert failed == []
    assert told == []
    assert Leases(store.components.registry).holders() == []
    assert (row_of(store).state, row_of(store).deaths) == ("waiting", 0)
    other, told = scheduler_of(open_store())
    other.once()
    assert sorted(states(told)) == [("v", "done"), ("w", "done")]
    assert row_of(store).deaths == 0
    assert "Traceback" not in caplog.text


def test_a_registry_that_does_not_answer_keeps_no_scheduler_from_ending(
    open_store: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from featurestore.scheduling import scheduler as schedule

    store = open_store()
    write(tmp_path, "0", ("a", 1, 1, 1.0, 1))
    store.apply([view(tmp_path)])
    scheduler, _ = scheduler_of(store, Manual())
    assert scheduler.tick() == 1
    silent = Event()
    monkeypatch.setattr(schedule, "_GIVE_BACK_SECONDS", 0.2)
    monkeypatch.setattr(ScheduleStates, "move", lambda *_, **__: silent.wait(30))
    began = time.monotonic()
    assert scheduler.stop(0.1) == 1
    assert time.monotonic() - began < 10
    silent.set()


def test_an_answer_of_the_registry_that_is_lost_is_no_death(
    store: FeatureStore, tmp_path: Path, hand: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row is moved, and the scheduler does not learn of it: time and again, for longer than deaths are counted."""
    write(tmp_path, "0", ("a", 1, 1, 1.0, 1))
    store.apply([view(tmp_path, schedule="1d")])
    scheduler, told = scheduler_of(store)
    move = ScheduleStates.move

    def lost(self: ScheduleStates, lease: Any, seen: Any, due: ScheduleState, **options: Any) -> bool:
        move(self, lease, seen, due, **options)
        raise RegistryError("no answer")

    monkeypatch.setattr(ScheduleStates, "move", lost)
    for _ in range(8):
        scheduler.step()
        pass_seconds(hand, 31)
    monkeypatch.undo()
    scheduler.step()
    assert states(told) == [("v", "done")]


def test_d23_asking_how_things_stand_makes_no_scheduler(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "0", ("a", 1, 1, 1.0, 1))
    store.apply([view(tmp_path)])

    def none(*_: Any, **__: Any) -> Any:
        raise AssertionError("a pool or a scheduler is made")

    monkeypatch.setattr("featurestore.scheduling.scheduler.Scheduler.__init__", none)
    monkeypatch.setattr("concurrent.futures.ThreadPoolExecutor.submit", none)
    [status] = store.status()
    assert status.next_run is not None
    with ThreadPoolExecutorOfOld(8) as threads:
        assert len({repr(each) for each in threads.map(lambda _: store.status(), range(8))}) == 1


class ThreadPoolExecutorOfOld:
    """Threads without a pool, which the test has forbidden."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __enter__(self) -> "ThreadPoolExecutorOfOld":
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def map(self, work: Callable[[int], Any], given: Any) -> Iterator[Any]:
        found: list[Any] = []
        threads = [Thread(target=lambda number=number: found.append(work(number))) for number in given]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert len(found) == self._count
        return iter(found)


@pytest.mark.parametrize(
    "url", ["ftp://example.org/s3cret", "example.org/s3cret", "http://", "http://[s3cret", "https://h:99999/s3cret"]
)
def test_d23_a_malformed_webhook_is_told_when_the_settings_are_read(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match=r"The setting 'webhook' is wrong: .*http:// or https:// address") as caught:
        FeatureStore(tmp_path, webhook=url)
    assert "s3cret" not in str(caught.value)


def test_the_log_is_not_flooded_by_a_clock_that_stays_behind(
    open_store: Opener, tmp_path: Path, hand: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    store = open_store()
    write(tmp_path, "0", ("a", 1, 1, 1.0, 1))
    store.apply([view(tmp_path, schedule="1h")])
    hand.micros += round(DAY * SECOND)
    scheduler_of(open_store())[0].tick()
    hand.micros -= round(DAY * SECOND)
    pool = Manual()
    scheduler, _ = scheduler_of(store, pool)
    for _ in range(20):
        scheduler.tick()
        pass_seconds(hand, 1)
    assert caplog.text.count("a scheduler's clock was ahead") == 1
