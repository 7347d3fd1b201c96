"""The stream worker: reads entries, pushes their rows, and acknowledges an entry when both stores have it.

Wherever a worker dies, what it had not acknowledged is delivered again, to it or to another, and pushed again. A push passes over
what is known, by the event id or by all values, so each event counts once however often it is delivered. An entry that makes no
row, or whose row is refused, is set aside with the reason, whatever was raised; the others go on. One whose row is not known yet
waits (S18). While a store or the broker cannot be reached, or the machine lacks something, nothing is acknowledged: the same
entries are tried again, after ever longer pauses. One is set aside where memory ends at it alone, again and again, while there is
enough for others.
"""

import gc
import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Event
from typing import TypeVar

import polars as pl

from featurestore.access.redaction import discreet_text
from featurestore.definitions.catalog import BoundView
from featurestore.errors import (
    DefinitionError,
    FeatureStoreError,
    NotFoundError,
    RegistryError,
    RejectedRowsError,
    RequestError,
    StoreError,
    StreamError,
    StreamRefusedError,
)
from featurestore.materialization.results import PushedView
from featurestore.retrieval.online_result import CLOCK_SKEW
from featurestore.rows.pushed import not_yet_known
from featurestore.shortage import shortage_of
from featurestore.streams.base import Entry, StreamConsumer
from featurestore.streams.counts import StreamCounts
from featurestore.streams.decoder import Decoded, EntryDecoder, reason_of
from featurestore.streams.pending_entries import BrokerClock, PendingEntries, PendingLimits

_log = logging.getLogger("featurestore")

T = TypeVar("T")

Views = Sequence[BoundView]

_NO_MEMORY = "not enough memory: it is tried again, in smaller parts"
_TOO_LARGE = "MemoryError: there is not enough memory for it, but for others. Put it back where there is more."


class NotReadyError(FeatureStoreError):
    """The views on a stream cannot take rows at present, as when they are defined otherwise than they are applied."""


OF_ROWS = (RejectedRowsError, RequestError, DefinitionError)
"""The errors that some of the rows give cause to."""
FROM_ELSEWHERE = (StoreError, RegistryError, StreamError, NotReadyError)
"""The errors that are gone once a server is back, a disk has room, or somebody has applied."""

MOST_DELIVERIES = 20
"""An entry that was given to workers more often is set aside: they seem to die of it."""
MOST_TRIES = 5
"""An entry at which alone memory ends so often is set aside, if there was enough for another meanwhile; twice as often where none
has gone through yet."""
_WAIT, _WAIT_ONCE = 0.5, 0.02
_GATHER = 0.05
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0
_MOST_HELD = 100_000
"""So many entries wait at the most; then no new ones are read until some are done with."""


@dataclass(frozen=True)
class WorkerOptions:
    """How a stream's worker works.

    Args:
        batch: how many entries it takes at once, at most.
        on_change: called when the counts have changed.
        pending: how long entries that are not known yet may wait.
    """

    batch: int
    on_change: Callable[[StreamCounts], None]
    pending: PendingLimits


