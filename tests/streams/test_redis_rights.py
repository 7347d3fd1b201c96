"""The rights that docs/how-to/stream.md asks for do for streams, beside an online store, on a real server, and none is idle."""

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import redis

from featurestore import FeatureStore, StreamSource
from featurestore.clock import utc_now
from featurestore.errors import FeatureStoreError
from tests.online.test_redis_rights import documented as online_rights
from tests.servers.valkey import ValkeyServer, redis_binary
from tests.streams.test_worker import COLUMNS, Broker, latest, row, windows

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "stream.md").read_text(encoding="utf-8")
IDLE = 0.01
ASKS = "Give its user the commands"


@pytest.fixture(params=["valkey", "redis"])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ValkeyServer]:
    monkeypatch.setenv("WORKER", "pw")
    with ValkeyServer(binary=redis_binary() if request.param == "redis" else None) as server:
        yield server


def documented() -> list[str]:
    found = re.search(r"the commands\s+`(X[A-Z\s]+)`", PAGE)
    assert found is not None
    return found.group(1).lower().split()


def documented_keys(topic: str) -> list[str]:
    found = re.search(r"ACL SETUSER worker on >secret (.*?) \+xreadgroup", PAGE)
    assert found is not None
    return [each.removeprefix("~").replace("orders", topic) for each in found.group(1).split()]


def user_of(server: ValkeyServer, topic: str, commands: list[str]) -> str:
    with redis.Redis(port=server.port) as client:
        client.acl_setuser(
            "worker", enabled=True, reset=True, passwords=["+pw"], keys=["shop/*", *documented_keys(topic)],
            commands=[f"+{each}" for each in commands],
        )  # fmt: skip
    return f"redis://worker:${{WORKER}}@127.0.0.1:{server.port}"


def work(folder: Path, server: ValkeyServer, commands: list[str], *, beside: bool) -> list[str]:
    """Does all that is done with a stream, beside an online store of the same user or another; returns the errors on the way."""
    broker = Broker(server.url)
    url = user_of(server, broker.topic, commands)
    source = StreamSource("orders", url, topic=broker.topic, columns=COLUMNS, event_time="at")
    problems: list[str] = []

    def drain(store: FeatureStore) -> None:
        store.streams.run(once=True, idle_seconds=IDLE)

    def delete_the_second(store: FeatureStore) -> None:
        broker.add(row("d", 1), row("d", 2), row("d", 3))
        broker.raw.xdel(broker.topic, broker.raw.xrange(broker.topic)[-2][0])
        problems.extend(each.error for each in store.streams.status() if each.error)

    ahead = (utc_now() + timedelta(seconds=60)).isoformat()
    with FeatureStore(folder, project="shop", online=url.replace("${WORKER}", "pw") if beside else None) as store:
        store.apply([latest(source), windows(source)])
        broker.add(row("a", 1), b"no row", row("b", 2), {"k": "c", "x": 1.0, "at": ahead})
        for step in (
            drain,
            drain,  # which takes over what the first one left pending
            lambda store: problems.extend(each.error for each in store.streams.status() if each.error),
            lambda store: store.streams.dead_letters.list("orders"),
            lambda store: store.streams.dead_letters.requeue("orders"),
            drain,
            delete_the_second,
            lambda store: store.admin.forget("thing", {"k": "a"}),
            drain,
        ):
            try:
                step(store)
            except FeatureStoreError as error:
                problems.append(str(error))
        problems += [each.message for each in store.admin.doctor() if ASKS in each.message]
        if not problems:
            assert store.online("latest", [{"k": key} for key in "abd"]).status["x"] == ["missing", "present", "present"]
            assert store.streams.status()[0].set_aside == 1
    broker.raw.close()
    return problems


def test_the_documented_rights_do(tmp_path: Path, server: ValkeyServer) -> None:
    rights = sorted({*documented(), *online_rights("")})
    assert work(tmp_path, server, rights, beside=True) == []
    with redis.Redis(port=server.port) as client:
        # The client says at connecting who it is, and does without.
        assert [(each["reason"], each["object"]) for each in client.acl_log() if each["object"] != "client|setinfo"] == []


@pytest.mark.slow
@pytest.mark.parametrize("left_out", documented())
def test_none_of_the_documented_rights_is_idle(tmp_path: Path, server: ValkeyServer, left_out: str) -> None:
    commands = [each for each in documented() if each != left_out]
    problems = work(tmp_path, server, commands, beside=False)
    with redis.Redis(port=server.port) as client:
        refused = {each["object"].partition("|")[0] for each in client.acl_log() if each["reason"] == "command"}
    assert left_out in refused, f"{left_out} is not needed"
    if left_out != "eval":  # without scripts it goes on
        assert any(ASKS in each for each in problems), problems
