"""The contract of source readers: every adapter's tests subclass it."""

import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore.clock import from_micros, to_micros
from featurestore.errors import SourceError
from featurestore.sources.base import Chunk, Cursor, SourceReader, Span
from featurestore.testing.examples import examples

NAIVE = pl.Datetime("us")
INSTANT = pl.Datetime("us", "UTC")
ALL_TIMES: tuple[pl.DataType, ...] = (
    *(pl.Datetime(unit, zone) for unit in ("ms", "us", "ns") for zone in (None, "UTC", "America/New_York")),
    pl.Date(),
)


class Place(ABC):
    """Where the rows of a source are that a test writes: one subclass a kind of place that the reader can read.

    Args:
        root: the project's folder.

    Attributes:
        times: the dtypes that a time column may have there.
        far_times: whether a time column can hold times outside the years 1 to 9999.
        missing_hint: what the error for a source that is not there says to check.
    """

    times: tuple[pl.DataType, ...] = ALL_TIMES
    far_times = True
    missing_hint = "path="

    def __init__(self, root: Path) -> None:
        self.root = root

    @abstractmethod
    def write(self, rows: pl.DataFrame) -> None:
        """Add rows; the first write makes the place."""

    @abstractmethod
    def reader(self, **words: Any) -> SourceReader:
        """Open a fresh reader, its definition with these words beside the place's own."""


EVENT, AVAILABLE = "observed_at", "received_at"
TIMES = {"event_time": EVENT, "available_time": AVAILABLE}
BASES = (0, 1_356_998_400_000_000)
MANY = 1_000
_NUMBERS = itertools.count()

Row = tuple[int, int | None, int | None]
"""A row's number, its event time and its available time."""


def frame(rows: Iterable[Row], dtype: pl.DataType = NAIVE) -> pl.DataFrame:
    """Return rows as a source has them, with times of a dtype."""
    schema = {"id": pl.Int64, EVENT: pl.Int64, AVAILABLE: pl.Int64}
    times = pl.col(EVENT, AVAILABLE).cast(NAIVE)
    return pl.DataFrame(list(rows), schema=schema, orient="row").select(
        "id", times.cast(dtype), k=pl.lit("JFK"), x=pl.col("id").cast(pl.Float64) / 2
    )


def new_folder(factory: pytest.TempPathFactory) -> Path:
    """Return an empty folder."""
    # NOTE: not a mktemp each, which looks through all there are.
    folder = factory.getbasetemp() / "projects" / str(next(_NUMBERS))
    folder.mkdir(parents=True)
    return folder


def saved(value: Any) -> Any:
    """What the ledger gives back of a chunk or a cursor."""
    return json.loads(json.dumps(value))


def read(reader: SourceReader, chunks: Iterable[Chunk]) -> pl.DataFrame:
    """Return the rows of chunks, as the ledger keeps these."""
    return pl.concat([reader.schema().to_frame(eager=True), *(reader.read(saved(dict(chunk))) for chunk in chunks)])


def run(
    reader: SourceReader, cursor: Cursor | None, end: int, chunk_rows: int = MANY, start: int | None = None
) -> tuple[list[int], Cursor]:
    """Return the numbers of the rows that a run reads, and its cursor."""
    span = pin(reader, cursor, end, chunk_rows, start)
    return sorted(read(reader, span.chunks)["id"]), span.cursor


def pin(reader: SourceReader, cursor: Cursor | None, end: int, chunk_rows: int = MANY, start: int | None = None) -> Span:
    """Return a span, and check what every span promises."""
    since = None if start is None else from_micros(start)
    span = reader.span(None if cursor is None else saved(dict(cursor)), since, from_micros(end), chunk_rows)
    rows = read(reader, span.chunks)
    assert span.rows is None or span.rows >= rows.height
    assert rows.schema == reader.schema()
    return span


