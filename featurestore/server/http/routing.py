"""Routes: a path with its endpoint, and with the permission that the endpoint declares.

``requires`` and ``public`` make an ``Endpoint`` of a function, and ``ApiRoute`` takes nothing else: an endpoint that declares no
permission cannot be registered.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import wraps

from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from featurestore.server.http.context import KEY, RequestContext, context_of
from featurestore.server.http.middleware import TimeLimit
from featurestore.server.openapi.operation import Operation
from featurestore.server.security.authentication import GuardBackend
from featurestore.server.security.guard import Action, Kind, Permission

Handler = Callable[[Request], Awaitable[Response]]
"""An endpoint's function."""


@dataclass(frozen=True)
class Endpoint:
    """An endpoint with the permission that it declares.

    Args:
        app: a function from a request to a response; or an ASGI application, which authenticates the caller itself.
        permission: what the caller needs; None for everybody.
        is_asgi: whether it is an ASGI application.
    """

    app: Handler | ASGIApp
    permission: Permission | None
    is_asgi: bool = False


def requires(action: Action, kind: Kind) -> Callable[[Handler], Endpoint]:
    """Declare what the caller of an endpoint needs.

    The guard is asked about the names in the path before the endpoint runs. Of ``features`` the names are elsewhere in the request:
    the endpoint gives them to the guard itself (``RequestContext.check``), and cannot answer before it has.

    Args:
        action: what the endpoint does.
        kind: to what.
    """

    def declare(handler: Handler) -> Endpoint:
        @wraps(handler)
        async def guarded(request: Request) -> Response:
            if kind != "features":
                context_of(request).check(kind, tuple(request.path_params.values()))
            return await handler(request)

        return Endpoint(guarded, Permission(action, kind))

    return declare


def public(handler: Handler) -> Endpoint:
    """Declare that everybody may call an endpoint: its answer reveals nothing of the project."""
    return Endpoint(handler, None)


class ApiRoute(Route):
    """A route of the server.

    Args:
        path: the path; ``{name}`` stands for a part of it.
        endpoint: the endpoint with its permission.
        method: the HTTP method.
        operation: what the OpenAPI document says of it; None for what is not in it.
        timed: whether ``server.request_timeout`` bounds it.

    Raises:
        TypeError: the endpoint declares no permission.
    """

    def __init__(
        self, path: str, endpoint: Endpoint, *, method: str = "GET", operation: Operation | None = None, timed: bool = True
    ) -> None:
        if not isinstance(endpoint, Endpoint):
            raise TypeError(f"The endpoint of {method} {path} declares no permission; decorate it with requires(…) or public.")
        self.method = method
        self.permission = endpoint.permission
        self.operation = operation
        around = [Middleware(TimeLimit)] if timed else []
        if endpoint.permission is not None and not endpoint.is_asgi:
            around.append(Middleware(AuthenticationMiddleware, backend=GuardBackend()))
        super().__init__(path, endpoint.app, methods=[method], name=f"{method} {path}", middleware=around)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request whose path fits; one of another method is refused (405)."""
        if scope["method"] in (self.methods or ()):
            context: RequestContext = scope[KEY]
            context.enter(self.path, self.permission)
        await super().handle(scope, receive, send)
