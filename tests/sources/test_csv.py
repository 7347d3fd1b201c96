"""The reader of CSV files."""

import gzip
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.clock import from_micros
from featurestore.definitions.source import CSVSource
from featurestore.errors import SourceError
from featurestore.instants import parse_times
from featurestore.rows.unreadable import UNREAD
from featurestore.sources.csv import CSVReader
from featurestore.testing.sources import EVENT, INSTANT, MANY, TIMES, SourceReaderContract, pin, read, run
from tests.effort import examples
from tests.sources.places import CSVFiles, CSVLog

NOON = int(datetime(2013, 1, 1, 12, tzinfo=UTC).timestamp()) * 1_000_000


class TestCSVFiles(SourceReaderContract):
    kind = CSVFiles


class TestCSVLog(SourceReaderContract):
    kind = CSVLog


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def reader(root: Path, path: str = "x.csv", event_time: str = "t", **words: Any) -> CSVReader:
    return CSVReader(CSVSource("s", path, event_time=event_time, **words), root)


def rows_of(there: CSVReader, chunk_rows: int = MANY) -> pl.DataFrame:
    return read(there, pin(there, None, 4_000_000_000_000_000, chunk_rows).chunks)


def test_types_are_inferred_unless_they_are_told(tmp_path: Path) -> None:
    write(
        tmp_path / "x.csv",
        "t,whole,real,flag,text,day,at,zip,price\n"
        "2013-01-01 12:00:00,1,1.5,true,a,2013-01-01,2013-01-01T00:00:00Z,00501,1.20\n"
        "2013-01-01 12:00:00,,,,,,,,\n",
    )
    there = reader(tmp_path, columns={"zip": str, "price": Decimal})
    rows = rows_of(there)
    assert rows.schema == {
        "t": INSTANT, "whole": pl.Int64, "real": pl.Float64, "flag": pl.Boolean, "text": pl.String, "day": pl.Date, "at": INSTANT,
        "zip": pl.String, "price": pl.Decimal(38, 9),
    }  # fmt: skip
    assert rows.row(0)[1:] == (1, 1.5, True, "a", date(2013, 1, 1), datetime(2013, 1, 1, tzinfo=UTC), "00501", Decimal("1.2"))
    assert rows.row(1)[1:] == (None,) * 8


def test_separator_and_null_values(tmp_path: Path) -> None:
    write(tmp_path / "x.csv", "t;v\n2013-01-01;1\nNA;2\n2013-01-02;-\n")
    rows = rows_of(reader(tmp_path, separator=";", null_values=("NA", "-")))
    assert sorted(rows["v"].to_list(), key=str) == [1, 2, None]
    assert rows.filter(v=2)["t"].to_list() == [None]


def test_quoted_line_ends_blank_lines_and_a_byte_order_mark(tmp_path: Path) -> None:
    text = '\ufefft,v,w\r\n2013-01-01,"a\r\n\r\nb, ""c""",1\r\n\r\n2013-01-02,"x""\n",2\r\n2013-01-03,y,3\r\n\r\n\r\n'
    write(tmp_path / "x.csv", text)
    for chunk_rows in (1, 2, MANY):
        rows = rows_of(reader(tmp_path), chunk_rows)
        assert rows["v"].to_list() == ['a\r\n\r\nb, "c"', 'x"\n', "y"]
        assert rows["w"].to_list() == [1, 2, 3]
        assert rows["t"].null_count() == 0


@settings(max_examples=examples(40), deadline=None)
@given(
    texts=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\0\ufeff"), max_size=6), min_size=1, max_size=12),
    chunk_rows=st.integers(1, 5),
)
def test_any_text_survives_the_cutting(tmp_path_factory: pytest.TempPathFactory, texts: list[str], chunk_rows: int) -> None:
    path = tmp_path_factory.getbasetemp() / "any_text.csv"
    pl.DataFrame({"t": ["2013-01-01"] * len(texts), "v": texts}).write_csv(path)
    rows = rows_of(reader(path.parent, path.name, columns={"v": str}), chunk_rows)
    assert rows["v"].to_list() == texts


