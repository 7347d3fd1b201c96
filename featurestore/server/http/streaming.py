"""Long answers: sent part by part, no faster than the client reads, and no longer than the client is there."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")


class PartResponse(Response):
    """An answer of parts, each sent once the client has read enough of those before it.

    It differs from Starlette's ``StreamingResponse`` in what follows when the client goes away: the part that is being made is
    finished, for it is made in a thread, no further one is begun, and the request ends as one without a client.

    Args:
        parts: the parts.
        media_type: their type.
        size: how many bytes they have together, if that is known: an answer of known size is not sent in chunks.
        on_end: called when the answer is sent, or cannot be.
    """

    def __init__(self, parts: AsyncIterator[bytes], media_type: str, size: int | None, on_end: Callable[[], None]) -> None:
        self.status_code = 200
        self.media_type = media_type
        self.background = None
        self._parts = parts
        self._on_end = on_end
        self.init_headers(None if size is None else {"content-length": str(size)})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer. Raises ClientDisconnect."""
        gone = asyncio.create_task(disconnected(receive))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for part in self._parts:
                if gone.done():
                    raise ClientDisconnect
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            gone.cancel()
            self._on_end()


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of some work, unless the client goes away before; only after the body was read.

    Raises:
        ClientDisconnect: the client went away. Work that has not begun by then is dropped.
    """
    task, gone = asyncio.create_task(work), asyncio.create_task(disconnected(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        gone.cancel()
        task.cancel()


async def disconnected(receive: Receive) -> None:
    """Return when the client goes away; only after the body was read."""
    while (await receive())["type"] != "http.disconnect":
        pass
