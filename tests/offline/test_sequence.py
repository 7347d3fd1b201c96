"""The sequence of a table (S17): whoever dies, sleeps or meets others, nothing acknowledged is lost, and nothing is twice."""

import itertools
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl
import pytest
from deltalake import DeltaTable
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from featurestore.errors import OfflineStoreError
from featurestore.locks import FileLocks
from featurestore.offline.base import is_gone
from featurestore.offline.delta import sequence as sequences
from featurestore.offline.delta.eraser import DeltaEraser
from featurestore.offline.delta.files import DeltaFiles
from featurestore.offline.delta.history import DeltaStore
from featurestore.offline.delta.maintenance import DeltaMaintenance
from featurestore.offline.delta.sequence import TableSequence, View
from featurestore.offline.delta.sequence_entries import Intent
from featurestore.offline.delta.table import DeltaState, apply_intent, open_state
from featurestore.offline.folder import Folder
from featurestore.offline.local_folder import LocalFolder
from featurestore.offline.object_folder import ObjectFolder
from featurestore.testing.offline import PLAIN, read, rows, run
from tests.crashes import ROOT
from tests.effort import examples

Key = tuple[str, int]


def frame(*keys: Key) -> pl.DataFrame:
    return rows(*((key, number, number, float(number)) for key, number in keys))


def keys_of(store: DeltaStore) -> list[Key]:
    there = read(store, PLAIN).with_columns(pl.col("event_time").to_physical())
    return sorted(there.select("origin", "event_time").iter_rows())


class Killed(BaseException):
    """A process ends here."""


