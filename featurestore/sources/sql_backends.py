"""The databases of SQL sources: DuckDB in this process, or a PostgreSQL server. Both count time in UTC."""

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
from featurestore.definitions.source import SQLSource
from featurestore.errors import MissingExtraError, SourceError
from featurestore.rows.unreadable import with_texts
from featurestore.sources.timestamps import FIRST, LAST

_POSTGRES = re.compile(r"^postgres(ql)?://")
_FIRST_NS, _LAST_NS = -9_223_372_036_854_775, 9_223_372_036_854_775
"""The first and last that a TIMESTAMP_NS can say."""


class Database(Protocol):
    """A connection that a query runs in, and what differs in the SQL of its kind."""

    divide: ClassVar[str]
    """The operator that divides integers and drops the remainder."""

    def fetch(self, query: str) -> pl.DataFrame:
        """Return a query's rows."""

    def foreign(self, from_query: str) -> dict[str, str]:
        """Return a query's columns, where there are such of types that are not read: for each its type, empty if it is read.

        Args:
            from_query: ``from (the query) as q``.
        """

    def text(self, column: str) -> str:
        """Return the SQL for a column as text."""

    def horizon(self) -> tuple[int, int]:
        """Return the database's time, and an instant before which no row will be stamped any more, as far as can be seen."""

    def micros(self, column: str, dtype: pl.DataType) -> str:
        """Return the SQL for a time column as the microseconds since the epoch, finer precision floored."""

    def literal(self, micros: int, dtype: pl.DataType) -> str:
        """Return the SQL for an instant, to compare with a column of a dtype."""


@contextmanager
def open_database(spec: SQLSource, root: Path) -> Iterator[Database]:
    """Open the database of a source, and close it at the end of the block. Its errors are translated.

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
        """Return a query's rows; types unknown to Polars as they are stored.

        A value that Arrow does not hold as what it is here is null, and its text in ``UNREAD``.
        """
        relation = self._connection.sql(query)
        conversions = {
            name: _held(quoted_name(name), dtype.id) for name, dtype in zip(relation.columns, relation.types, strict=True)
        }
        wide = {name: value for name, value in conversions.items() if value is not None}
        if wide:
            values = [wide.get(name) or quoted_name(name) for name in relation.columns]
            beyond = [f"case when {value} is null then cast({quoted_name(name)} as varchar) end" for name, value in wide.items()]
            relation = relation.project(", ".join(f"{expression} as c{at}" for at, expression in enumerate([*values, *beyond])))
        table = relation.to_arrow_table()
        frame = pl.DataFrame(table.select(range(len(conversions))).rename_columns(list(conversions)))
        texts = {name: pl.Series(name, table.column(len(conversions) + at)) for at, name in enumerate(wide)}
        frame = frame.with_columns(column.ext.storage() for column in frame if isinstance(column.dtype, pl.BaseExtension))
        return with_texts(frame, {**texts, **_midnights(table, frame)})

    def foreign(self, from_query: str) -> dict[str, str]:
        """Return a query's columns and their types that are not read."""
        relation = self._connection.sql(f"select * {from_query} limit 0")
        kinds = {name: _foreign_duckdb(dtype) for name, dtype in zip(relation.columns, relation.types, strict=True)}
        return kinds if any(kinds.values()) else {}

    def text(self, column: str) -> str:
        """Return the SQL for a column as text."""
        return f"cast({column} as varchar)"

    def horizon(self) -> tuple[int, int]:
        """Return DuckDB's time twice: a process that writes to one of its files locks readers out."""
        now = int(self.fetch("select epoch_us(now()) as now").item())
        return now, now

    def micros(self, column: str, dtype: pl.DataType) -> str:
        """Return the SQL for a time column as microseconds."""
        if getattr(dtype, "time_unit", None) != "ns":
            return f"epoch_us({column})"
        # NOTE: DuckDB's // and casts cut towards zero; before the epoch that is not the floor.
        return f"((epoch_ns({column}) - if(epoch_ns({column}) < 0, 999, 0)) // 1000)"

    def literal(self, micros: int, dtype: pl.DataType) -> str:
        """Return the SQL for an instant."""
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
        """Return a query's rows; ``numeric`` as ``Decimal(38, 9)``, other types unknown to Arrow as they are stored.

        A number that this decimal does not hold is null, and its text in ``UNREAD``.
        """
        self._cursor.execute(query)
        table = self._cursor.fetch_arrow_table()
        frame = pl.DataFrame(table)
        plain = {column.name: _plain(column) for column in frame if isinstance(column.dtype, pl.BaseExtension)}
        texts = {name: texts for name, (_, texts) in plain.items() if texts is not None}
        return with_texts(frame.with_columns(column for column, _ in plain.values()), {**texts, **_midnights(table, frame)})

    def foreign(self, from_query: str) -> dict[str, str]:
        """Return a query's columns and their types that are not read."""
        self._cursor.execute(f"select * {from_query} limit 0")
        schema: pa.Schema = self._cursor.fetch_arrow_table().schema
        kinds = {field.name: _foreign_postgres(field) for field in schema}
        return kinds if any(kinds.values()) else {}

    def text(self, column: str) -> str:
        """Return the SQL for a column as text."""
        return f"({column})::text"

    def horizon(self) -> tuple[int, int]:
        """Return the server's time, and when the oldest transaction began that is open or prepared, as far as this role sees."""
        self._cursor.execute(_HORIZON)
        row = pl.DataFrame(self._cursor.fetch_arrow_table()).row(0, named=True)
        return row["now"], row["horizon"]

    def micros(self, column: str, dtype: pl.DataType) -> str:
        """Return the SQL for a time column as microseconds."""
        return f"(extract(epoch from {column}) * 1000000)::bigint"

    def literal(self, micros: int, dtype: pl.DataType) -> str:
        """Return the SQL for an instant."""
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
        raise SourceError(f"Source {spec.name!r}: {_message_of(error)}\nThe query begins: {first_line(spec)}") from error


