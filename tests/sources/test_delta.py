"""The reader of Delta tables."""

import json
import shutil
import struct
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import example, given, settings
from hypothesis import strategies as st

from featurestore.clock import from_micros
from featurestore.definitions.source import DeltaSource
from featurestore.errors import SourceError
from featurestore.sources.delta import DeltaReader
from featurestore.testing.sources import EVENT, INSTANT, MANY, TIMES, SourceReaderContract, frame, pin, read, run, saved
from tests.effort import examples
from tests.sources.places import Delta


class TestDelta(SourceReaderContract):
    kind = Delta


def reader(root: Path, path: str = "table", **words: Any) -> DeltaReader:
    return DeltaReader(DeltaSource("s", path, **(words or TIMES)), root)


def compact(root: Path) -> None:
    table = DeltaTable(root / "table")
    table.optimize.compact()
    table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)


def edit_log(root: Path, change: Callable[[dict[str, Any]], None], version: int = 0) -> None:
    path = root / f"table/_delta_log/{version:020}.json"
    actions = [json.loads(line) for line in path.read_text().splitlines()]
    for action in actions:
        change(action)
    path.write_text("\n".join(json.dumps(action) for action in actions))


def test_s18_only_files_of_newer_versions_are_read(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "table", frame([(1, 100, 100)]))
    _, cursor = run(reader(tmp_path), None, 5_000)
    write_deltalake(tmp_path / "table", frame([(2, 5, 5)]), mode="append")
    found, cursor = run(reader(tmp_path), cursor, 5_000)
    assert found == [2]
    assert reader(tmp_path).span(cursor, None, from_micros(6_000), MANY).chunks == ()


def test_s18_what_a_compaction_wrote_of_known_files_is_known(tmp_path: Path) -> None:
    for number in (1, 2):
        write_deltalake(tmp_path / "table", frame([(number, 100, 100), (number + 10, 100, 900)]), mode="append")
    _, cursor = run(reader(tmp_path), None, 500)
    compact(tmp_path)
    found, cursor = run(reader(tmp_path), cursor, 600)
    assert found == []
    assert len(cursor["files"]) == 1
    # What was not available yet is not lost in it.
    write_deltalake(tmp_path / "table", frame([(3, 100, 100)]), mode="append")
    compact(tmp_path)
    assert set(run(reader(tmp_path), cursor, 1_000)[0]) >= {3, 11, 12}


def test_s18_what_a_compaction_wrote_of_a_file_not_read_is_read(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "table", frame([(1, 100, 100)]))
    _, cursor = run(reader(tmp_path), None, 500)
    write_deltalake(tmp_path / "table", frame([(2, 100, 100)]), mode="append")
    compact(tmp_path)  # and its VACUUM takes the file away
    span = reader(tmp_path).span(saved(dict(cursor)), None, from_micros(600), MANY)
    assert sorted(read(reader(tmp_path), span.chunks)["id"]) == [1, 2]
    assert any("is read whole" in notice for notice in span.notices)


@settings(max_examples=examples(25), deadline=None)
@given(
    steps=st.lists(st.sampled_from(["append", "late", "compact", "z-order", "run"]), max_size=9),
    keyed=st.booleans(),
    chunk_rows=st.sampled_from([1, 2, MANY]),
)
@example(steps=["append", "run", "append", "compact"], keyed=False, chunk_rows=MANY)
@example(steps=["late", "append", "run", "late", "compact", "append", "compact", "run"], keyed=False, chunk_rows=MANY)
@example(steps=["append", "append", "run", "compact", "append", "z-order", "late", "compact"], keyed=True, chunk_rows=1)
def test_s9_s18_a_compaction_makes_no_row_read_twice(steps: list[str], keyed: bool, chunk_rows: int) -> None:
    """Wherever the runs lie among appends and compactions, all rows are read, each once."""
    with TemporaryDirectory() as folder:
        root, written, seen, cursor, now = Path(folder), 0, list[int](), None, 1_000
        for step in ["append", *steps, "run"]:
            now += 1_000
            if step in ("append", "late"):
                known = now + 2_500 if step == "late" else now
                rows = frame([(written, now, known), (written + 1, now, now)]).with_columns(p=pl.Series(["a", "b"]))
                write_deltalake(root / "table", rows, mode="append", partition_by=["p"] if keyed else None)
                written += 2
            elif step == "compact":
                DeltaTable(root / "table").optimize.compact()
            elif step == "z-order":
                DeltaTable(root / "table").optimize.z_order(["id"])
            else:
                found, cursor = run(reader(root), cursor, now, chunk_rows)
                seen += found
        seen += run(reader(root), cursor, now + 10_000, chunk_rows)[0]
        assert sorted(seen) == list(range(written))


