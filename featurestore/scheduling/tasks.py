"""Scheduled tasks: the run of each scheduled view, after the runs of the views that it reads."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os.path import normpath
from pathlib import Path
from typing import Literal

from featurestore.definitions.catalog import AppliedView, Catalog
from featurestore.definitions.source import DeltaSource, ParquetSource
from featurestore.materialization.results import ViewSummary
from featurestore.registry.leases import Lease

Work = Callable[[AppliedView, Lease], ViewSummary | None]
"""Does what is due for a view on behalf of a lease; what it tells of it is passed on."""


@dataclass(frozen=True)
class ScheduledTask:
    """Something to be done at a schedule.

    Args:
        name: its name: in the due table, and of its lease.
        schedule: an interval or a cron line.
        applied: the view.
        work: what does it.
        after: the names of tasks that must have been done first, as of the same due instant.
        kind: runs and upkeep are done beside each other, so that upkeep is never in the way of a run.
    """

    name: str
    schedule: str
    applied: AppliedView
    work: Work
    after: tuple[str, ...] = ()
    kind: Literal["run", "upkeep"] = "run"


def materialize_tasks(catalog: Catalog, work: Work, root: Path, histories: Path | None) -> list[ScheduledTask]:
    """Return the runs of the views that have a schedule.

    Args:
        catalog: what is applied.
        work: runs a view.
        root: the project's folder.
        histories: the folder that has the history of each view in a folder of its name; None if the histories are elsewhere.
    """
    views = {name: view for name, view in sorted(catalog.views.items()) if view.spec.schedule}
    reads = _reads(views, root, histories)
    return [
        ScheduledTask(
            name, str(view.spec.schedule), view, work, tuple(other for other in reads[name] if name not in _all_read(other, reads))
        )
        for name, view in views.items()
    ]


def maintenance_tasks(catalog: Catalog, schedule: str, work: Work) -> list[ScheduledTask]:
    """Return the upkeep of every view; none without a schedule."""
    if not schedule:
        return []
    return [ScheduledTask(f"upkeep:{name}", schedule, view, work, kind="upkeep") for name, view in sorted(catalog.views.items())]


def _reads(views: Mapping[str, AppliedView], root: Path, histories: Path | None) -> dict[str, Sequence[str]]:
    """Return for each view those in whose history its source lies."""
    reads: dict[str, Sequence[str]] = dict.fromkeys(views, ())
    if histories is None:
        return reads
    base = Path(normpath(histories.absolute()))
    for name, view in views.items():
        source = view.spec.source
        if isinstance(source, DeltaSource | ParquetSource):
            path = Path(normpath(root.absolute() / source.path.removeprefix("file://")))
            if path.is_relative_to(base) and path != base:
                read = path.relative_to(base).parts[0]
                reads[name] = (read,) if read in views and read != name else ()
    return reads


def _all_read(name: str, reads: Mapping[str, Sequence[str]]) -> set[str]:
    """Return all that a view reads, directly or through others; views that read one another wait for none."""
    all_read: set[str] = set()
    left = [name]
    while left:
        new = set(reads[left.pop()]) - all_read
        all_read |= new
        left += new
    return all_read
