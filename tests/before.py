"""A project as the state before schema versions left it: its registry, of schema version 1, its history, and what it said.

``tests/fixtures/before/make.py`` made it.
"""

import json
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg

FIXTURE = Path(__file__).parent / "fixtures" / "before"
PROJECT = "shop"
TABLES = 11


def unpack_project(folder: Path) -> Path:
    """Puts the project, without registry and online store, into a folder; returns the project's."""
    with tarfile.open(FIXTURE / "project.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / PROJECT


def load_registry(url: str, root: Path) -> None:
    """Makes the registry at an address that has none yet."""
    if url.startswith("sqlite"):
        path = root / url.removeprefix("sqlite:///")
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript((FIXTURE / "registry.sqlite.sql").read_text(encoding="utf-8"))
        return
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        connection.execute((FIXTURE / "registry.postgres.sql").read_bytes())


def said() -> dict[str, Any]:
    """Returns its ``key`` and what it said: of customers 1 to 6 ``trained`` and ``online``; ``rows``, ``runs``, ``rejected``."""
    answers: dict[str, Any] = json.loads((FIXTURE / "said.json").read_text(encoding="utf-8"))
    return answers
