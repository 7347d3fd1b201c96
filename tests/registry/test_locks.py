"""A project's locks: one contract, on files beside SQLite and on PostgreSQL."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from multiprocessing.synchronize import Event
from pathlib import Path
from time import sleep

import psycopg
import pytest

from featurestore.errors import LockLostError, RegistryError
from featurestore.locks import FileLocks, Locks
from featurestore.registry.advisory_locks import AdvisoryLocks, project_locks
from featurestore.registry.database import Database
from featurestore.registry.write_barrier import WriteBarrier
from tests.processes import CONTEXT

OpenLocks = Callable[[], Locks]


@pytest.fixture
def open_locks(url: str, project: str, tmp_path: Path) -> Iterator[OpenLocks]:
    """Return the locks of the project, each time as another process would have them."""
    opened: list[Database] = []

    def open_one() -> Locks:
        opened.append(Database(url, tmp_path))
        return project_locks(opened[-1], project)

    yield open_one
    for database in opened:
        database.close()


def hold(url: str, project: str, root: Path, kind: str, is_held: Event, may_end: Event) -> None:
    """Hold a lock in a process until it may end, or is killed."""
    with getattr(project_locks(Database(url, root), project), kind)("weather", 60.0) as taken:
        assert taken
        is_held.set()
        may_end.wait(60)


def add_one(url: str, project: str, root: Path, path: Path, times: int) -> None:
    """Add to the number in a file, which is right only if nobody else does so meanwhile."""
    with closing(Database(url, root)) as database:
        locks = project_locks(database, project)
        for _ in range(times):
            with locks.exclusive("count", 60.0) as taken:
                assert taken
                path.write_text(str(int(path.read_text()) + 1))


def test_one_has_a_lock(open_locks: OpenLocks) -> None:
    one, other = open_locks(), open_locks()
    for first, second in ((one, other), (one, one)):
        with first.exclusive("weather", 1.0) as taken:
            assert taken
            for wait_seconds in (0.0, 0.05):
                with second.exclusive("weather", wait_seconds) as again, second.shared("weather", wait_seconds) as shared:
                    assert (again, shared) == (False, False)
            with second.exclusive("departures", 0.0) as of_another_name:
                assert of_another_name
        with second.exclusive("weather", 0.0) as again:
            assert again


def test_several_share_a_lock(open_locks: OpenLocks) -> None:
    one, other = open_locks(), open_locks()
    with one.shared("weather", 1.0) as first, other.shared("weather", 1.0) as second, one.shared("weather", 1.0) as third:
        assert (first, second, third) == (True, True, True)
        with other.exclusive("weather", 0.0) as alone:
            assert not alone
    with other.exclusive("weather", 0.0) as alone:
        assert alone


@pytest.mark.parametrize("name", ["", "a/b", "../../etc", "ä" * 60, "a'b; select 1", "%2F", "a\nb"])
def test_a_name_is_any_text(open_locks: OpenLocks, name: str) -> None:
    locks = open_locks()
    with locks.exclusive(name, 1.0) as taken, locks.exclusive(name, 0.0) as again, locks.exclusive(name + "x", 1.0) as other:
        assert (taken, again, other) == (True, False, True)


def test_projects_have_different_locks(url: str, tmp_path: Path, project: str) -> None:
    with closing(Database(url, tmp_path)) as database:
        one, other = project_locks(database, project), project_locks(database, f"{project}2")
        with one.exclusive("weather", 1.0) as taken, other.exclusive("weather", 1.0) as of_the_other:
            assert (taken, of_the_other) == (True, True)


def test_a_lock_is_given_back_by_a_block_that_fails(open_locks: OpenLocks) -> None:
    locks = open_locks()
    with pytest.raises(ZeroDivisionError), locks.exclusive("weather", 1.0):
        raise ZeroDivisionError
    with locks.exclusive("weather", 0.0) as taken:
        assert taken


def test_who_waits_gets_the_lock_when_it_is_free(open_locks: OpenLocks) -> None:
    locks, waiter = open_locks(), open_locks()
    with ThreadPoolExecutor(1) as pool:
        with locks.exclusive("weather", 1.0):
            waiting = pool.submit(lambda: _taken(waiter, "exclusive", 60.0))
            sleep(0.1)
            assert not waiting.done()
        assert waiting.result(60)


def test_who_waits_to_be_alone_comes_before_those_who_share_later(open_locks: OpenLocks) -> None:
    locks, waiter = open_locks(), open_locks()
    with ThreadPoolExecutor(1) as pool:
        with locks.shared("weather", 1.0) as first:
            alone = pool.submit(lambda: _taken(waiter, "exclusive", 60.0))
            sleep(0.2)
            with locks.shared("weather", 0.05) as later:
                assert (first, later, alone.done()) == (True, False, False)
        assert alone.result(60)
    with locks.shared("weather", 1.0) as later:
        assert later


@pytest.mark.parametrize("kind", ["exclusive", "shared"])
def test_a_process_that_is_killed_holds_nothing(url: str, project: str, tmp_path: Path, open_locks: OpenLocks, kind: str) -> None:
    is_held, may_end = CONTEXT.Event(), CONTEXT.Event()
    holder = CONTEXT.Process(target=hold, args=(url, project, tmp_path, kind, is_held, may_end))
    holder.start()
    assert is_held.wait(60)
    locks = open_locks()
    with locks.exclusive("weather", 0.0) as taken:
        assert not taken
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with locks.exclusive("weather", 30.0) as taken:
        assert taken


def test_processes_and_threads_exclude_each_other(url: str, project: str, tmp_path: Path) -> None:
    path = tmp_path / "count"
    path.write_text("0")
    processes = [CONTEXT.Process(target=add_one, args=(url, project, tmp_path, path, 40)) for _ in range(2)]
    threads = [threading.Thread(target=add_one, args=(url, project, tmp_path, path, 40)) for _ in range(3)]
    for each in (*processes, *threads):
        each.start()
    for each in (*processes, *threads):
        each.join(120)
    assert path.read_text() == "200"


def test_a_lost_connection_is_a_lost_lock(postgres_url: str, project: str, tmp_path: Path) -> None:
    """And the next lock is taken over a new connection."""
    with closing(Database(postgres_url, tmp_path)) as database:
        locks = AdvisoryLocks(database, project)
        for kind in ("shared", "exclusive"):
            lost = pytest.raises(LockLostError, match=r"The lock 'weather' was lost while it was needed: .+ Repeat it")
            with lost, getattr(locks, kind)("weather", 1.0):
                _end_connections(postgres_url)
            assert _taken(locks, "exclusive", 1.0)
        _end_connections(postgres_url)  # those of the pool
        assert _taken(locks, "shared", 1.0)


def test_who_gives_no_sign_of_life_loses_the_lock(
    postgres_url: str, project: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is there still, as far as the server knows, but nobody is at the other end. Others keep theirs."""
    monkeypatch.setattr(
        "featurestore.registry.advisory_locks._BEGIN", "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '2s'"
    )
    with closing(Database(postgres_url, tmp_path)) as database:
        monkeypatch.setattr("featurestore.registry.advisory_locks._PULSE_SECONDS", 0.2)
        locks = AdvisoryLocks(database, project)
        with locks.exclusive("weather", 1.0) as taken:
            assert taken
            sleep(4)
        assert _taken(locks, "exclusive", 1.0)
        monkeypatch.setattr("featurestore.registry.advisory_locks._Pulse._run", lambda pulse: None)
        silent = AdvisoryLocks(database, project)
        with pytest.raises(LockLostError), silent.exclusive("weather", 1.0):
            assert _taken(locks, "exclusive", 30.0)


