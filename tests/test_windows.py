"""Windowed features through the public API, against the oracle: training frames, S6-S12."""

import math
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from featurestore import FeatureStore, ParquetSource
from featurestore.aggregates import AGGREGATES
from featurestore.clock import from_micros
from featurestore.definitions.source import Source
from featurestore.testing import FakeClock
from tests.effort import examples
from tests.projects import store_at
from tests.window_oracle import RULES, Event, same
from tests.windowed import (
    ANSWERS,
    FEW,
    FEW_CASES,
    Case,
    I,
    Layout,
    Scene,
    X,
    cases_of,
    frame_of_events,
    identity,
    project,
    scenes,
    source_of,
    spine_of,
)

NOW = 10**16
"""Later than all."""
HOUR = 3_600_000_000
MORE = settings(FEW, max_examples=examples(9))
DEEP = settings(FEW, max_examples=examples(20))


def compare(store: FeatureStore, view: Any, scene: Scene, *, as_known: bool = True, events: Sequence[Event] | None = None) -> None:
    """Asserts that a training frame is what the oracle says, in order, with the spine's columns before it."""
    spine = spine_of(scene.spine)
    frame = store.training_frame(spine, view, time="t", as_known=as_known)
    assert frame.select(spine.columns).equals(spine, null_equal=True)
    assert frame.columns == [*spine.columns, *(name for name, _, _ in scene.layout.columns)]
    rows = scene.events if events is None else events
    for (key, t), found in zip(scene.spine, frame.to_dicts(), strict=True):
        assert not scene.layout.differences(rows, key, t, found, as_known=as_known)


def test_every_aggregate_is_in_the_oracle() -> None:
    """An aggregate is covered by an entry in ``RULES`` and one in ``ANSWERS``, and by nothing else to be written."""
    assert set(AGGREGATES) == set(RULES) == set(ANSWERS)


@pytest.mark.parametrize("rule", RULES)
@FEW
@given(data=st.data(), as_known=st.sampled_from([True, True, False]))
def test_s6_s7_s8_s9_s10_an_aggregate_equals_the_oracle(rule: str, data: st.DataObject, as_known: bool) -> None:
    scene = data.draw(scenes(cases_of(rule)))
    with project([view := scene.layout.view(scene.source())], NOW) as (store, _):
        store.materialize()
        compare(store, view, scene, as_known=as_known)


@pytest.mark.slow
@DEEP
@given(scene=scenes([case for rule in RULES for case in cases_of(rule)]), as_known=st.booleans())
def test_s6_s7_s8_s9_s10_all_aggregates_equal_the_oracle(scene: Scene, as_known: bool) -> None:
    with project([view := scene.layout.view(scene.source())], NOW) as (store, _):
        store.materialize()
        compare(store, view, scene, as_known=as_known)


def shape(rows: pl.LazyFrame) -> pl.LazyFrame:
    """A row-local transform: rows leave, columns change."""
    return rows.filter(pl.col("i").is_null() | (pl.col("i") != 7)).with_columns(x=pl.col("x") * 2, s=pl.col("s") + "!")


def shaped(row: Event) -> Event:
    x, i, s, b = row.values
    return Event(row.key, row.event, row.available, (None if x is None else x * 2, i, None if s is None else s + "!", b), row.id)


@MORE
@given(scene=scenes(FEW_CASES), as_known=st.booleans())
@example(scene=Scene(Layout(FEW_CASES, ("4us",), "1us"), ids=True, events=[], spine=[(("a", 0), 0)]), as_known=True)
@example(scene=Scene(Layout(FEW_CASES, ("1h",)), ids=False, events=[], spine=[]), as_known=True)
def test_s20_a_transform_shapes_the_rows_first(scene: Scene, as_known: bool) -> None:
    with project([view := scene.layout.view(scene.source(), transform=shape)], NOW) as (store, _):
        store.materialize()
        compare(store, view, scene, as_known=as_known, events=[shaped(row) for row in scene.events if row.values[1] != 7])


