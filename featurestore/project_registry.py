"""What the registry alone knows of a project, read without the library: for commands that show it and end.

NOTE: neither this module nor what it imports loads Polars, which takes as long as all that such a command does.
"""

from types import TracebackType

from featurestore.clock import Clock, utc_now
from featurestore.config import Settings
from featurestore.durable import share_with_group
from featurestore.registry.ledger import Ledger, Run, State
from featurestore.registry.project_database import ProjectDatabase


class ProjectRegistry:
    """The registry of a project, to look at.

    Args:
        settings: the settings.
        clock: returns the present.

    Every method raises ``RegistryError`` where the database cannot be reached or holds what cannot be read.

    Example:
        >>> with ProjectRegistry(Settings(project="empty")) as registry:
        ...     registry.runs()
        []
    """

    def __init__(self, settings: Settings, clock: Clock = utc_now) -> None:
        self.settings = settings
        scheme, _, path = settings.registry.partition(":///")
        if settings.file_mode == "group" and scheme.startswith("sqlite"):
            share_with_group((settings.root / path).parent)
        self._database = ProjectDatabase(settings.registry, settings.project, settings.root, clock)

    def runs(self, view: str | None = None, *, limit: int = 50, state: State | None = None) -> list[Run]:
        """Return the latest runs, the newest first; see ``Runs.list``."""
        return Ledger(self._database).runs(view, limit, state)

    def close(self) -> None:
        """Close the connections to the database. Idempotent."""
        self._database.close()

    def __enter__(self) -> "ProjectRegistry":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