class Processes(RuleBasedStateMachine):
    """Several processes at one table, of which any may end at any call that others see the effect of, or sleep before it."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.folder = Path(tempfile.mkdtemp())
        self.stores = [DeltaStore(self.place(), locks=FileLocks(self.folder / "_locks")) for _ in range(3)]
        self.there: set[Key] = set()
        self.maybe: set[Key] = set()
        self.forgotten: set[str] = set()
        self.runs: dict[int, tuple[set[Key], list[Any]]] = {}
        self.sleeper: tuple[TableSequence, View] | None = None

    def place(self) -> Folder:
        return LocalFolder(self.folder)

    def acting(self, act: Callable[[], Any], touched: set[Key], kill_at: int | None) -> bool:
        """Lets a process act, and end before or after its n-th change of a file; returns whether it came to its end."""
        calls = itertools.count()
        kind = type(self.place())
        create, delete, applied = kind.create, kind.delete, sequences.apply_intent

        def counted(work: Callable[..., Any]) -> Callable[..., Any]:
            def dying(*arguments: Any, **named: Any) -> Any:
                if next(calls) == kill_at:
                    raise Killed
                answer = work(*arguments, **named)
                if next(calls) == kill_at:
                    raise Killed
                return answer

            return dying

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kind, "create", counted(create))
            patch.setattr(kind, "delete", counted(delete))
            patch.setattr(sequences, "apply_intent", counted(applied))
            try:
                act()
            except Killed:
                self.maybe |= touched - self.there
                return False
        return True

    process = st.integers(0, 2)
    death = st.one_of(st.none(), st.integers(0, 8))
    some_keys = st.sets(st.tuples(st.sampled_from("abcd"), st.integers(0, 30)), min_size=1, max_size=6)

    @rule(at=process, keys=some_keys, kill_at=death)
    def push(self, at: int, keys: set[Key], kill_at: int | None) -> None:
        keys = {key for key in keys if key[0] not in self.forgotten}
        if self.acting(lambda: self.stores[at].log.append(PLAIN, frame(*sorted(keys))), keys, kill_at):
            self.there |= keys

    @rule(at=process, keys=some_keys, folds=st.booleans(), kill_at=death)
    def commit(self, at: int, keys: set[Key], folds: bool, kill_at: int | None) -> None:
        """A run reads the same each time that it is tried, for it is pinned in the ledger."""
        store = self.stores[at]
        number = store.snapshot(PLAIN).last_run + 1
        if number not in self.runs:
            segments = [segment.staged for segment in store.log.segments(PLAIN)] if folds else []
            self.runs[number] = set() if folds else keys, segments
        keys = {key for key in self.runs[number][0] if key[0] not in self.forgotten}
        segments = self.runs[number][1]

        def act() -> None:
            store.commit(PLAIN, number, [store.stage(PLAIN, number, 0, frame(*sorted(keys))), *segments])
            if folds:
                store.log.remove(PLAIN)

        if self.acting(act, keys, kill_at):
            self.there |= keys

    @rule(at=process, kill_at=death)
    def compact(self, at: int, kill_at: int | None) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("featurestore.offline.delta.compaction._SMALL_FILES", 2)
            self.acting(lambda: DeltaMaintenance(self.stores[at]).compact(PLAIN, 10_000), set(), kill_at)

    @rule(at=process)
    def optimize_by_another_library(self, at: int) -> None:
        url = self.stores[at].folder(PLAIN).address().url
        if DeltaTable.is_deltatable(url):
            DeltaTable(url).optimize.compact()

    @rule(at=process, name=st.sampled_from("abcd"))
    def forget(self, at: int, name: str) -> None:
        """Nobody writes meanwhile, for the barrier keeps all out; the one who forgets is not killed here."""
        self.forgotten.add(name)
        entities = pl.DataFrame({"origin": [name]})
        eraser = DeltaEraser(self.stores[at])
        since = eraser.moment(PLAIN.project)
        eraser.erase_waiting(PLAIN, entities, dry_run=False)
        eraser.erase(PLAIN, entities, since, dry_run=False)
        self.there = {key for key in self.there if key[0] != name}
        self.maybe = {key for key in self.maybe if key[0] != name}

    @rule(at=process)
    def fall_asleep(self, at: int) -> None:
        """A process has looked at the table, and is about to push."""
        other = self.stores[at].push_log.sequence(PLAIN)
        self.sleeper = other, other.settle()

    @precondition(lambda self: self.sleeper is not None)
    @rule(key=st.tuples(st.sampled_from("abcd"), st.integers(0, 30)))
    def wake_up(self, key: Key) -> None:
        """It creates the entry that it was about to, of what was new when it looked."""
        assert self.sleeper is not None
        sequence, view = self.sleeper
        self.sleeper = None
        if key in self.there | self.maybe or key[0] in self.forgotten:
            return
        try:
            lookup = sequence.known.find(_hashed(frame(key)), view.state, view.pushes, None)
        except OfflineStoreError as error:
            if is_gone(error):
                return  # somebody was forgotten: it looks again
            raise
        if not lookup.new.is_empty() and sequence.push(view, lookup.new) is not None:
            self.there.add(key)

    @invariant()
    def nothing_is_lost_or_twice(self) -> None:
        for store in self.stores:
            there = keys_of(store)
            assert len(there) == len(set(there)), "a row is there twice"
            assert self.there <= set(there) <= self.there | self.maybe
            assert store.snapshot(PLAIN).rows == len(there)
            state = store.push_log.sequence(PLAIN).look().state
            opened = open_state(state.folder)
            assert state == opened, "what a process knows of the table is not what its log says"
            assert state.files.frame.sort("path").equals(opened.files.frame.sort("path"))
        if self.stores[0].folder(PLAIN).list(""):
            assert self.stores[0].push_log.sequence(PLAIN).lost() == []

    def teardown(self) -> None:
        import shutil

        shutil.rmtree(self.folder)


def _hashed(given: pl.DataFrame) -> pl.DataFrame:
    from featurestore.offline.delta.files import HASH
    from featurestore.rows.buckets import key_hash

    return given.with_columns(key_hash(PLAIN.keys).alias(HASH))


TestProcesses = Processes.TestCase
TestProcesses.settings = settings(
    max_examples=examples(25), stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.generate],
)  # fmt: skip


class ObjectProcesses(Processes):
    """The same in object storage, where a call is a request."""

    url = ""

    def place(self) -> Folder:
        if not hasattr(self, "prefix"):
            self.prefix = uuid4().hex
        return ObjectFolder(f"{self.url}/{self.prefix}")


@pytest.mark.slow
def test_any_story_in_object_storage(s3_url: str) -> None:
    ObjectProcesses.url = s3_url
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        ObjectProcesses, settings=settings(TestProcesses.settings, max_examples=8, stateful_step_count=20)
    )


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """Where histories lie."""
    return LocalFolder(tmp_path) if request.param == "folder" else ObjectFolder(request.getfixturevalue("s3_url"))


@pytest.fixture
def stores(place: Folder, tmp_path: Path) -> tuple[DeltaStore, DeltaStore]:
    """Two processes at one table, which has two runs."""
    locks = FileLocks(tmp_path / "_locks")
    one, other = DeltaStore(place, locks=locks), DeltaStore(place, locks=locks)
    run(one, PLAIN, 1, frame(("a", 1)))
    run(one, PLAIN, 2, frame(("a", 2)))
    return one, other


def entries_of(store: DeltaStore) -> list[str]:
    """The names of the entries that are there."""
    return [file.name for file in store.folder(PLAIN).list("_pushed/") if file.name.endswith(".parquet")]


def claiming(store: DeltaStore, number: int, *keys: Key, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a process claim a run's commit, and end before it is made."""

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(sequences, "apply_intent", die)
        with pytest.raises(Killed):
            run(store, PLAIN, number, frame(*keys))


