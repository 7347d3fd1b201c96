"""Whose turn it is: coalescing, take-over, retries."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.registry.schedule_state import ScheduleState
from featurestore.scheduling.retry_policy import RetryPolicy, done, failed, given_up, take_up, waiting

RETRIES = RetryPolicy(attempts=3, first=10, longest=100, wait=5)
DRAW = random.Random(0)
INTERVAL = 10


def test_what_was_never_due_is_taken_up_at_once() -> None:
    assert take_up("v", None, 100, 105) == ScheduleState("v", 100, "running")


def test_what_is_over_waits_for_its_next_due_instant() -> None:
    over = done(ScheduleState("v", 100, "running"), 103)
    assert over == ScheduleState("v", 100, "done", finished_at=103, settled_at=100)
    assert take_up("v", over, 100, 109) is None
    assert take_up("v", over, 110, 110) == ScheduleState("v", 110, "running", finished_at=103, settled_at=100)


def test_missed_instants_coalesce_into_the_latest() -> None:
    assert take_up("v", ScheduleState("v", 100, "done", settled_at=100), 990, 995) == ScheduleState(
        "v", 990, "running", settled_at=100
    )
    retrying = ScheduleState("v", 100, "retrying", attempts=2, next_at=120, error="no")
    assert take_up("v", retrying, 990, 995) == ScheduleState("v", 990, "running", attempts=2, error="no")


def test_what_a_dead_holder_was_at_is_taken_over_once_its_lease_has_ended() -> None:
    running = ScheduleState("v", 100, "running", holder="one", held_until=130)
    assert take_up("v", running, 120, 129) is None
    taken = take_up("v", running, 120, 130)
    assert taken is not None
    assert (taken.due_at, taken.state, taken.deaths) == (120, "running", 1)


def test_a_retry_waits_for_its_time_even_if_it_is_due_anew() -> None:
    retrying = ScheduleState("v", 100, "retrying", attempts=1, next_at=150)
    assert take_up("v", retrying, 140, 149) is None
    assert take_up("v", retrying, 150, 150) is not None


def test_after_the_last_attempt_it_is_failed_and_the_next_due_instant_begins_anew() -> None:
    due = ScheduleState("v", 100, "running")
    for attempt in (1, 2):
        due = failed(due, "no", 110, RETRIES, DRAW, endless=False)
        assert (due.state, due.attempts) == ("retrying", attempt)
        assert due.next_at is not None
        again = take_up("v", due, 100, due.next_at)
        assert again is not None
        due = again
    due = failed(due, "no", 110, RETRIES, DRAW, endless=False)
    assert due == ScheduleState("v", 100, "failed", attempts=3, finished_at=110, settled_at=100, error="no")
    assert take_up("v", due, 100, 109) is None
    anew = take_up("v", due, 110, 110)
    assert anew is not None
    assert anew.attempts == 0


def test_what_is_nobodys_fault_is_never_given_up() -> None:
    due = ScheduleState("v", 100, "running", attempts=50)
    assert failed(due, "the store is down", 110, RETRIES, DRAW, endless=True).state == "retrying"


def test_waiting_is_no_failed_attempt() -> None:
    due = waiting(ScheduleState("v", 100, "running", attempts=1), "nothing there", 105)
    assert (due.state, due.attempts, due.next_at) == ("waiting", 1, 105)
    assert take_up("v", due, 100, 104) is None
    assert take_up("v", due, 100, 105) is not None


@given(st.integers(1, 10_000), st.randoms(use_true_random=False))
def test_pauses_double_up_to_the_longest_and_never_vanish(attempt: int, draw: random.Random) -> None:
    whole = min(RETRIES.longest, RETRIES.first * 2 ** min(attempt - 1, 30))
    assert whole / 2 - 1 <= RETRIES.pause(attempt, draw) <= whole


@given(st.lists(st.tuples(st.integers(1, 40), st.sampled_from(["done", "fail", "wait", "die", "skip"])), max_size=60))
def test_whatever_happens_each_due_instant_is_over_once_and_they_rise(steps: list[tuple[int, str]]) -> None:
    """A simulated life of one row: what is over is over once, in order, and the latest one always comes to an end."""
    row: ScheduleState | None = None
    now, over = 0, []
    for pause, happening in [*steps, *[(200, "done")] * 3]:
        now += pause
        fire = now // INTERVAL * INTERVAL
        due = take_up("v", None if row is None else replace(row, held_until=None), fire, now)
        if due is None or happening == "skip":
            continue
        assert due.due_at == fire or (row is not None and due.due_at >= row.due_at)
        if happening == "done":
            row = done(due, now)
        elif happening == "fail":
            row = failed(due, "no", now, RETRIES, DRAW, endless=False)
        elif happening == "wait":
            row = waiting(due, "nothing there", now + 5)
        else:
            row = due
        if row.state in ("done", "failed"):
            over.append(row.due_at)
    assert over == sorted(set(over))
    assert row is not None
    assert (row.state, row.settled_at) == ("done", now // INTERVAL * INTERVAL)


@pytest.mark.parametrize("state", ["done", "failed"])
def test_deaths_are_forgotten_once_it_is_over(state: str) -> None:
    due = ScheduleState("v", 100, "running", deaths=4)
    assert (done(due, 1) if state == "done" else given_up(due, "no", 1)).deaths == 0