@contextmanager
def _postgres(spec: SQLSource, address: str) -> Iterator[Postgres]:
    try:
        # An extra, which DuckDB does not need.
        import adbc_driver_manager
        from adbc_driver_postgresql import dbapi
    except ImportError as error:
        raise MissingExtraError(f"source {spec.name!r}, which reads PostgreSQL,", "postgres") from error
    try:
        with dbapi.connect(address) as connection, connection.cursor() as cursor:
            cursor.execute("SET TIME ZONE 'UTC'")
            yield Postgres(cursor)
    except (adbc_driver_manager.Error, pl.exceptions.PolarsError, OSError) as error:
        message = _without_password(_message_of(error), address)
        # The original may spell the password out, so it is not shown as the cause where it does.
        cause = error if message == _message_of(error) else None
        raise SourceError(f"Source {spec.name!r}: {message}\nThe query begins: {first_line(spec)}") from cause


def first_line(spec: SQLSource) -> str:
    """Return the first line of a source's query, to tell which one is meant."""
    lines = spec.query.strip().splitlines()
    return lines[0].strip() + (" …" if len(lines) > 1 else "") if lines else "(it is empty)"


def quoted_name(name: str) -> str:
    """Return a column's name as SQL.

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


def _foreign_duckdb(dtype: Any) -> str:
    """Return the name of a DuckDB type that is not read, or that has one inside; empty for others."""
    # Of a time with a zone Arrow has the time alone.
    if dtype.id in ("interval", "union", "time with time zone"):
        return str(dtype)
    if dtype.id not in ("list", "array", "struct", "map"):
        return ""
    inside = (child for _, child in dtype.children if isinstance(child, type(dtype)))
    return str(dtype) if any(map(_foreign_duckdb, inside)) else ""


def _held(column: str, kind: str) -> str | None:
    """Return the SQL for a DuckDB column's values as far as Arrow and Polars hold them, null for others; None where all are held.

    A 128-bit integer comes as a decimal of 38 digits, a larger one wrapped around. An infinity of seconds is taken for a time in
    1970, one of nanoseconds for the last that there is.
    """
    if kind in ("hugeint", "uhugeint"):
        return f"try_cast({column} as decimal(38, 0))"
    return f"case when isfinite({column}) then {column} end" if kind in ("timestamp_s", "timestamp_ns") else None


def _midnights(table: pa.Table, frame: pl.DataFrame) -> dict[str, pl.Series]:
    """Return the texts of times that only SQL has, a day's end, which Polars takes for null."""
    texts = {}
    for at, name in enumerate(frame.columns):
        if isinstance(frame.schema[name], pl.Time) and frame[name].null_count() > table.column(at).null_count:
            lost = frame[name].is_null() & pl.Series(table.column(at).is_valid())
            texts[name] = pl.select(pl.when(pl.lit(lost)).then(pl.lit("24:00:00"))).to_series()
    return texts


