"""The registry's migrations: from every version to the newest, once, whole or not at all, on SQLite and PostgreSQL."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import Connection, MetaData, Table, column, inspect, table, text

from featurestore.clock import to_micros, utc_now
from featurestore.errors import RegistryError
from featurestore.registry import migrations, schema
from featurestore.registry.database import Database
from featurestore.registry.ledger import Ledger
from featurestore.registry.migrations import MIGRATIONS, Migration
from featurestore.registry.schema import SCHEMA_VERSION
from featurestore.registry.specs import SpecRegistry
from featurestore.testing import Killed
from tests import before
from tests.crashes import Worker
from tests.registry.processes import at_once

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BACKFILLS = {(None, 1372723199999999), (None, 1372809599999999), (None, 1372895999999999)}


@pytest.fixture
def old_url(fresh_url: str, tmp_path: Path) -> str:
    """The address of a registry of schema version 1."""
    before.load_registry(fresh_url, tmp_path)
    return fresh_url


@pytest.fixture
def another_url(fresh_url: str) -> Iterator[str]:
    """The address of another one on the same kind of database, without tables."""
    if fresh_url.startswith("sqlite"):
        yield "sqlite:///another.db"
        return
    name = f"another_{uuid4().hex}"
    with psycopg.connect(fresh_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f'create database "{name}"')
        yield re.sub(r"/fresh_\w+\?", f"/{name}?", fresh_url)
        connection.execute(f'drop database "{name}"')


@contextmanager
def connected(url: str, root: Path) -> Iterator[Connection]:
    """A connection that makes and migrates nothing."""
    engine = schema.open_engine(url, root)
    try:
        with engine.connect() as connection, connection.begin():
            yield connection
    finally:
        engine.dispose()


def contents(url: str, root: Path) -> dict[str, tuple[list[str], list[Any]]]:
    """The columns and rows of every table."""
    with connected(url, root) as connection:
        found = MetaData()
        found.reflect(connection)
        return {
            name: ([each.name for each in found_table.columns], sorted(connection.execute(found_table.select()).all(), key=repr))
            for name, found_table in found.tables.items()
        }


def form(url: str, root: Path) -> dict[str, Any]:
    """The columns of every table with their types, its primary key, and its indexes."""
    with connected(url, root) as connection:
        seen = inspect(connection)
        return {
            name: (
                {each["name"]: (str(each["type"]), each["nullable"]) for each in seen.get_columns(name)},
                seen.get_pk_constraint(name)["constrained_columns"],
                {each["name"]: each["column_names"] for each in seen.get_indexes(name)},
            )
            for name in seen.get_table_names()
        }


def version(url: str, root: Path) -> list[Any]:
    """The rows of the table of the schema version."""
    with connected(url, root) as connection:
        return list(connection.execute(schema.schema.select()).all())


def backfilled(url: str, root: Path) -> set[tuple[int | None, int]]:
    with closing(SpecRegistry(url, before.PROJECT, root, utc_now)) as registry:
        return Ledger(registry).backfilled("last_order", 1)


def migrated(url: str, root: Path, *, dry_run: bool = False) -> migrations.MigrationReport:
    with closing(Database(url, root, lambda: NOW)) as database:
        return database.migrate(dry_run=dry_run)


def first_migration(url: str, root: Path) -> None:
    """Runs the first migration alone, as a process does that dies in the second."""

    def die(_: Connection) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", (MIGRATIONS[0], *(replace(step, run=die) for step in MIGRATIONS[1:])))
        with pytest.raises(Killed):
            migrated(url, root)


def broken(*statements: str) -> tuple[Migration, ...]:
    """The migrations with a last one that does its work, then these statements."""
    *others, last = MIGRATIONS

    def run(connection: Connection) -> None:
        last.run(connection)
        for statement in statements:
            connection.exec_driver_sql(statement)

    return (*others, replace(last, run=run))


def version_2(connection: Connection) -> None:
    """Makes of a registry of version 1 one of version 2, as its programs did."""
    connection.exec_driver_sql("CREATE TABLE featurestore_schema (version INTEGER NOT NULL, PRIMARY KEY (version))")
    connection.exec_driver_sql("INSERT INTO featurestore_schema VALUES (2)")
    connection.exec_driver_sql("ALTER TABLE featurestore_project ADD COLUMN stamp VARCHAR")
    for name in ("notice", "online", "doubt", "audit"):
        schema.METADATA.tables[f"featurestore_{name}"].create(connection)


def test_a_new_registry_is_made_at_the_newest_version(fresh_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_: Connection) -> None:
        raise AssertionError("there is nothing to migrate")

    monkeypatch.setattr(migrations, "MIGRATIONS", tuple(replace(step, run=never) for step in MIGRATIONS))
    with closing(Database(fresh_url, tmp_path, lambda: NOW)) as database, database.reading():
        pass
    assert version(fresh_url, tmp_path) == [(SCHEMA_VERSION, to_micros(NOW))]


def test_the_first_use_migrates_a_registry_of_before(old_url: str, tmp_path: Path) -> None:
    rows = contents(old_url, tmp_path)
    assert len(rows) == before.TABLES
    assert backfilled(old_url, tmp_path) == BACKFILLS
    assert [number for number, _ in version(old_url, tmp_path)] == [SCHEMA_VERSION]
    after = contents(old_url, tmp_path)
    for name, (columns, kept) in rows.items():
        now_columns, now_rows = after[name]
        assert now_columns[: len(columns)] == columns
        assert sorted((row[: len(columns)] for row in now_rows), key=repr) == [tuple(row) for row in kept], name


@pytest.mark.parametrize("start", [1, 2])
def test_a_migrated_registry_has_the_form_of_a_new_one(old_url: str, another_url: str, tmp_path: Path, start: int) -> None:
    migrated(another_url, tmp_path)
    if start == 2:
        with connected(old_url, tmp_path) as connection:
            version_2(connection)
    report = migrated(old_url, tmp_path)
    assert (report.version, [step.version for step in report.steps]) == (start, [*range(start + 1, SCHEMA_VERSION + 1)])
    assert form(old_url, tmp_path) == form(another_url, tmp_path)
    assert version(old_url, tmp_path) == [(SCHEMA_VERSION, to_micros(NOW))]
    assert backfilled(old_url, tmp_path) == BACKFILLS


@pytest.mark.parametrize("batch", [1, 2, 500])
def test_backfills_are_moved_into_their_column_in_batches(
    old_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(migrations, "_BATCH", batch)
    spans = {4: '{"chunks":[{"path":"backfill.parquet"}]}', 5: '{ "backfill" : [1, 2] }', 6: "no backfill", 7: '{"chunks":[]}'}
    with connected(old_url, tmp_path) as connection:
        run = Table("featurestore_run", MetaData(), autoload_with=connection)
        row = connection.execute(run.select().where((run.c.view == "last_order") & (run.c.seq == 1))).mappings().one()
        connection.execute(run.insert(), [{**row, "seq": seq, "span": span} for seq, span in spans.items()])
    migrated(old_url, tmp_path)
    with connected(old_url, tmp_path) as connection:
        rows = connection.execute(text("SELECT view, seq, backfill FROM featurestore_run")).all()
    found = {(view, seq): value if not value else json.loads(value) for view, seq, value in rows}
    mine = {("last_order", seq): list(span) for seq, span in enumerate(sorted(BACKFILLS, key=repr), 1)}
    assert found == {
        **mine,
        ("spending", 1): "",
        ("last_order", 4): "",
        ("last_order", 5): [1, 2],
        ("last_order", 6): None,  # which cannot be read, and says so when it is
        ("last_order", 7): "",
    }


def test_what_a_program_of_before_writes_afterwards_is_not_lost(old_url: str, tmp_path: Path) -> None:
    migrated(old_url, tmp_path)
    with connected(old_url, tmp_path) as connection:
        # The columns that it knows, which it names in its INSERT.
        columns = ("project", "view", "data_version", "seq", "state", "span", "rows_read", "rows_written", "rows_rejected",
                   "rows_online", "reasons", "started_at", "finished_at", "attempts", "error")  # fmt: skip
        run = table("featurestore_run", *map(column, columns))
        row = connection.execute(run.select().where((run.c.view == "last_order") & (run.c.seq == 1))).mappings().one()
        span = '{"chunks":[],"cursor":null,"backfill":[8,9]}'
        connection.execute(run.insert().values({**row, "seq": 4, "span": span}))
    assert backfilled(old_url, tmp_path) == {*BACKFILLS, (8, 9)}
    with closing(SpecRegistry(old_url, before.PROJECT, tmp_path, utc_now)) as registry:
        ledger = Ledger(registry)
        ours = ledger.begin("last_order", 1, 5, {"chunks": [], "cursor": None, "backfill": [10, 11]})
        ledger.update(ledger.update(ours, state="committed"), state="done")
    with connected(old_url, tmp_path) as connection:
        looked_for = "SELECT seq FROM featurestore_run WHERE span LIKE '%\"backfill\":[%' ORDER BY seq"
        assert connection.exec_driver_sql(looked_for.replace("%", "%%")).scalars().all() == [1, 2, 3, 4, 5], "as it looks for them"


def test_a_dry_run_changes_nothing(old_url: str, tmp_path: Path) -> None:
    rows = contents(old_url, tmp_path)
    report = migrated(old_url, tmp_path, dry_run=True)
    assert contents(old_url, tmp_path) == rows
    assert (report.version, report.newest, report.steps, report.dry_run) == (1, SCHEMA_VERSION, MIGRATIONS, True)
    done = migrated(old_url, tmp_path)
    assert done == replace(report, dry_run=False)
    assert migrated(old_url, tmp_path) == migrations.MigrationReport(report.registry, SCHEMA_VERSION, SCHEMA_VERSION, (), False)


def test_a_dry_run_makes_no_file(tmp_path: Path) -> None:
    assert migrated("sqlite:///deep/registry.db", tmp_path, dry_run=True).version == 0
    assert list(tmp_path.iterdir()) == []
    assert migrated("sqlite:///deep/registry.db", tmp_path).steps == ()
    assert version("sqlite:///deep/registry.db", tmp_path) == [(SCHEMA_VERSION, to_micros(NOW))]


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_registry_that_is_newer_is_left_alone(old_url: str, tmp_path: Path, dry_run: bool) -> None:
    migrated(old_url, tmp_path)
    with connected(old_url, tmp_path) as connection:
        connection.execute(schema.schema.update().values(version=SCHEMA_VERSION + 4))
        connection.exec_driver_sql("DROP TABLE featurestore_notice")
    rows = contents(old_url, tmp_path)
    said = (
        f"is at schema version {SCHEMA_VERSION + 4}; this featurestore knows versions up to {SCHEMA_VERSION}. Upgrade featurestore"
    )
    with pytest.raises(RegistryError, match=said):
        migrated(old_url, tmp_path, dry_run=dry_run)
    with pytest.raises(RegistryError, match=said):
        backfilled(old_url, tmp_path)
    assert contents(old_url, tmp_path) == rows


@pytest.mark.parametrize("start", [1, 2])
def test_one_that_fails_half_way_leaves_the_version_before(
    old_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: int
) -> None:
    if start == 1:
        first_migration(old_url, tmp_path)
    else:
        with connected(old_url, tmp_path) as connection:
            version_2(connection)
    rows = contents(old_url, tmp_path)
    statements = "DELETE FROM featurestore_spec", "CREATE TABLE half (way INTEGER)", "INSERT INTO nowhere VALUES (1)"
    monkeypatch.setattr(migrations, "MIGRATIONS", broken(*statements))
    for _ in range(2):
        with pytest.raises(RegistryError) as caught:
            migrated(old_url, tmp_path)
        assert contents(old_url, tmp_path) == rows
    told = str(caught.value)
    assert f"could not be migrated from schema version {SCHEMA_VERSION - 1} to {SCHEMA_VERSION} ({MIGRATIONS[-1].summary})" in told
    assert "nowhere" in told
    assert "It is at version 2 as before" in told
    assert "featurestore migrate" in told
    monkeypatch.setattr(migrations, "MIGRATIONS", MIGRATIONS)
    assert backfilled(old_url, tmp_path) == BACKFILLS


def test_a_fault_of_a_migration_is_seen_as_one_and_leaves_the_version_before(
    old_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_migration(old_url, tmp_path)
    rows = contents(old_url, tmp_path)

    def fail(connection: Connection) -> None:
        connection.exec_driver_sql("DELETE FROM featurestore_spec")
        raise KeyError("a fault")

    monkeypatch.setattr(migrations, "MIGRATIONS", (MIGRATIONS[0], replace(MIGRATIONS[1], run=fail)))
    with pytest.raises(KeyError, match="a fault"):
        migrated(old_url, tmp_path)
    assert contents(old_url, tmp_path) == rows


@pytest.mark.parametrize("url", ["postgres"], indirect=True)
def test_tables_that_stay_in_use_are_told(old_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On SQLite a migration does not begin before the others have ended."""
    monkeypatch.setattr(schema, "_LOCK_SECONDS", 1)
    first_migration(old_url, tmp_path)
    with connected(old_url, tmp_path) as connection:
        connection.exec_driver_sql("SELECT count(*) FROM featurestore_run")
        with pytest.raises(RegistryError, match=r"lock timeout.*at version 2 as before.*stop schedulers.*featurestore migrate"):
            migrated(old_url, tmp_path)
    assert backfilled(old_url, tmp_path) == BACKFILLS


