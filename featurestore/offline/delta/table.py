"""The state of a Delta table at one version: its files, the last run, and how much of its sequence is in them."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from featurestore.errors import OfflineStoreError
from featurestore.offline.base import Table
from featurestore.offline.condition import damaged
from featurestore.offline.delta.files import BUCKET, columns_of, delta_schema, numbered
from featurestore.offline.delta.log_entries import (
    ADDED,
    ENTRY,
    INTENT,
    LOG,
    ROWS,
    STORED,
    VOID,
    broken_entries,
    drop_lost_checkpoint,
    entry_at,
    log_files,
    marks_of,
)
from featurestore.offline.delta.log_tail import packed_entry, read_tail
from featurestore.offline.delta.open import delta_options, from_newest, open_delta, prepare, settle
from featurestore.offline.delta.sequence_entries import Action, Intent
from featurestore.offline.delta.table_files import TableFiles
from featurestore.offline.folder import Folder
from featurestore.offline.folder_probe import require_conditions
from featurestore.rows.total_order import COMMIT

_ATTEMPTS = 5
DEFINITION = "featurestore.definition"
GAVE_UP = "featurestore.gaveUp"
_RUNS = "featurestore"
_PUSHED = "pushed"
_APPLIED = "applied"
CHECKPOINT_EVERY = 100
_FEATURES = {"appendOnly", "invariants", "timestampNtz"}
"""What a table's protocol may ask for: it changes neither what is read nor what is written here."""
NO_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)
"""A commit's own checkpoint would take the place of entries before either is on the disk."""


@dataclass(frozen=True)
class DeltaState:
    """A table at one version.

    Args:
        folder: the table's folder.
        version: the version; -1 where there is no table.
        files: its files.
        last_run: the number of the last run that was committed; 0 for none.
        folded: up to which number the sequence's pushes have their rows in the files; 0 for none. Its intents are made, too.
        applied: up to which number the sequence's intents are made, or void.
        marks: tells the version's entry in the log from another one of the same number, and whether another one follows.
        columns: the names of its columns.
        configuration: what was noted of it when it was made, and mended.
    """

    folder: Folder
    version: int = -1
    files: TableFiles = field(default_factory=TableFiles)
    last_run: int = 0
    folded: int = 0
    applied: int = 0
    marks: tuple[str | None, ...] = ()
    columns: frozenset[str] = frozenset()
    configuration: Mapping[str, str] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many rows its files have."""
        return self.files.rows

    def has_columns_of(self, table: Table) -> bool:
        """Return whether it has all columns of its view, and that of commits."""
        return self.columns >= {*columns_of(table), COMMIT}

    @property
    def bits(self) -> int | None:
        """How many bits of the hash the files are split by; None without files."""
        return self.files.bits

    def has_rows_of(self, before: "DeltaState") -> bool:
        """Return whether it has the rows of an earlier state, in other files perhaps, and no others."""
        marks = (self.last_run, self.columns, self.rows)
        return marks == (before.last_run, before.columns, before.rows)

    def is_current(self) -> bool:
        """Return, at the price of a look at three files, whether the table is at this version still."""
        if self.version < 0:
            # NOTE: not by the entry of version 0, which is taken out of the log once somebody was forgotten.
            return not log_files(self.folder).entries
        return marks_of(self.folder, self.version) == self.marks


def open_state(folder: Folder, before: DeltaState | None = None) -> DeltaState:
    """Return a table as it is now.

    Args:
        folder: the table's folder.
        before: the table as it was. Where it is older by a few versions that add and remove files, only their entries are read:
            that takes the same time for a table of any size.

    Raises:
        DamagedHistoryError: its log cannot be read, or lacks an entry.
        OfflineStoreError: another program has changed it into one that this one does not read.
    """
    if before is not None and (state := _advanced(before)) is not None:
        return state
    for left in reversed(range(_ATTEMPTS)):
        try:
            return from_newest(folder, lambda delta: _state_of(folder, delta))
        except TableNotFoundError:
            if not log_files(folder).entries:
                return DeltaState(folder)
            if not left:
                _require_log(folder)
                raise
        except (DeltaError, OSError):
            if left and drop_lost_checkpoint(folder):
                continue
            _require_log(folder)
            raise
    raise AssertionError("the last attempt raises")


def _require_log(folder: Folder) -> None:
    if broken := broken_entries(folder, pages=True):
        project, view, version = folder.address().url.rstrip("/").split("/")[-3:]
        raise damaged(f"{project}/{view}/{version}", view, broken)


def _advanced(before: DeltaState) -> DeltaState | None:
    """Return a state of now that is made of an earlier one; None where the log's end does not suffice."""
    if before.version < 0 or (tail := read_tail(before.folder, before.version, before.marks[:2])) is None:
        return None
    files = before.files.changed(tail.added, tail.removed)
    if files is None:
        return None
    applications = {_RUNS: before.last_run, _PUSHED: before.folded, _APPLIED: before.applied, **tail.applications}
    return replace(
        before, version=tail.version, files=files, marks=(*tail.marks, None),
        last_run=applications[_RUNS], folded=applications[_PUSHED], applied=applications[_APPLIED],
    )  # fmt: skip


