"""Pushes through the public API: what they refuse, and that each row counts once however it came (S15-S17, S19)."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore import Entity, FeatureStore, FeatureView, FrameSource, ParquetSource
from featurestore.clock import from_micros
from featurestore.errors import DefinitionError, NotFoundError, OnlineStoreError, RejectedRowsError, RequestError
from featurestore.testing import FakeClock
from tests.effort import examples
from tests.oracle import Row, latest, winner
from tests.processes import CONTEXT
from tests.projects import INSTANT, frame_of, memory_of, same, store_at, view_of
from tests.test_semantics import END, FEATURES, FEW, KEYS, POLARS, POLARS_KEYS, address_of, row, spine_of, ttls

ASKED = [(k, n) for k in ("a", "b", "", "never") for n in (0, -1)]
COLUMNS = {"k": pl.String(), "at": INSTANT, "x": pl.Float64(), "n": pl.Int64()}

known_row = row.map(lambda drawn: Row(drawn.key, drawn.event, min(drawn.available or 0, END), drawn.values))
some = st.lists(st.integers(0, 11), max_size=6)
step = st.one_of(
    st.tuples(st.just("push"), some),
    st.tuples(st.just("file"), some),
    st.tuples(st.just("materialize"), st.just([])),
    st.tuples(st.just("again"), st.just([])),
)


def empty(name: str = "rows", **options: Any) -> FrameSource:
    return FrameSource(name, pl.DataFrame(schema=COLUMNS), event_time="at", **options)


@contextmanager
def project(source: Any = None, **options: Any) -> Iterator[tuple[FeatureStore, Any, FakeClock]]:
    """A store with one view over a source that has no rows; the clock stands at an hour after the epoch."""
    with tempfile.TemporaryDirectory() as folder:
        clock = FakeClock(3_600_000_000)
        view = view_of(source or empty(), {"k": str}, {"x": float | None, "n": int}, **options)
        with store_at(Path(folder), clock) as store:
            store.apply([view])
            yield store, view, clock


def at(minute: int) -> datetime:
    return from_micros(minute * 60_000_000)


def given_rows(*rows: tuple[str, int, float | None, int | None]) -> list[dict[str, Any]]:
    return [{"k": k, "at": at(minute), "x": x, "n": n} for k, minute, x, n in rows]


def values(store: FeatureStore, view: Any, key: str = "a") -> tuple[Any, ...]:
    [found] = store.online(view, [{"k": key}]).to_dicts()
    return found["x"], found["n"]


@pytest.mark.parametrize("online", ["lmdb", "valkey"])
@settings(FEW, max_examples=examples(12))
@given(
    rows=st.lists(known_row, min_size=1, max_size=12), steps=st.lists(step, max_size=9), ttl=ttls, most=st.sampled_from([1, 3, 256])
)
def test_s16_s17_any_interleaving_of_pushes_and_runs_keeps_each_row_once(
    rows: list[Row], steps: list[tuple[str, list[int]]], ttl: int | None, most: int, online: str, request: pytest.FixtureRequest
) -> None:
    """After each step both stores say what the oracle says of the rows that came, by whatever way and how often soever."""
    address = address_of(online, request)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("featurestore.materialization.push._MOST_SEGMENTS", most)
        data = Path(folder) / "data"
        data.mkdir()
        frame_of([], POLARS_KEYS, POLARS).write_parquet(data / "none.parquet")
        source = ParquetSource("rows", str(data / "*.parquet"), event_time="event", available_time="available")
        view = view_of(source, KEYS, FEATURES, ttl=None if ttl is None else timedelta(microseconds=ttl))
        with store_at(Path(folder), FakeClock(END), online=address, project=f"p{uuid4().hex}") as store:
            store.apply([view])
            came: set[int] = set()
            in_files: set[int] = set()
            last: list[int] = []
            for number, (what, which) in enumerate(steps):
                if what in ("push", "file"):
                    last = [each % len(rows) for each in which]
                frame = frame_of([rows[each] for each in last], POLARS_KEYS, POLARS)
                if what == "file":
                    frame.write_parquet(data / f"{number}.parquet")
                    in_files.update(last)
                    continue
                if what == "materialize":
                    store.materialize()
                    came |= in_files
                else:
                    [pushed] = store.push(source, frame)
                    assert pushed.rows_read == frame.height == pushed.rows_new + pushed.rows_known
                    came.update(last)
                check(store, view, [rows[each] for each in came], ttl)
            store.materialize()
            check(store, view, [rows[each] for each in came | in_files], ttl)


def check(store: FeatureStore, view: Any, rows: list[Row], ttl: int | None) -> None:
    history = store.sql("select * from v")
    assert history.height == len({repr((each.key, each.event, each.known, each.values)) for each in rows})
    assert next(iter(store.status())).rows == history.height
    found = store.online(view, [{"k": k, "n": n} for k, n in ASKED])
    trained = store.training_frame(spine_of([(key, END) for key in ASKED]), view, time="t").drop("t", "label")
    assert found.to_polars().equals(trained, null_equal=True)
    for key, given_values, event in zip(ASKED, trained.select(*FEATURES).rows(), found.event_time["v"], strict=True):
        expected = latest(rows, key, END, ttl=ttl) or (None, None, None)
        assert all(same(one, other) for one, other in zip(given_values, expected, strict=True))
        won = winner(rows, key, END)
        assert event == (None if won is None else from_micros(won.event or 0))


def test_a_push_is_seen_at_once_and_tells_what_it_did() -> None:
    with project() as (store, view, _):
        [first] = store.push("rows", given_rows(("a", 1, 1.0, 1), ("a", 2, 2.0, 2), ("b", 1, 3.0, 3), ("a", 2, 2.0, 2)))
        assert (first.view, first.data_version) == ("v", 1)
        assert (first.rows_read, first.rows_new, first.rows_known, first.rows_rejected, first.rows_online) == (4, 3, 1, 0, 2)
        assert values(store, view) == (2.0, 2)
        spine = pl.DataFrame({"k": ["a", "a"], "t": [at(1), at(2)]})
        assert store.training_frame(spine, view, time="t")["x"].to_list() == [1.0, 2.0]
        assert store.training_frame(spine.lazy(), view, time="t", sink="t.parquet").collect()["x"].to_list() == [1.0, 2.0]
        again = store.push("rows", given_rows(("a", 2, 2.0, 2), ("a", 3, 4.0, 4)))
        assert [(each.rows_new, each.rows_known) for each in again] == [(1, 1)]
        assert values(store, view) == (4.0, 4)
        assert "known" in repr(again)
        assert again._repr_html_().startswith("<table><thead><tr><th>view</th>")
        assert again.to_dicts()[0]["rows_new"] == 1
        assert store.sql("select k, n from v order by all").rows() == [("a", 1), ("a", 2), ("a", 4), ("b", 3)]


def test_s17_a_run_over_the_same_rows_later_changes_nothing(tmp_path: Path) -> None:
    rows = [Row(("a", 0), 1, 2, (1.0, 1, "x")), Row(("a", 0), 5, 5, (2.0, 1, "y")), Row(("b", 0), 3, 3, (None, None, None))]
    frame = frame_of(rows, POLARS_KEYS, POLARS)
    source = memory_of(frame)
    view = view_of(source, KEYS, FEATURES)
    with store_at(tmp_path, FakeClock(END)) as store:
        store.apply([view])
        store.push(source, frame)
        before = store.sql("from v order by all"), store.online(view, [{"k": "a", "n": 0}]).to_dicts()
        [summary] = store.materialize()
        assert (summary.rows_read, summary.rows_written, summary.rows_online) == (3, 0, 0)
        assert store.sql("from v order by all").equals(before[0])
        assert store.online(view, [{"k": "a", "n": 0}]).to_dicts() == before[1]
        assert [(run.seq, run.state, run.rows_written) for run in store.runs.list("v")] == [(2, "done", 0), (1, "done", 3)]
        assert [each.rows_new for each in store.push(source, frame)] == [0]


def test_rows_of_every_form() -> None:
    with project() as (store, _, _clock):
        columns = {"k": ["a"], "at": [at(1)], "x": [1.0], "n": [1]}
        frame = pl.DataFrame(columns)
        for number, rows in enumerate([columns, frame, frame.to_pandas(), frame.to_arrow(), given_rows(("a", 1, 1.0, 1))]):
            [pushed] = store.push("rows", rows)
            assert (pushed.rows_new, pushed.rows_known) == ((1, 0) if number == 0 else (0, 1))
        assert [each.rows_known for each in store.push("rows", frame.lazy())] == [1]


def test_nothing_to_push() -> None:
    with project() as (store, _, _clock):
        [pushed] = store.push("rows", pl.DataFrame(schema=COLUMNS))
        assert (pushed.rows_read, pushed.rows_new, pushed.rows_online) == (0, 0, 0)
        assert store.status()[0].rows == 0


def test_values_become_what_the_source_has() -> None:
    """Text is read, numbers of another width are cast, a column of nulls is one of the source's type."""
    with project() as (store, view, _):
        store.push("rows", [{"k": "a", "at": "1970-01-01T00:01:00Z", "x": "1.5", "n": "7"}])
        assert values(store, view) == (1.5, 7)
        store.push(
            "rows", [{"k": "a", "at": date(1970, 1, 1), "x": None, "n": 8}, {"k": "b", "at": date(1970, 1, 1), "x": None, "n": 9}]
        )
        store.push("rows", pl.DataFrame({"k": ["b"], "at": [datetime(1970, 1, 1, 0, 2)], "x": [2], "n": [1]}))  # noqa: DTZ001 - naive on purpose
        assert values(store, view, "b") == (2.0, 1)
        assert store.sql("select x, n from v order by k, event_time").rows() == [(None, 8), (1.5, 7), (None, 9), (2.0, 1)]


