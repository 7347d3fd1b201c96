"""The reader of Parquet files."""

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.clock import from_micros
from featurestore.definitions.source import ParquetSource
from featurestore.errors import SourceError
from featurestore.rows.unreadable import UNREAD
from featurestore.sources import parquet
from featurestore.sources.parquet import ParquetReader
from featurestore.testing.sources import EVENT, MANY, TIMES, SourceReaderContract, frame, pin, read, run, saved
from tests.sources.places import ParquetFile, ParquetFiles, ParquetHive, ParquetWithoutStatistics


class TestParquetFiles(SourceReaderContract):
    kind = ParquetFiles


class TestParquetWithoutStatistics(SourceReaderContract):
    kind = ParquetWithoutStatistics


class TestParquetFile(SourceReaderContract):
    kind = ParquetFile


class TestParquetHive(SourceReaderContract):
    kind = ParquetHive


def reader(root: Path, path: str = "data/*.parquet", **words: Any) -> ParquetReader:
    return ParquetReader(ParquetSource("s", path, **(words or TIMES)), root)


def write(path: Path, rows: pl.DataFrame, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows.write_parquet(path, **options)
    return path


def test_s18_an_unchanged_complete_file_is_not_read_again(tmp_path: Path) -> None:
    write(tmp_path / "data/a.parquet", frame([(1, 100, 100)]))
    _, cursor = run(reader(tmp_path), None, 100)
    assert reader(tmp_path).span(cursor, None, from_micros(200), MANY).chunks == ()


def test_s18_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "data/a.parquet", frame([(1, 100, 100), (2, 200, 200)]))
    write(tmp_path / "data/b.parquet", frame([(7, 100, 100)]))
    _, cursor = run(reader(tmp_path), None, 200)
    write(path, frame([(1, 100, 100), (2, 200, 200), (3, 5, 250), (4, 5, 5)]))
    # All of it, for a row may be written later than its available time says (C04).
    assert run(reader(tmp_path), cursor, 300)[0] == [1, 2, 3, 4]
    assert run(reader(tmp_path, event_time=EVENT), cursor, 300)[0] == [1, 2, 3, 4]


def test_s18_a_removed_file_is_forgotten(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"data/{name}.parquet", frame([(1, 100, 100)])) for name in "ab"]
    _, cursor = run(reader(tmp_path), None, 200)
    paths[0].unlink()
    found, cursor = run(reader(tmp_path), cursor, 300)
    assert found == []
    assert list(cursor["files"]) == ["data/b.parquet"]
    paths[1].unlink()
    span = reader(tmp_path).span(cursor, None, from_micros(400), MANY)
    assert (span.chunks, span.cursor["files"]) == ((), {})
    write(paths[0], frame([(9, 100, 100)]))
    assert run(reader(tmp_path), span.cursor, 400)[0] == [9]


def test_s18_statistics_spare_what_a_span_does_not_want(tmp_path: Path) -> None:
    write(tmp_path / "data/a.parquet", frame([(number, number, number) for number in range(100)]), row_group_size=10)
    span = pin(reader(tmp_path), None, 99, start=35, chunk_rows=MANY)
    assert span.rows == 70
    assert span.chunks[0]["parts"][0][:3] == ["data/a.parquet", 30, 70]
    span = pin(reader(tmp_path), None, 42)
    assert span.rows == 50
    # Three row groups that touch are one part; a chunk holds no more rows than it was told.
    assert [sum(part[2] for part in chunk["parts"]) for chunk in pin(reader(tmp_path), None, 99, 30).chunks] == [30, 30, 30, 10]


def test_large_row_groups_are_divided_and_small_files_put_together(tmp_path: Path) -> None:
    write(tmp_path / "data/large.parquet", frame([(number, number, number) for number in range(100)]), row_group_size=100)
    for number in range(12):
        write(tmp_path / f"data/small_{number}.parquet", frame([(1_000 + number, 5, 5)]))
    span = pin(reader(tmp_path), None, 99, chunk_rows=25)
    assert [len(chunk["parts"]) for chunk in span.chunks] == [1, 1, 1, 1, 12]
    # Ten comes after nine.
    assert [part[0] for part in span.chunks[4]["parts"]] == [f"data/small_{number}.parquet" for number in range(12)]


