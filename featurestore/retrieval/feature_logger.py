"""The feature logger: writes a sample of a service's answers without delaying requests."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from time import perf_counter

import polars as pl

from featurestore.errors import FeatureStoreError
from featurestore.offline.base import FeatureLog
from featurestore.retrieval.online_result import OnlineRows, join_keys_of, log_frame, plan_of
from featurestore.rows.buckets import key_hash

_log = logging.getLogger("featurestore")

OnFlush = Callable[[str, int, int], None]
"""Receives a service's name, how many rows were written, and how many dropped."""

MOST_WAITING = 20_000
"""The rows of answers that may wait to be looked at, and those sampled that may wait to be written; more are dropped."""
FLUSH_ROWS = 50_000
LOOK_EVERY = 0.25
"""How often the answers that wait are looked at, in seconds."""


class FeatureLogger:
    """Sample answers into the feature log. One thread does all the work; callers never wait.

    An answer is looked at within a quarter of a second. What is sampled is written after ``seconds``, or once there is a lot of
    it, and at the end. What cannot be taken or written is dropped and reported.

    Args:
        project: the project.
        log: where the answers are kept.
        seconds: how often they are written.
        on_flush: called with what became of them.
    """

    def __init__(self, project: str, log: FeatureLog, seconds: float, on_flush: OnFlush) -> None:
        self._project = project
        self._log = log
        self._seconds = seconds
        self._on_flush = on_flush
        self._given: deque[tuple[str, float, OnlineRows]] = deque()
        self._waiting = 0
        self._lock = threading.Lock()
        self._sampled: dict[str, list[pl.DataFrame]] = {}
        self._began = perf_counter()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="featurestore-log", daemon=True)
        self._thread.start()

    def offer(self, service: str, rate: float, rows: OnlineRows) -> None:
        """Take an answer, or drop it where too many wait already.

        Args:
            service: the service that was asked for.
            rate: the part of its entities that is logged.
            rows: the answer.
        """
        count = len(rows)
        with self._lock:
            taken = self._waiting + count <= MOST_WAITING and not self._stop.is_set()
            if taken:
                self._waiting += count
                self._given.append((service, rate, rows))
        if not taken:
            self._on_flush(service, 0, count)

    def close(self) -> None:
        """Write what waits, and end."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(min(LOOK_EVERY, self._seconds)):
            self._look()
            waiting = sum(frame.height for frames in self._sampled.values() for frame in frames)
            if waiting >= FLUSH_ROWS or perf_counter() - self._began >= self._seconds:
                self._flush()
        self._look()
        self._flush()

    def _look(self) -> None:
        """Sample the answers that wait."""
        with self._lock:
            given, self._given = self._given, deque()
            self._waiting = 0
        alike: dict[tuple[str, float, int], list[OnlineRows]] = {}
        for service, rate, rows in given:
            alike.setdefault((service, rate, id(plan_of(rows))), []).append(rows)
        for (service, rate, _), answers in alike.items():
            try:
                self._sampled.setdefault(service, []).extend(sample(answers, rate))
            except (FeatureStoreError, pl.exceptions.PolarsError, ArithmeticError, LookupError, TypeError, ValueError) as error:
                # NOTE: without the error's text, which may have values.
                _log.warning("Answers of %s cannot be logged: %s.", service, type(error).__name__)
                self._on_flush(service, 0, sum(map(len, answers)))

    def _flush(self) -> None:
        """Write what was sampled."""
        self._began = perf_counter()
        sampled, self._sampled = self._sampled, {}
        for service, frames in sampled.items():
            for alike in _by_schema(frames):
                rows = pl.concat(alike)
                try:
                    self._log.append(self._project, service, rows)
                except FeatureStoreError as error:
                    _log.warning("Answers of %s cannot be logged. %s", service, error)
                    self._on_flush(service, 0, rows.height)
                else:
                    self._on_flush(service, rows.height, 0)


def sample(answers: Sequence[OnlineRows], rate: float) -> list[pl.DataFrame]:
    """Return the rows of answers of one plan that are logged: those of the entities whose hash lies in a part of all hashes.

    The hash (XXH64) is of all join keys together, so an entity is always logged or never, by every worker and at any time. A row
    with a null key, or of a service without join keys, is logged where all are.
    """
    if rate >= 1:
        return [log_frame(rows) for rows in answers if len(rows)]
    keys = join_keys_of(answers)
    if not keys.width:
        return []
    hashed = keys.select(key_hash(keys.schema)).to_series()
    chosen = (hashed < int(rate * 2**64)).fill_null(value=False)
    frames = []
    start = 0
    for rows in answers:
        part = chosen[start : start + len(rows)]
        start += len(rows)
        if part.any():
            frames.append(log_frame(rows).filter(part))
    return frames


def _by_schema(frames: Sequence[pl.DataFrame]) -> list[list[pl.DataFrame]]:
    """Return frames that have the same columns together: others come after an apply."""
    alike: dict[tuple[tuple[str, pl.DataType], ...], list[pl.DataFrame]] = {}
    for frame in frames:
        alike.setdefault(tuple(frame.schema.items()), []).append(frame)
    return list(alike.values())