@pytest.mark.parametrize("at", [step.version for step in MIGRATIONS])
def test_one_that_is_killed_is_done_by_the_next_use(old_url: str, tmp_path: Path, at: int) -> None:
    assert Worker("migration_worker").kill(tmp_path, old_url, point=at) == "migrated, not committed\n"
    assert migrated(old_url, tmp_path, dry_run=True).version == at - 1
    columns = {name: columns for name, (columns, _) in contents(old_url, tmp_path).items()}
    assert ("stamp" in columns["featurestore_project"], "backfill" in columns["featurestore_run"]) == (at > 2, False)
    assert backfilled(old_url, tmp_path) == BACKFILLS
    assert [row[0] for row in version(old_url, tmp_path)] == [SCHEMA_VERSION]


def migrate_at_once(url: str, root: Path, name: str, barrier: Barrier) -> list[int]:
    """Migrates at the same time as others; returns to which versions."""
    barrier.wait(60)
    return [step.version for step in migrated(url, root).steps]


def test_of_processes_that_migrate_at_once_each_step_is_done_by_one(old_url: str, tmp_path: Path) -> None:
    done = at_once(migrate_at_once, ["a", "b", "c"], old_url, tmp_path)
    assert sorted(number for each in done for number in each) == [2, 3]
    assert [row[0] for row in version(old_url, tmp_path)] == [SCHEMA_VERSION]
    assert backfilled(old_url, tmp_path) == BACKFILLS