@FEW
@given(scene=scenes(FEW_CASES), files=st.integers(1, 3), ends=st.lists(st.integers(-20, 40), max_size=3))
def test_s11_s17_s18_many_buckets_files_and_runs_and_a_sink(scene: Scene, files: int, ends: list[int]) -> None:
    """Rows come in several runs, into several buckets; each spine row is computed in a small batch of its own."""
    events = list({identity(row): row for row in scene.events}.values())  # a row that comes in two runs counts once
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("featurestore.rows.buckets.bits_for.__defaults__", (4,))
        patch.setattr("featurestore.offline.delta.commit.ROWS_PER_BUCKET", 4)
        patch.setattr("featurestore.retrieval.flow._BATCH_ROWS", 3)
        root = Path(folder)
        (root / "data").mkdir()
        options: dict[str, Any] = {"event_time": "event", "available_time": "available", "event_id": "id" if scene.ids else None}
        view = scene.layout.view(ParquetSource("rows", "data/*.parquet", **options))
        clock = FakeClock(NOW)
        with store_at(root, clock, chunk_rows=5) as store:
            frame_of_events(events[::files]).write_parquet(root / "data" / "0.parquet")
            store.apply([view])
            for end in sorted(ends):
                clock.micros = end
                store.materialize()
            clock.micros = NOW
            for number in range(1, files):
                frame_of_events(events[number::files]).write_parquet(root / "data" / f"{number}.parquet")
                store.materialize()
            store.materialize()
            compare(store, view, scene, events=events)
            spine = spine_of(scene.spine)
            frame = store.training_frame(spine, view, time="t")
            sunk = store.training_frame(spine.lazy(), view, time="t", sink="out.parquet").collect()
            assert sunk.schema == frame.schema
            for one, other in zip(sunk.to_dicts(), frame.to_dicts(), strict=True):
                lists = {name for name, value in one.items() if isinstance(value, list)}
                assert all(same(one[name], other[name]) for name in one.keys() - lists)
                assert all(len(one[name]) == len(other[name]) and all(map(same, one[name], other[name])) for name in lists)


def values_at(
    layout: Layout, events: Sequence[Event], *instants: int, ids: bool = False, as_known: bool = True, **options: Any
) -> dict[str, list[Any]]:
    """The features of the entity ``("a", 0)`` at some instants."""
    return values_of(layout, source_of(events, ids=ids), *instants, as_known=as_known, **options)


def values_of(layout: Layout, source: Source, *instants: int, as_known: bool = True, **options: Any) -> dict[str, list[Any]]:
    with project([view := layout.view(source, **options)], NOW) as (store, _):
        store.materialize()
        spine = spine_of([(("a", 0), t) for t in instants])
        return store.training_frame(spine, view, time="t", as_known=as_known).drop("k", "n", "t", "label").to_dict(as_series=False)


def event(at: int, x: float | None = 1.0, *, known: int | None = None, number: int | None = None, i: int | None = None) -> Event:
    return Event(("a", 0), at, at if known is None else known, (x, i, None, None), number)


COUNT = Case("found", "count", X, int)
SUM = Case("total", "sum", X, float)


@pytest.mark.parametrize(("at", "expected"), [(9, 0), (10, 1), (19, 1), (20, 1), (21, 0), (22, 0)])
def test_s7_the_head_is_exact_and_the_tail_lies_on_an_edge(at: int, expected: int) -> None:
    """The event at 10 lies in the tile [9, 12): a window of 9 holds it until t - 9 reaches 12."""
    layout = Layout([COUNT], ("9us",), "3us")
    assert values_at(layout, [event(10)], at)["found"] == [expected]


@pytest.mark.parametrize(("window", "tile"), [("5m", 5), ("12h", 5), ("13h", 60), ("12d", 60), ("13d", 24 * 60), ("30d", 24 * 60)])
def test_s7_default_tiles(window: str, tile: int) -> None:
    layout = Layout([COUNT], (window,))
    [span] = layout.spans
    assert span.tile == tile * 60_000_000
    leaves = span.length + span.tile
    assert values_at(layout, [event(0)], -1, 0, leaves - 1, leaves)["found"] == [0, 1, 1, 0]


