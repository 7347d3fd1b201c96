"""Windowed values online while what was pushed is folded: each event counts once, whoever writes and in whatever order."""

from pathlib import Path

import polars as pl
import pytest

from featurestore import Entity, FeatureStore, FeatureView, FrameSource, count
from featurestore.clock import from_micros
from featurestore.offline.base import Table
from featurestore.windows.writer import WindowWriter
from tests.projects import INSTANT

NOW = 10**12


@pytest.mark.parametrize("online", ["lmdb:online", "valkey"])
def test_s17_a_value_computed_between_a_folds_commit_and_its_end_takes_no_segment_twice(
    tmp_path: Path, online: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = request.getfixturevalue("valkey_url") if online == "valkey" else online
    rows = pl.DataFrame({"k": ["a", "a"], "at": pl.Series([1, 2]).cast(INSTANT), "id": [1, 2]})
    source = FrameSource("rows", rows.clear(), event_time="at", event_id="id")

    class Events(FeatureView, entity=Entity("thing", k=str), source=source):
        n: int = count().over("7d")

    with FeatureStore(tmp_path, project="between_folds", online=address, clock=lambda: from_micros(NOW)) as store:
        store.apply([Events])
        store.push(source, rows)
        [applied] = store.catalog.views.values()
        writer = WindowWriter("between_folds", store.components.offline, store.components.online, store.components.clock)
        table = Table.of("between_folds", applied)
        [segment] = store.components.offline.log.segments(table)
        # What another process does after the fold's commit, before the segments are tried again and removed.
        apply_segment = WindowWriter.apply_segment

        def meanwhile(self: WindowWriter, *arguments: object) -> int:
            assert writer.rebuild(applied) >= 0
            return apply_segment(self, *arguments)  # type: ignore[arg-type]  # as they came

        monkeypatch.setattr(WindowWriter, "apply_segment", meanwhile)
        store.materialize()
        assert not store.components.offline.log.exists(table, segment.seq)
        assert store.online(Events, [{"k": "a"}], at=from_micros(10)).to_dicts() == [{"k": "a", "n": 2}]
        assert store.training_frame(pl.DataFrame({"k": ["a"], "t": [from_micros(10)]}), Events, time="t")["n"].to_list() == [2]