def _state_of(folder: Folder, delta: DeltaTable) -> DeltaState:
    _require_plain(folder, delta)
    version = delta.version()
    marks = (*marks_of(folder, version)[:-1], None)  # what follows it is not in it
    actions: Any = delta.get_add_actions(flatten=True)
    files = TableFiles.of_actions(pl.DataFrame(actions))
    last_run, folded = delta.transaction_version(_RUNS) or 0, delta.transaction_version(_PUSHED) or 0
    applied = delta.transaction_version(_APPLIED)
    columns = frozenset(field.name for field in delta.schema().fields)
    applied = folded if applied is None else applied  # the version before knew no intents
    return DeltaState(folder, version, files, last_run, folded, applied, marks, columns, delta.metadata().configuration)


def _require_plain(folder: Folder, delta: DeltaTable) -> None:
    """Refuse a table whose rows are not simply those of its files, or whose entries have to say more than is written here."""
    protocol = delta.protocol()
    features = {*(protocol.reader_features or ()), *(protocol.writer_features or ())} - _FEATURES
    if protocol.min_reader_version == 2 or 2 < protocol.min_writer_version < 7:
        features |= {f"reader version {protocol.min_reader_version}", f"writer version {protocol.min_writer_version}"}
    if features:
        raise OfflineStoreError(
            f"Another program has changed the table {folder.address().url} into one that cannot be read here: it has "
            f"{', '.join(sorted(features))}. Switch that off there, or restore the table from a backup."
        )


def create_table(folder: Folder, table: Table) -> None:
    """Make a table where there is none."""
    require_conditions(folder)
    prepare(folder, LOG)
    address = folder.address()
    try:
        DeltaTable.create(
            address.url,
            schema=delta_schema(table),
            mode="ignore",
            partition_by=[BUCKET],
            configuration={DEFINITION: table.definitions[0]} if table.definitions else None,
            raise_if_key_not_exists=False,
            storage_options=delta_options(address),
            commit_properties=CommitProperties(custom_metadata={ROWS: "0"}),
        )
    except CommitFailedError:  # another process created it at this moment
        open_delta(folder)
    settle(folder, LOG)


def add_columns(state: DeltaState, table: Table) -> None:
    """Give a table the columns that its view has got, and that of commits; the files that there are have null in them.

    Whether it did, or another process came first, is seen by opening the table again.
    """
    missing = [field for field in delta_schema(table).fields if field.name not in state.columns]
    with suppress(CommitFailedError):
        open_delta(state.folder, version=state.version).alter.add_columns(
            missing,
            commit_properties=CommitProperties(max_commit_retries=0, custom_metadata={ROWS: str(state.rows)}),
            post_commithook_properties=NO_HOOKS,
        )
    settle(state.folder, LOG)


