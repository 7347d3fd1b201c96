"""One entry, whatever it holds and whatever that raises, is set aside alone: the worker lives on, and so does the next one."""

import json
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore import Entity, FeatureStore, FeatureView, StreamSource
from featurestore.errors import StreamError
from featurestore.streams import worker as stream
from featurestore.streams.base import Entry
from featurestore.streams.decoder import EntryDecoder, reason_of
from tests.effort import examples
from tests.servers.nats import NATSServer
from tests.servers.valkey import wait_until
from tests.streams.test_nats import at_broker
from tests.streams.test_worker import AT, COLUMNS, Broker, broker, drain, latest, row, store_with, working

__all__ = ["broker"]

MONEY = pl.Decimal(10, 2)
WIDE = {"k": str, "x": float, "at": datetime, "money": MONEY, "n": int, "day": date, "many": list[float], "took": timedelta}
FEW = settings(max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def payload(**fields: str) -> bytes:
    """A row as JSON, some of its fields as they are given."""
    whole = {"k": '"a"', "x": "1.0", "at": f'"{AT.isoformat()}"', "money": '"1.5"', "n": "1", "day": "null", "many": "null"}
    return ("{" + ", ".join(f'"{name}": {value}' for name, value in ({**whole, "took": "null"} | fields).items()) + "}").encode()


POISON = {
    "nested": b"[" * 100_000 + b"]" * 100_000,
    "nested where nobody looks": payload(more="[" * 100_000 + "]" * 100_000),
    "nested objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a decimal that is too large": payload(money='"1.1e9995"'),
    "a decimal number that is too large": payload(money="1e9999"),
    "a decimal of an exponent beyond all": payload(money='"1e999999999"'),
    "a decimal beyond the column": payload(money='"123456789012"'),
    "no decimal": payload(money='"NaN"'),
    "a signalling one": payload(money='"sNaN"'),
    "an endless one": payload(money='"-Infinity"'),
    "a float beyond all": payload(x="1e400"),
    "an integer beyond all": payload(n="9" * 5_000),
    "a date beyond all": payload(day='"99999-01-01"'),
    "a time beyond all": payload(at='"99999-01-01T00:00:00Z"'),
    "micros beyond all": payload(at="9223372036854775807"),
    "half a character": payload(k='"\\ud800"'),
    "no UTF-8": b'{"k": "\xff\xfe"}',
    "a null byte": b"\x00",
    "nothing": b"",
}


@pytest.fixture
def wide(broker: Broker) -> tuple[type[FeatureView], StreamSource]:
    source = broker.source(columns=WIDE)

    class Wide(FeatureView, entity=Entity("thing", k=str), source=source):
        x: float | None
        money: Annotated[Decimal, MONEY] | None

    return Wide, source


@pytest.mark.parametrize("name", POISON)
def test_a_poison_entry_is_set_aside_alone(tmp_path: Path, broker: Broker, wide: Any, name: str) -> None:
    view, source = wide
    with store_with(tmp_path, view) as store:
        broker.add(payload(k='"before"'), POISON[name], payload(k='"behind"'))
        counts = drain(store)
        assert (counts.entries, counts.rows_new, counts.set_aside) == (3, 2, 1)
        [aside] = store.streams.dead_letters.list(source)
        assert aside.reason
        assert len(aside.reason) < 3_000
        assert store.online(view, [{"k": "before"}, {"k": "behind"}]).status["x"] == ["present", "present"]


def test_a_small_decimal_is_rounded_and_not_a_panic(tmp_path: Path, broker: Broker, wide: Any) -> None:
    view, _ = wide
    with store_with(tmp_path, view) as store:
        broker.add(*(payload(k=f'"{number}"', money=f'"{text}"') for number, text in enumerate(("1e-300", "1.005", "1.015", "-0"))))
        assert drain(store).rows_new == 4
        found = [each["money"] for each in store.online(view, [{"k": str(number)} for number in range(4)]).to_dicts()]
        assert found == [Decimal("0.00"), Decimal("1.00"), Decimal("1.02"), Decimal("0.00")]


class Odd(BaseException):
    """Like a panic of a library in Rust: no Exception."""


@pytest.mark.parametrize("kind", [RecursionError, MemoryError, RuntimeError, KeyError, AssertionError, Odd])
def test_whatever_a_row_raises_in_a_push_sets_it_aside(
    tmp_path: Path, broker: Broker, kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    from featurestore.materialization.push import Pusher

    whole = Pusher.push

    def push(self: Pusher, views: Any, rows: pl.DataFrame, **options: Any) -> Any:
        if "poison" in rows["k"].to_list():
            raise kind("that row")
        return whole(self, views, rows, **options)

    monkeypatch.setattr(Pusher, "push", push)
    monkeypatch.setattr(stream, "_FIRST_PAUSE", 0.01)  # where memory does not suffice it tries again
    monkeypatch.setattr(stream, "_LONGEST_PAUSE", 0.02)
    with store_with(tmp_path, latest(broker.source())) as store:
        broker.add(*(row("poison" if number in (4, 11) else f"{number}", number) for number in range(20)))
        counts = drain(store)
        assert (counts.entries, counts.set_aside, counts.rows_new) == (20, 2, 18)
        assert all(kind.__name__ in each.reason for each in store.streams.dead_letters.list("orders"))


def test_what_asks_the_process_to_end_ends_it() -> None:
    for each in (KeyboardInterrupt(), SystemExit(1)):
        with pytest.raises(type(each)):
            reason_of(each)


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
values = st.recursive(
    leaves, lambda each: st.lists(each, max_size=3) | st.dictionaries(st.sampled_from([*WIDE]), each, max_size=8), max_leaves=12
)
near = st.one_of(leaves, st.decimals().map(str), st.datetimes().map(str))
entries = st.one_of(
    st.binary(max_size=200),
    values.map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries({}, optional=dict.fromkeys(WIDE, near)).map(
        lambda fields: json.dumps({"k": "a", "at": AT.isoformat()} | fields).encode()
    ),
)


@settings(max_examples=examples(300), deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from([b"payload", b"k", b"x", b"at", b"\xff"]), entries, max_size=4), max_size=6))
def test_k04_any_bytes_make_a_row_or_a_reason(fields: list[dict[bytes, bytes]]) -> None:
    for options in ({}, {"payload": None}):
        source = StreamSource("s", "redis://localhost", topic="t", columns=WIDE, event_time="at", **options)
        given_entries = [Entry(f"{number}-0", 1, each) for number, each in enumerate(fields)]
        decoded = EntryDecoder(source).decode(given_entries)
        assert decoded.rows.height == len(decoded.entries)
        assert {entry.id for entry in decoded.entries} | {entry.id for entry, _ in decoded.faulty} == {
            each.id for each in given_entries
        }
        assert len(decoded.entries) + len(decoded.faulty) == len(given_entries)


