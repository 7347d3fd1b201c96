"""The databases that a SQL source's query runs in: DuckDB here, or a PostgreSQL server. Both count time in UTC."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

import duckdb
import polars as pl
import pyarrow as pa

from featurestore.clock import from_micros
from featurestore.errors import MissingExtraError, SourceError
from featurestore.spec.source import SQLSource

_POSTGRES = re.compile(r"^postgres(ql)?://")
FIRST, LAST = -62_135_596_800_000_000, 253_402_300_799_999_999
"""The first and last instant that a ``datetime`` can say."""
_FIRST_NS, _LAST_NS = -9_223_372_036_854_775, 9_223_372_036_854_775
"""The first and last that a TIMESTAMP_NS can say."""


class Database(Protocol):
    """A connection that a query runs in, and what differs in the SQL of its kind."""

    divide: ClassVar[str]
    """The operator that divides integers and drops the remainder."""

    def fetch(self, query: str) -> pl.DataFrame:
        """Returns a query's rows."""

    def micros(self, column: str, dtype: pl.DataType) -> str:
        """Returns the SQL for a time column as the microseconds since the epoch, finer precision floored."""

    def literal(self, micros: int, dtype: pl.DataType) -> str:
        """Returns the SQL for an instant, to compare with a column of a dtype."""


@contextmanager
def open_database(spec: SQLSource, root: Path) -> Iterator[Database]:
    """Opens the database of a source, and closes it at the end of the block. Its errors are translated.

    Raises:
        SourceError: it cannot be opened, or the query fails.
        MissingExtraError: it is on a PostgreSQL server, and the driver is not installed.
    """
    address = spec.database
    if address is not None and _POSTGRES.match(address):
        with _postgres(spec, address) as postgres:
            yield postgres
    elif address is not None and "://" in address and not address.startswith("file://"):
        raise SourceError(
            f"Source {spec.name!r}: database= is {address.partition('://')[0]}://…, which is not supported. "
            "Give a DuckDB file, or a postgresql:// address."
        )
    else:
        with _duckdb(spec, address, root) as opened:
            yield opened


class DuckDB:
    """DuckDB, in memory or over a file that is opened to be read only."""

    divide: ClassVar[str] = "//"

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def fetch(self, query: str) -> pl.DataFrame:
        """Returns a query's rows."""
        return _frame(self._connection.sql(query).to_arrow_table())

    def micros(self, column: str, dtype: pl.DataType) -> str:
        """Returns the SQL for a time column as microseconds."""
        if getattr(dtype, "time_unit", None) != "ns":
            return f"epoch_us({column})"
        # NOTE: DuckDB's // and casts cut towards zero; before the epoch that is not the floor.
        return f"((epoch_ns({column}) - if(epoch_ns({column}) < 0, 999, 0)) // 1000)"

    def literal(self, micros: int, dtype: pl.DataType) -> str:
        """Returns the SQL for an instant."""
        if getattr(dtype, "time_unit", None) != "ns":
            return _literal(micros, dtype)
        text = _text(min(max(micros, _FIRST_NS), _LAST_NS))
        return f"TIMESTAMP_NS '{text}'" if getattr(dtype, "time_zone", None) is None else f"TIMESTAMPTZ_NS '{text}+00:00'"


class Postgres:
    """A PostgreSQL server, read through Arrow (ADBC)."""

    divide: ClassVar[str] = "/"

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor

    def fetch(self, query: str) -> pl.DataFrame:
        """Returns a query's rows; ``numeric`` as ``Decimal(38, 9)``, other types unknown to Arrow as they are stored."""
        self._cursor.execute(query)
        frame = _frame(self._cursor.fetch_arrow_table())
        return frame.with_columns(_plain(column) for column in frame if isinstance(column.dtype, pl.BaseExtension))

    def micros(self, column: str, dtype: pl.DataType) -> str:
        """Returns the SQL for a time column as microseconds."""
        return f"(extract(epoch from {column}) * 1000000)::bigint"

    def literal(self, micros: int, dtype: pl.DataType) -> str:
        """Returns the SQL for an instant."""
        return _literal(micros, dtype)