@pytest.mark.parametrize("shared", [True, False], ids=["one database", "one each"])
def test_of_threads_that_use_it_at_once_each_step_is_done_by_one(
    old_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    ran: list[int] = []

    def noting(step: Migration) -> Migration:
        def run(connection: Connection) -> None:
            ran.append(step.version)
            step.run(connection)

        return replace(step, run=run)

    monkeypatch.setattr(migrations, "MIGRATIONS", tuple(map(noting, MIGRATIONS)))
    databases = [Database(old_url, tmp_path)] * 4 if shared else [Database(old_url, tmp_path) for _ in range(4)]

    def revision(database: Database) -> int:
        with database.reading() as connection:
            return int(connection.execute(schema.project.select()).one().revision)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(revision, databases)) == [1] * 4
    for database in databases:
        database.close()
    assert ran == [2, 3]


def test_tables_that_are_not_ours_are_told_and_left_alone(tmp_path: Path) -> None:
    with connected("sqlite:///registry.db", tmp_path) as connection:
        connection.exec_driver_sql("CREATE TABLE featurestore_project (name TEXT)")
    with pytest.raises(RegistryError, match=r"no such column: featurestore_project\.project.*Is it one of featurestore"):
        migrated("sqlite:///registry.db", tmp_path)


def test_there_is_one_migration_for_each_version() -> None:
    assert [step.version for step in MIGRATIONS] == [*range(2, SCHEMA_VERSION + 1)]
    assert all(step.summary for step in MIGRATIONS)
