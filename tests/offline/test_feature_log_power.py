"""F1 for the feature log: the power is cut at any flush. Each answer whose append returned is read, once, and the log goes on."""

import random
from pathlib import Path

import pytest

from featurestore import durable
from featurestore.offline.delta import feature_log as delta_log
from featurestore.offline.delta.feature_log import DeltaFeatureLog
from featurestore.testing.feature_log import at, kept, people, rows
from tests.effort import few
from tests.materialization.test_power_cut import CUTS, SEED, Disk

_ROUND = ("append", "append", "append", "append", "compact", "append", "append", "delete", "append", "prune")


def follow(log: DeltaFeatureLog, number: int, there: set[float], gone: set[float]) -> None:
    """Does one thing after the other; what was appended, and what was deleted, is noted once that has returned."""
    act = _ROUND[number % len(_ROUND)]
    if act == "append":
        log.append("p", "model", rows((number, f"p{number}", float(number))))
        there.add(float(number))
    elif act == "compact":
        log.compact("p", "model")
    else:
        first = min(there)
        there.discard(first)
        if act == "delete":
            log.delete("p", "model", people(f"p{first:.0f}"))
        else:
            log.prune("p", "model", at(first + 0.5))
        gone.add(first)


@pytest.mark.parametrize("seed", few(range(3), [0]))
def test_f1_no_answer_that_was_logged_is_lost_by_what_was_not_flushed(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delta_log, "_CHECKPOINT_EVERY", 4)
    monkeypatch.setitem(delta_log._CONFIGURATION, "delta.logRetentionDuration", "interval 0 days")
    draw, kept_at, home = random.Random(SEED + seed), tmp_path / "kept", tmp_path / "project"
    kept_at.mkdir()
    home.mkdir()
    disk, there, gone = Disk(kept_at), set[float](), set[float]()
    cuts: list[tuple[Path, set[float], set[float], int]] = []
    at_work = 0
    wanted = set(draw.sample(range(1, 200), max(25, CUTS)))

    def flush(descriptor: int) -> None:
        disk.flush(descriptor)
        if disk.flushed in wanted:
            target = tmp_path / f"cut-{disk.flushed}"
            disk.cut(home, target, draw)
            cuts.append((target, {*there}, {*gone}, at_work))

    monkeypatch.setattr(durable, "_sync", flush)
    log = DeltaFeatureLog(home)
    while disk.flushed < 200:
        follow(log, at_work, there, gone)
        at_work += 1
    monkeypatch.undo()
    assert len(cuts) > 20
    for target, before, without, number in cuts:
        left = DeltaFeatureLog(target)
        found = [temp for _, temp in kept(left)]
        assert len(found) == len({*found}), f"{target.name}: rows are there twice"
        assert before <= {*found}, f"{target.name}, while at {_ROUND[number % len(_ROUND)]} {number}: rows are lost"
        assert not without & {*found}, f"{target.name}: what was deleted is back"
        left.append("p", "model", rows((number, "new", -1.0)))
        left.compact("p", "model")
        assert {*before, -1.0} <= {temp for _, temp in kept(left)}
