"""A proxy before a real S3 server, that counts requests and may lose them, or their answers."""

import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, cast
from urllib.parse import urlsplit

Fault = Literal["none", "lost request", "lost answer", "conflict", "overload"]
"""What becomes of a request: all is well; it does not arrive; it is done, and its answer is lost; 409; 503."""
_ANSWERS = {
    "conflict": (409, b"<Error><Code>ConditionalRequestConflict</Code></Error>"),
    "overload": (503, b"<Error><Code>SlowDown</Code></Error>"),
}


class S3Proxy(ThreadingHTTPServer):
    """Passes requests on to a server, and its answers back.

    Args:
        upstream: the server's URL.
    """

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream).netloc
        self.requests: list[tuple[str, str]] = []
        """The method and the path of each, with its query."""
        self.fault: Callable[[str, str], Fault] = lambda _method, _path: "none"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client may break its connection."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._upstream = http.client.HTTPConnection(cast("S3Proxy", self.server).upstream, timeout=60)

    def finish(self) -> None:
        self._upstream.close()
        super().finish()

    def _pass(self) -> None:
        server = cast("S3Proxy", self.server)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server.requests.append((self.command, self.path))
        fault = server.fault(self.command, self.path)
        if fault == "lost request":
            self.close_connection = True
            return
        if fault in _ANSWERS:
            status, answer = _ANSWERS[fault]
            self._answer(status, {"Content-Type": "application/xml"}, answer)
            return
        self._upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            self._upstream.putheader(name, value)
        self._upstream.endheaders(body)
        response = self._upstream.getresponse()
        content = response.read()
        if fault == "lost answer":
            self.close_connection = True
            return
        self._answer(response.status, dict(response.getheaders()), content)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass  # noqa: N815 - as the server calls them

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        if self.command == "HEAD":
            self.send_header("Content-Length", headers.get("Content-Length", "0"))
        elif status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


@contextmanager
def s3_proxy(upstream: str) -> Iterator[S3Proxy]:
    """A proxy before a server."""
    with S3Proxy(upstream) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()
