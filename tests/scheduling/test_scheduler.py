"""The scheduler in one process, with a clock that the test puts forward."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from sqlalchemy import Engine, event

from featurestore import DeltaSource, FeatureStore, ParquetSource
from featurestore.errors import ConfigError, RegistryError
from featurestore.maintenance.status import Alert
from featurestore.registry.leases import Leases
from featurestore.registry.schedule_state import ScheduleState, ScheduleStates
from featurestore.scheduling.scheduler import TaskResult
from featurestore.testing import FakeClock
from tests.oracle import Row
from tests.projects import frame_of, left, store_at, view_of
from tests.scheduling.scheduling import FEATURES, KEYS, SECOND, Manual, scheduler_of, states
from tests.servers.valkey import ValkeyServer

SCHEMA: dict[str, Any] = {"x": pl.Float64, "n": pl.Int64}
NOW = 1_000 * SECOND
ENTITIES = ["a", "b", "c"]


@pytest.fixture
def hand() -> FakeClock:
    return FakeClock(NOW)


Opener = Callable[..., FeatureStore]


@pytest.fixture
def open_store(tmp_path: Path, hand: FakeClock) -> Iterator[Opener]:
    """Opens the project's store, each time as another process would."""
    opened: list[FeatureStore] = []

    def open_one(**settings: Any) -> FeatureStore:
        opened.append(store_at(tmp_path / "project", hand, definitions="none", maintenance={"schedule": ""}, **settings))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Opener) -> FeatureStore:
    return open_store()


def write(folder: Path, name: str, *rows: tuple[str, int, int, float | None, int | None]) -> None:
    """Puts a file of rows into the source: key, event and available time in seconds, features."""
    made = [Row((key,), at * SECOND, known * SECOND, (x, n)) for key, at, known, x, n in rows]
    (folder / "data").mkdir(parents=True, exist_ok=True)
    frame_of(made, {"k": pl.String}, SCHEMA).write_parquet(folder / "data" / f"{name}.parquet")


def view(folder: Path, name: str = "v", *, schedule: str = "10s", **options: Any) -> Any:
    source = ParquetSource(f"rows_{name}", str(folder / "data" / "*.parquet"), event_time="event", available_time="available")
    return view_of(source, KEYS, FEATURES, name=name, schedule=schedule, **options)


def pass_seconds(hand: FakeClock, seconds: float) -> None:
    hand.micros += round(seconds * SECOND)


def row_of(store: FeatureStore, name: str = "v") -> ScheduleState:
    return ScheduleStates(store.components.registry).load().dues[name]


def test_what_was_missed_is_caught_up_once(store: FeatureStore, tmp_path: Path, hand: FakeClock) -> None:
    write(tmp_path, "0", ("a", 1, 1, 1.0, 1))
    store.apply([view(tmp_path)])
    scheduler, told = scheduler_of(store)
    assert [scheduler.tick(), scheduler.tick()] == [1, 0]
    pass_seconds(hand, 35)
    write(tmp_path, "1", ("b", 2, 1_020, 2.0, 2))
    assert [scheduler.tick(), scheduler.tick()] == [1, 0]
    assert [outcome.due.timestamp() for outcome in told] == [1_000, 1_030]
    assert states(told) == [("v", "done")] * 2
    assert store.sql("select count(*) as n from v")["n"].item() == 2
    assert row_of(store) == ScheduleState("v", 1_030 * SECOND, "done", finished_at=hand.micros, settled_at=1_030 * SECOND)


def test_views_without_a_schedule_are_left_alone(store: FeatureStore, tmp_path: Path) -> None:
    write(tmp_path, "0", ("a", 1, 1, 1.0, 1))
    store.apply([view(tmp_path, schedule=None)])  # type: ignore[arg-type]
    assert scheduler_of(store)[0].tick() == 0


