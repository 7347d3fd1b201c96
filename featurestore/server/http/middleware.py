"""ASGI middleware around every route: telemetry at the outside, and the time limit of each route."""

import asyncio
import logging
from time import perf_counter

from polars.exceptions import PanicException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from featurestore.errors import LimitError
from featurestore.server.http.context import KEY, RequestContext
from featurestore.server.http.memory import clear_frames
from featurestore.server.http.state import AppState

_log = logging.getLogger("featurestore.server")
_CLIENT_GONE = 499
"""The status reported for a request whose client went away; it is never sent."""


class TelemetryMiddleware:
    """Give each request its context, and report it to the observers once it is answered.

    Args:
        app: what answers.
        state: the application's state.
    """

    def __init__(self, app: ASGIApp, state: AppState) -> None:
        self._app = app
        self._guard = state.guard
        self._project = state.backend.settings.project
        self._budget = state.budget
        self._observer = state.observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; a request that no route fits is not reported."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = perf_counter()
        context = RequestContext(scope, receive, send, self._guard, self._project, self._budget)
        scope[KEY] = context
        try:
            await self._app(scope, context.receive, context.send)
        except ClientDisconnect as gone:
            clear_frames(gone)
            context.status = _CLIENT_GONE
        except PanicException as panic:
            # It is no Exception: the middleware that answers those and logs them would pass it on.
            raise RuntimeError(f"Polars panicked: {panic}") from panic
        finally:
            context.release()
            if context.path:
                self._report(context, perf_counter() - began)
            # NOTE: a scope that holds its context is a circle: what the request brought would stay until Python looks for circles.
            del scope[KEY]

    def _report(self, context: RequestContext, seconds: float) -> None:
        try:
            if context.after is not None and context.status < 400:
                context.after()
            self._observer.request(context.path, context.status or 500, seconds, context)
        except Exception:  # noqa: BLE001 - whatever an observer does, it must not fail a request
            _log.exception("An observer failed.")


class TimeLimit:
    """Bounds how long a route may take (``server.request_timeout``), from its first byte to the last of its answer.

    Args:
        app: what answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            LimitError: the time is over.
        """
        seconds: float = scope["app"].state.server.limits.seconds
        try:
            async with asyncio.timeout(seconds):
                await self._app(scope, receive, send)
        except TimeoutError:
            raise _late(scope[KEY], seconds) from None


def _late(context: RequestContext, seconds: float) -> LimitError:
    if context.uploaded:
        return LimitError(f"The answer took longer than {seconds:g} seconds (server.request_timeout). Try again later.", "time")
    return LimitError(f"The body had not come after {seconds:g} seconds (server.request_timeout). Send it faster.", "upload")
