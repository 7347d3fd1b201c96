"""The feature log in Delta tables: what services answered, as far as it was sampled."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote
from uuid import uuid4

import polars as pl
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction, RemoveAction
from filelock import FileLock

from featurestore.clock import Clock, to_micros, utc_now
from featurestore.dtypes import dtype_from_name, dtype_name
from featurestore.durable import file_mode, make_folders, replace_file, settle, sync_folder, write_file
from featurestore.offline.delta_entries import LOG
from featurestore.offline.delta_files import COMPRESSION, storage_dtype, translated
from featurestore.offline.delta_open import open_delta
from featurestore.plan.forgotten import keys_as

T = TypeVar("T")

_SCHEMA = "_schema.json"
_CONFIGURATION = {
    # Else the log of commits would have the least and greatest key of each file, and none of these could be forgotten.
    "delta.dataSkippingStatsColumns": "read_at",
    # Servers add a file every few seconds.
    "delta.logRetentionDuration": "interval 1 days",
}
_ATTEMPTS = 20
_TARGET_BYTES = 64 << 20
_WAIT_SECONDS = 600
_KEEP_HOURS = 1
"""How long files stay that a reader may still have in hand, or that somebody may be about to add."""


class DeltaFeatureLog:
    """Keeps each service's answers under ``folder/project/_logs/service``.

    Rows of other columns lie in another table, ``…/service/<digest of the columns>``: a service may change what it gives,
    and nothing that was written before is touched. Beside each table is what dtypes its columns have once they are read.

    Args:
        folder: the folder of the history.
        clock: tells when a file was made.
    """

    def __init__(self, folder: Path, clock: Clock = utc_now) -> None:
        self._folder = folder
        self._clock = clock

    def append(self, project: str, service: str, rows: pl.DataFrame) -> None:
        """See ``FeatureLog.append``."""
        schema = json.dumps({name: dtype_name(dtype) for name, dtype in rows.schema.items()})
        folder = self._of(project, service) / hashlib.sha256(schema.encode()).hexdigest()[:12]
        stored = rows.with_columns(pl.col(name).cast(storage_dtype(dtype)) for name, dtype in rows.schema.items())
        with translated("write", str(folder)):
            make_folders(folder / LOG)
            _keep_schema(folder, schema)
            _tried(lambda: write_deltalake(str(folder), stored, mode="append", configuration=_CONFIGURATION))
            _settle(folder)

    def read(self, project: str, service: str) -> pl.LazyFrame:
        """See ``FeatureLog.read``."""
        with translated("read", str(self._of(project, service))):
            parts = [_scan(folder) for folder in self._tables(project, service)]
        found = [part for part in parts if part is not None]
        return pl.concat(found, how="diagonal_relaxed") if found else pl.LazyFrame()

    def services(self, project: str) -> list[str]:
        """See ``FeatureLog.services``."""
        with translated("read", str(self._folder)):
            return sorted({path.parent.parent.name for path in (self._folder / project / "_logs").glob(f"*/*/{_SCHEMA}")})

    def compact(self, project: str, service: str) -> int:
        """See ``FeatureLog.compact``."""
        fewer = 0
        with self._tidying(project, service):
            for folder in self._tables(project, service):
                told = _tried(lambda at=folder: open_delta(at).optimize.compact(target_size=_TARGET_BYTES))  # type: ignore[misc]  # a default binds it
                fewer += told["numFilesRemoved"] - told["numFilesAdded"]
                table = open_delta(folder)
                table.vacuum(_KEEP_HOURS, dry_run=False, enforce_retention_duration=False, full=True)
                table.create_checkpoint()
                _settle(folder)
                table.cleanup_metadata()
        return fewer

    def prune(self, project: str, service: str, before: datetime) -> int:
        """See ``FeatureLog.prune``."""
        condition = f"read_at < '{_said(before)}'"
        deleted = 0
        with self._tidying(project, service):
            for folder in self._tables(project, service):
                told = _tried(lambda at=folder: open_delta(at).delete(condition))  # type: ignore[misc]  # a default binds it
                deleted += told["num_deleted_rows"] or 0
                _remove_dropped(folder)
        return deleted

    def delete(self, project: str, service: str, keys: pl.DataFrame) -> int:
        """See ``FeatureLog.delete``."""
        deleted = 0
        with self._tidying(project, service):
            for folder in self._tables(project, service):
                schema = _schema(folder)
                if keys.width and set(keys.columns) <= schema.keys():
                    dtypes = {name: schema[name] for name in keys.columns}
                    some_null = keys.unique().filter(pl.any_horizontal(pl.all().is_null())).cast(dtypes, strict=False)  # type: ignore[arg-type]  # dtypes by name
                    typed = pl.concat([keys_as(keys.unique().drop_nulls(), dtypes), some_null])
                    wanted = typed.select(pl.col(name).cast(storage_dtype(schema[name])) for name in keys.columns)
                    deleted += _tried(lambda at=folder, rows=wanted: self._without(at, rows))  # type: ignore[misc]  # defaults bind them
                    _remove_dropped(folder)
        return deleted

    def _without(self, folder: Path, keys: pl.DataFrame) -> int:
        """Replaces the files that have some rows by files without them, in one commit; returns how many rows these were.

        NOTE: Delta's own delete would keep its condition, and with it the keys, in the log of commits.
        """
        table = open_delta(folder)
        now = to_micros(self._clock()) // 1000
        actions: list[AddAction | RemoveAction] = []
        deleted = 0
        for action in pl.DataFrame(table.get_add_actions()).iter_rows(named=True):
            path = folder / unquote(action["path"])
            found = pl.scan_parquet(path, glob=False).join(keys.lazy(), on=keys.columns, how="semi", nulls_equal=True)
            if found.head(1).collect().is_empty():
                continue
            rows = pl.read_parquet(path, glob=False)
            left = rows.join(keys, on=keys.columns, how="anti", nulls_equal=True)
            deleted += rows.height - left.height
            actions.append(RemoveAction(action["path"], data_change=True, deletion_timestamp=now, size=action["size_bytes"]))
            if left.height:
                actions.append(_written(folder, left, now))
        if actions:
            once = CommitProperties(max_commit_retries=0)
            table.create_write_transaction(actions, "append", table.schema(), commit_properties=once)
        return deleted

    @contextmanager
    def _tidying(self, project: str, service: str) -> Iterator[None]:
        """Lets one tidy at a time. What two did at once would have to be thrown away, and files with it that nothing tells of."""
        folder = self._of(project, service)
        if not folder.is_dir():
            yield
            return
        with translated("tidy", str(folder)), FileLock(folder / ".tidy.lock", timeout=_WAIT_SECONDS, mode=file_mode(folder)):
            yield

    def _tables(self, project: str, service: str) -> Iterator[Path]:
        """Yields the folders of a service's tables; one that is being made at this moment is left out."""
        for path in sorted(self._of(project, service).glob(f"*/{_SCHEMA}")):
            if DeltaTable.is_deltatable(str(path.parent)):
                yield path.parent

    def _of(self, project: str, service: str) -> Path:
        return self._folder / project / "_logs" / service


