"""Parts that are made once whichever thread comes first, and not any more once their owner is closed."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from featurestore import Entity, FeatureStore
from featurestore.errors import ClosedError
from featurestore.once import MadeOnce, closed_with_owner, once


class Part:
    def __init__(self, closed: list[str], name: str) -> None:
        self.closed, self.name = closed, name

    def close(self) -> None:
        self.closed.append(self.name)


class Owner(MadeOnce):
    def __init__(self) -> None:
        super().__init__()
        self.made_parts = 0
        self.closed: list[str] = []

    @closed_with_owner
    def part(self) -> Part:
        """What it is."""
        time.sleep(0.01)  # as the making of a store takes time, in which another thread comes
        self.made_parts += 1
        return Part(self.closed, "part")

    @closed_with_owner
    def whole(self) -> Part:
        assert self.part
        return Part(self.closed, "whole")

    @once
    def open_ended(self) -> Part:
        return Part(self.closed, "never")


def test_many_threads_get_one() -> None:
    owner = Owner()
    start = threading.Barrier(12)
    got: list[Any] = []

    def ask() -> None:
        start.wait()
        got.append(owner.whole)

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert owner.made_parts == 1
    assert len(got) == 12
    assert all(each is got[0] for each in got)
    assert Owner.part.__doc__ == "What it is."


def test_closing_closes_what_was_made_in_reverse_order_and_nothing_is_made_any_more() -> None:
    owner, idle = Owner(), Owner()
    assert owner.whole is owner.whole
    assert owner.open_ended is owner.made("open_ended")
    assert idle.made("part") is None
    for each in (owner, idle, owner):
        each.close()
    assert (owner.closed, idle.closed) == (["whole", "part"], [])
    for each in (owner, idle):
        with pytest.raises(ClosedError, match="Make a new one"):
            _ = each.part


def test_what_is_kept_for_others_is_made_once_and_gone_with_its_keeper() -> None:
    owner = Owner()
    kept = owner.keep("x", object)
    assert owner.keep("x", object) is kept
    assert owner.keep("y", object) is not kept
    owner.close()
    with pytest.raises(ClosedError):
        owner.keep("x", object)


def test_all_are_closed_where_one_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = Owner()

    def failing(self: Part) -> None:
        self.closed.append(self.name)
        raise OSError(self.name)

    monkeypatch.setattr(Part, "close", failing)
    assert owner.whole
    with pytest.raises(OSError, match="part"):
        owner.close()
    assert owner.closed == ["whole", "part"]


CALLS: dict[str, Callable[[FeatureStore], object]] = {
    "online": lambda store: store.online("weather", [{"origin": "JFK"}]),
    "runs": lambda store: store.runs.list(),
    "catalog": lambda store: store.catalog,
    "status": lambda store: store.status(),
    "apply": lambda store: store.apply([Entity("airport", origin=str)]),
    "materialize": lambda store: store.materialize(),
    "sql": lambda store: store.sql("select 1"),
    "keys": lambda store: store.keys.list(),
    "doctor": lambda store: list(store.admin.doctor()),
}


@pytest.mark.parametrize("used", [True, False], ids=["used before", "never used"])
@pytest.mark.parametrize("call", CALLS)
def test_a_closed_store_is_closed_for_every_call(call: str, used: bool, tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    if used:
        store.apply([Entity("airport", origin=str)])
        assert store.catalog.entities
        assert store.runs.list() == []
    store.close()
    with pytest.raises(ClosedError):
        CALLS[call](store)
    store.close()
