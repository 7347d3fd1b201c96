"""A project's locks where its registry is: advisory locks in PostgreSQL, for processes of any machine; files beside SQLite.

A lock in PostgreSQL belongs to a transaction, on a connection of its own: it ends with the connection, so a process that is killed
holds nothing, and it works through a pooler that gives each transaction another connection. It is taken and given back by one
round trip each. A holder gives a sign of life every few seconds; from one that gives none, because its machine or the network is
gone, the server takes the lock.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from threading import Lock, Thread
from time import perf_counter, sleep
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from featurestore.errors import LockLostError
from featurestore.forking import notify_of_forks
from featurestore.locks import FileLocks, Locks
from featurestore.registry.database import Database, is_busy

_FOLDER = "locks"
_STEP_SECONDS = 5.0
"""How long one request waits: less than what makes a server count as silent."""
_OLD_SECONDS = 10
_ANSWER_SECONDS = 8.0
"""How long an answer may take: longer than one request waits."""
_SILENT_SECONDS = 12
"""After how long without a sign of life a holder loses its lock."""
_PULSE_SECONDS = 3.0
_BEGIN = f"BEGIN; SET LOCAL idle_in_transaction_session_timeout = '{_SILENT_SECONDS}s'"


def project_locks(database: Database, project: str) -> Locks:
    """Return the locks of a project, where its registry is.

    Args:
        database: the registry's database.
        project: the project's name.
    """
    if database.file is not None:
        return FileLocks(lock_folder(database.file, project))
    return AdvisoryLocks(database, project)


def lock_folder(file: Path, project: str) -> Path:
    """Return the folder of a project's locks, beside its registry's file."""
    return file.parent / _FOLDER / project


class AdvisoryLocks:
    """The locks of a project in PostgreSQL. Thread-safe, and safe to use in a forked child.

    Args:
        database: the registry's database, which closes their connections with its own.
        project: the project's name: projects have different locks.
    """

    def __init__(self, database: Database, project: str) -> None:
        self._database = database
        self._project = project
        # NOTE: no pool of a fixed size: a thread that waits for a second lock while it holds one must not wait for a connection.
        # And none that is old: after a failure of the network its answer would not come, and a new one costs milliseconds.
        options = {"pool_size": 4, "max_overflow": -1, "pool_pre_ping": False, "pool_recycle": _OLD_SECONDS}
        self._engine = database.another_engine(isolation_level="AUTOCOMMIT", **options)
        self._pulse = _Pulse(self._engine.dialect.loaded_dbapi.Error)

    @contextmanager
    def shared(self, name: str, wait_seconds: float) -> Iterator[bool]:
        """See ``Locks.shared``."""
        with self._locked(name, "_shared", wait_seconds) as taken:
            yield taken

    @contextmanager
    def exclusive(self, name: str, wait_seconds: float) -> Iterator[bool]:
        """See ``Locks.exclusive``."""
        with self._locked(name, "", wait_seconds) as taken:
            yield taken

    @contextmanager
    def _locked(self, name: str, kind: str, wait_seconds: float) -> Iterator[bool]:
        key = int.from_bytes(blake2b(f"{self._project}/{name}".encode(), digest_size=8).digest(), "big", signed=True)
        with ExitStack() as stack:
            with self._database.translated():
                connection, taken = self._taken(stack, key, kind, wait_seconds)
            if not taken:
                yield False
                return
            driver: Any = connection.connection.driver_connection
            self._pulse.keep(driver)
            try:
                yield True
            finally:
                self._pulse.leave(driver)
                self._end(connection, name)

    def _taken(self, stack: ExitStack, key: int, kind: str, wait_seconds: float) -> tuple[Connection, bool]:
        """Return a connection, which goes back with the stack, and whether it has the lock now."""
        connection = stack.enter_context(self._engine.connect())
        try:
            return connection, _wait(connection, key, kind, wait_seconds)
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
        # Nothing was held: a pooled connection had ended, and another one does as well.
        connection = stack.enter_context(self._engine.connect())
        return connection, _wait(connection, key, kind, wait_seconds)

    def _end(self, connection: Connection, name: str) -> None:
        """Give a lock back.

        Raises:
            LockLostError: the connection ended before.
        """
        try:
            connection.exec_driver_sql("COMMIT")
        except SQLAlchemyError as error:
            connection.invalidate()
            raise LockLostError(name, self._database.reason(error)) from error


def _wait(connection: Connection, key: int, kind: str, wait_seconds: float) -> bool:
    """Take a lock in a new transaction, and return whether it could be taken in time."""
    end = perf_counter() + wait_seconds
    while True:
        left = end - perf_counter()
        try:
            # All of it is one request, which is sent as it is only if it has no parameters.
            driver: Any = connection.connection.driver_connection
            driver.silent_seconds = _ANSWER_SECONDS
            connection.exec_driver_sql(_request(key, kind, left), execution_options={"no_parameters": True})
        except DBAPIError as error:
            if not is_busy(error):
                raise
            connection.exec_driver_sql("ROLLBACK")
            if left <= 0:
                return False
        else:
            return True


def _request(key: int, kind: str, left: float) -> str:
    """Return the statements that begin a transaction with a lock. It is an error of the state 55P03 if the lock is not free."""
    if left <= 0:
        attempt = f"IF NOT pg_try_advisory_xact_lock{kind}({key}) THEN RAISE EXCEPTION USING ERRCODE = '55P03'; END IF"
        return f"{_BEGIN}; DO $$ BEGIN {attempt}; END $$"
    step = max(1, round(min(left, _STEP_SECONDS) * 1000))
    return f"{_BEGIN}; SET LOCAL lock_timeout = {step}; SELECT pg_advisory_xact_lock{kind}({key})"


class _Pulse:
    """Give signs of life over the connections whose locks are held for long, in a thread that ends when none is held.

    Args:
        error: what the driver raises over a connection that has ended.
    """

    def __init__(self, error: type[Exception]) -> None:
        self._error = error
        self.after_fork()
        notify_of_forks(self)

    def after_fork(self) -> None:
        """See ``Forked.after_fork``. The locks are the parent's."""
        self._lock = Lock()
        self._since: dict[Any, float] = {}
        self._thread: Thread | None = None

    def keep(self, driver: Any) -> None:
        """Begin with a connection of the driver's."""
        with self._lock:
            self._since[driver] = perf_counter()
            if self._thread is None:
                self._thread = Thread(target=self._run, name="featurestore-locks", daemon=True)
                self._thread.start()

    def leave(self, driver: Any) -> None:
        """End with a connection."""
        with self._lock:
            self._since.pop(driver, None)

    def _run(self) -> None:
        while True:
            sleep(_PULSE_SECONDS)
            with self._lock:
                if not self._since:
                    self._thread = None
                    return
                long = [driver for driver, since in self._since.items() if perf_counter() - since >= _PULSE_SECONDS]
            for driver in long:
                with suppress(self._error):  # the holder learns it when it gives the lock back
                    driver.execute("SELECT 1")
