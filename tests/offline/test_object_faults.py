"""What a network and a store in it do to a history (S17): requests and answers are lost, refused, late, or never come."""

import random
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from featurestore.errors import OfflineStoreError
from featurestore.locks import FileLocks
from featurestore.offline.delta.eraser import DeltaEraser
from featurestore.offline.delta.history import DeltaStore
from featurestore.offline.delta.maintenance import DeltaMaintenance
from featurestore.offline.object_folder import ObjectFolder
from featurestore.testing.offline import PLAIN, read, rows, run
from featurestore.testing.push_log import fold
from tests.servers.s3_proxy import Fault, S3Proxy, s3_proxy
from tests.servers.s3_server import KEYS, S3Server
from tests.servers.s3_stub import S3Stub


@pytest.fixture
def proxy(seaweed: S3Server, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Proxy]:
    """Clients find the server behind it."""
    with s3_proxy(seaweed.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


@pytest.fixture
def store(proxy: S3Proxy, s3_url: str, tmp_path: Path) -> DeltaStore:
    return DeltaStore(ObjectFolder(s3_url, timeout=2), locks=FileLocks(tmp_path / "locks"))


def keys(store: DeltaStore) -> list[int]:
    return sorted(read(store, PLAIN)["event_time"].to_physical().to_list())


def a_thousand(first: int) -> pl.DataFrame:
    return rows(*((f"k{number % 50}", number, number, 1.0) for number in range(first, first + 1000)))


def test_a_push_is_few_requests(proxy: S3Proxy, store: DeltaStore) -> None:
    run(store, PLAIN, 1, a_thousand(0))
    store.log.append(PLAIN, a_thousand(10_000))
    for number in range(2, 6):
        before = len(proxy.requests)
        assert store.log.append(PLAIN, a_thousand(number * 10_000)).rows.height == 1000
        assert len(proxy.requests) - before <= 4, proxy.requests[before:]


def test_a_look_at_a_table_is_few_requests(proxy: S3Proxy, store: DeltaStore) -> None:
    run(store, PLAIN, 1, a_thousand(0))
    store.log.append(PLAIN, a_thousand(10_000))
    assert store.snapshot(PLAIN).rows == 2000
    before = len(proxy.requests)
    assert store.snapshot(PLAIN).rows == 2000
    assert len(proxy.requests) - before <= 2, proxy.requests[before:]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
def test_s17_lost_requests_and_answers_lose_and_double_nothing(proxy: S3Proxy, store: DeltaStore, seed: int) -> None:
    """One of eight requests goes wrong, in any step; what fails in the end is repeated, as a caller would."""
    draw = random.Random(seed)
    run(store, PLAIN, 1, rows(("a", 0, 0, 1.0)))
    there = {0}
    faults: list[Fault] = ["lost request", "lost answer", "conflict", "overload"]

    def fault(method: str, _path: str) -> Fault:
        kinds = faults if method == "PUT" else faults[:2]  # only a conditional request meets a conflict
        return draw.choice(kinds) if draw.random() < 1 / 8 else "none"

    proxy.fault = fault
    for step in range(1, 13):
        number = step * 10
        while True:
            try:
                if step % 4 == 0:
                    staged = [segment.staged for segment in store.log.segments(PLAIN)]
                    chunk = store.stage(PLAIN, step, 0, rows(("a", number, number, 1.0), ("a", number - 10, number - 10, 1.0)))
                    store.commit(PLAIN, step, [chunk, *staged])
                    store.log.remove(PLAIN)
                elif step % 6 == 0:
                    DeltaMaintenance(store).compact(PLAIN, step)
                    DeltaMaintenance(store).checkpoint(PLAIN)
                else:
                    store.log.append(PLAIN, rows(("a", number, number, 1.0), ("b", number + 1, number, 1.0)))
                break
            except OfflineStoreError:
                continue
        there |= {number} if step % 4 == 0 else set() if step % 6 == 0 else {number, number + 1}
    proxy.fault = lambda _method, _path: "none"
    assert keys(store) == sorted(there)
    assert not store.push_log.sequence(PLAIN).lost()
    fold(store, PLAIN, store.snapshot(PLAIN).last_run + 1)
    assert keys(store) == sorted(there)


@pytest.mark.parametrize("step", ["push", *(pytest.param(step, marks=pytest.mark.slow) for step in ("run", "read", "erase"))])
def test_a_network_that_is_cut_is_an_error_in_bounded_time_and_the_call_may_be_repeated(
    proxy: S3Proxy, store: DeltaStore, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is cut before each request in turn, until one call makes none more."""
    monkeypatch.setattr("featurestore.offline.object_folder._ATTEMPTS", 1)
    run(store, PLAIN, 1, rows(("a", 1, 1, 1.0), ("b", 2, 2, 1.0)))
    steps = {
        "push": lambda number: store.log.append(PLAIN, rows(("c", number, number, 1.0))),
        "run": lambda number: run(store, PLAIN, 2, rows(("c", 7, 7, 1.0))),
        "read": lambda number: store.snapshot(PLAIN),
        "erase": lambda number: DeltaEraser(store).erase(PLAIN, pl.DataFrame({"origin": ["a"]}), 0.0, dry_run=False),
    }
    failures: list[OfflineStoreError] = []
    for cut in range(3):
        left = iter(range(cut))
        proxy.fault = lambda _method, _path, left=left: "none" if next(left, None) is not None else "lost request"  # type: ignore[misc]  # a default binds it
        try:
            steps[step](100 + cut)
        except OfflineStoreError as error:
            failures.append(error)
        proxy.fault = lambda _method, _path: "none"
        steps[step](100 + cut)
    assert failures
    assert all("s3://" in str(error) for error in failures)
    assert not any(secret in f"{error}{error.__cause__!r}" for error in failures for secret in KEYS.values())
    expected = {"push": [1, 2, 100, 101, 102], "run": [1, 2, 7], "read": [1, 2], "erase": [2]}
    assert keys(store) == expected[step]


def test_a_store_that_ignores_conditions_is_refused_before_a_row_is_written(stub: S3Stub, tmp_path: Path) -> None:
    """The negative control: of two writers at once, one would lose its rows without an error."""
    stub.conditional = False
    store = DeltaStore(ObjectFolder("s3://lake/weather", stub.options, timeout=1), locks=FileLocks(tmp_path / "locks"))
    for write in (lambda: store.log.append(PLAIN, rows(("a", 1, 1, 1.0))), lambda: run(store, PLAIN, 1, rows(("a", 1, 1, 1.0)))):
        with pytest.raises(OfflineStoreError, match="ignores the header If-None-Match"):
            write()
    assert not [name for name in stub.objects if "_pushed" in name or "_delta_log" in name]
