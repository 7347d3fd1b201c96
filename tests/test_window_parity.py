"""Windowed features online: whatever wrote them, a read equals the training frame and the oracle (S14-S18)."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore import FeatureStore
from featurestore.clock import from_micros
from featurestore.testing import FakeClock
from tests.effort import examples, spread
from tests.projects import parquet_of, store_at
from tests.test_semantics import address_of
from tests.window_oracle import RULES, Event, same
from tests.windowed import (
    ANY_ORDER,
    FEW,
    FEW_CASES,
    TAME,
    Layout,
    Scene,
    cases_of,
    frame_of_events,
    identity,
    project,
    scenes,
    spine_of,
)

LATER = 365 * 86_400_000_000
"""When history is replayed: long after all of it."""
SECOND = 1_000_000
ASKED: list[tuple[Any, Any]] = [("a", 0), ("a", -1), ("b", 0), ("b", -1), ("", 0), ("never", 0), (None, 0), ("a", None)]
SOME = settings(FEW, max_examples=examples(5))
DEEP = settings(FEW, max_examples=examples(8))
STORES = ["lmdb", "valkey"]
NO_ZEROS = [*TAME, float("nan"), float("inf")]
"""No -0.0: it is another row than 0.0 to a store, and the same to Python, which counts here how often a row was written."""


def check(store: FeatureStore, view: Any, layout: Layout, events: Sequence[Event], instants: Sequence[int]) -> None:
    """Asserts that online reads at some instants, and the training frame of these, are what the oracle says."""
    frame = store.training_frame(spine_of([(key, t) for t in instants for key in ASKED]), view, time="t").drop("t", "label")
    expected = iter(frame.to_dicts())
    for t in instants:
        found = store.online(view, [{"k": k, "n": n} for k, n in ASKED], at=from_micros(t))
        assert found.to_polars().schema == frame.schema
        for key, online in zip(ASKED, found.to_dicts(), strict=True):
            trained = next(expected)
            assert not layout.differences(events, key, t, trained), "training"
            assert not layout.differences(events, key, t, online), "online"
            # What the oracle leaves open is still one and the same (S16).
            lists = [name for name, case, _ in layout.columns if case.rule == "last_n"]
            assert all(len(online[name]) == len(trained[name]) and all(map(same, online[name], trained[name])) for name in lists)


def instants_after(layout: Layout, now: int, rows: Sequence[Event], draw: Any) -> list[int]:
    """Some instants from ``now`` on, at which nothing is written but windows move."""
    spans = layout.spans
    edges = [row.event + span.length + span.tile * step for row in rows for span in spans for step in (0, 1)]
    near = [edge + step for edge in edges for step in (-1, 0, 1) if edge + step > now]
    later = [now + 1, *(now + span.tile for span in spans), max(now + span.length + span.tile for span in spans)]
    return sorted({now, draw(st.sampled_from(later)), *draw(st.lists(st.sampled_from(near or later), max_size=2))})


@dataclass
class World:
    """A store, what was written to it, and what the time is."""

    store: FeatureStore
    view: Any
    scene: Scene
    written: Counter[tuple[Any, ...]]

    def events(self) -> list[Event]:
        """S17: what was written; a row that came in two writes counts as often as in the one that had it most."""
        rows = {identity(row): row for row in self.scene.events}
        return [rows[which] for which, times in self.written.items() for _ in range(times)]

    def note(self, rows: Sequence[Event]) -> None:
        self.written |= Counter(map(identity, rows))


def play(world: World, clock: Any, data: st.DataObject, *, replay: bool, early: bool) -> None:
    """Waits, batch runs, pushes, rebuilds in any order; after each of them the store is read."""
    scene, store = world.scene, world.store
    source = scene.source()
    spans = scene.layout.spans
    waits = [0, 1, *(span.tile for span in spans), *(span.length for span in spans), *(span.length + span.tile for span in spans)]
    now = data.draw(st.sampled_from([row.known for row in scene.events] or [0]))
    for _ in range(data.draw(st.integers(1, 6))):
        clock.micros = LATER if replay else now
        step = data.draw(st.sampled_from(["batch", "push", "push", "push again", "rebuild", "wait"]))
        if step == "batch":
            store.materialize(end=from_micros(now))
            world.note([row for row in scene.events if row.known <= now])
        elif step == "rebuild":
            store.admin.rebuild_online()
        elif step == "wait":
            now += data.draw(st.sampled_from(waits))
            clock.micros = LATER if replay else now
        elif scene.events:
            rows = data.draw(st.lists(st.sampled_from(scene.events), max_size=5))
            rows = [row for row in rows if row.known <= now + (SECOND if early else 0)]
            for _ in range(2 if step == "push again" else 1):
                store.push(source, frame_of_events(rows))
            world.note(rows)
        # S14: the present is where all that is written is known.
        written = world.events()
        present = max([now, *(row.known for row in written)])
        check(store, world.view, scene.layout, written, instants_after(scene.layout, present, scene.events, data.draw))


@pytest.mark.parametrize("online", STORES)
@SOME
@given(
    scene=st.one_of(scenes(FEW_CASES, floats=NO_ZEROS), scenes(ANY_ORDER, floats=NO_ZEROS)),
    data=st.data(),
    replay=st.sampled_from([False, False, True]),
    early=st.booleans(),
)
def test_s14_s15_s16_s17_s18_any_interleaving_of_writes(
    scene: Scene, data: st.DataObject, replay: bool, early: bool, online: str, request: pytest.FixtureRequest
) -> None:
    """``replay``: all is written long after what it tells of. ``early``: rows come from a clock that is a little ahead."""
    with project([view := scene.layout.view(scene.source())], 0, online=address_of(online, request)) as (store, clock):
        play(World(store, view, scene, Counter()), clock, data, replay=replay, early=early and not replay)


@pytest.mark.slow
@pytest.mark.parametrize("online", STORES)
@DEEP
@given(
    scene=st.one_of(scenes(FEW_CASES, floats=NO_ZEROS), scenes(ANY_ORDER, floats=TAME)),
    data=st.data(),
    replay=st.sampled_from([False, False, True]),
    early=st.booleans(),
)
def test_s14_s15_s16_s17_s18_many_interleavings(
    scene: Scene, data: st.DataObject, replay: bool, early: bool, online: str, request: pytest.FixtureRequest
) -> None:
    with project([view := scene.layout.view(scene.source())], 0, online=address_of(online, request)) as (store, clock):
        play(World(store, view, scene, Counter()), clock, data, replay=replay, early=early and not replay)


@pytest.mark.parametrize("online", ["lmdb", pytest.param("valkey", marks=pytest.mark.slow)])
@pytest.mark.parametrize("rule", RULES)
@settings(FEW, max_examples=examples(2))
@given(data=st.data(), replay=st.booleans())
def test_s16_an_aggregate_replayed(
    rule: str, data: st.DataObject, replay: bool, online: str, request: pytest.FixtureRequest
) -> None:
    """Exactly the rows available by each instant are written, by turns in a run and by a push; then every entity is read."""
    scene = data.draw(scenes(cases_of(rule)).filter(lambda scene: bool(scene.events)))
    pushed = data.draw(st.booleans())
    with project([view := scene.layout.view(scene.source())], 0, online=address_of(online, request)) as (store, clock):
        before = -(10**16)
        for now in sorted({row.known for row in data.draw(st.lists(st.sampled_from(scene.events), min_size=1, max_size=3))}):
            clock.micros = LATER if replay else now
            if pushed:
                store.push(scene.source(), frame_of_events([row for row in scene.events if before < row.known <= now]))
            else:
                store.materialize(end=from_micros(now))
            pushed, before = not pushed, now
            rows = [row for row in scene.events if row.known <= now]
            check(store, view, scene.layout, rows, instants_after(scene.layout, now, rows, data.draw))


def transactions(count: int, *, ids: bool) -> list[Event]:
    """Rows of a few entities over a thousand microseconds, some of them late; with ids, each second corrects the one before."""
    rows = [
        Event(
            ("aab"[number // 2 % 3], 0 if number % 8 < 4 else -1),
            at := (number * 37) % 1000,
            at + (number % 5) * 11,
            (number / 7, number % 9, "xyz"[number % 3], number % 2 == 0),
            number // 2 if ids else None,
        )
        for number in range(count)
    ]
    return list({(row.key, row.id, row.known): row for row in rows}.values())


@pytest.mark.parametrize(("ids", "online"), spread([True, False], STORES))
def test_s15_pushes_and_a_run_at_once(ids: bool, online: str, request: pytest.FixtureRequest) -> None:
    """Several threads push overlapping parts in different orders while a run writes all."""
    rows = transactions(120, ids=ids)
    layout = Layout([cases_of(rule)[0] for rule in RULES], ("60us", "300us"), "20us")
    scene = Scene(layout, ids, rows, [])
    with project([view := layout.view(scene.source())], 2000, online=address_of(online, request)) as (store, _):
        parts = [rows[number * 25 : number * 25 + 50] for number in range(4)]
        with ThreadPoolExecutor(4) as threads:
            done = [threads.submit(store.push, scene.source(), frame_of_events(part[::step])) for part in parts for step in (1, -1)]
            done.append(threads.submit(store.materialize))
            for each in done:
                each.result()
        check(store, view, layout, rows, [2000, 2001, *range(2000, 2400, 77)])


@pytest.mark.parametrize(("kind", "online"), spread(["with lists and ids", "any order"], STORES))
def test_s16_one_row_a_push(kind: str, online: str, request: pytest.FixtureRequest) -> None:
    """Rows come one by one, in the order in which they happened but for a few: each joins what is there."""
    cases, ids = (FEW_CASES, True) if kind == "with lists and ids" else (ANY_ORDER, False)
    rows = [
        Event(("a", 0), at, at + (2 if at % 7 == 0 else 0), (at / 4, at, "xyz"[at % 3], at % 2 == 0), at % 9 if ids else None)
        for at in range(0, 36, 2)
    ]
    rows.sort(key=lambda row: row.known)
    layout = Layout(cases, ("8us", "24us"), "8us")
    scene = Scene(layout, ids, rows, [])
    with project([view := layout.view(scene.source())], 0, online=address_of(online, request)) as (store, clock):
        for number, row in enumerate(rows, 1):
            clock.micros = row.known
            store.push(scene.source(), frame_of_events([row]))
            if number % 3 == 0:
                check(store, view, layout, rows[:number], [row.known, row.known + 9])


@pytest.mark.parametrize("online", STORES)
def test_s9_s17_equal_rows_count_as_often_as_the_write_that_has_most(
    online: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Twelve equal rows lie in three files and many chunks of one run; then they are read again, and pushed."""
    layout = Layout(cases_of("count")[:1] + cases_of("sum")[:1], ("20us",), "5us")
    row, other = Event(("a", 0), 10, 10, (1.5, 1, "s", True)), Event(("a", 0), 11, 11, (4.0, 1, "s", True))
    source = parquet_of(tmp_path / "data", [frame_of_events([row] * 4)] * 3)
    clock = FakeClock(20)
    with store_at(tmp_path, clock, online=address_of(online, request), project=f"p{uuid4().hex}", chunk_rows=3) as store:
        store.apply([view := layout.view(source)])
        steps: list[tuple[Any, list[Event]]] = [
            (lambda: store.materialize(), [row] * 12),
            (lambda: store.materialize(start=from_micros(0)), [row] * 12),
            (lambda: store.push(source, frame_of_events([row] * 5)), [row] * 12),
            (lambda: store.push(source, frame_of_events([other, row, other])), [row] * 12 + [other] * 2),
            (lambda: store.push(source, frame_of_events([other])), [row] * 12 + [other] * 2),
            (lambda: store.push(source, frame_of_events([row] * 13 + [other])), [row] * 13 + [other] * 2),
            (lambda: store.materialize(start=from_micros(0)), [row] * 13 + [other] * 2),
            (lambda: store.admin.rebuild_online(), [row] * 13 + [other] * 2),
        ]
        for write, expected in steps:
            write()
            check(store, view, layout, expected, [20, 30, 34])