def test_an_apply_is_taken_up_without_a_restart(store: FeatureStore, open_store: Opener, tmp_path: Path, hand: FakeClock) -> None:
    write(tmp_path, "0", ("a", 1, 1, 1.0, 1))
    scheduler, told = scheduler_of(store)
    assert scheduler.tick() == 0
    store.apply([view(tmp_path, "v")])
    assert scheduler.tick() == 1
    store.apply([view(tmp_path, "w")])
    scheduler.tick()
    store.apply([view(tmp_path, "w", schedule="30s")])
    for _ in range(4):
        pass_seconds(hand, 10)
        scheduler.tick()
    assert [name for name, _ in states(told)] == ["v", "w", "v", "v", "w", "v", "v"]


def test_a_failed_run_is_tried_again_then_loud_then_begins_anew(store: FeatureStore, tmp_path: Path, hand: FakeClock) -> None:
    write(tmp_path, "0", ("a", 1, 1, 1.0, None))
    store.apply([view(tmp_path, schedule="1h", on_reject="fail")])
    notices: list[Alert] = []
    scheduler, told = scheduler_of(store, on_alert=notices.append)
    for _ in range(20):
        scheduler.tick()
        pass_seconds(hand, 60)
    assert states(told) == [("v", "retrying")] * 4 + [("v", "failed")]
    assert [outcome.attempts for outcome in told] == [1, 2, 3, 4, 5]
    assert [(notice.view, notice.state) for notice in notices] == [("v", "failed")]
    assert "failed 5 times" in notices[0].text
    assert 'on_reject="fail"' in row_of(store).error
    write(tmp_path, "0", ("a", 1, 1, 1.0, 1))
    hand.micros = 3_600 * SECOND
    scheduler.tick()
    assert states(told)[-1] == ("v", "done")
    assert row_of(store).error == ""


def test_a_source_that_is_not_there_yet_is_waited_for(store: FeatureStore, tmp_path: Path, hand: FakeClock) -> None:
    store.apply([view(tmp_path, schedule="1h")])
    scheduler, told = scheduler_of(store)
    for _ in range(30):
        scheduler.tick()
        pass_seconds(hand, 5)
    assert set(states(told)) == {("v", "waiting")}
    assert len(told) == 15
    assert row_of(store).attempts == 0
    assert "no file matches" in row_of(store).error
    write(tmp_path, "0", ("a", 1, 1, 1.0, 1))
    pass_seconds(hand, 10)
    scheduler.tick()
    assert states(told)[-1] == ("v", "done")


def test_a_view_starts_after_those_whose_history_it_reads(store: FeatureStore, tmp_path: Path, hand: FakeClock) -> None:
    history = str(tmp_path / "project" / ".featurestore" / "offline" / "test" / "v" / "v1")
    source = DeltaSource("of_v", history, event_time="event_time", available_time="available_time")
    below = view_of(source, KEYS, FEATURES, name="a_below", schedule="10s")  # by its name it would come first
    store.apply([view(tmp_path), below])
    scheduler, told = scheduler_of(store, most=10)
    scheduler.tick()
    assert states(told) == [("v", "waiting")]
    assert (row_of(store, "a_below").state, row_of(store, "a_below").error) == ("waiting", "it reads 'v', which is not done yet")
    write(tmp_path, "0", ("a", 1, 1, 1.0, 1))
    for number in range(1, 4):
        pass_seconds(hand, 10)
        write(tmp_path, str(number), ("a", 10 * number, 10 * number, float(number), number))
        scheduler.tick()
        scheduler.tick()
    assert states(told)[1:] == [("v", "done"), ("a_below", "done")] * 3
    assert left(store, "a_below", ["a"])["history"] == left(store, "v", ["a"])["history"]


def test_views_that_read_one_another_wait_for_none(store: FeatureStore, tmp_path: Path) -> None:
    root = tmp_path / "project" / ".featurestore" / "offline" / "test"
    for name, other in (("v", "w"), ("w", "v")):
        source = DeltaSource(f"of_{name}", str(root / other / "v1"), event_time="event_time")
        store.apply([view_of(source, KEYS, FEATURES, name=name, schedule="10s")])
    scheduler, told = scheduler_of(store)
    scheduler.tick()
    assert states(told) == [("v", "waiting"), ("w", "waiting")]
    assert "there is no Delta table" in told[0].error


