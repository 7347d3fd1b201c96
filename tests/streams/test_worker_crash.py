"""Exactly once in effect, under fire: workers killed at any point, and what is left is what one undisturbed worker leaves."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import redis

from featurestore.clock import from_micros
from tests.crashes import Worker
from tests.servers.valkey import ValkeyServer
from tests.workers.stream_worker import NOW, store_of

SEED = 20130901
KEYS = [f"e{number}" for number in range(12)]
POISON = {40, 77, 130}


def events() -> list[bytes]:
    """Events in no order, of which some are equal, some late, some null, some none at all."""
    draw = random.Random(SEED)
    found = []
    for number in range(180):
        at = NOW - draw.randrange(4_000_000_000)
        row = {"k": draw.choice(KEYS), "x": draw.choice([None, 0.5, 2.0]), "n": draw.choice([1, 2, 3, None]), "at": at}
        found.append(b"poison" if number in POISON else json.dumps(row).encode())
        if number % 9 == 0:
            found.append(found[-1])
    return found


def fill(broker: str, topic: str) -> None:
    """The same entries, with the same ids, in every topic."""
    with redis.Redis.from_url(broker) as raw:
        for number, event in enumerate(events()):
            raw.xadd(topic, {"payload": event}, id=f"{NOW // 1000 - 10_000 + number}-0")


def left(folder: Path, online: str | None, broker: str) -> dict[str, Any]:
    """All that a project's stores hold, and what is set aside."""
    found: dict[str, Any] = {}
    with store_of(folder, online, broker) as store:
        for view in ("latest", "windows"):
            found[view] = sorted(map(repr, store.sql(f"from {view}").rows()))
            found[f"{view} rejected"] = {repr(row) for row in store.runs.rejected_rows(view).rows()}
            times = [NOW, NOW - 30_000_000] if view == "windows" else [NOW]
            found[f"{view} online"] = [store.online(view, [{"k": k} for k in KEYS], at=from_micros(t)).to_dicts() for t in times]
        spine = {"k": KEYS, "t": [from_micros(NOW)] * len(KEYS)}
        trained = store.training_frame(spine, ["latest", "windows"], time="t").drop("t").to_dicts()
        both = [{**one, **other} for one, other in zip(found["latest online"][0], found["windows online"][0], strict=True)]
        assert trained == both
        found["aside"] = [(each.id, each.reason) for each in store.streams.dead_letters.list("events")]
        [status] = store.streams.status()
        assert (status.waiting, status.pending) == (0, 0)
    return found


WORKER = Worker("stream_worker")


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory, valkey_url: str) -> tuple[dict[str, Any], int]:
    """What an undisturbed worker leaves, and how many calls it makes."""
    folder = tmp_path_factory.mktemp("stream-quiet")
    fill(valkey_url, folder.name)
    calls = WORKER.run(folder, "", valkey_url)
    expected = left(folder, None, valkey_url)
    assert len(expected["aside"]) == len(POISON)
    assert len(expected["windows"]) == len(events()) - len(POISON)
    assert expected["latest rejected"]
    return expected, calls


def survive(folder: Path, quiet: tuple[dict[str, Any], int], online: str, broker: str, points: int) -> None:
    """Kills two workers in turn in one project, so often, at random points; then lets two finish. Compares what is left."""
    expected, calls = quiet
    draw = random.Random(SEED + points + len(online))
    for number in range(points // 2):
        project = folder / f"stream-{'valkey' if online else 'lmdb'}-{points}-{number}"
        fill(broker, project.name)
        WORKER.survive(project, online, broker, calls=calls, draw=draw)
        assert left(project, online or None, broker) == expected


def test_a_worker_that_is_killed_leaves_what_an_undisturbed_one_leaves(
    tmp_path: Path, quiet: tuple[dict[str, Any], int], valkey_url: str
) -> None:
    survive(tmp_path, quiet, "", valkey_url, 2)


@pytest.mark.slow
@pytest.mark.parametrize("online", ["", "valkey"], ids=["lmdb", "valkey"])
def test_killed_at_many_points(tmp_path: Path, quiet: tuple[dict[str, Any], int], valkey_url: str, online: str) -> None:
    survive(tmp_path, quiet, online and valkey_url, valkey_url, 4)


@pytest.mark.slow
def test_three_workers_killed_while_the_broker_is_killed_too(tmp_path: Path, quiet: tuple[dict[str, Any], int]) -> None:
    with ValkeyServer("--appendonly", "yes", "--appendfsync", "always") as server:
        fill(server.url, "stream-three")
        draw = random.Random(SEED)
        store_of(tmp_path / "stream-three", None, server.url).close()
        words = (tmp_path / "stream-three", "", server.url)
        first, second = [WORKER.start(*words, point=draw.randrange(1, quiet[1])) for _ in range(2)]
        WORKER.die(first)
        server.restart(kill=True)
        WORKER.die(second)
        WORKER.run(*words)
        assert left(tmp_path / "stream-three", None, server.url) == quiet[0]
