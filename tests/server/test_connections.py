"""Connections: what a client may open, send and leave half-done, and that nobody else notices (K08)."""

import asyncio
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import uvicorn

from featurestore.server.http.connection import Connections, Ends
from tests.server.conftest import Serve
from tests.servers.valkey import wait_until

_DATA_SEGMENTS_IN = 152
"""Where Linux's tcp_info has how many segments with data have come."""
BODY = {"features": ["weather.temp"], "rows": [{"origin": "JFK"}], "metadata": False}
SETTINGS = {
    "FEATURESTORE_SERVER__MAX_CONNECTIONS": "20",
    "FEATURESTORE_SERVER__HEAD_TIMEOUT": "1s",
    "FEATURESTORE_SERVER__REQUEST_TIMEOUT": "2s",
}


@pytest.fixture(scope="module")
def server(lab_folder: Path) -> Iterator[Serve]:
    with Serve(lab_folder, **SETTINGS) as server:
        yield server


def connect(server: Serve) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def answered(connection: socket.socket) -> bytes:
    """Returns all that comes until the server closes."""
    found = b""
    try:
        while part := connection.recv(65_536):
            found += part
    except ConnectionResetError:
        pass
    return found


def send(connection: socket.socket, data: bytes) -> None:
    """Sends as much as the server takes."""
    with suppress(ConnectionResetError, BrokenPipeError):
        connection.sendall(data)


def looks_up(server: Serve) -> bool:
    return httpx.post(f"{server.url}/v1/online", json=BODY, timeout=20).json() == {"features": {"temp": [51.0]}}


ENDLESS = {
    "one header line": b"GET /healthz HTTP/1.1\r\nx: " + b"a" * 1_000_000,
    "one header name": b"GET /healthz HTTP/1.1\r\n" + b"a" * 1_000_000,
    "the address": b"GET /" + b"a" * 1_000_000,
    "header lines": b"GET /healthz HTTP/1.1\r\n" + b"x: y\r\n" * 200_000,
    "the method": b"G" * 1_000_000,
    "a head that ends": b"GET /healthz HTTP/1.1\r\n" + b"x: " + b"a" * 40_000 + b"\r\n\r\n",
    "many headers that end": b"GET /healthz HTTP/1.1\r\n" + b"x: y\r\n" * 101 + b"\r\n",
    "an address that ends": b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("what", ENDLESS)
def test_a_head_that_goes_on_for_too_long_is_refused(server: Serve, what: str) -> None:
    with connect(server) as connection:
        send(connection, ENDLESS[what])
        answer = answered(connection)
    # Where much is still on its way as the server closes, the network may drop the answer.
    assert answer == b"" or answer.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400")), answer
    assert looks_up(server)


def test_a_refusal_of_a_head_is_a_problem(server: Serve) -> None:
    with connect(server) as connection:
        send(connection, ENDLESS["many headers that end"])
        answer = answered(connection)
    assert answer.startswith(b"HTTP/1.1 431")
    assert b"application/problem+json" in answer
    assert b"urn:featurestore:problem:head" in answer


def test_what_is_no_http_is_a_problem(server: Serve) -> None:
    with connect(server) as connection:
        send(connection, b"\x16\x03\x01\x00\r\n\r\n")
        answer = answered(connection)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"application/problem+json" in answer


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\n", b"GET /healthz HTTP/1.1\r\n\r\nGET /h"])
def test_a_head_that_does_not_come_ends_the_connection(server: Serve, sent: bytes) -> None:
    with connect(server) as connection:
        connection.sendall(sent)
        answer = answered(connection)
    assert answer.rpartition(b"HTTP/1.1 ")[2].startswith(b"408"), answer


def test_a_body_that_does_not_come_ends_the_connection(server: Serve) -> None:
    head = b"POST /v1/online HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"
    with connect(server) as connection:
        connection.sendall(head)
        assert answered(connection).startswith(b"HTTP/1.1 408")


def test_a_body_that_nobody_asked_for_is_not_read_for_ever(server: Serve) -> None:
    with connect(server) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\ncontent-length: 1000000000\r\n\r\nx")
        assert answered(connection).startswith(b"HTTP/1.1 200")


def test_half_open_connections_keep_nobody_out(server: Serve) -> None:
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(connect(server)).sendall(b"POST /v1/online HTTP/1.1\r\n")
            if _ % 20 == 0:
                assert looks_up(server)
        assert looks_up(server)


def test_connections_that_wait_for_answers_are_not_ended_for_others(server: Serve) -> None:
    """Where all have something to do, one more is told to come again."""
    head = b"POST /v1/online HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(connect(server)).sendall(head)
        time.sleep(0.3)  # their heads must have come, which nothing tells
        with connect(server) as more:
            answer = answered(more)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1" in answer
    wait_until(lambda: looks_up(server), "it does not recover")


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="only Linux tells how many segments came")
def test_an_answer_leaves_in_one_piece(server: Serve) -> None:
    """Its head does not go ahead of its body: each piece costs a system call and wakes the client."""
    body = json.dumps(BODY).encode()
    head = b"POST /v1/online HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    with connect(server) as connection:
        for _ in range(10):
            connection.sendall(head % len(body) + body)
            found = b""
            while not found.endswith(b"[51.0]}}"):
                found += connection.recv(65_536)
        segments = struct.unpack_from("I", connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 200), _DATA_SEGMENTS_IN)[0]
    assert segments == 10