def test_two_schedulers_do_a_due_run_once(store: FeatureStore, open_store: Opener, tmp_path: Path, hand: FakeClock) -> None:
    write(tmp_path, "0", ("a", 1, 1, 1.0, 1))
    store.apply([view(tmp_path)])
    other = open_store()
    other.apply([view(tmp_path)])
    pool = Manual()
    one, told = scheduler_of(store, pool)
    two, nothing = scheduler_of(other)
    assert one.tick() == 1
    for _ in range(5):  # for as long as its lease is renewed
        assert two.tick() == 0
        pass_seconds(hand, 20)
        one.renew()
    pool.do_next()
    assert states(told) == [("v", "done")]
    assert [two.tick(), one.tick()] == [1, 0]
    assert [outcome.due.timestamp() for outcome in nothing] == [1_100]


POINTS = {
    "before it stages": ("offline", "stage"),
    "before it commits": ("offline", "commit"),
    "before it writes online": ("online", "write"),
}


@pytest.mark.parametrize("point", POINTS)
def test_s17_a_holder_that_stood_still_changes_nothing(
    point: str, store: FeatureStore, open_store: Opener, tmp_path: Path, hand: FakeClock, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """It is stopped half-way, another takes over and finishes, more comes in, then it goes on."""
    write(tmp_path, "0", ("a", 1, 1, 1.0, 1), ("b", 2, 2, None, 2), ("b", 1, 3, 0.5, 9), ("c", 4, 4, 1.0, None))
    quiet = store_at(tmp_path / "quiet", hand)
    other = open_store()
    for each in (quiet, store, other):
        each.apply([view(tmp_path)])
    one, told = scheduler_of(store)
    two, finished = scheduler_of(other)
    part, name = POINTS[point]
    go_on = getattr(getattr(store.components, part), name)
    found: dict[str, Any] = {}

    def stand_still(*given: Any) -> Any:
        monkeypatch.undo()
        pass_seconds(hand, 31)
        two.tick()
        write(tmp_path, "1", ("a", 5, 1_031, 7.0, 7))
        pass_seconds(hand, 10)
        two.tick()
        found.update(left(other, "v", ENTITIES))
        return go_on(*given)

    monkeypatch.setattr(getattr(store.components, part), name, stand_still)
    with caplog.at_level(logging.WARNING, "featurestore"):
        one.tick()
    assert states(finished) == [("v", "done")] * 2
    assert states(told) == [("v", "lost")]
    assert "The lease on 'v' is not" in caplog.text
    assert row_of(store) == row_of(other)
    assert row_of(store).state == "done"
    runs = [(run.seq, run.state) for run in other.runs.list()]
    assert runs == [(2, "done"), (1, "done")]
    quiet.materialize()
    assert left(other, "v", ENTITIES) == found == left(quiet, "v", ENTITIES)
    quiet.close()


def test_a_late_holder_does_not_go_on_with_what_another_is_at(
    store: FeatureStore, open_store: Opener, tmp_path: Path, hand: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "0", ("a", 1, 1, 1.0, 1))
    other = open_store()
    for each in (store, other):
        each.apply([view(tmp_path)])
    pool = Manual()
    one, told = scheduler_of(store)
    two, finished = scheduler_of(other, pool)
    go_on = store.components.offline.stage

    def stand_still(*given: Any) -> Any:
        pass_seconds(hand, 31)
        assert two.tick() == 1
        return go_on(*given)

    monkeypatch.setattr(store.components.offline, "stage", stand_still)
    one.tick()
    assert states(told) == [("v", "lost")]
    assert [(run.state, run.attempts, run.error) for run in other.runs.list()] == [("running", 1, "")]
    assert other.sql("from v").height == 0
    pool.do_next()
    assert states(finished) == [("v", "done")]
    assert [run.state for run in other.runs.list()] == ["done"]


def test_what_came_of_a_run_is_noted_once_the_registry_is_back(
    store: FeatureStore, open_store: Opener, tmp_path: Path, hand: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "0", ("a", 1, 1, 1.0, 1))
    store.apply([view(tmp_path)])
    pool = Manual()
    scheduler, told = scheduler_of(store, pool)
    scheduler.tick()

    def gone(*_: Any, **__: Any) -> None:
        raise RegistryError("The registry cannot be reached.")

    with monkeypatch.context() as patch:
        patch.setattr(ScheduleStates, "move", gone)
        pool.do_next()
        scheduler.step()
    assert told == []
    assert row_of(store).state == "running"
    scheduler.step()
    assert states(told) == [("v", "done")]
    assert row_of(store).state == "done"
    assert Leases(store.components.registry).holders() == []


def test_a_registry_that_is_gone_is_told_once_and_it_goes_on(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "0", ("a", 1, 1, 1.0, 1))
    store.apply([view(tmp_path)])
    scheduler, told = scheduler_of(store)

    def gone(*_: Any) -> None:
        raise RegistryError("The registry cannot be reached.")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "featurestore"):
        patch.setattr(ScheduleStates, "load", gone)
        for _ in range(3):
            scheduler.step()
    scheduler.step()
    assert caplog.messages == ["The scheduler goes on trying: The registry cannot be reached.", "The scheduler is at work again."]
    assert states(told) == [("v", "done")]


