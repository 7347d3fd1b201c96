"""Doctor checks of histories: integrity, ownership and file permissions."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from stat import S_IMODE

from featurestore.definitions.catalog import AppliedView, Catalog
from featurestore.definitions.feature_view import ViewSpec
from featurestore.errors import DamagedHistoryError
from featurestore.maintenance.doctor import Finding
from featurestore.offline.base import Table
from featurestore.offline.condition import HistoryRepair, cure
from featurestore.offline.ledger_record import LedgerRecord
from featurestore.privacy.guarded_stores import ForgottenFilter
from featurestore.registry.ledger import Ledger

_NAMED = 3


class HistoryChecks:
    """Check the histories of a project.

    Args:
        project: the project.
        ledger: what was written to them.
        repair: looks whether it is in them.
        tables: returns the view and data version of each history that is there.
        forgotten_filter: knows who is forgotten, and is not put back.
    """

    def __init__(
        self,
        project: str,
        ledger: Ledger,
        repair: HistoryRepair,
        tables: Callable[[str], Sequence[tuple[str, int]]],
        forgotten_filter: ForgottenFilter,
    ) -> None:
        self._project = project
        self._ledger = ledger
        self._repair = repair
        self._tables = tables
        self._forgotten_filter = forgotten_filter

    def whole(self, applied: AppliedView) -> Iterator[Finding]:
        """Look whether a view's history has all that was written to it, and was made by the definition that is applied."""
        name, where = applied.spec.name, f"history: {applied.spec.name}"
        table = Table.of(self._project, applied)
        recorded = self._ledger.recorded(name, applied.data_version)
        condition = self._repair.inspect(table, recorded)
        if condition.problems:
            yield Finding(where, "error", "; ".join(condition.problems), cure(name))
        if condition.gave_up:
            advice = f"What was pushed of it must be pushed again; the source was read again: featurestore status {name}"
            yield Finding(where, "warning", f"it was mended without {condition.gave_up}", advice)
        if condition.definition and not recorded.rows and condition.definition not in table.definitions:
            message = "its rows are those of another definition than is applied, and the registry knows of no run that wrote them"
            yield Finding(
                where, "error", message, "Restore a newer backup of the registry, or move that history away and materialize"
            )

    def known(self, catalog: Catalog) -> Iterator[Finding]:
        """Look whether the registry knows of the histories that are there: it may have been lost, or be of another time."""
        there: dict[str, list[int]] = {}
        for view, number in self._tables(self._project):
            there.setdefault(view, []).append(number)
        strange = [view for view in there if ("view", view) not in catalog.versions]
        if strange:
            named = ", ".join(repr(view) for view in strange[:_NAMED]) + (" …" if len(strange) > _NAMED else "")
            message = f"it knows nothing of {len(strange)} views whose histories are there: {named}. Was it lost?"
            yield Finding(
                "registry", "error", message, "Restore it from a backup; else: featurestore apply; featurestore materialize"
            )
        for view, numbers in there.items():
            newest = max(numbers)
            if view in catalog.views and newest > max(catalog.views[view].data_version, catalog.versions["view", view]):
                message = f"there is a history v{newest} of {view!r}, of which the registry knows nothing: it is older than that"
                yield Finding("registry", "warning", message, "Restore a newer backup of it, if there is one")

    def place(self, spec: ViewSpec, number: int) -> int:
        """Return which data version a view is to have whose rows are to be made, given the one that comes next by the registry.

        Where there is a history of that number or a later one, of a registry that was lost, it is the one that this very definition
        made, or a new one.
        """
        there = [data_version for view, data_version in self._tables(self._project) if view == spec.name and data_version >= number]
        for data_version in sorted(there, reverse=True):
            table = Table.of(self._project, AppliedView(spec, number, data_version))
            definition = self._repair.inspect(table, LedgerRecord()).definition
            if definition in table.definitions or (data_version == number and not definition):
                return data_version
        return max(there, default=number - 1) + 1

    def repaired(self, applied: AppliedView) -> Iterator[Finding]:
        """Put back what a view's history lacks, and yield what was done; nothing where it lacks nothing."""
        try:
            done = self.mend(applied)
        except DamagedHistoryError as error:
            yield Finding(f"repair: {applied.spec.name}", "error", str(error))
            return
        if done:
            yield Finding(f"repair: {applied.spec.name}", "ok", done)

    def mend(self, applied: AppliedView, *, give_up: bool = False) -> str:
        """Put back what a view's history lacks; return what was done. Raises as ``HistoryRepair.mend``."""
        name, number = applied.spec.name, applied.data_version
        table = Table.of(self._project, applied)
        # NOTE: behind the gate all along: who is forgotten meanwhile is erased from what is put back, too.
        with self._forgotten_filter.writing() as tombstones:
            without = partial(self._forgotten_filter.rows, tombstones, table)
            return self._repair.mend(table, self._ledger.recorded(name, number), without, give_up=give_up)


def check_access(folders: Mapping[str, Path], allowed: int) -> Iterator[Finding]:
    """Look whether others than should may read or write what is kept on this machine.

    Args:
        folders: folders and files, by what they hold.
        allowed: the mode of a folder; a file has no more.
    """
    for name, folder in folders.items():
        paths = [folder, *folder.rglob("*")] if folder.is_dir() else [folder] if folder.exists() else []
        is_open = []
        for path in paths:
            try:
                if not path.is_symlink() and S_IMODE(path.stat().st_mode) & 0o077 & ~allowed:
                    is_open.append(path)
            except FileNotFoundError:
                continue
        if is_open:
            message = f"{len(is_open)} files and folders may be read by others on this machine: {is_open[0]}"
            yield Finding(f"access: {name}", "warning", message, f"chmod -R {'go' if allowed == 0o700 else 'o'}-rwx {folder}")
        elif paths:
            yield Finding(f"access: {name}", "ok", f"{folder} is {'its owner' if allowed == 0o700 else 'its group'}'s alone")