def test_s19_what_fails_a_check_is_kept_and_told() -> None:
    with project() as (store, view, clock):
        late = from_micros(clock.micros + 1_000_001)
        soon = from_micros(clock.micros + 1_000_000)
        rows = [
            *given_rows(("a", 1, 1.0, None), ("a", 2, 1.0, 2)),
            {"k": "a", "at": late, "x": 9.0, "n": 9},
            {"k": None, "at": at(1), "x": 1.0, "n": 1},
        ]
        for _ in range(2):
            [pushed] = store.push("rows", rows)
            assert (pushed.rows_rejected, pushed.rows_waiting) == (2, 1)
            assert dict(pushed.reasons) == {"n is null": 1, "k is null": 1}
        assert sorted(store.runs.rejected_rows(view)["_reason"].to_list()) == ["k is null", "n is null"]
        assert values(store, view) == (1.0, 2)
        store.push("rows", [{"k": "a", "at": soon, "x": 3.0, "n": 3}])
        assert values(store, view) == (3.0, 3)
        assert "rejected 1: n is null" in repr(store.push("rows", rows))


@pytest.mark.parametrize("on_reject", ["keep", "fail"])
@pytest.mark.parametrize("ahead", [1_000_001, 30_000_000, 86_400_000_000])
def test_s18_a_pushed_row_that_is_not_known_yet_waits_and_is_pushed_again(ahead: int, on_reject: Any) -> None:
    with project(on_reject=on_reject) as (store, view, clock):
        row = {"k": "a", "at": from_micros(clock.micros + ahead), "x": 9.0, "n": 9}
        for _ in range(2):
            [pushed] = store.push("rows", [*given_rows(("a", 1, 1.0, 2)), row])
            assert (pushed.rows_read, pushed.rows_rejected, pushed.rows_waiting) == (2, 0, 1)
            assert "waiting 1: not known yet; push them again" in repr(store.push("rows", [row]))
        assert values(store, view) == (1.0, 2)
        assert store.runs.rejected_rows(view).is_empty()
        assert store.status()[0].rows == 1
        clock.micros += ahead
        [pushed] = store.push("rows", [row])
        assert (pushed.rows_new, pushed.rows_waiting) == (1, 0)
        assert values(store, view) == (9.0, 9)


