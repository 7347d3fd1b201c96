"""Deletion of a project: all of its data in both stores and in the registry, and nothing else."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from featurestore.reports import Column, Report


@dataclass(frozen=True)
class Removed:
    """What there was in one place.

    Args:
        place: ``"offline store"``, ``"online store"`` or ``"registry"``.
        name: what of it: a view, the values, a table.
        count: how many files, values or rows; None where that is not known.
    """

    place: str
    name: str
    count: int | None


class DeletionReport(Report[Removed]):
    """What deleting a project removed, a ``Removed`` a line; prints as a table.

    Args:
        values: what there was.
        project: whose.
        dry_run: whether it was only counted.
    """

    def __init__(self, values: Sequence[Removed], project: str, *, dry_run: bool) -> None:
        super().__init__(values)
        self.project = project
        self.dry_run = dry_run

    def to_dict(self) -> dict[str, Any]:
        """Return it all in plain JSON values."""
        return {"project": self.project, "dry_run": self.dry_run, "removed": [asdict(value) for value in self._values]}

    @property
    def summary(self) -> str:
        """What was done, in a sentence."""
        if self.dry_run:
            return f"Deleting the project would remove this of the project {self.project!r}."
        return (
            f"The project {self.project!r} is gone from its stores and its registry. Its definitions and settings are as they were."
        )

    def columns(self) -> Sequence[Column[Removed]]:
        """See ``Report.columns``."""
        return [
            Column("found in" if self.dry_run else "removed from", lambda value: value.place, 14, style=lambda value: "cyan"),
            Column("what", lambda value: value.name, 32),
            Column("count", lambda value: "?" if value.count is None else f"{value.count:,}", 10, is_number=True),
        ]


Remover = Callable[[bool], Mapping[str, int | None]]
"""Removes what a project has in one place, or counts it where that is said; returns how much, by what it is."""


def tear_down(project: str, places: Mapping[str, Remover], *, dry_run: bool) -> DeletionReport:
    """Remove a project from some places, one after the other; repeated, it completes what was interrupted.

    Args:
        project: the project.
        places: what removes it from each of them, the registry last: it tells what is in the others.
        dry_run: count only.
    """
    removed = [
        Removed(place, name, count) for place, remove in places.items() for name, count in remove(dry_run).items() if count != 0
    ]
    return DeletionReport(removed, project, dry_run=dry_run)
