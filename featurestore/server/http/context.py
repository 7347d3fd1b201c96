"""The context of a request: its sender, its body, and its answer."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from featurestore.errors import Forbidden, LimitError
from featurestore.server.http.memory import Budget
from featurestore.server.http.problems import Problem
from featurestore.server.security.guard import Guard, Principal, Resource

T = TypeVar("T")

Entities = tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
"""The entities that rows are read by: each with its name, and its join keys with the rows' columns that they are in."""

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class ClientDisconnected(Exception):  # noqa: N818 - nothing failed here
    """The client went away before it was answered."""


class RequestContext:
    """One request.

    No answer leaves before the guard was asked: an endpoint that forgets to ask cannot answer.

    Args:
        scope: the request's ASGI scope.
        receive: gives its body.
        send: takes the answer.
        guard: decides.
        action: what the route needs; "none" where it needs nothing.
        budget: counts the bytes of bodies.
    """

    __slots__ = (
        "_budget", "_guard", "_headers", "_held", "_receive", "_send", "action", "after", "answered", "asked", "decided",
        "entities", "given", "personal", "principal", "rows", "scope", "uploaded",
    )  # fmt: skip

    def __init__(self, scope: Scope, receive: Receive, send: Send, guard: Guard, action: str, budget: Budget | None = None) -> None:
        self.scope = scope
        self._budget = budget
        self._held = 0
        self._headers: dict[bytes, bytes] | None = None
        self._receive = receive
        self._send = send
        self._guard = guard
        self.action = action
        self.asked: Resource | None = None
        self.principal: Principal | None = None
        self.decided = action == "none"
        self.uploaded = False
        self.answered = 0
        self.rows = 0
        self.personal: bool | None = None
        self.entities: Entities = ()
        self.given: Any = None
        self.after: Callable[[], None] | None = None

    async def admit(self) -> None:
        """Finds out who asks. Raises Unauthenticated."""
        self.principal = await self._guard.admit(self.scope)

    def check(self, resource: Resource) -> None:
        """Asks whether they may do what the route needs to something. Raises Forbidden."""
        self.asked = resource
        self._guard.check(self._admitted(), self.action, resource)
        self.decided = True

    def check_any(self, resource: Resource) -> None:
        """Asks whether they may do what the route needs to anything at all, before the names are known. Raises Forbidden."""
        self._guard.check(self._admitted(), self.action, resource)

    def may(self, action: str, resource: Resource) -> bool:
        """Tells whether they may do something beside what the route needs, for an answer that leaves out what they may not."""
        try:
            self._guard.check(self._admitted(), action, resource)
        except Forbidden:
            return False
        return True

    def _admitted(self) -> Principal:
        # NOTE: these two are no assertions: python -O takes those away, and nothing else says no.
        if self.principal is None:
            raise RuntimeError("A route that needs something admits first.")
        return self.principal

    @property
    def sender(self) -> str:
        """The sender to which bodies are charged: a key, a token's subject, or an address if there is neither."""
        asks = self._admitted()
        if asks.key_id or asks.grants:
            return asks.key_id or asks.name
        return f"{asks.name} at {(self.scope.get('client') or ('a socket',))[0]}"

    def header(self, name: bytes) -> bytes | None:
        """Returns a header, by its name in small letters; None where it is not there."""
        if self._headers is None:
            self._headers = dict(reversed(list(self.scope["headers"])))  # of two of one name the first counts
        return self._headers.get(name)

    def query(self) -> dict[str, str]:
        """Returns the query's parameters.

        Raises:
            Problem: one is given twice (400).
        """
        pairs = parse_qsl(self.scope["query_string"].decode("latin-1"), keep_blank_values=True)
        found: dict[str, str] = {}
        for name, value in pairs:
            if name in found:
                raise Problem(400, "malformed", f"The parameter {name!r} is given twice.")
            found[name] = value
        return found

    async def body(self, most: int, first_of_all: Callable[[], None] | None = None) -> bytes | bytearray:
        """Returns the body.

        Args:
            most: the bytes that it may have.
            first_of_all: is called before more is read than what came with the head; what it raises ends the request.

        Raises:
            LimitError: it is larger than that; it is not read to its end.
            Gone: the client went away.
        """
        self._check_length(most)
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        first: bytes = message.get("body", b"")
        self.uploaded = not message.get("more_body", False)
        if len(first) > most:
            raise _too_large(f"more than {most:,} bytes", most)
        if self.uploaded:
            return first
        if first_of_all is not None:
            first_of_all()
        whole = bytearray(first)
        self._hold(len(first))
        async for chunk in self._chunks(most, len(first)):
            self._hold(len(chunk))
            whole += chunk
        return whole

    def _hold(self, size: int) -> None:
        if self._budget is not None:
            self._budget.take(size)
            self._held += size

    def release(self) -> None:
        """Says that the body is not needed any more."""
        if self._budget is not None and self._held:
            self._budget.give_back(self._held)
            self._held = 0

    async def chunks(self, most: int) -> AsyncIterator[bytes]:
        """Yields the body as it comes. Raises as ``body`` does."""
        self._check_length(most)
        async for chunk in self._chunks(most, 0):
            yield chunk

    async def _chunks(self, most: int, read: int) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnected
            chunk: bytes = message.get("body", b"")
            read += len(chunk)
            if read > most:
                raise _too_large(f"more than {most:,} bytes", most)
            more = message.get("more_body", False)
            yield chunk
        self.uploaded = True

    def _check_length(self, most: int) -> None:
        said = self.header(b"content-length")
        if said is not None and said.isdigit() and int(said) > most:
            raise _too_large(f"{int(said):,} bytes", most)

    def _brings_body(self) -> bool:
        return self.header(b"content-length") not in (None, b"0") or self.header(b"transfer-encoding") is not None

    async def answer(self, content: bytes, media: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Sends the whole answer."""
        await self._begin(status, media, headers, len(content))
        await self._send({"type": "http.response.body", "body": content})

    async def stream(self, parts: AsyncIterator[bytes], media: bytes, size: int | None = None) -> None:
        """Sends an answer part by part, no faster than the client takes it.

        Args:
            parts: the parts.
            media: their type.
            size: how many bytes they are in all, if that is known.

        Raises:
            Gone: the client went away.
        """
        await self._begin(200, media, None, size)
        gone = asyncio.create_task(self.gone())
        try:
            async for part in parts:
                if gone.done():
                    raise ClientDisconnected
                await self._send({"type": "http.response.body", "body": part, "more_body": True})
        finally:
            gone.cancel()
        await self._send({"type": "http.response.body", "body": b""})

    async def while_there(self, work: Coroutine[Any, Any, T]) -> T:
        """Returns what comes of some work, which is not waited for once the client has gone; only after the body was read.

        Raises:
            Gone: the client went away. Work that has not begun by then is dropped.
        """
        task, gone = asyncio.create_task(work), asyncio.create_task(self.gone())
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ClientDisconnected
            return task.result()
        finally:
            gone.cancel()
            task.cancel()

    async def gone(self) -> None:
        """Returns when the client goes away; only after the body was read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _begin(self, status: int, media: bytes, more: Mapping[str, str] | None, length: int | None) -> None:
        if not self.decided and status < 400:
            raise RuntimeError(f"{self.scope['path']}: answered before the guard was asked")
        headers = [(b"content-type", media)]
        if length is not None:
            headers.append((b"content-length", b"%d" % length))
        if more:
            headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in more.items()]
        if not self.uploaded and self._brings_body():
            headers.append((b"connection", b"close"))  # the rest of the body is not read
        self.answered = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})


def _too_large(found: str, most: int) -> LimitError:
    return LimitError(
        f"The body has {found}, and {most:,} are allowed here. Send it in parts (server.max_body_mib, server.max_spine_mib).",
        "body",
    )