def wanted(rows: Iterable[Row], end: int, *, available: bool = True) -> set[int]:
    """The oracle of S18: what a source has by an instant, and rows without a time."""
    numbers = set()
    for number, event, received in rows:
        times = (event, received) if available else (event,)
        if None in times or max(instant for instant in times if instant is not None) <= end:
            numbers.add(number)
    return numbers


@st.composite
def stories(draw: st.DrawFn, *, available: bool) -> list[tuple[list[Row], int]]:
    """Return writes and runs in turn: the rows that came, and the end of the run then.

    A row that comes after a run becomes available at its end or later; its event may be much older (S18).
    """
    end = draw(st.sampled_from(BASES))
    story, number = [], 0
    for _ in range(draw(st.integers(1, 3))):
        rows: list[Row] = []
        for _ in range(draw(st.integers(0, 7))):
            event = draw(st.none() | st.integers(-9, 9)) if draw(st.integers(0, 9)) == 0 else draw(st.integers(-9, 9))
            received = draw(st.none() | st.integers(0, 9)) if draw(st.integers(0, 9)) == 0 else draw(st.integers(0, 9))
            # Without an available time a row that comes late is one that the declared lateness admits.
            base = end if available or event is None or event >= -5 else end + 9
            rows.append((number, None if event is None else base + event, None if received is None else end + received))
            number += 1
        end += draw(st.integers(0, 9))
        story.append((rows, end))
    return story


