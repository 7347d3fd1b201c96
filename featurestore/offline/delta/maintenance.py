"""Maintenance of Delta tables: compaction, checkpoints of the log, and removal of unneeded files.

NOTE: Delta's own ``optimize`` does not keep the order of the rows, and its ``vacuum`` goes by the system's clock and writes
versions, which would make runs that write at the same time start over.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path

import polars as pl

from featurestore.clock import Clock, to_micros, utc_now
from featurestore.durable import TEMPORARY, is_removed_empty, remove
from featurestore.offline.base import Compacted, Removed, Table, is_gone
from featurestore.offline.condition import damaged
from featurestore.offline.delta.compaction import merge_group, worth_merging
from featurestore.offline.delta.files import BUCKET, NewFile, remove_file, translated
from featurestore.offline.delta.history import DeltaStore, staged_runs
from featurestore.offline.delta.integrity import problems_of
from featurestore.offline.delta.log_entries import checkpoint_at, entries_of, hinted_checkpoint
from featurestore.offline.delta.sequence import FOLDER, TableSequence, View
from featurestore.offline.delta.sequence_entries import Action, Intent
from featurestore.offline.delta.table import open_state, require_known_columns, write_checkpoint

_COMMITS = 50
"""So many commits are worth a checkpoint."""
_ATTEMPTS = 20
_ABANDONED = timedelta(days=1)
"""What no version names, and nobody changed for so long, was left by a writer that was killed."""


class DeltaMaintenance:
    """Keep the tables of a store in order.

    Args:
        store: the store.
        clock: tells the present.
    """

    def __init__(self, store: DeltaStore, *, clock: Clock = utc_now) -> None:
        self._path = store.path
        self._log = store.push_log
        self._clock = clock

    def tables(self, project: str) -> list[tuple[str, int]]:
        """See ``TableMaintenance.tables``."""
        folders = self._path(Table(project, "view", 1, {}, {})).parent.parent.glob("*/v*")
        names = ((folder.parent.name, folder.name.removeprefix("v")) for folder in folders)
        return sorted((view, int(number)) for view, number in names if number.isdecimal())

    def files(self, table: Table) -> int:
        """See ``TableMaintenance.files``."""
        folder = self._path(table)
        with translated("open", str(folder)):
            view = self._log.sequence(table).look()
            return len(view.state.files) + len(view.pushes)

    def compact(
        self, table: Table, done: int, without: Callable[[pl.DataFrame], pl.DataFrame] | None = None, *, dry_run: bool = False
    ) -> Compacted | None:
        """See ``TableMaintenance.compact``."""
        folder = self._path(table)
        with translated("compact", str(folder)):
            sequence = self._log.sequence(table)
            view = sequence.settle()
            state = view.state
            if problems := problems_of(state, 0, sequence.lost()):
                if not state.is_current():
                    return Compacted(0, 0, 0)
                raise damaged(str(table), table.view, problems)
            group = worth_merging(state.files, done)
            if group is None:
                return None
            size = sum(file.size for file in group.files)
            if dry_run:
                return Compacted(len(group.files), 1 << group.bits, size)
            now = to_micros(self._clock()) // 1000
            written: list[NewFile] = []
            try:
                merge_group(folder, table, group, now, without, written)
            except BaseException as error:  # by an interruption too: nobody claims these files any more
                remove(folder / new.action.path for new in written)
                if is_gone(error) and open_state(folder).files != state.files:
                    return Compacted(0, 0, 0)
                raise
            actions: list[Action] = [remove_file(file, now, changes=False) for file in group.files]
            # NOTE: once it is tried to claim the change, its files are deleted only where it surely will never be made.
            if not _replace(sequence, view, [*actions, *(new.action for new in written)]):
                remove(folder / new.action.path for new in written)
                return Compacted(0, 0, 0)
            return Compacted(len(group.files), len(written), sum(new.action.size for new in written))

    def checkpoint(self, table: Table) -> bool:
        """See ``TableMaintenance.checkpoint``."""
        folder = self._path(table)
        with translated("write", str(folder)):
            state = open_state(folder)
            if state.version < 0 or state.version - hinted_checkpoint(folder) < _COMMITS:
                return False
            write_checkpoint(folder)
            return True

    def vacuum(self, table: Table, keep: timedelta, *, dry_run: bool = False) -> Removed:
        """See ``TableMaintenance.vacuum``."""
        folder = self._path(table)
        with translated("clear up", str(folder)):
            # NOTE: listed before the table is opened: what a writer has not committed by then is an orphan, and young.
            paths = sorted(folder.glob(f"{BUCKET}=*/*.parquet"))
            beside = [path for part in (FOLDER, "_rejected") for path in folder.glob(f"{part}/*{TEMPORARY}") if path.is_file()]
            view = self._log.sequence(table).look()
            state = view.state
            if state.version < 0:
                return Removed()
            removed_at = dict(_removals(folder)) if paths else {}
            needed = {file.path for file in state.files}.union(*(intent.adds for intent in view.pending.values()))
            until = to_micros(self._clock() - keep) // 1000
            abandoned = (utc_now() - max(keep, _ABANDONED)).timestamp()
            old = [path for path in beside if _older(path, abandoned)]
            for path in paths:
                name = str(path.relative_to(folder))
                if name not in needed and (removed_at[name] <= until if name in removed_at else _older(path, abandoned)):
                    old.append(path)
            for staged in staged_runs(folder):
                if int(staged.name) <= state.last_run and _older(staged, abandoned):
                    old += [path for path in staged.glob("*") if path.is_file()]
            removed = Removed(len(old), sum(map(_size, old)))
            if not dry_run:
                remove(old)
                for inner in [*folder.glob(f"{BUCKET}=*"), *staged_runs(folder)]:
                    is_removed_empty(inner)
            return removed


def _replace(sequence: TableSequence, view: View, actions: Sequence[Action]) -> bool:
    """Name merged files instead of those they were merged from, if all of these are the table's still."""
    for attempt in range(_ATTEMPTS):
        with sequence.turn(attempt):
            now = sequence.settle() if attempt else view
            intent = Intent("compact", actions, now.pushed_with())
            if not intent.removes <= {file.path for file in now.state.files}:
                return False
            require_known_columns(now.state, sequence.table, actions)
            was_made = sequence.commit(now, intent)
        if was_made is not None:
            return was_made
    return False


def _removals(folder: Path) -> Iterable[tuple[str, int]]:
    """Yield the files that a table's log says were removed, and when, in milliseconds."""
    checkpoint = checkpoint_at(folder, max(0, hinted_checkpoint(folder)))
    if checkpoint.exists():
        removals = pl.read_parquet(checkpoint, columns=["remove"])["remove"].drop_nulls()
        yield from ((action["path"], action["deletionTimestamp"]) for action in removals)
    for path in entries_of(folder):
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:  # somebody cleaned the log up
            continue
        for line in lines:
            if '"remove"' in line and (removal := json.loads(line).get("remove")) is not None:
                yield removal["path"], removal["deletionTimestamp"]


def _older(path: Path, than: float) -> bool:
    try:
        return path.stat().st_mtime < than
    except FileNotFoundError:
        return False


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