@contextmanager
def _duckdb(spec: SQLSource, address: str | None, root: Path) -> Iterator[DuckDB]:
    folder = root.absolute()
    path = ":memory:" if address is None else str(folder / address.removeprefix("file://"))
    try:
        with duckdb.connect(path, read_only=address is not None) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            # A query sees files, not the variables of the Python code around it.
            connection.execute("SET python_enable_replacements = false")
            # NOTE: DuckDB takes a comma in it for the beginning of another folder, and knows no way to say otherwise.
            connection.execute(f"SET file_search_path = {_quoted(str(folder))}")
            yield DuckDB(connection)
    except (duckdb.Error, pl.exceptions.PolarsError, OSError) as error:
        raise SourceError(f"Source {spec.name!r}: {_told(error)}\nThe query begins: {first_line(spec)}") from error


@contextmanager
def _postgres(spec: SQLSource, address: str) -> Iterator[Postgres]:
    try:
        import adbc_driver_manager
        from adbc_driver_postgresql import dbapi
    except ImportError as error:
        raise MissingExtraError(f"source {spec.name!r}, which reads PostgreSQL,", "postgres") from error
    try:
        with dbapi.connect(address) as connection, connection.cursor() as cursor:
            cursor.execute("SET TIME ZONE 'UTC'")
            yield Postgres(cursor)
    except (adbc_driver_manager.Error, pl.exceptions.PolarsError, OSError) as error:
        told = _without_password(_told(error), address)
        # The original may spell the password out, so it is not shown as the cause where it does.
        cause = error if told == _told(error) else None
        raise SourceError(f"Source {spec.name!r}: {told}\nThe query begins: {first_line(spec)}") from cause


def first_line(spec: SQLSource) -> str:
    """Returns the first line of a source's query, to tell which one is meant."""
    lines = spec.query.strip().splitlines()
    return lines[0].strip() + (" …" if len(lines) > 1 else "") if lines else "(it is empty)"


def quoted_name(name: str) -> str:
    """Returns a column's name as SQL.

    Example:
        >>> quoted_name("wind gust")
        '"wind gust"'
    """
    return '"' + name.replace('"', '""') + '"'


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _text(micros: int) -> str:
    instant = from_micros(min(max(micros, FIRST), LAST))
    return instant.replace(tzinfo=None).isoformat(" ", "microseconds")


def _literal(micros: int, dtype: pl.DataType) -> str:
    if getattr(dtype, "time_zone", None) is not None:
        return f"TIMESTAMPTZ '{_text(micros)}+00:00'"
    return f"TIMESTAMP '{_text(micros)}'"


def _frame(table: pa.Table) -> pl.DataFrame:
    for field in table.schema:
        # NOTE: Polars panics at it, which no caller could catch.
        if pa.types.is_interval(field.type):
            raise pl.exceptions.ComputeError(
                f"column {field.name!r} is an interval, which has no fixed length. Leave it out of the query, or cast it to "
                f"seconds: extract(epoch from {quoted_name(field.name)})."
            )
    return pl.DataFrame(table)


def _plain(column: pl.Series) -> pl.Series:
    stored = column.ext.storage()
    if "numeric" not in str(column.dtype) or stored.dtype != pl.String:
        return stored
    # The server does not say how many digits a result's numeric has; those of Decimal must do.
    if stored.str.contains(r"\.\d{9}\d*[1-9]|NaN|Infinity").any():
        raise pl.exceptions.ComputeError(
            f"column {column.name!r} is numeric and holds a value that has more than 9 decimal places, or is no number. "
            "Cast it in the query to double precision, or round it."
        )
    return stored.cast(pl.Decimal(38, 9))


def _told(error: Exception) -> str:
    return str(error).split("\n\n", 1)[0].strip()


def _without_password(told: str, address: str) -> str:
    """Returns a message with every trace of an address's password taken out, were the address misread too."""
    parts = urlsplit(address)
    before_host = re.match(r"^[a-z]+://[^:/?#]*:(.*)@", address)
    secrets = {*parse_qs(parts.query).get("password", []), *(before_host.groups() if before_host else ())}
    secrets |= {unquote(secret) for secret in secrets}
    for secret in sorted(secrets - {""}, key=len, reverse=True):
        told = told.replace(secret, "***")
    if "Failed to connect" not in told:
        return told
    # A password with a / or @ in it breaks the address in two, and the message may quote a piece.
    return re.sub(r'"([^"]+)"', lambda match: '"***"' if any(match[1] in secret for secret in secrets) else match[0], told)
