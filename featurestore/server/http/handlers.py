"""Exception handlers: every error is answered as a problem document."""

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from featurestore.errors import FeatureStoreError, NotFoundError
from featurestore.server.http.context import context_of
from featurestore.server.http.memory import clear_frames
from featurestore.server.http.problems import MEDIA_TYPE, Problem, problem_of
from featurestore.server.http.state import state_of


async def answer_error(request: Request, error: FeatureStoreError | Problem) -> Response:
    """Return the problem document of an error. What the error's functions hold is freed: the body, above all."""
    clear_frames(error)
    return _response(error if isinstance(error, Problem) else problem_of(_without_hidden(request, error)))


async def _no_route(request: Request, error: HTTPException) -> Response:
    path = request.url.path
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return _response(Problem(405, "method", f"{request.method} {path} is not there; it takes {allowed}.", {"allow": allowed}))
    return _response(Problem(404, "no-route", f"There is nothing at {path!r}. GET /openapi.json lists what there is."))


async def _failed(request: Request, error: Exception) -> Response:
    return _response(Problem(500, "internal", "The server failed, and has logged why. It is not the request's fault."))


HANDLERS: dict[Any, Any] = {FeatureStoreError: answer_error, Problem: answer_error, HTTPException: _no_route, Exception: _failed}
"""How each kind of error is answered."""


def _response(problem: Problem) -> Response:
    return Response(problem.encoded(), problem.status, problem.headers, MEDIA_TYPE.decode())


def _without_hidden(request: Request, error: FeatureStoreError) -> FeatureStoreError:
    """Return an error that suggests only names the caller may see."""
    context = context_of(request)
    if not isinstance(error, NotFoundError) or context.principal is None or context.permission is None:
        return error
    visible = state_of(request).visibility.names(context.principal)
    if visible is None or visible.issuperset(error.known):
        return error
    return NotFoundError(error.kind, error.name, [name for name in error.known if name in visible], error.hint)
