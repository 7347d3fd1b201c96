"""What a scheduler costs while nothing is due: a tick over 500 views, and the time between ticks."""

import resource
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Timer

import polars as pl

from benchmarks.measure import Line, in_turn
from featurestore import Entity, FeatureStore, FeatureView, FrameSource
from featurestore.clock import to_micros
from featurestore.registry.leases import Leases
from featurestore.registry.schedule_state import ScheduleState, ScheduleStates

VIEWS, SECONDS, REACH = 500, 10, 0.050
STARTED = 2
"""After so many seconds a scheduler has imported what it needs, and worked out its schedules."""
SCHEDULES = ("5m", "15m", "1h", "*/5 * * * *", "0 6 * * mon-fri Europe/Berlin")
NOW = datetime(2013, 7, 1, 12, 7, tzinfo=UTC)


def lines(*, full: bool) -> Iterator[Line]:
    """Measures an idle tick against one bare SELECT of as many rows, and what a scheduler costs between ticks."""
    folder = Path(tempfile.mkdtemp(prefix="schedule-"))
    opened = FeatureStore(folder, project="schedule", clock=lambda: NOW)
    opened.apply(_views())
    dues, leases = ScheduleStates(opened.components.registry), Leases(opened.components.registry)
    now = to_micros(NOW)
    names = [f"{kind}view_{number}" for kind in ("", "upkeep:") for number in range(VIEWS)]
    for name in names:
        lease = leases.acquire(name, "benchmark", 30)
        assert lease is not None
        dues.move(lease, None, ScheduleState(lease.name, now, "done", settled_at=now), release=True)
    scheduler = opened.scheduler.create()
    database = opened.components.registry.database

    def bare() -> int:
        with database.reading() as connection:
            return len(connection.execute(database.tables.due.select()).all())

    assert scheduler.tick() == 0
    assert bare() == len(names)
    ours, floor = in_turn(scheduler.tick, bare, 200)
    yield Line(
        f"an idle tick over {VIEWS} views, their runs and upkeep, SQLite", f"{ours * 1e3:.1f} ms",
        f"{floor * 1e3:.1f} ms (a bare SELECT)", f"{ours / floor:.1f}×", f"≤ {REACH * 1e3:.0f} ms", ours <= REACH,
    )  # fmt: skip
    used, stop = list[float](), Event()
    for second in (STARTED, STARTED + SECONDS):
        Timer(second, lambda: used.append(_cpu_seconds())).start()
    Timer(STARTED + SECONDS + 0.1, stop.set).start()
    opened.scheduler.drive(scheduler, stop)
    share = (used[1] - used[0]) / SECONDS
    yield Line(
        f"a scheduler of {VIEWS} views that has started and nothing to do, {SECONDS} s", f"{share:.1%} of a core",
        f"{ours:.1%} (its ticks alone)", f"{share / ours:.1f}×", "≤ 5% of a core", share <= 0.05,
    )  # fmt: skip
    opened.close()
    shutil.rmtree(folder)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _views() -> list[type[FeatureView]]:
    rows = pl.DataFrame(schema={"k": pl.String, "at": pl.Datetime, "x": pl.Float64})
    source, entity = FrameSource("rows", rows, event_time="at"), Entity("thing", k=str)
    return [
        type(
            f"View{number}", (FeatureView,), {"__annotations__": {"x": float | None}, "__module__": __name__},
            entity=entity, source=source, schedule=SCHEDULES[number % len(SCHEDULES)], name=f"view_{number}",
        )
        for number in range(VIEWS)
    ]  # fmt: skip
