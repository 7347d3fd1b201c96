"""The contract of folders: every adapter's tests subclass it."""

import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from threading import Barrier, Event
from uuid import uuid4

import pytest

from featurestore.clock import to_micros, utc_now
from featurestore.offline.folder import Folder

Make = Callable[[], Folder]
"""Opens a folder on what the test's own folder is open on; it can be sent to another process."""

NAMES = (
    "a b/ c", "ü/é ö", "日本/語", "x%20y", "x%",
    "a+b", "a&b=c", "a#b", "a,b;c", "a'b(c)!", "a@b:c",
    "=1/_bucket=07/part-0.parquet", "Z", "z",
)  # fmt: skip
"""Names that something on the way might write otherwise."""
ORDER = ("o/b-a", "o/b.a", "o/b/a", "o/b/c/d", "o/b0", "o/ba", "o/c")
"""By their letters. A store that has folders may order them otherwise, ``b/a`` first."""
WRITERS = 8


def create_all(make: Make, writer: int, rounds: int) -> list[str | None]:
    """Create the files ``race/0`` and so on, and return the stamps."""
    folder = make()
    return [folder.create(f"race/{number}", b"%d " % writer + uuid4().bytes) for number in range(rounds)]


def count_up(make: Make, times: int) -> None:
    """Add one to the number in the file ``count``, again and again, by comparison."""
    folder = make()
    for _ in range(times):
        while True:
            entry = folder.head("count")
            assert entry is not None
            number = int(folder.read("count").split()[0])
            if folder.swap("count", b"%d %s" % (number + 1, uuid4().hex.encode()), entry.stamp) is not None:
                break


