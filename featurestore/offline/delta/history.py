"""Histories in Delta tables: one table for each view and data version, sorted and bucketed by entity."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import polars as pl

from featurestore.clock import Clock, to_micros, utc_now
from featurestore.durable import make_folders, remove, remove_folder, replace_file, settle
from featurestore.errors import DamagedHistoryError, OfflineStoreError
from featurestore.locks import FileLocks, Locks
from featurestore.offline.base import History, PushLog, Snapshot, Staged, Table, is_gone
from featurestore.offline.delta.commit import CommitBuilder, Merged
from featurestore.offline.delta.files import (
    HASH,
    by_bucket,
    columns_of,
    event_span,
    pushed_by_bucket,
    run_prefix,
    translated,
    write_in_folder,
)
from featurestore.offline.delta.integrity import require_whole
from featurestore.offline.delta.log_entries import LOG, recorded_added
from featurestore.offline.delta.push_log import DeltaPushLog
from featurestore.offline.delta.sequence import TableSequence, View
from featurestore.offline.delta.sequence_entries import Action, Intent
from featurestore.offline.delta.table import (
    DEFINITION,
    DeltaState,
    add_columns,
    create_table,
    note,
    open_state,
    require_known_columns,
)
from featurestore.rows.buckets import key_hash
from featurestore.rows.transform import stack_rejects

_ATTEMPTS = 20
_CLAIMS = 100


class DeltaStore:
    """Keep each view's history in a Delta table under a folder.

    The table of a view lies in ``folder/project/view/v1``: Parquet files in ``_bucket=…`` folders, ``_delta_log``, and
    beside them ``_pushed``, ``_staging`` and ``_rejected``, which readers of Delta pass over.

    Args:
        folder: where the tables lie.
        locks: the locks of all who write to it; by default files in the folder.
        clock: tells the present.
        threads: how many buckets are merged at once.
    """

    def __init__(self, folder: Path, *, locks: Locks | None = None, clock: Clock = utc_now, threads: int = 2) -> None:
        self._folder = folder
        self._clock = clock
        self._threads = threads
        self.push_log = DeltaPushLog(self.path, FileLocks(folder / "_locks") if locks is None else locks, clock=clock)
        self.log: PushLog = self.push_log

    def path(self, table: Table) -> Path:
        """Return the folder of a table, readable by anything that reads Delta."""
        return self._folder / table.project / table.view / f"v{table.data_version}"

    def snapshot(self, table: Table, *, since: int | None = None, until: int | None = None) -> Snapshot:
        """See ``OfflineStore.snapshot``."""
        with translated("open", str(self.path(table))):
            sequence = self.push_log.sequence(table)
            view = sequence.look()
            # Those that a commit took over are named until they are deleted: whoever tries one again must find it told.
            taken = sequence.pushes_behind(view)
        state = view.state
        spans = [(file.since, file.until) for file in state.files]
        rows = sum(file.rows for file in state.files)
        pushed: dict[int, pl.DataFrame] = {}
        # A push may be empty: its entities were forgotten.
        if view.pushes and (log := pl.concat(view.pushes.values())).height:
            rows += log.height
            spans.append(event_span(log))
            pushed = pushed_by_bucket(log, state.bits or 0, since, until)
        wanted = [file for file in state.files if file.overlaps(since, until)]
        return Snapshot(
            state.version,
            by_bucket(self.path(table), table, wanted, pushed, bits=state.bits),
            rows,
            state.last_run,
            (min(first for first, _ in spans), max(last for _, last in spans)) if spans else None,
            (*taken, *view.pushes),
        )

    def stage(self, table: Table, run: int, index: int, frame: pl.DataFrame) -> Staged:
        """See ``OfflineStore.stage``."""
        path = self.path(table) / "_staging" / f"{run:08d}" / f"{index:06d}-{uuid4().hex}.parquet"
        with translated("write", str(path)):
            # Sorted by hash, so that a bucket of any depth is one stretch of the file.
            hashed = frame.with_columns(key_hash(table.keys).alias(HASH)).sort(HASH)
            write_in_folder(hashed, path, row_group_size=131_072)
        return {"path": str(path.relative_to(self.path(table))), "rows": frame.height}

    def commit(self, table: Table, run: int, staged: Sequence[Staged], after: int = 0) -> int:
        """See ``OfflineStore.commit``."""
        folder = self.path(table)
        folded = max((chunk["pushed"] for chunk in staged if "pushed" in chunk), default=None)
        rows = sum(chunk["rows"] for chunk in staged)
        with translated("write", str(folder)):
            sequence = self.push_log.sequence(table)
            for _ in range(_ATTEMPTS):
                view = sequence.settle()
                state = view.state
                if state.last_run < run and not _is_whole(sequence, state, table, after):
                    continue
                if state.version < 0:
                    create_table(folder, table)
                    continue
                if state.last_run >= run:
                    settle(folder / LOG)  # whoever wrote it may be about to
                    self._unstage(table, run)
                    return recorded_added(folder, run)
                if after and table.definitions and DEFINITION not in state.configuration:  # the version before did not say
                    note(state, DEFINITION, table.definitions[0])
                    continue
                if not state.columns >= columns_of(table).keys():
                    add_columns(state, table)
                    continue
                log = tuple(view.after(folded or 0))
                try:
                    merge = CommitBuilder(folder, table, run, state.files, self._now(), self._threads, log)
                    merged = self._commit(sequence, view, merge, merge.add(self._staged(table, staged), rows), folded)
                except (FileNotFoundError, OfflineStoreError) as error:
                    # Another process at the same run was done first and cleared up, or one at an earlier run was; or an entity was
                    # forgotten, or what was merged was removed, since the table was opened.
                    if not is_gone(error) or state.is_current():
                        raise
                    continue
                if merged is not None:
                    self._unstage(table, run)
                    return merged.rows
        raise OfflineStoreError(
            f"Run {run} of {table} met another writer's commit {_ATTEMPTS} times over. Run it again when fewer write to the view."
        )

    def _commit(
        self, sequence: TableSequence, view: View, merge: CommitBuilder, merged: Merged, folded: int | None
    ) -> Merged | None:
        """Commit what was merged, less rows that were pushed while it was merged.

        Returns:
            What was committed; None where something else was committed that it has to be merged with.
        """
        removed = {action.path for action in merged.removed}
        for attempt in range(_CLAIMS):
            with sequence.turn(attempt):
                now = sequence.settle() if attempt else view
                # What was compacted meanwhile has the rows that were looked at, so they need not be looked at again.
                if not now.state.has_rows_of(view.state) or not removed <= {file.path for file in now.state.files}:
                    break
                late = now.after(view.last)
                if late:
                    merged = merge.leave_out(merged, late)
                actions: list[Action] = [*merged.removed, *(new.action for new in merged.added)]
                require_known_columns(now.state, merge.table, actions)
                was_made = sequence.commit(now, Intent("run", actions, now.pushed_with(folded), merge.run, merged.rows))
                if was_made:
                    return merged
                if was_made is not None:
                    break
                view = now
        remove(merge.folder / new.action.path for new in merged.added)
        return None

    def _staged(self, table: Table, staged: Sequence[Staged]) -> list[pl.LazyFrame]:
        """Return the staged rows. Segments, which are many and small, are kept in memory."""
        numbers = [chunk["pushed"] for chunk in staged if "pushed" in chunk]
        pushed = [pl.concat(self.push_log.sequence(table).rows_of(numbers).values()).lazy()] if numbers else []
        files = [self.path(table) / chunk["path"] for chunk in staged if chunk["rows"] and "pushed" not in chunk]
        return [*(_scan_staged(table, path) for path in files), *pushed]

    def committed(self, table: Table, run: int) -> list[History]:
        """See ``OfflineStore.committed``."""
        with translated("open", str(self.path(table))):
            files = open_state(self.path(table)).files
        own = [file for file in files if Path(file.path).name.startswith(run_prefix(run))]
        return list(by_bucket(self.path(table), table, own).values())

    def keep_rejected(self, table: Table, run: int, index: int, frame: pl.DataFrame) -> str:
        """See ``OfflineStore.keep_rejected``."""
        path = self.path(table) / "_rejected" / f"run-{run:08d}-{index:06d}.parquet"
        with translated("write", str(path)):
            make_folders(path.parent)
            replace_file(path, frame.with_columns(pl.lit(run, pl.Int64).alias("_run")).write_parquet)
        return str(path.parent)

    def rejected(self, table: Table) -> pl.DataFrame:
        """See ``OfflineStore.rejected``."""
        folder = self.path(table) / "_rejected"
        with translated("read", str(folder)):
            frames = [pl.read_parquet(path) for path in sorted(folder.glob("run-*.parquet"))]
        if not frames:
            return pl.DataFrame(schema={"_reason": pl.String(), "_run": pl.Int64()})
        return stack_rejects(frames)

    def drop(self, table: Table) -> None:
        """See ``OfflineStore.drop``."""
        with translated("delete", str(self.path(table))):
            remove_folder(self.path(table))
        self.push_log.forget(table)

    def _now(self) -> int:
        return to_micros(self._clock()) // 1000

    def _unstage(self, table: Table, run: int) -> None:
        """Clear up what this run and failed ones before it had staged."""
        for folder in staged_runs(self.path(table)):
            if int(folder.name) <= run:
                with suppress(OSError):  # what is left is cleared up by the next run
                    remove_folder(folder, lasting=False)


def _is_whole(sequence: TableSequence, state: DeltaState, table: Table, after: int) -> bool:
    """Refuse to write over missing files; return False where the table was rewritten, so that they need not be there."""
    try:
        require_whole(state, table, after, sequence.lost())
    except DamagedHistoryError:
        if state.is_current():
            raise
        return False
    return True


def staged_runs(folder: Path) -> list[Path]:
    """Return the folders in which runs have staged rows; what a desktop or a file system has put beside them is none."""
    return [path for path in (folder / "_staging").glob("*") if path.name.isdecimal() and path.is_dir()]


def _scan_staged(table: Table, path: Path) -> pl.LazyFrame:
    """Return the rows of a staged file, with null for columns that the view has got since it was written."""
    rows = pl.scan_parquet(path, glob=False)
    there = rows.collect_schema()
    return rows.with_columns(pl.lit(None, dtype).alias(name) for name, dtype in columns_of(table).items() if name not in there)