def test_very_many_pipelined_requests_end_the_connection(server: Serve) -> None:
    with connect(server) as connection:
        send(connection, b"GET /healthz HTTP/1.1\r\n\r\n" * 50_000)
        assert looks_up(server)
    assert looks_up(server)


def test_a_few_pipelined_requests_are_answered_in_turn(server: Serve) -> None:
    with connect(server) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n\r\n" * 9 + b"GET /healthz HTTP/1.1\r\nconnection: close\r\n\r\n")
        assert answered(connection).count(b"HTTP/1.1 200 OK") == 10


async def large(scope: Any, receive: Any, send: Any) -> None:
    """An application whose answers are of 8 MB, or short."""
    body = b"x" * (8_000_000 if scope["path"] == "/large" else 10)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def bounded(ends: Ends, keep_alive: int = 30) -> Iterator[tuple[int, uvicorn.Server]]:
    """A server of that application in a thread: its port, and itself."""
    with socket.create_server(("127.0.0.1", 0), backlog=200) as listening:
        config = uvicorn.Config(
            large, http=cast("Any", Connections(ends)), loop="uvloop", ws="none", lifespan="off", log_level="error",
            timeout_keep_alive=keep_alive, timeout_graceful_shutdown=1,
        )  # fmt: skip
        server = uvicorn.Server(config)
        run = lambda: asyncio.Runner(loop_factory=config.get_loop_factory()).run(server.serve([listening]))  # noqa: E731 - short
        thread = threading.Thread(target=run)
        thread.start()
        try:
            wait_until(lambda: server.started, "it does not start")
            yield listening.getsockname()[1], server
        finally:
            server.should_exit = True
            thread.join()


def unread(port: int, asked: bytes) -> socket.socket:
    """A connection that asks and does not read."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.connect(("127.0.0.1", port))
    made.sendall(asked)
    return made


ASKED = b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.mark.parametrize(
    "asked", [ASKED, ASKED * 3, ASKED.replace(b"host: x", b"connection: close")], ids=["one", "three", "close"]
)
def test_who_does_not_read_is_not_waited_for(asked: bytes) -> None:
    with bounded(Ends(read_seconds=0.3), keep_alive=1) as (port, server), ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(unread(port, asked))
        wait_until(lambda: len(server.server_state.connections) == 4, "they do not come")
        wait_until(lambda: not server.server_state.connections, "they stay for ever")
        wait_until(lambda: not server.server_state.tasks, "what answers them waits for ever")


@pytest.mark.parametrize(
    "asked", [ASKED, ASKED * 3, ASKED.replace(b"host: x", b"connection: close")], ids=["one", "three", "close"]
)
def test_who_does_not_read_keeps_nobody_out(asked: bytes) -> None:
    """Long before their time is over."""
    with bounded(Ends(connections=4, of_address=4, read_seconds=60)) as (port, server), ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(unread(port, asked))
        wait_until(lambda: len(server.server_state.connections) == 4, "they do not come")
        time.sleep(0.2)  # their answers must have begun, which nothing tells
        for _ in range(3):
            assert httpx.get(f"http://127.0.0.1:{port}/", timeout=5).status_code == 200


@pytest.mark.parametrize("count", [10, 50_000])
def test_trailers_are_not_kept(count: int) -> None:
    head = b"POST /large HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    with bounded(Ends()) as (port, server), unread(port, head + b"0\r\n" + b"x: y\r\n" * count):
        wait_until(lambda: len(server.server_state.connections) == 1, "it does not come")
        time.sleep(0.3)  # they must have come, which nothing tells
        (one,) = cast("set[Any]", server.server_state.connections)
        assert len(one.headers) == 2


def test_who_reads_slowly_gets_all_of_it() -> None:
    with bounded(Ends(read_seconds=0.3)) as (port, _), unread(port, ASKED.replace(b"host: x", b"connection: close")) as connection:
        found = 0
        while part := connection.recv(400_000):
            found += len(part)
            time.sleep(len(part) / 8_000_000)
        assert found > 8_000_000


def test_a_client_that_goes_away_is_no_traceback(server: Serve) -> None:
    head = b"POST /v1/online HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    body = httpx.Request("POST", "http://x", json=BODY | {"rows": [{"origin": "JFK"}] * 5000}).content
    for number in range(60):
        with connect(server) as connection:
            send(connection, (head % len(body) + body) * 3)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            time.sleep(number % 6 * 0.002)
    assert looks_up(server)
    assert "Traceback" not in server.told