def test_s19_a_value_that_does_not_fit_rejects_its_row_alone() -> None:
    with project() as (store, view, _):
        [pushed] = store.push("rows", [{"k": "a", "at": at(1), "x": 1.0, "n": 1.5}, {"k": "b", "at": at(1), "x": 1.0, "n": 2.0}])
        assert (pushed.rows_new, pushed.rows_rejected) == (1, 1)
        assert values(store, view, "b") == (1.0, 2)


def test_a_view_that_fails_on_rejects_keeps_all_views_from_being_written() -> None:
    source = empty()
    with project(source) as (store, view, _):
        strict = view_of(source, {"k": str}, {"n": int}, name="strict", on_reject="fail")
        store.apply([strict])
        with pytest.raises(RejectedRowsError, match="1 × n is null"):
            store.push(source, given_rows(("a", 1, 1.0, 1), ("a", 2, 1.0, None)))
        assert [each.rows for each in store.status()] == [0, 0]
        assert values(store, view) == (None, None)
        assert store.runs.rejected_rows("strict").height == 1
        assert [each.rows_new for each in store.push(source, given_rows(("a", 1, 1.0, 1)))] == [1, 1]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"k": "a", "x": 1.0, "n": 1}], "no column 'at'"),
        ([{"k": "a", "at": at(1), "x": 1.0}], "no column 'n'"),
        ([{"k": "a", "at": at(1), "x": 1.0, "nn": 1}], "no column 'n'. Did you mean 'nn'"),
        ([{"k": "a", "at": at(1), "x": 1.0, "n": 1, "xx": 1}], "have a column 'xx', which the source has not. Did you mean 'x'"),
        ([{"k": 5, "at": at(1), "x": 1.0, "n": 1}], "Int64 in the column 'k', where the source has String"),
        ([{"k": "a", "at": "soon", "x": 1.0, "n": 1}], "have 'soon' in the column 'at', which is not a valid Datetime"),
        ([{"k": "a", "at": at(1), "x": "much", "n": 1}], "have 'much' in the column 'x', which is not a valid Float64"),
        ([{"k": "a", "at": 5, "x": 1.0, "n": 1}], "Int64 in the column 'at'"),
        ("rows.parquet", "Rows cannot be pushed as a str"),
        (5, "Rows cannot be pushed as an int"),
        ([1, 2], "Rows cannot be pushed as a list"),
        ({"k": ["a", "b"], "at": [at(1)]}, "its columns differ in length"),
    ],
)
def test_rows_of_another_shape_are_refused(rows: Any, told: str) -> None:
    with project() as (store, _, _clock):
        with pytest.raises(RequestError, match=told):
            store.push("rows", rows)
        assert store.status()[0].rows == 0