def test_gzipped_files_and_folders(tmp_path: Path) -> None:
    write(tmp_path / "data/b.csv.gz", gzip.compress(b"t,v\n2013-01-03,3\n2013-01-04,4\n"))
    write(tmp_path / "data/a.csv", "t,v\n2013-01-01,1\n2013-01-02,2\n")
    write(tmp_path / "data/_c.csv", "t,v\n2013-01-01,9\n")
    assert rows_of(reader(tmp_path, "data"), 1)["v"].to_list() == [1, 2, 3, 4]
    write(tmp_path / "data/b.csv.gz", gzip.compress(b"t,v\n2013-01-03,3\n2013-01-04,4\n")[:-12])
    with pytest.raises(SourceError, match=r"b\.csv\.gz could not be read"):
        rows_of(reader(tmp_path, "data"))


def test_s1_times_of_every_form(tmp_path: Path) -> None:
    forms = {
        "2013-01-01T12:00:00Z": 0,
        "2013-01-01 12:00:00": 0,
        "2013-01-01T14:00:00+02:00": 0,
        "2013-01-01 12:00:00 UTC": 0,
        "2013-01-01T17:30+0530": 0,
        "2013-01-01T12:00": 0,
        "2013-01-01 12:00:00.5": 500_000,
        "2013-01-01 12:00:00.000001999": 1,
        "2013-01-01": -43_200_000_000,
        "1969-12-31T23:59:59.9999999": -1 - NOON,
        " 2013-01-01T12:00:00Z ": 0,
        "noon": None,
        "": None,
    }
    write(tmp_path / "x.csv", "t,v\n" + "".join(f"{form},1\n" for form in forms))
    expected = [None if each is None else each + NOON for each in forms.values()]
    assert rows_of(reader(tmp_path))["t"].to_physical().to_list() == expected
    assert parse_times(pl.Series(list(forms))).to_physical().to_list() == expected


def test_s19_a_text_that_is_no_time_is_a_null_one(tmp_path: Path) -> None:
    write(tmp_path / "x.csv", "t,v\n2013-01-01,1\nyesterday,2\n")
    assert rows_of(reader(tmp_path)).filter(pl.col("t").is_null())["v"].to_list() == [2]


@pytest.mark.parametrize("text", ["01/02/2013", "1356998400", "noon"])
def test_a_time_column_without_a_time_is_named(tmp_path: Path, text: str) -> None:
    write(tmp_path / "x.csv", f"t,v\n{text},1\n")
    with pytest.raises(SourceError, match=rf"time column 't' of .*x\.csv holds '{text}', which is not a time.*ISO 8601"):
        reader(tmp_path).schema()


def test_a_date_in_columns_tells_the_time(tmp_path: Path) -> None:
    write(tmp_path / "x.csv", "t,v\n2013-01-01,1\n")
    for dtype in (date, datetime, pl.Datetime("ns"), str):
        assert rows_of(reader(tmp_path, columns={"t": dtype}))["t"].to_list() == [datetime(2013, 1, 1, tzinfo=UTC)]
    with pytest.raises(SourceError, match="not a time"):
        reader(tmp_path, columns={"t": int}).schema()


def test_s19_a_value_of_another_type_is_null_and_its_text_kept(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "t,v,d\n2013-01-01,1,2013-01-01\n")
    write(tmp_path / "b.csv", "t,v,d\n2013-01-01,1.5,soon\nlater,2,2013-01-02\n2013-01-01,3,2013-01-03\n")
    there = reader(tmp_path, "*.csv")
    rows = pl.concat([there.read(chunk, texts=True) for chunk in pin(there, None, 4_000_000_000_000_000).chunks])
    assert rows["v"].to_list() == [1, None, 2, 3]
    assert rows[UNREAD].to_list() == [None, {"v": "1.5", "d": "soon", "t": None}, {"v": None, "d": None, "t": "later"}, None]
    assert rows_of(reader(tmp_path, "*.csv", columns={"v": float}))["v"].to_list() == [1, 1.5, 2, 3]
    with pytest.raises(SourceError, match=r"columns= names the column 'dd'.*Did you mean 'd'"):
        reader(tmp_path, "*.csv", columns={"dd": str}).schema()


