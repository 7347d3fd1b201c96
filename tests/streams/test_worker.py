"""Streams through the public API: what becomes of entries, good and bad, late and out of order, and of servers that go away."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl
import pytest
import redis

from featurestore import Entity, FeatureStore, FeatureView, ParquetSource, StreamSource, count, sum_
from featurestore.clock import from_micros
from featurestore.errors import ConfigError, NotFoundError, RequestError
from featurestore.streams import worker as stream
from featurestore.streams.counts import StreamCounts
from tests.servers.nats import NATSServer
from tests.servers.valkey import ValkeyServer, free_port, wait_until
from tests.streams.test_nats import at_broker

ENTITY = Entity("thing", k=str)
COLUMNS = {"k": str, "x": float, "at": datetime}
AT = datetime(2013, 7, 1, 12, tzinfo=UTC)
IDLE = 0.3


class Broker:
    """A Valkey server and a topic in it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.topic = f"orders-{uuid4().hex[:8]}"
        self.raw = redis.Redis.from_url(url)

    def add(self, *rows: Any) -> None:
        for row in rows:
            payload = row if isinstance(row, (bytes, str)) else json.dumps(row)
            self.raw.xadd(self.topic, {"payload": payload})

    def source(self, **options: Any) -> StreamSource:
        return StreamSource("orders", self.url, topic=self.topic, **{"columns": COLUMNS, "event_time": "at", **options})


@pytest.fixture
def broker(valkey_url: str) -> Iterator[Broker]:
    made = Broker(valkey_url)
    yield made
    made.raw.close()


def row(k: str, second: int, x: float | None = 1.0, **others: Any) -> dict[str, Any]:
    return {"k": k, "x": x, "at": (AT + timedelta(seconds=second)).isoformat(), **others}


def latest(source: Any, **options: Any) -> type[FeatureView]:
    class Latest(FeatureView, entity=ENTITY, source=source, **options):
        x: float | None

    return Latest


def windows(source: Any) -> type[FeatureView]:
    class Windows(FeatureView, entity=ENTITY, source=source):
        total: float = sum_("x").over("1h")
        events: int = count().over("1h")

    return Windows


@contextmanager
def store_with(folder: Path, *views: Any, **settings: Any) -> Iterator[FeatureStore]:
    with FeatureStore(folder, project=f"p{uuid4().hex[:8]}", **settings) as store:
        store.apply(list(views))
        yield store


def drain(store: FeatureStore, *, idle_seconds: float = IDLE, **options: Any) -> StreamCounts:
    [counts] = store.streams.run(once=True, idle_seconds=idle_seconds, **options)
    return counts


def total(store: FeatureStore, k: str, second: int = 60) -> tuple[float, int]:
    [found] = store.online("windows", [{"k": k}], at=AT + timedelta(seconds=second)).to_dicts()
    return found["total"], found["events"]


def test_what_arrives_is_in_both_stores(tmp_path: Path, broker: Broker) -> None:
    source = broker.source()
    with store_with(tmp_path, latest(source), windows(source)) as store:
        broker.add(row("a", 1, 2.0), row("a", 2, 3.0), row("b", 1, None))
        assert [(each.waiting, each.pending, each.error) for each in store.streams.status()] == [(3, 0, "")]
        counts = drain(store)
        assert (counts.entries, counts.rows_new, counts.rows_known, counts.set_aside) == (3, 6, 0, 0)
        assert store.online("latest", [{"k": "a"}, {"k": "b"}]).to_dicts() == [{"k": "a", "x": 3.0}, {"k": "b", "x": None}]
        assert total(store, "a") == (5.0, 2)
        spine = pl.DataFrame({"k": ["a", "a"], "t": [AT + timedelta(seconds=1), AT + timedelta(seconds=60)]})
        assert store.training_frame(spine, ["windows"], time="t")["total"].to_list() == [2.0, 5.0]
        [status] = store.streams.status()
        assert (status.waiting, status.pending, status.seconds, status.set_aside) == (0, 0, 0.0, 0)
        assert store.materialize().to_dicts()[0]["rows_read"] == 0


def test_equal_events_count_each_and_a_redelivered_one_once(tmp_path: Path, broker: Broker) -> None:
    source = broker.source(group="g")
    with store_with(tmp_path, windows(source)) as store:
        broker.add(row("a", 1), row("a", 1))
        drain(store)
        assert total(store, "a") == (2.0, 2)
        broker.raw.xgroup_setid(broker.topic, "g", "0")
        counts = drain(store)
        assert (counts.rows_new, counts.rows_known) == (0, 2)
        assert total(store, "a") == (2.0, 2)


