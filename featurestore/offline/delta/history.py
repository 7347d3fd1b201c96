"""Histories in Delta tables: one table for each view and data version, sorted and bucketed by entity."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import uuid4

import polars as pl

from featurestore.clock import Clock, to_micros, utc_now
from featurestore.engines.base import Engine
from featurestore.errors import DamagedHistoryError, OfflineStoreError
from featurestore.locks import FileLocks, Locks
from featurestore.offline.base import History, PushLog, Snapshot, Staged, Table, is_gone
from featurestore.offline.delta.commit import CommitBuilder, Merged, StagedRows
from featurestore.offline.delta.files import (
    COMPRESSION,
    HASH,
    between,
    event_span,
    run_prefix,
    translated,
)
from featurestore.offline.delta.integrity import require_whole
from featurestore.offline.delta.log_entries import LOG, recorded_added
from featurestore.offline.delta.open import settle
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
from featurestore.offline.delta.table_files import Buckets, by_bucket
from featurestore.offline.folder import Address, Entry, Folder, delete_below
from featurestore.offline.local_folder import LocalFolder
from featurestore.rows.buckets import key_hash
from featurestore.rows.total_order import COMMIT
from featurestore.rows.transform import stack_rejects

_ATTEMPTS = 20
_CLAIMS = 100
STAGING = "_staging"
REJECTED = "_rejected"


class DeltaStore:
    """Keep each view's history in a Delta table under a folder.

    The table of a view lies in ``project/view/v1`` of the folder: Parquet files in ``_bucket=…`` folders, ``_delta_log``, and
    beside them ``_pushed``, ``_staging`` and ``_rejected``, which readers of Delta pass over.

    Args:
        folder: where the tables lie; a path is a folder of this machine.
        locks: the locks of all who write to it; by default files in the folder, which then is one of this machine.
        clock: tells the present.
        threads: how many buckets are merged at once.
    """

    def __init__(self, folder: Folder | Path, *, locks: Locks | None = None, clock: Clock = utc_now, threads: int = 2) -> None:
        self._folder = LocalFolder(folder) if isinstance(folder, Path) else folder
        self._clock = clock
        self._threads = threads
        self.push_log = DeltaPushLog(self.folder, locks_beside(self._folder) if locks is None else locks, clock=clock)
        self.log: PushLog = self.push_log

    @property
    def address(self) -> Address:
        """Where the tables lie."""
        return self._folder.address()

    @property
    def file_system(self) -> Any:
        """See ``Folder.file_system``."""
        return self._folder.file_system()

    def folder(self, table: Table) -> Folder:
        """Return the folder of a table, readable by anything that reads Delta."""
        return self._folder.inside(f"{table.project}/{table.view}/v{table.data_version}")

    def project(self, project: str) -> Folder:
        """Return the folder of a project: in it are those of its views, and in these the tables."""
        return self._folder.inside(project)

    def _place(self, table: Table) -> str:
        return self.folder(table).address().url

    def snapshot(
        self, table: Table, *, since: int | None = None, until: int | None = None, stored_until: int | None = None
    ) -> Snapshot:
        """See ``OfflineStore.snapshot``."""
        with translated("open", self._place(table)):
            sequence = self.push_log.sequence(table)
            view = sequence.look()
            if stored_until is not None and any(number <= stored_until for number in view.pending):
                view = sequence.settle()  # what was stored by then is seen, whether or not its writer has come so far
            # Those that a commit took over are named until they are deleted: whoever tries one again must find it told.
            taken = sequence.pushes_behind(view)
        state = view.state
        if stored_until is not None:
            _require_commits(state, table)
        spans = [] if state.files.span is None else [state.files.span]
        rows = state.rows
        pushed: pl.DataFrame | None = None
        # A push may be empty: its entities were forgotten.
        pushes = {number: rows for number, rows in view.pushes.items() if stored_until is None or number <= stored_until}
        if pushes and (log := _with_commits(pushes)).height:
            rows += log.height
            spans.append(event_span(log))
            pushed = between(log, since, until)
        return Snapshot(
            state.version,
            Buckets(
                self.folder(table),
                table,
                state.files.overlapping(since, until).stored_until(stored_until),
                pushed,
                bits=state.bits,
                until=stored_until,
            ),
            rows,
            state.last_run,
            (min(first for first, _ in spans), max(last for _, last in spans)) if spans else None,
            (*taken, *view.pushes),
        )

    def stage(self, table: Table, run: int, index: int, frame: pl.DataFrame) -> Staged:
        """See ``OfflineStore.stage``."""
        folder, name = self.folder(table), f"{STAGING}/{run:08d}/{index:06d}-{uuid4().hex}.parquet"
        with translated("write", folder.address(name).url):
            # Sorted by hash, so that a bucket of any depth is one stretch of the file.
            hashed = frame.with_columns(key_hash(table.keys).alias(HASH)).sort(HASH)
            folder.write(name, lambda file: hashed.write_parquet(file, compression=COMPRESSION, row_group_size=131_072))
        return {"path": name, "rows": frame.height}

    def commit(self, table: Table, run: int, staged: Sequence[Staged], after: int = 0, engine: Engine | None = None) -> int:
        """See ``OfflineStore.commit``."""
        folder = self.folder(table)
        folded = max((chunk["pushed"] for chunk in staged if "pushed" in chunk), default=None)
        with translated("write", folder.address().url):
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
                    settle(folder, LOG)  # whoever wrote it may be about to
                    self._unstage(table, run)
                    return recorded_added(folder, run)
                if after and table.definitions and DEFINITION not in state.configuration:  # the version before did not say
                    note(state, DEFINITION, table.definitions[0])
                    continue
                if not state.has_columns_of(table):
                    add_columns(state, table)
                    continue
                log = tuple(view.after(folded or 0))
                try:
                    merge = CommitBuilder(folder, table, run, state.files, self._now(), self._threads, log)
                    merged = self._commit(sequence, view, merge, merge.add(self._staged(table, staged), engine), folded)
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
                if not now.state.has_rows_of(view.state) or not removed <= now.state.files.paths:
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
        merge.folder.delete(new.action.path for new in merged.added)
        return None

    def _staged(self, table: Table, staged: Sequence[Staged]) -> StagedRows:
        """Return the staged rows. Segments, which are many and small, are kept in memory."""
        numbers = [chunk["pushed"] for chunk in staged if "pushed" in chunk]
        pushes = self.push_log.sequence(table).rows_of(numbers) if numbers else {}
        pushed = _with_commits(pushes) if pushes else None
        files = tuple(chunk["path"] for chunk in staged if chunk["rows"] and "pushed" not in chunk)
        return StagedRows(self.folder(table), table, files, pushed, sum(chunk["rows"] for chunk in staged))

    def committed(self, table: Table, run: int) -> list[History]:
        """See ``OfflineStore.committed``."""
        with translated("open", self._place(table)):
            files = open_state(self.folder(table)).files
        own = [file for file in files if PurePosixPath(file.path).name.startswith(run_prefix(run))]
        return list(by_bucket(self.folder(table), table, own).values())

    def keep_rejected(self, table: Table, run: int, index: int, frame: pl.DataFrame) -> str:
        """See ``OfflineStore.keep_rejected``."""
        folder, name = self.folder(table), f"{REJECTED}/run-{run:08d}-{index:06d}.parquet"
        with translated("write", folder.address(name).url):
            folder.write(name, frame.with_columns(pl.lit(run, pl.Int64).alias("_run")).write_parquet)
        return folder.address(REJECTED).url

    def rejected(self, table: Table) -> pl.DataFrame:
        """See ``OfflineStore.rejected``."""
        folder = self.folder(table)
        with translated("read", folder.address(REJECTED).url):
            frames = [pl.read_parquet(BytesIO(folder.read(name))) for name in rejected_files(folder)]
        if not frames:
            return pl.DataFrame(schema={"_reason": pl.String(), "_run": pl.Int64()})
        return stack_rejects(frames)

    def drop(self, table: Table) -> None:
        """See ``OfflineStore.drop``."""
        with translated("delete", self._place(table)):
            delete_below(self.folder(table), f"{LOG}/", "")  # so that no reader finds a log without its files
        self.push_log.forget(table)

    def _now(self) -> int:
        return to_micros(self._clock()) // 1000

    def _unstage(self, table: Table, run: int) -> None:
        """Clear up what this run and failed ones before it had staged."""
        with suppress(OSError):  # what is left is cleared up by the next run
            folder = self.folder(table)
            folder.delete([file.name for number, files in staged_files(folder).items() if number <= run for file in files])


def _require_commits(state: DeltaState, table: Table) -> None:
    """Refuse a table of which it is not known for all rows which commit brought them."""
    if (foreign := state.files.of_unknown_commit) is not None:
        raise OfflineStoreError(
            f"Another program has written files of {table}, such as {foreign}, so it is not known when their rows were stored. "
            "A frame as the store was at an instant cannot be computed any more; one of the present can."
        )


def _with_commits(pushes: Mapping[int, pl.DataFrame]) -> pl.DataFrame:
    """Return the rows of pushes, which stand by their numbers, each with the number of its own."""
    counts = pl.DataFrame(
        {COMMIT: list(pushes), "rows": [rows.height for rows in pushes.values()]}, schema={COMMIT: pl.Int64, "rows": pl.Int64}
    )
    commits = counts.select(pl.col(COMMIT).repeat_by("rows").explode(empty_as_null=False)).to_series()
    return pl.concat(pushes.values()).with_columns(commits)


def _is_whole(sequence: TableSequence, state: DeltaState, table: Table, after: int) -> bool:
    """Refuse to write over missing files; return False where the table was rewritten, so that they need not be there."""
    try:
        require_whole(state, table, after, sequence.lost())
    except DamagedHistoryError:
        if state.is_current():
            raise
        return False
    return True


def locks_beside(folder: Folder) -> Locks:
    """Return locks in files of a folder of this machine.

    Raises:
        OfflineStoreError: it is in object storage, where there are none: give those of a registry.
    """
    path = folder.address("_locks").path
    if path is None:
        raise OfflineStoreError(f"Object storage has no locks, so who writes to {folder.address().url} needs those of a registry.")
    return FileLocks(path)


def staged_files(folder: Folder) -> dict[int, list[Entry]]:
    """Return the files in which runs have staged rows, by run; what a desktop or a file system has put beside them is none."""
    files: dict[int, list[Entry]] = {}
    for file in folder.list(f"{STAGING}/"):
        run, _, name = file.name.removeprefix(f"{STAGING}/").partition("/")
        if name and run.isdecimal():
            files.setdefault(int(run), []).append(file)
    return files


def rejected_files(folder: Folder) -> list[str]:
    """Return the names of the files of rejected rows."""
    return [file.name for file in folder.list(f"{REJECTED}/run-") if file.name.endswith(".parquet")]
