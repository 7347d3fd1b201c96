"""Versions of a view: what readers are given while one is filled beside another, and after a rollback."""

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable

from featurestore import FeatureService, FeatureStore
from featurestore.clock import from_micros
from featurestore.errors import NotFoundError, RequestError, RollbackError
from featurestore.testing import FakeClock
from tests.oracle import Row
from tests.projects import INSTANT, frame_of, parquet_of, store_at, view_of

KEYS, FEATURES = {"k": str}, {"x": float | None, "n": int | None}
POLARS_KEYS, POLARS = {"k": pl.String}, {"x": pl.Float64, "n": pl.Int64}
ROWS = [Row(("a",), 1, 1, (1.0, 1)), Row(("a",), 5, 7, (5.0, 5)), Row(("b",), 3, 3, (None, -3))]
ENTITIES = [{"k": key} for key in "ab"]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(10)


@pytest.fixture
def store(tmp_path: Path, clock: FakeClock) -> Iterator[FeatureStore]:
    with store_at(tmp_path / "project", clock) as opened:
        yield opened


@pytest.fixture
def source(tmp_path: Path) -> Any:
    return parquet_of(tmp_path / "data", [frame_of(ROWS, POLARS_KEYS, POLARS)])


def doubled(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.with_columns(x=pl.col("x") * 2)


def online(store: FeatureStore, *features: str) -> list[Any]:
    return [tuple(row.values())[1:] for row in store.online(list(features or ["v"]), ENTITIES).to_dicts()]


def trained(store: FeatureStore, *features: str, at: int = 10) -> list[Any]:
    spine = pl.DataFrame({"k": ["a", "b"], "t": [from_micros(at)] * 2})
    return store.training_frame(spine, list(features or ["v"]), time="t").drop("k", "t").rows()


def everywhere(store: FeatureStore) -> list[Any]:
    """What readers are given, which is the same online and in training."""
    found = online(store)
    assert trained(store) == found
    assert store.sql("from v").drop_nulls("x").sort("event_time")["x"].to_list()[-1:] == [found[0][0]]
    return found


FIRST, SECOND = [(5.0, 5), (None, -3)], [(10.0, 5), (None, -3)]


@pytest.fixture
def changed(store: FeatureStore, source: Any) -> FeatureStore:
    """A store whose view was changed after it was materialized."""
    store.apply([view_of(source, KEYS, FEATURES)])
    store.materialize()
    plan = store.apply([view_of(source, KEYS, FEATURES, transform=doubled)])
    assert "to recompute: 3 rows; version 1 goes on being served until then" in str(plan)
    return store


def test_a_changed_view_is_served_as_it_was_until_it_is_materialized(changed: FeatureStore) -> None:
    assert everywhere(changed) == FIRST
    changed.materialize()
    assert everywhere(changed) == SECOND
    assert [each.served_since is not None for each in changed.versions.list("v")] == [False, True]
    assert [each.rows for each in changed.versions.list("v")] == [3, 3]


def test_another_process_is_given_it_too(changed: FeatureStore, clock: FakeClock) -> None:
    with store_at(changed.settings.root, clock) as other:
        assert everywhere(other) == FIRST
        changed.materialize()
        other.catalog  # noqa: B018 - as the thread does that looks whether somebody applied
        assert everywhere(other) == SECOND


def test_a_run_up_to_the_past_or_from_a_start_does_not_give_it_to_readers(changed: FeatureStore, clock: FakeClock) -> None:
    changed.materialize(end=from_micros(6))
    assert everywhere(changed) == FIRST
    changed.materialize(start=from_micros(0))
    assert everywhere(changed) == FIRST
    clock.micros = 20
    changed.materialize()
    assert everywhere(changed) == SECOND


def test_a_push_goes_to_what_is_applied(changed: FeatureStore) -> None:
    changed.push("rows", [{"k": "a", "event": from_micros(9), "available": from_micros(9), "x": 9.0, "n": 9}])
    assert everywhere(changed) == FIRST
    changed.materialize()
    assert everywhere(changed) == [(18.0, 9), (None, -3)]


def test_a_view_that_was_never_filled_is_given_at_once(store: FeatureStore, source: Any) -> None:
    store.apply([view_of(source, KEYS, FEATURES)])
    plan = store.apply([view_of(source, KEYS, {"n": int | None})])
    assert "until then" not in str(plan)
    assert not store.catalog.previous_versions
    assert online(store) == [(None,), (None,)]


def test_rows_that_were_only_pushed_are_served_on(store: FeatureStore, source: Any) -> None:
    store.apply([view_of(source, KEYS, FEATURES)])
    store.push("rows", [{"k": "a", "event": from_micros(9), "available": from_micros(9), "x": 9.0, "n": 9}])
    store.apply([view_of(source, KEYS, FEATURES, transform=doubled)])
    assert online(store) == [(9.0, 9), (None, None)]


def test_a_feature_of_the_new_version_alone_cannot_be_asked_for_yet(store: FeatureStore, source: Any) -> None:
    one = view_of(source, KEYS, {"n": int | None})
    store.apply([one])
    store.materialize()
    two = view_of(source, KEYS, FEATURES)
    store.apply([two, FeatureService("s", [two.x])])
    for features in ("v.x", "s"):
        with pytest.raises(NotFoundError, match=r"version 2 of 'v', which is applied, but version 1 is served.*materialize v"):
            store.online(features, ENTITIES)
    assert online(store, "v.n") == [(5,), (-3,)]
    store.materialize()
    assert online(store, "s") == [(5.0,), (None,)]
    store.versions.rollback("v")
    with pytest.raises(NotFoundError, match="rollback v --undo"):
        trained(store, "s")


def test_back_to_the_definition_before_takes_its_rows_up_again(changed: FeatureStore, source: Any) -> None:
    plan = changed.apply([view_of(source, KEYS, FEATURES)])
    assert "the rows of version 1 are there still" in str(plan)
    assert "recompute" not in str(plan)
    assert everywhere(changed) == FIRST
    assert not changed.catalog.previous_versions
    changed.apply([view_of(source, KEYS, FEATURES, transform=doubled)])
    changed.materialize()
    plan = changed.apply([view_of(source, KEYS, FEATURES)])
    assert not plan.changes[0].recompute
    assert everywhere(changed) == SECOND
    changed.materialize()
    assert everywhere(changed) == FIRST
    assert [each.data_version for each in changed.versions.list("v")] == [1, 2, 1, 4, 1]


def test_a_rollback_and_back(changed: FeatureStore, clock: FakeClock) -> None:
    changed.materialize()
    changed.versions.rollback("v")
    assert everywhere(changed) == FIRST
    clock.micros = 20
    changed.materialize()
    assert everywhere(changed) == FIRST
    with pytest.raises(RollbackError, match="no version that was served before"):
        changed.versions.rollback("v")
    changed.versions.undo_rollback("v")
    assert everywhere(changed) == SECOND
    changed.versions.rollback("v", to=1)
    assert everywhere(changed) == FIRST


def test_an_online_store_filled_anew_has_what_is_served_and_what_is_applied(changed: FeatureStore, clock: FakeClock) -> None:
    changed.materialize()
    changed.versions.rollback("v")
    with store_at(changed.settings.root, clock, online="lmdb:other") as other:
        assert online(other) == [(None, None)] * 2
        other.admin.rebuild_online()
        assert online(other) == FIRST
        other.versions.undo_rollback("v")
        assert online(other) == SECOND


def marked(number: int) -> Callable[[pl.LazyFrame], pl.LazyFrame]:
    """A transform that puts a number into all of a row, so that one of two versions is seen."""
    # A transform is compared by its text: each number has a text of its own.
    scope: dict[str, Any] = {"pl": pl}
    exec(f"def transform(rows):\n    return rows.with_columns(pl.lit({number}).alias(c) for c in 'pqrs')\n", scope)
    made: Callable[[pl.LazyFrame], pl.LazyFrame] = scope["transform"]
    return made


def test_no_reader_sees_two_versions_in_one_row_nor_none(tmp_path: Path, clock: FakeClock) -> None:
    """Threads read online and train, here and over a store of their own, while versions are switched and rolled back."""
    columns = dict.fromkeys("pqrs", int)
    source = parquet_of(tmp_path / "data", [frame_of(ROWS, POLARS_KEYS, POLARS)])
    seen: list[set[Any]] = [set() for _ in range(3)]
    wrong: list[Any] = []
    stop = threading.Event()
    with store_at(tmp_path / "p", clock) as store, store_at(tmp_path / "p", clock, catalog_refresh="10ms") as other:

        def apply(number: int) -> None:
            clock.micros += 1
            store.apply([view_of(source, KEYS, columns, transform=marked(number))])

        def read(place: int, rows: Callable[[], list[Any]]) -> None:
            while not stop.is_set():
                for row in rows():
                    if len(set(row)) > 1 or None in row:
                        wrong.append(row)
                    seen[place].add(row[0])

        apply(1)
        store.materialize()
        looks = [lambda: online(store), lambda: trained(other, "v.p", "v.q", "v.r", "v.s"), lambda: online(other)]
        threads = [threading.Thread(target=read, args=each) for each in enumerate(looks)]
        for thread in threads:
            thread.start()
        try:
            for number in (2, 3):
                apply(number)
                store.materialize()
                for _ in range(2):
                    store.versions.rollback("v")
                    store.versions.undo_rollback("v")
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert not wrong
        assert all(numbers <= {1, 2, 3} and len(numbers) > 1 for numbers in seen)
        assert online(store) == [(3,) * 4] * 2


# -- a nullable feature more -------------------------------------------------------------------------------------------


def wide_rows(seed: int) -> list[Row]:
    """Rows with ties, late ones and nulls, of three features, the last of which is null now and then."""
    draw = random.Random(seed)
    return [
        Row(
            (draw.choice("abcd"),),
            event := draw.randrange(6),
            event + draw.randrange(3),
            (draw.choice([None, 1.0, 2.0]), draw.choice([None, 1, 2]), draw.choice([None, "", "x"])),
        )
        for _ in range(60)
    ]


WIDE, WIDE_POLARS = {**FEATURES, "s": str | None}, {**POLARS, "s": pl.String}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("pushed", [False, True])
def test_s4_s16_a_nullable_feature_more_needs_no_recomputation(tmp_path: Path, clock: FakeClock, seed: int, pushed: bool) -> None:
    rows = wide_rows(seed)
    source = parquet_of(tmp_path / "data", [frame_of(rows, POLARS_KEYS, WIDE_POLARS)])
    before, after = view_of(source, KEYS, FEATURES), view_of(source, KEYS, WIDE)
    spine = pl.DataFrame(
        [(key, from_micros(at)) for key in "abcd" for at in range(9)], schema={"k": pl.String, "t": INSTANT}, orient="row"
    )
    with store_at(tmp_path / "p", clock) as store, store_at(tmp_path / "q", clock) as fresh:
        store.apply([before])
        if pushed:
            for first in range(0, 60, 20):
                store.push("rows", frame_of(rows[first : first + 20], POLARS_KEYS, WIDE_POLARS))
        else:
            store.materialize()
        narrow = store.training_frame(spine, "v", time="t")
        plan = store.apply([after])
        assert "the rows there are have null for s" in str(plan)
        assert "recompute" not in str(plan)
        assert store.catalog.views["v"].data_version == 1
        there = store.training_frame(spine, "v", time="t")
        assert there.drop("s").equals(narrow)
        assert there["s"].null_count() == there.height
        agree(store)
        assert store.sql("select s, x from v")["s"].null_count() == store.status()[0].rows
        # The same rows once more, now with the feature: what has a value there wins over the same without.
        if pushed:
            store.push("rows", frame_of(rows, POLARS_KEYS, WIDE_POLARS))
            agree(store)
            store.materialize()
        else:
            store.materialize(start=from_micros(0))
        fresh.apply([after])
        fresh.materialize()
        agree(store)
        assert store.training_frame(spine, "v", time="t").equals(fresh.training_frame(spine, "v", time="t"))
        assert set(store.sql("from v").drop_nulls("s").rows()) == set(fresh.sql("from v").drop_nulls("s").rows())
        again = store.materialize(start=from_micros(0))
        assert again[0].rows_written == 0
        columns = {
            each.name for each in DeltaTable(tmp_path / "p" / ".featurestore" / "offline" / "test" / "v" / "v1").schema().fields
        }
        assert "s" in columns


def agree(store: FeatureStore) -> None:
    """An online read is the training frame's row (S16)."""
    entities = [{"k": key} for key in "abcd"]
    spine = pl.DataFrame({"k": list("abcd"), "t": [from_micros(10)] * 4})
    frame = store.training_frame(spine, "v", time="t").drop("t")
    assert store.online("v", entities).to_dicts() == frame.to_dicts()
    assert store.online("v", entities).to_polars().equals(frame)
    one = [f"v.{frame.columns[-1]}", "v.x"]
    assert store.online(one, entities).to_dicts() == store.training_frame(spine, one, time="t").drop("t").to_dicts()


@pytest.mark.parametrize(
    "features",
    [
        {"n": int | None, "x": float},
        {"x": float | None, "n": int | None},
        {"n": float | None, "x": float | None},
        {"x": float | None},
    ],
    ids=["not nullable", "not the last", "another changed", "one gone"],
)
def test_any_other_feature_more_is_recomputed(store: FeatureStore, source: Any, features: Any) -> None:
    store.apply([view_of(source, KEYS, {"n": int | None})])
    assert store.plan([view_of(source, KEYS, features)]).changes[-1].recompute


def test_a_feature_that_goes_again_is_recomputed(store: FeatureStore, source: Any) -> None:
    """Rows that had it were ordered by it."""
    store.apply([view_of(source, KEYS, {"n": int | None})])
    store.apply([view_of(source, KEYS, {"n": int | None, "x": float | None})])
    store.materialize()
    assert store.plan([view_of(source, KEYS, {"n": int | None})]).changes[-1].recompute


def test_a_reader_that_knows_the_view_as_it_was_reads_longer_rows(tmp_path: Path, clock: FakeClock) -> None:
    source = parquet_of(tmp_path / "data", [frame_of(wide_rows(1), POLARS_KEYS, WIDE_POLARS)])
    with store_at(tmp_path / "p", clock) as store, store_at(tmp_path / "p", clock, catalog_refresh="1h") as behind:
        store.apply([view_of(source, KEYS, FEATURES)])
        store.materialize()
        known = behind.online("v", ENTITIES).to_dicts()
        store.apply([view_of(source, KEYS, WIDE)])
        store.materialize(start=from_micros(0))
        assert [list(row) for row in behind.online("v", ENTITIES).to_dicts()] == [list(row) for row in known]
        assert all(set(row) == {"k", "x", "n"} for row in behind.online("v", ENTITIES).to_dicts())


def test_a_run_that_was_staged_before_the_feature_came_is_completed(
    store: FeatureStore, source: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.apply([view_of(source, KEYS, {"x": float | None})])

    def refused(*_: Any) -> int:
        raise RollbackError("not now")

    with monkeypatch.context() as patched:
        patched.setattr(store.components.offline, "commit", refused)
        with pytest.raises(RollbackError):
            store.materialize()
    store.apply([view_of(source, KEYS, FEATURES)])
    [summary] = store.materialize()
    assert (summary.resumed, summary.rows_written) == (True, 3)
    assert everywhere(store) == [(5.0, None), (None, None)]


# -- backfills in spans --------------------------------------------------------------------------------------------------


def spans(store: FeatureStore) -> list[Any]:
    return [
        run.span.get("backfill") for run in reversed(store.runs.list()) if run.data_version == store.catalog.views["v"].data_version
    ]


def test_s17_a_backfill_in_spans_is_what_one_run_is(changed: FeatureStore) -> None:
    [summary] = changed.materialize(chunk="2us")
    assert summary.rows_written == 3
    assert spans(changed) == [[None, 1], [None, 3], [None, 5], [None, 7]]
    assert everywhere(changed) == SECOND
    assert changed.materialize()[0].rows_read == 0


def test_a_backfill_goes_on_where_it_was_interrupted(changed: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    commit, calls = changed.components.offline.commit, iter(range(10))

    def failing(*given: Any) -> int:
        if next(calls) == 1:
            raise RollbackError("now")
        return commit(*given)

    monkeypatch.setattr(changed.components.offline, "commit", failing)
    with pytest.raises(RollbackError):
        changed.materialize(chunk="2us")
    assert everywhere(changed) == FIRST
    done = spans(changed)
    [summary] = changed.materialize(chunk="2us")
    assert summary.resumed
    assert everywhere(changed) == SECOND
    assert spans(changed)[: len(done)] == done
    assert len({tuple(each) for each in spans(changed)}) == len(spans(changed))


def test_a_backfill_from_a_start_reads_each_span_once(store: FeatureStore, source: Any) -> None:
    store.apply([view_of(source, KEYS, FEATURES)])
    store.materialize(start=from_micros(2), chunk="2us")
    assert spans(store) == [[2, 3], [4, 5], [6, 7]]
    assert store.sql("from v").height == 2
    [again] = store.materialize(start=from_micros(2), chunk="2us")
    assert again.rows_read == 0
    [rest] = store.materialize()
    assert (rest.rows_read, rest.rows_written) == (3, 1)


def test_views_are_filled_at_once(store: FeatureStore, source: Any) -> None:
    names = [f"v{number}" for number in range(4)]
    store.apply([view_of(source, KEYS, FEATURES, name=name) for name in names])
    done = store.materialize(chunk="3us", parallel=3)
    assert [(each.view, each.rows_written) for each in done] == [(name, 3) for name in names]
    assert all(online(store, name) == FIRST for name in names)


def test_what_is_told_of_a_backfill(store: FeatureStore, source: Any) -> None:
    store.apply([view_of(source, KEYS, FEATURES)])
    told: list[tuple[str, int, int]] = []

    class Watching:
        def step(self, view: str, stage: str, done: int, total: int, **_: int) -> None:
            told.append((stage, done, total))

    store.materialize(chunk="4us", progress=Watching())
    assert told == [("backfill", number, 3) for number in range(4)]


@pytest.mark.parametrize(
    ("options", "said"),
    [({"chunk": "soon"}, "is not a duration"), ({"chunk": "1d", "dry_run": True}, "leave chunk= out"),
     ({"parallel": 0}, "must be at least 1"), ({"chunk": "1us", "start": "1969-01-01"}, "spans")],
)  # fmt: skip
def test_a_backfill_that_cannot_be(store: FeatureStore, source: Any, options: Any, said: str) -> None:
    store.apply([view_of(source, KEYS, FEATURES)])
    with pytest.raises(RequestError, match=said):
        store.materialize(**options)


# -- a source that changes half-way ----------------------------------------------------------------------------------------


def test_columns_that_a_source_gets_loses_or_widens_between_runs(tmp_path: Path, store: FeatureStore, clock: FakeClock) -> None:
    folder = tmp_path / "data"
    narrow = frame_of([Row(("a",), 1, 1, (1.0, 1))], POLARS_KEYS, {"x": pl.Float32, "n": pl.Int32})
    source = parquet_of(folder, [narrow])
    store.apply([view_of(source, KEYS, FEATURES)])
    store.materialize()
    wide = frame_of([Row(("a",), 2, 12, (2.5, 2**40))], POLARS_KEYS, POLARS).with_columns(more=pl.lit("new"))
    wide.write_parquet(folder / "1.parquet")
    clock.micros = 20
    store.materialize()
    assert online(store)[0] == (2.5, 2**40)
    frame_of([Row(("b",), 3, 22, (3.5, 3))], POLARS_KEYS, POLARS).drop("n").write_parquet(folder / "2.parquet")
    clock.micros = 30
    store.materialize()
    assert online(store) == [(2.5, 2**40), (3.5, None)] == trained(store, at=30)
    frame_of([Row(("b",), 4, 23, (3.5, 3))], POLARS_KEYS, POLARS).write_parquet(folder / "3.parquet")
    store.materialize()
    assert online(store) == [(2.5, 2**40), (3.5, 3)] == trained(store, at=30)
    assert store.sql("from v").height == 4
