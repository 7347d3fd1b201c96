"""The feature log in Delta tables: the sampled answers of services.

A call that returned outlasts a power cut, as in a history: a file is on the disk before a commit names it, a commit before the call
returns, and a checkpoint before the entries that it stands for are gone. So Delta writes no data, and no checkpoint after a commit.
What a power cut leaves of a commit or checkpoint before its call returned is put aside by the next process.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote
from uuid import uuid4

import polars as pl
from deltalake import CommitProperties, DeltaTable, Schema
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, RemoveAction

from featurestore.clock import Clock, to_micros, utc_now
from featurestore.dtypes import dtype_from_name, dtype_name
from featurestore.durable import sync_folder
from featurestore.errors import OfflineStoreError
from featurestore.locks import Locks
from featurestore.offline.delta.files import COMPRESSION, storage_dtype, translated
from featurestore.offline.delta.history import locks_beside
from featurestore.offline.delta.log_entries import LOG, entry_at, is_whole, put_aside, put_checkpoint_aside
from featurestore.offline.delta.open import delta_options, from_newest, open_delta, prepare, settle
from featurestore.offline.delta.table import NO_HOOKS, write_checkpoint
from featurestore.offline.folder import Folder, is_local
from featurestore.offline.folder_probe import require_conditions
from featurestore.offline.local_folder import LocalFolder
from featurestore.offline.scan import scan_files
from featurestore.privacy.tombstone_set import keys_as

T = TypeVar("T")

_SCHEMA = "_schema.json"
_PLACE = "_place"
_CONFIGURATION = {
    # Else the log of commits would have the least and greatest key of each file, and none of these could be forgotten.
    "delta.dataSkippingStatsColumns": "read_at",
    # Servers add a file every few seconds.
    "delta.logRetentionDuration": "interval 1 days",
}
_CHECKPOINT_EVERY = 100
_ATTEMPTS = 20
_TARGET_BYTES = 64 << 20
_WAIT_SECONDS = 600
_KEEP_HOURS = 1
"""How long files stay that a reader may still have in hand, or that somebody may be about to add."""


class DeltaFeatureLog:
    """Keep each service's answers under ``project/_logs/service`` of the folder of the history.

    Rows of other columns lie in another table, ``…/service/<digest of the columns>``: a service may change what it gives,
    and nothing that was written before is touched. Beside each table is what dtypes its columns have once they are read.

    Args:
        folder: the folder of the history; a path is a folder of this machine.
        clock: tells when a file was made.
        locks: the locks of all who write to it; by default files in the folder, which then is one of this machine.
    """

    def __init__(self, folder: Folder | Path, clock: Clock = utc_now, *, locks: Locks | None = None) -> None:
        self._folder = LocalFolder(folder) if isinstance(folder, Path) else folder
        self._clock = clock
        self._locks: Locks = locks_beside(self._folder) if locks is None else locks

    def append(self, project: str, service: str, rows: pl.DataFrame) -> None:
        """See ``FeatureLog.append``."""
        schema = json.dumps({name: dtype_name(dtype) for name, dtype in rows.schema.items()})
        folder = self._of(project, service).inside(hashlib.sha256(schema.encode()).hexdigest()[:12])
        stored = rows.with_columns(pl.col(name).cast(storage_dtype(dtype)) for name, dtype in rows.schema.items())
        with translated("write", folder.address().url):
            prepare(folder, LOG)
            _keep_schema(folder, schema)
            action = _written(folder, stored, self._now()) if rows.height else None
            _tried(lambda: self._append(folder, stored, action))

    def read(self, project: str, service: str) -> pl.LazyFrame:
        """See ``FeatureLog.read``."""
        with translated("read", self._of(project, service).address().url):
            parts = [self._scan(folder) for folder in self._tables(project, service)]
        frames = [part for part in parts if part is not None]
        return pl.concat(frames, how="diagonal_relaxed") if frames else pl.LazyFrame()

    def services(self, project: str) -> list[str]:
        """See ``FeatureLog.services``."""
        logs = self._folder.inside(f"{project}/_logs")
        with translated("read", logs.address().url):
            return [service.rstrip("/") for service in logs.folders("") if any(_tables_in(logs.inside(service)))]

    def compact(self, project: str, service: str) -> int:
        """See ``FeatureLog.compact``."""
        fewer = 0
        with self._tidying(project, service):
            for folder in self._tables(project, service):
                fewer += _tried(lambda at=folder: self._merged(at))  # type: ignore[misc]  # a default binds it
                self._vacuum(folder, _KEEP_HOURS, full=True)
                write_checkpoint(folder)
        return fewer

    def prune(self, project: str, service: str, before: datetime) -> int:
        """See ``FeatureLog.prune``."""
        deleted = 0
        with self._tidying(project, service):
            for folder in self._tables(project, service):
                deleted += _tried(lambda at=folder: self._without(at, lambda rows: rows.filter(pl.col("read_at") < before)))  # type: ignore[misc]  # as above
                self._remove_dropped(folder)
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
                    deleted += _tried(lambda at=folder, keys=wanted: self._without(at, lambda rows: _of_keys(rows, keys)))  # type: ignore[misc]  # as above
                    self._remove_dropped(folder)
        return deleted

    def _without(self, folder: Folder, which: Callable[[pl.LazyFrame], pl.LazyFrame]) -> int:
        """Replace the files that have some rows by files without them, in one commit; return how many rows these were.

        NOTE: Delta's own delete would keep its condition, and with it the keys, in the log of commits.

        Args:
            folder: the table's.
            which: returns those of a file's rows that are to go.
        """
        table, now = self._opened(folder), self._now()
        actions: list[AddAction | RemoveAction] = []
        deleted = 0
        for action in _files(table):
            rows = scan_files([folder.address(unquote(action["path"]))]).with_row_index(_PLACE)
            gone = which(rows).select(_PLACE).collect()
            if gone.is_empty():
                continue
            left = rows.collect().join(gone, on=_PLACE, how="anti", maintain_order="left").drop(_PLACE)
            deleted += gone.height
            actions.append(RemoveAction(action["path"], data_change=True, deletion_timestamp=now, size=action["size_bytes"]))
            if left.height:
                actions.append(_written(folder, left, now))
        _commit(table, folder, actions)
        return deleted

    def _merged(self, folder: Folder) -> int:
        """Merge small files into large ones, in one commit; return by how many they are fewer."""
        table, now = self._opened(folder), self._now()
        groups: list[list[dict[str, Any]]] = [[]]
        for action in _files(table):
            if sum(file["size_bytes"] for file in groups[-1]) + action["size_bytes"] > _TARGET_BYTES:
                groups.append([])
            groups[-1].append(action)
        actions: list[AddAction | RemoveAction] = []
        for group in groups:
            if len(group) > 1:
                rows = pl.concat([scan_files([folder.address(unquote(file["path"]))]).collect() for file in group])
                actions.append(_written(folder, rows, now, data_change=False))
                actions += [RemoveAction(file["path"], False, now, file["size_bytes"]) for file in group]
        _commit(table, folder, actions)
        return sum(1 if isinstance(file, RemoveAction) else -1 for file in actions)

    def _now(self) -> int:
        return to_micros(self._clock()) // 1000

    @contextmanager
    def _tidying(self, project: str, service: str) -> Iterator[None]:
        """Let one tidy at a time. What two did at once would have to be thrown away, and files with it that nothing tells of."""
        folder = self._of(project, service)
        with translated("tidy", folder.address().url):
            is_empty = not any(_tables_in(folder))
        if is_empty:
            yield
            return
        with translated("tidy", folder.address().url), self._locked(f"tidy {project}/{service}"):
            yield

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with self._locks.exclusive(name, _WAIT_SECONDS) as taken:
            if not taken:
                raise OfflineStoreError(
                    f"The feature log was locked for {_WAIT_SECONDS} seconds by another process ({name!r}). Does it hang?"
                )
            yield

    def _append(self, folder: Folder, rows: pl.DataFrame, action: AddAction | None) -> None:
        """Add a file to a table, which is made where it is not there."""
        if not _is_table(folder):
            require_conditions(folder)
            address, schema = folder.address(), Schema.from_arrow(rows.to_arrow().schema)
            DeltaTable.create(
                address.url,
                schema,
                "ignore",
                configuration=_CONFIGURATION,
                storage_options=delta_options(address),
                post_commithook_properties=NO_HOOKS,
            )
            settle(folder, LOG)
        table = self._opened(folder)
        if action is None:
            return
        # Nothing that another commit does is in its way, so Delta may try again by itself.
        table.create_write_transaction([action], "append", table.schema(), post_commithook_properties=NO_HOOKS)
        settle(folder, LOG)
        if (table.version() + 1) % _CHECKPOINT_EVERY == 0:
            with suppress(DeltaError, OSError):  # the commit is made; the log is as good without
                write_checkpoint(folder)

    def _opened(self, folder: Folder) -> DeltaTable:
        """Open a table, after putting aside what a power cut left of a commit whose call did not return.

        Delta gives an entry its name as a whole, so one that is cut off is none that somebody is writing.
        """
        try:
            return from_newest(folder, lambda table: table)
        except DeltaError:
            if not is_local(folder):  # where nothing is cut off
                raise
            with self._locked(f"mend {folder.address().url.removeprefix(self._folder.address().url).strip('/')}"):
                _mend(folder)
            return open_delta(folder)

    def _vacuum(self, folder: Folder, hours: int, *, full: bool = False) -> None:
        table = self._opened(folder)
        table.vacuum(hours, dry_run=False, enforce_retention_duration=False, post_commithook_properties=NO_HOOKS, full=full)
        settle(folder, LOG)

    def _remove_dropped(self, folder: Folder) -> None:
        """Delete the files that the table dropped, and those of writers that were killed more than an hour ago."""
        self._vacuum(folder, 0)
        self._vacuum(folder, _KEEP_HOURS, full=True)
        if (path := folder.address().path) is not None:
            sync_folder(path)

    def _scan(self, folder: Folder) -> pl.LazyFrame | None:
        names = [unquote(action["path"]) for action in _files(self._opened(folder))]
        if not names:
            return None
        return scan_files([folder.address(name) for name in names]).select(
            pl.col(name).cast(dtype) for name, dtype in _schema(folder).items()
        )

    def _tables(self, project: str, service: str) -> Iterator[Folder]:
        """Yield the folders of a service's tables; one that is being made at this moment is left out."""
        return (folder for folder in _tables_in(self._of(project, service)) if _is_table(folder))

    def _of(self, project: str, service: str) -> Folder:
        return self._folder.inside(f"{project}/_logs/{service}")