class StreamWorker:
    """Work on one stream, in one thread.

    Args:
        consumer: takes the entries.
        decoder: makes rows of them.
        views: returns the views on the stream's source, as they are applied now.
        push: pushes rows into views, given the latest instant that is known.
        counts: where it counts.
        options: how it works.
    """

    def __init__(
        self,
        consumer: StreamConsumer,
        decoder: EntryDecoder,
        views: Callable[[], Views],
        push: Callable[[Views, pl.DataFrame, int], list[PushedView]],
        counts: StreamCounts,
        options: WorkerOptions,
    ) -> None:
        self._consumer = consumer
        self._decoder = decoder
        self._views = views
        self._push = push
        self.counts = counts
        self._batch = options.batch
        self._on_change = options.on_change
        self._stop, self._once = Event(), False
        self._clock = BrokerClock(counts.source, options.pending)
        self._held = PendingEntries(options.pending)
        self._until = 0
        self._sound: pl.DataFrame | None = None
        self._tries: dict[str, int] = {}

    def run(self, stop: Event, *, once: bool = False) -> None:
        """Work until stopped; finish the entries taken by then, unless a server is away.

        Args:
            stop: set to end it.
            once: end once nothing is left in the stream: nothing new, and nothing that another worker is at or has left. What is
                not known yet stays pending.
        """
        self._stop, self._once = stop, once
        wait = _WAIT_ONCE if once else _WAIT
        while not stop.is_set():
            began = time.perf_counter()
            if self._clock.is_stale:
                self._look()
            entries = self._read(wait)
            if entries:
                self._work(entries)
                self._on_change(self.counts)
            elif self._put_aside(self._held.worn(self._until, self._until)):
                self._on_change(self.counts)
            elif once and entries is not None:
                lag = self._kept_at(self._consumer.lag)
                if lag is not None and lag.waiting == 0 and lag.pending <= len(self._held):
                    return
            if entries and len(entries) < self._batch and not once:
                # What comes within a moment is pushed together: a push costs about as much for one row as for hundreds.
                stop.wait(max(0.0, _GATHER - (time.perf_counter() - began)))

    def _look(self) -> None:
        """Look at the broker's clock, and at what it has dropped."""
        lag = self._kept_at(self._consumer.lag)
        if lag is None:
            return
        self._clock.look(lag.time)
        if lag.lost > self.counts.lost:
            _log.warning(
                "The stream %r has lost %d entries: the broker dropped them before they were pushed. Read what they held again "
                "from where it is kept, and let the stream keep entries for longer than its workers may be away.",
                self.counts.source, lag.lost - self.counts.lost,
            )  # fmt: skip
            self.counts.lost = lag.lost
            self._on_change(self.counts)

    def _read(self, wait: float) -> list[Entry] | None:
        """Return entries to work on, those among them that have waited until now; None if stopped meanwhile."""
        pending = self._held
        entries: list[Entry] | None = []
        if len(pending) < _MOST_HELD:
            entries = self._kept_at(lambda: self._consumer.read(self._batch, wait, pending=pending.entries))
        else:
            self._stop.wait(wait)
        if entries is None:
            return None
        self._until = self._clock.until() + CLOCK_SKEW
        return [entry for entry in entries if entry not in pending] + pending.due(self._until, self._batch)

    def _work(self, entries: Sequence[Entry]) -> None:
        worn = [entry for entry in entries if entry.deliveries > MOST_DELIVERIES]
        whole = [entry for entry in entries if entry.deliveries <= MOST_DELIVERIES] if worn else entries
        decoded = self._kept_at(lambda: self._decoded(whole))
        if decoded is None:
            return
        refused = [*decoded.faulty]
        refused += [(entry, f"it was delivered {entry.deliveries} times, and no worker came to its end") for entry in worn]
        known = self._kept_at(lambda: self._known(decoded.rows, decoded.entries))
        if known is None:
            return
        unfit = self._push_parts(known)
        if unfit is not None:
            self._put_aside(refused + unfit + self._held.worn(self._until, self._until))

    def _push_parts(self, known: tuple[pl.DataFrame, Sequence[Entry]]) -> list[tuple[Entry, str]] | None:
        """Push rows and acknowledge their entries, in ever smaller parts if some are refused or memory ends.

        Returns:
            The entries that are to be set aside, each with the reason; None if stopped while a server is away: others are given
            the entries.
        """
        unfit: list[tuple[Entry, str]] = []
        waiting = [known] if known[1] else []
        while waiting:
            rows, part = waiting.pop()
            pushed = self._kept_at(lambda rows=rows: self._pushed(rows))  # type: ignore[misc]  # mypy infers no lambda's default
            if pushed is None:
                return None
            refusal, unknown = pushed
            if not refusal and not unknown:
                if self._kept_at(lambda part=part: self._acknowledged(part)) is None:  # type: ignore[misc]  # as above
                    return None
            elif len(part) > 1:
                middle = len(part) // 2
                waiting += [(rows[middle:], part[middle:]), (rows[:middle], part[:middle])]
            elif unknown:
                # Its transform makes other times: how long it is to wait is not seen, so it is tried again now and then.
                self._held.hold(part[0], self._until + CLOCK_SKEW)
            elif refusal is _NO_MEMORY:
                if (too_large := self._is_too_large(part[0])) is None:
                    return None
                if too_large:
                    unfit.append((part[0], _TOO_LARGE))
                else:
                    waiting.insert(0, (rows, part))  # behind the others, which are not to wait for it
            else:
                unfit.append((part[0], refusal))
        return unfit

    def _decoded(self, entries: Sequence[Entry]) -> Decoded | None:
        """Return the rows of entries, read in ever smaller parts if memory ends; None if stopped meanwhile."""
        while True:
            try:
                with _no_collection():
                    return self._decoder.decode(entries)
            except MemoryError:
                if len(entries) > 1:
                    break
            if (too_large := self._is_too_large(entries[0])) is None:
                return None
            if too_large:
                return replace(self._decoder.decode([]), faulty=((entries[0], _TOO_LARGE),))
        middle = len(entries) // 2
        if (one := self._decoded(entries[:middle])) is None or (other := self._decoded(entries[middle:])) is None:
            return None
        return Decoded(pl.concat([one.rows, other.rows]), one.entries + other.entries, one.faulty + other.faulty)

    def _is_too_large(self, entry: Entry) -> bool | None:
        """Return whether an entry at which memory has ended is at fault, after a pause; None if stopped meanwhile.

        It waits for as long as there is too little for a row that has gone through before: that one is pushed again, which has no
        effect. Then it is the machine that lacks memory, and no number of tries tells anything of the entry.
        """
        tries = self._tries.get(entry.id, 0) + 1
        self._lacks(MemoryError(_NO_MEMORY))
        if self._stop.wait(min(_FIRST_PAUSE * 2 ** (tries - 1), _LONGEST_PAUSE) * random.uniform(0.5, 1.0)):
            return None
        if self._kept_at(self._has_memory) is None:
            return None
        self._tries[entry.id] = tries
        if tries < MOST_TRIES * (1 if self._sound is not None else 2):
            return False
        del self._tries[entry.id]
        return True

    def _has_memory(self) -> bool:
        """Push again what has gone through. Raises ``MemoryError`` where there is too little for that."""
        if self._sound is not None:
            refusal, _ = self._pushed(self._sound, again=True)
            if refusal is _NO_MEMORY:
                raise MemoryError(_NO_MEMORY)
        return True

    def _put_aside(self, refused: Sequence[tuple[Entry, str]]) -> int:
        """Set entries aside, each with its reason, and return how many there were."""
        self.counts.waiting = len(self._held)
        for entry, reason in refused:
            if self._kept_at(lambda entry=entry, reason=reason: self._set_aside(entry, reason)) is None:  # type: ignore[misc]  # as above
                break
        return len(refused)

    def _known(self, rows: pl.DataFrame, entries: Sequence[Entry]) -> tuple[pl.DataFrame, Sequence[Entry]]:
        """Return the rows that are known, with their entries; the others are held."""
        if not entries:
            return rows, entries
        waits, known_at = not_yet_known(rows, self._views()[0].spec.source, self._until)
        if not waits.any():
            return rows, entries
        for place in waits.arg_true():
            self._held.hold(entries[place], known_at[place])
        return rows.filter(~waits), [entries[place] for place in (~waits).arg_true()]

    def _pushed(self, rows: pl.DataFrame, *, again: bool = False) -> tuple[str, int]:
        """Push rows; return why they are refused, empty if they are not, and how many are not known yet.

        What went through is not counted where it is pushed again.
        """
        views = self._views()
        began = time.perf_counter()
        try:
            with _no_collection():
                done = self._push(views, rows, self._until)
        except BaseException as error:  # a panic in Rust is no Exception; interrupts are raised again by reason_of
            lacked = shortage_of(error)
            if isinstance(error, FROM_ELSEWHERE):
                raise
            if isinstance(lacked, MemoryError):
                return _NO_MEMORY, 0
            if lacked is not None or isinstance(error, OSError):
                raise
            if isinstance(error, OF_ROWS):
                return str(error), 0
            refusal = reason_of(error)
            _log.debug("A push of rows of the stream %r raised what no row should.", self.counts.source, exc_info=error)
            return refusal, 0
        if again:
            return "", 0
        self._sound = rows[[0]]  # a copy: a slice would keep all of them
        counts = self.counts
        counts.pushes += 1
        counts.seconds += time.perf_counter() - began
        for pushed in done:
            counts.rows_new += pushed.rows_new
            counts.rows_known += pushed.rows_known
            counts.rows_rejected += pushed.rows_rejected
        return "", sum(pushed.rows_waiting for pushed in done)

    def _acknowledged(self, entries: Sequence[Entry]) -> bool:
        self._consumer.acknowledge(entries)
        self._held.forget(entries)
        for entry in entries if self._tries else ():
            self._tries.pop(entry.id, None)
        self.counts.entries += len(entries)
        return True

    def _set_aside(self, entry: Entry, reason: str) -> bool:
        try:
            reason = discreet_text(reason, [view.spec for view in self._views()])
        except FeatureStoreError:
            reason = discreet_text(reason, None)
        self._consumer.set_aside(entry, reason)
        self._held.forget([entry])
        self.counts.entries += 1
        self.counts.set_aside += 1
        _log.warning("Entry %s of the stream %r was set aside: %s", entry.id, self.counts.source, reason)
        return True

    def _kept_at(self, do: Callable[[], T]) -> T | None:
        """Return the call's result, retrying while a server is away or the machine lacks something.

        It returns None if stopped meanwhile.
        """
        pause = _FIRST_PAUSE
        while True:
            try:
                done = do()
            except Exception as error:
                lacked = shortage_of(error)
                if lacked is None and not isinstance(error, (*FROM_ELSEWHERE, OSError)):
                    raise
                if self._once and isinstance(error, StreamRefusedError):
                    raise  # whoever waits for the end would wait for ever
                # An error of ours says what to do; of others' texts, which may quote values, nothing is told.
                self._lacks(error if lacked is None or isinstance(error, FeatureStoreError) else lacked)
                if self._stop.wait(pause * random.uniform(0.5, 1.0)):
                    return None
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                if self.counts.error:
                    self.counts.error = ""
                    self._on_change(self.counts)
                return done

    def _lacks(self, error: BaseException) -> None:
        """Say why it waits."""
        if str(error) != self.counts.error:
            self.counts.error = str(error)
            self._on_change(self.counts)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep Python from looking for cycles meanwhile.

    A batch makes hundreds of thousands of objects, none of them in a cycle, that all live until it is written: looking through them
    again and again took a third of the time.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def ready(find: Callable[[], Views]) -> Callable[[], Views]:
    """Return what finds views, its errors as ``NotReadyError``: no row gives cause to them."""

    def checked() -> Views:
        try:
            return find()
        except (DefinitionError, NotFoundError, RequestError) as error:
            raise NotReadyError(str(error)) from error

    return checked
