"""A project's locks where its registry is: advisory locks in PostgreSQL, for processes of any machine; files beside SQLite.

A lock in PostgreSQL belongs to a transaction, on a connection of its own: it ends with the connection, so a process that is killed
holds nothing, and it works through a pooler that gives each transaction another connection. It is taken and given back by one
round trip each.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from time import perf_counter

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from featurestore.errors import LockLostError
from featurestore.locks import FileLocks, Locks
from featurestore.registry.database import Database, is_busy

_FOLDER = "locks"
_STEP_SECONDS = 5.0
"""How long one request waits: less than what makes a server count as silent."""
_UNBOUNDED = "SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL statement_timeout = 0"
"""What is locked may take longer than a transaction of the registry may stand idle."""
_KEEPALIVES = "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3"
"""After so many seconds the server notices that a holder's machine is gone, and gives the lock to the next."""


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
        self._engine = database.another_engine(pool_size=4, max_overflow=-1, pool_pre_ping=False, isolation_level="AUTOCOMMIT")

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
        with self._database.translated():
            connection, taken = self._taken(key, kind, wait_seconds)
        try:
            yield taken
        finally:
            self._end(connection, name if taken else None)

    def _taken(self, key: int, kind: str, wait_seconds: float) -> tuple[Connection, bool]:
        """Return a connection, and whether it has the lock now. Nothing is held yet: a pooled connection that ended is replaced."""
        connection = self._connect()
        try:
            return connection, _wait(connection, key, kind, wait_seconds)
        except DBAPIError as error:
            connection.close()
            if not error.connection_invalidated:
                raise
        except BaseException:
            connection.close()
            raise
        connection = self._connect()
        try:
            return connection, _wait(connection, key, kind, wait_seconds)
        except BaseException:
            connection.close()
            raise

    def _connect(self) -> Connection:
        connection = self._engine.connect()
        if not connection.info.get("keeps alive"):
            try:
                connection.exec_driver_sql(_KEEPALIVES)
            except BaseException:
                connection.close()
                raise
            connection.info["keeps alive"] = True
        return connection

    def _end(self, connection: Connection, held: str | None) -> None:
        """Give a connection back, with the lock.

        Raises:
            LockLostError: the connection ended before.
        """
        try:
            connection.exec_driver_sql("COMMIT" if held is not None else "ROLLBACK")
        except SQLAlchemyError as error:
            connection.invalidate()
            if held is not None:
                raise LockLostError(held, self._database.reason(error)) from error
        finally:
            connection.close()


def _wait(connection: Connection, key: int, kind: str, wait_seconds: float) -> bool:
    """Take a lock in a new transaction, and return whether it could be taken in time."""
    end = perf_counter() + wait_seconds
    while True:
        left = end - perf_counter()
        try:
            # All of it is one request, which is sent as it is only if it has no parameters.
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
        return f"BEGIN; {_UNBOUNDED}; DO $$ BEGIN {attempt}; END $$"
    step = max(1, round(min(left, _STEP_SECONDS) * 1000))
    return f"BEGIN; {_UNBOUNDED}; SET LOCAL lock_timeout = {step}; SELECT pg_advisory_xact_lock{kind}({key})"