def _tables_in(service: Folder) -> Iterator[Folder]:
    """Yield the folders in which a table is, or is being made."""
    for name in service.folders(""):
        folder = service.inside(name)
        if folder.head(_SCHEMA) is not None:
            yield folder


def _is_table(folder: Folder) -> bool:
    address = folder.address()
    return DeltaTable.is_deltatable(address.url, delta_options(address))


def _tried(act: Callable[[], T]) -> T:
    """Do something to a table, and repeat it if another commit came first."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return act()
        except CommitFailedError:
            continue
    return act()


def _commit(table: DeltaTable, folder: Folder, actions: list[AddAction | RemoveAction]) -> None:
    """Write the version after the one that actions were made from."""
    if actions:
        once = CommitProperties(max_commit_retries=0)
        table.create_write_transaction(
            actions, "append", table.schema(), commit_properties=once, post_commithook_properties=NO_HOOKS
        )
        settle(folder, LOG)


def _mend(folder: Folder) -> None:
    files = put_checkpoint_aside(folder, pages=True)
    cut, before = False, None
    for version in files.needed:
        # Whoever is told of a commit has had all names there on the disk: where one is gone, nobody was told of those after it.
        cut = cut or not is_whole(folder, version) or (before is not None and folder.head(entry_at(version - 1)) is None)
        before = version
        if cut:
            put_aside(folder, [entry_at(version)])


def _files(table: DeltaTable) -> Iterator[dict[str, Any]]:
    """Yield what a table tells of its files."""
    return pl.DataFrame(table.get_add_actions()).iter_rows(named=True)


def _of_keys(rows: pl.LazyFrame, keys: pl.DataFrame) -> pl.LazyFrame:
    return rows.join(keys.lazy(), on=keys.columns, how="semi", nulls_equal=True)


def _written(folder: Folder, rows: pl.DataFrame, now: int, *, data_change: bool = True) -> AddAction:
    """Write a file, and return the action that adds it to a commit."""
    name = f"part-00000-{uuid4()}-c000.{COMPRESSION}.parquet"
    size = folder.write(name, lambda file: rows.write_parquet(file, compression=COMPRESSION))
    first, last = rows.select(first=pl.col("read_at").min(), last=pl.col("read_at").max()).row(0)
    stats = {
        "numRecords": rows.height,
        "minValues": {"read_at": _said(first)},
        "maxValues": {"read_at": _said(last)},
        "nullCount": {"read_at": 0},
    }
    return AddAction(name, size, {}, now, data_change, json.dumps(stats))


def _said(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


def _keep_schema(folder: Folder, schema: str) -> None:
    """Write what columns a table has, once and as a whole."""
    if folder.head(_SCHEMA) is None:
        folder.write(_SCHEMA, schema.encode())


def _schema(folder: Folder) -> dict[str, pl.DataType]:
    dtypes = json.loads(folder.read(_SCHEMA))
    return {name: dtype_from_name(dtype) for name, dtype in dtypes.items()}
