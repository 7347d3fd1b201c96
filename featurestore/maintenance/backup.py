"""The report of a backup."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Backup:
    """A copy of a project: its registry and its history.

    Args:
        folder: where it is: ``registry.db`` and ``offline/``, as in a project's ``.featurestore``.
        registry: whether the registry is in it; one on PostgreSQL is not.
        files: how many files of the history were copied.
        size: how many bytes these have.
    """

    folder: Path
    registry: bool
    files: int
    size: int

    def to_dict(self) -> dict[str, Any]:
        """Return it in plain JSON values."""
        return {**asdict(self), "folder": str(self.folder)}

    def __str__(self) -> str:
        lines = [f"{self.files:,} files of the history, {self.size / 2**20:,.1f} MiB, are in {self.folder}"]
        lines.append(
            "The registry is in it too."
            if self.registry
            else "The registry is not: it is on PostgreSQL. Dump it BEFORE the history is copied, with pg_dump."
        )
        lines.append("To restore, put both in their places, then: featurestore materialize --rebuild-online && featurestore doctor")
        return "\n".join(lines)
