"""S18 in object storage: a cursor that does not name every object for ever loses and doubles nothing within its span.

``SOURCE_EXAMPLES=10000`` tries that many stories.
"""

import os
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from featurestore.clock import from_micros
from featurestore.definitions.source import CSVSource
from featurestore.sources.base import Cursor, Span
from featurestore.sources.csv import CSVReader
from featurestore.sources.file_cursor import SPAN
from featurestore.testing.sources import MANY, TIMES, Row, frame, saved
from tests.sources.bucket import SECOND, Bucket
from tests.sources.places import csv_format

EXAMPLES = int(os.environ.get("SOURCE_EXAMPLES", "60"))
BASE = int(datetime(2026, 1, 5, tzinfo=UTC).timestamp()) * SECOND
HOUR = 3_600 * SECOND
DAY = 24 * HOUR

Step = tuple[str, int, int]
"""What happens, a choice, and how long after what was before."""


class Story:
    """Follows what happens to a bucket, and knows which row each run has to read how often.

    Attributes:
        bucket: the bucket.
        now: the present.
        seen: how often each row was read.
        wanted: how often it had to be: once for each content of an object with it that a run could see.
        notices: what the runs said.
    """

    def __init__(self, bucket: Bucket, **words: Any) -> None:
        self.bucket = bucket
        self.words = words
        self.now = BASE
        self.cursor: Cursor | None = None
        self.rows: dict[str, list[Row]] = {}
        self.uploads: list[tuple[str, int, list[Row]]] = []
        self.seen: Counter[int] = Counter()
        self.notices: list[str] = []
        self._number = 0
        self._visible: set[tuple[str, bytes, int]] = set()

    @property
    def wanted(self) -> Counter[int]:
        return Counter(row for _, _, row in self._visible)

    def follow(self, story: list[Step]) -> None:
        for what, choice, after in story:
            self.now += after
            key = f"data/{choice % 4}.csv"
            if what == "put":
                self.put(key, self.new_rows(choice), self.now)
            elif what == "replace":
                self.put(key, [*self.rows.get(key, []), *self.new_rows(choice)], self.now)
            elif what == "ahead":  # by a clock of the store that is wrong for once
                self.put(f"data/ahead_{choice}.csv", self.new_rows(choice), self.now + 400 * DAY)
            elif what == "begin":
                self.uploads.append((f"data/large_{choice}.csv", self.now, self.new_rows(choice)))
            elif what == "finish":
                self.finish(choice)
            elif what == "delete":
                self.bucket.delete([key])
                self.rows.pop(key, None)
            elif what == "run":
                self.run()

    def finish(self, choice: int = 0) -> None:
        if self.uploads:
            key, begun, rows = self.uploads.pop(choice % len(self.uploads))
            if self.now - begun <= SPAN:  # what takes longer is not promised
                self.put(key, rows, begun)

    def new_rows(self, choice: int) -> list[Row]:
        rows = []
        for _ in range(choice % 3 + 1):
            late = (choice % 7 // 5) * 4 * DAY  # it can be known so much later
            rows.append((self._number, self.now - DAY, self.now + late))
            self._number += 1
        return rows

    def put(self, key: str, rows: list[Row], micros: int) -> None:
        self.rows[key] = rows
        table = frame(rows)
        self.bucket.put(key, table.write_csv(datetime_format=csv_format(table)).encode(), micros)

    def reader(self) -> CSVReader:
        source = CSVSource("s", f"{self.bucket.url}/data/*.csv", columns={"k": str, "x": float}, **TIMES, **self.words)
        return CSVReader(source, Path(), lambda: from_micros(self.now))

    def run(self) -> Span | None:
        if not self.rows and self.cursor is None:
            return None
        span = self.reader().span(saved(self.cursor), None, from_micros(self.now), MANY)
        for chunk in span.chunks:
            self.seen.update(self.reader().read(saved(dict(chunk)))["id"].to_list())
        for key, rows in self.rows.items():
            content = self.bucket.objects[key][0]
            self._visible |= {(key, content, number) for number, _, received in rows if received <= self.now}
        if span.chunks or span.keep:
            self.cursor = dict(span.cursor)
        self.notices += span.notices
        return span

    def check_names(self) -> None:
        """The cursor names no object but those of the span, and those with rows for a later run."""
        if self.cursor is None:
            return
        _, before, unnamed, aside = self.cursor["seen"]
        assert not aside
        for name, (_, rest, _, _, _) in self.cursor["files"].items():
            _, second = self.bucket.objects.get(name.removeprefix(f"{self.bucket.url}/"), (b"", None))
            assert rest is not None or second is None or second * SECOND >= before
        assert unnamed + len(self.cursor["files"]) >= 0


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    return in_memory(monkeypatch)


def in_memory(patch: pytest.MonkeyPatch) -> Bucket:
    bucket = Bucket("s3://lake")
    patch.setattr("featurestore.object_listing.open_folder", lambda url, options: bucket)
    return bucket


STEPS = st.tuples(
    st.sampled_from(["put", "replace", "replace", "begin", "finish", "ahead", "delete", "run", "run", "run"]),
    st.integers(0, 29),
    st.sampled_from([0, 1, 400_000, SECOND, HOUR, DAY // 2, DAY - SECOND, DAY, 3 * DAY]),
)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(story=st.lists(STEPS, min_size=2, max_size=14))
@example(story=[("put", 1, 0), ("begin", 1, HOUR), ("put", 2, DAY - SECOND), ("run", 0, 0), ("finish", 0, 0), ("run", 0, 0)])
@example(story=[("begin", 0, 400_000), ("put", 1, DAY), ("run", 0, 0), ("finish", 0, 0), ("run", 0, 0)])
@example(story=[("ahead", 1, 0), ("run", 0, 0), ("put", 1, DAY), ("run", 0, 0)])
@example(story=[("put", 6, 0), ("run", 0, 0), ("put", 1, 3 * DAY), ("run", 0, 0), ("run", 0, 0)])
def test_s18_every_row_that_a_run_could_see_is_read_once(story: list[Step]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        follower = Story(in_memory(patch))
        follower.follow(story)
        follower.run()
        follower.now += 5 * DAY
        follower.run()
        assert follower.seen == follower.wanted
        assert not [notice for notice in follower.notices if "more objects" in notice]
        follower.check_names()


def test_the_cursor_stays_small_and_the_objects_of_before_are_not_read(bucket: Bucket) -> None:
    story = Story(bucket)
    for number in range(500):
        story.put(f"data/{number}.csv", story.new_rows(0), BASE - 300 * DAY + number * HOUR // 2)
    story.run()
    assert story.cursor is not None
    assert len(story.cursor["files"]) == 49  # of the last day, of ten days
    assert story.cursor["seen"][2] == 451
    story.put("data/500.csv", story.new_rows(0), BASE)
    bucket.reads.clear()
    story.run()
    assert set(bucket.reads) == {"data/0.csv", "data/500.csv"}  # the first tells the columns
    assert len(story.cursor["files"]) == 1
    assert story.seen == story.wanted


def test_an_object_that_appears_too_late_is_noticed_once_and_read_with_a_start(bucket: Bucket) -> None:
    story = Story(bucket)
    story.put("data/1.csv", story.new_rows(0), BASE)
    story.put("data/2.csv", story.new_rows(0), BASE + 3 * DAY)
    story.now = BASE + 3 * DAY
    story.run()
    story.put("data/3.csv", [(7, BASE, BASE + 3 * DAY)], BASE)
    span = story.run()
    assert span is not None
    [notice] = span.notices
    assert "1 more objects than before" in notice
    assert "lateness=" in notice
    story.run()
    assert len(story.notices) == 1
    assert 7 not in story.seen
    again = story.reader().span(saved(story.cursor), from_micros(BASE + 3 * DAY), from_micros(story.now), MANY)
    assert 7 in {row for chunk in again.chunks for row in story.reader().read(saved(dict(chunk)))["id"]}
    assert again.cursor == story.cursor
    patient = Story(bucket, lateness="4d")
    patient.rows, patient.now = story.rows, story.now
    patient.run()
    patient.put("data/4.csv", [(8, BASE, BASE)], BASE)
    patient.run()
    assert patient.seen == patient.wanted


def test_a_cursor_that_names_every_object_goes_on(bucket: Bucket) -> None:
    story = Story(bucket)
    story.put("data/1.csv", story.new_rows(0), BASE)
    story.put("data/2.csv", story.new_rows(0), BASE + 9 * DAY)
    story.now = BASE + 9 * DAY
    story.run()
    files = Story(bucket, lateness="30d")
    files.rows, files.now = story.rows, story.now
    files.run()
    assert files.cursor is not None
    assert story.cursor is not None
    assert (len(files.cursor["files"]), len(story.cursor["files"])) == (2, 1)
    del files.cursor["seen"]
    files.words = {}
    files.put("data/3.csv", files.new_rows(0), BASE)
    files.put("data/4.csv", [(9, BASE, BASE)], files.now)
    span = files.run()
    assert span is not None
    assert span.rows == 2
    assert sorted(span.cursor["files"]) == ["s3://lake/data/2.csv", "s3://lake/data/4.csv"]


def test_another_address_begins_with_nothing_read(bucket: Bucket) -> None:
    story = Story(bucket)
    story.put("data/1.csv", story.new_rows(0), BASE)
    story.put("data/2.csv", story.new_rows(0), BASE + 9 * DAY)
    story.now = BASE + 9 * DAY
    story.run()
    bucket.put("more/3.csv", bucket.objects["data/1.csv"][0].replace(b"\n0,", b"\n77,"), BASE)
    source = CSVSource("s", "s3://lake/**/*.csv", columns={"k": str, "x": float}, **TIMES)
    span = CSVReader(source, Path()).span(saved(story.cursor), None, from_micros(story.now), MANY)
    rows = [row for chunk in span.chunks for row in CSVReader(source, Path()).read(saved(dict(chunk)))["id"]]
    assert 77 in rows


def test_an_object_that_was_set_aside_is_read_however_old_it_is(bucket: Bucket) -> None:
    story = Story(bucket, on_bad_file="set_aside")
    bucket.put("data/1.csv", b"\x1f\x8b and no more", BASE)
    story.put("data/2.csv", story.new_rows(0), BASE + 9 * DAY)
    story.now = BASE + 9 * DAY
    span = story.run()
    assert span is not None
    assert "data/1.csv is set aside" in span.notices[0]
    story.put("data/1.csv", [(7, BASE, BASE)], BASE)
    story.run()
    assert story.seen == story.wanted
    assert story.seen[7] == 1
