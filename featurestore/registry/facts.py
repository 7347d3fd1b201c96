"""Facts about the registry's database: kind, version and clock."""

from datetime import datetime

from sqlalchemy import Connection, func, select

from featurestore.clock import to_micros
from featurestore.errors import RegistryError
from featurestore.registry.specs import SpecRegistry

_RESTORE = "Restore it from a backup; without one move it away, then: featurestore apply; featurestore materialize"


def database_facts(registry: SpecRegistry) -> tuple[str, datetime | None]:
    """Return the kind and version of a registry's database, and the time that its server has; None for a file.

    Raises:
        RegistryError: it cannot be reached, or its file is damaged.
    """
    with registry.database.reading() as connection:
        _require_whole(registry, connection)
        version = ".".join(map(str, connection.dialect.server_version_info or ()))
        name = connection.dialect.name
        now = connection.execute(select(func.clock_timestamp())).scalar() if name == "postgresql" else None
    kinds = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
    return f"{kinds.get(name, name)} {version}", now


def dues_ahead(registry: SpecRegistry, seconds: float) -> dict[str, float]:
    """Return what was taken up, by the due table, more than so many seconds from now, and in how many: clocks do not agree.

    Raises:
        RegistryError: the database cannot be reached.
    """
    due, now = registry.database.tables.due, to_micros(registry.clock())
    ahead = (due.c.project == registry.project) & (due.c.due_at > now + round(seconds * 1e6))
    with registry.database.reading() as connection:
        rows = connection.execute(due.select().where(ahead).order_by(due.c.view)).all()
    return {row.view: (row.due_at - now) / 1e6 for row in rows}


def expired_leases(registry: SpecRegistry) -> list[str]:
    """Return the names of leases that expired without being released: their holders are gone.

    Raises:
        RegistryError: the database cannot be reached.
    """
    lease, now = registry.database.tables.lease, to_micros(registry.clock())
    ended = (lease.c.project == registry.project) & (lease.c.expires_at > 0) & (lease.c.expires_at <= now)
    with registry.database.reading() as connection:
        return [row.name for row in connection.execute(lease.select().where(ended).order_by(lease.c.name)).all()]


def _require_whole(registry: SpecRegistry, connection: Connection) -> None:
    """Have SQLite look through a registry's file; PostgreSQL looks by itself."""
    if connection.dialect.name != "sqlite":
        return
    problems = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA quick_check(3)").all()]
    if problems != ["ok"]:
        raise RegistryError(f"The registry {registry.database.address} is damaged: {'; '.join(problems)}. {_RESTORE}")
