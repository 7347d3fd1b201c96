"""Objects as files: threads share one, and each reads what it asks for."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import SEEK_CUR, SEEK_END
from typing import Any

import polars as pl
import pytest

from featurestore import FeatureStore
from featurestore.errors import RequestError
from featurestore.offline.object_folder import ObjectFolder
from tests.projects import INSTANT, memory_of, view_of

CONTENT = random.Random(1).randbytes(3_000_000)


@pytest.fixture
def file(s3_url: str) -> Iterator[Any]:
    folder = ObjectFolder(s3_url)
    folder.write("numbers", CONTENT)
    with folder.file_system().open(folder.address("numbers").url) as opened:
        yield opened


def test_it_reads_as_a_file_does(file: Any) -> None:
    assert file.read(3) == CONTENT[:3]
    assert file.read(2_000_000) == CONTENT[3:2_000_003]
    assert file.seek(-10, SEEK_END) == len(CONTENT) - 10
    assert file.read(100) == CONTENT[-10:]
    assert file.read(1) == b""
    assert file.seek(-5, SEEK_CUR) == len(CONTENT) - 5
    assert file.read() == CONTENT[-5:]
    buffer = bytearray(4)
    file.seek(7)
    assert file.readinto(buffer) == 4
    assert (bytes(buffer), file.tell()) == (CONTENT[7:11], 11)


def test_threads_that_share_it_read_where_each_has_sought(file: Any) -> None:
    def read(seed: int) -> bool:
        numbers = random.Random(seed)
        for _ in range(20):
            start, size = numbers.randrange(len(CONTENT)), numbers.randrange(1, 500_000)
            file.seek(start)
            if file.read(size) != CONTENT[start : start + size]:
                return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, range(16)))


def test_it_writes_nothing(file: Any, s3_url: str) -> None:
    system = ObjectFolder(s3_url).file_system()
    with pytest.raises(ValueError, match="opened with 'wb'"):
        system.open(f"{s3_url}/other", "wb")


def test_a_query_reads_all_columns_of_a_large_history(s3_url: str, tmp_path: Any) -> None:
    """Of more bytes than DuckDB reads at once, in threads that share the file."""
    rows = 240_000
    number = pl.int_range(rows, eager=True)
    values = {name: number * factor % 1_000_003 / 7 for name, factor in (("x", 2654435761), ("y", 40503), ("z", 69069))}
    frame = pl.DataFrame({"k": number % 1000, "event": number.cast(INSTANT), "available": number.cast(INSTANT), **values})
    view = view_of(memory_of(frame), {"k": int}, dict.fromkeys("xyz", float))
    with FeatureStore(tmp_path, project="large", offline=s3_url) as store:
        store.apply([view])
        store.materialize()
        assert store.sql("from v order by event_time").select("x", "y", "z").equals(frame.select("x", "y", "z"))
        with pytest.raises(RequestError, match="one SELECT"):
            store.sql("copy v to 's3://history/elsewhere.parquet'")
