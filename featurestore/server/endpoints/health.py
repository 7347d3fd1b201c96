"""Health endpoints: liveness, readiness and metrics."""

import asyncio
import logging
from time import perf_counter
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from featurestore.errors import FeatureStoreError
from featurestore.server.http.content_types import JSON
from featurestore.server.http.problems import RETRY_AFTER, Problem
from featurestore.server.http.routing import ApiRoute, public, requires
from featurestore.server.http.state import AppState, state_of
from featurestore.server.openapi.operation import Operation

_log = logging.getLogger("featurestore.server")
_WRONG = {"registry": "it cannot be reached", "online": "it cannot be reached, or may have lost values (the log says which)"}
_FRESH = 1.0
"""For how many seconds a result counts: a caller that asks all the time asks the stores once a second."""


class Liveness(msgspec.Struct):
    """That the process lives."""

    status: Literal["ok"] = "ok"


class Readiness(msgspec.Struct):
    """That the server can answer."""

    status: Literal["ready"]
    checks: Annotated[dict[str, str], Meta(description="What was checked: the registry, the online store, the definitions.")]


@public
async def live(request: Request) -> Response:
    """Tell that the process lives."""
    return Response(msgspec.json.encode(Liveness()), media_type=JSON)


@public
async def ready(request: Request) -> Response:
    """Tell whether the server can answer, with a problem that names what cannot; why is in the log, as everybody may ask here."""
    checks = await state_of(request).part(_Checks).results()
    failing = [name for name, result in checks.items() if result != "ok"]
    if failing:
        problems = "; ".join(f"{name}: {checks[name]}" for name in failing)
        raise Problem(
            503, "unavailable", f"The server is not ready. {problems}.", {"retry-after": str(RETRY_AFTER)}, failing=failing
        )
    return Response(msgspec.json.encode(Readiness("ready", checks)), media_type=JSON)


@requires("read", "metrics")
async def metrics(request: Request) -> Response:
    """Return what was counted, as Prometheus reads it."""
    state = state_of(request)
    counted = await state.pools.control.run(state.observer.metrics)
    return Response(counted, media_type="text/plain; version=0.0.4; charset=utf-8")


class _Checks:
    """Check whether the stores can be reached and definitions are applied, once a second at most.

    Args:
        state: the store, and the threads to ask in.
    """

    def __init__(self, state: AppState) -> None:
        self._backend = state.backend
        self._control = state.pools.control
        self._lock = asyncio.Lock()
        self._results: dict[str, str] = {}
        self._checked = float("-inf")

    async def results(self) -> dict[str, str]:
        """Return what each check found: "ok", or what is wrong."""
        async with self._lock:
            if perf_counter() - self._checked > _FRESH:
                self._results = await self._control.run(self._check)
                self._checked = perf_counter()
            return self._results

    def _check(self) -> dict[str, str]:
        results: dict[str, str] = {}
        for name, result in self._backend.check().items():
            if isinstance(result, FeatureStoreError):
                _log.warning("The %s is not ready: %s", name, result)
            results[name] = _WRONG[name] if isinstance(result, FeatureStoreError) else "ok"
        if results["registry"] == "ok":
            results["definitions"] = "ok" if self._backend.catalog.views else "nothing is applied; run: featurestore apply"
        return results


routes = [
    ApiRoute("/metrics", metrics),
    ApiRoute(
        "/healthz",
        live,
        operation=Operation("getLiveness", "Tell whether the process lives", "health", {JSON: Liveness}, "It lives."),
    ),
    ApiRoute(
        "/readyz",
        ready,
        operation=Operation("getReadiness", "Tell whether the server can answer", "health", {JSON: Readiness}, "It can."),
    ),
]
