"""The ledger of runs, on every database."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from featurestore.errors import RegistryError
from featurestore.registry.ledger import Ledger, Run, State
from featurestore.registry.specs import SpecRegistry
from tests.registry.conftest import BEGIN
from tests.registry.processes import at_once
from tests.registry.samples import begin_at_once

SPAN: dict[str, Any] = {"chunks": [{"file": "a.parquet", "rows": [0, 10]}], "cursor": {"at": 1.5, "of": None}}


def run_in(ledger: Ledger, state: State, seq: int = 1) -> Run:
    """Begins a run and brings it into a state."""
    run = ledger.begin("weather", 1, seq, SPAN)
    if state == "done":
        ledger.update(run, state="committed")
    return ledger.update(run, state=state)


def test_before_the_first_run_there_is_none(ledger: Ledger) -> None:
    assert ledger.latest("weather", 1) is None
    assert ledger.last_done("weather", 1) is None
    assert ledger.runs() == []


def test_a_run_begins_at_its_first_attempt(ledger: Ledger) -> None:
    run = ledger.begin("weather", 2, 1, SPAN)
    assert run == Run("weather", 2, 1, "running", SPAN, 0, 0, 0, 0, {}, BEGIN, None, 1, "")
    assert ledger.latest("weather", 2) == run
    assert ledger.latest("weather", 1) is None
    assert ledger.latest("planes", 2) is None


def test_who_begins_second_joins_the_run(ledger: Ledger, open_registry: Callable[[], SpecRegistry]) -> None:
    first = ledger.update(ledger.begin("weather", 1, 1, SPAN), attempts=3)
    second = Ledger(open_registry()).begin("weather", 1, 1, {"chunks": [], "cursor": {}})
    assert second == first
    assert second.span == SPAN


def test_processes_that_begin_at_once_work_on_one_run(url: str, project: str, tmp_path: Path, registry: SpecRegistry) -> None:
    told = at_once(begin_at_once, ["one", "two", "three"], url, project, tmp_path)
    assert len({run for run, _ in told}) == 1
    assert len({chunk["by"] for _, chunk in told}) == 1
    assert len(Ledger(registry).runs()) == 1


def test_the_latest_run_has_the_greatest_number(ledger: Ledger) -> None:
    for seq in (1, 3, 2):
        ledger.begin("weather", 1, seq, SPAN)
    latest = ledger.latest("weather", 1)
    assert latest is not None
    assert latest.seq == 3


def test_the_last_done_run_passes_over_others(ledger: Ledger) -> None:
    run_in(ledger, "done", 1)
    run_in(ledger, "done", 2)
    run_in(ledger, "failed", 3)
    run_in(ledger, "running", 4)
    done = ledger.last_done("weather", 1)
    assert done is not None
    assert done.seq == 2


def test_the_first_record_of_a_chunk_stays(ledger: Ledger) -> None:
    run = ledger.begin("weather", 1, 1, SPAN)
    assert ledger.stage(run, 1, {"rows": 10, "by": [1, "x"]}) == {"rows": 10, "by": [1, "x"]}
    assert ledger.stage(run, 0, {"rows": 7}) == {"rows": 7}
    assert ledger.stage(run, 1, {"rows": 11}) == {"rows": 10, "by": [1, "x"]}
    assert list(ledger.staged(run).items()) == [(0, {"rows": 7}), (1, {"rows": 10, "by": [1, "x"]})]


def test_a_run_that_is_done_drops_its_chunks_and_takes_no_more(ledger: Ledger) -> None:
    run, other = ledger.begin("weather", 1, 1, SPAN), ledger.begin("weather", 1, 2, SPAN)
    ledger.stage(run, 0, {"rows": 7})
    ledger.stage(other, 0, {"rows": 8})
    ledger.update(run, state="committed")
    assert ledger.staged(run) == {0: {"rows": 7}}
    ledger.update(run, state="done")
    assert ledger.staged(run) == {}
    assert ledger.stage(run, 0, {"rows": 9}) == {"rows": 9}
    assert ledger.staged(run) == {}
    assert ledger.staged(other) == {0: {"rows": 8}}


def test_an_update_sets_what_it_is_given(ledger: Ledger) -> None:
    run = ledger.begin("weather", 1, 1, SPAN)
    counts = {"rows_read": 10, "rows_written": 7, "rows_rejected": 2, "reasons": {"temp > 140": 2}}
    committed = ledger.update(run, state="committed", **counts)
    assert (committed.state, committed.rows_read, committed.rows_written, committed.rows_rejected) == ("committed", 10, 7, 2)
    assert committed.reasons == {"temp > 140": 2}
    assert committed.finished_at is None
    again = ledger.update(run, error="the online store cannot be reached", attempts=2)
    assert (again.state, again.error, again.attempts, again.rows_read) == ("committed", "the online store cannot be reached", 2, 10)
    done = ledger.update(run, state="done", rows_online=5, error="", finished_at=BEGIN.replace(hour=3))
    assert (done.state, done.rows_online, done.error, done.finished_at) == ("done", 5, "", BEGIN.replace(hour=3))
    assert ledger.latest("weather", 1) == done
    assert ledger.update(run) == done


STATES: tuple[State, ...] = ("running", "committed", "failed", "done")
GOES_TO: dict[State, tuple[State, ...]] = {
    "running": ("running", "committed", "failed", "done"),
    "committed": ("committed", "done"),
    "failed": ("running", "committed", "failed"),
    "done": (),
}


@pytest.mark.parametrize("after", STATES)
@pytest.mark.parametrize("before", STATES)
def test_no_state_goes_back(ledger: Ledger, before: State, after: State) -> None:
    run = run_in(ledger, before)
    goes = after in GOES_TO[before]
    fresh = ledger.update(run, state=after, rows_read=99)
    assert fresh.state == (after if goes else before)
    assert fresh.rows_read == (99 if goes else 0)
    if not goes:
        assert fresh == run


def test_a_run_that_is_done_is_final(ledger: Ledger) -> None:
    done = run_in(ledger, "done")
    assert ledger.update(done, error="too late", attempts=9) == done


@pytest.mark.parametrize(("state", "finished"), [("committed", False), ("failed", True), ("done", True)])
def test_a_run_that_ends_is_finished_now(ledger: Ledger, state: State, finished: bool) -> None:
    run = run_in(ledger, state)
    assert (run.finished_at == BEGIN.replace(second=1)) is finished


def test_a_run_that_is_resumed_is_not_finished(ledger: Ledger) -> None:
    assert ledger.update(run_in(ledger, "failed"), state="running", attempts=2).finished_at is None


def test_what_cannot_be_set_is_refused(ledger: Ledger) -> None:
    run = ledger.begin("weather", 1, 1, SPAN)
    with pytest.raises(TypeError, match="'span' is not a settable field of a run"):
        ledger.update(run, span={})
    with pytest.raises(ValueError, match="'finished' is not a state of a run"):
        ledger.update(run, state="finished")


def test_runs_are_told_newest_first(ledger: Ledger) -> None:
    for view, seq in (("weather", 1), ("planes", 1), ("weather", 2)):
        ledger.begin(view, 1, seq, SPAN)
    assert [(run.view, run.seq) for run in ledger.runs()] == [("weather", 2), ("planes", 1), ("weather", 1)]
    assert [run.seq for run in ledger.runs("weather")] == [2, 1]
    assert [run.view for run in ledger.runs(limit=2)] == ["weather", "planes"]
    assert ledger.runs("carriers") == []


def test_a_run_that_is_gone_is_told(ledger: Ledger, registry: SpecRegistry) -> None:
    run = ledger.begin("weather", 1, 1, SPAN)
    with registry.database.writing() as connection:
        connection.execute(registry.database.tables.run.delete())
    with pytest.raises(RegistryError, match=r"Run 1 of view 'weather' \(data version 1\) is no longer in the registry"):
        ledger.update(run, state="committed")
    with pytest.raises(RegistryError, match="no longer in the registry"):
        ledger.stage(run, 0, {})


@pytest.mark.parametrize("column", ["span", "reasons"])
def test_a_run_that_cannot_be_read_is_told(ledger: Ledger, registry: SpecRegistry, column: str) -> None:
    ledger.begin("weather", 1, 1, SPAN)
    table = registry.database.tables.run
    with registry.database.writing() as connection:
        connection.execute(table.update().where(table.c.project == registry.project).values({column: "[1"}))
    with pytest.raises(RegistryError, match="Run 1 of view 'weather'"):
        ledger.latest("weather", 1)
    with pytest.raises(RegistryError, match="cannot be read from the registry"):
        ledger.runs()


def test_a_chunk_that_cannot_be_read_is_told(ledger: Ledger, registry: SpecRegistry) -> None:
    run = ledger.begin("weather", 1, 1, SPAN)
    ledger.stage(run, 0, {"rows": 1})
    table = registry.database.tables.chunk
    with registry.database.writing() as connection:
        connection.execute(table.update().where(table.c.project == registry.project).values(body="[]"))
    with pytest.raises(RegistryError, match="cannot be read from the registry"):
        ledger.staged(run)


def test_projects_do_not_meet(url: str, ledger: Ledger, registry: SpecRegistry, tmp_path: Path) -> None:
    ledger.begin("weather", 1, 1, SPAN)
    other = SpecRegistry(url, registry.project + "b", tmp_path, registry.clock)
    assert Ledger(other).latest("weather", 1) is None
    assert Ledger(other).runs() == []
    other.close()


def test_spans_of_backfills_are_known_however_their_json_is_laid_out(ledger: Ledger, registry: SpecRegistry) -> None:
    spans = [{"chunks": [], "cursor": None, "backfill": [1, 2]}, {"chunks": [{"path": '"backfill":[9,9]'}], "cursor": None}]
    for seq, span in enumerate(spans, 1):
        ledger.update(ledger.begin("weather", 1, seq, span), state="committed")
        ledger.update(ledger.begin("weather", 1, seq, span), state="done")
    runs = registry.database.tables.run
    with registry.database.writing() as connection:
        laid_out = '{ "cursor": null, "backfill" : [ 3, 4 ], "chunks": [] }'
        # As a program that does not know the column leaves it.
        connection.execute(runs.update().where(runs.c.seq == 1).values(span=laid_out, backfill=None))
    assert ledger.backfilled("weather", 1) == {(3, 4)}


def test_the_column_alone_says_what_a_run_is_a_backfill_of(ledger: Ledger, registry: SpecRegistry) -> None:
    for seq, backfill in enumerate([{"backfill": [None, 7]}, {}, {"backfill": [8, 9]}, {"backfill": [10, 11]}], 1):
        run = ledger.begin("weather", 1, seq, {"chunks": [], "cursor": None, **backfill})
        ledger.update(run, state="committed")
        if seq < 4:
            ledger.update(run, state="done")
    runs = registry.database.tables.run
    with registry.database.writing() as connection:
        mine = runs.c.project == registry.project
        noted = runs.select().with_only_columns(runs.c.backfill).where(mine).order_by(runs.c.seq)
        assert connection.execute(noted).scalars().all() == ["[null,7]", "", "[8,9]", "[10,11]"]
        connection.execute(runs.update().where(mine).values(span="no JSON"))
    assert ledger.backfilled("weather", 1) == {(None, 7), (8, 9)}, "those that are done; no span is read"


def test_a_column_of_a_backfill_that_cannot_be_read_is_told(ledger: Ledger, registry: SpecRegistry) -> None:
    run = ledger.begin("weather", 1, 1, {"chunks": [], "cursor": None, "backfill": [8, 9]})
    ledger.update(ledger.update(run, state="committed"), state="done")
    runs = registry.database.tables.run
    with registry.database.writing() as connection:
        connection.execute(runs.update().where(runs.c.project == registry.project).values(backfill="[8"))
    with pytest.raises(RegistryError, match=r"Run 1 of view 'weather' \(data version 1\) cannot be read.*Restore"):
        ledger.backfilled("weather", 1)


def test_what_is_booked_is_told_without_the_files_of_all_runs_in_memory(ledger: Ledger) -> None:
    """A cursor names each file of a source, in every run."""
    files = {"chunks": [{"file": "a" * 1_000_000}], "cursor": None}
    for seq in range(1, 11):
        run = ledger.begin("weather", 1, seq, files)
        ledger.update(run, state="committed", rows_written=seq)
    fold = ledger.begin("weather", 1, 11, {"chunks": [{"pushed": 6, "rows": 1}, {"pushed": 7, "rows": 1}], "cursor": None})
    assert ledger.recorded("weather", 1).pushed == 0
    ledger.update(fold, state="committed", rows_written=2)
    tracemalloc.start()
    try:
        recorded = ledger.recorded("weather", 1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert recorded.rows == {seq: seq for seq in range(1, 11)} | {11: 2}
    assert recorded.pushed == 7
    assert peak < 1_000_000
