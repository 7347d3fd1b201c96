"""Integrity of a table: a missing file or log entry is detected before anything is written.

A commit says how many rows the table has after it, the ledger which runs were committed, and the segments of the log of pushes are
numbered without gaps, the last number noted beside them. So what is missing is seen by looking at the last entry, at the files that
the table names, and at the folder of the log.
"""

from collections.abc import Sequence

from featurestore.errors import MaterializeError
from featurestore.offline.base import Table
from featurestore.offline.condition import damaged, lost_runs
from featurestore.offline.delta.log_entries import broken_entries, recorded_rows
from featurestore.offline.delta.table import DEFINITION, DeltaState
from featurestore.offline.delta.table_files import File
from featurestore.offline.folder import Folder, is_local

_NAMED = 3
"""So many files that are missing are named; of more it is said how many."""


def require_whole(state: DeltaState, table: Table, after: int, lost: Sequence[int]) -> None:
    """Refuse to write to a table that lacks something, or that another definition made.

    Args:
        state: the table as it is.
        table: the table.
        after: the last run that the ledger knows to be committed.
        lost: the numbers of the segments that its log lacks.

    Raises:
        DamagedHistoryError: it lacks something.
        MaterializeError: another definition made it.
    """
    if problems := problems_of(state, after, lost):
        raise damaged(str(table), table.view, problems)
    made_by = state.configuration.get(DEFINITION, "")
    # A registry that knows of a run has made the table itself: a digest may be another one where this package is another one.
    if not after and made_by and table.definitions and made_by not in table.definitions:
        raise MaterializeError(other_definition(table))


def other_definition(table: Table) -> str:
    """Return what is to be said of a table that another definition made than the one that is applied."""
    return (
        f"The history {table} has the rows of another definition of {table.view!r} than is applied, and the registry knows of no "
        "run that wrote them: was it lost, or restored from an older backup? Restore a newer one, or move the history's folder "
        "away, and run it again."
    )


def problems_of(state: DeltaState, after: int, lost: Sequence[int]) -> list[str]:
    """Return what a table lacks, a sentence each."""
    problems = [lost_runs(state.last_run, after)] if state.last_run < after else []
    if state.version >= 0:
        problems += broken_entries(state.folder)
        recorded = recorded_rows(state.folder, state.version)
        if recorded is not None and recorded != state.rows:
            problems.append(f"it had {recorded:,} rows at its last commit, and its log names files of {state.rows:,}")
    missing = missing_files(state)
    if missing:
        named = ", ".join(state.folder.address(file.path).url for file in missing[:_NAMED])
        rows = sum(file.rows for file in missing)
        problems.append(f"{len(missing)} of its files with {rows:,} rows are gone or cut off: {named}")
    if lost:
        problems.append(f"{len(lost)} pushes that wait for a run are gone: the segments {', '.join(map(str, lost[:_NAMED]))}")
    return problems


def missing_files(state: DeltaState) -> list[File]:
    """Return the files of a table that are not there, or not as long as they were written."""
    if is_local(state.folder):
        return [file for file in state.files if _size(state.folder, file) != file.size]
    # NOTE: in object storage a listing tells of a thousand files at once.
    sizes = {entry.name: entry.size for entry in state.folder.list("")} if state.files else {}
    return [file for file in state.files if sizes.get(file.path) != file.size]


def _size(folder: Folder, file: File) -> int | None:
    entry = folder.head(file.path)
    return None if entry is None else entry.size
