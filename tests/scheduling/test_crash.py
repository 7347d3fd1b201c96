"""Three schedulers on one registry, killed and stopped at any point: each due run happens once in effect."""

import os
import random
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import psycopg
import pytest

from featurestore.clock import from_micros
from featurestore.registry.schedule_state import ScheduleStates
from tests.oracle import Row
from tests.processes import CONTEXT
from tests.projects import frame_of, left
from tests.scheduling.scheduling import KEYS, SECOND
from tests.workers import schedule_worker
from tests.workers.schedule_worker import store_of

BEGIN = 1_000
ENTITIES = [f"e{number}" for number in range(8)]
SEED = 20130701
QUIET_TICKS = 15
_PATIENCE = 400
"""So many looks, of two milliseconds, at a process that does not answer."""


@dataclass
class Worker:
    """A scheduler process, and until which tick it stands still."""

    process: Any
    orders: Connection
    stands_until: int = -1

    def answer(self, held_up: Callable[[], None]) -> str:
        """Waits until it has ticked, is dead or stands still; returns which. It may have to wait for one that stands still."""
        asked = 0
        while not self.orders.poll(0.002):
            asked += 1
            if asked % _PATIENCE == 0:
                held_up()
            if not self.process.is_alive() and not self.orders.poll():
                return "dead"
            try:
                if psutil.Process(self.process.pid).status() == psutil.STATUS_STOPPED:
                    return "stopped"
            except psutil.NoSuchProcess:
                continue
        try:
            for name, state, error in self.orders.recv():
                assert state in ("done", "waiting", "lost"), (name, state, error)
        except EOFError:
            return "dead"
        return "ticked"

    def go_on(self) -> None:
        with suppress(ProcessLookupError):  # it was killed meanwhile
            os.kill(self.process.pid, signal.SIGCONT)
        self.stands_until = -1


@contextmanager
def settled(registry: str | None, folder: Path) -> Iterator[list[tuple[str, int]]]:
    """Has the database write down each time that a due instant comes to be over; gives the list at the end."""
    found: list[tuple[str, int]] = []
    over = "NEW.state IN ('done', 'failed') AND (OLD.state IS NULL OR OLD.state <> NEW.state OR OLD.due_at <> NEW.due_at)"
    if registry is None:
        with sqlite3.connect(folder / ".featurestore" / "registry.db") as database:
            database.execute("CREATE TABLE settled (view TEXT, due_at INTEGER)")
            then = "BEGIN INSERT INTO settled VALUES (NEW.view, NEW.due_at); END"
            database.execute(" ".join(["CREATE TRIGGER settling AFTER UPDATE ON featurestore_due WHEN", over, then]))
        yield found
        found += database.execute("SELECT view, due_at FROM settled ORDER BY rowid").fetchall()
        database.close()
        return
    with psycopg.connect(registry.replace("+psycopg", ""), autocommit=True) as server:
        server.execute("CREATE TABLE settled (id SERIAL, view TEXT, due_at BIGINT)")
        body = "BEGIN INSERT INTO settled (view, due_at) VALUES (NEW.view, NEW.due_at); RETURN NEW; END"
        server.execute(f"CREATE FUNCTION settle() RETURNS trigger AS $$ {body} $$ LANGUAGE plpgsql".encode())
        trigger = "CREATE TRIGGER settling AFTER UPDATE ON featurestore_due FOR EACH ROW WHEN"
        server.execute(f"{trigger} ({over}) EXECUTE FUNCTION settle()".encode())
        try:
            yield found
            found += server.execute("SELECT view, due_at FROM settled ORDER BY id").fetchall()
        finally:
            server.execute("DROP TRIGGER settling ON featurestore_due")
            server.execute("DROP FUNCTION settle")
            server.execute("DROP TABLE settled")


def write(folder: Path, number: int, now: int, draw: random.Random) -> None:
    """Puts a file into the source whose rows arrive now, their events long past, in no order, some seen before."""
    rows = [
        Row(
            (draw.choice(ENTITIES),),
            (now - draw.choice([0, 0, 1, 5, 40, 90])) * SECOND,
            now * SECOND,
            (draw.choice([None, 1.5]), n),
        )
        for n in [draw.choice([1, 2, None]) for _ in range(30)]
    ]
    frame = frame_of(rows, dict.fromkeys(KEYS, pl.String), {"x": pl.Float64, "n": pl.Int64})
    unfinished = folder / f"_{number}.parquet"
    frame.write_parquet(unfinished)
    unfinished.rename(folder / f"{number}.parquet")


