"""Erasing entities from a table: its files, its older versions, its log, staged and rejected rows.

Files never change, so one that holds an entity is rewritten without it, and the table's next version names the new file instead.
Then the old file is deleted, with every other file that no version needs any more and that holds the entity, and the versions
before are taken out of the table's own log. Each step may be repeated, and finds what is left to do by looking.
"""

import re
from collections.abc import Iterator, Sequence
from io import BytesIO

import polars as pl
from deltalake import DeltaTable

from featurestore.clock import Clock, to_micros, utc_now
from featurestore.durable import TEMPORARY
from featurestore.errors import OfflineStoreError
from featurestore.offline.base import EraseCounts, Table
from featurestore.offline.delta.files import (
    BUCKET,
    COMPRESSION,
    run_of,
    storage_dtype,
    translated,
    write_file,
)
from featurestore.offline.delta.history import REJECTED, STAGING, DeltaStore, rejected_files, staged_files
from featurestore.offline.delta.log_entries import ASIDE, LOG
from featurestore.offline.delta.open import from_newest, settle
from featurestore.offline.delta.sequence import FOLDER
from featurestore.offline.delta.sequence_entries import Action, Intent, unpacked, without_rows
from featurestore.offline.delta.table import require_known_columns
from featurestore.offline.delta.table_files import File, remove_file
from featurestore.offline.folder import Entry, Folder, is_local, present
from featurestore.offline.scan import scan_files
from featurestore.privacy.tombstone_set import among, loosely_among
from featurestore.rows.buckets import bits_of, key_hash, node_of

_ATTEMPTS = 20
_DATA = re.compile(rf"{BUCKET}=(\d+)/[^/]*\.parquet")
_BEGUN = re.compile(rf"{BUCKET}=[^/]*/[^/]*{re.escape(TEMPORARY)}")


class DeltaEraser:
    """Erase entities from the tables of a store.

    Args:
        store: the store.
        clock: tells the present.
    """

    def __init__(self, store: DeltaStore, *, clock: Clock = utc_now) -> None:
        self._store = store
        self._folder = store.folder
        self._log = store.push_log
        self._clock = clock

    def moment(self, project: str) -> float:
        """See ``Eraser.moment``."""
        folder = self._store.project(project)
        with translated("write", folder.address().url):
            return present(folder)

    def erase_waiting(self, table: Table, entities: pl.DataFrame, *, dry_run: bool) -> EraseCounts:
        """See ``Eraser.erase_waiting``."""
        folder = self._folder(table)
        with translated("erase from", folder.address().url):
            pushed = self._erase_pushes(table, entities, dry_run=dry_run)
            chunks = [file.name for files in staged_files(folder).values() for file in files if file.name.endswith(".parquet")]
            staged = sum(_erase_strictly(folder, name, table, entities, dry_run=dry_run) for name in chunks)
            rejected = sum(_erase_loosely(folder, name, table, entities, dry_run=dry_run) for name in rejected_files(folder))
            if not dry_run:
                # Nobody writes now, so what is half written will never be whole.
                places = (f"{FOLDER}/", f"{REJECTED}/", f"{STAGING}/")
                parts = (file.name for place in places for file in folder.list(place) if file.name.endswith(TEMPORARY))
                folder.delete(parts, lasting=True)
                # Nobody can tell whose rows are in what could not be read.
                folder.delete((file.name for file in folder.list(f"{ASIDE}/")), lasting=True)
        return EraseCounts(pushed=pushed, staged=staged, rejected=rejected)

    def erase(self, table: Table, entities: pl.DataFrame, since: float, *, dry_run: bool) -> EraseCounts:
        """See ``Eraser.erase``."""
        folder = self._folder(table)
        with translated("erase from", folder.address().url):
            # A table that was being dropped, or mended, may have files and no log any more.
            has_log = bool(folder.list(f"{LOG}/"))
            history = self._erase_history(folder, table, entities, dry_run=dry_run) if has_log else 0
            older = self._erase_older(folder, table, entities, since, dry_run=dry_run)
            if has_log and not dry_run:
                _forget_versions(folder)
        return EraseCounts(history=history, older=older)

    def _erase_history(self, folder: Folder, table: Table, entities: pl.DataFrame, *, dry_run: bool) -> int:
        sequence = self._log.sequence(table)
        for attempt in range(_ATTEMPTS):
            with sequence.turn(attempt):
                view = sequence.look() if dry_run else sequence.settle()
                state = view.state
                concerned = [(file, count) for file, count in _holding(folder, table, state.files, entities) if count]
                total = sum(count for _, count in concerned)
                if dry_run or not concerned:
                    return total
                try:
                    actions, written = self._rewritten(folder, table, entities, [file for file, _ in concerned])
                except FileNotFoundError:
                    if state.is_current():
                        raise
                    continue  # somebody compacted the table meanwhile
                require_known_columns(state, table, actions)
                if sequence.commit(view, Intent("forget", actions, view.pushed_with())):
                    folder.delete((file.path for file, _ in concerned), lasting=True)
                    return total
                folder.delete(written)
        raise OfflineStoreError(f"{table} changed {_ATTEMPTS} times over while entities were erased from it. Repeat it.")

    def _rewritten(self, folder: Folder, table: Table, entities: pl.DataFrame, files: list[File]) -> tuple[list[Action], list[str]]:
        """Rewrite files without some entities; return the table's actions for it, and what was written."""
        now = to_micros(self._clock()) // 1000
        actions: list[Action] = []
        written: list[str] = []
        for file in files:
            rows = scan_files([folder.address(file.path)]).collect()
            kept = rows.filter(~_strictly(rows, table, entities))
            actions.append(remove_file(file, now))
            if kept.height:
                # Of the same run, by its name: a run that is interrupted finds what it added by that.
                commits = file.first_commit, file.last_commit
                new = write_file(folder, run_of(file.path), file.node, kept, now, commits=commits)
                actions.append(new.action)
                written.append(new.action.path)
        return actions, written

    def _erase_older(self, folder: Folder, table: Table, entities: pl.DataFrame, since: float, *, dry_run: bool) -> int:
        """Delete the files that hold some entities and are not the table's any more, or never were."""
        # NOTE: listed before the table is opened: what a commit adds is not there yet, or is named by the table or an intent.
        files = folder.list("")
        others = [file for file in files if _DATA.fullmatch(file.name)]
        view = self._log.sequence(table).look()
        needed = view.state.files.paths.union(*(intent.adds for intent in view.pending.values()))
        if not dry_run:  # what killed writers have begun there: nobody can tell whose rows are in it
            begun = (file for file in files if _BEGUN.fullmatch(file.name) and file.modified < since)
            folder.delete((file.name for file in begun), lasting=True)
        erased = 0
        for file in others:
            if file.name in needed:
                continue
            try:
                count = sum(count for _, count in _holding(folder, table, [_unknown(file)], entities))
            except FileNotFoundError:
                continue
            except (OSError, pl.exceptions.PolarsError):
                if not is_local(folder):  # where a file is whole: it is the store that could not be reached
                    raise
                if not dry_run and file.modified < since:
                    folder.delete([file.name], lasting=True)
                continue
            erased += count
            if count and not dry_run:
                folder.delete([file.name], lasting=True)
        return erased

    def _erase_pushes(self, table: Table, entities: pl.DataFrame, *, dry_run: bool) -> int:
        """Erase entities from the pushes, which keep their numbers; an empty one stays, too."""
        sequence = self._log.sequence(table)
        erased = 0
        for number, content in sequence.raw().items():
            rows, _ = unpacked(content)
            if isinstance(rows, Intent):
                continue
            hit = _strictly(rows, table, entities)
            erased += int(hit.sum())
            if hit.any() and not dry_run:
                sequence.rewrite(number, without_rows(content, rows.filter(~hit)))
        return erased