def test_s18_files_taken_away_without_their_partition_are_those_of_all(tmp_path: Path) -> None:
    """The protocol leaves it to the writer to say the partition of a file that it removes."""
    for number in (1, 2):
        rows = frame([(number, 100, 100)]).with_columns(p=pl.lit("a"))
        write_deltalake(tmp_path / "table", rows, mode="append", partition_by=["p"])
    _, cursor = run(reader(tmp_path), None, 500)
    DeltaTable(tmp_path / "table").optimize.compact()
    edit_log(tmp_path, lambda action: action.get("remove", {}).pop("partitionValues", None), version=2)
    assert run(reader(tmp_path), cursor, 600)[0] == []


def test_s18_rows_that_come_back_to_a_known_file_are_read(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "table", frame([(number, number, number) for number in range(6)]))
    plain = (tmp_path / "table/_delta_log/00000000000000000000.json").read_text()
    edit_log(tmp_path, lambda action: mark_deleted(action, 1, 4))
    found, cursor = run(reader(tmp_path), None, 10)
    assert found == [0, 2, 3, 5]
    (tmp_path / "table/_delta_log/00000000000000000000.json").write_text(plain)
    assert set(run(reader(tmp_path), cursor, 10)[0]) >= {1, 4}


@pytest.mark.parametrize("change", ["delete", "update", "overwrite"])
def test_a_version_that_took_rows_away_is_told(tmp_path: Path, change: str) -> None:
    write_deltalake(tmp_path / "table", frame([(1, 100, 100), (2, 100, 100)]))
    _, cursor = run(reader(tmp_path), None, 500)
    if change == "overwrite":
        write_deltalake(tmp_path / "table", frame([(2, 100, 100)]), mode="overwrite")
    elif change == "delete":
        DeltaTable(tmp_path / "table").delete("id = 1")
    else:
        DeltaTable(tmp_path / "table").update({"x": "9.0"}, predicate="id = 1")
    span = reader(tmp_path).span(saved(dict(cursor)), None, from_micros(600), MANY)
    assert any("version 1 of its Delta table" in notice and "stays in the history" in notice for notice in span.notices)
    assert not reader(tmp_path).span(saved(dict(span.cursor)), None, from_micros(700), MANY).notices


def test_s17_a_pinned_chunk_is_read_from_its_version(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "table", frame([(1, 100, 100)]))
    span = reader(tmp_path).span(None, None, from_micros(200), MANY)
    write_deltalake(tmp_path / "table", frame([(2, 100, 100)]), mode="overwrite")
    assert reader(tmp_path).read(saved(span.chunks[0]))["id"].to_list() == [1]
    compact(tmp_path)
    with pytest.raises(SourceError, match=r"could not be read.*If a VACUUM removed it, start the run again"):
        reader(tmp_path).read(saved(span.chunks[0]))


def test_partitions_of_every_type_become_columns(tmp_path: Path) -> None:
    values = {
        "whole": [1, None],
        "day": [date(2013, 1, 1), None],
        "at": [datetime(2013, 1, 1, 1, 2, 3, 4, UTC), None],
        "flag": [True, None],
        "real": [1.5, None],
        "text": ["a/b %=c", None],
    }
    rows = pl.DataFrame({"id": [1, 2], EVENT: [datetime(2013, 1, 1, tzinfo=UTC)] * 2, **values})
    write_deltalake(tmp_path / "table", rows, partition_by=list(values))
    there = reader(tmp_path, event_time=EVENT)
    found = read(there, pin(there, None, 2_000_000_000_000_000).chunks).sort("id")
    assert found.schema == there.schema()
    assert found.select(list(values)).rows() == rows.select(list(values)).rows()
    # A partition may be the time too.
    there = reader(tmp_path, event_time="at")
    assert run(there, None, 0)[0] == [2]
    assert run(there, None, 2_000_000_000_000_000)[0] == [1, 2]


def test_a_column_that_was_added_is_null_before(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "table", frame([(1, 100, 100)]))
    write_deltalake(tmp_path / "table", frame([(2, 100, 100)]).with_columns(more=1.5), mode="append", schema_mode="merge")
    there = reader(tmp_path)
    assert read(there, pin(there, None, 200).chunks).sort("id")["more"].to_list() == [None, 1.5]


