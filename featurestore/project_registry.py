"""What the registry alone knows of a project, read without the library: for commands that show it and end.

NOTE: neither this module nor what it imports loads Polars, which takes as long as all that such a command does.
"""

from types import TracebackType

from featurestore.clock import Clock, utc_now
from featurestore.config import Settings
from featurestore.definitions.catalog_entry import CatalogEntry, Kind, matching
from featurestore.definitions.reference import parse_references
from featurestore.durable import share_with_group
from featurestore.registry.ledger import Ledger, Run, State
from featurestore.registry.listing import listed
from featurestore.registry.project_database import ProjectDatabase


class ProjectRegistry:
    """The registry of a project, to look at.

    Args:
        settings: the settings.
        clock: returns the present.

    The ``database`` is what ``maintenance/registry_status.py`` and ``materialization/registry_versions.py`` read.

    Every method raises ``RegistryError`` where the database cannot be reached or holds what cannot be read.

    Example:
        >>> with ProjectRegistry(Settings(project="empty")) as registry:
        ...     registry.runs()
        []
    """

    def __init__(self, settings: Settings, clock: Clock = utc_now) -> None:
        self.settings = settings
        self.clock = clock
        if settings.file_mode == "group" and settings.registry_file is not None:
            share_with_group(settings.registry_file.parent)
        self.database = ProjectDatabase(settings.registry, settings.project, settings.root, clock)

    def runs(self, view: str | None = None, *, limit: int = 50, state: State | None = None) -> list[Run]:
        """Return the latest runs, the newest first; see ``Runs.list``."""
        name = None if view is None else parse_references(view)[0].view
        return Ledger(self.database).runs(name, limit, state)

    def search(
        self, text: str = "", *, kind: Kind | None = None, owner: str | None = None, tag: str | None = None
    ) -> list[CatalogEntry]:
        """Return the definitions that match; see ``Catalog.search``."""
        return matching(listed(self.database), text, kind=kind, owner=owner, tag=tag)

    def has_views(self) -> bool:
        """Return whether a view is applied."""
        return any(entry.kind == "view" and entry.version is not None for entry in listed(self.database))

    def other_projects(self) -> list[str]:
        """Return the names of the other projects in the database."""
        return self.database.other_projects()

    def close(self) -> None:
        """Close the connections to the database. Idempotent."""
        self.database.close()

    def __enter__(self) -> "ProjectRegistry":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
