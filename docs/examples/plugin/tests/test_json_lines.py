"""The reader of JSON lines passes the suite of source readers."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from featurestore.clock import from_micros
from featurestore.definitions.serialization import from_json, to_json
from featurestore.errors import DefinitionError, SourceError
from featurestore.rows.unreadable import UNREAD
from featurestore.testing import Place, SourceReaderContract
from featurestore.testing.sources import INSTANT, NAIVE
from featurestore_example import JSONLSource
from featurestore_example.json_lines import JSONLReader

COLUMNS = {"id": int, "observed_at": datetime, "received_at": datetime, "k": str, "x": float}


class JSONLFiles(Place):
    """A glob; every write is a new file."""

    times = (NAIVE, INSTANT, pl.Date())
    far_times = False

    def write(self, rows: pl.DataFrame) -> None:
        folder = self.root / "data"
        folder.mkdir(exist_ok=True)
        lines = [json.dumps(row, default=str) + "\n" for row in rows.to_dicts()]
        (folder / f"part_{len(list(folder.iterdir()))}.jsonl").write_text("".join(lines))

    def reader(self, **words: Any) -> JSONLReader:
        return JSONLReader(JSONLSource("s", "data/*.jsonl", columns=COLUMNS, **words), self.root)


class JSONLLog(JSONLFiles):
    """One file that grows."""

    def write(self, rows: pl.DataFrame) -> None:
        with (self.root / "log.jsonl").open("a") as log:
            log.writelines(json.dumps(row, default=str) + "\n" for row in rows.to_dicts())

    def reader(self, **words: Any) -> JSONLReader:
        return JSONLReader(JSONLSource("s", "log.jsonl", columns=COLUMNS, **words), self.root)


class TestJSONLFiles(SourceReaderContract):
    kind = JSONLFiles


class TestJSONLLog(SourceReaderContract):
    kind = JSONLLog


def reader(folder: Path, *lines: str, **columns: Any) -> JSONLReader:
    (folder / "a.jsonl").write_text("".join(lines))
    return JSONLReader(JSONLSource("s", "a.jsonl", event_time="at", columns={"at": datetime, **columns}), folder)


def test_it_is_read_from_the_registry_as_it_was_written() -> None:
    source = JSONLSource("s", "a.jsonl", event_time="at", columns={"at": datetime, "x": pl.Int8}, rename={"y": "x"})
    again = from_json("source", to_json(source))
    assert again == source
    assert type(again) is JSONLSource


def test_a_value_that_is_not_of_its_type_is_null_and_told(tmp_path: Path) -> None:
    lines = ['{"at": "2026-01-01", "n": 1}\n', '{"at": "2026-01-01", "n": 1.5}\n', '{"at": "2026-01-01", "more": 1}\n']
    found = reader(tmp_path, *lines, n=int)
    [chunk] = found.span(None, None, from_micros(2_000_000_000_000_000), 100).chunks
    rows = found.read(chunk, texts=True)
    assert rows["n"].to_list() == [1, None, None]
    assert rows[UNREAD].to_list() == [None, {"n": "1.5"}, None]


@pytest.mark.parametrize("line", ["{", "[1]", "nothing"])
def test_a_line_that_is_no_object_is_told_with_its_place(tmp_path: Path, line: str) -> None:
    with pytest.raises(SourceError, match=r"'s': line 2 of a\.jsonl is not"):
        reader(tmp_path, '{"at": "2026-01-01"}\n', f"{line}\n").sample(5)


def test_a_type_that_is_none_is_told() -> None:
    with pytest.raises(DefinitionError, match="columns= of source 's'"):
        JSONLSource("s", "a.jsonl", event_time="at", columns={"at": object})