def test_s7_what_is_late_counts_once_it_is_known() -> None:
    layout = Layout([COUNT], ("9us",), "3us")
    rows = [event(10, known=15), event(11, known=3)]
    assert values_at(layout, rows, 10, 11, 14, 15)["found"] == [0, 1, 1, 2]
    assert values_at(layout, rows, 9, 10, 11, as_known=False)["found"] == [0, 1, 2]


def test_s9_an_event_is_its_last_version_known() -> None:
    """A correction may change the value, make it null, or take the event to another time, even out of the window."""
    layout = Layout([COUNT, SUM], ("6us",), "2us")
    rows = [event(10, 1.0, number=1), event(10, 5.0, known=12, number=1), event(4, 9.0, known=13, number=1)]
    rows += [event(10, 0.5, number=2), event(10, None, known=14, number=2)]
    found = values_at(layout, rows, 10, 12, 13, 14, ids=True)
    assert found == {"found": [2, 2, 1, 0], "total": [1.5, 5.5, 0.5, 0.0]}
    assert values_at(layout, rows, 5, 10, 12, ids=True, as_known=False) == {"found": [1, 1, 0], "total": [9.0, 9.0, 0.0]}


def test_s9_a_filter_looks_at_the_version_that_counts() -> None:
    layout = Layout([Case("found", "count", X, int, where=cases_of("count")[4].where)], ("6us",), "2us")
    rows = [event(10, 2.0, number=1), event(10, 0.5, known=12, number=1)]
    assert values_at(layout, rows, 11, 12, ids=True)["found"] == [1, 0]


def test_s9_s19_an_event_without_its_id_is_rejected() -> None:
    layout = Layout([COUNT], ("6us",), "2us")
    with project([view := layout.view(source_of([event(10), event(11, number=0)], ids=True))], NOW) as (store, _):
        [summary] = store.materialize()
        assert (summary.rows_written, summary.rows_rejected) == (1, 1)
        assert "event_id" in " ".join(summary.reasons)
        assert store.training_frame(spine_of([(("a", 0), 12)]), view, time="t")["found"].to_list() == [1]


@pytest.mark.parametrize("name", ["event", "available", "id", "x"])
def test_a_feature_may_be_named_like_a_column_of_the_source(name: str) -> None:
    """Its input is kept beside the source's columns, and does not take the place of one that is still needed."""
    cases = [Case(name, "count", I, int), Case("total", "sum", X, float), Case("most", "max", X, float | None)]
    rows = [event(10, 1.5, number=1, i=3), event(11, 2.5, number=2), event(11, 4.5, known=12, number=1, i=4)]
    found = values_at(Layout(cases, ("6us",), "2us"), rows, 11, 12, ids=True)
    assert found == {name: [1, 1], "total": [4.0, 7.0], "most": [2.5, 4.5]}


def test_s9_without_an_id_equal_rows_count_each() -> None:
    layout = Layout([COUNT, SUM], ("6us",), "2us")
    assert values_at(layout, [event(10, 1.5)] * 3, 10) == {"found": [3], "total": [4.5]}


@pytest.mark.parametrize("large", [1e15, 1e300, math.inf, math.nan])
def test_s10_what_lies_outside_leaves_no_trace(large: float) -> None:
    """Running totals, taken off one another, would lose the thousandths beside what came before them."""
    cases = [SUM, Case("middle", "mean", X, float | None), Case("spread", "var", X, float | None)]
    rows = [event(0, large), event(1, -large), event(100, 1e-3), event(104, 3e-3), event(300, large)]
    found = values_at(Layout(cases, ("20us",), "5us"), rows, 105)
    assert found == {"total": [pytest.approx(4e-3, 1e-12)], "middle": [pytest.approx(2e-3, 1e-12)], "spread": [pytest.approx(2e-6)]}


