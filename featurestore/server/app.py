"""The ASGI application: routes, with access control before each and problem documents for errors."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any

from polars.exceptions import PanicException
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from featurestore.config import Settings
from featurestore.errors import FeatureStoreError, LimitError, NotFoundError
from featurestore.server.backend import Backend, backend_of
from featurestore.server.endpoints.table import ROUTES
from featurestore.server.http.content_types import check_encoding
from featurestore.server.http.context import ClientDisconnected, Receive, RequestContext, Scope, Send
from featurestore.server.http.memory import clear_frames
from featurestore.server.http.pools import Pools
from featurestore.server.http.problems import MEDIA_TYPE, Problem, problem_of
from featurestore.server.http.routing import AppState, RouteSpec
from featurestore.server.limits import Limits
from featurestore.server.security.guard import Guard, OpenGuard, Resource
from featurestore.server.telemetry.events import NullTelemetry, Telemetry

if TYPE_CHECKING:
    from featurestore.store import FeatureStore

_log = logging.getLogger("featurestore.server")
_WARM_AFTER = 2.0
_CLIENT_GONE = 499
"""The status reported for a request whose client went away; it is never sent."""


def create_app(
    store: "FeatureStore | Backend",
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
    parts = AppState(backend, limits, observer or NullTelemetry(), Pools(limits))
    doors = [
        Route(spec.path, GuardedRoute(spec, parts, guard or OpenGuard()), methods=[spec.method], name=f"{spec.method} {spec.path}")
        for spec in ROUTES
    ]
    handlers: dict[Any, Any] = {HTTPException: _no_route, Exception: _failed}
    made = Starlette(
        routes=doors,
        exception_handlers=handlers,
        middleware=_cors(chosen.server.origins),
        lifespan=_lifespan(parts, closing=closing, warm=warm),
    )
    made.router.redirect_slashes = False  # a redirect would repeat whatever Host the client says
    return made


def _cors(origins: Sequence[str]) -> list[Middleware]:
    """Returns what lets pages of other origins ask; nothing where none may. They send keys of their own, and no cookies."""
    if not origins:
        return []
    headers = ["authorization", "content-type", "accept"]
    told = ["retry-after", "www-authenticate"]
    return [
        Middleware(
            CORSMiddleware, allow_origins=list(origins), allow_methods=["GET", "POST"], allow_headers=headers, expose_headers=told
        )
    ]


def _lifespan(parts: AppState, *, closing: bool, warm: bool) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    backend = parts.backend

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            await parts.pools.control.run(lambda: backend.catalog)
        except FeatureStoreError as error:
            _log.warning("The service has begun and is not ready: %s", error)
        warming = asyncio.create_task(_warm(parts)) if warm else None
        if warm:
            # What is there to stay is not looked through again each time that a large body has made many objects.
            gc.collect()
            gc.freeze()
        try:
            yield
        finally:
            if warming is not None:
                warming.cancel()
            await parts.pools.control.run(parts.observer.close)
            parts.decoders.close()
            parts.pools.close()
            if closing:
                backend.close()

    return lifespan


async def _warm(parts: AppState) -> None:
    """Starts a decoder, once the process has begun to answer."""
    await asyncio.sleep(_WARM_AFTER)
    await parts.pools.control.run(parts.decoders.warm)


class GuardedRoute:
    """One route as an ASGI application.

    It admits who asks, has the guard decide, lets the endpoint answer in time, turns errors into problems, and tells the
    observer at the end.

    Args:
        spec: the route.
        parts: what its endpoint is made of.
        guard: decides.
    """

    def __init__(self, spec: RouteSpec, parts: AppState, guard: Guard) -> None:
        self.spec = spec
        self._endpoint = spec.make(parts)
        self._guard = guard
        self._observer = parts.observer
        self._budget = parts.budget
        self._takes_body = spec.method == "POST"
        self._sights = parts.sights
        self._project = parts.backend.settings.project
        self._seconds = parts.limits.seconds if spec.timed else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        began = perf_counter()
        need = self.spec.need
        visit = RequestContext(scope, receive, send, self._guard, need.action, self._budget)
        try:
            try:
                async with asyncio.timeout(self._seconds):
                    if need.action != "none":
                        await visit.admit()
                        if need.kind != "features":
                            visit.check(Resource(need.kind, tuple(scope.get("path_params", {}).values()), self._project))
                    if self._takes_body:
                        check_encoding(visit.header(b"content-encoding"))
                    await self._endpoint(visit)
            except TimeoutError:
                raise self._late(visit) from None
        except (FeatureStoreError, Problem) as error:
            clear_frames(error)
            problem = error if isinstance(error, Problem) else problem_of(self._without_hidden(visit, error))
            await _send_problem(visit, problem)
        except ClientDisconnected as gone:
            clear_frames(gone)
            visit.answered = _CLIENT_GONE
        except PanicException as panic:
            # It is no Exception: whoever answers those and logs them would pass it on.
            raise RuntimeError(f"Polars panicked: {panic}") from panic
        finally:
            visit.release()
            self._tell(visit, perf_counter() - began)

    def _without_hidden(self, visit: RequestContext, error: FeatureStoreError) -> FeatureStoreError:
        """Return an error that suggests only names the caller may see."""
        if not isinstance(error, NotFoundError) or visit.principal is None or self.spec.need.action == "none":
            return error
        seen = self._sights.names(visit)
        if seen is None or seen.issuperset(error.known):
            return error
        return NotFoundError(error.kind, error.name, [name for name in error.known if name in seen], error.hint)

    def _late(self, visit: RequestContext) -> LimitError:
        if visit.uploaded:
            return LimitError(
                f"The answer took longer than {self._seconds:g} seconds (server.request_timeout). Try again later.", "time"
            )
        return LimitError(
            f"The body had not come after {self._seconds:g} seconds (server.request_timeout). Send it faster.", "upload"
        )

    def _tell(self, visit: RequestContext, seconds: float) -> None:
        try:
            if visit.after is not None and visit.answered < 400:
                visit.after()
            self._observer.request(self.spec.path, visit.answered or 500, seconds, visit)
        except Exception:  # noqa: BLE001 - whatever an observer does, it must not fail a request
            _log.exception("An observer failed.")


async def _send_problem(visit: RequestContext, problem: Problem) -> None:
    if visit.answered:  # half of an answer is sent: all that is left is to break off
        raise problem
    await visit.answer(problem.encoded(), MEDIA_TYPE, problem.status, problem.headers)


async def _no_route(request: Request, error: HTTPException) -> Response:
    path = request.url.path
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        problem = Problem(405, "method", f"{request.method} {path} is not there; it takes {allowed}.", {"allow": allowed})
    else:
        problem = Problem(404, "no-route", f"There is nothing at {path!r}. GET /openapi.json lists what there is.")
    return _response(problem)


async def _failed(request: Request, error: Exception) -> Response:
    return _response(Problem(500, "internal", "The server failed, and has logged why. It is not the request's fault."))


def _response(problem: Problem) -> Response:
    return Response(problem.encoded(), problem.status, problem.headers, MEDIA_TYPE.decode())
