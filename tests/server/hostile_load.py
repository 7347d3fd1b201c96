"""What a hostile sender and those beside it do: bodies of every kind, and look-ups at a steady pace."""

import asyncio
import json
import statistics
import threading
from time import perf_counter

import httpx
import psutil

from tests.server import hostile
from tests.server.conftest import Serve

GOOD = {"features": "weather.temp", "rows": [{"origin": "JFK"}], "metadata": False}
A_SECOND, SENDERS = 50, 4
DEADLINE = 30.0
"""The server's, ``server.request_timeout``."""


def bodies() -> list[tuple[str, str, bytes]]:
    """Hostile requests of every kind: where they go to, as what, and the body."""
    found: list[tuple[str, str, bytes]] = []
    frames = [(kind, make()) for kind, make in hostile.FRAMES.values()]
    frames += [(hostile.ARROW, body) for body in hostile.mutated(hostile.sound(), 40, 1)]
    frames += [(hostile.ARROW, body) for body in list(hostile.lying(hostile.sound()))[::7]]
    for kind, body in frames:
        found.append(("/v1/training?features=weather.temp", kind, body))
    for kind, make in hostile.TEXTS.values():
        found.append(("/v1/online", kind, make()))
    return found


class LookUps:
    """Looks features up at a steady pace, and remembers how each went."""

    def __init__(self, url: str, key: dict[str, str]) -> None:
        self.times: list[float] = []
        self.wrong: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(url, key)))
        self._thread.start()

    async def _run(self, url: str, key: dict[str, str]) -> None:
        async with httpx.AsyncClient(base_url=url, headers=key, timeout=DEADLINE) as client:
            tasks: set[asyncio.Task[None]] = set()
            began = perf_counter()
            number = 0
            while not self._stop.is_set():
                tasks.add(task := asyncio.create_task(self._one(client)))
                task.add_done_callback(tasks.discard)
                number += 1
                await asyncio.sleep(max(0.0, began + number / A_SECOND - perf_counter()))
            await asyncio.gather(*tasks)

    async def _one(self, client: httpx.AsyncClient) -> None:
        began = perf_counter()
        try:
            answer = await client.post("/v1/online", json=GOOD)
            if answer.json() != {"features": {"temp": [51.0]}}:
                self.wrong.append(answer.text[:200])
        except (httpx.HTTPError, json.JSONDecodeError) as error:
            self.wrong.append(repr(error))
        self.times.append(perf_counter() - began)

    def end(self) -> "LookUps":
        self._stop.set()
        self._thread.join()
        return self

    @property
    def p99(self) -> float:
        return statistics.quantiles(self.times, n=100)[98]


def send_all(url: str, key: dict[str, str], given: list[tuple[str, str, bytes]]) -> dict[int, int]:
    """Sends every body, several at once; returns how often each status was answered."""
    left, statuses, lock = iter(given), dict[int, int](), threading.Lock()

    def send() -> None:
        with httpx.Client(base_url=url, headers=key, timeout=120) as client:
            while True:
                with lock:
                    body = next(left, None)
                if body is None:
                    return
                status = client.post(body[0], content=body[2], headers={"content-type": body[1]}).status_code
                with lock:
                    statuses[status] = statuses.get(status, 0) + 1

    threads = [threading.Thread(target=send) for _ in range(SENDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


def memory(server: Serve) -> int:
    """The bytes that the server and its helpers take, of their own."""
    process = psutil.Process(server.process.pid)
    found = 0
    for each in [process, *process.children(recursive=True)]:
        try:
            found += each.memory_info().rss - each.memory_info().shared
        except psutil.Error:
            continue
    return found