def test_s18_late_and_out_of_order_events(tmp_path: Path, broker: Broker) -> None:
    """Parity as events come in any order: S16 at instants between their arrivals."""
    source = broker.source(available_time="entry_time")
    with store_with(tmp_path, latest(source), windows(source)) as store:
        instants = []
        for second in (30, 10, 50, 20, 10):
            broker.add(row("a", second, float(second)))
            drain(store)
            instants.append(store.components.clock())
        spine = pl.DataFrame({"k": ["a"] * len(instants), "t": instants})
        trained = store.training_frame(spine, ["latest"], time="t")
        assert trained["x"].to_list() == [30.0, 30.0, 50.0, 50.0, 50.0]
        history = store.sql("select x, available_time > event_time as late from latest order by available_time").rows()
        assert history == [(30.0, True), (10.0, True), (50.0, True), (20.0, True), (10.0, True)]


def test_entries_that_make_no_row_are_set_aside_with_the_reason(tmp_path: Path, broker: Broker) -> None:
    source = broker.source()
    bad = {
        b"no json": "malformed",
        b'{"k": "a", "x": 1.0}': "at",
        json.dumps({**row("a", 1), "x": "much"}).encode(): "Expected `float | null`",
        json.dumps({**row("a", 1), "at": "yesterday"}).encode(): "'yesterday' is not a valid time",
        b"[1]": "Expected `object`",
    }
    with store_with(tmp_path, latest(source), windows(source)) as store:
        for number, each in enumerate(bad):
            broker.add(row("a", number), each, row("b", number))
        broker.raw.xadd(broker.topic, {"other": "1"})
        counts = drain(store)
        assert (counts.entries, counts.set_aside, counts.rows_new) == (16, 6, 20)
        aside = store.streams.dead_letters.list(source)
        assert [each.fields.get("payload") for each in aside] == [*(each.decode() for each in bad), None]
        for each, expected in zip(aside, bad.values(), strict=False):
            assert expected in each.reason
        assert "no field b'payload', only b'other'" in aside[-1].reason
        assert total(store, "a") == (5.0, 5)
        assert store.streams.status()[0].set_aside == 6
        assert store.streams.dead_letters.requeue("orders", [aside[0].id]) == 1
        assert drain(store).set_aside == 1
        assert store.streams.dead_letters.requeue("orders") == 6
        assert store.streams.status()[0].waiting == 6


def test_rows_that_a_view_refuses_are_set_aside_alone(tmp_path: Path, broker: Broker) -> None:
    source = broker.source()

    class Strict(FeatureView, entity=ENTITY, source=source, on_reject="fail"):
        x: float

    with store_with(tmp_path, Strict, windows(source)) as store:
        broker.add(*(row("a", number, None if number in (3, 17, 18) else 1.0) for number in range(40)))
        counts = drain(store)
        assert (counts.entries, counts.set_aside) == (40, 3)
        assert total(store, "a") == (37.0, 37)
        assert all("x is null" in each.reason for each in store.streams.dead_letters.list("orders"))


def test_a_transform_that_fails_of_one_row(tmp_path: Path, broker: Broker) -> None:
    source = broker.source()

    class Parsed(FeatureView, entity=ENTITY, source=source):
        x: float | None
        n: int

        @staticmethod
        def transform(orders: pl.LazyFrame) -> pl.LazyFrame:
            return orders.with_columns(n=pl.col("k").cast(pl.Int64))

    with store_with(tmp_path, Parsed) as store:
        broker.add(*(row("12" if number != 5 else "x", number) for number in range(9)))
        counts = drain(store)
        assert (counts.entries, counts.set_aside) == (9, 1)
        assert store.sql("select count(*) from parsed").item() == 8


def test_rows_that_are_only_rejected_are_kept_by_the_view(tmp_path: Path, broker: Broker) -> None:
    source = broker.source()
    with store_with(tmp_path, latest(source)) as store:
        broker.add(row("a", 1), {**row("a", 1), "at": None})
        counts = drain(store)
        assert (counts.entries, counts.set_aside, counts.rows_rejected) == (2, 0, 1)
        assert store.runs.rejected_rows("latest")["_reason"].to_list() == ["at is null"]


