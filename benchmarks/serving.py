"""The service over HTTP, against an empty Starlette route that answers JSON: one worker, 16 connections, load from one process.

The load is a bare asyncio client of its own process, for httpx would be the slower part.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks import data
from benchmarks.measure import DATA, Line
from benchmarks.project import materialized, root_of, view

CONNECTIONS, SECONDS, ENTITIES = 16, 5.0, 100_000


def lines(*, full: bool) -> Iterator[Line]:
    """Measures look-ups of one row and of a hundred, and a training frame of a million rows."""
    from tests.servers.valkey import ValkeyServer

    with ValkeyServer() as server:
        names = [f"wide{number}" for number in range(5)]
        views = [view(name, ENTITIES, ENTITIES, f"{name}_") for name in names]
        materialized("serving", views, server.url).close()
        with _empty() as empty, _served(server.url) as url:
            one = json.dumps({"features": names[0], "rows": [{"entity": "user_10"}], "metadata": False})
            plain, ours = _in_turn((empty, "{}"), (f"{url}/v1/online", one))
            ratio, tail = ours.rate / plain.rate, ours.p99 / plain.p99
            yield Line(
                "HTTP: 1 row, 10 features from Valkey, 16 connections", f"{ours.rate:,.0f}/s, p99 {ours.p99 * 1e3:.1f} ms",
                f"{plain.rate:,.0f}/s, p99 {plain.p99 * 1e3:.1f} ms: an empty route", f"{ratio:.2f}×, p99 {tail:.1f}×",
                "≥ 0.35×, p99 ≤ 4×", ratio >= 0.35 and tail <= 4,
            )  # fmt: skip
            with_all = json.dumps({"features": names[0], "rows": [{"entity": "user_10"}]})
            plain, ours = _in_turn((empty, "{}"), (f"{url}/v1/online", with_all))
            yield Line(
                "the same with statuses and event times", f"{ours.rate:,.0f}/s", f"{plain.rate:,.0f}/s",
                f"{ours.rate / plain.rate:.2f}×", "", None,
            )  # fmt: skip
            rows = {"entity": [f"user_{number * 997 % ENTITIES}" for number in range(100)]}
            for what, metadata in (
                ("HTTP: 100 rows, 5 views, 50 features", False),
                ("the same with statuses and event times", True),
            ):
                many = json.dumps({"features": names, "rows": rows, "metadata": metadata})
                plain, ours = _in_turn((empty, "{}"), (f"{url}/v1/online", many))
                yield Line(
                    what, f"{ours.rate:,.0f}/s, p99 {ours.p99 * 1e3:.1f} ms", f"{plain.rate:,.0f}/s",
                    f"{ours.rate / plain.rate:.2f}×", "≥ 400/s", ours.rate >= 400,
                )  # fmt: skip
    yield _training()


def _training() -> Line:
    import polars as pl

    from featurestore.client import RemoteFeatureStore

    opened = materialized("serving-training", [view("wide", 1_000_000, ENTITIES, "x")])
    spine = pl.read_parquet(data.spine(1_000_000, ENTITIES))
    times: tuple[list[float], list[float]] = ([], [])
    with opened, _served(folder="serving-training") as url, RemoteFeatureStore(url) as remote:
        for _ in range(8):
            for store, found in ((remote, times[0]), (opened, times[1])):
                began = time.perf_counter()
                assert store.training_frame(spine, "wide").height == spine.height
                found.append(time.perf_counter() - began)
    ours, local = (statistics.median(found[1:]) for found in times)
    return Line(
        "HTTP: training frame, 1M rows, 10 features", f"{ours:.2f} s", f"{local:.2f} s: the local call", f"{ours / local:.2f}×",
        "≤ 1.3×", ours / local <= 1.3,
    )  # fmt: skip


class _Load:
    """What a load measured.

    Args:
        rate: the requests answered in a second.
        p99: the seconds that 99 of 100 took at most.
    """

    def __init__(self, rate: float, p99: float) -> None:
        self.rate = rate
        self.p99 = p99


def _in_turn(floor: tuple[str, str], ours: tuple[str, str]) -> tuple[_Load, _Load]:
    """Returns the medians of loads in turn, so that noise falls on both alike."""
    found: tuple[list[_Load], list[_Load]] = ([], [])
    for _ in range(3):
        for (url, body), loads in ((floor, found[0]), (ours, found[1])):
            loads.append(_load(url, body))
    medians = [
        _Load(statistics.median(each.rate for each in loads), statistics.median(each.p99 for each in loads)) for loads in found
    ]
    return medians[0], medians[1]


def _load(url: str, body: str) -> _Load:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.serving", "load", url, str(SECONDS), str(CONNECTIONS)],
        input=body, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return _Load(*json.loads(done.stdout))


class _Client(asyncio.Protocol):
    """One connection, which sends the same request again and again, each after the answer to the one before."""

    def __init__(self, message: bytes, until: float, times: list[float]) -> None:
        self.ended = asyncio.get_running_loop().create_future()
        self._message, self._until, self._times = message, until, times

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._left, self._held = -1, b""
        self._began = time.perf_counter()
        self._transport.write(self._message)

    def data_received(self, data: bytes) -> None:
        if self._left >= 0:
            self._left -= len(data)
        else:
            self._held += data
            head, found, start = self._held.partition(b"\r\n\r\n")
            if not found:
                return
            if not head.startswith(b"HTTP/1.1 200"):
                self.ended.set_exception(RuntimeError(self._held.decode()))
                self._transport.abort()
                return
            self._left = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]) - len(start)
        if self._left == 0:
            now = time.perf_counter()
            self._times.append(now - self._began)
            if now < self._until:
                self._ask()
            else:
                self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


def _ask(url: str, body: str, seconds: float, connections: int) -> tuple[float, float]:
    """Sends the same request over connections that are kept, each after the answer to the one before."""
    import uvloop

    host, _, rest = url.removeprefix("http://").partition(":")
    port, _, path = rest.partition("/")
    head = f"POST /{path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    message = (head + body).encode()
    times: list[float] = []
    until = time.perf_counter() + seconds

    async def run() -> None:
        loop = asyncio.get_running_loop()
        made = [await loop.create_connection(lambda: _Client(message, until, times), host, int(port)) for _ in range(connections)]
        await asyncio.gather(*[client.ended for _, client in made])

    uvloop.run(run())
    times.sort()
    return len(times) / seconds, times[int(len(times) * 0.99)]


@contextmanager
def _served(online: str | None = None, folder: str = "serving") -> Iterator[str]:
    """Serves a store of the benchmarks' data in a process of its own."""
    words = ["serve", folder, *([online] if online else [])]
    with _process(words) as url:
        yield url


