"""The service over a long time: half of what it can, every answer checked, while definitions change and Valkey dies once.

Valkey keeps its values over the kill (``appendonly``), so what it answers afterwards must be as right as before.
"""

import asyncio
import json
import random
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks import data
from benchmarks.measure import DATA, Line
from benchmarks.project import view
from benchmarks.serving import CONNECTIONS, ENTITIES
from featurestore import FeatureService, FeatureStore, FeatureView
from tests.servers.valkey import ValkeyServer

SECONDS = 600.0
NAMES = ("wide0", "wide1")
SERVICE = "both"
RECONNECT = 2.0
"""For how many seconds after Valkey answers again the server may still say 503."""
NOTICE = 6.0
"""Within how many seconds the server must know what was applied: three times the setting ``catalog_refresh``."""
_DOWN = 3.0
_PROBE = 5.0
_DEVIATION = 0.05
_CATCH_UP = 1.0


def lines(*, full: bool, seconds: float = SECONDS) -> Iterator[Line]:
    """Measures what the service can, and offers half of it for so many seconds."""
    folder = DATA / "soak"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    views = [view(name, ENTITIES, ENTITIES, f"{name}_") for name in NAMES]
    with ValkeyServer("--appendonly", "yes") as valkey:
        (folder / "featurestore.toml").write_text(f'project = "bench"\nonline = "{valkey.url}"\n')
        with FeatureStore(folder) as store:
            store.apply(views)
            store.materialize(end="1971-01-01")
            with _served(folder) as (url, pid):
                yield from asyncio.run(Soak(store, views, valkey, url, pid, seconds).run())


@dataclass(frozen=True)
class Answered:
    """One answer: when it came, after how long, its status (0: the connection broke), and its body where that is no success."""

    at: float
    seconds: float
    status: int
    body: bytes


@dataclass
class Seen:
    """What a load saw."""

    right: int = 0
    wrong: list[str] = field(default_factory=list)
    failed: list[Answered] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


