"""SQL over the history: each view is a DuckDB view of the same name."""

import re
from collections.abc import Mapping, Sequence
from typing import cast

import duckdb
import polars as pl

from featurestore.errors import NotFoundError, OfflineStoreError, RequestError, did_you_mean
from featurestore.offline.base import Snapshot, Table
from featurestore.offline.delta.files import DeltaFiles, columns_of, storage_dtype
from featurestore.offline.delta.history import DeltaStore
from featurestore.offline.object_errors import problem_of

_WORD = re.compile(r"\w+")
_ATTEMPTS = 3


def query_history(query: str, tables: Mapping[str, Table], store: DeltaStore) -> pl.DataFrame:
    """Return the result of a SELECT in which every view's history is a table of its name.

    Args:
        query: one statement of DuckDB's SQL. Time zones are UTC.
        tables: the table of each view, by the name it has in the query.
        store: where they lie.

    Raises:
        NotFoundError: the query names a table that is not a view.
        RequestError: DuckDB refuses the query, and its message is passed on; the result has a type that Polars has not; or
            views whose names differ only in case are meant alike.
    """
    named = _named(set(_WORD.findall(query)), tables)
    for left in reversed(range(_ATTEMPTS)):
        snapshots = {name: store.snapshot(tables[name]) for name in named}
        try:
            return _result(query, tables, snapshots, store)
        except OfflineStoreError:
            # Forgetting and upkeep delete files that somebody has in hand; of a newer version of the table they are there.
            if not left or all(store.snapshot(tables[name]).version == snapshot.version for name, snapshot in snapshots.items()):
                raise
    raise AssertionError("the last attempt raises")


def _result(query: str, tables: Mapping[str, Table], snapshots: Mapping[str, Snapshot], store: DeltaStore) -> pl.DataFrame:
    """Return the result of a query over histories as they are in snapshots. Raises as ``query_history``."""
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        if connection.execute("select current_setting('enable_progress_bar')").fetchall() != [(False,)]:
            # NOTE: not asked for where it is off already. In Jupyter without ipywidgets the setting itself fails.
            connection.execute("set enable_progress_bar = false")
        _register_object_storage(connection, store)
        paths: list[str] = []
        try:
            for name, snapshot in snapshots.items():
                paths += _create_view(connection, name, tables[name], cast("list[DeltaFiles]", list(snapshot.buckets.values())))
        except duckdb.Error as error:
            raise OfflineStoreError(_unreadable(error, store)) from (None if store.address.path is None else error)
        _lock(connection, paths)
        try:
            _check_select(connection, query)
            result = connection.sql(query)
            if result is None:
                raise RequestError("The statement returns no rows; give a SELECT.")
            return _to_polars(result)
        except duckdb.CatalogException as error:
            missing = re.search(r"Table with name (\S+) does not exist", str(error))
            if missing:
                raise NotFoundError("view", missing[1], tables) from error
            raise RequestError(str(error)) from error
        except duckdb.PermissionException as error:
            raise RequestError(
                "A query reads the views, and no other file or address: "
                f"{str(error).splitlines()[0]}. Read it in Python, and join the frames."
            ) from error
        except duckdb.Error as error:
            if isinstance(error, duckdb.IOException) or any(path in str(error) for path in paths):
                raise OfflineStoreError(_unreadable(error, store)) from (None if store.address.path is None else error)
            raise RequestError(f"{error}\n{_hint(set(_WORD.findall(query)), tables)}".strip()) from error


def _register_object_storage(connection: duckdb.DuckDBPyConnection, store: DeltaStore) -> None:
    """Let a connection read a history in object storage by the store's own client: without an extension, which it would load.

    What may be read of it is said by ``_lock``, as of any file.
    """
    connection.execute("set autoinstall_known_extensions = false")
    if (system := store.file_system) is not None:
        connection.register_filesystem(system)


