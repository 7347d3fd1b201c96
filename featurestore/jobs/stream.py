"""A stream's worker: takes entries, pushes their rows, and acknowledges an entry only after both stores have its rows.

Wherever a worker dies, what it had not acknowledged is delivered again, to it or to another, and pushed again. A push passes over
what is known, by the event id or by all values, so each event counts once however often it is delivered. An entry that makes no
row, or whose row is refused, is set aside with the reason, whatever was raised; the others go on. One whose row is not known yet
waits (S18). While a store or the broker cannot be reached nothing is acknowledged: the same entries are tried again, after ever
longer pauses.
"""

import gc
import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Lock
from typing import TypeVar

import polars as pl

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
from featurestore.jobs.stream_waiting import BrokerClock, Held, Patience
from featurestore.jobs.summary import PushedView
from featurestore.plan.discretion import discreet_text
from featurestore.plan.entries import EntryDecoder, reason_of
from featurestore.plan.pushed import not_yet_known
from featurestore.retrieve.rows import CLOCK_SKEW
from featurestore.spec.catalog import AppliedView
from featurestore.spec.meaning import Transform
from featurestore.streams.base import Entry, StreamConsumer

_log = logging.getLogger("featurestore")

T = TypeVar("T")

Views = Sequence[tuple[AppliedView, Transform | None]]

OF_ROWS = (RejectedRowsError, RequestError, DefinitionError)
"""The errors that some of the rows give cause to."""
PASSING = (StoreError, RegistryError, StreamError, OSError)
"""The errors that are gone once a server is back, or a disk has room."""

MOST_DELIVERIES = 20
"""An entry that was given to workers more often is set aside: they seem to die of it."""
_WAIT, _WAIT_ONCE = 0.5, 0.02
_GATHER = 0.05
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 30.0
_MOST_ASKED = 256
_MOST_HELD = 100_000
"""So many entries wait at the most; then no new ones are read until some are done with."""


@dataclass
class StreamCounts:
    """What a worker did since it began.

    Args:
        source: the stream's source.
        entries: the entries that it acknowledged, those set aside among them.
        rows_new: the rows that views got, counted in each view.
        rows_known: the rows that views knew already: entries that were delivered again.
        rows_rejected: the rows that failed a check in a view, and are kept there (S19).
        set_aside: the entries that were set aside.
        pushes: how often it pushed.
        seconds: the time that the pushes took.
        error: why it waits at present; empty while it works.
        waiting: the entries that it holds at present, for their rows are not known yet.
        lost: the entries that the broker dropped before they were done with, by any worker, as far as it can be told.
    """

    source: str
    entries: int = 0
    rows_new: int = 0
    rows_known: int = 0
    rows_rejected: int = 0
    set_aside: int = 0
    pushes: int = 0
    seconds: float = 0.0
    error: str = ""
    waiting: int = 0
    lost: int = 0


