"""Pending entries: entries that are not yet known (S2, S18) stay with their worker until they are."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from featurestore.clock import Clock, format_seconds, to_micros, utc_now
from featurestore.streams.base import Entry

_log = logging.getLogger("featurestore")

_MICROS = 1_000_000
_LOOK_SECONDS = 10.0
_LOUD_SECONDS = 60.0
"""By how much the clocks of a broker and this machine may differ before the log says so."""


@dataclass(frozen=True)
class PendingLimits:
    """How long what is not known yet may wait.

    Args:
        clock: tells the present.
        seconds: how long an entry stays pending before it is set aside.
        timer: counts seconds.
    """

    clock: Clock = utc_now
    seconds: float = 300.0
    timer: Callable[[], float] = time.perf_counter


class BrokerClock:
    """The instant until which rows are known, by the clock that stamps the entries: the broker's.

    A broker whose clock is further from this machine's than an entry may wait is not believed: were it ahead, its entries, stamped
    in the future, would hide all that comes once its clock is right. By this machine's clock they wait.

    Args:
        source: the stream's source.
        patience: how long what is not known yet may wait.
    """

    def __init__(self, source: str, patience: PendingLimits) -> None:
        self._source = source
        self._patience = patience
        self._ahead = 0
        self._looked: float | None = None
        self._loud = False

    @property
    def is_stale(self) -> bool:
        """Whether the broker is to be asked again."""
        return self._looked is None or self._patience.timer() - self._looked > _LOOK_SECONDS

    def look(self, theirs: int) -> None:
        """Take note of what the broker's clock says now, and say in the log, once, where it is far from this machine's."""
        self._looked = self._patience.timer()
        self._ahead = theirs - to_micros(self._patience.clock())
        apart = abs(self._ahead) / _MICROS
        loud = apart > _LOUD_SECONDS
        if loud and not self._loud:
            where = "ahead of" if self._ahead > 0 else "behind"
            _log.warning(
                "The clock of the broker of the stream %r is %s %s this machine's. Set both by a time server: rows that are "
                "stamped in the future wait, and are set aside after %s.",
                self._source, format_seconds(round(apart)), where, format_seconds(self._patience.seconds),
            )  # fmt: skip
        elif self._loud and not loud:
            _log.warning("The clocks of this machine and of the broker of the stream %r agree again.", self._source)
        self._loud = loud

    def until(self) -> int:
        """Return the latest instant that is past, in microseconds."""
        now = to_micros(self._patience.clock())
        return now + self._ahead if abs(self._ahead) <= self._patience.seconds * _MICROS else now


class PendingEntries:
    """The entries that wait with a worker.

    Args:
        patience: how long they may.
    """

    def __init__(self, patience: PendingLimits) -> None:
        self._patience = patience
        self._since: dict[str, float] = {}
        self._held: dict[str, tuple[Entry, int]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, entry: Entry) -> bool:
        return entry.id in self._held

    @property
    def entries(self) -> list[Entry]:
        """All of them."""
        return [entry for entry, _ in self._held.values()]

    def hold(self, entry: Entry, known_at: int) -> None:
        """Keep an entry until an instant in microseconds; it waits since it was held first."""
        self._since.setdefault(entry.id, self._patience.timer())
        self._held[entry.id] = entry, known_at

    def due(self, until: int, most: int) -> list[Entry]:
        """Take out the entries that are known by an instant, so many at the most."""
        due = [entry for entry, known_at in self._held.values() if known_at <= until][:most]
        for entry in due:
            del self._held[entry.id]
        return due

    def worn(self, broker_now: int, until: int) -> list[tuple[Entry, str]]:
        """Take out the entries that have waited too long, each with the reason.

        An entry counts as having waited since it came into the stream, too, unless what it waits for is near.
        """
        now, most = self._patience.timer(), self._patience.seconds
        worn_entries = []
        for entry, known_at in list(self._held.values()):
            waited = now - self._since[entry.id]
            far = known_at - until > most * _MICROS
            if waited >= most or (far and (broker_now - entry.time) / _MICROS >= most):
                ahead = format_seconds(round((known_at - until) / _MICROS))
                worn_entries.append(
                    (entry, f"its row is not known yet: it lies {ahead} ahead, and has waited {format_seconds(most)}")
                )
                del self._held[entry.id]
        return worn_entries

    def forget(self, entries: Sequence[Entry]) -> None:
        """Take note that entries are done with."""
        for entry in entries:
            self._held.pop(entry.id, None)
            self._since.pop(entry.id, None)