def _unreadable(error: duckdb.Error, store: DeltaStore) -> str:
    if store.address.path is None:
        # NOTE: not the error's own text, in which a server may quote a key.
        return f"A file of the history cannot be read: {problem_of(error)[1]}."
    return f"A file of the history, or of the query, cannot be read: {error}. Is one of the history damaged? featurestore doctor"


def _create_view(connection: duckdb.DuckDBPyConnection, name: str, table: Table, buckets: Sequence[DeltaFiles]) -> list[str]:
    """Make a view of a history; return the files that it reads."""
    # Buckets share what lies above them.
    paths = list(dict.fromkeys(path for history in buckets for path in history.paths))
    columns = columns_of(table)
    pushed = [history.pushed.select(*columns) for history in buckets if history.pushed is not None]
    # As the files have them, so that a query does not change its meaning with the first run.
    stored = [pl.col(column).cast(storage_dtype(dtype)) for column, dtype in columns.items()]
    rows = connection.from_arrow(pl.concat([pl.DataFrame(schema=columns), *pushed]).select(stored).to_arrow())
    if paths:
        # A file may have the columns in another order, lack one that the view got later, or have one that it gets.
        files = connection.read_parquet(paths, hive_partitioning=False, union_by_name=True)
        there = set(files.columns)
        types = dict(zip(rows.columns, rows.types, strict=True))
        projection = [f'"{column}"' if column in there else f'null::{types[column]} as "{column}"' for column in columns]
        files = files.project(", ".join(projection))
        (files.union(rows.project(", ".join(f'"{column}"' for column in columns))) if pushed else files).create_view(name)
    else:
        rows.create_view(name)
    return [str(path) for path in paths]


def _lock(connection: duckdb.DuckDBPyConnection, paths: Sequence[str]) -> None:
    """Let a connection reach no file but those of the views, no network, and no variable of the process, whatever is asked."""
    quoted = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
    connection.execute(f"set allowed_paths = [{quoted}]")
    connection.execute("set python_enable_replacements = false")
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")


def _check_select(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    """Refuse what is not one statement that only reads."""
    statements = connection.extract_statements(query)
    kinds = [statement.type for statement in statements]
    if len(kinds) != 1 or kinds[0] not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
        finding = "there is none" if not kinds else f"there are {len(kinds)}" if len(kinds) > 1 else f"this is {kinds[0].name}"
        raise RequestError(
            f"The statement must be one SELECT; {finding}. Nothing was run: the history is read here, and never written."
        )


def _named(words: set[str], tables: Mapping[str, Table]) -> list[str]:
    """Return the views that a query's words name, each as it is written or, where that is plain, in another case."""
    alike: dict[str, list[str]] = {}
    for name in tables:
        alike.setdefault(name.lower(), []).append(name)
    named = []
    for lower in {word.lower() for word in words} & set(alike):
        chosen = [name for name in alike[lower] if name in words] or alike[lower]
        if len(chosen) > 1:
            raise RequestError(
                f"The views {' and '.join(map(repr, sorted(chosen)))} differ only in case, which SQL does not tell apart. "
                "Name one of them, as it is written, in a query."
            )
        named += chosen
    return named


def _to_polars(result: duckdb.DuckDBPyRelation) -> pl.DataFrame:
    try:
        frame: pl.DataFrame = result.pl()
    # A type that Polars has not is a panic where it is in a list, and a panic is no Exception.
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        types = ", ".join(f"{name} {kind}" for name, kind in zip(result.columns, result.types, strict=True))
        raise RequestError(
            f"A column of the result has a type that a frame cannot hold. The columns are: {types}. Cast it in the query: "
            "cast(… as varchar), or an interval to seconds: epoch(…)."
        ) from error
    return frame


def _hint(words: set[str], tables: Mapping[str, Table]) -> str:
    return "" if {word.lower() for word in words} & {name.lower() for name in tables} else did_you_mean("", tables)