def apply_intent(state: DeltaState, number: int, intent: Intent) -> None:
    """Make what the next intent of the sequence says, as the version after a state; nothing if another commit came first.

    Args:
        state: the state, which has all intents before this one.
        number: the number of its entry.
        intent: the intent. If a file is gone that it removes, the version notes that it is void.
    """
    is_void = not intent.removes <= state.files.paths
    actions = [] if is_void else [
        numbered(action, number) if isinstance(action, AddAction) else action for action in intent.actions
    ]  # fmt: skip
    applications = {_APPLIED: number}
    if intent.run is not None and not is_void:
        applications[_RUNS] = intent.run
    if intent.pushed is not None and not is_void:
        applications[_PUSHED] = intent.pushed
    metadata = {ENTRY: str(number), INTENT: intent.id, "why": intent.reason, ROWS: str(_rows_after(state, actions))}
    metadata[STORED] = str(intent.stored)
    if is_void:
        metadata[VOID] = "true"
    elif intent.added is not None:
        metadata |= {"run": str(intent.run), ADDED: str(intent.added)}
    elif intent.run is not None:
        metadata["run"] = str(intent.run)
    _write(state, actions, applications, metadata)


def write_repair(state: DeltaState, actions: Sequence[Action], run: int, pushed: int, applied: int) -> bool:
    """Write what a repair changes as the version after a state; return False if another commit came first.

    Args:
        state: the state.
        actions: the files that it adds and removes.
        run: the last run that is done then.
        pushed: the greatest push whose rows are in the files then.
        applied: the last entry of the sequence: what intents up to it were to change is in the files, or is to be claimed again.
    """
    applications = {_RUNS: run, _PUSHED: pushed, _APPLIED: applied}
    return _write(state, actions, applications, {"run": str(run), ROWS: str(_rows_after(state, actions))})


def _write(state: DeltaState, actions: Sequence[Action], applications: Mapping[str, int], metadata: Mapping[str, str]) -> bool:
    if state.version < 0 or not state.is_current():  # the version may be one that was taken out of the table's log
        return False
    require_conditions(state.folder)
    # NOTE: written here, for the library opens the table to write to it and again to see what it wrote. A commit that came
    # between may be one that makes the same intent, so nothing is tried again.
    entry = packed_entry(actions, applications, metadata)
    if state.folder.create(entry_at(state.version + 1), entry) is None:
        return False
    settle(state.folder, LOG)  # an entry before it may be another library's, which does not flush what it writes
    if (state.version + 2) % CHECKPOINT_EVERY == 0:
        with suppress(DeltaError, OSError):  # the commit is made; the log is as good without
            write_checkpoint(state.folder)
    return True


def require_known_columns(state: DeltaState, table: Table, actions: Sequence[Action]) -> None:
    """Refuse to rewrite files of a table that has columns which this process does not know: they would be lost.

    Raises:
        OfflineStoreError: it has some.
    """
    newer = state.columns - columns_of(table).keys() - {BUCKET, COMMIT}
    if newer and any(isinstance(action, RemoveAction) for action in actions):
        raise OfflineStoreError(
            f"{table} has got the columns {', '.join(sorted(newer))}, which this process does not know of yet: the view was "
            "applied again. Repeat the call."
        )


def note(state: DeltaState, key: str, value: str) -> bool:
    """Note something of a table that stays with it; return False where another commit has come before."""
    properties = CommitProperties(max_commit_retries=0, custom_metadata={ROWS: str(state.rows)})
    try:
        delta = open_delta(state.folder, version=state.version)
        delta.alter.set_table_properties(
            {key: value}, raise_if_not_exists=False, commit_properties=properties, post_commithook_properties=NO_HOOKS
        )
    except CommitFailedError:
        return False
    settle(state.folder, LOG)
    return True


def write_checkpoint(folder: Folder) -> None:
    """Write a checkpoint of a table as it is now, and take old entries out of its log once that is on the disk."""
    from_newest(folder, lambda delta: delta.create_checkpoint())
    settle(folder, LOG)
    from_newest(folder, lambda delta: delta.cleanup_metadata())


def _rows_after(state: DeltaState, actions: Sequence[Any]) -> int:
    gone = {action.path for action in actions if isinstance(action, RemoveAction)}
    added: int = sum(json.loads(action.stats)["numRecords"] for action in actions if isinstance(action, AddAction))
    removed = state.files.frame.filter(pl.col("path").is_in(gone))["rows"].sum() if gone else 0
    return added + state.rows - int(removed)