def _tried(act: Callable[[], T]) -> T:
    """Does something to a table anew where another commit came before."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return act()
        except CommitFailedError:
            continue
    return act()


def _remove_dropped(folder: Path) -> None:
    """Deletes the files that the table dropped, and those of writers that were killed more than an hour ago."""
    table = open_delta(folder)
    _settle(folder)
    table.vacuum(0, dry_run=False, enforce_retention_duration=False)
    table.vacuum(_KEEP_HOURS, dry_run=False, enforce_retention_duration=False, full=True)
    sync_folder(folder)


def _settle(folder: Path) -> None:
    """Has what Delta wrote of a table on the disk: the files first, then the log that names them."""
    settle(folder)
    settle(folder / LOG)


def _written(folder: Path, rows: pl.DataFrame, now: int) -> AddAction:
    """Writes a file, and returns how a commit is told of it."""
    name = f"part-00000-{uuid4()}-c000.{COMPRESSION}.parquet"
    write_file(folder / name, lambda file: rows.write_parquet(file, compression=COMPRESSION))
    first, last = rows.select(first=pl.col("read_at").min(), last=pl.col("read_at").max()).row(0)
    stats = {
        "numRecords": rows.height,
        "minValues": {"read_at": _said(first)},
        "maxValues": {"read_at": _said(last)},
        "nullCount": {"read_at": 0},
    }
    return AddAction(name, (folder / name).stat().st_size, {}, now, True, json.dumps(stats))


def _said(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


def _keep_schema(folder: Path, schema: str) -> None:
    """Writes what columns a table has, once and as a whole."""
    path = folder / _SCHEMA
    if not path.is_file():
        replace_file(path, schema.encode())


def _schema(folder: Path) -> dict[str, pl.DataType]:
    told = json.loads((folder / _SCHEMA).read_text(encoding="utf-8"))
    return {name: dtype_from_name(each) for name, each in told.items()}


def _scan(folder: Path) -> pl.LazyFrame | None:
    files = open_delta(folder).file_uris()
    if not files:
        return None
    return pl.scan_parquet(files, glob=False).select(pl.col(name).cast(dtype) for name, dtype in _schema(folder).items())