def test_an_online_store_that_is_gone_is_nobodys_fault(open_store: Opener, tmp_path: Path, hand: FakeClock) -> None:
    write(tmp_path, "0", ("a", 1, 1, 1.0, 1))
    notices: list[Alert] = []
    with ValkeyServer("--appendonly", "yes") as server:
        store = open_store(online=server.url, schedule={"retry_max_delay": "20s"})
        store.apply([view(tmp_path, schedule="1h")])
        scheduler, told = scheduler_of(store, on_alert=notices.append)
        server.stop(kill=True)
        for _ in range(8):
            scheduler.step()
            pass_seconds(hand, 20)
        assert states(told) == [("v", "retrying")] * 8
        assert [notice.text.split(":")[0] for notice in notices] == ["v failed 5 times, and goes on being tried"]
        server.start()
        scheduler.step()
        assert states(told)[-1] == ("v", "done")
        assert store.online("v", [{"k": "a"}]).to_dicts() == [{"k": "a", "x": 1.0, "n": 1}]


def test_at_the_end_what_is_not_finished_is_given_back(
    store: FeatureStore, open_store: Opener, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "0", ("a", 1, 1, 1.0, 1))
    store.apply([view(tmp_path)])
    other = open_store()
    other.apply([view(tmp_path)])
    pool = Manual()
    one, told = scheduler_of(store, pool)
    two, finished = scheduler_of(other)
    one.tick()
    with caplog.at_level(logging.WARNING, "featurestore"):
        assert one.stop(0) == 1
    assert "'v' was not finished and is released" in caplog.text
    assert one.tick() == 0
    two.tick()  # at the same instant: its lease is free
    assert states(finished) == [("v", "done")]
    assert row_of(other).deaths == 0
    pool.do_next()
    assert told == []
    assert [run.state for run in other.runs.list()] == ["done"]


def test_at_the_end_what_is_finished_in_time_is_done(store: FeatureStore, tmp_path: Path) -> None:
    write(tmp_path, "0", ("a", 1, 1, 1.0, 1))
    store.apply([view(tmp_path)])
    told: list[TaskResult] = []
    scheduler = store.scheduler.create(on_result=told.append)
    scheduler.tick()
    assert scheduler.stop(60) == 0
    assert states(told) == [("v", "done")]