class FolderContract:
    """What every folder does. Subclasses give the fixture ``make``.

    Attributes:
        clock_error: by how many seconds the clock of what keeps the files may differ from this machine's, and what it rounds off.
        rounds: how often threads create the same file at once.
    """

    clock_error = 2.0
    rounds = 20

    @pytest.fixture
    def make(self) -> Make:
        raise NotImplementedError("the adapter's tests bring what opens a folder of their own")

    @pytest.fixture
    def folder(self, make: Make) -> Folder:
        return make()

    def test_there_is_nothing_at_first(self, folder: Folder) -> None:
        assert (list(folder.list("")), list(folder.list("a/")), folder.head("a"), folder.head("a/b")) == ([], [], None, None)
        with pytest.raises(FileNotFoundError):
            folder.read("a/b")
        with pytest.raises(FileNotFoundError):
            folder.read("a/b", start=1, length=2)
        folder.delete(["a/b", "c"], lasting=True)
        folder.delete([])

    def test_a_file_is_what_was_written(self, folder: Folder) -> None:
        before = to_micros(utc_now()) / 1e6
        stamp = folder.create("a/b", b"one")
        assert stamp
        entry = folder.head("a/b")
        assert entry is not None
        assert (entry.name, entry.size, entry.stamp) == ("a/b", 3, stamp)
        assert before - self.clock_error <= entry.modified <= to_micros(utc_now()) / 1e6 + self.clock_error
        assert list(folder.list("a/")) == list(folder.list("")) == [entry]
        assert folder.head("a") is None
        assert folder.read("a/b") == b"one"
        assert folder.create("a/b", b"another") is None
        assert folder.read("a/b") == b"one"
        folder.write("a/b", b"two, and more")
        [changed] = folder.list("a/")
        assert (changed.name, changed.size) == ("a/b", 13)
        assert changed.stamp != stamp
        assert folder.read("a/b") == b"two, and more"
        folder.delete(["a/b", "a/none"])
        assert (folder.head("a/b"), list(folder.list("a/"))) == (None, [])
        assert folder.create("a/b", b"three")

    @pytest.mark.parametrize("size", [0, 1, 10 << 20])
    def test_contents_of_any_size(self, folder: Folder, size: int) -> None:
        content = bytes(range(256)) * (size // 256 + 1)
        content = content[:size]
        stamp = folder.create("a", content)
        assert stamp
        assert folder.read("a") == content
        assert folder.swap("a", content[:-1] + b"!", stamp)
        folder.write("b", content)
        assert [entry.size for entry in folder.list("")] == [max(size, 1), size]
        assert folder.read("b") == content

    @pytest.mark.parametrize(
        ("start", "length", "expected"),
        [(0, 3, b"012"), (8, 10, b"89"), (10, 5, b""), (12, 5, b""), (3, 0, b""), (4, None, b"456789"), (99, None, b"")],
    )
    def test_a_part_of_a_file(self, folder: Folder, start: int, length: int | None, expected: bytes) -> None:
        folder.write("ten", b"0123456789")
        assert folder.read("ten", start=start, length=length) == expected
        folder.write("empty", b"")
        assert folder.read("empty", start=start, length=length) == b""

    def test_names_are_kept_to_the_letter(self, folder: Folder) -> None:
        for name in NAMES:
            assert folder.create(name, name.encode()), name
        assert [entry.name for entry in folder.list("")] == sorted(NAMES)
        for name in NAMES:
            assert folder.read(name) == name.encode()
            entry = folder.head(name)
            assert entry is not None
            assert entry.name == name
            assert folder.swap(name, b"swapped", entry.stamp), name
            folder.write(name, b"written")
            assert name in [listed.name for listed in folder.list(name)]
        folder.delete(NAMES)
        assert list(folder.list("")) == []

    def test_a_listing_is_by_name_and_begins_behind_one(self, folder: Folder) -> None:
        for name in (*ORDER, "p", "n/x"):
            folder.create(name, name.encode())
        assert [entry.name for entry in folder.list("o/")] == list(ORDER)
        for prefix in ("o/b", "o/b/", "o/b/c", "o/b/c/", "o/ba", "o/x", "o/b/a"):
            assert [entry.name for entry in folder.list(prefix)] == [name for name in ORDER if name.startswith(prefix)], prefix
        for after in (
            *ORDER,
            "",
            "a",
            "o",
            "o/",
            "o/b",
            "o/b/",
            "o/b-",
            "o/b.",
            "o/b/b",
            "o/b/c",
            "o/b/c/",
            "o/b1",
            "o/c/",
            "p",
            "z",
        ):
            assert [entry.name for entry in folder.list("o/", after=after)] == [name for name in ORDER if name > after], after
            assert [entry.name for entry in folder.list("o/b", after=after)] == [
                name for name in ORDER if name > after and name.startswith("o/b")
            ], after
        assert [entry.name for entry in folder.list("", after="o/c")] == ["p"]

    def test_a_listing_of_many(self, folder: Folder) -> None:
        """More than come in one answer of a server; and they are deleted at once."""
        names = [f"many/{number:08d}.parquet" for number in range(1, 1201)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: folder.write(name, name.encode()), names))
        folder.write("many.other", b"")
        entries = folder.list("many/")
        assert [entry.name for entry in entries] == names
        assert len({entry.stamp for entry in entries}) == 1200
        for number in (0, 1, 500, 999, 1000, 1001, 1199, 1200):
            assert [entry.name for entry in folder.list("many/", after=f"many/{number:08d}.parquet")] == names[number:]
        folder.delete([*names, "many/none"])
        assert [entry.name for entry in folder.list("")] == ["many.other"]

    def test_the_folders_below(self, folder: Folder) -> None:
        for name in ("v/a/1", "v/a/b/2", "v/a-b/3", "v/c", "w/d/4", "x"):
            folder.write(name, b"here")
        assert list(folder.folders("v/")) == ["v/a-b/", "v/a/"]
        assert list(folder.folders("")) == ["v/", "w/"]
        assert list(folder.folders("v/c/")) == list(folder.folders("y/")) == []

    def test_the_stamps_of_several(self, folder: Folder) -> None:
        names = [f"log/{number:020d}.json" for number in range(98, 112)]
        for name in (*names[:-1], "log/_last"):
            folder.write(name, name.encode())
        stamps = {entry.name: entry.stamp for entry in folder.list("")}
        for asked in ([names[-2], "log/_last", names[-1]], names, names[:1], ["log/_last"], ["log/none"], [f"log/{0:020d}.json"]):
            assert list(folder.stamps(asked)) == [stamps.get(name) for name in asked]
        assert list(folder.stamps(["other/1", "other/2"])) == [None, None]

    def test_a_file_that_something_writes(self, folder: Folder) -> None:
        assert folder.write("deep/er/file", lambda file: file.writelines([b"in ", b"parts"])) == 8
        assert folder.read("deep/er/file") == b"in parts"
        assert folder.write("deep/er/file", b"") == 0

    def test_a_folder_inside(self, folder: Folder) -> None:
        inside = folder.inside("project/view").inside("v1/")
        assert not [*inside.list(""), *inside.folders("")]
        stamp = inside.create("a/b", b"one")
        assert stamp
        folder.write("project/view/v10/a", b"another's")
        assert [entry.name for entry in inside.list("")] == ["a/b"]
        assert [entry.name for entry in inside.list("a/", after="a/a")] == ["a/b"]
        assert list(inside.folders("")) == ["a/"]
        assert inside.stamps(["a/b"]) == folder.stamps(["project/view/v1/a/b"]) == [stamp]
        assert inside.address("a/b") == folder.address("project/view/v1/a/b")
        assert folder.read("project/view/v1/a/b") == inside.read("a/b") == b"one"
        assert pickle.loads(pickle.dumps(inside.address())) == inside.address()
        assert inside.swap("a/b", b"two", stamp)
        inside.delete(["a/b"])
        assert [entry.name for entry in folder.list("")] == ["project/view/v10/a"]

    def test_a_folder_is_cleared_away_while_others_write_to_it(self, folder: Folder) -> None:
        def write_and_delete(writer: int) -> None:
            for number in range(30):
                folder.write(f"shared/{writer}", b"%d" % number)
                folder.create(f"shared/{writer}-{number}", b"%d" % number)
                folder.delete([f"shared/{writer}", f"shared/{writer}-{number}"])

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write_and_delete, range(4)))
        assert list(folder.list("")) == []

    def test_a_swap_needs_the_stamp_of_what_is_there(self, folder: Folder) -> None:
        assert folder.swap("a", b"one", "1-1") is None
        assert folder.head("a") is None
        first = folder.create("a", b"one")
        assert first
        second = folder.swap("a", b"two", first)
        assert second
        assert second != first
        entry = folder.head("a")
        assert entry is not None
        assert (entry.stamp, entry.size, folder.read("a")) == (second, 3, b"two")
        assert folder.swap("a", b"three", first) is None
        assert folder.read("a") == b"two"
        folder.write("a", b"four")
        assert folder.swap("a", b"five", second) is None
        folder.delete(["a"])
        assert folder.swap("a", b"six", second) is None
        assert folder.head("a") is None

    def test_of_threads_that_create_one_succeeds(self, folder: Folder) -> None:
        barrier = Barrier(WRITERS)

        def create(writer: int) -> list[str | None]:
            stamps = []
            for number in range(self.rounds):
                barrier.wait()
                stamps.append(folder.create(f"race/{number}", b"%d " % writer + uuid4().bytes))
            return stamps

        with ThreadPoolExecutor(WRITERS) as pool:
            self.check_winners(folder, list(pool.map(create, range(WRITERS))))

    def test_of_threads_that_swap_one_succeeds(self, folder: Folder) -> None:
        """All know the same stamp, and what they write is another each time."""
        barrier = Barrier(WRITERS)
        former = [folder.create(f"race/{number}", b"at first") or "" for number in range(self.rounds)]

        def swap(writer: int) -> list[str | None]:
            stamps = []
            for number, stamp in enumerate(former):
                barrier.wait()
                stamps.append(folder.swap(f"race/{number}", b"%d " % writer + uuid4().bytes, stamp))
            return stamps

        with ThreadPoolExecutor(WRITERS) as pool:
            self.check_winners(folder, list(pool.map(swap, range(WRITERS))))

    def test_of_processes_that_create_one_succeeds(self, folder: Folder, make: Make) -> None:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(3, mp_context=context) as pool:
            self.check_winners(folder, list(pool.map(partial(create_all, make, rounds=40), range(3))))

    @staticmethod
    def check_winners(folder: Folder, stamps: list[list[str | None]]) -> None:
        for number, of_round in enumerate(zip(*stamps, strict=True)):
            [(winner, stamp)] = [(writer, stamp) for writer, stamp in enumerate(of_round) if stamp is not None]
            entry = folder.head(f"race/{number}")
            assert entry is not None
            assert entry.stamp == stamp
            assert int(folder.read(f"race/{number}").split()[0]) == winner

    def test_concurrent_swaps_lose_no_change(self, folder: Folder) -> None:
        folder.create("count", b"0 at first")
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: count_up(lambda: folder, 15), range(4)))
        assert int(folder.read("count").split()[0]) == 60

    def test_a_reader_finds_a_whole_file_or_none(self, folder: Folder) -> None:
        contents = [bytes([number]) * (1 << 20) for number in range(1, 6)]
        is_over = Event()

        def look() -> int:
            looks = 0
            while not is_over.is_set() or not looks:
                for entry in folder.list("half/"):
                    assert entry.name.endswith(".tmp") or entry.size == 1 << 20
                for name in ("half/written", "half/created"):
                    try:
                        content = folder.read(name)
                    except FileNotFoundError:
                        continue
                    assert content in contents
                looks += 1
            return looks

        with ThreadPoolExecutor(2) as pool:
            readers = [pool.submit(look) for _ in range(2)]
            try:
                for _ in range(4):
                    for content in contents:
                        folder.write("half/written", content)
                        folder.create("half/created", content)
                        folder.delete(["half/created"])
            finally:
                is_over.set()
            assert all(reader.result() for reader in readers)

    def test_an_address_can_be_sent(self, folder: Folder) -> None:
        address = folder.address("a/b")
        assert pickle.loads(pickle.dumps(address)) == address
        assert address.url == f"{folder.address().url}/a/b"
        assert len({address, folder.address("a/b"), folder.address()}) == 2