class StreamWorker:
    """Works on one stream, in one thread.

    Args:
        consumer: takes the entries.
        decoder: makes rows of them.
        views: returns the views on the stream's source, as they are applied now.
        push: pushes rows into views, given the latest instant that is known.
        counts: where it counts.
        batch: how many entries it takes at once, at the most.
        told: is called when the counts have changed.
        patience: how long what is not known yet may wait.
    """

    def __init__(
        self,
        consumer: StreamConsumer,
        decoder: EntryDecoder,
        views: Callable[[], Views],
        push: Callable[[Views, pl.DataFrame, int], list[PushedView]],
        counts: StreamCounts,
        *,
        batch: int,
        told: Callable[[StreamCounts], None],
        patience: Patience,
    ) -> None:
        self._consumer = consumer
        self._decoder = decoder
        self._views = views
        self._push = push
        self.counts = counts
        self._batch = batch
        self._told = told
        self._stop, self._once = Event(), False
        self._clock = BrokerClock(counts.source, patience)
        self._held = Held(patience)
        self._until = 0

    def run(self, stop: Event, *, once: bool = False) -> None:
        """Works until it is told to stop; what it has taken by then it finishes, unless a server is away.

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
                self._told(self.counts)
            elif self._put_aside(self._held.worn(self._until, self._until)):
                self._told(self.counts)
            elif once and entries is not None:
                lag = self._kept_at(self._consumer.lag)
                if lag is not None and lag.waiting == 0 and lag.pending <= len(self._held):
                    return
            if entries and len(entries) < self._batch and not once:
                # What comes within a moment is pushed together: a push costs about as much for one row as for hundreds.
                stop.wait(max(0.0, _GATHER - (time.perf_counter() - began)))

    def _look(self) -> None:
        """Looks at the broker's clock, and at what it has dropped."""
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
            self._told(self.counts)

    def _read(self, wait: float) -> list[Entry] | None:
        """Returns entries to work on, those among them that have waited until now; None where it is told to stop meanwhile."""
        held = self._held
        found: list[Entry] | None = []
        if len(held) < _MOST_HELD:
            found = self._kept_at(lambda: self._consumer.read(self._batch, wait, held=held.entries))
        else:
            self._stop.wait(wait)
        if found is None:
            return None
        self._until = self._clock.until() + CLOCK_SKEW
        return [each for each in found if each not in held] + held.due(self._until, self._batch)

    def _work(self, entries: Sequence[Entry]) -> None:
        worn = [entry for entry in entries if entry.deliveries > MOST_DELIVERIES]
        with _no_collection():
            decoded = self._decoder.decode([entry for entry in entries if entry.deliveries <= MOST_DELIVERIES] if worn else entries)
        refused = [*decoded.faulty]
        refused += [(entry, f"it was delivered {entry.deliveries} times, and no worker came to its end") for entry in worn]
        known = self._kept_at(lambda: self._known(decoded.rows, decoded.entries))
        if known is None:
            return
        waiting = [known] if known[1] else []
        while waiting:
            rows, part = waiting.pop()
            pushed = self._kept_at(lambda rows=rows: self._pushed(rows))  # type: ignore[misc]  # mypy infers no lambda's default
            if pushed is None:
                return  # told to stop while a server is away: others are given the entries
            refusal, unknown = pushed
            if unknown and len(part) == 1:
                # Its transform makes other times: how long it is to wait is not seen, so it is tried again now and then.
                self._held.hold(part[0], self._until + CLOCK_SKEW)
            elif not refusal and not unknown:
                if self._kept_at(lambda part=part: self._acknowledged(part)) is None:  # type: ignore[misc]  # as above
                    return
            elif len(part) == 1:
                refused.append((part[0], refusal))
            else:
                middle = len(part) // 2
                waiting += [(rows[middle:], part[middle:]), (rows[:middle], part[:middle])]
        self._put_aside(refused + self._held.worn(self._until, self._until))

    def _put_aside(self, refused: Sequence[tuple[Entry, str]]) -> int:
        """Sets entries aside, each with its reason, and returns how many there were."""
        self.counts.waiting = len(self._held)
        for entry, reason in refused:
            if self._kept_at(lambda entry=entry, reason=reason: self._set_aside(entry, reason)) is None:  # type: ignore[misc]  # as above
                break
        return len(refused)

    def _known(self, rows: pl.DataFrame, entries: Sequence[Entry]) -> tuple[pl.DataFrame, Sequence[Entry]]:
        """Returns the rows that are known, with their entries; the others are held."""
        if not entries:
            return rows, entries
        waits, known_at = not_yet_known(rows, self._views()[0][0].spec.source, self._until)
        if not waits.any():
            return rows, entries
        for place in waits.arg_true():
            self._held.hold(entries[place], known_at[place])
        return rows.filter(~waits), [entries[place] for place in (~waits).arg_true()]

    def _pushed(self, rows: pl.DataFrame) -> tuple[str, int]:
        """Pushes rows; returns why they are refused, empty if they are not, and how many are not known yet."""
        views = self._views()
        began = time.perf_counter()
        try:
            with _no_collection():
                done = self._push(views, rows, self._until)
        except OF_ROWS as error:
            return str(error), 0
        except (*PASSING, NotReadyError):
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a row raises is its fault: the batch is halved to find it
            _log.debug("A push of rows of the stream %r raised what no row should.", self.counts.source, exc_info=error)
            return reason_of(error), 0
        counts = self.counts
        counts.pushes += 1
        counts.seconds += time.perf_counter() - began
        for each in done:
            counts.rows_new += each.rows_new
            counts.rows_known += each.rows_known
            counts.rows_rejected += each.rows_rejected
        return "", sum(each.rows_waiting for each in done)

    def _acknowledged(self, entries: Sequence[Entry]) -> bool:
        self._consumer.acknowledge(entries)
        self._held.forget(entries)
        self.counts.entries += len(entries)
        return True

    def _set_aside(self, entry: Entry, reason: str) -> bool:
        try:
            reason = discreet_text(reason, [applied.spec for applied, _ in self._views()])
        except FeatureStoreError:
            reason = discreet_text(reason, None)
        self._consumer.set_aside(entry, reason)
        self._held.forget([entry])
        self.counts.entries += 1
        self.counts.set_aside += 1
        _log.warning("Entry %s of the stream %r was set aside: %s", entry.id, self.counts.source, reason)
        return True

    def _kept_at(self, do: Callable[[], T]) -> T | None:
        """Returns what something returns, tried again while a server is away; None where it is told to stop meanwhile."""
        pause = _FIRST_PAUSE
        while True:
            try:
                done = do()
            except (*PASSING, NotReadyError) as error:
                if self._once and isinstance(error, StreamRefusedError):
                    raise  # whoever waits for the end would wait for ever
                if str(error) != self.counts.error:
                    self.counts.error = str(error)
                    self._told(self.counts)
                if self._stop.wait(pause * random.uniform(0.5, 1.0)):
                    return None
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                if self.counts.error:
                    self.counts.error = ""
                    self._told(self.counts)
                return done


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keeps Python from looking for cycles meanwhile.

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


