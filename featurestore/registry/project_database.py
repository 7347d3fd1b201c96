"""The registry's database as one project sees it: what the ledger, the leases and the definitions share."""

from pathlib import Path

from featurestore.clock import Clock
from featurestore.registry.database import Database


class ProjectDatabase:
    """One project in a registry's database. Thread-safe; making one does no I/O.

    Args:
        url: ``sqlite:///path`` or ``postgresql+psycopg://…``.
        project: the project's name; a database holds many projects.
        root: the project's folder, at which a relative path starts.
        clock: tells when something happens.

    Raises:
        ConfigError: the address is of another form.
        MissingExtraError: the database's driver is not installed.
    """

    def __init__(self, url: str, project: str, root: Path, clock: Clock) -> None:
        self.database = Database(url, root)
        self.project = project
        self.clock = clock

    def revision(self) -> int:
        """Return the project's revision."""
        return self.state()[0]

    def state(self) -> tuple[int, str]:
        """Return the project's revision and its stamp, cheaply: they tell whether a catalog loaded earlier is what is applied."""
        project = self.database.tables.project
        with self.database.reading() as connection:
            row = connection.execute(project.select().where(project.c.project == self.project)).first()
        return (0, "") if row is None else (int(row.revision), row.stamp or "")

    def other_projects(self) -> list[str]:
        """Return the names of the other projects that the database holds definitions of, in order."""
        project = self.database.tables.project
        with self.database.reading() as connection:
            names = connection.execute(project.select().with_only_columns(project.c.project)).scalars()
            return sorted(name for name in names if name != self.project)

    def close(self) -> None:
        """Close the connections to the database. Idempotent."""
        self.database.close()
