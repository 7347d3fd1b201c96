"""Repair of the online store in the background: rewrites lost values without waiting for the next run."""

import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from threading import Lock, Thread
from time import perf_counter

from featurestore.definitions.catalog import AppliedView
from featurestore.errors import ClosedError, FeatureStoreError
from featurestore.materialization.online_trust import Place
from featurestore.materialization.progress import Progress
from featurestore.registry.leases import Lease, Leases
from featurestore.registry.specs import SpecRegistry

_log = logging.getLogger("featurestore")

_LEASE = "mend:online"
_LEASE_SECONDS = 60.0
_PAUSE = 10.0
_CLOSE_SECONDS = 10.0


class OnlineRepair:
    """Mend the online store, of several processes one at a time. Thread-safe.

    Args:
        registry: the project's registry.
        look: looks whether the store lost data; returns which views are to be written again, and why.
        views: returns the views that are read or written online.
        write: writes the values of one again, and tells how it gets on.
    """

    def __init__(
        self,
        registry: SpecRegistry,
        look: Callable[[], Mapping[Place, str]],
        views: Callable[[], Sequence[AppliedView]],
        write: Callable[[AppliedView, Progress], object],
    ) -> None:
        self._leases = Leases(registry)
        self._look = look
        self._views = views
        self._write = write
        self._lock = Lock()
        self._thread: Thread | None = None
        self._began = float("-inf")
        self._closing = False
        self._lease: Lease | None = None
        self._renewed = 0.0
        self._last_error = ""

    def begin(self, pause: float = _PAUSE) -> None:
        """Have it looked, and mended what is to be, in a thread; unless that is under way, or was begun just now.

        Args:
            pause: how many seconds are to lie between two of them.
        """
        with self._lock:
            now = perf_counter()
            if self._closing or now < self._began + pause or (self._thread is not None and self._thread.is_alive()):
                return
            self._began = now
            self._thread = Thread(target=self.run, name="featurestore-mend", daemon=True)
            self._thread.start()

    def run(self) -> None:
        """Check the online store, and write again what it lost. An obstacle is logged once."""
        try:
            self._run()
        except ClosedError:
            return
        except FeatureStoreError as error:
            if str(error) != self._last_error:
                _log.warning("What the online store lost cannot be written again yet: %s", error)
            self._last_error = str(error)
            return
        self._last_error = ""

    def close(self) -> None:
        """End work in progress soon. Idempotent."""
        with self._lock:
            self._closing = True
            thread = self._thread
        if thread is not None:
            thread.join(_CLOSE_SECONDS)

    def step(self, view: str, stage: str, done: int, total: int, *, size: int = 0, total_size: int = 0) -> None:
        """See ``Progress.step``: goes on being the one that mends.

        Raises:
            ClosedError: it is to end.
            LeaseLostError: another process mends by now.
        """
        if self._closing:
            raise ClosedError
        if self._lease is not None and perf_counter() - self._renewed > _LEASE_SECONDS / 3:
            self._leases.renew(self._lease, _LEASE_SECONDS)
            self._renewed = perf_counter()

    def _run(self) -> None:
        if not self._look():
            return
        lease = self._leases.acquire(_LEASE, f"{socket.gethostname()}:{os.getpid()}", _LEASE_SECONDS)
        if lease is None:
            return  # another process is at it
        self._lease, self._renewed = lease, perf_counter()
        try:
            lost = self._look()
            for applied in self._views():
                if (applied.spec.name, applied.data_version) in lost:
                    self.step(applied.spec.name, "write online", 0, 1)
                    self._write(applied, self)
        finally:
            self._lease = None
            self._leases.release(lease)
        _log.warning("The online store has again what it lost.")