def test_s10_the_spread_of_values_far_from_zero() -> None:
    cases = [Case("spread", "var", X, float | None), Case("width", "std", X, float | None)]
    found = values_at(Layout(cases, ("50us",), "5us"), [event(at, 1e9 + at) for at in range(0, 30, 3)], 30)
    assert found == {"spread": [pytest.approx(82.5, 1e-6)], "width": [pytest.approx(82.5**0.5, 1e-6)]}


def test_s10_integers_are_added_as_integers() -> None:
    layout = Layout([Case("total", "sum", I, int)], ("20us",), "5us")
    assert values_at(layout, [event(at, i=2**53 + 1) for at in range(10)], 12)["total"] == [10 * (2**53 + 1)]


@pytest.mark.parametrize("count", [1024, 1025, 3000])
def test_s10_a_quantile_is_exact_and_then_a_histogram(count: int) -> None:
    """Of signs and sizes of all kinds; at each of the two instants another part of the rows is in the window."""
    draw = random.Random(count)
    values = [draw.choice([-1, 1]) * math.exp(draw.gauss(0, 20)) for _ in range(count)] + [0.0] * (count // 50)
    shares = [0.0, 0.01, 0.25, 0.5, 0.77, 0.99, 1.0]
    layout = Layout([Case(f"q{place}", "quantile", X, float | None, (q,)) for place, q in enumerate(shares)], ("4000us",), "500us")
    rows = [event(draw.randrange(4000), value) for value in values]
    source = source_of(rows[: count // 2], ids=False)
    with project([view := layout.view(source)], NOW) as (store, _):
        store.materialize()
        for part in (rows[count // 2 : -9], rows[-9:]):
            store.push(source, frame_of_events(part))
        compare(store, view, Scene(layout, ids=False, events=rows, spine=[(("a", 0), 4000), (("a", 0), 6300)]))
        for t in (4000, 6300):
            [found] = store.online(view, [{"k": "a", "n": 0}], at=from_micros(t)).to_dicts()
            assert not layout.differences(rows, ("a", 0), t, found)


def test_s12_the_types_are_those_declared() -> None:
    cases = [case for rule in RULES for case in cases_of(rule)[:3]]
    layout = Layout(cases, ("20us",), "5us")
    with project([view := layout.view(source_of([], ids=False))], NOW) as (store, _):
        frame = store.training_frame(spine_of([(("a", 0), 1)]), view, time="t").drop("k", "n", "t", "label")
        types = {float: pl.Float64(), int: pl.Int64(), str: pl.String()}
        declared = {list[kind]: pl.List(dtype) for kind, dtype in types.items()}
        declared |= {**types, **{kind | None: dtype for kind, dtype in types.items()}}
        assert dict(frame.schema) == {case.name: declared[case.annotation] for case in cases}


@pytest.mark.slow
def test_many_rows_over_many_days(tmp_path: Path) -> None:
    """What few rows do not show: windows over hundreds of tiles, and entities of thousands of rows."""
    draw = random.Random(7)
    layout = Layout(FEW_CASES, ("1h", "1d", "30d"))
    start = -20 * 24 * HOUR
    rows = [
        Event(
            (draw.choice("ab"), 0),
            moment := start + draw.randrange(60 * 24 * HOUR),
            moment + draw.choice([0, HOUR, 40 * HOUR]),
            (draw.gauss(0, 1e3), draw.randrange(100), draw.choice("xyz"), draw.random() < 0.5),
            draw.randrange(1500),
        )
        for _ in range(3000)
    ]
    unique = {(row.key, row.id, row.known): row for row in rows}
    spine = [(row.key, row.known + draw.choice([0, HOUR, 30 * 24 * HOUR])) for row in draw.sample(rows, 60)]
    scene = Scene(layout, ids=True, events=list(unique.values()), spine=spine)
    with project([view := layout.view(scene.source())], NOW) as (store, _):
        store.materialize()
        compare(store, view, scene)
