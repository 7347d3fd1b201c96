"""HTTP connections: uvicorn's protocol with limits on open, sent and unfinished data.

A head has so many bytes and headers, and so long to come. Requests that are sent before others are answered are few. Where there
are as many connections as may be, the one that has had nothing to do for longest gives way, so that those who hold connections
open keep nobody out; the process never runs out of file descriptors. A client that does not read its answer is not waited for.
"""

import asyncio
from asyncio.events import TimerHandle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from featurestore.server.http.problems import Problem

_MOST_PIPELINED = 16
_GRACE = 0.05
"""How long what is due to end stays, to read what may have come while the process was at something else."""


@dataclass(frozen=True)
class Ends:
    """What connections may be.

    Args:
        connections: how many at once.
        of_address: how many of one address; no more than of all.
        head: the bytes of a request's head.
        headers: the headers in it.
        head_seconds: how long it may take to come.
        read_seconds: how long a client may leave an answer unread.
    """

    connections: int = 1000
    of_address: int = 1000
    head: int = 32 << 10
    headers: int = 100
    head_seconds: float = 10.0
    read_seconds: float = 30.0


_READ_AT_LEAST = 64 << 10
"""Of how many bytes that are waiting to be read fewer must be left each time that it is looked."""
_STUCK = 1.0
"""After how many seconds unread a connection gives way before one that is idle."""


