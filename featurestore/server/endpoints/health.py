"""Health endpoints: liveness, readiness and metrics."""

import asyncio
import logging
from time import perf_counter
from typing import TYPE_CHECKING

import msgspec

from featurestore.errors import FeatureStoreError
from featurestore.server.http.context import RequestContext
from featurestore.server.http.pools import Pools
from featurestore.server.http.problems import RETRY_AFTER, Problem
from featurestore.server.telemetry.events import Telemetry

if TYPE_CHECKING:
    from featurestore.server.backend import Backend

_log = logging.getLogger("featurestore.server")
_WRONG = {"registry": "it cannot be reached", "online": "it cannot be reached, or may have lost values (the log says which)"}
_FRESH = 1.0
"""For how many seconds a result counts: a caller that asks all the time asks the stores once a second."""


async def live(visit: RequestContext) -> None:
    """Answers that the process lives."""
    await visit.answer(b'{"status":"ok"}', b"application/json")


class MetricsEndpoint:
    """Answers what was counted.

    Args:
        observer: counts.
        pools: the threads to count in.
    """

    def __init__(self, observer: Telemetry, pools: Pools) -> None:
        self._observer = observer
        self._pools = pools

    async def __call__(self, visit: RequestContext) -> None:
        """Answers, as Prometheus reads it."""
        await visit.answer(await self._pools.control.run(self._observer.metrics), b"text/plain; version=0.0.4; charset=utf-8")


class ReadyEndpoint:
    """Tells whether the stores can be reached and definitions are applied.

    Args:
        backend: the store that is served.
        pools: the threads to ask in.
    """

    def __init__(self, backend: "Backend", pools: Pools) -> None:
        self._backend = backend
        self._pools = pools
        self._lock: asyncio.Lock | None = None
        self._found: dict[str, str] = {}
        self._looked = float("-inf")

    async def __call__(self, visit: RequestContext) -> None:
        """Answers, with a problem that names what is not ready; why is in the log, as anybody may ask here."""
        self._lock = self._lock or asyncio.Lock()
        async with self._lock:
            if perf_counter() - self._looked > _FRESH:
                self._found = await self._pools.control.run(self._look)
                self._looked = perf_counter()
        wrong = [name for name, told in self._found.items() if told != "ok"]
        if wrong:
            told = "; ".join(f"{name}: {self._found[name]}" for name in wrong)
            raise Problem(503, "unavailable", f"The server is not ready. {told}.", {"retry-after": str(RETRY_AFTER)}, failing=wrong)
        await visit.answer(msgspec.json.encode({"status": "ready", "checks": self._found}), b"application/json")

    def _look(self) -> dict[str, str]:
        told: dict[str, str] = {}
        for name, found in self._backend.check().items():
            if isinstance(found, FeatureStoreError):
                _log.warning("The %s is not ready: %s", name, found)
            told[name] = _WRONG[name] if isinstance(found, FeatureStoreError) else "ok"
        if told["registry"] == "ok":
            told["definitions"] = "ok" if self._backend.catalog.views else "nothing is applied; run: featurestore apply"
        return told
