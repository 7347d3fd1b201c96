"""SEMANTICS through the public API, against the oracle: S1-S6, S11-S16."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from featurestore import FeatureStore
from featurestore.clock import from_micros
from featurestore.errors import NameClashError, RequestError
from featurestore.testing import FakeClock
from tests.effort import examples
from tests.oracle import Row, latest, status, winner
from tests.projects import INSTANT, frame_of, memory_of, parquet_of, same, store_at, view_of

KEYS = {"k": str, "n": int}
FEATURES = {"x": float | None, "i": int | None, "s": str | None}
POLARS = {"x": pl.Float64, "i": pl.Int64, "s": pl.String}
POLARS_KEYS = {"k": pl.String, "n": pl.Int64}
END = 40
FEW = settings(
    max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
FEWER = settings(FEW, max_examples=examples(12))
"""Of a server: what rows mean is worked out before any store is asked; what a store does with them its contract tests."""

entity = st.tuples(st.sampled_from(["a", "b", ""]), st.sampled_from([0, -1]))
maybe_entity = st.tuples(st.none() | st.sampled_from(["a", "b", "", "never"]), st.none() | st.sampled_from([0, -1]))
moment = st.integers(-5, 30)
values = st.tuples(
    st.none() | st.sampled_from([0.0, 1.5, float("nan"), float("-inf"), 1e300]),
    st.none() | st.sampled_from([0, -(2**63), 2**63 - 1]),
    st.none() | st.sampled_from(["", "é", "\x00"]),
)
row = st.builds(lambda key, event, delay, given: Row(key, event, event + delay, given), entity, moment, st.integers(-3, 9), values)
rows_strategy = st.lists(row, max_size=20)
ttls = st.none() | st.integers(1, 12)


@contextmanager
def project(
    rows: list[Row], ttl: int | None, online: str | None = None, *, files: int = 0
) -> Iterator[tuple[FeatureStore, Any, FakeClock]]:
    """A store with one applied view over the rows, in memory or in so many files."""
    with tempfile.TemporaryDirectory() as folder:
        clock = FakeClock(END)
        frame = frame_of(rows, POLARS_KEYS, POLARS)
        parts = [frame[number::files] for number in range(files)]
        source = parquet_of(Path(folder) / "data", parts) if files else memory_of(frame)
        view = view_of(source, KEYS, FEATURES, ttl=None if ttl is None else timedelta(microseconds=ttl))
        with store_at(Path(folder), clock, online=online, project=f"p{uuid4().hex}") as store:
            store.apply([view])
            yield store, view, clock


def spine_of(spine: list[tuple[Any, int]]) -> pl.DataFrame:
    data = [(*key, t, number) for number, (key, t) in enumerate(spine)]
    schema = {"k": pl.String, "n": pl.Int64, "t": pl.Int64, "label": pl.Int64}
    return pl.DataFrame(data, schema=schema, orient="row").with_columns(pl.col("t").cast(INSTANT))


@FEW
@given(rows=rows_strategy, ttl=ttls, spine=st.lists(st.tuples(maybe_entity, moment), max_size=12), as_known=st.booleans())
@example(rows=[], ttl=None, spine=[], as_known=True)
@example(rows=[], ttl=3, spine=[(("a", 0), 1)], as_known=True)
def test_s3_s4_s5_s6_s11_training_frame_equals_oracle(
    rows: list[Row], ttl: int | None, spine: list[tuple[Any, int]], as_known: bool
) -> None:
    """Ties, late and future rows, nulls in keys and values, composite keys, duplicate spine rows, empty inputs."""
    with project(rows, ttl) as (store, view, _):
        store.materialize()
        given_spine = spine_of(spine)
        frame = store.training_frame(given_spine, view, time="t", as_known=as_known)
        assert frame.select(given_spine.columns).equals(given_spine, null_equal=True)
        assert frame.columns == [*given_spine.columns, *FEATURES]
        assert frame.schema == pl.Schema({**given_spine.schema, **POLARS})
        for (key, t), found in zip(spine, frame.select(*FEATURES).rows(), strict=True):
            expected = latest(rows, key, t, ttl=ttl, as_known=as_known) or (None, None, None)
            assert all(same(one, other) for one, other in zip(found, expected, strict=True)), (key, t, found, expected)


@FEW
@given(rows=rows_strategy, ttl=ttls, spine=st.lists(st.tuples(maybe_entity, moment), max_size=12), files=st.integers(1, 3))
def test_s11_a_sink_holds_the_same_rows_in_the_same_order(
    rows: list[Row], ttl: int | None, spine: list[tuple[Any, int]], files: int
) -> None:
    with project(rows, ttl, files=files) as (store, view, _), pytest.MonkeyPatch.context() as patch:
        patch.setattr("featurestore.retrieval.flow._BATCH_ROWS", 5)
        store.materialize()
        frame = store.training_frame(spine_of(spine), view, time="t")
        assert (
            store.training_frame(spine_of(spine).lazy(), view, time="t", sink="out.parquet")
            .collect()
            .equals(frame, null_equal=True)
        )


ADDRESSES = {"lmdb": None, "valkey": "valkey_url", "redis": "redis_server_url", "cluster": "valkey_cluster_url"}
SERVERS = [name for name in ADDRESSES if name != "lmdb"]


def address_of(online: str, request: pytest.FixtureRequest) -> str | None:
    """The address of a real online store of a kind; the test is skipped where there can be none."""
    fixture = ADDRESSES[online]
    return None if fixture is None else request.getfixturevalue(fixture)


def replay(rows: list[Row], ttl: int | None, instants: list[int], files: int, address: str | None) -> None:
    """Writes the rows available by each instant, and nothing else; then reads every entity at that instant."""
    asked = [(k, n) for k in ("a", "b", "", "never", None) for n in (0, -1, None)]
    with project(rows, ttl, address, files=files) as (store, view, clock):
        for t in sorted(instants):
            clock.micros = t
            store.materialize(end=from_micros(t))
            found = store.online(view, [{"k": k, "n": n} for k, n in asked], at=from_micros(t))
            live = store.online(view, [{"k": k, "n": n} for k, n in asked])
            frame = store.training_frame(spine_of([(key, t) for key in asked]), view, time="t").drop("t", "label")
            assert found.to_polars().equals(frame, null_equal=True)
            assert live.to_polars().equals(frame, null_equal=True)
            assert found.status == live.status
            assert all(
                same(one[name], other[name])
                for one, other in zip(found.to_dicts(), frame.to_dicts(), strict=True)
                for name in frame.columns
            )
            for place, name in enumerate(FEATURES):
                assert found.status[name] == [status(rows, key, t, place, ttl=ttl) for key in asked]
            for key, event in zip(asked, found.event_time["v"], strict=True):
                expected = winner(rows, key, t)
                assert event == (None if expected is None else from_micros(expected.event or 0))


replayed = given(rows=rows_strategy, ttl=ttls, instants=st.lists(moment, min_size=1, max_size=4), files=st.integers(1, 3))


@FEW
@replayed
def test_s14_s16_replayed_online_reads_equal_the_training_frame(
    rows: list[Row], ttl: int | None, instants: list[int], files: int
) -> None:
    replay(rows, ttl, instants, files, None)


@pytest.mark.parametrize("online", SERVERS)
@FEWER
@replayed
def test_s14_s16_replayed_reads_of_a_server_equal_the_training_frame(
    rows: list[Row], ttl: int | None, instants: list[int], files: int, online: str, request: pytest.FixtureRequest
) -> None:
    replay(rows, ttl, instants, files, address_of(online, request))


def write_in_parts(rows: list[Row], order: Any, parts: int, address: str | None) -> None:
    """Files arrive one by one in any order, some twice; the online store and the history end as one run leaves them."""
    shuffled = order.sample(rows, len(rows)) + order.sample(rows, len(rows) // 2)
    with project(rows, None, address) as (once, view, _):
        once.materialize()
        asked = [{"k": k, "n": n} for k in ("a", "b", "") for n in (0, -1)]
        expected = once.online(view, asked)
        history = once.sql("select * from v").sort(pl.all(), nulls_last=True)
        with project([], None, address, files=1) as (store, other, _):
            folder = store.settings.root / "data"
            for number in range(parts):
                frame_of(shuffled[number::parts], POLARS_KEYS, POLARS).write_parquet(folder / f"part-{number}.parquet")
                store.materialize()
            assert store.online(other, asked).to_polars().equals(expected.to_polars(), null_equal=True)
            assert store.online(other, asked).event_time == expected.event_time
            assert store.sql("select * from v").sort(pl.all(), nulls_last=True).equals(history, null_equal=True)


written_in_parts = given(rows=rows_strategy, order=st.randoms(use_true_random=False), parts=st.integers(1, 4))


@FEW
@written_in_parts
def test_s15_any_order_and_repetition_of_writes_leaves_the_same(rows: list[Row], order: Any, parts: int) -> None:
    write_in_parts(rows, order, parts, None)


@pytest.mark.parametrize("online", SERVERS)
@FEWER
@written_in_parts
def test_s15_any_order_and_repetition_of_writes_to_a_server_leaves_the_same(
    rows: list[Row], order: Any, parts: int, online: str, request: pytest.FixtureRequest
) -> None:
    write_in_parts(rows, order, parts, address_of(online, request))


def test_s2_nothing_is_known_before_it_happens(tmp_path: Path) -> None:
    with project([Row(("a", 0), 10, 3, (1.0, 1, "x"))], None) as (store, view, _):
        store.materialize()
        frame = store.training_frame(spine_of([(("a", 0), 9), (("a", 0), 10)]), view, time="t")
        assert frame["x"].to_list() == [None, 1.0]


@pytest.mark.parametrize(("t", "expected"), [(9, None), (10, 1.0), (14, 1.0), (15, 1.0), (16, None)])
def test_s3_bounds_are_inclusive_to_the_microsecond(t: int, expected: float | None) -> None:
    with project([Row(("a", 0), 10, 10, (1.0, 1, "x"))], 5) as (store, view, _):
        store.materialize()
        assert store.training_frame(spine_of([(("a", 0), t)]), view, time="t")["x"].to_list() == [expected]
        assert store.online(view, [{"k": "a", "n": 0}], at=from_micros(t)).to_dicts()[0]["x"] == expected


def test_s5_a_null_in_the_winner_is_a_null_feature() -> None:
    rows = [Row(("a", 0), 1, 1, (1.0, 1, "x")), Row(("a", 0), 2, 2, (None, 2, "y"))]
    with project(rows, None) as (store, view, _):
        store.materialize()
        assert store.training_frame(spine_of([(("a", 0), 5)]), view, time="t").select(*FEATURES).row(0) == (None, 2, "y")
        assert store.online(view, [{"k": "a", "n": 0}]).status == {"x": ["null"], "i": ["present"], "s": ["present"]}


def test_s1_naive_aware_and_finer_times_mean_the_same_instant(tmp_path: Path) -> None:
    berlin = timezone(timedelta(hours=2))
    moments: dict[str, pl.Series] = {
        "naive": pl.Series([datetime(2020, 6, 1, 12)]),  # noqa: DTZ001 - naive is what is tested
        "aware": pl.Series([datetime(2020, 6, 1, 14, tzinfo=berlin)]),
        "milli": pl.Series([datetime(2020, 6, 1, 12, tzinfo=UTC)], dtype=pl.Datetime("ms", "UTC")),
        "nano": pl.Series([datetime(2020, 6, 1, 12, tzinfo=UTC)], dtype=pl.Datetime("ns", "UTC")),
    }
    at = datetime(2020, 6, 1, 12, tzinfo=UTC)
    for name, event in moments.items():
        source = memory_of(pl.DataFrame({"k": ["a"], "event": event, "x": [1.0]}), late=False)
        with store_at(tmp_path / name, lambda: at) as store:
            view = view_of(source, {"k": str}, {"x": float})
            store.apply([view])
            store.materialize()
            assert store.online(view, [{"k": "a"}]).event_time == {"v": [at]}
            for spine_name, time in moments.items():
                spine = pl.DataFrame({"k": ["a"], "t": time})
                frame = store.training_frame(spine, view, time="t")
                assert frame["x"].to_list() == [1.0], (name, spine_name)
                assert frame["t"].dtype == time.dtype
            early = pl.DataFrame({"k": ["a"], "t": [at - timedelta(microseconds=1)]})
            assert store.training_frame(early, view, time="t")["x"].to_list() == [None]


def test_s1_s19_a_row_without_a_time_is_rejected_and_counted() -> None:
    rows = [Row(("a", 0), None, 3, (1.0, 1, "x")), Row(("a", 0), 2, None, (1.0, 1, "x")), Row(("a", 0), 1, 1, (2.0, 1, "x"))]
    with project(rows, None, files=1) as (store, view, _):
        [summary] = store.materialize()
        assert (summary.rows_read, summary.rows_written, summary.rows_rejected) == (3, 1, 2)
        assert summary.reasons == {"event is null": 1, "available is null": 1}
        assert store.runs.rejected_rows(view)["_reason"].to_list() == ["event is null", "available is null"]
        assert store.online(view, [{"k": "a", "n": 0}]).to_dicts()[0]["x"] == 2.0


def test_s11_a_spine_row_without_a_time_is_an_error_that_names_how_many() -> None:
    with project([], None) as (store, view, _):
        spine = pl.DataFrame({"k": ["a"] * 3, "n": [0] * 3, "t": pl.Series([0, None, None]).cast(INSTANT)})
        with pytest.raises(RequestError, match="2 of the spine's 3 rows have no time"):
            store.training_frame(spine, view, time="t")
        with pytest.raises(RequestError, match="2 of the spine's 3 rows have no time"):
            store.training_frame(spine, view, time="t", sink="out.parquet")


def test_s13_clashes_name_both_and_show_the_way_out() -> None:
    with project([], None) as (store, view, _):
        spine = spine_of([]).with_columns(x=1)
        with pytest.raises(NameClashError, match=r"the spine's column 'x' and .*\.alias.*\.prefix"):
            store.training_frame(spine, view, time="t")
        with pytest.raises(NameClashError, match=r"feature v\.i and feature v\.x\.alias"):
            store.training_frame(spine_of([]), ["v.i", view.x.alias("i")], time="t")
        with pytest.raises(NameClashError, match="the rows' column 'x'"):
            store.online(view, [{"k": "a", "n": 0, "x": 1}])
        frame = store.training_frame(spine, [view.prefix("p_"), view.x.alias("y")], time="t")
        assert frame.columns[-4:] == ["p_x", "p_i", "p_s", "y"]


def test_the_same_view_twice_by_other_keys() -> None:
    rows = [Row(("a", 0), 1, 1, (1.0, 1, "x")), Row(("b", 0), 1, 1, (2.0, 2, "y"))]
    with project(rows, None) as (store, view, _):
        store.materialize()
        spine = spine_of([(("a", 0), 5)]).with_columns(dest=pl.lit("b"))
        features = [view.x, view.on(k="dest").prefix("dest_"), view.i]
        frame = store.training_frame(spine, features, time="t")
        assert frame.select("x", "dest_x", "dest_i", "dest_s", "i").row(0) == (1.0, 2.0, 2, "y", 1)
        online = store.online(features, [{"k": "a", "n": 0, "dest": "b"}])
        assert list(online.to_dicts()[0]) == ["k", "n", "dest", "x", "dest_x", "dest_i", "dest_s", "i"]
        assert online.to_polars().row(0) == ("a", 0, "b", 1.0, 2.0, 2, "y", 1)
        assert set(online.event_time) == {"v", "dest_v"}
