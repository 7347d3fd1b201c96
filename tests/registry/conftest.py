"""The registry on every database it may be kept in, a project of its own for each test."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from featurestore.clock import Clock
from featurestore.registry.ledger import Ledger
from featurestore.registry.specs import SpecRegistry

BEGIN = datetime(2013, 7, 1, tzinfo=UTC)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    """The address of an empty registry."""
    if request.param == "sqlite":
        return "sqlite:///.featurestore/registry.db"
    address: str = request.getfixturevalue("postgres_url")
    return address


@pytest.fixture
def fresh_url(url: str) -> Iterator[str]:
    """The address of a registry whose tables are not there yet."""
    if url.startswith("sqlite"):
        yield url
        return
    name = f"fresh_{uuid4().hex}"
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f'create database "{name}"')
        yield url.replace("/postgres?", f"/{name}?")
        connection.execute(f'drop database "{name}"')


@pytest.fixture
def project() -> str:
    return f"p{uuid4().hex}"


@pytest.fixture
def clock() -> Clock:
    """A clock that moves on by a second every time it is read."""
    seconds = iter(range(1_000_000))
    return lambda: BEGIN + timedelta(seconds=next(seconds))


@pytest.fixture
def open_registry(url: str, project: str, tmp_path: Path, clock: Clock) -> Iterator[Callable[[], SpecRegistry]]:
    """Opens the registry, each time as another process would: over connections of its own."""
    opened: list[SpecRegistry] = []

    def open_one() -> SpecRegistry:
        opened.append(SpecRegistry(url, project, tmp_path, clock))
        return opened[-1]

    yield open_one
    for registry in opened:
        registry.close()


@pytest.fixture
def registry(open_registry: Callable[[], SpecRegistry]) -> SpecRegistry:
    return open_registry()


@pytest.fixture
def ledger(registry: SpecRegistry) -> Ledger:
    return Ledger(registry)