@contextmanager
def _empty() -> Iterator[str]:
    """Serves an empty route of Starlette's in a process of its own."""
    with _process(["empty"]) as url:
        yield url


@contextmanager
def _process(words: list[str]) -> Iterator[str]:
    with ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen([sys.executable, "-m", "benchmarks.serving", *words], stdout=subprocess.PIPE, text=True)
        )
        stack.callback(process.terminate)
        assert process.stdout is not None
        yield process.stdout.readline().strip()


def _serve_empty() -> None:
    import socket

    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def answer(request: Request) -> JSONResponse:
        return JSONResponse({})

    app = Starlette(routes=[Route("/", answer, methods=["POST"])])
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, loop="uvloop", http="httptools", ws="none", log_level="warning", access_log=False)
    print(f"http://127.0.0.1:{listening.getsockname()[1]}/", flush=True)
    uvicorn.Server(config).run(sockets=[listening])


def _serve(folder: str, online: str = "") -> None:
    from featurestore.server.run import serve
    from featurestore.settings_loader import load_settings

    given = {"project": "bench", "server": {"port": 0}} | ({"online": online} if online else {})
    root: Path = root_of(folder)
    assert root.is_relative_to(DATA)
    serve(root, given, load_settings(root, **given), ready=lambda url: print(url, flush=True))


if __name__ == "__main__":
    task, *arguments = sys.argv[1:]
    if task == "load":
        print(json.dumps(_ask(arguments[0], sys.stdin.read(), float(arguments[1]), int(arguments[2]))))
    elif task == "serve":
        _serve(*arguments)
    else:
        _serve_empty()
