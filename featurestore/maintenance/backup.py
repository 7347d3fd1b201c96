"""The reports of a backup, and of its restoration."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Backup:
    """A copy of a project: its registry and its history.

    Args:
        folder: its path or address: ``registry.db`` and ``offline/`` are there, as in a project's ``.featurestore``.
        registry: whether the registry is in it; one on PostgreSQL is not.
        files: how many files of the history were copied.
        size: how many bytes these have.
    """

    folder: str
    registry: bool
    files: int
    size: int

    def to_dict(self) -> dict[str, Any]:
        """Return it in plain JSON values."""
        return asdict(self)

    @property
    def copied(self) -> str:
        """How much of the history was copied."""
        return f"{self.files:,} files of the history, {self.size / 2**20:,.1f} MiB"

    def __str__(self) -> str:
        lines = [f"{self.copied}, are in {self.folder}"]
        lines.append(
            "The registry is in it too."
            if self.registry
            else "The registry is not: it is on PostgreSQL. Dump it BEFORE the history is copied, with pg_dump."
        )
        lines.append(f"To restore it in a project that has neither: featurestore restore {self.folder}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Restored(Backup):
    """What was restored from a backup: the same of it, ``registry`` being whether the registry was in it and is in its place."""

    def __str__(self) -> str:
        lines = [f"{self.copied}, were restored from {self.folder}"]
        lines.append("The registry was, too." if self.registry else "The registry was not: restore it from its own dump.")
        lines.append("Now: featurestore materialize --rebuild-online && featurestore doctor")
        return "\n".join(lines)
