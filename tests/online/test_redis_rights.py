"""The rights that docs/how-to/look-up.md asks for are enough, on a real server, and none of them is idle."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from featurestore.errors import OnlineStoreError
from featurestore.server.backend import StoreBackend
from featurestore.testing import FakeClock
from tests.materialization.test_lost_online import NOW, SOURCE, opened, rows_of, served, trained
from tests.servers.valkey import ValkeyServer

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "look-up.md").read_text(encoding="utf-8")


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


PACK = "/0?pack=8&entities=64"
PAGES = {
    "": r"user needs the commands `([A-Z ]+)`; one that\s+only reads needs `([A-Z]+)`",
    PACK: r"For packed values it needs\s+`([A-Z_ ]+)`, to read them\s+`([A-Z_ ]+)`",
}
LAYOUTS = pytest.mark.parametrize("layout", list(PAGES), ids=["plain", "packed"])


def documented(layout: str, *, to_read: bool = False) -> list[str]:
    found = re.search(PAGES[layout], PAGE)
    assert found is not None
    return found.group(2 if to_read else 1).lower().split()


def user_of(server: ValkeyServer, name: str, commands: list[str]) -> str:
    with redis.Redis(port=server.port) as client:
        client.acl_setuser(
            name, enabled=True, reset=True, passwords=["+pw"], keys=["test/*"], commands=[f"+{each}" for each in commands]
        )
    return f"redis://{name}:pw@127.0.0.1:{server.port}"


@LAYOUTS
def test_the_documented_rights_do(tmp_path: Path, server: ValkeyServer, layout: str) -> None:
    clock = FakeClock(NOW + 60_000_000)
    with opened(tmp_path, clock, user_of(server, "writer", documented(layout)) + layout) as store:
        store.materialize()
        store.push(SOURCE, rows_of(("a", 10, 1.0)))
        assert served(store) == trained(store)
        assert not isinstance(StoreBackend(store).check()["online"], OnlineStoreError)
        assert [each for each in store.admin.doctor() if each.state == "error" and "clock" not in each.check] == []
        with redis.Redis(port=server.port) as client:
            client.flushall()
        assert isinstance(StoreBackend(store).check()["online"], OnlineStoreError)
        store.admin.doctor(repair=True)
        assert served(store) == trained(store)
        store.admin.forget("thing", {"k": "a"})
        assert store.online("newest", [{"k": "a"}]).status == {"x": ["missing"]}
        store.admin.delete_project()
    with redis.Redis(port=server.port) as client:
        assert client.keys("*") == []


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "left_out"), [(layout, command) for layout in PAGES for command in documented(layout)])
def test_none_of_the_documented_rights_is_idle(tmp_path: Path, server: ValkeyServer, layout: str, left_out: str) -> None:
    clock = FakeClock(NOW + 60_000_000)
    commands = [each for each in documented(layout) if each != left_out]
    refused = 0
    with opened(tmp_path, clock, user_of(server, "writer", commands) + layout) as store:
        for work in (
            store.materialize,
            lambda: store.push(SOURCE, rows_of(("a", 10, 1.0))),
            lambda: served(store),
            lambda: store.online("newest", [{"k": "a"}]),
            store.admin.rebuild_online,
            lambda: store.admin.forget("thing", {"k": "b"}),
            store.admin.delete_project,
        ):
            problem = ""
            try:
                work()
            except OnlineStoreError as error:
                problem = str(error)
            assert not problem or "Give its user the commands" in problem
            refused += bool(problem)
        refused += sum(1 for each in store.admin.doctor() if "Give its user the commands" in each.message)
    with redis.Redis(port=server.port) as client:
        assert refused or any(each["reason"] == "command" for each in client.acl_log()), f"{left_out} is not needed"


@LAYOUTS
def test_a_user_that_only_reads_answers_look_ups_and_is_ready(tmp_path: Path, server: ValkeyServer, layout: str) -> None:
    clock = FakeClock(NOW + 60_000_000)
    with opened(tmp_path, clock, server.url + layout) as writer:
        writer.materialize()
        reader_url = user_of(server, "reader", documented(layout, to_read=True)) + layout
        with opened(tmp_path, clock, reader_url) as reader:
            assert StoreBackend(reader).check()["online"] == "redis or valkey"
            assert served(reader) == trained(reader)
            with redis.Redis(port=server.port) as client:
                client.flushall()
            assert isinstance(
                StoreBackend(reader).check()["online"], OnlineStoreError
            )  # which it notes, though it cannot mark the store
            writer.materialize()
            assert StoreBackend(reader).check()["online"] == "redis or valkey"
            assert served(reader) == trained(reader)
