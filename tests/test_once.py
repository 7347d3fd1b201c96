"""Parts that are made once whichever thread comes first, and not any more once their owner is closed."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from featurestore import Entity, FeatureStore
from featurestore.errors import ClosedError
from featurestore.once import MadeOnce, once


class Owner(MadeOnce):
    def __init__(self) -> None:
        super().__init__()
        self.made = 0
        self.closed = 0

    @once
    def part(self) -> "Owner":
        """What it is."""
        time.sleep(0.01)  # as the making of a store takes time, in which another thread comes
        self.made += 1
        return self

    @once
    def whole(self) -> list[Any]:
        return [self.part]

    def close(self) -> None:
        self.closed += 1


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
    assert owner.made == 1
    assert len(got) == 12
    assert all(each is got[0] for each in got)
    assert Owner.part.__doc__ == "What it is."


def test_closing_closes_what_was_made_and_nothing_is_made_any_more() -> None:
    owner, idle = Owner(), Owner()
    assert owner.whole
    for each in (owner, idle, owner):
        each.close_made(("part",))
    assert (owner.closed, idle.closed) == (1, 0)
    for each in (owner, idle):
        with pytest.raises(ClosedError, match="Make a new one"):
            _ = each.part


CALLS: dict[str, Callable[[FeatureStore], object]] = {
    "online": lambda store: store.online("weather", [{"origin": "JFK"}]),
    "runs": lambda store: store.runs(),
    "catalog": lambda store: store.catalog,
    "status": lambda store: store.status(),
    "apply": lambda store: store.apply([Entity("airport", origin=str)]),
    "materialize": lambda store: store.materialize(),
    "sql": lambda store: store.sql("select 1"),
    "keys": lambda store: store.keys.list(),
    "doctor": lambda store: list(store.doctor()),
}


@pytest.mark.parametrize("used", [True, False], ids=["used before", "never used"])
@pytest.mark.parametrize("call", CALLS)
def test_a_closed_store_is_closed_for_every_call(call: str, used: bool, tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    if used:
        store.apply([Entity("airport", origin=str)])
        assert store.catalog.entities
        assert store.runs() == []
    store.close()
    with pytest.raises(ClosedError):
        CALLS[call](store)
    store.close()
