"""Online reads as of an instant before the last write: what training says of it, or missing; never more than was known (S14)."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.clock import from_micros
from tests.effort import examples
from tests.windowed import ANY_ORDER, FEW, Scene, frame_of_events, project, scenes

LATER = 365 * 86_400_000_000


@pytest.mark.parametrize("joined", [False, True], ids=["run", "pushes"])
@settings(FEW, max_examples=examples(8))
@given(scene=scenes(ANY_ORDER).filter(lambda scene: bool(scene.events)), data=st.data())
def test_s7_s14_a_read_at_an_instant_shows_what_was_known_by_then(scene: Scene, data: st.DataObject, joined: bool) -> None:
    view = scene.layout.view(scene.source())
    instants = sorted({each + step for row in scene.events for each in (row.event, row.known) for step in (-1, 0, 1)})
    asked = data.draw(st.lists(st.sampled_from(instants), min_size=1, max_size=4))
    keys = sorted({row.key for row in scene.events})
    events = list(dict.fromkeys(scene.events)) if joined else scene.events
    with project([view], LATER) as (store, _):
        if joined:
            half = data.draw(st.integers(0, len(events)))
            for rows in (events[:half], events[half:]):
                store.push("rows", frame_of_events(rows))
        else:
            store.materialize()
        for t in [*asked, max(row.known for row in events)]:
            found = store.online(view, [{"k": k, "n": n} for k, n in keys], at=from_micros(t))
            statuses: list[list[str]] = list(zip(*found.status.values(), strict=True))
            for key, row, status in zip(keys, found.to_dicts(), statuses, strict=True):
                own = [each for each in events if each.key == key]
                if set(status) == {"missing"}:
                    assert any(each.known > t for each in own), "all of it was known"
                else:
                    wrong: list[Any] = scene.layout.differences(events, key, t, row)
                    assert not wrong