def test_what_is_no_source_and_no_view_on_it() -> None:
    with project() as (store, view, _):
        rows = given_rows(("a", 1, 1.0, 1))
        with pytest.raises(NotFoundError, match=r"No applied source is named 'row'\. Did you mean 'rows'"):
            store.push("row", rows)
        other = empty("others")
        other_view = view_of(other, {"k": str}, {"n": int}, name="w")
        store.apply([other_view])
        with pytest.raises(RequestError, match="View 'w' is on source 'others', not on 'rows'"):
            store.push("rows", rows, views=[other_view])
        assert [each.view for each in store.push("rows", rows, views=[view])] == ["v"]
        store.apply([empty("alone")])
        with pytest.raises(RequestError, match="No view is on source 'alone'"):
            store.push("alone", rows)


def test_renamed_columns_and_a_transform(tmp_path: Path) -> None:
    """Rows are pushed as the source has them; what is renamed already is taken too."""

    def doubled(rows: pl.LazyFrame) -> pl.LazyFrame:
        return rows.filter(pl.col("n") > 0).with_columns(x=pl.col("x") * 2)

    raw = pl.DataFrame(schema={"key": pl.String, "ts": pl.Datetime("ms"), "x": pl.Float64, "n": pl.Int64})
    source = FrameSource("rows", raw, event_time="at", rename={"ts": "at", "key": "k"})
    with project(source, transform=doubled) as (store, view, _):
        [pushed] = store.push(source, [{"key": "a", "ts": at(1), "x": 1.0, "n": 1}, {"key": "a", "ts": at(2), "x": 1.0, "n": 0}])
        assert (pushed.rows_read, pushed.rows_new) == (2, 1)
        assert values(store, view) == (2.0, 1)
        assert [each.rows_known for each in store.push(source, given_rows(("a", 1, 1.0, 1)))] == [1]


def test_a_transform_that_fails_writes_nothing() -> None:
    def broken(rows: pl.LazyFrame) -> pl.LazyFrame:
        return rows.with_columns(x=pl.col("k").str.to_integer(strict=True).cast(pl.Float64))

    with project(transform=broken) as (store, _, _clock):
        with pytest.raises(DefinitionError, match="transform of view 'v' fails"):
            store.push("rows", given_rows(("a", 1, 1.0, 1)))
        assert store.status()[0].rows == 0