def test_what_kills_its_schedulers_is_given_up(store: FeatureStore, tmp_path: Path, hand: FakeClock) -> None:
    write(tmp_path, "0", ("a", 1, 1, 1.0, 1))
    store.apply([view(tmp_path)])
    for _ in range(6):
        assert scheduler_of(store, Manual())[0].tick() == 1
        pass_seconds(hand, 31)
    scheduler, told = scheduler_of(store, on_alert=lambda notice: None)
    scheduler.tick()
    assert states(told) == [("v", "failed")]
    assert "6 schedulers in turn ended" in told[0].error
    pass_seconds(hand, 10)
    scheduler.tick()
    assert states(told)[-1] == ("v", "done")


def test_so_many_are_run_at_once(store: FeatureStore, tmp_path: Path) -> None:
    write(tmp_path, "0", ("a", 1, 1, 1.0, 1))
    store.apply([view(tmp_path, name) for name in ("u", "v", "w")])
    pool = Manual()
    scheduler, told = scheduler_of(store, pool, most=2)
    assert [scheduler.tick(), scheduler.tick()] == [2, 0]
    pool.do_next()
    assert scheduler.tick() == 1
    pool.do_next()
    pool.do_next()
    assert states(told) == [("u", "done"), ("v", "done"), ("w", "done")]


def test_once_does_all_that_is_due(store: FeatureStore, tmp_path: Path) -> None:
    write(tmp_path, "0", ("a", 1, 1, 1.0, 1))
    history = str(tmp_path / "project" / ".featurestore" / "offline" / "test" / "v" / "v1")
    source = DeltaSource("of_v", history, event_time="event_time", available_time="available_time")
    store.apply([*[view(tmp_path, name) for name in "tuv"], view_of(source, KEYS, FEATURES, name="a_below", schedule="1m")])
    told: list[TaskResult] = []
    store.scheduler.create(on_result=told.append).once()
    assert sorted(states(told)) == [("a_below", "done"), ("t", "done"), ("u", "done"), ("v", "done")]
    assert left(store, "a_below", ["a"])["history"]


def test_a_fault_in_a_run_does_not_end_the_scheduler(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Panic(BaseException):
        """As Polars raises one."""

    def panic(*_: Any) -> None:
        raise Panic("index out of bounds")

    write(tmp_path, "0", ("a", 1, 1, 1.0, 1))
    store.apply([view(tmp_path)])
    monkeypatch.setattr(store.components.offline, "stage", panic)
    scheduler, told = scheduler_of(store)
    scheduler.tick()
    assert (told[0].state, told[0].error) == ("retrying", "Panic: index out of bounds")
    assert "A fault in featurestore while it was at 'v'" in caplog.text


def test_what_comes_next_is_told(store: FeatureStore, tmp_path: Path, hand: FakeClock) -> None:
    write(tmp_path, "0", ("a", 1, 1, 1.0, 1))
    store.apply([view(tmp_path, "v"), view(tmp_path, "w", schedule="0 6 * * *")])
    scheduler, _ = scheduler_of(store)
    assert [(each.name, each.state, each.next_at.timestamp()) for each in scheduler.upcoming()] == [
        ("w", "new", 0),
        ("v", "new", 1_000),
    ]
    scheduler.tick()
    assert [(each.name, each.state, each.next_at.timestamp()) for each in scheduler.upcoming()] == [
        ("v", "done", 1_010),
        ("w", "done", 21_600),
    ]


def test_an_idle_tick_is_one_query(store: FeatureStore, tmp_path: Path) -> None:
    write(tmp_path, "0", ("a", 1, 1, 1.0, 1))
    store.apply([view(tmp_path, name) for name in ("u", "v", "w")])
    scheduler, _ = scheduler_of(store, most=3)
    scheduler.tick()
    asked: list[str] = []

    def note(*given: Any) -> None:
        asked.append(given[2])

    event.listen(Engine, "before_cursor_execute", note)
    try:
        scheduler.tick()
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    assert [text.split()[0] for text in asked] == ["BEGIN", "SELECT"]


def test_a_zone_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'Mars/Crater' is not a time zone"):
        FeatureStore(tmp_path, schedule={"timezone": "Mars/Crater"})
