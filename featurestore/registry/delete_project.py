"""Deleting a project from the registry: its rows in every table, and no others. The audit trail remains."""

from sqlalchemy import func, select

from featurestore.durable import remove_folder
from featurestore.registry.advisory_locks import lock_folder
from featurestore.registry.audit_trail import record
from featurestore.registry.specs import SpecRegistry


def remove_project(registry: SpecRegistry, *, dry_run: bool) -> dict[str, int]:
    """Delete, or count, the rows of a registry's project in all tables; return how many, by table.

    Raises:
        RegistryError: the database cannot be reached.
    """
    counts: dict[str, int] = {}
    database = registry.database
    with database.reading() if dry_run else database.writing() as connection:
        for name, table in sorted(database.tables.METADATA.tables.items()):
            if "project" not in table.c or table is database.tables.audit:
                continue
            mine = table.c.project == registry.project
            if dry_run:
                count = connection.execute(select(func.count()).select_from(table).where(mine)).scalar()
            else:
                count = connection.execute(table.delete().where(mine)).rowcount
            counts[name.removeprefix("featurestore_")] = int(count or 0)
        if not dry_run:
            record(connection, registry, "teardown", rows=sum(counts.values()))
    if not dry_run and database.file is not None:
        remove_folder(lock_folder(database.file, registry.project))
    return counts