def test_a_source_that_is_not_there_yet(tmp_path: Path) -> None:
    """Rows may be pushed before the source has a file; once it has, it says which columns there are."""
    source = ParquetSource("rows", str(tmp_path / "data" / "*.parquet"), event_time="at", available_time="seen", event_id="id")
    with project(source) as (store, view, _):
        row_given = {"k": "a", "at": at(1), "seen": "1970-01-01T00:05", "id": 7, "x": 1.0, "n": 1, "more": True}
        store.push(source, [row_given])
        assert values(store, view) == (1.0, 1)
        for name in ("at", "seen", "id"):
            with pytest.raises(RequestError, match=f"no column '{name}'"):
                store.push(source, [{key: value for key, value in row_given.items() if key != name}])
        (tmp_path / "data").mkdir()
        pl.DataFrame([{**row_given, "seen": at(5)}]).drop("more").write_parquet(tmp_path / "data" / "0.parquet")
        store.close()
        with store_at(store.settings.root, FakeClock(3_600_000_000)) as fresh:
            with pytest.raises(RequestError, match="have a column 'more'"):
                fresh.push(source, [row_given])
            [summary] = fresh.materialize()
            assert (summary.rows_read, summary.rows_written) == (1, 0)


def test_a_column_that_the_source_got_since(tmp_path: Path) -> None:
    frame = pl.DataFrame(schema=COLUMNS)
    (tmp_path / "data").mkdir()
    frame.write_parquet(tmp_path / "data" / "0.parquet")
    source = ParquetSource("rows", str(tmp_path / "data" / "*.parquet"), event_time="at")
    with project(source) as (store, _, _clock):
        store.push(source, given_rows(("a", 1, 1.0, 1)))
        more = [{**given_rows(("a", 2, 1.0, 1))[0], "more": 1}]
        with pytest.raises(RequestError, match="have a column 'more'"):
            store.push(source, more)
        frame.with_columns(more=pl.lit(None, pl.Int64)).write_parquet(tmp_path / "data" / "0.parquet")
        assert [each.rows_new for each in store.push(source, more)] == [1]


def test_a_log_that_has_grown_is_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featurestore.materialization.push._MOST_SEGMENTS", 3)
    with project() as (store, view, _):
        for minute in range(1, 10):
            store.push("rows", given_rows(("a", minute, 1.0, minute)))
            assert values(store, view) == (1.0, minute)
            assert store.status()[0].rows == minute
        assert [(run.seq, run.state, run.rows_read, run.rows_written) for run in store.runs.list("v")] == [
            (2, "done", 4, 4),
            (1, "done", 4, 4),
        ]
        monkeypatch.setattr("featurestore.materialization.push._MOST_ROWS", 1)
        store.push("rows", given_rows(("a", 11, 1.0, 11)))
        assert next(iter(store.runs.list("v"))).rows_written == 2
        assert [
            each.rows_new for each in store.push("rows", given_rows(*(("a", minute, 1.0, minute) for minute in range(1, 12))))
        ] == [1]


def test_a_dry_run_folds_nothing() -> None:
    with project() as (store, _, _clock):
        store.push("rows", given_rows(("a", 1, 1.0, 1)))
        store.materialize(dry_run=True)
        assert store.runs.list("v") == []


def test_a_fold_leaves_the_cursor_where_it_is(tmp_path: Path) -> None:
    """What a run has read is not read again because something was pushed and folded meanwhile."""
    (tmp_path / "data").mkdir()
    source = ParquetSource("rows", str(tmp_path / "data" / "*.parquet"), event_time="at")
    pl.DataFrame(given_rows(("a", 1, 1.0, 1))).write_parquet(tmp_path / "data" / "0.parquet")
    with project(source) as (store, _, _clock):
        assert [each.rows_read for each in store.materialize()] == [1]
        store.push(source, given_rows(("a", 2, 1.0, 2)))
        assert [each.rows_read for each in store.materialize()] == [0]
        pl.DataFrame(given_rows(("a", 2, 1.0, 2), ("a", 3, 1.0, 3))).write_parquet(tmp_path / "data" / "1.parquet")
        store.push(source, given_rows(("a", 4, 1.0, 4)))
        assert [(each.rows_read, each.rows_written) for each in store.materialize()] == [(2, 1)]


