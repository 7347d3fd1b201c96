"""The context of a request: who asks, what the guard decided, and how far its exchange has come.

Every message of an exchange passes through its context, whatever the endpoint is made of. So it holds what no endpoint may forget:
no answer but an error leaves before the guard has allowed something, and a connection whose body was not read is closed.
"""

from collections.abc import Callable
from typing import Any

from starlette.requests import HTTPConnection
from starlette.types import Message, Receive, Scope, Send

from featurestore.errors import Forbidden
from featurestore.server.http.memory import Budget
from featurestore.server.security.guard import Action, Guard, Kind, Permission, Principal, Resource

Entities = tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
"""The entities that rows are read by: each with its name, and its join keys with the rows' columns that they are in."""

KEY = "featurestore.context"
"""Where a context is in its request's ASGI scope."""


class RequestContext:
    """One request and its answer.

    Args:
        scope: the request's ASGI scope.
        receive: gives its body.
        send: takes the answer.
        guard: decides who may do what.
        project: the project that is served.
        budget: counts the bytes of bodies.

    Attributes:
        path: the path of the route, as it is declared; empty where the request fits no route.
        permission: what the route needs; None where it is public.
        resource: what the request asks for, once the guard was asked about it.
        decided: whether the guard has allowed what the request asks for, or needs not be asked.
        uploaded: whether the whole body was received.
        status: the status of the answer; 0 until it begins.
        rows: how many rows the request is about.
        personal: whether personal information is among what is read; None where that is not known.
        entities: what the rows are read by.
        entity_rows: the rows, as the request gives them.
        after: is called once the request is answered, unless by an error.
    """

    __slots__ = (
        "_budget", "_guard", "_headers", "_held", "_project", "_receive", "_send", "after", "decided", "entities", "entity_rows",
        "path", "permission", "personal", "resource", "rows", "scope", "status", "uploaded",
    )  # fmt: skip

    def __init__(self, scope: Scope, receive: Receive, send: Send, guard: Guard, project: str, budget: Budget) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        self._guard = guard
        self._project = project
        self._budget = budget
        self._held = 0
        self._headers: dict[bytes, bytes] | None = None
        self.path = ""
        self.permission: Permission | None = None
        self.resource: Resource | None = None
        self.decided = False
        self.uploaded = False
        self.status = 0
        self.rows = 0
        self.personal: bool | None = None
        self.entities: Entities = ()
        self.entity_rows: Any = None
        self.after: Callable[[], None] | None = None

    def enter(self, path: str, permission: Permission | None) -> None:
        """Note the route that answers, and what it needs."""
        self.path = path
        self.permission = permission
        self.decided = permission is None

    @property
    def principal(self) -> Principal | None:
        """The caller; None before authentication."""
        principal: Principal | None = self.scope.get("user")
        return principal

    async def authenticate(self) -> Principal:
        """Find out who the caller is. Raises as ``Guard.admit``."""
        principal = await self._guard.admit(self.scope)
        self.scope["user"] = principal
        return principal

    def check(self, kind: Kind, names: tuple[str, ...] = ()) -> None:
        """Ask the guard whether the caller may do what the route needs to something.

        Raises:
            Forbidden: they may not.
        """
        principal, permission = self.scope.get("user"), self.permission
        if principal is None or permission is None:
            raise self._unready()
        self.resource = Resource(kind, names, self._project)
        self._guard.check(principal, permission.action, self.resource)
        self.decided = True

    def check_any(self, kind: Kind) -> None:
        """Ask whether the caller may do what the route needs to anything at all, before the names are known. Raises Forbidden."""
        if self.permission is None:
            raise self._unready()
        self._guard.check(self.authenticated, self.permission.action, Resource(kind, (), self._project))

    def may(self, action: Action, kind: Kind, names: tuple[str, ...]) -> bool:
        """Tell whether the caller may do something else than the route needs, for an answer that leaves out what they may not."""
        try:
            self._guard.check(self.authenticated, action, Resource(kind, names, self._project))
        except Forbidden:
            return False
        return True

    @property
    def authenticated(self) -> Principal:
        """The caller, who is known.

        Raises:
            RuntimeError: the route has not authenticated.
        """
        principal = self.principal
        if principal is None:
            raise self._unready()
        return principal

    def _unready(self) -> RuntimeError:
        """Return the error of an endpoint that asks the guard and cannot. Not an assertion, which ``python -O`` would take away."""
        if self.permission is None:
            return RuntimeError(f"{self.path}: the route declares no permission, and asks the guard")
        return RuntimeError(f"{self.path}: the guard is asked before the caller is known")

    @property
    def sender(self) -> str:
        """The sender to which bodies are charged: a key, a token's subject, or an address if there is neither."""
        caller = self.authenticated
        if caller.key_id or caller.grants:
            return caller.key_id or caller.name
        return f"{caller.name} at {(self.scope.get('client') or ('a socket',))[0]}"

    def header(self, name: bytes) -> bytes | None:
        """Return a header by its name in small letters; None where it is absent. Of two with one name the first counts."""
        if self._headers is None:
            self._headers = dict(reversed(list(self.scope["headers"])))
        return self._headers.get(name)

    async def receive(self) -> Message:
        """Return the next message of the request, and note whether it ends the body."""
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            self.uploaded = True
        return message

    async def send(self, message: Message) -> None:
        """Send a message of the answer.

        Raises:
            RuntimeError: it begins an answer that is not an error, and the guard has not allowed what the request asks for.
        """
        if message["type"] == "http.response.start":
            if not self.decided and message["status"] < 400:
                raise RuntimeError(f"{self.scope['path']}: answered before the guard was asked")
            self.status = message["status"]
            if not self.uploaded and self._brings_body():
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]  # the rest of the body is not read
        await self._send(message)

    def _brings_body(self) -> bool:
        return self.header(b"content-length") not in (None, b"0") or self.header(b"transfer-encoding") is not None

    def hold(self, size: int) -> None:
        """Count bytes of the body that are kept in memory. Raises UnavailableError where bodies take too many."""
        self._budget.take(size)
        self._held += size

    def release(self) -> None:
        """Count the body's bytes no more: it is not needed any longer."""
        if self._held:
            self._budget.give_back(self._held)
            self._held = 0


def context_of(request: HTTPConnection) -> RequestContext:
    """Return the context of a request."""
    context: RequestContext = request.scope[KEY]
    return context
