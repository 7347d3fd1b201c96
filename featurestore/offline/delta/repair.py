"""Repair of a damaged table from the files that are still on disk.

Nothing is deleted with the commit that drops it: what no version names lies in the folder for a day at least. A table is a set of
rows, so what lies there of runs that were committed is what it had.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import polars as pl

from featurestore.clock import Clock, to_micros, utc_now
from featurestore.errors import DamagedHistoryError, OfflineStoreError
from featurestore.offline.base import Table
from featurestore.offline.condition import Condition, damaged
from featurestore.offline.delta.files import BUCKET, HASH, NewFile, columns_of, run_of, translated
from featurestore.offline.delta.files import write_file as write_rows
from featurestore.offline.delta.history import DeltaStore
from featurestore.offline.delta.integrity import missing_files, problems_of
from featurestore.offline.delta.log_entries import (
    LOG,
    broken_entries,
    entry_at,
    is_readable,
    is_whole,
    put_aside,
    put_checkpoint_aside,
    recorded_rows,
    recorded_run,
)
from featurestore.offline.delta.sequence_entries import Action, empty_push
from featurestore.offline.delta.table import (
    DEFINITION,
    GAVE_UP,
    DeltaState,
    create_table,
    note,
    open_state,
    require_known_columns,
    write_repair,
)
from featurestore.offline.delta.table_files import File, by_bucket, remove_file
from featurestore.offline.folder import Folder, is_local
from featurestore.offline.ledger_record import LedgerRecord
from featurestore.rows.buckets import bits_for, key_hash, node_of
from featurestore.rows.total_order import sort_history, without_known

_LOOKS = 3
_DATA = re.compile(rf"{BUCKET}=[^/]*/run-[^/]*\.parquet")


@dataclass(frozen=True)
class _Survey:
    """What entries that were taken out of a log tell.

    Args:
        rows: how many rows the table had.
        is_all: whether these are all that it had, with what the ledger knows of later runs.
    """

    rows: int = 0
    is_all: bool = False


class DeltaRepair:
    """Look whether the tables of a store are whole, and mend them.

    Args:
        store: the store.
        clock: tells the present.
    """

    def __init__(self, store: DeltaStore, *, clock: Clock = utc_now) -> None:
        self._folder = store.folder
        self._log = store.push_log
        self._clock = clock

    def inspect(self, table: Table, recorded: LedgerRecord) -> Condition:
        """See ``HistoryRepair.inspect``."""
        return self._inspect(table, recorded)

    def _inspect(self, table: Table, recorded: LedgerRecord, *, pages: bool = False) -> Condition:
        folder = self._folder(table)
        with translated("open", folder.address().url):
            for _ in range(_LOOKS):
                try:
                    state = open_state(folder)
                    sequence = self._log.sequence(table)
                    lost, waiting = sequence.lost(), [number for number in sequence.numbers() if number > state.folded]
                except DamagedHistoryError:
                    return Condition(tuple(broken_entries(folder, pages=True)))
                problems = problems_of(state, recorded.last_run, lost)
                place = f"{folder.address().url}/"
                problems += [f"its file {place}{name} cannot be read" for name in _damaged_files(state, pages=pages)]
                problems += [f"the pushed rows in {place}{name} cannot be read" for name in sequence.unreadable(waiting).values()]
                if not problems:
                    break
        noted = state.configuration
        return Condition(tuple(problems), noted.get(DEFINITION, ""), noted.get(GAVE_UP, ""), state.last_run)

    def mend(
        self, table: Table, recorded: LedgerRecord, without: Callable[[pl.DataFrame], pl.DataFrame] | None = None, *, give_up: bool
    ) -> str:
        """See ``HistoryRepair.mend``."""
        folder = self._folder(table)
        if not self._inspect(table, recorded, pages=True).problems:
            return ""
        with translated("mend", folder.address().url), self._log.sequence(table).mending():
            known = self._set_aside(folder, recorded)
            state = open_state(folder)
            if state.version < 0:
                create_table(folder, table)
                state = open_state(folder)
            files = self._put_back(state, table, recorded, known, without, give_up=give_up)
            return "; ".join(filter(None, [files, self._close_gaps(table, give_up=give_up)]))

    def _put_back(
        self,
        state: DeltaState,
        table: Table,
        recorded: LedgerRecord,
        known: _Survey,
        without: Callable[[pl.DataFrame], pl.DataFrame] | None,
        *,
        give_up: bool,
    ) -> str:
        """Add the rows to a table that it lacks and that are in files beside it; return what was done."""
        damaged_files = _damaged_files(state, pages=True)
        folder = state.folder
        missing = [*missing_files(state), *(file for file in state.files if file.path in damaged_files)]
        gone = {file.path for file in missing}
        there = [file for file in state.files if file.path not in gone]
        noted, through = recorded_rows(folder, state.version) or 0, recorded_run(folder, state.version)
        expected = max(
            state.rows + recorded.after(state.last_run),
            noted + recorded.after(max(through, state.last_run)) if noted else 0,
            known.rows,
        )
        if known.is_all and not state.files:
            expected = known.rows  # the ledger has rows of those, too, who were forgotten since
        if expected == state.rows and not missing and state.last_run >= recorded.last_run and state.folded >= recorded.pushed:
            return ""
        # Whoever was killed while somebody was forgotten has left files that have them still.
        beside = (frame if without is None else without(frame) for frame in self._beside(folder, table, state, recorded))
        written = self._write(folder, table, there, list(beside), recorded.last_run)
        restored = sum(rows for _, rows in written)
        lacking = expected - sum(file.rows for file in there) - restored
        if lacking > 0 and not give_up:
            folder.delete(new.action.path for new, _ in written)
            problem = f"{lacking:,} rows of it are nowhere on the disk, {restored:,} would be found"
            raise damaged(str(table), table.view, [problem], mended=True)
        report = f"{restored:,} rows were put back"
        if lacking > 0:
            report += f"; {lacking:,} were given up, which are nowhere on the disk"
            state = self._noted(state, f"{lacking:,} rows")
        now = to_micros(self._clock()) // 1000
        actions: list[Action] = [*(remove_file(file, now) for file in missing), *(new.action for new, _ in written)]
        run, pushed = max(recorded.last_run, state.last_run), max(recorded.pushed, state.folded)
        require_known_columns(state, table, actions)
        if not write_repair(state, actions, run, pushed, self._log.sequence(table).last()):
            named = open_state(folder).files.paths
            if written and all(new.action.path in named for new, _ in written):
                return report  # it was made, and the answer was lost
            folder.delete(new.action.path for new, _ in written if new.action.path not in named)
            raise OfflineStoreError(f"{table} was written to while it was mended. Mend it again: featurestore doctor --repair")
        return report

    def _noted(self, state: DeltaState, what: str) -> DeltaState:
        before = state.configuration.get(GAVE_UP)
        note(state, GAVE_UP, f"{before}; {what}" if before else what)
        return open_state(state.folder)

    def _set_aside(self, folder: Folder, recorded: LedgerRecord) -> _Survey:
        """Take what cannot be read out of the log, and the entries after it; return how many rows these say there are."""
        if not broken_entries(folder, pages=True):
            return _Survey()
        files = put_checkpoint_aside(folder, pages=True)
        needed = files.needed
        if not needed or needed[0] > files.newest + 1:
            # What the entries before it said is nowhere any more, so the table is made anew of the files that there are.
            report = _survey(folder, needed, recorded)
            put_aside(folder, [file.name for file in folder.list(f"{LOG}/")])
            return report
        rows, before, broken = 0, None, False
        for version in needed:
            broken = broken or not is_whole(folder, version) or (before is not None and version != before + 1)
            before = version
            if broken:
                rows = max(rows, recorded_rows(folder, version) or 0) if is_whole(folder, version) else rows
                put_aside(folder, [entry_at(version)])
        return _Survey(rows)

    def _beside(self, folder: Folder, table: Table, state: DeltaState, recorded: LedgerRecord) -> Iterator[pl.DataFrame]:
        """Yield the rows in files that no version of the table names, of runs that were committed or of compaction."""
        named = state.files.paths
        for name in [file.name for file in folder.list("") if _DATA.fullmatch(file.name)]:
            if name not in named and (run_of(name) == 0 or run_of(name) in recorded.rows):
                try:
                    yield _rows_of(folder, table, name)
                except (pl.exceptions.PolarsError, FileNotFoundError):
                    continue  # cut off; what is lacking is counted in the end
        # A hole may have hidden that their numbers were taken.
        sequence = self._log.sequence(table)
        for number in sequence.numbers():
            if number <= recorded.pushed and not sequence.unreadable([number]):
                with suppress(FileNotFoundError):  # it is an intent
                    yield sequence.rows_of([number])[number].select(*columns_of(table))

    def _write(
        self, folder: Folder, table: Table, there: Sequence[File], parts: Sequence[pl.DataFrame], run: int
    ) -> list[tuple[NewFile, int]]:
        keys, features = list(table.keys), list(table.features)
        if not parts:
            return []
        new = sort_history(pl.concat(parts), keys, features)
        for file in there:
            new = without_known(new, _rows_of(folder, table, file.path), keys, features)
        bits = max((file.node.bit_length() - 1 for file in there), default=bits_for(new.height))
        children = new.with_columns(node_of(key_hash(table.keys), bits).alias(BUCKET))
        parted = children.partition_by(BUCKET, as_dict=True, include_key=False, maintain_order=True)
        now = to_micros(self._clock()) // 1000
        return [(write_rows(folder, run, int(node), frame, now), frame.height) for (node,), frame in parted.items()]

    def _close_gaps(self, table: Table, *, give_up: bool) -> str:
        """Put an empty segment in the place of each that is lost, where it is given up."""
        folder = self._folder(table)
        sequence = self._log.sequence(table)
        state = open_state(folder)
        broken = sequence.unreadable([number for number in sequence.numbers() if number > state.folded])
        lost = sorted({*sequence.lost(), *broken})
        if not lost:
            return ""
        what = f"{len(lost)} pushes that waited for a run"
        if not give_up:
            raise damaged(str(table), table.view, [f"{what} are gone or cannot be read: {lost[:3]}"], mended=True)
        self._noted(state, what)
        put_aside(folder, list(broken.values()))
        empty = empty_push({**columns_of(table), HASH: pl.UInt64()})
        for number in lost:
            sequence.fill(number, empty)
        return f"{what} were given up"


def _damaged_files(state: DeltaState, *, pages: bool) -> list[str]:
    """Return the files of a table that are as long as they were written and cannot be read; ``pages`` looks at all of them."""
    if not pages and not is_local(state.folder):
        return []  # a file that is as long as it was written is whole
    gone = {file.path for file in missing_files(state)}
    names = []
    for file in state.files:
        with suppress(FileNotFoundError):  # the table was written again meanwhile
            if file.path not in gone and not is_readable(state.folder, file.path, pages=pages):
                names.append(file.path)
    return names


def _survey(folder: Folder, numbers: Sequence[int], recorded: LedgerRecord) -> _Survey:
    """Return what the entries of a log tell whose beginning is lost."""
    if (
        not numbers
        or not all(is_whole(folder, number) for number in numbers)
        or list(numbers) != list(range(numbers[0], numbers[0] + len(numbers)))
    ):
        return _Survey(max((recorded_rows(folder, number) or 0 for number in numbers), default=0))
    rows = recorded_rows(folder, numbers[-1])
    run = max(recorded_run(folder, number) for number in numbers)
    return _Survey((rows or 0) + (recorded.after(run) if run else 0), rows is not None)


def _rows_of(folder: Folder, table: Table, name: str) -> pl.DataFrame:
    """Return the rows of one file of a table."""
    [history] = by_bucket(folder, table, [File(name, 1, 0, 0, 0, 0)]).values()
    [rows] = history.read()
    return rows