def _foreign_postgres(field: pa.Field) -> str:
    """Return the name of a PostgreSQL type that is not read rightly, or that has others inside; empty for others.

    A domain has the name of what it is over. Money comes as cents, an interval has no fixed length, and of a row or an array of
    what the server's users defined the driver does not say what is inside.
    """
    kind: str = (field.metadata or {}).get(b"POSTGRESQL:type", b"").decode()
    if kind in ("money", "interval", "record") or pa.types.is_interval(field.type) or pa.types.is_struct(field.type):
        return kind or str(field.type)
    if pa.types.is_list(field.type) and kind not in _ARRAYS:
        return kind.removeprefix("_") + "[]"
    return ""


_ARRAYS = frozenset(
    f"_{name}"
    for name in (
        "bool", "int2", "int4", "int8", "float4", "float8", "text", "varchar", "bpchar", "name", "char", "bytea", "date", "time",
        "timestamp", "timestamptz", "oid",
    )
)  # fmt: skip
"""The arrays whose elements come as what they are."""

_HORIZON = """
select (extract(epoch from now) * 1000000)::bigint as now,
    (extract(epoch from least(now, running, prepared)) * 1000000)::bigint as horizon
from (
    select clock_timestamp() as now,
        (select min(xact_start) from pg_stat_activity
         where pid <> pg_backend_pid() and datname = current_database() and backend_type <> 'walsender') as running,
        (select min(prepared) from pg_prepared_xacts where database = current_database()) as prepared
) as times
"""

_DECIMAL = r"^-?\d{1,29}(\.\d{1,9}0*)?$"


def _plain(column: pl.Series) -> tuple[pl.Series, pl.Series | None]:
    """Return a column as it is stored, a numeric one as decimals, and the texts of those that are none."""
    stored = column.ext.storage()
    if "numeric" not in str(column.dtype) or stored.dtype != pl.String:
        return stored, None
    # The server does not say how many digits a result's numeric has; those of Decimal must do.
    fits = stored.str.contains(_DECIMAL).fill_null(value=True)
    return stored.set(~fits, None).cast(pl.Decimal(38, 9)), stored.set(fits, None)


def _message_of(error: Exception) -> str:
    return str(error).split("\n\n", 1)[0].strip()


def _without_password(message: str, address: str) -> str:
    """Return a message with every trace of an address's password taken out, were the address misread too."""
    parts = urlsplit(address)
    before_host = re.match(r"^[a-z]+://[^:/?#]*:(.*)@", address)
    secrets = {*parse_qs(parts.query).get("password", []), *(before_host.groups() if before_host else ())}
    secrets |= {unquote(secret) for secret in secrets}
    for secret in sorted(secrets - {""}, key=len, reverse=True):
        message = message.replace(secret, "***")
    if "Failed to connect" not in message:
        return message
    # A password with a / or @ in it breaks the address in two, and the message may quote a piece.
    return re.sub(r'"([^"]+)"', lambda match: '"***"' if any(match[1] in secret for secret in secrets) else match[0], message)
