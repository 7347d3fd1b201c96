"""Frames as the store was at an instant (S24): the frame that the same call returned then."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from featurestore import Entity, FeatureStore, FeatureView, ParquetSource, count, sum_
from featurestore.clock import from_micros
from featurestore.errors import RequestError
from featurestore.testing import FakeClock
from tests.effort import examples
from tests.retrieval.test_flow import small_batches

NOW = 1_000_000_000
ENTITY = Entity("thing", k=str)
Given = list[tuple[str, int, int, float]]


@contextmanager
def opened(folder: str | Path, clock: FakeClock) -> Iterator[FeatureStore]:
    """A project with a view of latest values and one of windows, on one source of files."""
    source = ParquetSource("rows", str(Path(folder) / "data" / "*.parquet"), event_time="at", available_time="known")

    class Newest(FeatureView, entity=ENTITY, source=source):
        x: float

    class Recent(FeatureView, entity=ENTITY, source=source):
        n: int = count().over("40us")
        total: float | None = sum_("x").over("40us")

    (Path(folder) / "data").mkdir(exist_ok=True)
    with FeatureStore(folder, project="stored", clock=clock) as store:
        store.apply([Newest, Recent])
        yield store


def frame_of(rows: Given, clock: FakeClock) -> pl.DataFrame:
    data = [(k, NOW + at, min(NOW + at + late, clock.micros), x) for k, at, late, x in rows]
    frame = pl.DataFrame(data, schema={"k": pl.String, "at": pl.Int64, "known": pl.Int64, "x": pl.Float64}, orient="row")
    return frame.with_columns(pl.col("at", "known").cast(pl.Datetime("us", "UTC")))


SPINE = pl.DataFrame(
    {"k": [*"abcd"] * 6, "t": [NOW + 20 * step for step in range(6) for _ in "abcd"]}, schema={"k": pl.String, "t": pl.Int64}
).with_columns(pl.col("t").cast(pl.Datetime("us", "UTC")))


def trained(store: FeatureStore, **options: Any) -> pl.DataFrame:
    return store.training_frame(SPINE, ["newest", "recent"], time="t", **options)


some_rows = st.lists(
    st.tuples(st.sampled_from("abcd"), st.integers(0, 80), st.integers(0, 30), st.sampled_from([1.0, 2.5, -3.0])),
    min_size=1, max_size=8,
)  # fmt: skip
steps_of = st.lists(
    st.tuples(st.sampled_from(["push", "run"]), some_rows) | st.tuples(st.sampled_from(["maintain", "forget"]), st.just([])),
    min_size=1, max_size=7,
)  # fmt: skip


@given(first=some_rows, steps=steps_of, hours=st.lists(st.integers(0, 3), min_size=7, max_size=7))
@settings(max_examples=examples(24), deadline=None, phases=[Phase.explicit, Phase.generate])
def test_s24_a_frame_is_as_it_was_at_any_instant(first: Given, steps: list[tuple[str, Given]], hours: list[int]) -> None:
    clock, then = FakeClock(NOW + 1_000), dict[datetime, pl.DataFrame]()
    with TemporaryDirectory() as folder, small_batches(1000, bucket=4), pytest.MonkeyPatch.context() as patch:
        patch.setattr("featurestore.offline.delta.compaction._SMALL_FILES", 2)
        with opened(folder, clock) as store:
            for number, (kind, rows) in enumerate([("run", first), *steps]):
                clock.micros += 1 + 3_600_000_000 * hours[number % len(hours)]
                if kind == "run":
                    frame_of(rows, clock).write_parquet(Path(folder) / "data" / f"{number}.parquet")
                    store.materialize()
                elif kind == "push":
                    store.push("rows", frame_of(rows, clock))
                elif kind == "maintain":
                    store.admin.maintain()
                else:
                    store.admin.forget("thing", {"k": "d"})
                    then = {instant: without(frame, "d") for instant, frame in then.items()}
                then[clock()] = trained(store)
        with opened(folder, clock) as store:  # another process
            for instant, frame in then.items():
                assert trained(store, stored_by=instant).equals(frame), instant
            sunk = trained(store, stored_by=min(then), sink=Path(folder) / "frame.parquet")
            assert sunk.collect().equals(then[min(then)])
            naive = max(then).replace(tzinfo=None)
            assert trained(store, stored_by=naive).equals(trained(store))


def without(frame: pl.DataFrame, key: str) -> pl.DataFrame:
    """A frame without what was known of an entity, as it is once that is forgotten."""
    gone = pl.col("k") == key
    return frame.with_columns(
        pl.when(gone).then(None).otherwise(pl.col("x")).alias("x"),
        pl.when(gone).then(0).otherwise(pl.col("n")).cast(frame.schema["n"]).alias("n"),
        pl.when(gone).then(0.0).otherwise(pl.col("total")).alias("total"),
    )


def test_s24_an_instant_before_the_first_fill_or_in_the_future_is_refused(tmp_path: Path) -> None:
    clock = FakeClock(NOW + 1_000)
    with opened(tmp_path, clock) as store:
        frame_of([("a", 1, 0, 1.0)], clock).write_parquet(tmp_path / "data" / "1.parquet")
        store.materialize()
        stored = clock()
        assert trained(store, stored_by=stored)["x"].drop_nulls().to_list()
        with pytest.raises(RequestError, match=r"nothing is known to have been stored by .*Ask for a later instant"):
            trained(store, stored_by=stored - timedelta(microseconds=1))
        with pytest.raises(RequestError, match=r"in the future"):
            trained(store, stored_by=stored + timedelta(microseconds=1))
        with pytest.raises(RequestError, match=r"must be a datetime; got '2020-01-01'"):
            trained(store, stored_by="2020-01-01")


@pytest.mark.parametrize("folds", [False, True], ids=["waiting", "folded"])
@pytest.mark.parametrize(("seconds", "rises"), [(30, True), (60, True), (61, False), (86_400, False)])
def test_s24_instants_rise_where_a_clock_is_behind_unless_one_was_far_ahead(
    tmp_path: Path, seconds: int, rises: bool, folds: bool
) -> None:
    clock = FakeClock(NOW + 1_000)
    with opened(tmp_path, clock) as store:
        frame_of([("a", 1, 0, 1.0)], clock).write_parquet(tmp_path / "data" / "1.parquet")
        store.materialize()
        clock.micros += seconds * 1_000_000
        store.push("rows", frame_of([("a", 2, 0, 2.0)], FakeClock(NOW + 1_000)))
        if folds:
            store.materialize()  # which leaves no entry behind
        ahead, clock.micros = clock.micros, NOW + 2_000
    with opened(tmp_path, clock) as store:
        store.push("rows", frame_of([("a", 3, 0, 3.0)], FakeClock(NOW + 1_000)))
        sequence = store.components.backend.history.push_log.sequence(store.components.table(store.catalog.views["newest"]))
        former, last = sequence.instants()["stored"].to_list()[-2:]
        assert (former, last) == (ahead, ahead if rises else clock.micros)
        at_last = trained(store, stored_by=from_micros(clock.micros))
        # The prefix up to the last entry that was stored by then.
        assert at_last.filter(k="a")["x"].to_list()[-1] == (1.0 if rises else 3.0)