def fold(store: DeltaStore, number: int) -> None:
    store.commit(PLAIN, number, [segment.staged for segment in store.log.segments(PLAIN)])
    store.log.remove(PLAIN)


def test_what_was_claimed_is_made_by_whoever_writes_next(
    stores: tuple[DeltaStore, DeltaStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = stores
    claiming(one, 3, ("a", 3), ("b", 3), monkeypatch=monkeypatch)
    assert keys_of(other) == [("a", 1), ("a", 2)]  # readers make nothing, and see it once it is made
    appended = other.log.append(PLAIN, frame(("b", 3), ("b", 4)))
    assert (appended.rows.height, appended.known.height) == (1, 1)
    assert keys_of(one) == [("a", 1), ("a", 2), ("a", 3), ("b", 3), ("b", 4)]
    assert one.snapshot(PLAIN).last_run == 3
    assert run(one, PLAIN, 3, frame(("a", 3), ("b", 3))) == 2  # as the run is repeated
    assert keys_of(other) == [("a", 1), ("a", 2), ("a", 3), ("b", 3), ("b", 4)]


def test_a_push_comes_between_a_claim_and_its_version(
    stores: tuple[DeltaStore, DeltaStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pusher makes it, and the one who claimed it goes on as if it had done so itself."""
    one, other = stores
    pushes = iter([frame(("b", 3), ("b", 4))])

    def late(state: DeltaState, number: int, intent: Intent) -> None:
        for given in pushes:
            assert other.log.append(PLAIN, given).known.height == 1
        apply_intent(state, number, intent)

    monkeypatch.setattr(sequences, "apply_intent", late)
    assert run(one, PLAIN, 3, frame(("b", 3))) == 1
    assert keys_of(other) == [("a", 1), ("a", 2), ("b", 3), ("b", 4)]


@pytest.mark.parametrize("again", [False, True], ids=["the run is not repeated", "the run is repeated"])
def test_an_intent_is_void_whose_files_are_gone(
    stores: tuple[DeltaStore, DeltaStore], monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """Another library rewrites the table between the claim and its version: the change is not made, nor is anything else lost."""
    one, other = stores
    url = one.folder(PLAIN).address().url
    monkeypatch.setattr("featurestore.rows.buckets.bits_for.__defaults__", (1,))
    monkeypatch.setattr("featurestore.offline.delta.commit.ROWS_PER_BUCKET", 1)
    monkeypatch.setattr("featurestore.offline.delta.commit._SPLIT_AT", 1)
    claiming(one, 3, *(("c", number) for number in range(5)), monkeypatch=monkeypatch)
    [intent] = one.push_log.sequence(PLAIN).look().pending.values()
    assert intent.removes, "the run does not split the table, so it could not be void"
    DeltaTable(url).optimize.compact()
    assert other.log.append(PLAIN, frame(("c", 1), ("d", 1))).rows.height == 2
    assert keys_of(one) == [("a", 1), ("a", 2), ("c", 1), ("d", 1)]
    assert (other.snapshot(PLAIN).last_run, other.push_log.sequence(PLAIN).look().pending) == (2, {})
    if again:
        assert run(one, PLAIN, 3, frame(*(("c", number) for number in range(5)))) == 4
        assert keys_of(other) == [("a", 1), ("a", 2), *(("c", number) for number in range(5)), ("d", 1)]
    fold(other, 4)
    assert ("d", 1) in keys_of(one)
    assert not other.push_log.sequence(PLAIN).lost()


@pytest.mark.parametrize("entries", [1, 2, 3])
def test_a_sleeper_whose_number_was_anothers_starts_over(stores: tuple[DeltaStore, DeltaStore], entries: int) -> None:
    """What it creates then is passed over by all who look at the table."""
    one, other = stores
    sequence = one.push_log.sequence(PLAIN)
    view = sequence.settle()
    for number in range(entries):
        other.log.append(PLAIN, frame(("b", number)))
    fold(other, 3)
    instants = other.push_log.sequence(PLAIN).instants()
    assert sequence.push(view, _hashed(frame(("b", 0))).with_columns(_corrects=pl.lit(value=False))) is None
    assert sequence.instants().equals(instants)
    for store in stores:
        assert keys_of(store) == [("a", 1), ("a", 2), *(("b", number) for number in range(entries))]
        assert store.snapshot(PLAIN).last_run == 3
    assert one.log.append(PLAIN, frame(("b", 0), ("e", 1))).rows.height == 1
    fold(one, 4)
    assert not entries_of(one)
    assert other.push_log.sequence(PLAIN).instants()[: instants.height].equals(instants)


def test_a_sleeper_whose_commit_has_a_number_that_was_anothers_starts_over(stores: tuple[DeltaStore, DeltaStore]) -> None:
    one, other = stores
    sequence = one.push_log.sequence(PLAIN)
    view = sequence.settle()
    assert run(other, PLAIN, 3, frame(("b", 1))) == 1
    assert sequence.commit(view, Intent("run", [], view.pushed_with(), 3, 0)) is None
    assert one.push_log.sequence(PLAIN).settle().pending == {}
    assert keys_of(one) == [("a", 1), ("a", 2), ("b", 1)]


@pytest.mark.parametrize("writes", ["push", "run"])
def test_a_writer_looks_again_where_a_file_was_removed_since_it_opened_the_table(
    stores: tuple[DeltaStore, DeltaStore], monkeypatch: pytest.MonkeyPatch, writes: str
) -> None:
    """Somebody is forgotten between a writer's look at the table and its look at the rows in it."""
    one, other = stores
    reading, removals = DeltaFiles.read, iter([None])

    def forgetting(self: DeltaFiles, *arguments: Any, **named: Any) -> Any:
        for _ in removals:
            DeltaEraser(other).erase(PLAIN, pl.DataFrame({"origin": ["a"]}), 0.0, dry_run=False)
        return reading(self, *arguments, **named)

    monkeypatch.setattr(DeltaFiles, "read", forgetting)
    rows_given = frame(("a", 1), ("b", 1))
    added = one.log.append(PLAIN, rows_given).rows.height if writes == "push" else run(one, PLAIN, 3, rows_given)
    assert added == 2
    assert not list(removals)
    assert keys_of(one) == [("a", 1), ("b", 1)]


def test_a_change_that_was_claimed_is_kept_where_the_process_is_interrupted(
    stores: tuple[DeltaStore, DeltaStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by Ctrl-C: who is interrupted behind the claim deletes no file that it names."""
    one, other = stores
    monkeypatch.setattr("featurestore.offline.delta.compaction._SMALL_FILES", 2)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sequences, "apply_intent", interrupted)
        with pytest.raises(KeyboardInterrupt):
            DeltaMaintenance(one).compact(PLAIN, 2)
    other.log.append(PLAIN, frame(("b", 1)))
    assert keys_of(one) == [("a", 1), ("a", 2), ("b", 1)]
    assert DeltaMaintenance(other).files(PLAIN) == 2


def test_a_history_whose_pushes_the_version_before_numbered_goes_on(stores: tuple[DeltaStore, DeltaStore]) -> None:
    """Their names had something random behind the number, their table no intents."""
    one, other = stores
    one.log.append(PLAIN, frame(("b", 1)))
    [entry] = entries_of(one)
    folder = one.folder(PLAIN)
    plain = pl.read_parquet(folder.read(entry))
    folder.delete([entry])
    folder.write(entry.replace(".parquet", "-0a1b2c3d.parquet"), plain.write_parquet)
    assert keys_of(other) == [("a", 1), ("a", 2), ("b", 1)]
    assert other.log.append(PLAIN, frame(("b", 1), ("b", 2))).rows.height == 1
    eraser = DeltaEraser(other)
    assert eraser.erase_waiting(PLAIN, pl.DataFrame({"origin": ["b"]}), dry_run=True).pushed == 2
    fold(other, 3)
    assert keys_of(one) == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    assert not entries_of(one)


def start(folder: Path, place: Folder, kind: str, name: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.workers.sequence_worker", str(folder), place.address().url, kind, name]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("kills", [pytest.param(5), pytest.param(60, marks=pytest.mark.slow)])
def test_s17_eight_processes_with_kills_lose_nothing_and_double_nothing(tmp_path: Path, place: Folder, kills: int) -> None:
    """Four push, two run and fold, one compacts and removes files, one reads; all but the reader are killed now and then."""
    draw = random.Random(kills)
    DeltaStore(place, locks=FileLocks(tmp_path / "_locks")).log.append(PLAIN, frame(("first", 0)))
    ages = itertools.count(1)
    kinds = [*(("push", f"push{number}") for number in range(4)), ("run", "run"), ("run", "run"), ("upkeep", "upkeep")]
    alive = [("read", "reader", start(tmp_path, place, "read", "reader"))]
    alive += [(kind, name, start(tmp_path, place, kind, f"{name}-{next(ages)}")) for kind, name in kinds]
    printed: list[str] = []
    try:
        for _ in range(kills):
            time.sleep(draw.uniform(0.5, 1.5))
            kind, name, process = alive.pop(draw.randrange(1, len(alive)))
            process.send_signal(signal.SIGKILL)
            out, error = process.communicate()
            assert process.returncode == -signal.SIGKILL, error
            printed += out.splitlines()
            alive.append((kind, name, start(tmp_path, place, kind, f"{name}-{next(ages)}")))
        (tmp_path / "stop").touch()
        for _, _, process in alive:
            out, error = process.communicate(timeout=120)
            assert process.returncode == 0, error
            printed += out.splitlines()
    finally:
        for _, _, process in alive:
            process.kill()
            process.communicate()
    acknowledged = {(name, int(number)) for name, number in (line.split() for line in printed if line != "done")}
    store = DeltaStore(place, locks=FileLocks(tmp_path / "_locks"))
    there = keys_of(store)
    assert len(there) == len(set(there))
    assert acknowledged <= set(there)
    assert len(acknowledged) >= 4
    assert not store.push_log.sequence(PLAIN).lost()
    fold(store, store.snapshot(PLAIN).last_run + 1)
    assert keys_of(store) == there