def test_s18_the_logs_timestamps_are_cut_to_milliseconds(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "table", frame([(1, 1_999, 1_999), (2, -1_999, -1_999)]))
    found, cursor = run(reader(tmp_path), None, 1_500)
    assert found == [2]
    assert run(reader(tmp_path), cursor, 1_999)[0] == [1]
    assert run(reader(tmp_path), None, -1_999)[0] == [2]
    assert run(reader(tmp_path), None, 5_000, start=1_999)[0] == [1]


def test_a_table_without_statistics(tmp_path: Path) -> None:
    write_deltalake(
        tmp_path / "table", frame([(1, 100, 100), (2, None, 100)]), configuration={"delta.dataSkippingNumIndexedCols": "0"}
    )
    edit_log(tmp_path, lambda action: action.get("add", {}).update(stats=None))
    assert run(reader(tmp_path), None, 50)[0] == [2]
    assert run(reader(tmp_path), None, 100, chunk_rows=1)[0] == [1, 2]


def test_rows_deleted_by_a_vector_are_not_read(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "table", frame([(number, number, number) for number in range(6)]))
    edit_log(tmp_path, lambda action: mark_deleted(action, 1, 4))
    for chunk_rows in (2, 4, MANY):
        assert run(reader(tmp_path), None, 10, chunk_rows)[0] == [0, 2, 3, 5]
    assert reader(tmp_path).sample(10)["id"].to_list() == [0, 2, 3, 5]


def test_tables_that_cannot_be_read_rightly_are_refused(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "table", frame([(1, 100, 100)], INSTANT))

    def map_columns(action: dict[str, Any]) -> None:
        if "protocol" in action:
            action["protocol"] = {"minReaderVersion": 2, "minWriterVersion": 5}
        if "metaData" in action:
            action["metaData"]["configuration"] = {"delta.columnMapping.mode": "name", "delta.columnMapping.maxColumnId": "9"}
            schema = json.loads(action["metaData"]["schemaString"])
            for number, field in enumerate(schema["fields"]):
                field["metadata"] = {"delta.columnMapping.id": number + 1, "delta.columnMapping.physicalName": f"col-{number}"}
            action["metaData"]["schemaString"] = json.dumps(schema)

    edit_log(tmp_path, map_columns)
    with pytest.raises(SourceError, match=r"maps its columns to other names.*not supported"):
        reader(tmp_path).schema()


def test_a_broken_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "table/_delta_log").mkdir(parents=True)
    (tmp_path / "table/_delta_log/00000000000000000000.json").write_text("{broken")
    with pytest.raises(SourceError, match=r"Delta table .*table could not be read"):
        reader(tmp_path).schema()
    shutil.rmtree(tmp_path / "table")
    with pytest.raises(SourceError, match=r"there is no Delta table at .*table.*write the table first"):
        reader(tmp_path).schema()


def test_an_empty_table_is_no_error(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "table", frame([], INSTANT))
    _, cursor = run(reader(tmp_path), None, 100)
    DeltaTable(tmp_path / "table").delete()
    assert run(reader(tmp_path), cursor, 200)[0] == []


def mark_deleted(action: dict[str, Any], *rows: int) -> None:
    """Adds a deletion vector to an action of the log that adds a file, and that there are such to the protocol."""
    features = ["deletionVectors", "timestampNtz"]
    if "protocol" in action:
        action["protocol"] = {
            "minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": features, "writerFeatures": features
        }  # fmt: skip
    if "add" in action:
        action["add"]["deletionVector"] = deletion_vector(*rows)


def deletion_vector(*rows: int) -> dict[str, Any]:
    """A deletion vector inside the log: a 32-bit Roaring bitmap of one array container, in a table of one such, as Z85."""
    bitmap = struct.pack("<IIHHI", 12346, 1, 0, len(rows) - 1, 16) + b"".join(struct.pack("<H", row) for row in rows)
    blob = struct.pack("<IQI", 1681511377, 1, 0) + bitmap
    alphabet = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
    padded = blob + bytes(-len(blob) % 4)
    words = [int.from_bytes(padded[at : at + 4], "big") for at in range(0, len(padded), 4)]
    text = "".join(alphabet[word // 85**power % 85] for word in words for power in range(4, -1, -1))
    return {"storageType": "i", "pathOrInlineDv": text, "sizeInBytes": len(blob), "cardinality": len(rows)}
