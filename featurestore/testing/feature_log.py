"""The contract of feature logs: every adapter's tests subclass it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore.offline.base import FeatureLog
from featurestore.testing.examples import examples

START = datetime(2026, 1, 1, tzinfo=UTC)
INSTANT = pl.Datetime("us", "UTC")


def rows(*given: tuple[int, str | None, float], **more: Any) -> pl.DataFrame:
    """Rows of a service: the hour of the read, a key and a feature; ``more`` are further columns."""
    schema = {"read_at": pl.Int64, "person": pl.String, "temp": pl.Float64}
    frame = pl.DataFrame(list(given), schema=schema, orient="row")
    hours = (pl.col("read_at") * 3_600_000_000 + int(START.timestamp() * 1_000_000)).cast(INSTANT)
    return frame.with_columns(hours.alias("read_at"), **{name: pl.lit(value) for name, value in more.items()})


def at(hour: float) -> datetime:
    """Return the instant of an hour."""
    return START + timedelta(hours=hour)


def people(*names: str | None) -> pl.DataFrame:
    """Return keys to delete."""
    return pl.DataFrame({"person": names}, schema={"person": pl.String})


def kept(log: FeatureLog, service: str = "model", project: str = "p") -> list[tuple[Any, ...]]:
    """What is in the log, in an order."""
    frame = log.read(project, service).collect()
    if not frame.width:
        return []
    return sorted(frame.select("person", "temp").rows(), key=repr)


class FeatureLogContract:
    """What a feature log must do. A subclass gives ``make``, which opens a log in an empty place."""

    @pytest.fixture
    def log(self) -> FeatureLog:
        raise NotImplementedError

    def test_nothing_is_there_at_first(self, log: FeatureLog) -> None:
        assert log.services("p") == []
        assert log.read("p", "model").collect().is_empty()
        assert log.compact("p", "model") == log.prune("p", "model", at(9)) == log.delete("p", "model", people("ann")) == 0
        assert log.services("p") == []

    def test_what_is_appended_is_read(self, log: FeatureLog) -> None:
        log.append("p", "model", rows((0, "ann", 1.0), (1, None, 2.0)))
        log.append("p", "model", rows((2, "ann", 3.0), dest="LGA"))
        log.append("p", "other", rows((2, "bob", 4.0)))
        log.append("q", "model", rows((2, "eve", 5.0)))
        assert kept(log) == [("ann", 1.0), ("ann", 3.0), (None, 2.0)]
        assert log.services("p") == ["model", "other"]
        frame = log.read("p", "model").collect()
        assert frame.schema["read_at"] == INSTANT
        assert sorted(frame["dest"].to_list(), key=repr) == ["LGA", None, None]

    def test_compacting_leaves_the_rows_and_what_was_read_before(self, log: FeatureLog) -> None:
        for number in range(6):
            log.append("p", "model", rows((number, f"p{number}", 1.0)))
        log.append("p", "model", rows((9, "ann", 1.0), dest="LGA"))
        before = log.read("p", "model")
        assert log.compact("p", "model") == 5
        assert log.compact("p", "model") == 0
        assert len(kept(log)) == before.collect().height == 7

    def test_pruning_deletes_what_was_read_before_an_instant(self, log: FeatureLog) -> None:
        log.append("p", "model", rows((0, "ann", 1.0), (1, "ann", 2.0), (2, "ann", 3.0)))
        log.append("p", "model", rows((0, "bob", 4.0), dest="LGA"))
        log.append("p", "other", rows((0, "eve", 5.0)))
        assert log.prune("p", "model", at(1)) == 2  # what was read at the instant itself stays
        assert log.prune("p", "model", at(1)) == 0
        assert kept(log) == [("ann", 2.0), ("ann", 3.0)]
        assert kept(log, "other") == [("eve", 5.0)]
        assert log.prune("p", "model", at(2) + timedelta(microseconds=1)) == 2
        assert kept(log) == []
        log.append("p", "model", rows((0, "ann", 9.0)))
        assert kept(log) == [("ann", 9.0)]
        assert log.services("p") == ["model", "other"]

    def test_deleting_takes_rows_of_all_versions_of_the_service(self, log: FeatureLog) -> None:
        log.append("p", "model", rows((0, "ann", 1.0), (0, "bob", 2.0)))
        log.append("p", "model", rows((1, "ann", 3.0)))
        log.append("p", "model", rows((2, "bob", 4.0)))
        log.append("p", "model", rows((3, "ann", 5.0), (3, None, 6.0), dest="LGA"))
        assert log.delete("p", "model", people("ann", "ann", "nobody")) == 3
        assert log.delete("p", "model", people("ann")) == 0
        assert kept(log) == [("bob", 2.0), ("bob", 4.0), (None, 6.0)]
        assert log.delete("p", "model", people(None)) == 1
        assert log.delete("p", "model", people()) == 0
        assert len(kept(log)) == 2

    def test_a_key_of_several_columns_is_deleted_as_a_whole(self, log: FeatureLog) -> None:
        log.append("p", "model", rows((0, "ann", 1.0), (0, "bob", 2.0), dest="LGA"))
        log.append("p", "model", rows((0, "ann", 3.0), dest="JFK"))
        log.append("p", "model", rows((0, "ann", 4.0)))  # it has no such column, so it is like none
        assert log.delete("p", "model", pl.DataFrame({"person": ["ann"], "dest": ["LGA"]})) == 1
        assert kept(log) == [("ann", 3.0), ("ann", 4.0), ("bob", 2.0)]

    @pytest.mark.parametrize(
        ("dtype", "values"),
        [
            (pl.UInt64(), [2**64 - 1, 0]),
            (pl.Date(), [date(1, 1, 1), date(2026, 1, 1)]),
            (pl.Binary(), [b"\x00\xff", b""]),
            (INSTANT, [START, START + timedelta(microseconds=1)]),
            (pl.Boolean(), [True, False]),
            (pl.String(), ["né' or 1=1 --", "x"]),
        ],
        ids=str,
    )
    def test_keys_of_every_type_are_deleted(self, log: FeatureLog, dtype: pl.DataType, values: list[Any]) -> None:
        frame = pl.DataFrame({"read_at": [at(0)] * 2, "key": values}, schema={"read_at": INSTANT, "key": dtype})
        log.append("p", "model", frame)
        assert log.delete("p", "model", frame.select("key").head(1)) == 1
        assert log.read("p", "model").collect()["key"].to_list() == values[1:]
        assert log.read("p", "model").collect_schema()["key"] == dtype

    @pytest.mark.parametrize("tidy", ["compact", "prune", "delete"])
    def test_nothing_is_lost_that_is_appended_meanwhile(self, log: FeatureLog, tidy: str) -> None:
        acts: dict[str, Callable[[], int]] = {
            "compact": lambda: log.compact("p", "model"),
            "prune": lambda: log.prune("p", "model", at(1)),
            "delete": lambda: log.delete("p", "model", people("old")),
        }
        for number in range(4):
            log.append("p", "model", rows((0, "old", float(number))))

        def add(writer: int) -> None:
            for number in range(8):
                log.append("p", "model", rows((5, f"w{writer}", float(number))))

        with ThreadPoolExecutor(4) as threads:
            adding = [threads.submit(add, writer) for writer in range(2)]
            tidied = [threads.submit(acts[tidy]) for _ in range(4)]
            counts = [future.result() for future in tidied]
            for future in adding:
                future.result()
        expected = [(f"w{writer}", float(number)) for writer in range(2) for number in range(8)]
        expected += [("old", float(number)) for number in range(4)] if tidy == "compact" else []
        assert kept(log) == sorted(expected, key=repr)
        if tidy != "compact":
            assert sum(counts) == 4

    def test_the_first_rows_may_come_from_several_at_once(self, log: FeatureLog) -> None:
        with ThreadPoolExecutor(6) as threads:
            list(threads.map(lambda number: log.append("p", "model", rows((0, f"p{number}", 1.0))), range(6)))
        assert [name for name, _ in kept(log)] == [f"p{number}" for number in range(6)]

    def make(self, folder: str) -> FeatureLog:
        """Open a log in an empty folder."""
        raise NotImplementedError

    NAMES = st.sampled_from(["ann", "bob", None])
    HOURS = st.integers(0, 5)
    STEPS = st.one_of(
        st.tuples(st.just("append"), st.lists(st.tuples(HOURS, NAMES), min_size=1, max_size=4), st.booleans()),
        st.tuples(st.just("prune"), HOURS),
        st.tuples(st.just("delete"), st.lists(NAMES, max_size=2)),
        st.tuples(st.just("compact")),
    )

    @settings(max_examples=examples(15), deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    @given(steps=st.lists(STEPS, max_size=8))
    def test_it_is_like_a_list_of_rows(self, steps: list[tuple[Any, ...]]) -> None:
        model: list[tuple[int, str | None, float]] = []
        with TemporaryDirectory() as folder:
            log = self.make(folder)
            for number, (step, *given) in enumerate(steps):
                if step == "append":
                    added = [(hour, name, float(number)) for hour, name in given[0]]
                    log.append("p", "model", rows(*added, **({"dest": "LGA"} if given[1] else {})))
                    model += added
                elif step == "compact":
                    log.compact("p", "model")
                else:
                    if step == "prune":
                        left = [row for row in model if row[0] >= given[0]]
                        deleted = log.prune("p", "model", at(given[0]))
                    else:
                        left = [row for row in model if row[1] not in given[0]]
                        deleted = log.delete("p", "model", people(*given[0]))
                    assert deleted == len(model) - len(left)
                    model = left
                assert kept(log) == sorted([(name, temp) for _, name, temp in model], key=repr)
