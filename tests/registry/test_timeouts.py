"""A PostgreSQL that has fallen silent: nothing waits for it for ever, and what it left is forgotten once it answers again."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from featurestore.clock import utc_now
from featurestore.definitions.entity import Entity
from featurestore.errors import RegistryError
from featurestore.registry import schema as tables
from featurestore.registry.database import Database
from featurestore.registry.specs import Put, SpecRegistry
from tests.servers.postgres import postgres_socket
from tests.servers.proxy import Proxy, proxy_of_socket


def behind(dsn: str, proxy: Proxy) -> str:
    """A server's address, by way of a proxy of its socket."""
    parts = urlsplit(dsn)
    return f"postgresql+psycopg://{parts.username}@127.0.0.1:{proxy.port}{parts.path}"


@pytest.fixture
def proxy(postgres_dsn: str) -> Iterator[Proxy]:
    with proxy_of_socket(postgres_socket(postgres_dsn)) as proxy:
        yield proxy


@pytest.mark.slow
def test_silence_is_an_error_and_its_connections_are_not_used_again(
    proxy: Proxy, postgres_dsn: str, project: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "SILENT_SECONDS", 0.5)
    monkeypatch.setitem(tables._PATIENCE, "connect_timeout", 8)
    registry = SpecRegistry(behind(postgres_dsn, proxy), project, tmp_path, utc_now)
    registry.commit(0, [Put(Entity("airport", origin=str), 1)], [])
    proxy.fall_silent()
    errors: list[str] = []

    def ask() -> None:
        try:
            registry.load()
        except RegistryError as error:
            errors.append(str(error))

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(30)
    assert len(errors) == 4
    assert all("cannot be reached" in error for error in errors), errors
    began = time.monotonic()
    with pytest.raises(RegistryError, match="cannot be reached"):
        registry.load()
    assert time.monotonic() - began < 5, "one waits, and the next is told soon"
    proxy.speak()
    began = time.monotonic()
    assert list(registry.load().entities) == ["airport"]
    assert time.monotonic() - began < 10, "no connection of before is waited for"
    registry.close()


def test_what_libpq_is_told_can_be_said_otherwise_in_the_address(postgres_dsn: str, proxy: Proxy, tmp_path: Path) -> None:
    database = Database(behind(postgres_dsn, proxy) + "?keepalives_idle=7", tmp_path)
    with database.reading() as connection:
        raw = connection.connection.driver_connection
        assert raw is not None
        given = {name.decode(): (value or b"").decode() for name, value in ((o.keyword, o.val) for o in raw.pgconn.info)}
        assert (given["keepalives_idle"], given["keepalives_interval"], given["tcp_user_timeout"]) == ("7", "5", "20000")
        assert connection.exec_driver_sql("show statement_timeout").scalar() == "18s"
    database.close()


OLD = """
create table featurestore_project (project varchar not null primary key, revision bigint not null);
insert into featurestore_project values ('flights', 7);
"""


def test_a_registry_of_before_gets_the_columns_that_it_lacks(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "registry.db") as connection:
        connection.executescript(OLD)
    connection.close()
    registry = SpecRegistry("sqlite:///registry.db", "flights", tmp_path, utc_now)
    assert registry.state() == (7, "")
    assert registry.commit(7, [Put(Entity("airport", origin=str), 1)], []).revision == 8
    assert registry.state()[1] != ""
    registry.close()
    with sqlite3.connect(tmp_path / "registry.db") as connection:
        assert connection.execute("select version from featurestore_schema").fetchall() == [(tables.SCHEMA_VERSION,)]
        # One of the version before may still write to it.
        connection.execute("insert into featurestore_project (project, revision) values ('other', 1)")
    connection.close()


def test_a_registry_of_a_later_version_is_refused(fresh_url: str, tmp_path: Path) -> None:
    database = Database(fresh_url, tmp_path)
    with database.writing() as connection:
        connection.execute(tables.schema.update().values(version=tables.SCHEMA_VERSION + 1))
    database.close()
    registry = SpecRegistry(fresh_url, "flights", tmp_path, utc_now)
    with pytest.raises(RegistryError, match=r"is at schema version \d+; this featurestore knows .* Upgrade featurestore"):
        registry.load()
    registry.close()
