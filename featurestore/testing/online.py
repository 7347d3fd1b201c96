"""What every online store does: one suite, which the test class of each adapter subclasses."""

import asyncio
import gc
import itertools
import multiprocessing
import random
from collections.abc import Callable, Iterator
from hashlib import blake2b
from itertools import pairwise
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore.errors import OnlineStoreError
from featurestore.online.base import Entry, Epoch, OnlineLostError, OnlineStore
from featurestore.testing.examples import examples

Make = Callable[[], OnlineStore]
"""Opens a store on what the test's own store is open on; it can be sent to another process."""

WRITERS = 8
VERSIONS = 60
CONTESTED = 10

# Pairs whose order as unsigned bytes differs from that as signed ones, as text, in a locale, or by length.
ASCENDING = [
    b"",
    b"\x00",
    b"\x00\x00",
    b"\n",
    b"B",
    b"a",
    b"t",
    b"tz",
    b"z",
    b"z\x00",
    b"\x7f",
    b"\x7f\xff",
    b"\x80",
    b"\x80\x00",
    "õ".encode(),
    b"\xff",
    b"\xff\x00",
    b"\xff\xff",
]


def versioned(version: int, size: int = 1500) -> bytes:
    """Return a value that orders by its version, and of which each part tells the version: a torn one shows."""
    stamp = version.to_bytes(8, "big")
    return stamp + blake2b(stamp).digest() * (size // 64)


def version_of(value: bytes | None) -> int:
    """Return the version of a value, -1 for none; fails if the value is torn."""
    if value is None:
        return -1
    version = int.from_bytes(value[:8], "big")
    assert value == versioned(version), "a torn value"
    return version


def count_up(make: Make, key: bytes, times: int) -> None:
    """Count up the number in a value, by as many swaps as it takes: what each counter's process runs."""
    store = make()
    done = 0
    while done < times:
        (value,) = store.read([key])
        number = 0 if value is None else int.from_bytes(value[:8], "big")
        done += store.write(
            [Entry(key, versioned(number + 1), 600_000 if done % 2 else None, replaces=b"" if value is None else value[:8])]
        )
    store.close()


def contested_keys(prefix: bytes) -> list[bytes]:
    """Return the keys that all writers write."""
    return [prefix + b"contested/%d" % number for number in range(CONTESTED)]


def write_shuffled(make: Make, prefix: bytes, seed: int) -> None:
    """Write all versions of all contested keys in an order of its own: what each writer's process runs."""
    store = make()
    entries = [Entry(key, versioned(version)) for key in contested_keys(prefix) for version in range(VERSIONS)]
    chance = random.Random(seed)
    chance.shuffle(entries)
    while entries:
        count = chance.randint(1, 40)
        store.write(entries[:count])
        del entries[:count]
    store.close()


class OnlineStoreContract:
    """Subclasses give the fixtures ``make`` and ``store``, and ``remaining_ms``."""

    @pytest.fixture
    def prefix(self) -> bytes:
        """What the keys of this test begin with: stores are shared."""
        return b"test/" + uuid4().hex.encode() + b"/"

    @pytest.fixture
    def make(self) -> Make:
        raise NotImplementedError

    @pytest.fixture
    def store(self, make: Make) -> Iterator[OnlineStore]:
        store = make()
        yield store
        store.close()

    def remaining_ms(self, store: OnlineStore, key: bytes) -> int | None:
        """Return the milliseconds until the store may forget a key; None for never."""
        raise NotImplementedError

    def test_reads_in_the_order_of_the_keys(self, store: OnlineStore, prefix: bytes) -> None:
        a, b, c = prefix + b"a", prefix + b"b", prefix + b"c"
        assert store.write([Entry(a, b"1"), Entry(c, b"3")]) == 2
        assert store.read([c, b, a, c]) == [b"3", None, b"1", b"3"]

    def test_nothing_to_do(self, store: OnlineStore, prefix: bytes) -> None:
        assert store.read([]) == []
        assert asyncio.run(store.read_async([])) == []
        assert store.write([]) == 0
        assert store.delete(prefix) == 0

    @settings(
        max_examples=examples(40),
        deadline=None,
        # Each example has a key of its own, and the suite runs once for each kind of store.
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    @given(
        values=st.lists(st.binary(max_size=40), min_size=1, max_size=8, unique=True),
        chance=st.randoms(use_true_random=False),
        ttl_ms=st.sampled_from([None, 10**9]),
    )
    def test_greatest_wins_in_any_order(
        self, store: OnlineStore, prefix: bytes, values: list[bytes], chance: random.Random, ttl_ms: int | None
    ) -> None:
        """S15: whatever the order, the repetition, and the batches of the writes."""
        key = prefix + uuid4().bytes
        arrivals = values + chance.choices(values, k=len(values))
        chance.shuffle(arrivals)
        while arrivals:
            count = chance.randint(1, len(arrivals))
            store.write([Entry(key, value, ttl_ms) for value in arrivals[:count]])
            del arrivals[:count]
        assert store.read([key]) == [max(values)]

    @pytest.mark.parametrize("shared", [b"", b"\xc4\x10\x80\x00\x7f\xff", b"\x80" * 16, b"-" * 37])
    def test_order_is_that_of_unsigned_bytes(self, store: OnlineStore, prefix: bytes, shared: bytes) -> None:
        """S4, S15: whatever the server's locale, and wherever the values begin to differ."""
        assert sorted(ASCENDING) == ASCENDING
        values = [shared + tail for tail in ASCENDING]
        for number, (smaller, greater) in enumerate(pairwise(values)):
            key = prefix + b"%d" % number
            assert store.write([Entry(key, smaller)]) == 1
            assert store.write([Entry(key, greater)]) == 1
            assert store.write([Entry(key, smaller)]) == 0
            assert store.read([key]) == [greater]

    def test_a_difference_at_any_place_counts(self, store: OnlineStore, prefix: bytes) -> None:
        value = bytearray(b"\x80" * 50)
        keys = [prefix + b"%d" % place for place in range(len(value))]
        store.write([Entry(key, bytes(value)) for key in keys])
        for place, key in enumerate(keys):
            smaller, greater = value.copy(), value.copy()
            smaller[place], greater[place] = 0x7F, 0x81
            smaller[place + 1 :] = b"\xff" * (len(value) - place - 1)
            greater[place + 1 :] = b"\x00" * (len(value) - place - 1)
            assert store.write([Entry(key, bytes(smaller))]) == 0
            assert store.write([Entry(key, bytes(greater))]) == 1

    def test_repetition_changes_nothing(self, store: OnlineStore, prefix: bytes) -> None:
        keys = [prefix + b"ttl", prefix + b"none"]
        assert store.write([Entry(keys[0], b"2", 600_000), Entry(keys[1], b"2")]) == 2
        for _ in range(2):
            assert store.write([Entry(keys[0], b"2", 60_000), Entry(keys[1], b"2", 60_000)]) == 0
            assert store.write([Entry(keys[0], b"1"), Entry(keys[1], b"1", 60_000)]) == 0
        assert store.read(keys) == [b"2", b"2"]
        remaining = self.remaining_ms(store, keys[0])
        assert remaining is not None
        assert 500_000 < remaining <= 600_000
        assert self.remaining_ms(store, keys[1]) is None

    def test_a_ttl_that_became_longer_keeps_what_is_there_for_longer(self, store: OnlineStore, prefix: bytes) -> None:
        key = prefix + b"key"
        store.write([Entry(key, b"2", 60_000)])
        assert store.write([Entry(key, b"2", 600_000)]) == 0
        remaining = self.remaining_ms(store, key)
        assert remaining is not None
        assert 500_000 < remaining <= 600_000
        assert store.write([Entry(key, b"2")]) == 0
        assert self.remaining_ms(store, key) is None
        assert store.read([key]) == [b"2"]

    def test_a_write_brings_its_own_expiry(self, store: OnlineStore, prefix: bytes) -> None:
        key = prefix + b"key"
        store.write([Entry(key, b"1", 60_000)])
        store.write([Entry(key, b"2")])
        assert self.remaining_ms(store, key) is None
        store.write([Entry(key, b"3", 600_000)])
        remaining = self.remaining_ms(store, key)
        assert remaining is not None
        assert 500_000 < remaining <= 600_000

    def test_entries_of_a_batch_keep_their_own_ttl(self, store: OnlineStore, prefix: bytes) -> None:
        ttls = [None, 60_000, 600_000, None, 6_000_000]
        keys = [prefix + b"%d" % number for number in range(len(ttls))]
        store.write([Entry(key, b"1", ttl_ms) for key, ttl_ms in zip(keys, ttls, strict=True)])
        for key, ttl_ms in zip(keys, ttls, strict=True):
            remaining = self.remaining_ms(store, key)
            assert (remaining is None) == (ttl_ms is None)
            assert ttl_ms is None or remaining is None or ttl_ms - 30_000 < remaining <= ttl_ms

    def test_two_entries_of_one_key_in_a_batch(self, store: OnlineStore, prefix: bytes) -> None:
        ascending, descending = prefix + b"ascending", prefix + b"descending"
        entries = [Entry(ascending, b"1"), Entry(ascending, b"2"), Entry(descending, b"2"), Entry(descending, b"1")]
        assert store.write(entries) == 2
        assert store.read([ascending, descending]) == [b"2", b"2"]
        assert store.write(entries) == 0

    def test_any_bytes(self, store: OnlineStore, prefix: bytes) -> None:
        odd = [
            b"\x00",
            b"\xff",
            b"a\nb\r\n",
            b"{tag}",
            b"{}x",
            b"}{",
            b"*?[a]\\",
            b" ",
            "ü".encode(),
            bytes(range(256)),
            b"x" * 600,
        ]
        entries = [Entry(prefix + key, value) for key, value in zip(odd, reversed(odd), strict=True)]
        assert store.write(entries) == len(odd)
        assert store.read([entry.key for entry in entries]) == [entry.value for entry in entries]

    def test_long_keys_are_told_apart(self, store: OnlineStore, prefix: bytes) -> None:
        stem = prefix.ljust(470, b"-")
        keys = [stem + b"x" * length for length in (0, 39, 40, 41, 42, 130)] + [stem + b"x" * 129 + b"y"]
        assert [len(key) for key in keys] == [470, 509, 510, 511, 512, 600, 600]
        entries = [Entry(key, b"%d" % number, 60_000) for number, key in enumerate(keys)]
        assert store.write(entries) == len(keys)
        assert store.write(entries) == 0
        assert store.read(keys) == [entry.value for entry in entries]
        assert store.write([Entry(keys[-1], b"7")]) == 1
        assert store.read([keys[-1], keys[-2], stem + b"x" * 131]) == [b"7", b"5", None]
        assert store.delete(stem + b"x" * 100) == 2
        assert store.read(keys) == [b"0", b"1", b"2", b"3", b"4", None, None]
        assert store.delete(stem) == 5

    @pytest.mark.parametrize(
        ("stored", "replaces", "swapped"),
        [
            (None, b"", True),
            (None, b"5", False),
            (b"", b"", False),
            (b"5", b"", False),
            (b"5 and more", b"5", True),
            (b"5 and more", b"5 and more", True),
            (b"5 and more", b"5 and more than that", False),
            (b"5 and more", b"6", False),
            (b"\x00\xff\n", b"\x00\xff\n", True),
            (b"\x00\xff\n", b"\x00\xfe", False),
            (b"tz", b"TZ", False),
            (b"x" * 5000, b"x" * 4000, True),
        ],
    )
    def test_replaces_what_begins_as_expected(
        self, store: OnlineStore, prefix: bytes, stored: bytes | None, replaces: bytes, swapped: bool
    ) -> None:
        """By an empty value, a smaller and a greater one, each with a time to live and without, in one batch."""
        given = {b"%d" % place: case for place, case in enumerate(itertools.product([b"", b"3", b"9"], [None, 600_000]))}
        if stored is not None:
            store.write([Entry(prefix + name, stored, 60_000) for name in given])
        batch = [Entry(prefix + name, value, ttl_ms, replaces=replaces) for name, (value, ttl_ms) in given.items()]
        assert store.write(batch) == (len(batch) if swapped else 0)
        assert store.read([entry.key for entry in batch]) == [entry.value if swapped else stored for entry in batch]
        for entry in batch if swapped else []:
            remaining = self.remaining_ms(store, entry.key)
            assert (remaining is None) == (entry.ttl_ms is None)
            assert remaining is None or 500_000 < remaining <= 600_000

    def test_a_swap_that_is_repeated_changes_nothing(self, store: OnlineStore, prefix: bytes) -> None:
        keys = [prefix + b"%d" % number for number in range(1200)]
        first = [Entry(key, b"1", replaces=b"") for key in keys]
        second = [Entry(key, b"2", 600_000 if place % 2 else None, replaces=b"1") for place, key in enumerate(keys)]
        assert store.write(first) == len(keys)
        assert store.write(first) == 0
        assert store.write(second) == len(keys)
        assert store.write(second) == 0
        assert store.read(keys) == [b"2"] * len(keys)
        for place in (0, 1):
            assert (self.remaining_ms(store, keys[place]) is None) == (place == 0)

    def test_swaps_and_greatest_values_in_one_batch(self, store: OnlineStore, prefix: bytes) -> None:
        a, b, c, d = (prefix + name for name in (b"a", b"b", b"c", b"d"))
        store.write([Entry(key, b"5") for key in (a, b, c, d)])
        entries = [Entry(a, b"4"), Entry(b, b"4", replaces=b"5"), Entry(c, b"6"), Entry(d, b"6", 60_000, replaces=b"4")]
        assert store.write([*entries, Entry(c, b"7")]) == 2
        assert store.read([a, b, c, d]) == [b"5", b"4", b"7", b"5"]
        assert self.remaining_ms(store, d) is None
        long = prefix + b"k" * 600
        assert store.write([Entry(long, b"1", replaces=b"")]) == 1
        assert store.write([Entry(long, b"0", replaces=b"1")]) == 1
        assert store.read([long]) == [b"0"]

    @pytest.mark.parametrize("other", [Entry(b"k", b"1"), Entry(b"k", b"1", replaces=b"")])
    def test_one_swap_a_key_in_a_batch(self, store: OnlineStore, other: Entry) -> None:
        with pytest.raises(ValueError, match="only one entry in a batch"):
            store.write([Entry(b"k", b"2", replaces=b""), other])
        assert store.read([b"k"]) == [None]

    def test_concurrent_swaps_lose_no_change(self, store: OnlineStore, make: Make, prefix: bytes) -> None:
        """Four processes count up one number, each on what it has read: none of the counts is lost."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        counters = [context.Process(target=count_up, args=(make, prefix + b"count", 50)) for _ in range(4)]
        for counter in counters:
            counter.start()
        for counter in counters:
            counter.join()
            assert counter.exitcode == 0
            counter.close()
        assert version_of(store.read([prefix + b"count"])[0]) == 200

    def test_large_values(self, store: OnlineStore, prefix: bytes) -> None:
        small, large = b"\x01" + b"x" * (1 << 20), b"\x02" + b"x" * (1 << 20)
        keys = [prefix + b"%d" % number for number in range(4)]
        assert store.write([Entry(key, small) for key in keys]) == 4
        assert store.write([Entry(keys[0], large), Entry(keys[1], small)]) == 1
        assert store.read(keys) == [large, small, small, small]

    def test_large_batches(self, store: OnlineStore, prefix: bytes) -> None:
        count = 20_011
        first = [Entry(prefix + b"%d" % number, b"2", 10**9 if number % 2 else None) for number in range(count)]
        assert store.write(first) == count
        second = [Entry(prefix + b"%d" % number, b"3" if number % 3 == 0 else b"1") for number in range(count)]
        assert store.write(second) == len(range(0, count, 3))
        values = store.read([entry.key for entry in first])
        assert values == [b"2" if number % 3 else b"3" for number in range(count)]
        assert store.delete(prefix) == count

    def test_deletes_what_begins_with_the_prefix(self, store: OnlineStore, prefix: bytes) -> None:
        gone = [b"v/1/", b"v/1/a", b"v/1/{b}"]
        kept = [b"v/1", b"v/10/a", b"v/2/a", b"V/1/a", b"w", b"xv/1/a"]
        store.write([Entry(prefix + key, b"1") for key in gone + kept])
        assert store.delete(prefix + b"v/1/") == len(gone)
        assert store.read([prefix + key for key in gone]) == [None] * len(gone)
        assert store.read([prefix + key for key in kept]) == [b"1"] * len(kept)
        assert store.delete(prefix + b"v/1/") == 0

    def test_all_that_is_known_of_a_prefix_is_deleted(self, store: OnlineStore, prefix: bytes) -> None:
        keys = [prefix + b"v/1/{%d}" % number for number in range(50)]
        other = prefix + b"v/10/{1}"
        store.write([Entry(key, b"1") for key in [*keys, other]])
        assert store.delete(prefix + b"v/1/", known=iter([keys[:30], [], keys[30:]])) == len(keys)
        assert store.read([*keys, other]) == [None] * len(keys) + [b"1"]
        assert store.delete(prefix + b"v/1/", known=[keys]) == 0

    @pytest.mark.parametrize("odd", [b"*", b"?", b"[ab]", b"[^a]", b"\\", b"\\*", b"{a}", b"\x00", b"\n", b"\xff"])
    def test_a_prefix_is_no_pattern(self, store: OnlineStore, prefix: bytes, odd: bytes) -> None:
        kept = [prefix + other for other in (b"a1", b"b1", b"ab1", b"1", b"^1")]
        store.write([Entry(prefix + odd + b"1", b"1"), *[Entry(key, b"1") for key in kept]])
        assert store.delete(prefix + odd) == 1
        assert store.read(kept) == [b"1"] * len(kept)

    def test_concurrent_writers_end_in_the_greatest(self, store: OnlineStore, make: Make, prefix: bytes) -> None:
        """S15: eight processes, each in an order of its own, while this one reads: no value is torn or goes back."""
        context = multiprocessing.get_context("forkserver")  # whose processes share nothing with this one, and start quickly
        context.set_forkserver_preload([__name__])
        writers = [context.Process(target=write_shuffled, args=(make, prefix, seed)) for seed in range(WRITERS)]
        for writer in writers:
            writer.start()
        keys = contested_keys(prefix)
        seen = [-1] * len(keys)
        while any(writer.is_alive() for writer in writers):
            now = [version_of(value) for value in store.read(keys)]
            assert all(later >= earlier for later, earlier in zip(now, seen, strict=True)), "an older value came back"
            seen = now
        for writer in writers:
            writer.join()
            assert writer.exitcode == 0
            writer.close()
        assert [version_of(value) for value in store.read(keys)] == [VERSIONS - 1] * len(keys)

    def test_async_reads_in_several_loops(self, store: OnlineStore, prefix: bytes) -> None:
        keys = [prefix + b"a", prefix + b"b"]
        store.write([Entry(keys[0], b"1")])

        async def read_often() -> list[list[bytes | None]]:
            return await asyncio.gather(*[store.read_async(keys) for _ in range(20)])

        for _ in range(3):
            assert asyncio.run(read_often()) == [[b"1", None]] * 20
        gc.collect()  # a connection that was left open would warn here, which fails the test

    def test_tells_what_it_is(self, store: OnlineStore) -> None:
        kind, version = store.check().split()[:2]
        assert kind.isalpha()
        assert version[0].isdigit()

    def test_after_close(self, make: Make, prefix: bytes) -> None:
        store = make()
        store.write([Entry(prefix + b"a", b"1")])
        store.close()
        store.close()
        uses: list[Callable[[], object]] = [
            lambda: store.read([b"a"]),
            lambda: store.write([Entry(b"a", b"1")]),
            lambda: store.delete(prefix),
            store.check,
        ]
        for use in uses:
            with pytest.raises(OnlineStoreError, match="closed"):
                use()
        again = make()
        assert again.read([prefix + b"a"]) == [b"1"]
        again.close()

    def test_a_write_of_an_epoch_is_refused_where_the_marks_are_not_its_own(self, store: OnlineStore, prefix: bytes) -> None:
        epoch, later = Epoch(prefix + b"!", b"one"), Epoch(prefix + b"!", b"two")
        entries = [Entry(prefix + b"{%d}" % number, b"1") for number in range(50)]
        swap = [Entry(prefix + b"{swap}", b"1", replaces=b"")]
        with pytest.raises(OnlineLostError, match="mark is gone"):
            store.write(entries, epoch=epoch)
        store.marks.agree(epoch)
        assert store.marks.look(epoch)
        store.marks.place(epoch)
        store.marks.agree(epoch)
        assert store.marks.look(epoch) == []
        assert store.write(entries, epoch=epoch) == 50
        assert store.write(swap, epoch=epoch) == 1
        store.marks.place(later)
        assert store.marks.look(later) == []
        assert store.marks.look(epoch)
        for refused in ([Entry(entry.key, b"2") for entry in entries], [Entry(prefix + b"{swap}", b"2", replaces=b"1")]):
            with pytest.raises(OnlineLostError):
                store.write(refused, epoch=epoch)
        assert store.read([entry.key for entry in [*entries, *swap]]) == [b"1"] * 51
        assert store.write([Entry(prefix + b"{swap}", b"2", replaces=b"1")], epoch=later) == 1
        store.delete(prefix + b"!")
        with pytest.raises(OnlineLostError, match="mark is gone"):
            store.write(entries, epoch=later)

    def test_keys_of_others_are_counted_by_their_second_part(self, store: OnlineStore, prefix: bytes) -> None:
        store.write([Entry(prefix + key, b"1") for key in (b"one/v/1/{a}", b"one/v/1/{b}", b"two/v/1/{a}")])
        assert store.marks.strangers(prefix) == {b"one": 2, b"two": 1}