def test_s19_bytes_that_are_no_text_are_a_null_and_kept_as_far_as_they_can_be_read(tmp_path: Path) -> None:
    """One such byte, Latin-1 say, stopped all rows of its source."""
    head, private = b"t,v,n\n2013-01-01,1,caf\xc3\xa9\n", "\ue000 \ufffd".encode()
    write(tmp_path / "x.csv", head + b"2013-01-01,2,caf\xe9\n2013-01-01,\xff3,x\n\xff,4,y\n2013-01-01,5," + private + b"\n")
    there = reader(tmp_path, columns={"v": float})
    [chunk] = pin(there, None, 4_000_000_000_000_000).chunks
    rows = there.read(chunk, texts=True)
    assert rows.select("v", "n").rows() == [(1, "café"), (2, None), (None, "x"), (4, "y"), (5, "\ue000 \ufffd")]
    assert rows["t"].null_count() == 1
    told = [{name: text for name, text in (each or {}).items() if text is not None} for each in rows[UNREAD].to_list()]
    assert told == [{}, {"n": "caf\ufffd"}, {"v": "\ufffd3"}, {"t": "\ufffd"}, {}]
    assert there.schema() == {"t": INSTANT, "v": pl.Float64, "n": pl.String}
    assert there.sample(9).height == 4


def test_s22_digits_that_no_float_holds_are_no_infinity(tmp_path: Path) -> None:
    for dtype, large in ((float, "1e400"), (pl.Float32, "1e39")):
        write(tmp_path / "x.csv", f"t,v\n2013-01-01,{large}\n2013-01-01,-inf\n2013-01-01,1\n2013-01-01,\n")
        there = reader(tmp_path, columns={"v": dtype})
        [chunk] = pin(there, None, 4_000_000_000_000_000).chunks
        rows = there.read(chunk, texts=True)
        assert rows["v"].to_list() == [None, float("-inf"), 1, None]
        assert rows[UNREAD].to_list() == [{"v": large}, None, None, None]


def test_columns_are_found_by_name(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "t,v,w\n2013-01-01,1,2\n")
    write(tmp_path / "b.csv", "more,w,v,t\n9,4,3,2013-01-01\n")
    assert rows_of(reader(tmp_path, "*.csv")).select("v", "w").rows() == [(1, 2), (3, 4)]
    write(tmp_path / "b.csv", "t,v\n2013-01-01,1\n")
    with pytest.raises(SourceError, match=r"b\.csv has no column 'w'"):
        rows_of(reader(tmp_path, "*.csv"))


def test_empty_files_have_no_rows(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "")
    with pytest.raises(SourceError, match=r"a\.csv is empty"):
        reader(tmp_path, "*.csv").schema()
    write(tmp_path / "b.csv", "t,v")
    assert reader(tmp_path, "*.csv").schema() == {"t": INSTANT, "v": pl.String}
    write(tmp_path / "c.csv", "t,v\n2013-01-01,1\n")
    assert rows_of(reader(tmp_path, "*.csv")).rows() == [(datetime(2013, 1, 1, tzinfo=UTC), 1)]


def test_too_many_fields_are_an_error(tmp_path: Path) -> None:
    write(tmp_path / "x.csv", "t,v\n2013-01-01,1\n2013-01-01,1,2,3\n")
    with pytest.raises(
        SourceError,
        match=r"x\.csv could not be read: found more fields.*Each record must have at most as many fields as the header",
    ):
        rows_of(reader(tmp_path))


def test_s17_rows_appended_under_a_run_are_left_to_the_next(tmp_path: Path) -> None:
    place = CSVLog(tmp_path)
    path = write(tmp_path / "log.csv", f"id,{EVENT},received_at,k,x\n1,2013-01-01,2013-01-01,a,1\n")
    there = place.reader(**TIMES)
    span = there.span(None, None, from_micros(NOON), MANY)
    with path.open("a") as log:
        log.write("2,2013-01-01,2013-01-01T12:00:00,a,1\n")
    assert there.read(span.chunks[0])["id"].to_list() == [1]
    assert run(place.reader(**TIMES), span.cursor, NOON + 5)[0] == [1, 2]
    path.write_text(path.read_text().replace("1,2013", "3,2013"))
    with pytest.raises(SourceError, match=r"log\.csv was rewritten.*Start the run again"):
        there.read(span.chunks[0])
    path.unlink()
    with pytest.raises(SourceError, match=r"log\.csv could not be read"):
        there.read(span.chunks[0])