class Trial:
    """Three schedulers on a project, and what becomes of them.

    Args:
        folder: an empty folder.
        registry, online: the stores' addresses; None for SQLite and LMDB.
        ticks: how many ticks there is trouble for.
        trouble: how likely a scheduler is killed or stopped in a tick.
        seconds: how often each view is due.
    """

    def __init__(
        self, folder: Path, registry: str | None, online: str | None, ticks: int, trouble: float, seconds: dict[str, int]
    ) -> None:
        self.folder, self.ticks, self.trouble, self.seconds = folder, ticks, trouble, seconds
        self.draw = random.Random(SEED + ticks)
        self.data = folder / "data"
        self.data.mkdir()
        self.project = folder / f"schedule-{'sqlite' if registry is None else 'postgres'}-{ticks}"
        self.now = CONTEXT.Value("q", BEGIN * SECOND)
        self.stores = (registry, online)
        self.store = store_of(self.project, registry, online, self.clock, seconds)
        self.came: Counter[str] = Counter()

    def clock(self) -> datetime:
        return from_micros(self.now.value)

    def start(self) -> Worker:
        mine, theirs = CONTEXT.Pipe()
        process = CONTEXT.Process(
            target=schedule_worker.work, args=(str(self.project), *self.stores, self.seconds, self.now, theirs), daemon=True
        )
        process.start()
        theirs.close()
        assert mine.recv() == "ready"
        return Worker(process, mine)

    def run(self) -> None:
        workers = [self.start() for _ in range(3)]
        try:
            for tick in range(self.ticks + QUIET_TICKS):
                # At the end time stands, for what waits for others to be done as well.
                self.now.value = (BEGIN + min(tick, self.ticks + QUIET_TICKS - 4)) * SECOND
                if tick < self.ticks and self.draw.random() < 0.4:
                    write(self.data, tick, BEGIN + tick, self.draw)
                self.tick(workers, tick)
            for worker in workers:
                worker.orders.send(None)
                worker.process.join(60)
                assert worker.process.exitcode == 0
        finally:
            for worker in workers:
                worker.process.kill()

    def tick(self, workers: list[Worker], tick: int) -> None:
        asked = [worker for worker in workers if worker.stands_until <= tick]
        for worker in asked:
            if worker.stands_until >= 0:
                worker.go_on()
            else:
                worker.orders.send(self.order() if tick < self.ticks else (0, 0))

        def held_up() -> None:
            # One that stands still in the midst of a transaction, or has locked a file, keeps the others waiting.
            for worker in workers:
                if worker.stands_until > tick:
                    asked.append(worker)
                worker.go_on()

        for worker in asked:
            came = worker.answer(held_up)
            self.came[came] += 1
            if came == "dead":
                worker.process.join()
                workers[workers.index(worker)] = self.start()
            elif came == "stopped":
                worker.stands_until = min(tick + self.draw.randrange(1, 8), self.ticks + 1)

    def order(self) -> tuple[int, int]:
        if self.draw.random() >= self.trouble:
            return 0, 0
        number = signal.SIGKILL if self.draw.random() < 0.6 else signal.SIGSTOP
        lacking = [kind for came, kind in (("dead", signal.SIGKILL), ("stopped", signal.SIGSTOP)) if not self.came[came]]
        return round(10 ** self.draw.uniform(0, 3.5)), lacking[0] if lacking else number

    def check(self, over: list[tuple[str, int]]) -> None:
        """Compares what is left with what one undisturbed run leaves."""
        assert min(self.came["dead"], self.came["stopped"]) >= 1, self.came
        now = self.now.value
        last = {name: now // (each * SECOND) * each * SECOND for name, each in self.seconds.items()}
        for name in self.seconds:
            mine = [due for view, due in over if view == name]
            assert mine == sorted(set(mine)), "a due instant was settled twice, or after a later one"
            assert mine[-1] == last[name]
        standing = ScheduleStates(self.store.components.registry).load().dues
        assert {name: (due.state, due.due_at) for name, due in standing.items()} == {
            name: ("done", last[name]) for name in self.seconds
        }
        assert {run.state for run in self.store.runs.list(limit=10_000)} == {"done"}
        quiet = store_of(self.folder / "quiet", None, None, self.clock, self.seconds)
        for views in (["v", "often"], ["below"]):
            quiet.materialize(views)
        for name in self.seconds:
            assert left(self.store, name, ENTITIES) == left(quiet, name, ENTITIES)
        assert left(quiet, "v", ENTITIES)["rejected"]
        assert len(left(quiet, "below", ENTITIES)["history"]) > 100
        quiet.close()
        self.store.close()


def survive(folder: Path, registry: str | None, online: str | None, ticks: int, trouble: float, *seconds: int) -> None:
    trial = Trial(folder, registry, online, ticks, trouble, dict(zip(("v", "below", "often"), seconds, strict=True)))
    with settled(registry, trial.project) as over:
        trial.run()
    trial.check(over)


@pytest.mark.slow
def test_s17_three_schedulers_killed_and_stopped_sqlite(tmp_path: Path) -> None:
    survive(tmp_path, None, None, 24, 0.15, 2, 2, 3)


@pytest.mark.slow
def test_s17_three_schedulers_killed_and_stopped_postgres(tmp_path: Path, postgres_url: str, valkey_url: str) -> None:
    survive(tmp_path, postgres_url, valkey_url, 24, 0.15, 2, 2, 3)


@pytest.mark.slow
def test_s17_two_hundred_ticks_sqlite(tmp_path: Path) -> None:
    survive(tmp_path, None, None, 200, 0.08, 5, 5, 7)


@pytest.mark.slow
def test_s17_two_hundred_ticks_postgres(tmp_path: Path, postgres_url: str, valkey_url: str) -> None:
    survive(tmp_path, postgres_url, valkey_url, 200, 0.08, 5, 5, 7)
