"""The catalog as it is applied now, kept fresh in the background so that no read has to ask the registry."""

import logging
import threading
import weakref
from collections.abc import Callable
from typing import Protocol

from featurestore.errors import RegistryError
from featurestore.spec.catalog import Catalog

_log = logging.getLogger("featurestore")


class CatalogSource(Protocol):
    """What the watch asks of the registry."""

    def load(self) -> Catalog:
        """Returns the catalog."""

    def revision(self) -> int:
        """Returns the catalog's revision, cheaply."""


class CatalogWatch:
    """Keeps the catalog at hand; a thread looks every few seconds whether somebody applied.

    The thread begins with the first use and ends with ``close()`` or with the watch. While the registry cannot be reached,
    the last catalog is served and a warning logged.

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
            with self._lock:
                if self._thread is None and not self._stop.is_set():
                    watch = weakref.ref(self)
                    self._thread = threading.Thread(
                        target=_look, args=(watch, self._stop, self._seconds), name="featurestore-catalog", daemon=True
                    )
                    self._thread.start()
        return catalog

    def refresh(self) -> Catalog:
        """Returns the catalog as it is applied at this moment."""
        catalog = self._catalog
        if catalog is None or self._registry.revision() != catalog.revision:
            catalog = self.use(self._registry.load())
        return catalog

    def use(self, catalog: Catalog) -> Catalog:
        """Takes a catalog unless a newer one is known, and returns the one that counts."""
        with self._lock:
            if self._catalog is not None and self._catalog.revision > catalog.revision:
                return self._catalog  # a look that took long has been overtaken by an apply here
            self._catalog = catalog
        self._changed()
        return catalog

    def forget(self) -> None:
        """Forgets the catalog, where the registry has begun anew."""
        with self._lock:
            self._catalog = None
        self._changed()

    def close(self) -> None:
        """Ends the thread."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()


def _look(watch: "weakref.ref[CatalogWatch]", stop: threading.Event, seconds: float) -> None:
    while not stop.wait(seconds):
        held = watch()
        if held is None:
            return
        try:
            held.refresh()
        except RegistryError as error:
            _log.warning("The registry cannot be reached; the features applied last go on being served. %s", error)
        del held
