"""The port of streams: each entry goes to one worker of a group until it is acknowledged."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

DAMAGED = "what was kept of it is damaged, or somebody else put it there"
"""The reason of a dead letter that cannot be read: it is given as it is, and can be removed but not put back."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a stream.

    Args:
        id: tells it apart from all other entries of the stream, of all times.
        time: when it came into the stream, in microseconds since the epoch.
        fields: what it holds, by name; of a broker whose messages have no fields, ``payload`` alone.
        deliveries: how often it was given to a worker, this time included.
    """

    id: str
    time: int
    fields: Mapping[bytes, bytes]
    deliveries: int = 1


@dataclass(frozen=True)
class Lag:
    """How far a group is behind its stream.

    Args:
        waiting: how many entries no worker was given yet.
        pending: how many were given to a worker and are not acknowledged.
        seconds: how long ago the oldest of all these came into the stream; 0 where there are none.
        set_aside: how many entries are set aside.
        lost: how many entries the broker has dropped before the group was done with them, as far as it is known.
        time: what the broker's clock says, in microseconds since the epoch: the clock of ``Entry.time``.
    """

    waiting: int
    pending: int
    seconds: float
    set_aside: int
    lost: int
    time: int


@dataclass(frozen=True)
class DeadLetter:
    """An entry that was set aside.

    Args:
        entry: the entry.
        reason: why.
    """

    entry: Entry
    reason: str


class DeadLetterQueue(Protocol):
    """Keep the entries that were set aside, each once. A broker that cannot be reached raises ``StreamError``."""

    def read(self) -> list[DeadLetter]:
        """Return all of them, the oldest first."""

    def remove(self, ids: Sequence[str]) -> int:
        """Erase entries for good; return how many there were."""

    def put_back(self, ids: Sequence[str]) -> int:
        """Put entries back into the stream, with new ids, and remove them from the queue; return how many there were."""


class StreamConsumer(Protocol):
    """Take entries of one topic for one group. One thread at a time uses it; it gets nobody else's entries but those left behind.

    An entry that is not acknowledged is delivered again: at once after ``put_back``, else once it has been with a worker for as
    long as the consumer was set to, to whichever worker of the group reads next. So every entry is delivered at least once.
    A group that is new begins with the oldest entry that the broker has. A broker that cannot be reached raises ``StreamError``
    from every method; trying again is right.
    """

    @property
    def shelf(self) -> DeadLetterQueue:
        """What was set aside."""

    def read(self, count: int, seconds: float, *, pending: Sequence[Entry] = ()) -> list[Entry]:
        """Return entries to work on: first those that a worker has left behind, else new ones.

        Args:
            count: how many at the most.
            seconds: how long to wait for the first one; there may be none.
            pending: entries that were read here and stay here for later: they are taken for left behind by nobody, as long as this
                is called now and then, and being held does not count as a delivery.
        """

    def acknowledge(self, entries: Sequence[Entry]) -> None:
        """Acknowledge entries, so that no one is given them again. Idempotent."""

    def set_aside(self, entry: Entry, reason: str) -> None:
        """Put an entry on the shelf, where a worker has left it for people to look at, and then acknowledge it.

        Done again, it leaves one copy, with the last reason.
        """

    def lag(self) -> Lag:
        """Return how far the group is behind, what it has lost, and what the broker's clock says."""

    def check(self) -> str:
        """Return the broker's kind and version for people to read."""

    def close(self) -> None:
        """Close connections. What was read and not acknowledged goes to others. Idempotent."""


class StreamAdapter(ABC):
    """What an entry point of ``featurestore.streams`` names: a class that opens the consumers of a broker's URL scheme.

    The class is usually the consumer itself.
    """

    @classmethod
    @abstractmethod
    def open(cls, url: str, topic: str, group: str, *, idle_seconds: float) -> StreamConsumer:
        """Open a consumer of a topic for a group.

        Args:
            url: where the broker is, as the source says; ``${NAME}`` in it stands for a variable.
            topic: the topic.
            group: the group, which is made where it is not there.
            idle_seconds: after how long an entry that a worker was given and did not acknowledge is given to another.

        Raises:
            ConfigError: the address is of another form, or a variable in it is not set.
            MissingExtraError: the broker's client is not installed.
        """
