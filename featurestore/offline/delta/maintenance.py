"""Maintenance of Delta tables: compaction, checkpoints of the log, and removal of unneeded files.

NOTE: Delta's own ``optimize`` does not keep the order of the rows, and its ``vacuum`` goes by the system's clock and writes
versions, which would make runs that write at the same time start over.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from datetime import timedelta
from io import BytesIO

import polars as pl

from featurestore.clock import Clock, to_micros, utc_now
from featurestore.durable import TEMPORARY
from featurestore.engines.base import Engine, goes_elsewhere
from featurestore.offline.base import Compacted, Removed, Table, is_gone
from featurestore.offline.condition import damaged
from featurestore.offline.delta.compaction import CompactTask, worth_merging
from featurestore.offline.delta.files import BUCKET, NewFile, translated
from featurestore.offline.delta.history import DeltaStore, staged_files
from featurestore.offline.delta.integrity import problems_of
from featurestore.offline.delta.log_entries import LOG, checkpoint_at, entry_at, hinted_checkpoint, log_files
from featurestore.offline.delta.sequence import TableSequence, View
from featurestore.offline.delta.sequence_entries import Action, Intent
from featurestore.offline.delta.table import add_columns, open_state, require_known_columns, write_checkpoint
from featurestore.offline.delta.table_files import remove_file
from featurestore.offline.folder import Entry, Folder, is_local, present
from featurestore.offline.folder_probe import PROBES
from featurestore.rows.total_order import COMMIT

_COMMITS = 50
"""So many commits are worth a checkpoint."""
_ATTEMPTS = 20
_DATA = re.compile(rf"{BUCKET}=[^/]*/[^/]*\.parquet")
_ABANDONED = timedelta(days=1)
"""What no version names, and nobody changed for so long, was left by a writer that was killed."""


class DeltaMaintenance:
    """Keep the tables of a store in order.

    Args:
        store: the store.
        clock: tells the present.
    """

    def __init__(self, store: DeltaStore, *, clock: Clock = utc_now) -> None:
        self._store = store
        self._folder = store.folder
        self._log = store.push_log
        self._clock = clock

    def tables(self, project: str) -> list[tuple[str, int]]:
        """See ``TableMaintenance.tables``."""
        folder = self._store.project(project)
        with translated("list", folder.address().url):
            places = [place for view in folder.folders("") for place in folder.folders(view)]
        names = (place.strip("/").split("/v", 1) for place in places)
        return sorted((name[0], int(name[1])) for name in names if len(name) == 2 and name[1].isdecimal() and name[0][0] != "_")

    def files(self, table: Table) -> int:
        """See ``TableMaintenance.files``."""
        folder = self._folder(table)
        with translated("open", folder.address().url):
            view = self._log.sequence(table).look()
            return len(view.state.files) + len(view.pushes)

    def compact(
        self,
        table: Table,
        done: int,
        without: Callable[[pl.DataFrame], pl.DataFrame] | None = None,
        *,
        dry_run: bool = False,
        engine: Engine | None = None,
    ) -> Compacted | None:
        """See ``TableMaintenance.compact``."""
        folder = self._folder(table)
        with translated("compact", folder.address().url):
            sequence = self._log.sequence(table)
            view = _sound(sequence)
            if view is None:
                return Compacted(0, 0, 0)
            state = view.state
            group = worth_merging(state.files, done, is_local=is_local(folder))
            if group is None:
                return None
            size = sum(file.size for file in group.files)
            if dry_run:
                return Compacted(len(group.files), 1 << group.bits, size)
            if COMMIT not in state.columns:  # the version before did not keep which commit brought a row
                add_columns(state, table)
                return Compacted(0, 0, 0)
            now = to_micros(self._clock()) // 1000
            written: list[NewFile] = []
            try:
                task = CompactTask.of(folder, table, group, now, without)
                if goes_elsewhere(engine, task.rows):
                    with closing(engine.run(task.split(len(task.nodes)) or [task])) as results:
                        for _, files in results:
                            written += files
                else:
                    task.run(written)
            except BaseException as error:  # by an interruption too: nobody claims these files any more
                folder.delete(new.action.path for new in written)
                if is_gone(error) and open_state(folder).files != state.files:
                    return Compacted(0, 0, 0)
                raise
            actions: list[Action] = [remove_file(file, now, changes=False) for file in group.files]
            # NOTE: once it is tried to claim the change, its files are deleted only where it surely will never be made.
            if not _replace(sequence, view, [*actions, *(new.action for new in written)]):
                folder.delete(new.action.path for new in written)
                return Compacted(0, 0, 0)
            return Compacted(len(group.files), len(written), sum(new.action.size for new in written))

    def checkpoint(self, table: Table) -> bool:
        """See ``TableMaintenance.checkpoint``."""
        folder = self._folder(table)
        with translated("write", folder.address().url):
            state = open_state(folder)
            if state.version < 0 or state.version - hinted_checkpoint(folder) < _COMMITS:
                return False
            write_checkpoint(folder)
            return True

    def vacuum(self, table: Table, keep: timedelta, *, dry_run: bool = False) -> Removed:
        """See ``TableMaintenance.vacuum``."""
        folder = self._folder(table)
        with translated("clear up", folder.address().url):
            # NOTE: listed before the table is opened: what a writer has not committed by then is an orphan, and young.
            files = [file for file in folder.list("") if not file.name.startswith(f"{LOG}/")]
            view = self._log.sequence(table).look()
            state = view.state
            if state.version < 0:
                return Removed()
            data = [file for file in files if _DATA.fullmatch(file.name)]
            removed_at = dict(_removals(folder)) if data else {}
            needed = state.files.paths.union(*(intent.adds for intent in view.pending.values()))
            until = to_micros(self._clock() - keep) // 1000
            unnamed = [file for file in data if file.name not in needed]
            old = [file for file in unnamed if removed_at.get(file.name, until + 1) <= until]
            left = [file for file in unnamed if file.name not in removed_at]
            left += [file for file in files if file.name.endswith(TEMPORARY) or file.name.startswith(PROBES)]
            left += [
                file for run, staged in staged_files(folder).items() if run <= state.last_run for file in staged if file not in left
            ]
            old += _abandoned(folder, left, keep, dry_run=dry_run)
            if not dry_run:
                folder.delete(file.name for file in old)
                self._log.sequence(table).kept_instants.merge()
            return Removed(len(old), sum(file.size for file in old))


def _sound(sequence: TableSequence) -> View | None:
    """Return a table that lacks nothing, for a writer; None where it was written to while it was looked at."""
    view = sequence.settle()
    if problems := problems_of(view.state, 0, sequence.lost()):
        if not view.state.is_current():
            return None
        raise damaged(str(sequence.table), sequence.table.view, problems)
    return view


def _abandoned(folder: Folder, files: Sequence[Entry], keep: timedelta, *, dry_run: bool) -> list[Entry]:
    """Return those of some files that nobody has written to for so long that their writer must be dead."""
    if not files:
        return []
    # In object storage its clock counts, for it is what gave the files their times; to see it something must be written.
    now = utc_now().timestamp() if dry_run or is_local(folder) else present(folder)
    return [file for file in files if file.modified < now - max(keep, _ABANDONED).total_seconds()]


def _replace(sequence: TableSequence, view: View, actions: Sequence[Action]) -> bool:
    """Name merged files instead of those they were merged from, if all of these are the table's still."""
    for attempt in range(_ATTEMPTS):
        with sequence.turn(attempt):
            now = sequence.settle() if attempt else view
            intent = Intent("compact", actions, now.pushed_with())
            if not intent.removes <= now.state.files.paths:
                return False
            require_known_columns(now.state, sequence.table, actions)
            was_made = sequence.commit(now, intent)
        if was_made is not None:
            return was_made
    return False


def _removals(folder: Folder) -> Iterable[tuple[str, int]]:
    """Yield the files that a table's log says were removed, and when, in milliseconds."""
    with suppress(FileNotFoundError):
        removals = pl.read_parquet(BytesIO(folder.read(checkpoint_at(max(0, hinted_checkpoint(folder))))), columns=["remove"])[
            "remove"
        ].drop_nulls()
        yield from ((action["path"], action["deletionTimestamp"]) for action in removals)
    for version in log_files(folder).entries:
        with suppress(FileNotFoundError):  # somebody cleaned the log up
            for line in folder.read(entry_at(version)).splitlines():
                if b'"remove"' in line and (removal := json.loads(line).get("remove")) is not None:
                    yield removal["path"], removal["deletionTimestamp"]
