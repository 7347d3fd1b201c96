"""``featurestore migrate``: what it shows and does, and what it need not load."""

import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from featurestore.registry.schema import SCHEMA_VERSION
from tests import before
from tests.cli.conftest import Invoke

REGISTRY = "sqlite:///.featurestore/registry.db"
STEPS = [*range(2, SCHEMA_VERSION + 1)]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A project whose registry is of version 1."""
    folder = before.unpack_project(tmp_path)
    before.load_registry(REGISTRY, folder)
    return folder


def tables(folder: Path) -> set[str]:
    with closing(sqlite3.connect(folder / ".featurestore" / "registry.db")) as connection:
        return {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}


def test_a_dry_run_shows_what_would_be_done(invoke: Invoke, old: Path) -> None:
    told = invoke("-C", old, "migrate", "--dry-run").stdout
    assert "registry.db is at schema version 1. These migrations would bring it to 3:" in told
    assert [int(line.split()[0]) for line in told.splitlines()[1:]] == STEPS
    shown = json.loads(invoke("-C", old, "migrate", "--dry-run", "--json").stdout)
    assert (shown["version"], shown["newest"], shown["dry_run"]) == (1, SCHEMA_VERSION, True)
    assert [step["version"] for step in shown["steps"]] == STEPS
    assert len(tables(old)) == before.TABLES


def test_it_migrates_once(invoke: Invoke, old: Path) -> None:
    told = invoke("-C", old, "migrate").stdout
    assert "registry.db was at schema version 1. These migrations brought it to 3:" in told
    assert "featurestore_schema" in tables(old)
    assert "is at schema version 3, the newest. There is nothing to migrate." in invoke("-C", old, "migrate").stdout
    shown = json.loads(invoke("-C", old, "migrate", "--json").stdout)
    assert shown == {
        "registry": shown["registry"], "version": SCHEMA_VERSION, "newest": SCHEMA_VERSION, "steps": [], "dry_run": False,
    }  # fmt: skip
    assert json.loads(invoke("-C", old, "keys", "list", "--json").stdout)[0]["name"] == "dashboard"


def test_a_project_without_a_registry_gets_one(invoke: Invoke, old: Path) -> None:
    shutil.rmtree(old / ".featurestore")
    assert "had no tables yet. The first use makes it at schema version 3" in invoke("-C", old, "migrate", "--dry-run").stdout
    assert not (old / ".featurestore").exists()
    assert "had no tables yet. It was made at schema version 3" in invoke("-C", old, "migrate").stdout


def test_a_newer_registry_is_refused(invoke: Invoke, old: Path) -> None:
    invoke("-C", old, "migrate")
    with closing(sqlite3.connect(old / ".featurestore" / "registry.db")) as connection, connection:
        connection.execute("update featurestore_schema set version = 99")
    for words in (["migrate"], ["migrate", "--dry-run"], ["runs"]):
        told = invoke("-C", old, *words, code=1).stderr
        assert "is at schema version 99; this featurestore knows versions up to 3. Upgrade featurestore" in told


def test_a_folder_without_a_project_is_told(invoke: Invoke, tmp_path: Path) -> None:
    assert "There is no project" in invoke("-C", tmp_path, "migrate", code=1).stderr
    assert list(tmp_path.iterdir()) == []


def test_it_loads_no_engine(old: Path) -> None:
    heavy = ("duckdb", "deltalake", "pyarrow", "lmdb", "redis", "psycopg", "starlette", "apscheduler")
    code = f"""
import atexit, sys
sys.argv = ["featurestore", "migrate"]
atexit.register(lambda: sys.stderr.write(repr([name for name in {heavy!r} if name in sys.modules])))
from featurestore.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=old, capture_output=True, text=True, check=False)
    assert "brought it to 3" in done.stdout
    assert done.stderr == "[]"
