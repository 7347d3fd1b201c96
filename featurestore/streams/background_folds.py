"""Folding logs of pushes in the background, beside the work on a stream."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

from featurestore.definitions.catalog import BoundView
from featurestore.errors import FeatureStoreError

_log = logging.getLogger("featurestore")

_MOST_ASKED = 256


class BackgroundFolds:
    """Add logs of pushes to their histories in a thread of its own, so that no entry waits for it.

    Args:
        fold: adds the log of a view.
    """

    def __init__(self, fold: Callable[[BoundView], None]) -> None:
        self._fold = fold
        self._lock = Lock()
        self._thread = ThreadPoolExecutor(1, "featurestore-fold")
        self._running: dict[str, tuple[Future[None], int]] = {}

    def ask(self, view: BoundView) -> None:
        """Begin a fold unless one is at work; wait for that where it was asked for many times meanwhile."""
        name = view.spec.name
        with self._lock:
            future, asked = self._running.get(name, (None, 0))
            if future is None or future.done():
                self._running[name] = self._thread.submit(self._run, view), 0
                return
            self._running[name] = future, asked + 1
        if asked >= _MOST_ASKED:
            future.result()

    def close(self) -> None:
        """Wait for what is at work."""
        self._thread.shutdown()

    def _run(self, view: BoundView) -> None:
        try:
            self._fold(view)
        except FeatureStoreError as error:
            _log.warning("The log of pushes to %r could not be added to its history; it is tried again. %s", view.spec.name, error)
