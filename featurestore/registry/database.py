"""The registry's database: transactions, tables created at first use, and errors that say what to do."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Lock
from time import sleep
from typing import Any

from sqlalchemy import Connection, Table, func, inspect, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from featurestore.durable import make_file, settle
from featurestore.errors import RegistryError
from featurestore.forking import tell_of_forks
from featurestore.registry import schema as tables
from featurestore.registry.schema import BUSY_SECONDS, METADATA, SCHEMA_VERSION, open_engine

_ADVISORY_LOCK = 0x66656174  # any number will do, if it is always the same one
_TRIES = 1_000
_LOCK_NOT_AVAILABLE = "55P03"
_WRITING = "BEGIN IMMEDIATE"  # SQLite's: as a reader that turns into a writer a transaction could fail half-way


class Database:
    """The database behind ``SpecRegistry`` and ``Ledger``. Thread-safe; opening it does no I/O.

    Args:
        url: ``sqlite:///path`` or ``postgresql+psycopg://…``.
        root: the folder at which a relative path starts.

    Raises:
        ConfigError: the address is of another form.
        MissingExtraError: the database's driver is not installed.
    """

    tables = tables

    def __init__(self, url: str, root: Path) -> None:
        self._engine = open_engine(url, root)
        self._is_file = self._engine.dialect.name == "sqlite"
        self._lock = Lock()
        self._prepared = False
        tell_of_forks(self)

    def after_fork(self) -> None:
        """See ``Forked.after_fork``. The child got its parent's connections; closing them here would close the parent's."""
        self._engine.dispose(close=False)
        self._lock = Lock()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Opens a transaction that only reads."""
        self._ready()
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Opens a transaction, which commits at the block's end and rolls back where the block raises."""
        self._ready()
        with self._transaction(_WRITING) as connection:
            yield connection

    def insert_new(self, connection: Connection, table: Table, values: Mapping[str, Any]) -> bool:
        """Inserts a row unless one is there with its primary key, or with another key that must be unique; tells whether it did."""
        insert = sqlite.insert if self._is_file else postgresql.insert
        new = insert(table).values(values).on_conflict_do_nothing()
        # NOTE: of an INSERT SQLAlchemy keeps no count unless it is told to; on PostgreSQL it would be -1.
        return connection.execute(new.execution_options(preserve_rowcount=True)).rowcount == 1

    def server_clock(self, connection: Connection) -> Any:
        """Returns the instant that PostgreSQL's clock tells."""
        return connection.execute(select(func.clock_timestamp())).scalar_one()

    def copy_to(self, path: Path) -> bool:
        """Copies the database to a file while others write to it; returns False where it is one of PostgreSQL's, not a file."""
        if not self._is_file:
            return False
        self._ready()
        with self._translated(), self._engine.connect().execution_options(begin=None) as connection:
            source: Any = connection.connection.driver_connection
            try:
                make_file(path)
                with closing(sqlite3.connect(path)) as target:
                    source.backup(target)
                settle(path.parent)
            except (sqlite3.Error, OSError) as error:
                raise RegistryError(f"The registry {self.address} cannot be copied to {path}: {error}.") from error
        return True

    def scrub(self) -> None:
        """Takes what was deleted or replaced out of the database's files, as far as they are ours to write.

        Raises:
            RegistryError: others were in the way for all the time that a writer waits.
        """
        self._ready()
        if not self._is_file:
            with self._translated(), self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql(f"VACUUM {tables.run.name}, {tables.due.name}")
            return
        with self._translated(), self._engine.connect().execution_options(begin=None) as connection:
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
        """Closes the connections. Closing twice is no error, and a later use opens them again."""
        self._engine.dispose()

    @property
    def address(self) -> str:
        """Where the database is, for people to read: without password and options."""
        url = self._engine.url
        return str(url.database) if self._is_file else url.set(query={}).render_as_string(hide_password=True)

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[Connection]:
        with self._translated(), self._engine.connect().execution_options(begin=begin) as connection, connection.begin():
            yield connection

    def _ready(self) -> None:
        """Makes the file and the tables, where they are not there yet; several processes may do so at once."""
        with self._lock:
            if self._prepared:
                return
            if self._is_file:
                self._prepare_file(Path(str(self._engine.url.database)))
            with self._transaction("BEGIN") as connection:
                complete = METADATA.tables.keys() <= set(inspect(connection).get_table_names()) and self._is_current(connection)
            if not complete:
                self._make_tables()
            self._prepared = True

    def _is_current(self, connection: Connection) -> bool:
        """Tells whether the tables have the columns of this version.

        Raises:
            RegistryError: they are of a later version.
        """
        version = connection.execute(select(func.max(tables.schema.c.version))).scalar()
        if version is not None and version > SCHEMA_VERSION:
            raise RegistryError(
                f"The registry {self.address} is of version {version}; this featurestore reads versions up to {SCHEMA_VERSION}. "
                "Upgrade featurestore here: pip install --upgrade featurestore."
            )
        return bool(version == SCHEMA_VERSION)

    def _make_tables(self) -> None:
        with self._transaction(_WRITING) as connection:
            if not self._is_file:
                # PostgreSQL's CREATE TABLE IF NOT EXISTS fails where two do it at once.
                connection.execute(select(func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
            METADATA.create_all(connection)
            if not self._is_current(connection):
                self._add_columns(connection)
                connection.execute(tables.schema.delete())
                connection.execute(tables.schema.insert().values(version=SCHEMA_VERSION))

    def _add_columns(self, connection: Connection) -> None:
        """Adds the columns that a registry of an earlier version lacks. They may be null, so that one may go on to write it."""
        there = inspect(connection)
        prepared = connection.dialect.identifier_preparer
        for table in METADATA.sorted_tables:
            names = {column["name"] for column in there.get_columns(table.name)}
            for column in table.columns:
                if column.name not in names and not column.nullable:
                    raise RegistryError(
                        f"The registry {self.address} cannot be used: no such column: {table.name}.{column.name}. "
                        "Is it one of featurestore?"
                    )
                if column.name not in names:
                    dtype = column.type.compile(connection.dialect)
                    place = f"{prepared.format_table(table)} ADD COLUMN {prepared.format_column(column)} {dtype}"
                    connection.exec_driver_sql(f"ALTER TABLE {place}")

    def _prepare_file(self, path: Path) -> None:
        try:
            make_file(path)
        except OSError as error:
            raise RegistryError(f"The registry's folder {str(path.parent)!r} cannot be made: {error.strerror}.") from error
        with self._translated(), self._engine.connect().execution_options(begin=None) as connection:
            for tries_left in reversed(range(_TRIES)):
                try:
                    connection.exec_driver_sql("PRAGMA journal_mode=WAL")
                except OperationalError as error:
                    # NOTE: for this change of mode SQLite does not wait, whatever its timeout says.
                    if not (_busy(error) and tries_left):
                        raise
                    sleep(BUSY_SECONDS / _TRIES)
                else:
                    return

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise RegistryError(self._explain(error)) from error

    def _explain(self, error: SQLAlchemyError) -> str:
        reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0].rstrip(".")
        password = self._engine.url.password
        if password:
            reason = reason.replace(str(password), "***")
        if _busy(error):
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


def _busy(error: SQLAlchemyError) -> bool:
    """Tells whether the database gave up waiting for another process."""
    code = getattr(getattr(error, "orig", None), "sqlite_errorcode", 0)
    if getattr(getattr(error, "orig", None), "sqlstate", None) == _LOCK_NOT_AVAILABLE:
        return True
    return code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
