"""The registry's database: transactions, tables made or migrated at first use, and errors that say what to do."""

import logging
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from threading import Lock
from time import sleep
from typing import Any

from sqlalchemy import Connection, Engine, Table, dialects, func, inspect, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from featurestore.clock import Clock, to_micros, utc_now
from featurestore.durable import make_file, settle
from featurestore.errors import RegistryError
from featurestore.forking import notify_of_forks
from featurestore.registry import schema as tables
from featurestore.registry.migrations import (
    Migration,
    MigrationReport,
    make_missing_tables,
    pending,
    schema_version,
    write_version,
)
from featurestore.registry.schema import BUSY_SECONDS, METADATA, SCHEMA_VERSION, open_engine

_log = logging.getLogger("featurestore")
_ADVISORY_LOCK = 0x66656174  # any number will do, if it is always the same one
_TRIES = 1_000
_LOCK_NOT_AVAILABLE = "55P03"
_WRITING = "BEGIN IMMEDIATE"  # SQLite's: as a reader that turns into a writer a transaction could fail half-way


class Database:
    """The database behind ``SpecRegistry`` and ``Ledger``. Thread-safe; opening it does no I/O.

    Args:
        url: ``sqlite:///path`` or ``postgresql+psycopg://…``.
        root: the folder at which a relative path starts.
        clock: tells when the tables are migrated.

    Raises:
        ConfigError: the address is of another form.
        MissingExtraError: the database's driver is not installed.
    """

    tables = tables

    def __init__(self, url: str, root: Path, clock: Clock = utc_now) -> None:
        self._open_engine = partial(open_engine, url, root)
        self._engines = [self._open_engine()]
        self._engine = self._engines[0]
        self._clock = clock
        self._is_file = self._engine.dialect.name == "sqlite"
        self._lock = Lock()
        self._prepared = False
        notify_of_forks(self)

    def after_fork(self) -> None:
        """See ``Forked.after_fork``. The child got its parent's connections; closing them here would close the parent's."""
        for engine in self._engines:
            engine.dispose(close=False)
        self._lock = Lock()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a transaction that only reads."""
        self._ready()
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open a transaction, which commits at the block's end and rolls back where the block raises."""
        self._ready()
        with self._transaction(_WRITING) as connection:
            yield connection

    def insert_new(self, connection: Connection, table: Table, values: Mapping[str, Any]) -> bool:
        """Insert a row unless one is there with its primary key, or with another key that must be unique; return whether it did."""
        # NOTE: an engine imports its dialect, which for PostgreSQL takes as long as the whole registry in a file.
        insert = sqlite.insert if self._is_file else dialects.postgresql.insert  # type: ignore[attr-defined]  # see above
        new = insert(table).values(values).on_conflict_do_nothing()
        # NOTE: of an INSERT SQLAlchemy keeps no count unless it is told to; on PostgreSQL it would be -1.
        return connection.execute(new.execution_options(preserve_rowcount=True)).rowcount == 1

    def server_clock(self, connection: Connection) -> Any:
        """Return the instant that PostgreSQL's clock tells."""
        return connection.execute(select(func.clock_timestamp())).scalar_one()

    def copy_to(self, path: Path) -> bool:
        """Copy the database to a file while others write to it; return False where it is one of PostgreSQL's, not a file."""
        if not self._is_file:
            return False
        self._ready()
        with self.translated(), self._engine.connect().execution_options(begin=None) as connection:
            source: Any = connection.connection.driver_connection
            try:
                make_file(path)
                with closing(sqlite3.connect(path)) as target:
                    source.backup(target)
                settle(path.parent)
            except (sqlite3.Error, OSError) as error:
                raise RegistryError(f"The registry {self.address} cannot be copied to {path}: {error}.") from error
        return True

    def migrate(self, *, dry_run: bool = False) -> MigrationReport:
        """Bring the tables to the schema version of this program, as the first use does by itself.

        Args:
            dry_run: change nothing, and make no file; report what would be done.

        Raises:
            RegistryError: the tables are of a newer version; or a migration failed, and they are at the version before it.
        """
        with self._lock:
            version = self._version()
            steps = pending(version) if dry_run else self._prepare()
            return MigrationReport(self.address, version, SCHEMA_VERSION, tuple(steps), dry_run)

    def scrub(self) -> None:
        """Take what was deleted or replaced out of the database's files, as far as they are ours to write.

        Raises:
            RegistryError: others were in the way for all the time that a writer waits.
        """
        self._ready()
        if not self._is_file:
            with self.translated(), self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql(f"VACUUM {tables.run.name}, {tables.due.name}")
            return
        with self.translated(), self._engine.connect().execution_options(begin=None) as connection:
            connection.exec_driver_sql("VACUUM")  # which writes all pages anew, into the write-ahead log
            for tries_left in reversed(range(_TRIES)):
                if not connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]:
                    return
                if tries_left:
                    sleep(BUSY_SECONDS / _TRIES)
        raise RegistryError(
            f"The registry {self.address} was read for more than {BUSY_SECONDS} s, so its write-ahead log could not be emptied of "
            "what was deleted. Repeat this."
        )

    def close(self) -> None:
        """Close the connections. Idempotent; a later use opens them again."""
        for engine in self._engines:
            engine.dispose()

    def another_engine(self, **options: Any) -> Engine:
        """Return an engine with connections of its own, which end with this object's.

        Args:
            options: arguments of SQLAlchemy's ``create_engine``.
        """
        self._engines.append(self._open_engine(**options))
        return self._engines[-1]

    @property
    def file(self) -> Path | None:
        """The file of the database, if it is one."""
        return Path(str(self._engine.url.database)) if self._is_file else None

    @property
    def address(self) -> str:
        """Where the database is, for people to read: without password and options."""
        url = self._engine.url
        return str(url.database) if self._is_file else url.set(query={}).render_as_string(hide_password=True)

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[Connection]:
        with self.translated(), self._engine.connect().execution_options(begin=begin) as connection, connection.begin():
            yield connection

    def _ready(self) -> None:
        """Make the file and the tables where they are missing, and migrate those of before; several processes may do so at once."""
        with self._lock:
            if not self._prepared:
                self._prepare()

    def _prepare(self) -> list[Migration]:
        """Do what ``_ready`` does, and return the migrations that ran here."""
        if self.file is not None:
            self._prepare_file(self.file)
        with self._transaction("BEGIN") as connection:
            is_current = self._known_version(connection) == SCHEMA_VERSION
            is_whole = METADATA.tables.keys() <= set(inspect(connection).get_table_names())
        steps: list[Migration] = []
        while not (is_current and is_whole):
            step, version = self._migrate_once()
            steps += [] if step is None else [step]
            is_current = is_whole = version == SCHEMA_VERSION
        self._prepared = True
        return steps

    def _migrate_once(self) -> tuple[Migration | None, int]:
        """Run the first migration that is pending, or make the missing tables where none is; return it and the version reached."""
        with self._transaction(_WRITING) as connection:
            if not self._is_file:
                # NOTE: PostgreSQL's CREATE TABLE IF NOT EXISTS fails where two do it at once.
                connection.execute(select(func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
            # Only now: another process may have migrated while this one waited for the lock.
            version = self._known_version(connection)
            step = next(iter(pending(version)), None)
            reached = SCHEMA_VERSION if step is None else step.version
            if step is not None:
                self._run(step, version, connection)
            if reached != version:
                write_version(connection, reached, to_micros(self._clock()))
            if reached == SCHEMA_VERSION:
                make_missing_tables(connection, self.address)
        if step is not None:
            _log.info("The registry %s is at schema version %d now: %s.", self.address, reached, step.summary)
        return step, reached

    def _run(self, step: Migration, version: int, connection: Connection) -> None:
        try:
            step.run(connection)
        except SQLAlchemyError as error:
            cause = "Other processes use its tables: stop schedulers and streams" if is_busy(error) else "Remove the cause"
            raise RegistryError(
                f"The registry {self.address} could not be migrated from schema version {version} to {step.version} "
                f"({step.summary}): {self.reason(error)}. It is at version {version} as before, with all its rows. "
                f"{cause}, then run: featurestore migrate"
            ) from error

    def _version(self) -> int:
        """Return the tables' version, making nothing; 0 where none are there."""
        if self.file is not None and not self.file.exists():
            return 0
        with self._transaction("BEGIN") as connection:
            return self._known_version(connection)

    def _known_version(self, connection: Connection) -> int:
        """Return the tables' version.

        Raises:
            RegistryError: it is newer than this program.
        """
        version = schema_version(connection)
        if version > SCHEMA_VERSION:
            raise RegistryError(
                f"The registry {self.address} is at schema version {version}; this featurestore knows versions up to "
                f"{SCHEMA_VERSION}. Upgrade featurestore here: pip install --upgrade featurestore."
            )
        return version

    def _prepare_file(self, path: Path) -> None:
        try:
            make_file(path)
        except OSError as error:
            raise RegistryError(f"The registry's folder {str(path.parent)!r} cannot be made: {error.strerror}.") from error
        with self.translated(), self._engine.connect().execution_options(begin=None) as connection:
            for tries_left in reversed(range(_TRIES)):
                try:
                    connection.exec_driver_sql("PRAGMA journal_mode=WAL")
                except OperationalError as error:
                    # NOTE: for this change of mode SQLite does not wait, whatever its timeout says.
                    if not (is_busy(error) and tries_left):
                        raise
                    sleep(BUSY_SECONDS / _TRIES)
                else:
                    return

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Return a context in which an error of the database becomes a ``RegistryError`` that says what to do."""
        try:
            yield
        except SQLAlchemyError as error:
            raise RegistryError(self._explain(error)) from error

    def reason(self, error: SQLAlchemyError) -> str:
        """Return what the database says of an error, in one line and without the password."""
        reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0].rstrip(".")
        password = self._engine.url.password
        return reason.replace(str(password), "***") if password else reason

    def _explain(self, error: SQLAlchemyError) -> str:
        reason = self.reason(error)
        if is_busy(error):
            advice = ", or use PostgreSQL (registry=) where many write at once" if self._is_file else ""
            return (
                f"The registry {self.address} is busy: another process has been writing to it for more than {BUSY_SECONDS} s. "
                f"Try again{advice}."
            )
        if isinstance(error, DBAPIError) and (error.statement is None or error.connection_invalidated):
            advice = (
                "Can its folder be written to?"
                if self._is_file
                else "Does the server run, and is its address in featurestore.toml (registry=) or FEATURESTORE_REGISTRY right?"
            )
            return f"The registry {self.address} cannot be reached: {reason}. {advice}"
        if getattr(getattr(error, "orig", None), "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return f"The registry {self.address} is damaged: {reason}. Restore it from a backup. See: featurestore doctor"
        return f"The registry {self.address} cannot be used: {reason}. Is it one of this version of featurestore?"


def is_busy(error: SQLAlchemyError) -> bool:
    """Return whether the database gave up waiting for another process."""
    code = getattr(getattr(error, "orig", None), "sqlite_errorcode", 0)
    if getattr(getattr(error, "orig", None), "sqlstate", None) == _LOCK_NOT_AVAILABLE:
        return True
    return code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