def test_fields_as_columns(tmp_path: Path, broker: Broker) -> None:
    source = broker.source(payload=None, columns={"key": str, "x": float, "at": datetime}, rename={"key": "k"})
    with store_with(tmp_path, latest(source)) as store:
        for fields in ({"key": "a", "x": "1.5"}, {"key": "b", "x": ""}, {"key": "c", "x": "z"}, {"key": "d"}):
            broker.raw.xadd(broker.topic, {**fields, "at": "1372680000000000", "more": "1"})
        counts = drain(store)
        assert (counts.entries, counts.set_aside) == (4, 2)
        assert store.online("latest", [{"k": "a"}, {"k": "b"}]).to_dicts() == [{"k": "a", "x": 1.5}, {"k": "b", "x": None}]


def test_batch_and_stream_are_one_source(tmp_path: Path, broker: Broker) -> None:
    """What comes by both ways counts once."""
    times = {"event_time": "at", "event_id": "id"}
    source = broker.source(batch=ParquetSource("archive", "data/*.parquet", **times), columns={**COLUMNS, "id": int}, **times)
    (tmp_path / "data").mkdir()
    rows = [{"k": "a", "x": float(number), "at": AT + timedelta(seconds=number), "id": number} for number in range(6)]
    pl.DataFrame(rows[:4]).write_parquet(tmp_path / "data" / "0.parquet")
    with store_with(tmp_path, windows(source)) as store:
        broker.add(*(row("a", number, float(number), id=number) for number in (2, 3, 4, 5)))
        drain(store)
        assert total(store, "a") == (14.0, 4)
        store.materialize()
        assert total(store, "a") == (15.0, 6)
        assert store.sql("select count(*) from windows").item() == 6


def test_several_workers_share_a_stream(tmp_path: Path, broker: Broker) -> None:
    source = broker.source()
    with store_with(tmp_path, windows(source)) as store:
        broker.add(*(row("a", number % 50) for number in range(120)))
        other = FeatureStore(tmp_path, project=store.settings.project)
        found: list[StreamCounts] = []
        with other:
            other.apply([windows(source)])
            # Neither is slow enough for the other to take over what it works on: each entry is given once.
            options = {"batch": 7, "idle_seconds": 60.0}
            workers = [threading.Thread(target=lambda one=one: found.append(drain(one, **options))) for one in (store, other)]
            for each in workers:
                each.start()
            for each in workers:
                each.join()
        assert sum(each.entries for each in found) == 120
        assert total(store, "a") == (120.0, 120)


@contextmanager
def working(store: FeatureStore, **options: Any) -> Iterator[Callable[[], StreamCounts]]:
    """A worker in a thread, told to stop at the end."""
    stop = threading.Event()
    thread = threading.Thread(target=lambda: store.streams.run(stop=stop, idle_seconds=IDLE, **options))
    thread.start()
    try:
        wait_until(lambda: bool(store.streams.counts), "the worker does not begin")
        yield lambda: next(iter(store.streams.counts.values()))
    finally:
        stop.set()
        thread.join()


