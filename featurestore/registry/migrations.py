"""Migrations: how the registry's tables get from one schema version to the next.

``Database`` runs them at its first use, or when ``featurestore migrate`` asks for it: one after another under the registry's lock,
each in a transaction that also writes the new version. One that fails, or is killed, leaves tables, rows and version as they were.

How to write one:

- Append it to ``MIGRATIONS``, raise ``SCHEMA_VERSION`` in ``schema.py``, and never change it again.
- Name tables and columns as text. What is in ``schema.py`` goes on changing, and a migration must not.
- Columns that it adds may be null: a program of the version before, still running, goes on inserting rows without them.
- Leave missing tables alone. After the last migration they are made in their newest form.
- Work through rows in batches: PostgreSQL ends a statement after 18 s, and a transaction that idles for 10 s.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Connection, String, Text, column, func, inspect, select, table
from sqlalchemy.types import TypeEngine

from featurestore.errors import RegistryError
from featurestore.registry.schema import METADATA, SCHEMA_VERSION, schema

_BATCH = 500


@dataclass(frozen=True)
class Migration:
    """A change of the registry's tables.

    Args:
        version: the schema version that it leads to, from the one before.
        summary: what it does, for people to read.
        run: does it, in the transaction of the connection that it gets.
    """

    version: int
    summary: str
    run: Callable[[Connection], None]


@dataclass(frozen=True)
class MigrationReport:
    """What ``featurestore migrate`` found and did, or would do.

    Args:
        registry: where the registry is, without password and options.
        version: its schema version before; 0 for a registry without tables.
        newest: the schema version that this program writes.
        steps: the migrations that ran; in a dry run those that would.
        dry_run: whether nothing was changed.
    """

    registry: str
    version: int
    newest: int
    steps: tuple[Migration, ...]
    dry_run: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON."""
        steps = [{"version": step.version, "summary": step.summary} for step in self.steps]
        shared = {"registry": self.registry, "version": self.version, "newest": self.newest}
        return {**shared, "steps": steps, "dry_run": self.dry_run}

    def __str__(self) -> str:
        if not self.version:
            when = "The first use makes it" if self.dry_run else "It was made"
            return f"The registry {self.registry} had no tables yet. {when} at schema version {self.newest}."
        if not self.steps:
            return f"The registry {self.registry} is at schema version {self.newest}, the newest. There is nothing to migrate."
        said = "is at" if self.dry_run else "was at"
        then = "These migrations would bring it" if self.dry_run else "These migrations brought it"
        lines = [f"  {step.version}  {step.summary}" for step in self.steps]
        return "\n".join([f"The registry {self.registry} {said} schema version {self.version}. {then} to {self.newest}:", *lines])


def schema_version(connection: Connection) -> int:
    """Return the schema version of a registry: 0 without tables, 1 where its tables have no version beside them."""
    names = set(inspect(connection).get_table_names())
    if not names & METADATA.tables.keys():
        return 0
    if schema.name not in names:
        return 1
    return connection.execute(select(func.max(schema.c.version))).scalar() or 1


def pending(version: int) -> tuple[Migration, ...]:
    """Return the migrations that a registry of a version lacks, in their order; none for one without tables.

    Example:
        >>> [step.version for step in pending(1)]
        [2, 3]
        >>> pending(0)
        ()
    """
    return tuple(step for step in MIGRATIONS if 0 < version < step.version)


def write_version(connection: Connection, version: int, now: int) -> None:
    """Write a registry's schema version, and when it got there in microseconds since the epoch."""
    schema.create(connection, checkfirst=True)
    add_column(connection, schema.name, "migrated_at", BigInteger())
    connection.execute(schema.delete())
    connection.execute(schema.insert().values(version=version, migrated_at=now))


def make_missing_tables(connection: Connection, address: str) -> None:
    """Make the tables that are not there yet, in their newest form.

    Raises:
        RegistryError: a table that is there lacks a column, although all migrations ran: it is not one of ours.
    """
    METADATA.create_all(connection)
    inspected = inspect(connection)
    for known in METADATA.sorted_tables:
        names = {present["name"] for present in inspected.get_columns(known.name)}
        for expected in known.columns:
            if expected.name not in names:
                raise RegistryError(
                    f"The registry {address} cannot be used: no such column: {known.name}.{expected.name}. Is it "
                    "one of featurestore?"
                )


def add_column(connection: Connection, table_name: str, name: str, dtype: TypeEngine[Any]) -> bool:
    """Add a column that may be null to a table. Return False, changing nothing, where it is there or the table is not."""
    inspected = inspect(connection)
    if not inspected.has_table(table_name) or name in {present["name"] for present in inspected.get_columns(table_name)}:
        return False
    quote = connection.dialect.identifier_preparer.quote
    connection.exec_driver_sql(
        f"ALTER TABLE {quote(table_name)} ADD COLUMN {quote(name)} {dtype.compile(dialect=connection.dialect)}"
    )
    return True


def _add_stamp(connection: Connection) -> None:
    add_column(connection, "featurestore_project", "stamp", String())


def _add_backfill(connection: Connection) -> None:
    """Add the column, and fill it from the spans of all runs; the spans stay as they are."""
    if not add_column(connection, "featurestore_run", "backfill", Text()):
        return
    run = table("featurestore_run", *map(column, ("project", "view", "data_version", "seq", "span", "backfill")))
    key = run.c.project, run.c.view, run.c.data_version
    for project, view, data_version, last in connection.execute(select(*key, func.max(run.c.seq)).group_by(*key)).all():
        mine = (run.c.project == project) & (run.c.view == view) & (run.c.data_version == data_version)
        for first in range(1, last + 1, _BATCH):
            batch = mine & run.c.seq.between(first, first + _BATCH - 1)
            said = run.c.span.like("%backfill%")
            connection.execute(run.update().where(batch & ~said).values(backfill=""))
            for seq in connection.execute(select(run.c.seq).where(batch & said)).scalars().all():
                # One by one, for a span may name very many files.
                only = mine & (run.c.seq == seq)
                span = connection.execute(select(run.c.span).where(only)).scalar_one()
                connection.execute(run.update().where(only).values(backfill=_backfill_of(span)))


def _backfill_of(span: str) -> str | None:
    """Return the bounds in a run's span as the column has them; None for a span that cannot be read, as its reader will say."""
    try:
        bounds = json.loads(span).get("backfill")
    except (ValueError, AttributeError):
        return None
    return json.dumps(bounds) if isinstance(bounds, list) else ""


MIGRATIONS = (
    Migration(2, "add a stamp to each project, and the tables of audit, notices, online stores and doubts", _add_stamp),
    Migration(3, "add the span of its backfill to each run", _add_backfill),
)
"""All migrations, in their order, without gaps; the last leads to ``SCHEMA_VERSION``."""

assert [step.version for step in MIGRATIONS] == [*range(2, SCHEMA_VERSION + 1)], "one migration for each version"
