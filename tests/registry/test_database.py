"""The registry's database: its address, its file, and its errors."""

import os
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table

from featurestore.clock import utc_now
from featurestore.errors import ConfigError, MissingExtraError, RegistryError
from featurestore.registry import database as database_module
from featurestore.registry.database import Database
from featurestore.registry.specs import Put, SpecRegistry
from tests.registry.samples import AIRPORT


def open_at(url: str, root: Path) -> SpecRegistry:
    return SpecRegistry(url, "flights", root, utc_now)


def test_a_relative_path_starts_at_the_projects_folder(tmp_path: Path) -> None:
    registry = open_at("sqlite:///.featurestore/deep/registry.db", tmp_path)
    assert not (tmp_path / ".featurestore").exists()
    registry.commit(0, [Put(AIRPORT, 1)], [])
    registry.close()
    assert (tmp_path / ".featurestore/deep/registry.db").is_file()


def test_an_absolute_path_stays(tmp_path: Path) -> None:
    registry = open_at(f"sqlite:///{tmp_path}/other.db", tmp_path / "project")
    assert registry.revision() == 0
    registry.close()
    assert (tmp_path / "other.db").is_file()


def test_readers_do_not_wait_for_a_writer(tmp_path: Path) -> None:
    registry, other = open_at("sqlite:///registry.db", tmp_path), open_at("sqlite:///registry.db", tmp_path)
    registry.commit(0, [Put(AIRPORT, 1)], [])
    with registry.database.writing():
        assert other.revision() == 1
    registry.close()
    other.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("registry.db", "is not an address of a database"),
        ("mysql://ann:secret@host/registry", "a database of the kind 'mysql'"),
        ("postgresql+asyncpg://ann:secret@host/registry", "a database of the kind 'postgresql\\+asyncpg'"),
        ("postgresql://ann:secret@host:port/registry", "is not an address of a database"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
    ],
)
def test_another_address_is_refused(url: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        open_at(url, tmp_path)
    assert "secret" not in str(caught.value)
    assert "Write sqlite:///" in str(caught.value)


def test_a_missing_driver_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'featurestore\[postgres\]'") as caught:
        open_at("postgresql+psycopg://ann:secret@localhost/registry", tmp_path)
    assert "secret" not in str(caught.value)
    assert "localhost" in str(caught.value)


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg"])
def test_a_server_that_does_not_answer_is_told_without_the_password(scheme: str, tmp_path: Path) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        port = deaf.getsockname()[1]
        registry = open_at(f"{scheme}://ann:secret@127.0.0.1:{port}/registry?application_name=secret", tmp_path)
        with pytest.raises(
            RegistryError, match=rf"127\.0\.0\.1:{port}/registry cannot be reached: .*Does the server run"
        ) as caught:
            registry.revision()
    assert "secret" not in str(caught.value)


def test_a_database_that_is_not_there_is_told(postgres_url: str, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match='"nowhere" does not exist'):
        open_at(postgres_url.replace("/postgres?", "/nowhere?"), tmp_path).load()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RegistryError, match=r"folder '.*file' cannot be made"):
        open_at("sqlite:///file/registry.db", tmp_path).load()


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "registry.db").write_text("no database " * 100)
    with pytest.raises(RegistryError, match=r"registry\.db is damaged: file is not a database\. Restore it"):
        open_at("sqlite:///registry.db", tmp_path).load()


def test_a_table_of_another_form_is_told(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "registry.db") as connection:
        connection.execute("create table featurestore_project (name text)")
    connection.close()
    with pytest.raises(RegistryError, match="no such column"):
        open_at("sqlite:///registry.db", tmp_path).load()


def test_a_file_that_stays_locked_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = open_at("sqlite:///registry.db", tmp_path)
    registry.revision()
    blocker = sqlite3.connect(tmp_path / "registry.db", isolation_level=None)
    blocker.execute("begin immediate")
    monkeypatch.setattr("featurestore.registry.schema.BUSY_SECONDS", 0)
    with pytest.raises(RegistryError, match="another process has been writing"):
        open_at("sqlite:///registry.db", tmp_path).commit(0, [Put(AIRPORT, 1)], [])
    blocker.close()
    registry.close()


def test_a_new_file_that_is_locked_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocker = sqlite3.connect(tmp_path / "registry.db", isolation_level=None)
    blocker.execute("begin exclusive")
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            blocker.execute("rollback")

    monkeypatch.setattr(database_module, "sleep", nap)
    monkeypatch.setattr("featurestore.registry.schema.BUSY_SECONDS", 0)
    database = Database("sqlite:///registry.db", tmp_path)
    with database.reading() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    assert len(naps) == 3
    database.close()
    blocker.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only where processes fork")
def test_a_fork_does_not_use_its_parents_connections(tmp_path: Path) -> None:
    script = """
import os, sys
from pathlib import Path
from featurestore.clock import utc_now
from featurestore.registry.specs import Put, SpecRegistry
from featurestore.definitions.entity import Entity

registry = SpecRegistry(sys.argv[1], sys.argv[2], Path(sys.argv[3]), utc_now)
registry.commit(0, [Put(Entity("airport", origin=str), 1)], [])
child = os.fork()
if not child:
    registry.commit(1, [Put(Entity("carrier", carrier=str), 1)], [])
    registry.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert sorted(registry.load().entities) == ["airport", "carrier"]
"""
    subprocess.run([sys.executable, "-c", script, "sqlite:///registry.db", "flights", str(tmp_path)], check=True)


@pytest.mark.parametrize("module", ["featurestore", "featurestore.store", "featurestore.definitions.catalog"])
def test_sqlalchemy_is_imported_only_when_a_store_is_opened(module: str) -> None:
    script = f"import sys, {module}; assert 'sqlalchemy' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_row_is_inserted_once_and_told(url: str, tmp_path: Path) -> None:
    tables = MetaData()
    keyed = Table(f"keyed_{uuid4().hex}", tables, Column("key", String, primary_key=True), Column("body", String, unique=True))
    counted = Table(f"counted_{uuid4().hex}", tables, Column("id", Integer, primary_key=True), Column("body", String, unique=True))
    database = Database(url, tmp_path)
    with database.writing() as connection:
        tables.create_all(connection)

        def told(table: Table, *rows: dict[str, object]) -> list[bool]:
            return [database.insert_new(connection, table, row) for row in rows]

        a, b = {"key": "a", "body": "first"}, {"key": "b", "body": "second"}
        assert told(keyed, a, a, {**a, "body": "other"}, {**b, "body": "first"}, b) == [True, False, False, False, True]
        assert told(counted, {"body": "x"}, {"body": "x"}, {"id": 7, "body": "y"}, {"id": 7, "body": "z"}) == [
            True,
            False,
            True,
            False,
        ]
        assert connection.execute(keyed.select().order_by("key")).mappings().all() == [a, b]
    database.close()


def test_f1_a_transaction_that_has_ended_is_on_the_disk(tmp_path: Path) -> None:
    """With a write-ahead log SQLite must flush it at each end of a transaction, on every connection."""
    database = Database("sqlite:///registry.db", tmp_path)
    for opened in (database.reading, database.writing):
        with opened() as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
            assert connection.exec_driver_sql("PRAGMA fullfsync").scalar() == 1
        database.close()