@FEW
@given(st.lists(entries, min_size=1, max_size=5))
def test_k04_any_bytes_to_redis_are_set_aside_or_a_row(tmp_path: Path, broker: Broker, payloads: list[bytes]) -> None:
    source = StreamSource("orders", broker.url, topic=f"t{uuid4().hex[:8]}", columns=COLUMNS, event_time="at")
    with store_with(tmp_path, latest(source), stream={"pending_timeout": "0s"}) as store:
        for each in payloads:
            broker.raw.xadd(source.topic, {"payload": each})
        broker.raw.xadd(source.topic, {"payload": json.dumps(row("good", 1))})
        counted(store, len(payloads) + 1)


@settings(FEW, max_examples=examples(8))
@given(st.lists(entries, min_size=1, max_size=5))
def test_k04_any_bytes_to_nats_are_set_aside_or_a_row(tmp_path: Path, nats_server: NATSServer, payloads: list[bytes]) -> None:
    topic = f"t{uuid4().hex[:8]}"
    source = StreamSource("orders", nats_server.url, topic=topic, columns=COLUMNS, event_time="at")

    async def publish(js: Any) -> None:
        await js.add_stream(name=topic, subjects=[topic])
        for each in (*payloads, json.dumps(row("good", 1)).encode()):
            await js.publish(topic, each)

    at_broker(nats_server.url, publish)
    with store_with(tmp_path, latest(source), stream={"pending_timeout": "0s"}) as store:
        counted(store, len(payloads) + 1)


def counted(store: FeatureStore, number: int) -> None:
    counts = drain(store)
    assert (counts.entries, counts.waiting) == (number, 0)
    assert counts.rows_new + counts.rows_known + counts.rows_rejected + counts.set_aside == number
    assert store.online("latest", [{"k": "good"}]).to_dicts() == [{"k": "good", "x": 1.0}]
    assert len(store.streams.dead_letters.list("orders")) == counts.set_aside


def test_a_message_that_is_too_long_for_the_shelf_is_set_aside_too(tmp_path: Path, nats_server: NATSServer) -> None:
    topic = f"t{uuid4().hex[:8]}"
    source = StreamSource("orders", nats_server.url, topic=topic, columns=COLUMNS, event_time="at")
    largest = b"x" * (1 << 20)

    async def publish(js: Any) -> None:
        await js.add_stream(name=topic, subjects=[topic])
        for each in (largest, json.dumps(row("good", 1)).encode()):
            await js.publish(topic, each)

    at_broker(nats_server.url, publish)
    with store_with(tmp_path, latest(source)) as store:
        counted(store, 2)
        [aside] = store.streams.dead_letters.list("orders")
        assert "too long to be kept" in aside.reason
        assert aside.fields == {"payload": largest.decode()}
        assert store.streams.dead_letters.requeue("orders") == 1
        assert drain(store).set_aside == 1


def test_f28_a_key_of_another_type_ends_with_a_clear_error(tmp_path: Path, broker: Broker) -> None:
    """To wait would be in vain: no server that comes back makes a stream of it."""
    broker.raw.set(broker.topic, "x")
    with store_with(tmp_path, latest(broker.source())) as store:
        with pytest.raises(StreamError, match="Another kind of value has that key: name the stream's key as topic="):
            drain(store)
        [status] = store.streams.status()
        assert "Another kind of value has that key" in status.error
        assert [each.state for each in store.admin.doctor() if each.check == "stream: orders"] == ["error"]


def test_f28_a_refusal_ends_once_and_does_not_end_a_service(tmp_path: Path, broker: Broker, nats_server: NATSServer) -> None:
    nowhere = StreamSource("orders", nats_server.url, topic="nowhere", columns=COLUMNS, event_time="at")
    with store_with(tmp_path, latest(nowhere)) as store, pytest.raises(StreamError, match="nats stream add --subjects nowhere"):
        drain(store)
    broker.raw.set(broker.topic, "x")
    with store_with(tmp_path, latest(broker.source())) as store, working(store) as counts:
        wait_until(lambda: "Another kind of value" in counts().error, "it does not say why it waits")
        broker.raw.delete(broker.topic)
        broker.add(row("a", 1))
        wait_until(lambda: counts().entries == 1, "it does not go on")