def _holding(folder: Folder, table: Table, files: Sequence[File], entities: pl.DataFrame) -> Iterator[tuple[File, int]]:
    """Yield the files in which rows of some entities may lie, by their buckets, and how many do."""
    hashes = entities.select(key_hash(table.keys).alias("hash"))
    for file in files:
        bits = bits_of(file.node)
        here = entities.filter(hashes.select(node_of(pl.col("hash"), bits)).to_series() == file.node)
        if here.is_empty():
            continue
        stored = _stored(here, table)
        near = pl.all_horizontal(pl.col(key).is_in(stored[key].unique().implode()) for key in table.keys)
        rows = scan_files([folder.address(file.path)]).filter(near).select(*table.keys).collect()
        yield file, int(among(rows, stored).sum())


def _stored(entities: pl.DataFrame, table: Table) -> pl.DataFrame:
    return entities.select(pl.col(key).cast(storage_dtype(dtype)) for key, dtype in table.keys.items())


def _strictly(rows: pl.DataFrame, table: Table, entities: pl.DataFrame) -> pl.Series:
    """Return of rows, their keys stored or not, which are of some entities."""
    same = [pl.col(key).cast(rows.schema[key]) for key in table.keys]
    return among(rows.select(*table.keys), _stored(entities, table).select(same))


def _erase_strictly(folder: Folder, name: str, table: Table, entities: pl.DataFrame, *, dry_run: bool) -> int:
    """Erase entities from a file of staged rows, under the name that it has in the ledger; one cut off is deleted."""
    try:
        rows = pl.read_parquet(BytesIO(folder.read(name)))
    except (pl.exceptions.PolarsError, FileNotFoundError):
        if not dry_run:
            folder.delete([name], lasting=True)
        return 0
    hit = _strictly(rows, table, entities)
    if hit.any() and not dry_run:
        _replace(folder, name, rows.filter(~hit))
    return int(hit.sum())


def _erase_loosely(folder: Folder, name: str, table: Table, entities: pl.DataFrame, *, dry_run: bool) -> int:
    """Erase what may be of some entities from a file of rejected rows."""
    rows = pl.read_parquet(BytesIO(folder.read(name)))
    hit = loosely_among(rows.drop("_reason", "_run", strict=False), table.keys, entities)
    if hit.any() and not dry_run:
        kept = rows.filter(~hit)
        if kept.height:
            _replace(folder, name, kept)
        else:
            folder.delete([name], lasting=True)
    return int(hit.sum())


def _replace(folder: Folder, name: str, rows: pl.DataFrame) -> None:
    folder.write(name, lambda file: rows.write_parquet(file, compression=COMPRESSION, statistics=False))


def _forget_versions(folder: Folder) -> None:
    """Take all versions but the last out of a table's log: what they tell of files is of those that are gone, too."""
    last = from_newest(folder, _write_checkpoint)
    settle(folder, LOG)  # what the entries say must be on the disk elsewhere before they go
    older = []
    for file in folder.list(f"{LOG}/"):
        number, dot, _ = file.name.removeprefix(f"{LOG}/").partition(".")
        if dot and number.isdecimal() and int(number) < last:
            older.append(file.name)
    folder.delete(older, lasting=True)


def _write_checkpoint(delta: DeltaTable) -> int:
    delta.create_checkpoint()
    return delta.version()


def _unknown(file: Entry) -> File:
    """Return a file as a table would have it, as far as its name tells."""
    return File(file.name, int(file.name.partition("/")[0].removeprefix(f"{BUCKET}=")), 0, 0, 0, 0)