class Soak:
    """One run.

    Args:
        store: the store whose definitions change.
        views: its views.
        valkey: its online store.
        url: where it is served.
        pid: by which process.
        seconds: for how long.
    """

    def __init__(
        self, store: FeatureStore, views: list[type[FeatureView]], valkey: ValkeyServer, url: str, pid: int, seconds: float
    ) -> None:
        self._store = store
        self._views = views
        self._valkey = valkey
        self._url = url
        self._pid = pid
        self._seconds = seconds
        self._truth = Truth()
        self._named = False
        self._down = (0.0, 0.0)
        self._memory: list[tuple[float, int]] = []

    async def run(self) -> Iterator[Line]:
        """Returns the lines of the table."""
        probe = Seen()
        await self._load(probe, _PROBE, None)
        most = probe.right / _PROBE
        seen = Seen()
        tasks = [asyncio.create_task(self._happen()), asyncio.create_task(self._watch(time.monotonic() + self._seconds))]
        began = time.monotonic()
        await self._load(seen, self._seconds, most / 2)
        late = await tasks[0]
        await tasks[1]
        return self._lines(seen, probe, most, time.monotonic() - began, began, late)

    def _lines(self, seen: Seen, probe: Seen, most: float, lasted: float, began: float, late: list[str]) -> Iterator[Line]:
        seen.seconds.sort()
        answers = seen.right + len(seen.wrong) + len(seen.failed)
        wrong = probe.wrong + seen.wrong
        what = f"soak: {self._seconds:.0f} s, {CONNECTIONS} connections"
        killed, back = self._down
        reached = answers / (lasted - (back - killed)) / most
        tail = seen.seconds[int(len(seen.seconds) * 0.99)] * 1e3
        yield Line(
            f"{what}: offered {most / 2:,.0f} requests/s", f"{answers:,} answers, {answers / lasted:,.0f}/s, p99 {tail:.1f} ms",
            f"{most:,.0f}/s: as many as it can", f"{reached:.2f}×", "0.5×", reached > 0.45,
        )  # fmt: skip
        yield Line(f"{what}: answers that are wrong", f"{len(wrong)} {wrong[:1] or ''}", "", "", "none", not wrong)
        yield Line(f"{what}: applied twice", f"noticed {late or 'both'}", "", "", f"within {NOTICE:g} s", not late)
        yield self._errors(what, probe.failed + seen.failed, began)
        yield self._flat(what, began)

    def _errors(self, what: str, failed: list[Answered], began: float) -> Line:
        killed, back = self._down
        kinds = Counter((each.status, killed <= each.at <= back + RECONNECT) for each in failed)
        told = [
            f"{number} × {status} {'while' if inside else 'NOT while'} it was down" for (status, inside), number in kinds.items()
        ]
        if failed:
            told.append(f"from {min(each.at for each in failed) - killed:.2f} to {max(each.at for each in failed) - killed:.2f} s")
        told += [each.body.decode()[:200] for each in failed if each.status != 503][:1]
        return Line(
            f"{what}: Valkey killed at {killed - began:.0f} s, back after {back - killed:.1f} s",
            "; ".join(told) or "no errors", "", "",
            f"503 only, and within {RECONNECT:g} s of its being back", set(kinds) <= {(503, True)},
        )  # fmt: skip

    def _flat(self, what: str, began: float) -> Line:
        first = min(60.0, self._seconds / 3)
        after = [size for at, size in self._memory if at - began >= first]
        base = statistics.median(after[:5])
        far = max(after, key=lambda size: abs(size - base)) / base - 1
        end = statistics.median(after[-5:])
        return Line(
            f"{what}: memory after {first:.0f} s", f"{base / 1024:.1f} MiB; {end / 1024:.1f} MiB at the end", "",
            f"{far:+.1%} at most", f"±{_DEVIATION:.0%}", abs(far) <= _DEVIATION,
        )  # fmt: skip

    async def _happen(self) -> list[str]:
        """Applies twice, and kills Valkey between; returns what was not noticed in time."""
        began = time.monotonic()
        late = []

        async def until(part: float) -> None:
            await asyncio.sleep(began + part * self._seconds - time.monotonic())

        await until(0.2)
        late += await self._apply("")
        self._named = True
        await until(0.5)
        self._down = (time.monotonic(), float("inf"))
        await asyncio.to_thread(self._valkey.stop, kill=True)
        await asyncio.sleep(_DOWN)
        await asyncio.to_thread(self._valkey.start)
        self._down = (self._down[0], time.monotonic())
        await until(0.7)
        late += await self._apply("Another description.")
        return late

    async def _apply(self, description: str) -> list[str]:
        service = FeatureService(SERVICE, list(NAMES), description=description)
        await asyncio.to_thread(self._store.apply, [*self._views, service])
        connection = Connection(self._url)
        for _ in range(round(NOTICE / 0.2)):
            await asyncio.sleep(0.2)
            found = await connection.ask(connection.message("GET", f"/v1/services/{SERVICE}"))
            if found.status == 200 and json.loads(found.body).get("description", "") == description:
                return []
        return [f"not the description {description!r}"]

    async def _watch(self, until: float) -> None:
        status = Path(f"/proc/{self._pid}/status")
        while time.monotonic() < until:
            found = re.search(r"VmRSS:\s+(\d+)", status.read_text())
            assert found is not None
            self._memory.append((time.monotonic(), int(found[1])))
            await asyncio.sleep(1)

    async def _load(self, seen: Seen, seconds: float, rate: float | None) -> None:
        """Asks over all connections: so often a second, or each again after its answer."""
        until = time.monotonic() + seconds
        every = 0.0 if rate is None else CONNECTIONS / rate
        await asyncio.gather(*[self._ask(seen, until, every, number) for number in range(CONNECTIONS)])

    async def _ask(self, seen: Seen, until: float, every: float, number: int) -> None:
        connection, chosen = Connection(self._url), random.Random(number)
        due = time.monotonic() + every * chosen.random()
        while (now := time.monotonic()) < until:
            if due > now:
                await asyncio.sleep(due - now)
            # What was missed while nothing was answered is made up for a little only: it would be more than half.
            due = max(due + every, now - _CATCH_UP)
            question = self._truth.question(chosen, named=self._named)
            found = await connection.ask(connection.message("POST", "/v1/online", question.body))
            seen.seconds.append(found.seconds)
            if found.status != 200:
                seen.failed.append(found)
                await asyncio.sleep(0.05)
            elif json.loads(found.body) == question.answer:
                seen.right += 1
            else:
                seen.wrong.append(f"{question.body.decode()} → {found.body.decode()}")


@dataclass(frozen=True)
class Question:
    """A look-up, and the answer that it must have."""

    body: bytes
    answer: dict[str, Any]


