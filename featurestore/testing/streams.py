"""What every ``StreamConsumer`` does, on a real broker."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from time import perf_counter
from uuid import uuid4

import pytest

from featurestore.errors import StreamError
from featurestore.streams.base import DAMAGED, Entry, Lag, StreamConsumer
from featurestore.testing.waiting import wait_until

LONG = 600.0
"""After which no test takes entries over."""

Make = Callable[..., StreamConsumer]


class StreamContract(ABC):
    """What every consumer does; adapters' test classes are this and what is their own.

    Attributes:
        away_hint: what the error for a broker that is not there says to check.
    """

    away_hint = "Is the server running"

    @abstractmethod
    def consumer(self, topic: str, group: str, idle: float) -> StreamConsumer:
        """Make a consumer."""

    @abstractmethod
    def add(self, topic: str, *payloads: bytes) -> None:
        """Add entries to a topic, as a producer does."""

    @abstractmethod
    def damage(self, topic: str, group: str, **values: bytes) -> None:
        """Write values where entries are that were set aside."""

    @abstractmethod
    def begin(self, topic: str) -> None:
        """Make a topic where the broker needs that done."""

    @pytest.fixture
    def topic(self) -> str:
        name = f"t{uuid4().hex[:8]}"
        self.begin(name)
        return name

    @pytest.fixture
    def make(self, topic: str) -> Iterator[Make]:
        consumers: list[StreamConsumer] = []

        def opened(group: str = "g", idle: float = LONG) -> StreamConsumer:
            consumers.append(self.consumer(topic, group, idle))
            return consumers[-1]

        yield opened
        for consumer in consumers:
            consumer.close()

    def test_a_new_group_begins_with_the_oldest_entry(self, make: Make, topic: str) -> None:
        self.add(topic, b"1", b"2")
        first = make()
        assert payloads(read_all(first, 2)) == [b"1", b"2"]
        self.add(topic, b"3")
        assert payloads(read_all(first, 1)) == [b"3"]
        assert first.read(10, 0.01) == []
        assert payloads(read_all(make("other"), 3)) == [b"1", b"2", b"3"]

    def test_entries_have_ids_of_their_own_and_times(self, make: Make, topic: str) -> None:
        self.add(topic, b"same", b"same")
        one, other = read_all(make(), 2)
        assert one.id != other.id
        assert one.time <= other.time
        again = read_all(make("other"), 2)
        assert [(entry.id, entry.time) for entry in again] == [(one.id, one.time), (other.id, other.time)]

    def test_each_entry_goes_to_one_worker(self, make: Make, topic: str) -> None:
        workers = [make() for _ in range(3)]
        for worker in workers:
            worker.read(1, 0.001)
        self.add(topic, *(b"%d" % number for number in range(30)))
        entries: list[Entry] = []
        while len(entries) < 30:
            for worker in workers:
                entries += worker.read(4, 0.01)
        assert sorted(payloads(entries)) == sorted(b"%d" % number for number in range(30))

    def test_what_is_acknowledged_does_not_come_again(self, make: Make, topic: str) -> None:
        consumer = make(idle=0.05)
        self.add(topic, b"1", b"2", b"3")
        one, two, three = read_all(consumer, 3)
        consumer.acknowledge([one, three])
        consumer.acknowledge([one])
        consumer.acknowledge([])
        [again] = read_all(make(idle=0.05), 1)
        assert (again.id, again.fields, again.time) == (two.id, two.fields, two.time)
        assert again.deliveries >= 2

    def test_what_a_dead_worker_leaves_goes_to_others(self, make: Make, topic: str) -> None:
        self.add(topic, *(b"%d" % number for number in range(25)))
        dead = make(idle=0.1)
        left = read_all(dead, 25)
        dead.close()
        living = make(idle=0.1)
        again = read_all(living, 25)
        assert sorted(entry.id for entry in again) == sorted(entry.id for entry in left)
        living.acknowledge(again)
        assert settled(living).pending == 0

    def test_what_a_living_worker_is_at_stays_with_it(self, make: Make, topic: str) -> None:
        self.add(topic, b"1")
        assert len(read_all(make(), 1)) == 1
        assert make().read(10, 0.05) == []

    def test_s18_what_is_held_is_left_behind_by_nobody_and_counts_no_delivery(self, make: Make, topic: str) -> None:
        consumer, other = make(idle=2.0), make(idle=2.0)
        self.add(topic, b"1", b"2")
        pending, left = read_all(consumer, 2)
        assert other.read(10, 0.001) == []
        taken: list[Entry] = []

        def is_taken_over() -> bool:
            taken.extend(consumer.read(10, 0.01, pending=[pending]))  # a worker may be given what it left behind itself
            taken.extend(other.read(10, 0.01))
            return bool(taken)

        wait_until(is_taken_over, "what is not held stays with its worker")
        assert [entry.id for entry in taken] == [left.id]
        for entry in (consumer, other):
            entry.acknowledge(taken)
        end = perf_counter() + 2.5
        while perf_counter() < end:  # longer than an entry may be with a worker
            assert consumer.read(10, 0.01, pending=[pending]) == other.read(10, 0.01) == []
        [again] = read_all(other, 1)  # it is held no longer
        assert (again.id, again.deliveries) == (pending.id, 2)

    def test_lag(self, make: Make, topic: str) -> None:
        consumer = make()
        assert (consumer.lag().waiting, consumer.lag().pending, consumer.lag().seconds) == (0, 0, 0.0)
        self.add(topic, b"1", b"2", b"3")
        lag = consumer.lag()
        assert (lag.waiting, lag.pending, lag.set_aside) == (3, 0, 0)
        assert 0.0 <= lag.seconds < 60.0
        entries = read_all(consumer, 2)
        assert (consumer.lag().waiting, consumer.lag().pending) == (1, 2)
        consumer.acknowledge(entries)
        assert settled(consumer).waiting == 1
        consumer.acknowledge(read_all(consumer, 1))
        lag = settled(consumer)
        assert (lag.waiting, lag.pending, lag.seconds) == (0, 0, 0.0)

    def test_the_shelf_keeps_what_is_set_aside_once(self, make: Make, topic: str) -> None:
        consumer = make(idle=0.05)
        self.add(topic, b"bad\x00\xff", b"good", b"worse")
        bad, good, worse = read_all(consumer, 3)
        assert consumer.shelf.read() == []
        consumer.set_aside(bad, "first")
        consumer.set_aside(bad, "it is bad")
        consumer.set_aside(worse, "it is worse")
        assert settled(consumer, pending=1).set_aside == 2
        [again] = read_all(consumer, 1)
        assert again.id == good.id
        shelf = make().shelf
        assert [(letter.entry.id, letter.entry.fields, letter.entry.time, letter.reason) for letter in shelf.read()] == [
            (bad.id, bad.fields, bad.time, "it is bad"), (worse.id, worse.fields, worse.time, "it is worse"),
        ]  # fmt: skip
        assert make("other").shelf.read() == []

    def test_the_shelf_erases_and_puts_back(self, make: Make, topic: str) -> None:
        consumer = make()
        self.add(topic, b"1", b"2", b"3")
        entries = read_all(consumer, 3)
        for entry in entries:
            consumer.set_aside(entry, "why")
        shelf = consumer.shelf
        assert shelf.remove([entries[0].id, "0-0"]) == 1
        assert shelf.remove([]) == shelf.put_back([]) == 0
        assert shelf.put_back([entries[1].id, entries[0].id]) == 1
        assert [entry.entry.id for entry in shelf.read()] == [entries[2].id]
        assert consumer.lag().set_aside == 1
        [again] = read_all(consumer, 1)
        assert payloads([again]) == [b"2"]
        assert again.id != entries[1].id

    def test_k05_what_is_damaged_on_the_shelf_hinders_nobody(self, make: Make, topic: str) -> None:
        """Neither who looks at the others, nor who forgets somebody: it is there as it is, and can be taken away."""
        consumer = make()
        self.add(topic, b"1")
        [entry] = read_all(consumer, 1)
        consumer.set_aside(entry, "why")
        junk = {"a-1": b"ann", "b-2": b"\x94", "c": b"\x94\xa11\xcf" + b"\xff" * 8 + b"\x80\xa1x", "d": b"\x91" * 5_000, "e": b""}
        self.damage(topic, "g", **junk)
        letters = consumer.shelf.read()
        assert [letter.entry for letter in letters if letter.reason == "why"] == [replace(entry, deliveries=0)]
        assert {letter.entry.id: letter.entry.fields for letter in letters if letter.reason == DAMAGED} == {
            name: {b"": value} for name, value in junk.items()
        }
        assert consumer.shelf.put_back([letter.entry.id for letter in letters]) == 1
        assert consumer.shelf.remove(list(junk)) == len(junk)
        assert consumer.shelf.read() == []

    def test_tells_what_it_is(self, make: Make) -> None:
        kind, version = make().check().split()
        assert kind.isalpha()
        assert version[0].isdigit()

    def test_closing_twice_is_no_error(self, make: Make) -> None:
        consumer = make()
        consumer.read(1, 0.001)
        consumer.close()
        consumer.close()

    def test_a_broker_that_is_not_there(self, topic: str) -> None:
        away = self.away(topic)
        uses: list[Callable[[], object]] = [
            lambda: away.read(1, 0.01), away.lag, away.check, away.shelf.read, lambda: away.shelf.remove(["1-0"]),
        ]  # fmt: skip
        for use in uses:
            with pytest.raises(StreamError, match=self.away_hint):
                use()
        away.close()

    @abstractmethod
    def away(self, topic: str) -> StreamConsumer:
        """Make a consumer of an address at which nothing is."""


def payloads(entries: list[Entry]) -> list[bytes]:
    """Return what entries hold."""
    return [entry.fields[b"payload"] for entry in entries]


def read_all(consumer: StreamConsumer, count: int) -> list[Entry]:
    """Read until there are so many entries; a broker gives fewer at once as it likes."""
    entries: list[Entry] = []

    def enough() -> bool:
        entries.extend(consumer.read(count - len(entries), 0.05))
        return len(entries) >= count

    wait_until(enough, f"there are no {count} entries")
    return entries


def settled(consumer: StreamConsumer, pending: int = 0) -> Lag:
    """The lag once the broker has taken note of what was acknowledged."""
    wait_until(lambda: consumer.lag().pending == pending, "the broker takes no note of what was acknowledged")
    return consumer.lag()