def test_hidden_files_are_left_out(tmp_path: Path) -> None:
    for name in ("a", "_tmp/b", ".c", "sub/_d", "sub/e"):
        write(tmp_path / f"data/{name}.parquet", frame([(ord(name[-1]), 100, 100)]))
    write(tmp_path / "data/f.txt", frame([(0, 100, 100)]))
    assert run(reader(tmp_path, "data"), None, 200)[0] == [ord("a"), ord("e")]
    assert run(reader(tmp_path, "data/**/*.parquet"), None, 200)[0] == [ord("a"), ord("e")]
    assert run(reader(tmp_path, "data/*.parquet"), None, 200)[0] == [ord("a")]
    assert run(reader(tmp_path, "data/_tmp/*.parquet"), None, 200)[0] == [ord("b")]
    assert run(reader(tmp_path, "data/_*/*.parquet"), None, 200)[0] == [ord("b")]
    assert run(reader(tmp_path, "data/**"), None, 200, 1)[0] == [0, ord("a"), ord("e")]


def test_names_that_look_like_patterns_are_names(tmp_path: Path) -> None:
    root = tmp_path / "project [1]*"
    write(root / "data/a[1].parquet", frame([(1, 100, 100)]))
    assert run(reader(root, "data/a[1].parquet"), None, 200)[0] == [1]
    assert run(reader(root), None, 200)[0] == [1]
    assert run(reader(tmp_path, str(root / "data")), None, 200)[0] == [1]
    _, cursor = run(reader(root, "../project [1]*/data"), None, 200)
    assert run(reader(root, "../project [1]*/data"), cursor, 300)[0] == []


def test_hive_partitions_become_columns(tmp_path: Path) -> None:
    for day, hour, place in (("2013-01-01", "7", "a b"), ("2013-01-02", "08", "__HIVE_DEFAULT_PARTITION__")):
        folder = f"lake/day={day}/hour={hour}/place={place.replace(' ', '%20')}"
        write(tmp_path / folder / "x.parquet", frame([(int(hour), 100, 100)]).drop("x"))
    there = reader(tmp_path, "lake", **TIMES, rename={"hour": "h"})
    schema = there.schema()
    assert [schema[name] for name in ("day", "h", "place")] == [pl.Date(), pl.Int64(), pl.String()]
    rows = read(there, pin(there, None, 200).chunks)
    assert rows.select("id", "day", "h", "place").rows() == [(7, date(2013, 1, 1), 7, "a b"), (8, date(2013, 1, 2), 8, None)]


def test_s1_a_hive_partition_may_tell_the_time(tmp_path: Path) -> None:
    for day in (1, 2):
        write(tmp_path / f"lake/day=2013-01-0{day}/x.parquet", frame([(day, 100, 100)]))
    there = reader(tmp_path, "lake/**/*.parquet", event_time="day")
    span = there.span(None, None, datetime(2013, 1, 1, 12, tzinfo=UTC), MANY)
    assert read(there, span.chunks).select("id", "day").rows() == [(1, datetime(2013, 1, 1, tzinfo=UTC))]
    span = there.span(saved(dict(span.cursor)), None, datetime(2013, 1, 2, tzinfo=UTC), MANY)
    assert read(there, span.chunks)["id"].to_list() == [2]


def test_s19_a_hive_partition_that_is_no_time_is_a_null_one(tmp_path: Path) -> None:
    """One folder that was named wrongly stopped all rows of its source."""
    for number, day in enumerate(("2013-01-01", "10000-01-01", "soon")):
        write(tmp_path / f"lake/day={day}/x.parquet", frame([(number, 100, 100)]))
    there = reader(tmp_path, "lake", event_time="day")
    [chunk] = there.span(None, None, datetime(2013, 1, 2, tzinfo=UTC), MANY).chunks
    rows = there.read(chunk, texts=True).sort("id")
    assert rows["day"].to_list() == [datetime(2013, 1, 1, tzinfo=UTC), None, None]
    assert rows[UNREAD].to_list() == [None, {"day": "10000-01-01"}, {"day": "soon"}]
    (tmp_path / "lake/day=2013-01-01/x.parquet").unlink()
    with pytest.raises(SourceError, match="not a time"):
        reader(tmp_path, "lake", event_time="day").schema()


def test_s9_hive_partitions_that_numbers_do_not_tell_apart_are_texts(tmp_path: Path) -> None:
    """Two events whose ids were 01 and 1 were one."""
    for code in ("01", "1"):
        write(tmp_path / f"lake/code={code}/x.parquet", frame([(1, 100, 100)]))
    assert run_of(reader(tmp_path, "lake", **TIMES), "code") == ["01", "1"]
    assert run_of(reader(tmp_path, "lake", **TIMES, columns={"code": int}), "code") == [1, 1]


