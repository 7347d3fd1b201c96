"""The SQLite store passes the suite of online stores."""

import sqlite3
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from featurestore.errors import OnlineStoreError
from featurestore.online.base import Entry, OnlineStore
from featurestore.testing import FakeClock, OnlineStoreContract
from featurestore.testing.online import Make
from featurestore_example.sqlite_store import SQLiteStore

START = datetime(2026, 1, 1, tzinfo=UTC)


class TestSQLiteStore(OnlineStoreContract):
    @pytest.fixture
    def make(self, tmp_path: Path) -> Make:
        return partial(SQLiteStore, tmp_path / "online.db", clock=FakeClock(START))

    def remaining_ms(self, store: OnlineStore, key: bytes) -> int | None:
        assert isinstance(store, SQLiteStore)
        with store.transaction() as connection:
            (expiry,) = connection.execute("select expiry from latest where key = ?", (key,)).fetchone()
        return None if expiry is None else expiry - int(START.timestamp() * 1000)

    def test_sweep_drops_what_has_expired(self, tmp_path: Path) -> None:
        clock = FakeClock(START)
        store = SQLiteStore(tmp_path / "online.db", clock=clock)
        store.write([Entry(b"soon", b"1", 1000), Entry(b"never", b"1")])
        assert store.sweep() == 0
        clock.advance("1s")
        assert store.sweep() == 1
        assert store.read([b"soon", b"never"]) == [None, b"1"]
        store.close()

    def test_its_files_are_its_owners_alone(self, tmp_path: Path) -> None:
        store = SQLiteStore(tmp_path / "online.db")
        store.write([Entry(b"k", b"1")])
        files = [file for file in SQLiteStore.files("sqlite:online.db", tmp_path) if file.exists()]
        assert len(files) == 3
        assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
        store.close()

    def test_something_else_in_its_place(self, tmp_path: Path) -> None:
        (tmp_path / "online.db").write_bytes(b"something else" * 100)
        with pytest.raises(OnlineStoreError, match="cannot be used") as caught:
            SQLiteStore(tmp_path / "online.db").check()
        assert isinstance(caught.value.__cause__, sqlite3.DatabaseError)
