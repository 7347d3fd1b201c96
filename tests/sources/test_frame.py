"""The reader of rows in memory."""

from pathlib import Path

import polars as pl
import pytest

from featurestore.clock import from_micros
from featurestore.definitions.serialization import from_json, to_json
from featurestore.definitions.source import FrameSource
from featurestore.errors import SourceError
from featurestore.sources.frame import FrameReader
from featurestore.testing.sources import MANY, TIMES, SourceReaderContract, frame, run
from tests.sources.places import Frame


class TestFrame(SourceReaderContract):
    kind = Frame


def test_every_run_reads_all_rows(tmp_path: Path) -> None:
    place = Frame(tmp_path)
    place.write(frame([(1, 100, 100), (2, 300, 300)]))
    _, cursor = run(place.reader(**TIMES), None, 200)
    assert cursor == {"through": 200}
    assert run(place.reader(**TIMES), cursor, 300)[0] == [1, 2]


def test_a_frame_stays_in_its_process(tmp_path: Path) -> None:
    source = from_json("source", to_json(FrameSource("s", frame([(1, 100, 100)]), **TIMES)))
    assert isinstance(source, FrameSource)
    there = FrameReader(source, tmp_path)
    for ask in (there.schema, lambda: there.span(None, None, from_micros(1), MANY), lambda: there.read({})):
        with pytest.raises(SourceError, match="lives only in the process that defined it"):
            ask()


def test_a_column_of_nothing_but_nulls_may_tell_the_time(tmp_path: Path) -> None:
    there = FrameReader(FrameSource("s", pl.DataFrame({"id": [1], "t": [None]}), event_time="t"), tmp_path)
    assert run(there, None, 100)[0] == [1]