class NotReadyError(FeatureStoreError):
    """The views on a stream cannot take rows at present, as when they are defined otherwise than they are applied."""


def ready(find: Callable[[], Views]) -> Callable[[], Views]:
    """Returns what finds views, its errors as ``NotReadyError``: no row gives cause to them."""

    def found() -> Views:
        try:
            return find()
        except (DefinitionError, NotFoundError, RequestError) as error:
            raise NotReadyError(str(error)) from error

    return found


class BackgroundFolds:
    """Adds logs of pushes to their histories in a thread of its own, so that no entry waits for it.

    Args:
        fold: adds the log of a view.
    """

    def __init__(self, fold: Callable[[AppliedView, Transform | None], None]) -> None:
        self._fold = fold
        self._lock = Lock()
        self._thread = ThreadPoolExecutor(1, "featurestore-fold")
        self._running: dict[str, tuple[Future[None], int]] = {}

    def ask(self, applied: AppliedView, transform: Transform | None) -> None:
        """Begins a fold unless one is at work; waits for that where it was asked for many times meanwhile."""
        name = applied.spec.name
        with self._lock:
            future, asked = self._running.get(name, (None, 0))
            if future is None or future.done():
                self._running[name] = self._thread.submit(self._run, applied, transform), 0
                return
            self._running[name] = future, asked + 1
        if asked >= _MOST_ASKED:
            future.result()

    def close(self) -> None:
        """Waits for what is at work."""
        self._thread.shutdown()

    def _run(self, applied: AppliedView, transform: Transform | None) -> None:
        try:
            self._fold(applied, transform)
        except FeatureStoreError as error:
            _log.warning(
                "The log of pushes to %r could not be added to its history; it is tried again. %s", applied.spec.name, error
            )