def run_of(there: ParquetReader, column: str) -> list[Any]:
    return sorted(read(there, pin(there, None, 200).chunks)[column].to_list())


@pytest.mark.parametrize(
    ("first", "second", "common"),
    [
        (pl.Int32(), pl.Int64(), pl.Int64()),
        (pl.Int64(), pl.Int8(), pl.Int64()),
        (pl.UInt8(), pl.Int8(), pl.Int16()),
        (pl.Float32(), pl.Float64(), pl.Float64()),
        (pl.Int16(), pl.Float64(), pl.Float64()),
        (pl.Int8(), pl.Float32(), pl.Float32()),
        (pl.Int32(), pl.Float32(), pl.Float64()),
        (pl.Datetime("ns"), pl.Datetime("us"), pl.Datetime("us", "UTC")),
        (pl.Null(), pl.String(), pl.String()),
        (pl.Categorical(), pl.String(), pl.String()),
        (pl.Decimal(10, 2), pl.Decimal(12, 3), pl.Decimal(12, 3)),
        (pl.List(pl.Int32()), pl.List(pl.Int64()), pl.List(pl.Int64())),
        (pl.Array(pl.Float32(), 2), pl.Array(pl.Float64(), 2), pl.Array(pl.Float64(), 2)),
    ],
)
def test_a_type_that_became_wider_is_read_as_the_wider_one(
    tmp_path: Path, first: pl.DataType, second: pl.DataType, common: pl.DataType
) -> None:
    for number, dtype in enumerate((first, second)):
        column = pl.Series("v", [None], dtype=dtype)
        write(tmp_path / f"data/{number}.parquet", frame([(number, 100, 100)]).with_columns(column))
    there = reader(tmp_path)
    assert there.schema()["v"] == common
    assert [there.read(chunk).schema["v"] for chunk in there.span(None, None, from_micros(200), 1).chunks] == [common, common]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (pl.Int64(), pl.String()),
        (pl.Int64(), pl.Float64()),
        (pl.UInt64(), pl.Int64()),
        (pl.List(pl.Int64()), pl.List(pl.String())),
        (pl.Decimal(38, 0), pl.Decimal(38, 9)),
        (pl.Boolean(), pl.Int8()),
    ],
)
def test_a_type_that_changed_is_named(tmp_path: Path, first: pl.DataType, second: pl.DataType) -> None:
    for number, dtype in enumerate((first, second)):
        write(tmp_path / f"data/{number}.parquet", frame([(1, 100, 100)]).with_columns(pl.Series("v", [None], dtype=dtype)))
    there = reader(tmp_path)
    for ask in (there.schema, lambda: there.span(None, None, from_micros(200), MANY)):
        with pytest.raises(SourceError, match=r"'v' changed type") as caught:
            ask()
        assert all(str(word) in str(caught.value) for word in (first, second, "1.parquet"))


def test_a_value_survives_its_widening(tmp_path: Path) -> None:
    write(
        tmp_path / "data/a.parquet",
        frame([(1, 100, 100)]).with_columns(v=pl.lit(1, pl.Int32), d=pl.lit("1.25").cast(pl.Decimal(9, 2))),
    )
    write(tmp_path / "data/b.parquet", frame([(2, 100, 100)]).with_columns(v=2**60, d=pl.lit("2.125").cast(pl.Decimal(9, 3))))
    there = reader(tmp_path)
    rows = read(there, pin(there, None, 200).chunks)
    assert rows.select("v", "d").rows() == [(1, Decimal("1.250")), (2**60, Decimal("2.125"))]


def test_a_column_that_one_file_lacks_is_named(tmp_path: Path) -> None:
    write(tmp_path / "data/a.parquet", frame([(1, 100, 100)]))
    write(tmp_path / "data/b.parquet", frame([(1, 100, 100)]).rename({"x": "xx"}))
    with pytest.raises(SourceError, match=r"b\.parquet has no column 'x', which .*a\.parquet has.*Did you mean 'xx'"):
        reader(tmp_path).schema()


