"""Training frames on their way to a file: each arrives whole, whoever else writes to the same path."""

import io
from collections.abc import Iterator
from pathlib import Path
from threading import Barrier, Thread

import polars as pl
import pyarrow as pa
import pytest

from featurestore.client.frames import sink


def stream(value: int, batches: int = 8) -> list[bytes]:
    """An Arrow stream of batches in which every row has one value, cut into parts."""
    rows = pl.DataFrame({"x": [value] * 500}).to_arrow()
    file = io.BytesIO()
    with pa.ipc.new_stream(file, rows.schema) as writer:
        for _ in range(batches):
            writer.write_table(rows)
    whole = file.getvalue()
    return [whole[start : start + 1000] for start in range(0, len(whole), 1000)]


def test_d28_two_sinks_of_one_path_at_once_leave_one_whole_frame(tmp_path: Path) -> None:
    path, ends, failed = tmp_path / "x.parquet", Barrier(2), list[BaseException]()

    def parts(value: int) -> Iterator[bytes]:
        *most, last = stream(value)
        yield from most
        ends.wait(10)  # both have written most of theirs
        yield last

    def write(value: int) -> None:
        try:
            sink(parts(value), path)
        except BaseException as error:  # noqa: BLE001 - it is looked at below
            failed.append(error)

    threads = [Thread(target=write, args=(value,)) for value in (1, 2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert failed == []
    found = pl.read_parquet(path)["x"]
    assert found.len() == 4000
    assert found.n_unique() == 1
    assert [each.name for each in tmp_path.iterdir()] == ["x.parquet"]


def test_a_sink_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pl.DataFrame({"x": [9]}).write_parquet(path)

    def parts() -> Iterator[bytes]:
        yield from stream(1)[:3]
        raise ConnectionError("the server went away")

    with pytest.raises(ConnectionError):
        sink(parts(), path)
    assert pl.read_parquet(path)["x"].to_list() == [9]
    assert [each.name for each in tmp_path.iterdir()] == ["x.parquet"]
