"""The condition of a history compared with the ledger, and the port that repairs it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import polars as pl

from featurestore.errors import DamagedHistoryError
from featurestore.offline.base import Snapshot, Table
from featurestore.offline.ledger_record import LedgerRecord


@dataclass(frozen=True)
class Condition:
    """What condition a history is in.

    Args:
        problems: what is wrong with it, a sentence each.
        definition: the digest of the definition that made it; empty where it does not say.
        gave_up: what somebody gave up when it was mended; empty where nothing was.
        last_run: the last run that it has.
    """

    problems: tuple[str, ...] = ()
    definition: str = ""
    gave_up: str = ""
    last_run: int = 0


def damaged(table: str, view: str, problems: Sequence[str], *, mended: bool = False) -> DamagedHistoryError:
    """Return the error that says of a history what is wrong with it, a phrase each, and what to do."""
    return DamagedHistoryError(
        f"The history {table} is damaged, and nothing is written over it: {'; '.join(problems)}. {cure(view, mended=mended)}"
    )


def cure(view: str, *, mended: bool = False) -> str:
    """Return what to do about a damaged history; ``mended`` is for one that could not be mended from what is on the disk."""
    repair = "" if mended else "Put back what is on the disk still: featurestore doctor --repair. If that does not do, "
    return (
        f"{repair}{'Restore' if mended else 'restore'} it from a backup, or read the source again, which gives up what cannot be "
        f"found (push it again): featurestore materialize {view} --start 0001-01-01"
    )


def lost_runs(last: int, recorded: int) -> str:
    """Return what is to be said of a history that has runs up to one, where the ledger has them up to a later one."""
    lost = f"run {recorded} is" if recorded == last + 1 else f"runs {last + 1} to {recorded} are"
    return f"{lost} done by the registry, but the history has {last or 'none'}"


def require_runs(table: Table, last_committed: Callable[[str, int], int], snapshot: Callable[[Table], Snapshot]) -> None:
    """Refuse to go on where a history lacks runs that the ledger has as committed: nothing is written over a hole.

    Args:
        table: the history.
        last_committed: tells the last of them, of a view and data version.
        snapshot: opens the history; after the ledger, for a commit is on the disk before the ledger has it.

    Raises:
        DamagedHistoryError: it lacks some.
    """
    recorded = last_committed(table.view, table.data_version)
    if recorded and (last := snapshot(table).last_run) < recorded:
        raise damaged(str(table), table.view, [lost_runs(last, recorded)])


class HistoryRepair(Protocol):
    """Look whether histories are whole, and mend them."""

    def inspect(self, table: Table, recorded: LedgerRecord) -> Condition:
        """Return what condition a table and its log are in; of a table that is not there and need not be, an empty one."""

    def mend(
        self, table: Table, recorded: LedgerRecord, without: Callable[[pl.DataFrame], pl.DataFrame] | None = None, *, give_up: bool
    ) -> str:
        """Put back what a table lacks, as far as the rows are in files on the disk still; repeated, it does nothing.

        Args:
            table: the table.
            recorded: what the ledger says of it.
            without: takes rows out that nobody may write any more.
            give_up: go on without what cannot be found; else nothing is changed where something is missing.

        Returns:
            What was done, in words; empty where there was nothing to do.

        Raises:
            DamagedHistoryError: something cannot be found.
            OfflineStoreError: the table cannot be read or written.
        """
