"""The catalog cache: the applied catalog, refreshed in the background so that no read waits for the registry."""

import logging
import threading
import time
import weakref
from collections.abc import Callable
from typing import Protocol

from featurestore.definitions.catalog import Catalog
from featurestore.errors import FeatureStoreError, RegistryError
from featurestore.forking import notify_of_forks

_CLOSING_SECONDS = 5.0
"""How long a closing watch waits for a look that is under way: the registry may be silent."""

_log = logging.getLogger("featurestore")


class CatalogSource(Protocol):
    """What the watch asks of the registry."""

    def load(self) -> Catalog:
        """Return the catalog."""

    def state(self) -> tuple[int, str]:
        """Return the catalog's revision and its stamp, cheaply."""


class CatalogCache:
    """Cache the catalog; a background thread refreshes it every ``seconds``.

    The thread begins with the first use and ends with ``close()`` or with the watch. While the registry cannot be reached, or
    what was applied cannot be read here, the last catalog is served and a warning logged. A thread that is gone, because the
    process was forked or by a fault, is begun again by the next use.

    The registry's state counts, whether its revision is greater or smaller than the known one: a registry may have been
    restored from a backup, or recreated.

    Args:
        registry: where the catalog comes from.
        seconds: how often to look.
        changed: is called after the catalog became another one.
    """

    def __init__(self, registry: CatalogSource, seconds: float, changed: Callable[[], None]) -> None:
        self._registry = registry
        self._seconds = seconds
        self._changed = changed
        self._catalog: Catalog | None = None
        self._looks = 0
        self._taken = 0
        self._fresh = time.perf_counter()
        self.after_fork()
        notify_of_forks(self)

    def after_fork(self) -> None:
        """See ``Forked.after_fork``. The catalog stays: the child looks for itself whether it is the newest."""
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def current(self) -> Catalog:
        """The catalog, at most a few seconds old; only the first use asks the registry."""
        catalog = self._catalog
        if catalog is None:
            catalog = self.refresh()
        if self._thread is None:
            self._begin()
        return catalog

    @property
    def age(self) -> float:
        """How many seconds ago the registry was last asked with success whether the catalog is the newest."""
        return time.perf_counter() - self._fresh

    def refresh(self) -> Catalog:
        """Return the catalog as it is applied at this moment."""
        look = self._look()
        catalog = self._catalog
        if catalog is None or self._registry.state() != catalog.state:
            return self._take(self._registry.load(), look)
        self._fresh = time.perf_counter()
        return catalog

    def use(self, catalog: Catalog) -> Catalog:
        """Take the catalog that an apply here has just made, unless a newer one is known; return the one that counts."""
        with self._lock:
            known = self._catalog
            if known is not None and known.revision > catalog.revision:
                return known  # somebody applied after that, and was seen already
        return self._take(catalog, self._look())

    def switch(self, view: str, move: Callable[[], Catalog | None]) -> None:
        """Give readers a view as it is applied, where they are given another version still.

        Args:
            view: its name.
            move: does so in the registry; returns the catalog after it, None where it is not time yet.
        """
        if view in self.refresh().previous_versions:
            catalog = move()
            if catalog is not None:
                self.use(catalog)

    def forget(self) -> None:
        """Forget the catalog, after the registry was recreated."""
        with self._lock:
            self._catalog = None
            self._taken = self._looks
        self._changed()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_CLOSING_SECONDS)

    def _look(self) -> int:
        """Return the number of a look at the registry that begins now."""
        with self._lock:
            self._looks += 1
            return self._looks

    def _take(self, catalog: Catalog, look: int) -> Catalog:
        with self._lock:
            if self._catalog is not None and look < self._taken:
                return self._catalog  # a look that took long has been overtaken by one that began after it
            self._catalog, self._taken, self._fresh = catalog, look, time.perf_counter()
        self._changed()
        return catalog

    def _begin(self) -> None:
        with self._lock:
            if self._stop.is_set() or self._thread is not None:
                return
            target = weakref.ref(self), self._stop, self._seconds
            thread = threading.Thread(target=_run, args=target, name="featurestore-catalog", daemon=True)
            thread.start()
            self._thread = thread

    def _ended(self) -> None:
        """Let the next use begin another thread, where this one is gone."""
        with self._lock:
            if self._thread is threading.current_thread():
                self._thread = None


def _run(watch: "weakref.ref[CatalogCache]", stop: threading.Event, seconds: float) -> None:
    try:
        _watch(watch, stop, seconds)
    finally:
        # NOTE: readers ask whether there is a thread at each look-up: asking it whether it lives takes a lock.
        cache = watch()
        if cache is not None:
            cache._ended()


def _watch(watch: "weakref.ref[CatalogCache]", stop: threading.Event, seconds: float) -> None:
    while not stop.wait(seconds):
        cache = watch()
        if cache is None:
            return
        try:
            cache.refresh()
        except RegistryError as error:
            _log.warning("The registry cannot be reached; the features applied last go on being served. %s", error)
        except FeatureStoreError as error:
            _log.warning("What was applied cannot be read here; the features applied before go on being served. %s", error)
        del cache