class _Quiet:
    """A transport that sends an answer's head together with its body, and takes nothing more once it is closing.

    uvicorn writes the two one after the other, and uvloop makes a system call of each. What nothing follows at once is sent before
    the loop turns to anything else. If a client goes away, uvloop's transport raises: that is not an error here.

    Args:
        transport: the transport.
        loop: the loop that it is of.
        closing: called when it begins to close.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, closing: Callable[[], None]) -> None:
        self._transport = transport
        self._call_soon = loop.call_soon
        self._closing = closing
        self._held: bytes | None = None
        self.is_closing = transport.is_closing
        self.abort = transport.abort
        self.get_extra_info = transport.get_extra_info

    def close(self) -> None:
        self._send_held()
        self._transport.close()
        self._closing()

    def write(self, data: bytes) -> None:
        buffer = self._held
        if buffer is None:
            self._held = data
            self._call_soon(self._send_held)
        else:
            self._held = None
            if not self._transport.is_closing():
                self._transport.writelines((buffer, data))

    def _send_held(self) -> None:
        buffer, self._held = self._held, None
        if buffer is not None and not self._transport.is_closing():
            self._transport.write(buffer)

    def pause_reading(self) -> None:
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class BoundedProtocol(HttpToolsProtocol):
    """A connection with ends."""

    ends = Ends()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Take the connection, or let another one go for it."""
        self._reader: TimerHandle | None = None
        self._unread, self._unread_since = 0, 0.0
        super().connection_made(cast("asyncio.Transport", _Quiet(transport, self.loop, self._await_reader)))
        self._in_head = True
        self._fed = self._taken = 0
        self._waits_since = self.loop.time()
        self._timer: TimerHandle | None = None
        self._await_head()
        self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop what was begun."""
        self._forget_head()
        self._forget_reader()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait for the client to read, but not for ever."""
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        """Go on; of what is closing the end is still waited for."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._forget_reader()

    def data_received(self, data: bytes) -> None:
        """Take bytes; a head that goes on for too long is refused."""
        if self.transport.is_closing():
            return
        self._taken = self._fed + len(data)
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._await_head()
            self._fed += len(data)
            if self._fed > self.ends.head:
                self._refuse_head(f"The head of the request has more than {self.ends.head:,} bytes, which are allowed.")

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._in_head, self._fed = True, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; drop what comes behind a body: it is not a header, and may go on for ever."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Hand a request on, once its head is there and is not too large."""
        self._in_head = False
        self._forget_head()
        size = self._taken  # no head is larger than all that came for it
        if size > self.ends.head:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.ends.head or len(self.headers) > self.ends.headers:
            finding = f"{size:,} bytes and {len(self.headers)} headers"
            allowed = f"{self.ends.head:,} and {self.ends.headers}"
            self._refuse_head(f"The head of the request has {finding}, and {allowed} are allowed.")
            return
        if len(self.pipeline) >= _MOST_PIPELINED:
            self.transport.close()  # nothing can be answered here before what was asked before
            return
        if self.transport.is_closing():
            return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of a body; of a request that was refused it is dropped."""
        if self.cycle is not None and not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        if self.cycle is not None and not self.transport.is_closing():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on to the next request, or wait for it."""
        self._waits_since = self.loop.time()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer a request that is not HTTP, unless another answer is under way."""
        self._refuse(Problem(400, "malformed", f"{msg.rstrip('.')}."))

    @property
    def idle(self) -> bool:
        """Whether nothing that was asked is waited for."""
        return self.cycle is None or self.cycle.response_complete

    def _await_head(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.ends.head_seconds, self._head_is_late)

    def _forget_head(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _await_reader(self) -> None:
        if self._reader is None:
            self._unread, self._unread_since = self.transport.get_write_buffer_size(), self.loop.time()
            self._reader = self.loop.call_later(self.ends.read_seconds, self._reader_is_late)

    def _forget_reader(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None

    def _reader_is_late(self) -> None:
        """End a connection whose client has read next to nothing since it was looked last."""
        left = self.transport.get_write_buffer_size()
        if left > self._unread - _READ_AT_LEAST:
            self.transport.abort()
            return
        self._unread = left
        self._reader = self.loop.call_later(self.ends.read_seconds, self._reader_is_late)

    def timeout_keep_alive_handler(self) -> None:
        """End a connection that was idle for long, unless its next request has come and only was not read yet."""
        self.timeout_keep_alive_task = self.loop.call_later(_GRACE, super().timeout_keep_alive_handler)

    def _head_is_late(self) -> None:
        self._timer = self.loop.call_later(_GRACE, self._head_is_missing)

    def _head_is_missing(self) -> None:
        self._timer = None
        if self.idle and not self.transport.is_closing():
            detail = f"The head of the request had not come after {self.ends.head_seconds:g} seconds (server.head_timeout)."
            self._refuse(Problem(408, "time", detail))

    def _refuse_head(self, detail: str) -> None:
        self._refuse(Problem(431, "head", detail))

    def _refuse(self, problem: Problem) -> None:
        """Answer a problem where nothing else is being answered, and end the connection."""
        if self.idle and not self.transport.is_closing():
            body = problem.encoded()
            head = b"content-type: application/problem+json\r\ncontent-length: %d\r\nconnection: close\r\n" % len(body)
            more = b"".join(b"%s: %s\r\n" % (name.encode(), value.encode()) for name, value in problem.headers.items())
            self.transport.write(STATUS_LINE[problem.status] + head + more + b"\r\n" + body)
        self._forget_head()
        self.transport.close()

    def _make_room(self) -> None:
        """End one that is not read, or idle for longest, where there are too many; this one, where none is."""
        if len(self.connections) <= self.ends.of_address:
            return
        others = [other for other in self.connections if other is not self and isinstance(other, BoundedProtocol)]
        mine = self.client[0] if self.client else None
        same = [other for other in others if other.client and other.client[0] == mine]
        if len(same) >= self.ends.of_address:
            others = same
        elif len(others) < self.ends.connections:
            return
        unread = sorted((other for other in others if other._reader is not None), key=lambda other: other._unread_since)
        stuck = [other for other in unread if self.loop.time() - other._unread_since > _STUCK]
        waiting = [other for other in others if other.idle and other._reader is None and not other.transport.is_closing()]
        waiting.sort(key=lambda other: (not other._in_head or other.cycle is not None, other._waits_since))
        for oldest in (*stuck, *waiting, *unread):
            oldest.transport.abort()
            oldest.connections.discard(oldest)
            return
        again = {"retry-after": "1"}
        self._refuse(Problem(503, "unavailable", "The server has as many connections as it takes (server.max_connections).", again))


@dataclass(frozen=True)
class Connections:
    """Make the protocol of each other, in whichever process.

    Args:
        ends: what connections may be.
    """

    ends: Ends = Ends()

    def __call__(self, **given: Any) -> BoundedProtocol:
        """Return the protocol of a connection, as uvicorn asks for it."""
        protocol = BoundedProtocol(**given)
        protocol.ends = self.ends
        return protocol