@pytest.mark.parametrize("lacks", [0, 1, 2])
def test_a_column_that_a_file_lacks_is_null_in_it(tmp_path: Path, lacks: int) -> None:
    for number in range(3):
        rows = (
            frame([(number, 100, 100)]).select("k", gust=pl.lit(5, pl.Int32), rest=pl.lit("r")).drop(["gust"] * (number == lacks))
        )
        write(tmp_path / f"data/{number}.parquet", pl.concat([rows, frame([(number, 100, 100)]).drop("k")], how="horizontal"))
    there = reader(tmp_path)
    rows = read(there, pin(there, None, 200).chunks).sort("id")
    assert rows.schema == there.schema()
    assert rows["gust"].to_list() == [None if number == lacks else 5 for number in range(3)]
    assert rows.schema["gust"] == pl.Int32


def test_a_time_column_must_be_in_every_file(tmp_path: Path) -> None:
    write(tmp_path / "data/a.parquet", frame([(1, 100, 100)]))
    write(tmp_path / "data/b.parquet", frame([(1, 100, 100)]).drop("received_at"))
    for path in ("data/*.parquet", "data/[ab].parquet"):
        with pytest.raises(SourceError, match=r"b\.parquet has no column 'received_at'"):
            reader(tmp_path, path).schema()


def test_s17_a_file_that_was_replaced_under_a_run_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "data/a.parquet", frame([(1, 100, 100), (2, 100, 100)]))
    span = reader(tmp_path).span(None, None, from_micros(200), MANY)
    write(path, frame([(2, 100, 100)]))
    with pytest.raises(SourceError, match=r"a\.parquet was replaced.*Start the run again"):
        reader(tmp_path).read(span.chunks[0])
    path.unlink()
    with pytest.raises(SourceError, match=r"a\.parquet are no longer there"):
        reader(tmp_path).read(span.chunks[0])


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    write(tmp_path / "data/a.parquet", frame([(1, 100, 100)]))
    there = reader(tmp_path)
    span = there.span(None, None, from_micros(200), MANY)
    broken = tmp_path / "data/b.parquet"
    broken.write_bytes(b"PAR1 and then nothing more")
    for ask in (there.schema, lambda: there.span(span.cursor, None, from_micros(300), MANY)):
        with pytest.raises(SourceError, match=r"'s': file .*b\.parquet could not be read"):
            ask()
    whole = (tmp_path / "data/a.parquet").read_bytes()
    broken.write_bytes(whole[:4] + b"\xff" * 200 + whole[204:])
    with pytest.raises(SourceError, match=r"'s': file .*b\.parquet could not be read"):
        there.read(there.span(span.cursor, None, from_micros(300), MANY).chunks[0])


def test_an_address_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"neither on a local file system nor .*s3://…, gs://…, az://…"):
        reader(tmp_path, "hdfs://cluster/*.parquet").schema()
    write(tmp_path / "table/_delta_log/0.parquet", frame([]))
    with pytest.raises(SourceError, match="is a Delta table"):
        reader(tmp_path, "table").schema()


@pytest.mark.parametrize(
    ("path", "told"), [("none/*.parquet", "no file matches"), ("none.parquet", "no file or folder"), ("empty", "has no files")]
)
def test_what_was_looked_for_is_told(tmp_path: Path, path: str, told: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=told) as caught:
        reader(tmp_path, path).span(None, None, from_micros(1), MANY)
    assert str(tmp_path / path) in str(caught.value)


def test_s1_statistics_of_every_time_agree_with_the_rows(tmp_path: Path) -> None:
    nanos = [-1_001, -1, 0, 1_999_999, None]
    for unit in ("s", "ms", "us", "ns"):
        size = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}[unit]
        times = pa.array([None if each is None else each // size for each in nanos], pa.timestamp(unit))
        for options in ({}, {"write_statistics": False}, {"use_deprecated_int96_timestamps": True}):
            pq.write_table(pa.table({"id": range(5), EVENT: times}), tmp_path / "x.parquet", row_group_size=2, **options)
            there = reader(tmp_path, "x.parquet", event_time=EVENT)
            for end in (-2, -1, 0, 1_999):
                floors = [None if each is None else each // size * size // 1_000 for each in nanos]
                expected = [number for number, floor in enumerate(floors) if floor is None or floor <= end]
                assert run(there, None, end, chunk_rows=1)[0] == expected, (unit, options, end)


def test_a_footer_is_trusted_only_as_far_as_it_tells(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", frame([(1, 100, 300), (2, None, None), (3, 50, 40), (4, None, 7)]), row_group_size=2)
    assert parquet.footer_extents(pq.read_metadata(path), TIMES.values()) == [(300, 300, True), (50, 50, True)]
    assert parquet.footer_extents(pq.read_metadata(path), ["k"]) is None
    assert parquet.footer_extents(pq.read_metadata(path), ["nowhere"]) is None
