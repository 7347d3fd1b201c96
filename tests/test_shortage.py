"""What the machine lacks is told from what is wrong with rows, by what libraries really raise."""

import errno
import os
import threading
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pytest

from featurestore.errors import DefinitionError, OfflineStoreError
from featurestore.shortage import shortage_of

NO_ROOM = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO, errno.EROFS])
def test_what_the_system_refuses_is_a_shortage(number: int) -> None:
    lacked = shortage_of(OSError(number, os.strerror(number), "/data/ann@example.org"))
    assert isinstance(lacked, OSError)
    assert (lacked.errno, str(lacked)) == (number, f"[Errno {number}] {os.strerror(number)}")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "x"),
        pa.ArrowMemoryError("malloc of size 64"),
        caused(DefinitionError("x"), MemoryError()),
    ],
)
def test_memory_is_a_shortage(error: BaseException) -> None:
    assert isinstance(shortage_of(error), MemoryError)


def test_a_shortage_of_duckdb_is_one() -> None:
    with duckdb.connect(config={"memory_limit": "10MB", "temp_directory": ""}) as connection, pytest.raises(duckdb.Error) as raised:
        connection.execute("select list(range) from range(100000000)").fetchall()
    assert isinstance(shortage_of(raised.value), MemoryError)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
def test_a_full_disk_is_a_shortage_in_the_words_of_polars() -> None:
    with pytest.raises(pl.exceptions.ComputeError) as raised:
        pl.DataFrame({"a": [1]}).write_parquet("/dev/full")
    assert repr(shortage_of(raised.value)) == repr(NO_ROOM)
    assert repr(shortage_of(caused(OfflineStoreError("x"), raised.value))) == repr(NO_ROOM)


def test_a_thread_that_cannot_be_started_is_a_shortage(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading, "_start_new_thread", refuse)
    with pytest.raises(RuntimeError) as raised:
        threading.Thread(target=print).start()
    assert str(shortage_of(raised.value)) == "can't start new thread"


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        RecursionError("maximum recursion depth exceeded"),
        RuntimeError("can't start new thread, says a row"),
        FileNotFoundError(errno.ENOENT, "x"),
        PermissionError(errno.EACCES, "x"),
        pl.exceptions.ComputeError("conversion from `str` to `i64` failed for `(os error 28)`"),
        pl.exceptions.ComputeError("IO error: a row says so (os error 28)"),
        pl.exceptions.PanicException("called `Result::unwrap()` on an `Err` value"),
        caused(ValueError("x"), ValueError("y")),
    ],
)
def test_what_is_wrong_with_rows_is_none(error: BaseException) -> None:
    assert shortage_of(error) is None


def test_errors_that_cause_each_other_come_to_an_end() -> None:
    one, other = ValueError("x"), ValueError("y")
    one.__cause__, other.__cause__ = other, one
    assert shortage_of(one) is None
