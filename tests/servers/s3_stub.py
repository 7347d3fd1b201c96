"""A small server of S3's protocol that can be made to misbehave: to ignore a condition, to lose an answer, to refuse."""

import hashlib
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

import pytest


class S3Stub(ThreadingHTTPServer):
    """Keeps objects in memory.

    Attributes:
        objects: what it has, by key.
        requests: what it was asked: methods and keys.
        conditional: whether it keeps the conditions of a PUT.
        swaps: whether it keeps If-Match; else it answers 501.
        lost: so many answers of PUTs that succeed it loses.
        dropped: so many PUTs it loses before it has done them.
        conflicts: so many PUTs it refuses with 409.
        failures: so many PUTs it answers with 503.
        is_done_on_failure: whether it does them all the same.
        is_indiscreet: whether it refuses PUTs and quotes who asks, as servers do that are asked with a wrong key.
        foreign: what another writer puts before a PUT that is refused with 409 or 503.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.conditional = True
        self.swaps = True
        self.lost = self.dropped = self.conflicts = self.failures = 0
        self.is_indiscreet = False
        self.is_done_on_failure = False
        self.foreign: bytes | None = None
        self.lock = threading.Lock()

    @property
    def options(self) -> dict[str, str]:
        return {"endpoint": f"http://127.0.0.1:{self.server_port}", "region": "us-east-1", "allow_http": "true"}

    def handle_error(self, request: object, client_address: object) -> None:
        """Says nothing of connections that the client gives up."""


class _Handler(BaseHTTPRequestHandler):
    server: S3Stub
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        stub, key = self.server, self.key()
        if stub.is_indiscreet:
            return self.answer(403, self.headers["Authorization"].encode())
        content = self.rfile.read(int(self.headers["Content-Length"]))
        with stub.lock:
            there = stub.objects.get(key)
            if stub.failures:
                stub.failures -= 1
                if stub.is_done_on_failure:
                    stub.objects[key] = content if stub.foreign is None else stub.foreign
                return self.answer(503)
            if stub.conflicts:
                stub.conflicts -= 1
                if stub.foreign is not None:
                    stub.objects[key] = stub.foreign
                return self.answer(409, b"<Error><Code>ConditionalRequestConflict</Code></Error>")
            if not stub.swaps and "If-Match" in self.headers:
                return self.answer(501, b"<Error><Code>NotImplemented</Code></Error>")
            if stub.conditional and (
                (self.headers.get("If-None-Match") == "*" and there is not None)
                or ("If-Match" in self.headers and (there is None or self.headers["If-Match"] != tag(there)))
            ):
                return self.answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
            if stub.dropped:
                stub.dropped -= 1
                return self.hang_up()
            stub.objects[key] = content
            if stub.lost:
                stub.lost -= 1
                return self.hang_up()
        return self.answer(200, tagged=content)

    def do_GET(self) -> None:
        key, query = self.key(), parse_qs(urlsplit(self.path).query)
        if "list-type" in query:  # it ignores the offset and gives all, in no order
            prefix = query.get("prefix", [""])[0]
            rows = "".join(
                f"<Contents><Key>{escape(name)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
                f"<ETag>{escape(tag(content))}</ETag><Size>{len(content)}</Size></Contents>"
                for name, content in reversed(self.server.objects.items())
                if name.startswith(prefix)
            )
            return self.answer(200, f"<ListBucketResult>{rows}<IsTruncated>false</IsTruncated></ListBucketResult>".encode())
        there = self.server.objects.get(key)
        if there is None:
            return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        return self.answer(200, there, tagged=there)

    do_HEAD = do_GET  # noqa: N815 - the library calls it so

    def do_POST(self) -> None:
        self.key()
        wanted = self.rfile.read(int(self.headers["Content-Length"])).decode()
        keys = [unescape(key) for key in re.findall("<Key>(.*?)</Key>", wanted)]
        for key in keys:
            self.server.objects.pop(key, None)
        rows = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
        self.answer(200, f"<DeleteResult>{rows}</DeleteResult>".encode())

    def do_DELETE(self) -> None:
        self.answer(404 if self.server.objects.pop(self.key(), None) is None else 204)  # as Google's and Azure's

    def key(self) -> str:
        key = unquote(urlsplit(self.path).path).lstrip("/").partition("/")[2]
        self.server.requests.append((self.command, key))
        return key

    def hang_up(self) -> None:
        """Resets the connection instead of an answer."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def answer(self, status: int, body: bytes = b"", tagged: bytes | None = None) -> None:
        self.send_response(status)
        if tagged is not None:
            self.send_header("ETag", tag(tagged))
            self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


def tag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


@contextmanager
def s3_stub() -> Iterator[S3Stub]:
    """A stub that is served."""
    with S3Stub() as stub:
        thread = threading.Thread(target=stub.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield stub
        finally:
            stub.shutdown()
            thread.join()


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Stub]:
    """A server that behaves until it is told otherwise, with an environment in which clients find their keys."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "accesskeyofthestub")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secretkeyofthestub")
    with s3_stub() as stub:
        yield stub