@pytest.mark.parametrize("online", STORES)
def test_s14_a_read_just_before_an_edge_and_at_it(online: str, request: pytest.FixtureRequest) -> None:
    """Hours after the last write: the windows' tails pass over tile after tile, and nothing is written."""
    layout = Layout(FEW_CASES, ("1h", "1d", "12d"))
    minute = 60 * SECOND
    rows = [
        Event(("a", 0), at, at, (float(at % 97), at % 11, "s", True))
        for at in (minute * step for step in [0, 1, 4, 5, 59, 60, 61, 600, 1439, 1440, 2880, 12 * 1440])
    ]
    scene = Scene(layout, ids=False, events=rows, spine=[])
    now = rows[-1].event
    edges = [row.event // tile * tile + span.length + tile for row in rows for span in layout.spans for tile in (span.tile,)]
    with project([view := layout.view(scene.source())], now, online=address_of(online, request)) as (store, _):
        store.materialize()
        check(store, view, layout, rows, sorted({edge + step for edge in edges if edge > now for step in (-1, 0)}))


@pytest.mark.parametrize("online", STORES)
def test_s18_what_comes_after_the_window_has_gone(online: str, request: pytest.FixtureRequest) -> None:
    """Rows older than the longest window arrive late, and a correction takes an old event into the window."""
    layout = Layout(FEW_CASES, ("1h", "2h"))
    hour = 3600 * SECOND
    rows = [
        Event(("a", 0), 0, 0, (1.0, 1, "s", True), 1),
        Event(("a", 0), 100 * hour, 100 * hour, (2.0, 2, "s", True), 2),
        Event(("a", 0), 50 * hour, 101 * hour, (3.0, 3, "s", True), 3),
        Event(("a", 0), 100 * hour + 1, 101 * hour + 1, (4.0, 4, "s", True), 1),
        Event(("a", 0), 3 * hour, 101 * hour + 2, (4.0, 4, "s", True), 2),
    ]
    scene = Scene(layout, ids=True, events=rows, spine=[])
    with project([view := layout.view(scene.source())], 0, online=address_of(online, request)) as (store, clock):
        for number, row in enumerate(rows):
            clock.micros = row.known
            store.push(scene.source(), frame_of_events([row]))
            check(store, view, layout, rows[: number + 1], [row.known, row.known + 1, row.known + 2 * hour])


def test_s14_a_push_from_the_future_waits_but_for_a_second() -> None:
    """What lies a second ahead at most is taken, for clocks differ, and a read of the present sees it."""
    layout = Layout(cases_of("count")[:2], ("5s",), "1s")
    rows = [Event(("a", 0), at, at, (1.0, 1, "s", True)) for at in (10 * SECOND, 11 * SECOND, 11 * SECOND + 1)]
    scene = Scene(layout, ids=False, events=rows, spine=[])
    with project([view := layout.view(scene.source())], 10 * SECOND) as (store, _):
        [pushed] = store.push(scene.source(), frame_of_events(rows))
        check(store, view, layout, rows[:2], [11 * SECOND, 12 * SECOND])
        assert store.online(view, [{"k": "a", "n": 0}]).to_dicts() == [{"k": "a", "n": 0, "count0": 2, "count1": 2}]
        assert (pushed.rows_new, pushed.rows_waiting, store.runs.rejected_rows(view).height) == (2, 1, 0)


def test_s16_a_push_reaches_every_view_of_the_source() -> None:
    layout = Layout(cases_of("sum")[:2], ("20us",), "5us")
    wide = Layout(cases_of("last_n")[:2], ("100us",), "10us")
    scene = Scene(layout, ids=True, events=transactions(60, ids=True), spine=[])
    source = scene.source()
    with project([one := layout.view(source), two := wide.view(source, name="w")], 2000) as (store, _):
        store.push(source, frame_of_events(scene.events))
        instants = [2000 + step * 9 for step in range(10)]
        check(store, one, layout, scene.events, instants)
        check(store, two, wide, scene.events, instants)


@pytest.mark.parametrize(("kind", "online"), spread(["with lists", "any order"], STORES))
def test_s15_what_happened_at_once_comes_in_any_order(kind: str, online: str, request: pytest.FixtureRequest) -> None:
    """Rows of one event time, the one known later pushed first; then one older than both. Nothing goes back."""
    layout = Layout(FEW_CASES if kind == "with lists" else ANY_ORDER, ("8us", "24us"), "8us")
    rows = [Event(("a", 0), at, known, (float(known), known, "s", True)) for at, known in [(10, 12), (10, 11), (3, 5), (10, 10)]]
    scene = Scene(layout, ids=False, events=rows, spine=[])
    with project([view := layout.view(scene.source())], 12, online=address_of(online, request)) as (store, _):
        for number, row in enumerate(rows, 1):
            store.push(scene.source(), frame_of_events([row]))
            check(store, view, layout, rows[:number], [12, 16, 20, 40])
            assert store.online(view, [{"k": "a", "n": 0}]).event_time == {"v": [from_micros(10)]}


def test_s14_a_window_that_has_emptied_is_there() -> None:
    """Its entity was seen: a count of nothing is a value, a mean of nothing is null."""
    layout = Layout([cases_of("count")[0], cases_of("mean")[0]], ("8us",), "8us")
    scene = Scene(layout, ids=False, events=[Event(("a", 0), 0, 0, (1.0, 1, "s", True))], spine=[])
    with project([view := layout.view(scene.source())], 0) as (store, _):
        store.materialize()
        asked = [{"k": "a", "n": 0}, {"k": "never", "n": 0}]
        assert store.online(view, asked).status == {"count0": ["present", "missing"], "mean0": ["present", "missing"]}
        later = store.online(view, asked, at=from_micros(99))
        assert later.status == {
            "count0": ["present", "missing"],
            "mean0": ["null", "missing"],
        }


def test_s14_never_seen_has_the_values_of_an_empty_window() -> None:
    layout = Layout([case for rule in RULES for case in cases_of(rule)[:2]], ("1h", "1d"))
    with project([view := layout.view(Scene(layout, ids=False, events=[], spine=[]).source())], 0) as (store, _):
        check(store, view, layout, [], [0, timedelta(days=3) // timedelta(microseconds=1)])
        found = store.online(view, pl.DataFrame({"k": ["never"], "n": [0]}), at=from_micros(0))
        assert {each for statuses in found.status.values() for each in statuses} == {"missing"}