class Truth:
    """What the features are: the greatest row of each entity, found in the sources with Polars alone."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, tuple[Any, ...]]] = {}
        for name in NAMES:
            rows = pl.read_parquet(data.source(name, ENTITIES, ENTITIES, f"{name}_") / "*.parquet")
            latest = rows.sort("event_time").group_by("entity").last().select("entity", "event_time", *self._features(name))
            self._rows[name] = {row[0]: (_iso(row[1]), *row[2:]) for row in latest.iter_rows()}
        self._entities = [f"user_{number}" for number in random.Random(0).sample(range(ENTITIES), ENTITIES)]

    def question(self, chosen: random.Random, *, named: bool) -> Question:
        """Returns one of them: of one row mostly, else of ten; with statuses and event times mostly; of one view, or of both."""
        rows = chosen.sample(self._entities, 10 if chosen.random() < 0.2 else 1)
        names = NAMES if chosen.random() < 0.5 else (chosen.choice(NAMES),)
        metadata = chosen.random() < 0.75
        asked = SERVICE if named and len(names) > 1 and chosen.random() < 0.5 else list(names)
        body = {"features": asked, "rows": {"entity": rows}, "metadata": metadata}
        return Question(json.dumps(body).encode(), self._answer(names, rows, metadata=metadata))

    def _answer(self, names: tuple[str, ...], rows: list[str], *, metadata: bool) -> dict[str, Any]:
        features: dict[str, Any] = {}
        status: dict[str, Any] = {}
        times: dict[str, Any] = {}
        for name in names:
            found = [self._rows[name].get(row) for row in rows]
            for place, feature in enumerate(self._features(name), 1):
                features[feature] = [row and row[place] for row in found]
                status[feature] = ["present" if row else "missing" for row in found]
            times[name] = [row and row[0] for row in found]
        return {"features": features} | ({"status": status, "event_time": times} if metadata else {})

    @staticmethod
    def _features(name: str) -> list[str]:
        return data.feature_names(f"{name}_")


def _iso(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")


class Connection(asyncio.Protocol):
    """A connection that is kept, over which one question after another is asked; a bare one, for httpx would be the slower part.

    Args:
        url: the server.
    """

    def __init__(self, url: str) -> None:
        self._host, _, port = url.removeprefix("http://").partition(":")
        self._port = int(port)
        self._transport: Any = None
        self._answer: asyncio.Future[tuple[int, bytes]]

    def message(self, method: str, path: str, body: bytes = b"") -> bytes:
        """Returns a request."""
        head = f"{method} {path} HTTP/1.1\r\nhost: {self._host}\r\ncontent-type: application/json\r\n"
        return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body

    async def ask(self, message: bytes) -> Answered:
        """Sends a request, and returns the answer."""
        began = time.monotonic()
        self._held, self._start, self._size = bytearray(), -1, 0
        loop = asyncio.get_running_loop()
        self._answer = loop.create_future()
        try:
            if self._transport is None or self._transport.is_closing():
                await loop.create_connection(lambda: self, self._host, self._port)
            self._transport.write(message)
            status, body = await asyncio.wait_for(self._answer, 60)
        except OSError as error:  # what breaks a connection, and time that is over
            self._transport = None
            status, body = 0, repr(error).encode()
        now = time.monotonic()
        return Answered(now, now - began, status, body)

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._held += data
        if self._start < 0:
            end = self._held.find(b"\r\n\r\n")
            if end < 0:
                return
            self._start = end + 4
            found = re.search(rb"content-length: (\d+)", bytes(self._held[:end]).lower())
            assert found is not None
            self._size = int(found[1])
        if len(self._held) >= self._start + self._size and not self._answer.done():
            self._answer.set_result((int(self._held[9:12]), bytes(self._held[self._start :])))

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if not self._answer.done():
            self._answer.set_exception(error or ConnectionResetError("closed before the answer"))


@contextmanager
def _served(folder: Path) -> Iterator[tuple[str, int]]:
    """Serves a project with one worker; gives the URL, and the process."""
    words = ["-m", "featurestore.cli", "serve", "-C", str(folder), "--port", "0"]
    log = folder / "log"
    with log.open("w") as told, subprocess.Popen([sys.executable, *words], stderr=told, stdout=told) as process:
        try:
            for _ in range(300):
                if found := re.search(r"serves at (http://\S+)", log.read_text()):
                    yield found[1], process.pid
                    return
                time.sleep(0.1)
            raise SystemExit(f"The server did not start:\n{log.read_text()}")
        finally:
            process.terminate()