class SourceReaderContract:
    """What every source reader does."""

    kind: type[Place]

    @pytest.fixture(scope="class")
    @classmethod
    def new_place(cls, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Place]:
        return lambda: cls.kind(new_folder(tmp_path_factory))

    @pytest.fixture
    def place(self, new_place: Callable[[], Place]) -> Place:
        return new_place()

    @settings(max_examples=examples(12), deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    @given(story=stories(available=True), chunk_rows=st.sampled_from([2, 5, MANY]))
    def test_s18_runs_read_all_that_is_available(
        self, new_place: Callable[[], Place], story: list[tuple[list[Row], int]], chunk_rows: int
    ) -> None:
        self.follow(new_place(), story, chunk_rows, available=True)

    @settings(max_examples=examples(6), deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    @given(story=stories(available=False), chunk_rows=st.sampled_from([2, 5, MANY]))
    def test_s18_runs_read_all_that_is_true_without_an_available_time(
        self, new_place: Callable[[], Place], story: list[tuple[list[Row], int]], chunk_rows: int
    ) -> None:
        self.follow(new_place(), story, chunk_rows, available=False)

    def follow(self, place: Place, story: list[tuple[list[Row], int]], chunk_rows: int, *, available: bool) -> None:
        words = TIMES if available else {"event_time": EVENT, "lateness": "5us"}
        place.write(frame([(-1, story[0][1] - 99, story[0][1] - 99)]))
        written: list[Row] = [(-1, story[0][1] - 99, story[0][1] - 99)]
        seen: set[int] = set()
        cursor: Cursor | None = None
        for rows, end in story:
            if rows:
                place.write(frame(rows))
                written += rows
            span = place.reader(**words).span(saved(cursor), None, from_micros(end), chunk_rows)
            other = place.reader(**words)
            ids = {number for chunk in span.chunks for number in other.read(saved(chunk))["id"]}
            assert ids <= wanted(written, end, available=available)
            seen |= ids
            assert seen == wanted(written, end, available=available)
            cursor = dict(span.cursor)

    def test_s18_a_late_row_is_read(self, place: Place) -> None:
        place.write(frame([(1, 100, 100), (2, 200, 200)]))
        ids, cursor = run(place.reader(**TIMES), None, 300)
        assert ids == [1, 2]
        place.write(frame([(3, 50, 350)]))
        ids, _ = run(place.reader(**TIMES), cursor, 400)
        assert 3 in ids

    def test_s18_a_row_at_the_cursors_instant_is_read(self, place: Place) -> None:
        place.write(frame([(1, 100, 100)]))
        _, cursor = run(place.reader(**TIMES), None, 300)
        place.write(frame([(2, 300, 300), (3, 10, 300)]))
        ids, _ = run(place.reader(**TIMES), cursor, 300)
        assert {2, 3} <= set(ids)

    def test_s18_rows_of_the_future_are_read_when_they_become_available(self, place: Place) -> None:
        place.write(frame([(1, 100, 100), (2, 100, 900), (3, 900, 100), (4, 2_000, 2_000)]))
        ids, cursor = run(place.reader(**TIMES), None, 899)
        assert ids == [1]
        ids, cursor = run(place.reader(**TIMES), cursor, 900)
        assert {2, 3} <= set(ids)
        assert 4 not in ids
        ids, cursor = run(place.reader(**TIMES), cursor, 1_999)
        assert 4 not in ids
        ids, _ = run(place.reader(**TIMES), cursor, 2_000)
        assert 4 in ids

    def test_s19_rows_without_a_time_are_read(self, place: Place) -> None:
        place.write(frame([(1, None, 100), (2, 100, None), (3, None, None), (4, 100, 100)]))
        ids, cursor = run(place.reader(**TIMES), None, 100)
        assert ids == [1, 2, 3, 4]
        place.write(frame([(5, None, 100)]))
        ids, _ = run(place.reader(**TIMES), cursor, 200)
        assert 5 in ids

    def test_s2_the_effective_time_is_the_later_one(self, place: Place) -> None:
        place.write(frame([(1, 100, 500), (2, 500, 100), (3, 100, 501), (4, 501, 100)]))
        assert run(place.reader(**TIMES), None, 500)[0] == [1, 2]

    def test_s17_a_pinned_chunk_is_read_again_the_same(self, place: Place) -> None:
        place.write(frame([(number, number, number) for number in range(40)]))
        span = pin(place.reader(**TIMES), None, 30, chunk_rows=7)
        assert len(span.chunks) >= 5
        first = [place.reader(**TIMES).read(saved(dict(chunk))) for chunk in span.chunks]
        again = [place.reader(**TIMES).read(saved(dict(chunk))) for chunk in span.chunks]
        for one, other in zip(first, again, strict=True):
            assert one.sort("id").equals(other.sort("id"))
            assert one.height <= 7

    @pytest.mark.parametrize("ahead", [300, 86_400_000_000])
    def test_s18_a_run_of_a_clock_that_is_ahead_costs_no_rows(self, place: Place, ahead: int) -> None:
        words = {**TIMES, "lateness": "1us"}
        place.write(frame([(1, 100, 100)]))
        _, cursor = run(place.reader(**words), None, ahead)
        place.write(frame([(2, 150, 150), (3, 50, 120), (4, 50, 201)]))
        span = pin(place.reader(**words), cursor, 200)
        ids = set(read(place.reader(**words), span.chunks)["id"])
        assert {2, 3} <= ids <= {1, 2, 3}
        assert 4 in run(place.reader(**words), span.cursor, 201)[0]

    def test_s18_a_run_behind_what_was_read_says_so(self, place: Place) -> None:
        place.write(frame([(1, 100, 100), (2, 900, 900)]))
        _, cursor = run(place.reader(**TIMES), None, 1_000)
        assert not place.reader(**TIMES).span(saved(dict(cursor)), None, from_micros(1_001), MANY).notices
        [notice] = place.reader(**TIMES).span(saved(dict(cursor)), None, from_micros(500), MANY).notices
        assert "a clock is wrong" in notice

    def test_s18_a_row_available_before_those_read_is_found(self, place: Place) -> None:
        """As of a transaction that commits late, or a writer whose clock is behind."""
        place.write(frame([(1, 100, 100), (2, 3_000_000_000, 3_000_000_000)]))
        _, cursor = run(place.reader(**TIMES), None, 3_000_000_010)
        place.write(frame([(3, 7, 5), (4, 1_000, 1_000)]))
        ids, cursor = run(place.reader(**TIMES), cursor, 3_000_000_020)
        assert {3, 4} <= set(ids)

    @pytest.mark.parametrize("column", [EVENT, AVAILABLE])
    def test_s19_rows_outside_the_calendar_are_read_to_be_rejected(self, place: Place, column: str) -> None:
        if not place.far_times:
            pytest.skip("no time there is outside the calendar")
        far = pl.Series([2**63 - 1, 253_402_300_800_000_000, 5, -62_135_596_800_000_001]).cast(NAIVE)
        place.write(frame([(1, 5, 5), (2, 5, 5), (3, 5, 5), (4, 5, 5)]).with_columns(far.alias(column)))
        ids, cursor = run(place.reader(**TIMES), None, 10, chunk_rows=2)
        assert ids == [1, 2, 3, 4]
        place.write(frame([(5, 6, 6)]).with_columns(far[:1].alias(column)))
        assert 5 in run(place.reader(**TIMES), cursor, 20)[0]

    @pytest.mark.parametrize("cursor_at", [None, 900])
    def test_a_start_reads_a_stretch_and_leaves_the_cursor(self, place: Place, cursor_at: int | None) -> None:
        place.write(frame([(number, number * 100, number * 100) for number in range(10)]))
        cursor = None if cursor_at is None else run(place.reader(**TIMES), None, cursor_at)[1]
        ids, after = run(place.reader(**TIMES), cursor, 500, start=200)
        assert ids == [2, 3, 4, 5]
        assert saved(dict(after)) == saved(dict(cursor or {}))
        everything, _ = run(place.reader(**TIMES), after, 900)
        assert cursor_at is not None or everything == list(range(10))

    def test_s1_times_are_utc_microseconds(self, place: Place, new_place: Callable[[], Place]) -> None:
        instants = [datetime(2013, 3, 10, 7, 30, 0, 1_000, UTC), datetime(1969, 12, 31, 23, 59, 59, 999_000, UTC), None]
        for dtype in place.times:
            there = new_place()
            expected = [
                None if instant is None else datetime.combine(instant.date(), datetime.min.time(), UTC) for instant in instants
            ]
            given_times = pl.Series(instants, dtype=INSTANT)
            if isinstance(dtype, pl.Date):
                column = given_times.dt.date()
            else:
                expected = list(instants)
                zoned = getattr(dtype, "time_zone", None) is not None
                naive = given_times if zoned else given_times.dt.replace_time_zone(None)
                column = naive.cast(dtype)
            there.write(pl.DataFrame({"id": [0, 1, 2], EVENT: column, AVAILABLE: column, "k": ["a"] * 3, "x": [0.5] * 3}))
            reader = there.reader(**TIMES)
            rows = read(reader, pin(reader, None, 2_000_000_000_000_000).chunks).sort("id")
            assert rows.schema[EVENT] == rows.schema[AVAILABLE] == INSTANT, dtype
            assert rows[EVENT].to_list() == rows[AVAILABLE].to_list() == expected, dtype

    def test_s1_finer_precision_is_floored(self, place: Place) -> None:
        if not any(isinstance(dtype, pl.Datetime) and dtype.time_unit == "ns" for dtype in place.times):
            pytest.skip("it has no nanoseconds")
        nanos = [-1, -999, -1_000, -1_001, 999, 1_000]
        times = pl.Series(nanos).cast(pl.Datetime("ns"))
        place.write(pl.DataFrame({"id": range(6), EVENT: times, AVAILABLE: times, "k": ["a"] * 6, "x": [0.5] * 6}))
        rows = read(place.reader(**TIMES), pin(place.reader(**TIMES), None, 10, chunk_rows=2).chunks).sort("id")
        assert rows[EVENT].to_physical().to_list() == [-1, -1, -1, -2, 0, 1]
        # An end or a start on the floor of a time takes the row in.
        assert run(place.reader(**TIMES), None, -1, chunk_rows=1)[0] == [0, 1, 2, 3]
        assert run(place.reader(**TIMES), None, -2)[0] == [3]
        assert run(place.reader(**TIMES), None, 0, start=-1)[0] == [0, 1, 2, 4]

    def test_columns_are_renamed(self, place: Place) -> None:
        place.write(frame([(1, 100, 100), (2, 200, 200)]))
        words = {"event_time": "at", "available_time": "known_at", "event_id": "event"}
        reader = place.reader(**words, rename={EVENT: "at", AVAILABLE: "known_at", "id": "event", "k": "origin"})
        schema = reader.schema()
        assert {"at", "known_at", "event", "origin", "x"} <= set(schema)
        assert {EVENT, AVAILABLE, "id", "k"}.isdisjoint(schema)
        rows = pl.concat(reader.read(chunk) for chunk in reader.span(None, None, from_micros(150), MANY).chunks)
        assert rows.schema == schema
        assert rows.select("event", "origin").rows() == [(1, "JFK")]

    def test_schema_sample_and_rows_agree(self, place: Place) -> None:
        place.write(frame([(number, number, number) for number in range(20)]))
        schema = place.reader(**TIMES).schema()
        assert list(schema.items())[:3] == [("id", pl.Int64()), (EVENT, INSTANT), (AVAILABLE, INSTANT)]
        for count in (0, 5, 20, 50):
            sample = place.reader(**TIMES).sample(count)
            assert sample.schema == schema
            assert sample.height == min(count, 20)

    def test_no_row_becomes_available_before_the_first(self, place: Place) -> None:
        place.write(frame([(1, 500_000, 900_000), (2, 700_000, 800_000), (3, None, 100_000), (4, 1_200_000, 300_000)]))
        first = place.reader(**TIMES).first()
        assert first is not None
        # A lower bound, by each of the times alone; the log of a Delta table tells milliseconds.
        assert 499_000 <= to_micros(first) <= 800_000

    def test_a_source_may_be_empty(self, place: Place) -> None:
        place.write(frame([]))
        span = pin(place.reader(**TIMES), None, 100)
        assert read(place.reader(**TIMES), span.chunks).height == 0
        assert place.reader(**TIMES).sample(5).height == 0
        assert place.reader(**TIMES).first() is None

    def test_a_source_that_is_not_there_is_named(self, place: Place) -> None:
        reader = place.reader(**TIMES)
        for ask in (reader.schema, lambda: reader.sample(1), lambda: reader.span(None, None, from_micros(1), MANY)):
            with pytest.raises(SourceError, match=r"'s'") as caught:
                ask()
            assert place.missing_hint in str(caught.value)

    def test_a_column_that_is_not_there_is_named(self, place: Place) -> None:
        place.write(frame([(1, 100, 100)]))
        for words in (
            {"event_time": "observed"},
            {"event_time": EVENT, "available_time": "recieved_at"},
            {"event_time": EVENT, "event_id": "idd"},
            {"event_time": EVENT, "rename": {"observed": "at"}},
        ):
            with pytest.raises(
                SourceError, match=r"'s'.*(event_time|available_time|event_id|rename)=.*(Did you mean|There is).*observed_at"
            ):
                place.reader(**words).schema()
        with pytest.raises(SourceError, match="two columns named 'x'"):
            place.reader(**TIMES, rename={"k": "x"}).schema()

    def test_a_time_column_that_is_no_time_is_named(self, place: Place) -> None:
        place.write(frame([(1, 100, 100)]))
        with pytest.raises(SourceError, match=r"'s'.*time.*'k'.*not a time"):
            place.reader(event_time="k").schema()

    def test_dates_are_their_midnight(self, place: Place) -> None:
        days = pl.Series([date(2013, 1, 1), date(2013, 1, 2)])
        place.write(pl.DataFrame({"id": [1, 2], EVENT: days, AVAILABLE: days, "k": ["a", "b"], "x": [0.5, 1.5]}))
        midnight = BASES[1] + 86_400_000_000
        assert run(place.reader(**TIMES), None, midnight - 1)[0] == [1]
        assert run(place.reader(**TIMES), None, midnight)[0] == [1, 2]
