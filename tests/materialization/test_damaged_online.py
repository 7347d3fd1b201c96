"""Damaged values online: any damage is an error that says what to do, or the right answer; writers mend it from the history."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore import FeatureStore
from featurestore.errors import OnlineStoreError
from featurestore.testing import FakeClock
from tests.effort import examples
from tests.materialization.test_lost_online import FEATURES, NOW, SOURCE, opened, rows_of, served, trained
from tests.servers.valkey import ValkeyServer


@pytest.fixture(scope="module")
def damaged(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[FeatureStore, Any, dict[bytes, bytes], list[dict[str, Any]]]]:
    """A store, the server's client, its keys and values, and what they say."""
    folder, clock = tmp_path_factory.mktemp("damaged"), FakeClock(NOW + 60_000_000)
    with ValkeyServer() as server, redis.Redis(port=server.port) as client, opened(folder, clock, server.url) as store:
        store.materialize()
        keys = [*client.keys("*/sums/*"), *client.keys("*/newest/*")]
        yield store, client, {key: client.get(key) for key in keys}, served(store)


kinds = st.sampled_from(["flip", "cut", "append", "insert", "drop", "other's", "bytes", "type", "zeros"])


def harmed(kind: str, whole: bytes, chance: random.Random, some: bytes, others: list[bytes]) -> bytes:
    """Returns a value with some damage of a kind."""
    at = chance.randrange(len(whole))
    return {
        "flip": whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :],
        "cut": whole[:at],
        "append": whole + some,
        "insert": whole[:at] + some + whole[at:],
        "drop": whole[:at] + whole[at + 1 + chance.randrange(9) :],
        "other's": chance.choice(others),
        "zeros": whole[:at] + bytes(len(whole) - at),
        "bytes": some,
    }.get(kind, whole)


@settings(max_examples=examples(400), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.integers(0, 5), kind=kinds, seed=st.integers(0, 2**32), some=st.binary(max_size=60))
def test_k20_any_damage_to_any_value_is_an_error_of_ours_or_the_right_answer(
    damaged: Any, which: int, kind: str, seed: int, some: bytes
) -> None:
    store, client, values, right = damaged
    chance = random.Random(seed)
    keys = sorted(values)
    key = keys[which]
    value = harmed(kind, values[key], chance, some, [values[each] for each in keys])
    client.delete(key)
    if kind == "type":
        client.rpush(key, "x")
    else:
        client.set(key, value)
    problem = ""
    try:
        answer = store.online(FEATURES, [{"k": k} for k in "abcd"])
        # A key of another type is no value to MGET: the entity is missing, which its status says.
        assert answer.to_dicts() == right or kind == "type"
        assert answer.status
        assert answer.event_time
    except OnlineStoreError as error:
        problem = str(error)
    finally:
        client.delete(key)
        client.set(key, values[key])
    assert not problem or "--rebuild-online" in problem
    assert "a}" not in problem  # the key, which may be personal
    assert served(store) == right


@pytest.mark.parametrize("damage", ["cut", "greatest", "empty"])
def test_k20_writers_compute_a_damaged_value_from_the_history(tmp_path: Path, damage: str) -> None:
    clock = FakeClock(NOW + 60_000_000)
    with ValkeyServer() as server, redis.Redis(port=server.port) as client, opened(tmp_path, clock, server.url) as store:
        store.materialize()

        def harm(view: str) -> None:
            for key in client.keys(f"*/{view}/*"):
                value = client.get(key)
                client.set(key, {"cut": value[:18], "greatest": b"\xff" * len(value), "empty": b""}[damage])

        harm("sums")
        store.push(SOURCE, rows_of(("a", 20, 20.0)))  # it would join its row to the value
        assert store.online("sums", [{"k": "a"}]).to_dicts() == [{"k": "a", "n": 3, "total": 23.0}]
        harm("sums")
        harm("newest")
        found = {each.check: each.message for each in store.admin.doctor() if each.state == "error"}
        assert found["online values: newest"] == found["online values: sums"] == "of 3 entities 3 have a damaged one"
        store.admin.rebuild_online()
        assert served(store) == trained(store)
        assert not [each for each in store.admin.doctor() if each.check.startswith("online values") and each.state != "ok"]


def test_doctor_finds_few_lost_values_within_some_looks_though_nothing_changes(tmp_path: Path) -> None:
    clock = FakeClock(NOW + 60_000_000)
    with ValkeyServer() as server, redis.Redis(port=server.port) as client, opened(tmp_path, clock, server.url) as store:
        store.push(SOURCE, rows_of(*((f"e{number}", 1, 1.0) for number in range(2_500))))
        lost = random.Random(1).sample(sorted(client.keys("*/newest/*")), 50)
        client.delete(*lost)
        looks = [
            each
            for _ in range(3)
            for each in store.admin.doctor()
            if each.check == "online values: newest" and each.state == "error"
        ]
        assert looks
        assert all("have no value" in each.message for each in looks)


def test_doctor_tells_of_keys_of_another_registry_and_how_to_remove_them(tmp_path: Path) -> None:
    clock = FakeClock(NOW + 60_000_000)
    with ValkeyServer() as server, redis.Redis(port=server.port) as client:
        with opened(tmp_path, clock, server.url) as store:
            store.materialize()
            former = store.components.watched_online.space()
            assert "keys begin with" not in repr(store.admin.doctor())
        (tmp_path / ".featurestore" / "registry.db").unlink()
        client.set("test/weather/1/{\xa3JFK}", b"of a version before")
        with opened(tmp_path, clock, server.url) as store:
            told = [each for each in store.admin.doctor() if "keys begin with" in each.message]
            assert [each.state for each in told] == ["warning"] * 2
            assert any(f"7 keys begin with {former}/" in each.message and f"'{former}/*'" in each.advice for each in told)
            assert any("1 keys begin with test/weather/" in each.message for each in told)