def test_s17_a_push_that_could_not_write_online_is_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    """By pushing the rows again, or by the next materialization."""

    def refuse(entries: Any) -> int:
        raise OnlineStoreError("it is gone")

    with project() as (store, view, _):
        for number, complete in enumerate([lambda: store.push("rows", given_rows(("a", 1, 0.0, 1))), store.materialize], 1):
            with monkeypatch.context() as patch:
                patch.setattr(store.components.online, "write", refuse)
                with pytest.raises(OnlineStoreError):
                    store.push("rows", given_rows(("a", number, 0.0, number)))
            assert values(store, view)[1] == (None if number == 1 else 1)
            complete()
            assert values(store, view)[1] == number


def test_rebuilding_online_takes_what_was_pushed() -> None:
    with project() as (store, view, _):
        store.push("rows", given_rows(("a", 1, 1.0, 1)))
        store.components.online.delete(b"")
        assert values(store, view) == (None, None)
        assert store.admin.rebuild_online() == {"v": 1}
        assert values(store, view) == (1.0, 1)


def push_all(folder: str, first: int, count: int) -> None:
    """Pushes rows in parts of ten, and materializes now and then: what each pusher's process runs."""
    with store_at(Path(folder), FakeClock(3_600_000_000)) as store:
        store.apply([view_of(empty(), {"k": str}, {"x": float | None, "n": int})])
        for start in range(first, first + count, 10):
            store.push("rows", given_rows(*((f"k{n % 7}", n % 50, float(n), n) for n in range(start, start + 10))))
            if start % 50 == 0:
                store.materialize()


def test_s17_processes_that_push_the_same_and_other_rows_at_once(tmp_path: Path) -> None:
    with store_at(tmp_path, FakeClock(3_600_000_000)) as store:
        view = view_of(empty(), {"k": str}, {"x": float | None, "n": int})
        store.apply([view])
        spans = [(0, 100), (0, 100), (50, 100), (100, 100)]
        pushers = [CONTEXT.Process(target=push_all, args=(str(tmp_path), *span)) for span in spans]
        for pusher in pushers:
            pusher.start()
        for pusher in pushers:
            pusher.join()
            assert pusher.exitcode == 0
            pusher.close()
        history = store.sql("from v")
        assert sorted(history["n"].to_list()) == list(range(200))
        store.materialize()
        assert store.sql("from v").sort("n").equals(history.sort("n"))
        for key in range(7):
            best = max((n for n in range(200) if n % 7 == key), key=lambda n: (n % 50, float(n)))
            assert values(store, view, f"k{key}")[1] == best


def test_pushed_rows_are_json_lines_too() -> None:
    """What a service has as JSON it can push as it is."""
    with project() as (store, view, _):
        text = '{"k": "a", "at": "1970-01-01T00:01:00+00:00", "x": 1, "n": 3}'
        store.push("rows", [json.loads(text)])
        assert values(store, view) == (1.0, 3)


def test_an_entity_of_two_views() -> None:
    source = empty()

    class Both(FeatureView, entity=Entity("thing", k=str), source=source):
        n: int

    with project(source) as (store, view, _):
        store.apply([Both])
        assert [each.view for each in store.push(source, given_rows(("a", 1, 1.0, 1)))] == ["both", "v"]
        assert store.online([Both.prefix("b_"), view], [{"k": "a"}]).to_dicts() == [{"k": "a", "b_n": 1, "x": 1.0, "n": 1}]


@pytest.mark.parametrize("name", ["node", "rows", "path", "since"])
def test_s17_a_key_and_a_feature_may_have_any_name(tmp_path: Path, name: str) -> None:
    """What a history calls its own columns is no name of a user's."""
    other = "size" if name != "size" else "until"
    rows = pl.DataFrame({name: ["a", "b"], other: [1, 2], "event": [from_micros(1_577_836_800_000_000)] * 2})
    view = view_of(FrameSource("rows", rows, event_time="event"), {name: str}, {other: int})
    with store_at(tmp_path, FakeClock(1_600_000_000_000_000)) as store:
        store.apply([view])
        store.push("rows", rows)
        spine = pl.DataFrame({name: ["a", "b"], "t": [from_micros(1_577_923_200_000_000)] * 2})
        for _ in range(2):
            assert store.training_frame(spine, "v", time="t")[other].to_list() == [1, 2]
            assert store.sql("from v").height == 2
            store.materialize()