def test_more_threads_wait_than_a_pool_has_connections(postgres_url: str, project: str, tmp_path: Path) -> None:
    """Each holds one lock and waits for a second one: with a pool of a fixed size they would wait for each other for ever."""
    with closing(Database(postgres_url, tmp_path)) as database:
        locks = AdvisoryLocks(database, project)
        together = threading.Barrier(12)

        def both(number: int) -> bool:
            with locks.exclusive(f"own {number}", 10.0) as own:
                together.wait(60)
                return own and _taken(locks, "exclusive", 60.0)

        with ThreadPoolExecutor(12) as pool:
            assert all(pool.map(both, range(12)))


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "locks").write_text("a file")
    with pytest.raises(RegistryError, match=r"cannot be taken: .+ May this process write in its folder"):
        _taken(FileLocks(tmp_path / "locks" / "p"), "shared", 1.0)


def test_an_erasure_begins_when_writes_are_over_and_keeps_others_out(
    open_locks: OpenLocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("featurestore.registry.write_barrier._HOLD", 0.01)
    writer, eraser = WriteBarrier(open_locks()), WriteBarrier(open_locks())
    order: list[str] = []
    is_writing, may_end = threading.Event(), threading.Event()

    def write() -> None:
        with writer.shared():
            is_writing.set()
            may_end.wait(60)
            order.append("written")

    def write_later() -> None:
        with writer.shared():
            order.append("written later")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(write)
        assert is_writing.wait(60)
        threading.Timer(0.3, may_end.set).start()
        with eraser.exclusive():
            order.append("erased")
            later = pool.submit(write_later)
            sleep(0.1)
            assert not later.done()
        first.result(60)
        later.result(60)
    assert order == ["written", "erased", "written later"]


def test_who_waits_too_long_is_an_error(open_locks: OpenLocks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featurestore.registry.write_barrier._PATIENCE", 0.05)
    monkeypatch.setattr("featurestore.registry.write_barrier._HOLD", 0.01)
    one, other = WriteBarrier(open_locks()), WriteBarrier(open_locks())
    with one.shared(), pytest.raises(RegistryError, match="wrote for 0 seconds without a pause"), other.exclusive():
        pass
    with one.exclusive(), pytest.raises(RegistryError, match="waited 0 seconds for an erasure"), other.shared():
        pass


def _taken(locks: Locks, kind: str, wait_seconds: float) -> bool:
    with getattr(locks, kind)("weather", wait_seconds) as taken:
        return bool(taken)


def _end_connections(url: str) -> None:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and query like '%%advisory%%'"
            " or pid <> pg_backend_pid() and query in ('COMMIT', 'ROLLBACK')"
        )
