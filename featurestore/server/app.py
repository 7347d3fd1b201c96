"""The ASGI application: routes, middleware, exception handlers, and what begins and ends with them."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from featurestore.config import Settings
from featurestore.errors import FeatureStoreError
from featurestore.server.backend import Backend, backend_of
from featurestore.server.endpoints.online import OnlineFastPath
from featurestore.server.endpoints.table import ROUTES
from featurestore.server.http.handlers import HANDLERS
from featurestore.server.http.middleware import TelemetryMiddleware
from featurestore.server.http.pools import Pools
from featurestore.server.http.state import AppState
from featurestore.server.limits import Limits
from featurestore.server.security.guard import Guard, OpenGuard
from featurestore.server.telemetry.events import NullTelemetry, Telemetry
from featurestore.store import FeatureStore

_log = logging.getLogger("featurestore.server")
_WARM_AFTER = 2.0


def create_app(
    store: FeatureStore | Backend,
    settings: Settings | None = None,
    guard: Guard | None = None,
    observer: Telemetry | None = None,
    *,
    closing: bool = False,
    warm: bool = False,
) -> Starlette:
    """Return the service over a store, as an ASGI application.

    Args:
        store: the store, or another backend.
        settings: the server's limits; the store's settings by default.
        guard: decides who may do what; by default everybody may do everything.
        observer: receives every request after its answer.
        closing: whether the store is closed with the application.
        warm: whether what the first requests would wait for is started with the application.

    Example:
        >>> from featurestore import FeatureStore
        >>> app = create_app(FeatureStore(".", project="flights"))
        >>> app.routes[0].path
        '/v1/online'
    """
    backend = backend_of(store)
    chosen = settings or backend.settings
    limits = Limits.of(chosen)
    state = AppState(backend, limits, guard or OpenGuard(), observer or NullTelemetry(), Pools(limits))
    app = Starlette(
        routes=ROUTES,
        exception_handlers=HANDLERS,
        middleware=[*_cors(chosen.server.origins), Middleware(TelemetryMiddleware, state=state), Middleware(OnlineFastPath)],
        lifespan=_lifespan(state, closing=closing, warm=warm),
    )
    app.state.server = state
    app.router.redirect_slashes = False  # a redirect would repeat whatever Host the client says
    return app


def _cors(origins: Sequence[str]) -> list[Middleware]:
    """Return what lets pages of other origins ask; nothing where none may. They send keys of their own, and no cookies."""
    if not origins:
        return []
    headers = ["authorization", "content-type", "accept"]
    exposed = ["retry-after", "www-authenticate"]
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=headers,
            expose_headers=exposed,
        )
    ]


def _lifespan(state: AppState, *, closing: bool, warm: bool) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    backend = state.backend

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            await state.pools.control.run(lambda: backend.catalog)
        except FeatureStoreError as error:
            _log.warning("The service has begun and is not ready: %s", error)
        warming = asyncio.create_task(_warm(state)) if warm else None
        if warm:
            # What is there to stay is not looked through again each time that a large body has made many objects.
            gc.collect()
            gc.freeze()
        try:
            yield
        finally:
            if warming is not None:
                warming.cancel()
            await state.pools.control.run(state.observer.close)
            state.decoders.close()
            state.pools.close()
            if closing:
                backend.close()

    return lifespan


async def _warm(state: AppState) -> None:
    """Start a decoder, once the process has begun to answer."""
    await asyncio.sleep(_WARM_AFTER)
    await state.pools.control.run(state.decoders.warm)