def test_an_online_store_that_goes_away_and_comes_back(tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_LONGEST_PAUSE", 0.1)
    source = broker.source()
    with ValkeyServer("--appendonly", "yes") as online, store_with(tmp_path, windows(source), online=online.url) as store:
        with working(store) as counts:
            broker.add(row("a", 1))
            wait_until(lambda: counts().entries == 1, "it is not pushed")
            online.stop()
            broker.add(row("a", 2), row("a", 3))
            wait_until(lambda: "Is it running" in counts().error, "it does not notice")
            assert counts().entries == 1
            online.start()
            wait_until(lambda: counts().entries == 3 and not counts().error, "it does not go on")
        assert total(store, "a") == (3.0, 3)


def test_a_broker_that_goes_away_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_LONGEST_PAUSE", 0.1)
    with ValkeyServer("--appendonly", "yes", "--appendfsync", "always") as server:
        broker = Broker(server.url)
        with store_with(tmp_path, windows(broker.source())) as store, working(store) as counts:
            broker.add(row("a", 1))
            wait_until(lambda: counts().entries == 1, "it is not pushed")
            server.stop(kill=True)
            wait_until(lambda: "Is the server running" in counts().error, "it does not notice")
            assert "Is the server running" in store.streams.status()[0].error
            server.start()
            broker.add(row("a", 2))
            wait_until(lambda: counts().entries >= 2 and not counts().error, "it does not go on")
            assert total(store, "a") == (2.0, 2)
        broker.raw.close()


def test_what_is_applied_meanwhile_is_taken_up(tmp_path: Path, broker: Broker) -> None:
    with store_with(tmp_path, latest(broker.source()), catalog_refresh="50ms") as store, working(store) as counts:
        broker.add(row("a", 1))
        wait_until(lambda: counts().entries == 1, "it is not pushed")
        changed = broker.source(columns={**COLUMNS, "y": int})

        class More(FeatureView, entity=ENTITY, source=changed):
            y: int

        store.apply([latest(changed), More])
        broker.add(row("a", 2, 5.0, y=7))
        wait_until(lambda: counts().entries == 2, "it is not pushed")
        assert counts().set_aside == 0
        assert store.online([More, "latest"], [{"k": "a"}]).to_dicts() == [{"k": "a", "y": 7, "x": 5.0}]


def test_nats(tmp_path: Path, nats_server: NATSServer) -> None:
    topic = f"orders{uuid4().hex[:6]}"
    source = StreamSource("orders", nats_server.url, topic=topic, columns=COLUMNS, event_time="at")

    async def publish(js: Any) -> None:
        await js.add_stream(name=topic, subjects=[topic])
        for each in (row("a", 1), row("a", 2), "bad"):
            await js.publish(topic, json.dumps(each).encode())

    at_broker(nats_server.url, publish)
    with store_with(tmp_path, windows(source)) as store:
        counts = drain(store)
        assert (counts.entries, counts.set_aside) == (3, 1)
        assert total(store, "a") == (2.0, 2)


def test_what_cannot_be_worked_on(tmp_path: Path, broker: Broker) -> None:
    file = ParquetSource("files", "data/*.parquet", event_time="at")
    gone = StreamSource("gone", f"redis://127.0.0.1:{free_port()}", topic="t", columns=COLUMNS, event_time="at")
    unset = StreamSource("unset", "redis://:${NO_SUCH_VARIABLE}@127.0.0.1", topic="t", columns=COLUMNS, event_time="at")
    with store_with(
        tmp_path, latest(broker.source()), latest(unset, name="u"), latest(file, name="f"), latest(gone, name="g")
    ) as store:
        with pytest.raises(NotFoundError, match="Did you mean 'orders'"):
            store.streams.run(["order"], once=True)
        with pytest.raises(RequestError, match="'files' is not a stream"):
            store.streams.run([file], once=True)
        with pytest.raises(ConfigError, match="NO_SUCH_VARIABLE, which is not set"):
            store.streams.run(once=True)
        found = {each.source: each.error for each in store.streams.status()}
        assert "Is the server running" in found["gone"]
        assert "NO_SUCH_VARIABLE" in found["unset"]
        assert found["orders"] == ""


def test_metrics(tmp_path: Path, broker: Broker) -> None:
    from prometheus_client import CollectorRegistry, generate_latest

    from featurestore.server.telemetry.stream_metrics import StreamCollector

    with store_with(tmp_path, windows(broker.source())) as store:
        broker.add(row("a", 1), "bad")
        drain(store)
        broker.add(row("a", 2))
        registry = CollectorRegistry()
        registry.register(StreamCollector(store.streams.status, store.streams.counts))
        lines = generate_latest(registry).decode().splitlines()
    for expected in (
        'featurestore_stream_lag_entries{source="orders"} 1.0', 'featurestore_stream_set_aside_entries{source="orders"} 1.0',
        'featurestore_stream_entries_total{source="orders"} 2.0', 'featurestore_stream_up{source="orders"} 1.0',
        'featurestore_stream_rows_total{outcome="new",source="orders"} 1.0',
    ):  # fmt: skip
        assert expected in lines


def test_times_in_the_entry(tmp_path: Path, broker: Broker) -> None:
    source = broker.source(available_time="entry_time")
    with store_with(tmp_path, latest(source)) as store:
        broker.add(row("a", 1))
        [(name, _)] = broker.raw.xrange(broker.topic)
        drain(store)
        arrived = from_micros(int(name.split(b"-")[0]) * 1000 + 999)
        assert store.sql("select available_time from latest")["available_time"].to_list() == [arrived]
