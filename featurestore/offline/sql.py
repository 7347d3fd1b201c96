"""SQL over the history: every view is a DuckDB view of its name."""

import re
from collections.abc import Mapping, Sequence

import duckdb
import polars as pl

from featurestore.errors import NotFoundError, OfflineStoreError, RequestError, did_you_mean
from featurestore.offline.base import OfflineStore, Table

_WORD = re.compile(r"\w+")


def query_history(query: str, tables: Mapping[str, Table], store: OfflineStore) -> pl.DataFrame:
    """Returns the result of a SELECT in which every view's history is a table of its name.

    Args:
        query: one statement of DuckDB's SQL. Time zones are UTC.
        tables: the table of each view, by the name it has in the query.
        store: where they lie.

    Raises:
        NotFoundError: the query names a table that is no view.
        RequestError: DuckDB refuses the query; its message is passed on.
    """
    words = {word.lower() for word in _WORD.findall(query)}
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        connection.execute("set enable_progress_bar = false")
        for name, table in tables.items():
            if name.lower() in words:
                paths = [path for history in store.snapshot(table).buckets.values() for path in history.paths]
                _create_view(connection, name, table, paths)
        try:
            result = connection.sql(query)
            if result is None:
                raise RequestError("The statement returns no rows; give a SELECT.")
            frame: pl.DataFrame = result.pl()
            return frame
        except duckdb.CatalogException as error:
            missing = re.search(r"Table with name (\S+) does not exist", str(error))
            if missing:
                raise NotFoundError("view", missing[1], tables) from error
            raise RequestError(str(error)) from error
        except duckdb.IOException as error:
            raise OfflineStoreError(f"A file of the history, or of the query, cannot be read: {error}") from error
        except duckdb.Error as error:
            raise RequestError(f"{error}\n{_hint(words, tables)}".strip()) from error


def _create_view(connection: duckdb.DuckDBPyConnection, name: str, table: Table, paths: Sequence[str]) -> None:
    if paths:
        connection.read_parquet(list(paths), hive_partitioning=False).create_view(name)
        return
    instant = pl.Datetime("us", "UTC")
    empty = pl.DataFrame(schema={**table.keys, "event_time": instant, "available_time": instant, **table.features})
    connection.from_arrow(empty.to_arrow()).create_view(name)


def _hint(words: set[str], tables: Mapping[str, Table]) -> str:
    return "" if words & {name.lower() for name in tables} else did_you_mean("", tables)
