"""LMDBStore: the contract, and what is LMDB's own."""

import asyncio
import os
import shutil
import signal
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from featurestore.errors import OnlineStoreError
from featurestore.online.base import Entry, Epoch, OnlineLostError
from featurestore.online.lmdb import store as adapter
from featurestore.online.lmdb.store import LMDBStore
from featurestore.testing import FakeClock
from featurestore.testing.online import Make, OnlineStoreContract, version_of, versioned
from tests.processes import CONTEXT

# From Python 3.12 on, a fork beside other threads warns. Services do fork (gunicorn), so the tests do.
pytestmark = pytest.mark.filterwarnings(r"ignore:.*use of fork\(\):DeprecationWarning")

TINY = 1 << 16
START = datetime(2026, 1, 1, tzinfo=UTC)


def write_until_killed(path: Path, begun: Event) -> None:
    """Writes ever newer versions of many keys: what the process runs that is killed."""
    store = LMDBStore(path)
    version = 0
    while True:
        store.write([Entry(b"%d" % number, versioned(version)) for number in range(200)])
        version += 1
        begun.set()


def in_fork(work: Callable[[], bool]) -> bool:
    """Returns what some work returns in a forked child, where False also stands for an exception."""
    child = os.fork()
    if not child:
        done = False
        try:
            done = work()
        finally:
            os._exit(0 if done else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class TestLMDBStore(OnlineStoreContract):
    @pytest.fixture
    def make(self, tmp_path: Path) -> Make:
        return partial(LMDBStore, tmp_path / "online", clock=partial(START.replace))

    def remaining_ms(self, store: LMDBStore, key: bytes) -> int | None:
        assert store._files is not None
        transaction = store._files.begin()
        try:
            record = transaction.get(key)
        finally:
            store._files.end(transaction)
        assert record is not None
        expiry = int.from_bytes(record[:8], "big")
        return expiry - int(START.timestamp() * 1000) if expiry else None

    def test_sweep_drops_what_has_expired(self, tmp_path: Path) -> None:
        clock = FakeClock(START)
        store = LMDBStore(tmp_path, clock=clock)
        long = b"k" * 600
        keys = [b"never", b"soon", b"late", long, b"gone already"]
        store.write([Entry(key, b"1", ttl_ms) for key, ttl_ms in zip(keys, [None, 1000, 2000, 1000, -1], strict=True)])
        assert store.sweep() == 1
        clock.advance(timedelta(milliseconds=999))
        assert store.sweep() == 0
        clock.advance(timedelta(milliseconds=1))
        assert store.read(keys) == [b"1", b"1", b"1", b"1", None]  # readers look at the ttl in the row, not at this one
        assert store.sweep() == 2
        assert store.read(keys) == [b"1", None, b"1", None, None]
        clock.advance(timedelta(days=1))
        assert store.sweep() == 1
        assert store.sweep() == 0
        assert store.read([b"never"]) == [b"1"]
        store.close()

    def test_an_expired_record_is_still_the_newer_one(self, tmp_path: Path) -> None:
        clock = FakeClock(START)
        store = LMDBStore(tmp_path, clock=clock)
        store.write([Entry(b"k", b"2", 1000)])
        clock.advance(timedelta(seconds=5))
        assert store.write([Entry(b"k", b"1")]) == 0
        assert store.write([Entry(b"k", b"3", 1000)]) == 1
        assert store.sweep() == 0
        store.close()

    def test_sweeps_and_deletes_in_short_transactions(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(adapter, "_DELETES_A_TRANSACTION", 7)
        monkeypatch.setattr(adapter, "_VISITS_A_TRANSACTION", 11)
        monkeypatch.setattr(adapter, "_WRITES_A_TRANSACTION", 13)
        clock = FakeClock(START)
        store = LMDBStore(tmp_path, clock=clock)
        store.write([Entry(b"a/%d" % number, b"1", 1000 if number % 3 else None) for number in range(200)])
        stem = b"b" * 490
        store.write([Entry(stem + b"%d/" % (number % 2) + b"x" * number, b"1") for number in range(100)])
        clock.advance(timedelta(seconds=1))
        assert store.sweep() == 133
        assert store.delete(b"a/") == 67
        assert store.delete(stem + b"1/") == 50
        assert store.delete(b"") == 50
        store.close()

    def test_d39_many_keys_are_not_read_on_the_event_loop(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each may lie on a page that is not in memory, and all else on the loop would wait for the disk."""
        store = LMDBStore(tmp_path)
        threads: list[int] = []

        def read(keys: list[bytes]) -> list[None]:
            threads.append(threading.get_ident())
            return [None] * len(keys)

        monkeypatch.setattr(store, "read", read)
        for number in (1, 1_000, 1_001):
            assert asyncio.run(store.read_async([b"k"] * number)) == [None] * number
        store.close()
        here = threading.get_ident()
        assert [thread == here for thread in threads] == [True, True, False]

    def test_the_map_grows(self, tmp_path: Path) -> None:
        store = LMDBStore(tmp_path, map_size=TINY)
        other = LMDBStore(tmp_path)
        entries = [Entry(b"%d" % number, versioned(number)) for number in range(2000)]
        reading = threading.Event()
        failures: list[Exception] = []

        def read() -> None:
            try:
                while not reading.is_set():
                    for value in other.read([entry.key for entry in entries[::100]]):
                        version_of(value)
            except OnlineStoreError as error:
                failures.append(error)

        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        for start in range(0, len(entries), 100):
            assert store.write(entries[start : start + 100]) == 100
        reading.set()
        for reader in readers:
            reader.join()
        assert failures == []
        assert store.write([Entry(b"large", b"x" * (8 << 20))]) == 1
        assert store.read([b"large"]) == [b"x" * (8 << 20)]
        assert other.read([b"1999"]) == [versioned(1999)]
        other.close()
        store.close()

    def test_a_map_that_another_process_grew(self, tmp_path: Path) -> None:
        def fill(first: int) -> bool:
            return store.write([Entry(b"%d" % number, versioned(number)) for number in range(first, first + 500)]) == 500

        store = LMDBStore(tmp_path, map_size=TINY)
        assert store.write([Entry(b"mine", b"1")]) == 1
        assert in_fork(partial(fill, 0))
        assert store.read([b"499", b"mine"]) == [versioned(499), b"1"]
        assert in_fork(partial(fill, 500))
        assert store.write([Entry(b"mine", b"2")]) == 1
        assert store.sweep() == 0
        assert store.delete(b"99") == 11
        store.close()

    def test_a_forked_child_opens_its_own(self, tmp_path: Path) -> None:
        store = LMDBStore(tmp_path)
        store.write([Entry(b"parent", b"1")])

        def child() -> bool:
            grandchild = in_fork(lambda: store.read([b"parent"]) == [b"1"])
            ours = store.write([Entry(b"child", b"1")]) == 1
            return grandchild and ours and store.read([b"parent", b"child"]) == [b"1", b"1"]

        for _ in range(3):
            stop = threading.Event()

            def read(stop: threading.Event = stop) -> None:
                while not stop.is_set():
                    assert store.read([b"parent"]) == [b"1"]

            reader = threading.Thread(target=read)
            reader.start()
            assert in_fork(child)
            stop.set()
            reader.join()
            assert store.read([b"child"]) == [b"1"]
            store.delete(b"child")
        assert store.write([Entry(b"parent", b"2")]) == 1
        store.close()

    def test_a_killed_writer_leaves_whole_batches(self, tmp_path: Path) -> None:
        """S15, S17: what a batch had written when its process was killed is either all there or not at all."""
        store = LMDBStore(tmp_path)
        for _ in range(2):
            begun = CONTEXT.Event()
            writer = CONTEXT.Process(target=write_until_killed, args=(tmp_path, begun))
            writer.start()
            assert begun.wait(30)
            before = version_of(store.read([b"0"])[0])
            os.kill(writer.pid or 0, signal.SIGKILL)
            writer.join()
            writer.close()
            versions = {version_of(value) for value in store.read([b"%d" % number for number in range(200)])}
            assert len(versions) == 1
            assert versions.pop() >= before >= 0
            assert store.write([Entry(b"after", b"1")]) == 1  # the lock of the dead writer is free
            store.delete(b"")
        store.close()

    def test_stores_of_one_folder_share_its_files(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(tmp_path / "online")
        one, two = LMDBStore(tmp_path / "online"), LMDBStore(tmp_path / "link")
        one.write([Entry(b"a", b"1")])
        one.close()
        assert two.read([b"a"]) == [b"1"]
        two.close()
        three = LMDBStore(tmp_path / "online")
        assert asyncio.run(three.read_async([b"a"])) == [b"1"]
        three.close()

    def test_a_store_that_was_not_closed(self, tmp_path: Path) -> None:
        LMDBStore(tmp_path).write([Entry(b"a", b"1")])
        store = LMDBStore(tmp_path)
        assert store.read([b"a"]) == [b"1"]
        store.close()

    def test_a_folder_that_was_deleted_and_made_again(self, tmp_path: Path) -> None:
        old = LMDBStore(tmp_path / "online")
        old.write([Entry(b"a", b"1")])
        shutil.rmtree(tmp_path / "online")
        new = LMDBStore(tmp_path / "online")
        assert new.read([b"a"]) == [None]
        assert new.write([Entry(b"a", b"0")]) == 1
        assert old.read([b"a"]) == [b"0"]
        old.close()
        new.close()

    def test_something_else_in_the_folder(self, tmp_path: Path) -> None:
        (tmp_path / "data.mdb").write_bytes(os.urandom(10_000))
        with pytest.raises(
            OnlineStoreError, match=r"not an LMDB file, or no longer.*give the online store a folder of its own.*--rebuild-online"
        ):
            LMDBStore(tmp_path)

    def test_a_file_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for path in (tmp_path / "file", tmp_path / "file" / "online"):
            with pytest.raises(OnlineStoreError, match="A file is in the way"):
                LMDBStore(path)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_folder_of_someone_else(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        with pytest.raises(OnlineStoreError, match="right to read and write"):
            LMDBStore(tmp_path / "online")

    def test_a_full_disk(self, tmp_path: Path) -> None:
        store = LMDBStore(tmp_path)
        store.write([Entry(b"a", b"1")])

        def fill() -> bool:
            import resource

            # The kernel's limit on a file's size stands for the disk's: writing fails in the same place.
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
            with pytest.raises(OnlineStoreError, match="could not be written"):
                store.write([Entry(b"b", b"x" * (4 << 20))])
            return store.read([b"a", b"b"]) == [b"1", None]

        assert in_fork(fill)
        assert store.write([Entry(b"b", b"1")]) == 1
        store.close()

    @pytest.mark.parametrize("size", [1, 4096, 8192, 12_288, 0.5, 0.99])
    def test_a_file_that_was_cut_is_an_error_and_no_signal(self, tmp_path: Path, size: float) -> None:
        entries = [Entry(b"%d" % number, bytes(2_000)) for number in range(200)]
        store = LMDBStore(tmp_path)
        store.write(entries)
        whole = (tmp_path / "data.mdb").stat().st_size
        os.truncate(tmp_path / "data.mdb", int(size if size >= 1 else whole * size))

        def ask() -> bool:
            for call in (lambda: store.read([b"7"]), lambda: store.write(entries), store.check, store.sweep):
                with pytest.raises(OnlineStoreError, match=r"cut short.*delete it.*--rebuild-online"):
                    call()
            return True

        assert in_fork(ask) or ask()
        store.close()
        with pytest.raises(OnlineStoreError, match=r"--rebuild-online"):
            LMDBStore(tmp_path)

    def test_files_are_their_owners_alone(self, tmp_path: Path) -> None:
        store = LMDBStore(tmp_path / "own" / "online")
        store.write([Entry(b"a", b"1")])
        store.marks.place(Epoch(b"!", b"one"))
        store.close()
        files = [each for each in (tmp_path / "own").rglob("*") if each.is_file()]
        assert {each.name for each in files} == {"data.mdb", "lock.mdb", "online.written"}
        assert {each.stat().st_mode & 0o777 for each in files} == {0o600}
        assert (tmp_path / "own" / "online").stat().st_mode & 0o777 == 0o700

    def test_what_others_have_too_does_not_keep_keys_from_being_erased(self, tmp_path: Path) -> None:
        same = b"the very same row of both of them"
        store = LMDBStore(tmp_path)
        keys = [b"p/r/v/1/{somebody's name}", b"p/other/v/1/{somebody's name}", b"p/r/v/1/{another one's}"]
        store.write([Entry(key, same) for key in keys])
        assert store.delete(b"p/r/", keys=keys[:1]) == 1
        assert store.read(keys) == [None, same, same]
        data = (tmp_path / "data.mdb").read_bytes()
        assert keys[0] not in data
        assert keys[1] in data
        store.close()

    def test_a_folder_put_back_from_an_older_copy_is_noticed(self, tmp_path: Path) -> None:
        epoch = Epoch(b"!", b"one")
        store = LMDBStore(tmp_path / "online")
        store.marks.place(epoch)
        store.write([Entry(b"a", b"1")], epoch=epoch)
        shutil.copytree(tmp_path / "online", tmp_path / "copy")
        for number in range(2, 5):
            store.write([Entry(b"a", b"%d" % number)], epoch=epoch)
        assert store.marks.look(epoch) == []
        shutil.rmtree(tmp_path / "online")
        shutil.copytree(tmp_path / "copy", tmp_path / "online")
        # The store that is open follows to the files that lie there now.
        with pytest.raises(OnlineLostError, match="put back from an older copy"):
            store.write([Entry(b"a", b"5")], epoch=epoch)
        assert store.marks.look(epoch)
        store.marks.place(epoch)
        assert store.write([Entry(b"a", b"6")], epoch=epoch) == 1
        store.close()


@pytest.mark.parametrize("writes", [1, 2, 5])
def test_s15_a_copy_that_is_some_writes_old_is_noticed_by_the_next_write(tmp_path: Path, writes: int) -> None:
    path, copy, epoch = tmp_path / "online", tmp_path / "copy", Epoch(b"!", b"one")
    with closing(LMDBStore(path)) as store:
        store.marks.place(epoch)
        store.write([Entry(b"a", b"1")], epoch=epoch)
    shutil.copytree(path, copy)
    with closing(LMDBStore(path)) as store:
        for number in range(writes):
            assert store.write([Entry(b"b%d" % number, b"1")], epoch=epoch) == 1
    shutil.rmtree(path)
    shutil.copytree(copy, path)
    with closing(LMDBStore(path)) as store:
        with pytest.raises(OnlineLostError, match="older copy"):
            store.write([Entry(b"c", b"1")], epoch=epoch)
        assert store.marks.look(epoch)
        assert store.read([b"a", b"c"]) == [b"1", None]
        store.marks.place(epoch)
        assert store.write([Entry(b"c", b"1")], epoch=epoch) == 1


@pytest.mark.parametrize("how", ["deleted", "put back from a copy"])
def test_s15_who_only_reads_follows_a_folder_that_was_made_anew(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "_LOOK_SECONDS", 0.0)  # no need to wait for the next look
    path, copy = tmp_path / "online", tmp_path / "copy"
    with closing(LMDBStore(path)) as store:
        store.write([Entry(b"a", b"1")])
    shutil.copytree(path, copy)
    with closing(LMDBStore(path)) as reader:
        assert reader.read([b"a"]) == [b"1"]
        shutil.rmtree(path)
        if how != "deleted":
            shutil.copytree(copy, path)
        # By another process: one process has a folder open once.
        assert in_fork(lambda: LMDBStore(path).write([Entry(b"a", b"2")]) == 1)
        assert reader.read([b"a"]) == [b"2"]
        assert asyncio.run(reader.read_async([b"a"])) == [b"2"]
