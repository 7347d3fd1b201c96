"""The streams of a project: workers, lag, and dead letters."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from threading import Event, Lock, Thread

import polars as pl

from featurestore.clock import from_micros, to_micros
from featurestore.definitions.catalog import AppliedView, BoundView, Catalog
from featurestore.definitions.source import Source
from featurestore.definitions.stream_source import StreamSource
from featurestore.errors import FeatureStoreError, NotFoundError, RequestError
from featurestore.materialization.push import Pusher
from featurestore.materialization.results import PushedView
from featurestore.streams.background_folds import BackgroundFolds
from featurestore.streams.base import DeadLetterQueue, StreamConsumer
from featurestore.streams.counts import StreamCounts
from featurestore.streams.decoder import EntryDecoder, entry_texts
from featurestore.streams.pending_entries import PendingLimits
from featurestore.streams.worker import StreamWorker, Views, WorkerOptions, ready

BATCH = 5_000
IDLE_SECONDS = 30.0


@dataclass(frozen=True)
class StreamStatus:
    """How a stream stands.

    Args:
        source: its source.
        waiting: how many entries no worker was given yet.
        pending: how many were given to a worker and are not in both stores yet.
        seconds: how long ago the oldest of all these came into the stream.
        set_aside: how many entries are set aside.
        error: why this cannot be determined; empty if it can.
        lost: how many entries the broker dropped before they were in both stores, as far as it can be determined.
        ahead: how many seconds the broker's clock is ahead of this machine's; negative where it is behind.
    """

    source: str
    waiting: int = 0
    pending: int = 0
    seconds: float = 0.0
    set_aside: int = 0
    error: str = ""
    lost: int = 0
    ahead: float = 0.0


@dataclass(frozen=True)
class DeadLetterEntry:
    """An entry of a stream that could not be pushed.

    Args:
        id: its id in the stream.
        time: when it came into the stream.
        fields: what it holds, as text.
        reason: why.
    """

    id: str
    time: datetime
    fields: Mapping[str, str]
    reason: str


class DeadLetters:
    """The entries of a project's streams that could not be pushed, each with the reason.

    Args:
        queue: opens the dead-letter queue of a stream.
    """

    def __init__(self, queue: "Callable[[Source | str], AbstractContextManager[DeadLetterQueue]]") -> None:
        self._queue = queue

    def list(self, source: Source | str) -> "list[DeadLetterEntry]":
        """Return the dead letters of a stream, the oldest first.

        Args:
            source: the stream, or its name.

        Raises:
            NotFoundError: the source is not applied.
            RequestError: the source is not a stream.
            StreamError: the broker cannot be reached.
        """
        with self._queue(source) as queue:
            return [
                DeadLetterEntry(letter.entry.id, from_micros(letter.entry.time), entry_texts(letter.entry), letter.reason)
                for letter in queue.read()
            ]

    def requeue(self, source: Source | str, ids: "Sequence[str] | None" = None) -> int:
        """Put dead letters back into the stream, with new ids, once their cause is fixed; return how many.

        Args:
            source: the stream, or its name.
            ids: which; None for all.

        Raises: as ``list``.
        """
        with self._queue(source) as queue:
            return queue.put_back(_ids(queue, ids))

    def discard(self, source: Source | str, ids: "Sequence[str] | None" = None) -> int:
        """Delete dead letters for good; return how many there were.

        Args:
            source: the stream, or its name.
            ids: which; None for all.

        Raises: as ``list``.
        """
        with self._queue(source) as queue:
            return queue.remove(_ids(queue, ids))


def _ids(queue: DeadLetterQueue, ids: Sequence[str] | None) -> Sequence[str]:
    return [letter.entry.id for letter in queue.read()] if ids is None else ids


class SourceChanged(Exception):  # noqa: N818 - it is no error: the worker begins anew
    """A stream is defined otherwise than when its worker began.

    Args:
        source: as it is defined now.
    """

    def __init__(self, source: StreamSource) -> None:
        self.source = source


class Streams:
    """The streams of a project.

    Args:
        catalog: returns what is applied, at most a few seconds old.
        bind: returns a view with its definition.
        make_pusher: makes a pusher, given what to do where a log has grown.
        fold: adds a view's log of pushes to its history.
        open_stream: opens a stream, given after how many seconds what a worker has left is given to another.
        patience: how long what is not known yet may wait.
    """

    def __init__(
        self,
        catalog: Callable[[], Catalog],
        bind: Callable[[AppliedView], BoundView],
        make_pusher: Callable[[Callable[[BoundView], None]], Pusher],
        fold: Callable[[BoundView], None],
        open_stream: Callable[[StreamSource, float], StreamConsumer],
        patience: PendingLimits | None = None,
    ) -> None:
        self._catalog = catalog
        self._bind = bind
        self._make_pusher = make_pusher
        self._fold = fold
        self._open_stream = open_stream
        self._patience = patience or PendingLimits()
        self._lock = Lock()
        self._known: dict[str, tuple[tuple[int, str], Views]] = {}
        self.counts: dict[str, StreamCounts] = {}
        """What the workers of this process did, by source."""

    def run(
        self,
        sources: Iterable[Source | str] | None = None,
        *,
        batch: int = BATCH,
        idle_seconds: float = IDLE_SECONDS,
        once: bool = False,
        stop: Event | None = None,
        on_change: Callable[[StreamCounts], None] = lambda counts: None,
    ) -> list[StreamCounts]:
        """Push what arrives in streams into the views on them, each stream in a thread, until ``stop`` is set.

        Any number of processes may do so: they share the entries. What one that died has left is taken over by another.

        Args:
            sources: the streams, as sources or names; None for all that are applied.
            batch: how many entries are pushed at once, at the most.
            idle_seconds: after how long what another worker was given is taken for left behind.
            once: end when nothing is left in the streams.
            stop: set to end it; what was taken by then is finished first.
            on_change: called, from the threads, when the counts of a stream have changed.

        Returns:
            What was done, for each stream.

        Raises:
            NotFoundError: a source is not applied.
            RequestError: a source is not a stream, or no view is on it.
            ConfigError: an address is wrong, or a variable in it is not set.
            MissingExtraError: the client of a broker is not installed.
        """
        chosen = [self._checked(source) for source in self._chosen(sources)]
        ending = stop or Event()
        folds = BackgroundFolds(self._fold)
        pusher = self._make_pusher(folds.ask)
        failed: list[BaseException] = []
        consumers: list[StreamConsumer] = []

        def work(source: StreamSource, consumer: StreamConsumer) -> None:
            try:
                self._work(source, consumer, pusher, ending, on_change, batch, idle_seconds, once=once)
            except BaseException as error:  # noqa: BLE001 - raised anew by the thread that waits
                failed.append(error)
                ending.set()

        try:
            threads = []
            for source in chosen:
                consumers.append(self._open_stream(source, idle_seconds))
                self.counts[source.name] = StreamCounts(source.name)
                thread = Thread(target=work, args=(source, consumers[-1]), name=f"featurestore-stream-{source.name}")
                threads.append(thread)
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            for consumer in consumers:
                consumer.close()  # where its thread was not begun
            folds.close()
        if failed:
            raise failed[0]
        return [self.counts[source.name] for source in chosen]

    def _work(
        self,
        source: StreamSource,
        consumer: StreamConsumer,
        pusher: Pusher,
        stop: Event,
        on_change: Callable[[StreamCounts], None],
        batch: int,
        idle_seconds: float,
        *,
        once: bool,
    ) -> None:
        """Work on a stream; start over when its definition changes."""
        counts = self.counts[source.name]
        while True:
            views = ready(partial(self._views, source))
            options = WorkerOptions(batch, on_change, self._patience)
            push = partial(_push, pusher)
            worker = StreamWorker(consumer, EntryDecoder(source), views, push, counts, options)
            try:
                worker.run(stop, once=once)
                return
            except SourceChanged as change:
                source = change.source
            finally:
                consumer.close()  # what it was given and has not done goes to the next one
            consumer = self._open_stream(source, idle_seconds)

    def status(self) -> list[StreamStatus]:
        """Return how each stream stands that is applied; of one whose broker cannot be reached, why."""
        return [self._status(source) for source in self._chosen(None)]

    @property
    def dead_letters(self) -> "DeadLetters":
        """Entries that could not be pushed: ``list``, ``requeue`` and ``discard`` them."""
        return DeadLetters(self._queue)

    @contextmanager
    def _queue(self, source: Source | str) -> "Iterator[DeadLetterQueue]":
        with self._opened(self._one(source)) as consumer:
            yield consumer.shelf

    def _chosen(self, sources: Iterable[Source | str] | None) -> list[StreamSource]:
        if sources is not None:
            return [self._one(source) for source in sources]
        applied = self._catalog().sources.values()
        return sorted((stream for stream in applied if isinstance(stream, StreamSource)), key=lambda stream: stream.name)

    def _one(self, source: Source | str) -> StreamSource:
        name = source if isinstance(source, str) else source.name
        known = self._catalog().sources
        if name not in known:
            raise NotFoundError("applied source", name, known, "Definitions take effect once they are applied.")
        definition = known[name]
        if not isinstance(definition, StreamSource):
            raise RequestError(
                f"Source {name!r} is not a stream; rows of a {type(definition).__name__} are materialized or pushed."
            )
        return definition

    def _checked(self, source: StreamSource) -> StreamSource:
        self._on(source.name)
        return source

    def _on(self, name: str) -> list[AppliedView]:
        """Return the views on a source: without one, what is taken from the stream would be lost."""
        views = [view for view in self._catalog().views.values() if view.spec.source.name == name]
        if not views:
            raise RequestError(f"No view is on the stream {name!r}, so nothing is taken from it. Apply one.")
        return views

    def _views(self, source: StreamSource) -> Views:
        """Return the views on a source.

        Raises:
            SourceChanged: the source is defined otherwise by now.
        """
        catalog = self._catalog()
        state, views = self._known.get(source.name, ((-1, ""), ()))
        if state != catalog.state or not views:
            applied_source = self._one(source)
            if applied_source != source:
                raise SourceChanged(applied_source)
            with self._lock:  # it imports modules
                views = [self._bind(view) for view in self._on(source.name)]
            self._known[source.name] = catalog.state, views
        return views

    def _status(self, source: StreamSource) -> StreamStatus:
        try:
            with self._opened(source) as consumer:
                lag = consumer.lag()
                ahead = (lag.time - to_micros(self._patience.clock())) / 1e6
        except FeatureStoreError as error:
            return StreamStatus(source.name, error=str(error))
        return StreamStatus(source.name, lag.waiting, lag.pending, lag.seconds, lag.set_aside, lost=lag.lost, ahead=ahead)

    @contextmanager
    def _opened(self, source: StreamSource) -> Iterator[StreamConsumer]:
        consumer = self._open_stream(source, IDLE_SECONDS)
        try:
            yield consumer
        finally:
            consumer.close()


def _push(pusher: Pusher, views: Views, rows: pl.DataFrame, until: int) -> list[PushedView]:
    return pusher.push(views, rows, until=until)
