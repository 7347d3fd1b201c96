"""S18: what is not known yet waits, whichever clock is ahead: the broker's, the worker's or the producer's; nothing is lost."""

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from featurestore import FeatureStore, StreamSource
from featurestore.clock import from_micros, to_micros, utc_now
from featurestore.streams.base import Entry
from featurestore.streams.pending_entries import BrokerClock, PendingEntries, PendingLimits
from tests.servers.nats import NATSServer
from tests.servers.valkey import wait_until
from tests.streams.test_nats import at_broker
from tests.streams.test_worker import AT, COLUMNS, Broker, broker, drain, latest, row, store_with, windows, working

__all__ = ["broker"]

SECOND = 1_000_000
DAY = timedelta(days=1)


def behind(seconds: float) -> Any:
    """A clock of a machine that is so far behind the broker's; ahead where it is negative."""
    return lambda: utc_now() - timedelta(seconds=seconds)


def history(store: FeatureStore, view: str = "latest") -> int:
    return {each.view: each.rows for each in store.status()}[view]


@pytest.mark.parametrize("seconds", [0.5, 3, 30, 290, -3, -30, -86_400])
def test_s18_a_broker_whose_clock_differs_by_seconds_loses_nothing(tmp_path: Path, broker: Broker, seconds: float) -> None:
    """Rows are stamped by the broker, so its clock says what is known: all are in both stores at once."""
    source = broker.source(available_time="entry_time")
    with store_with(tmp_path, latest(source), windows(source), clock=behind(seconds)) as store:
        broker.add(*(row("a", number, float(number)) for number in range(10)))
        counts = drain(store)
        assert (counts.entries, counts.rows_new, counts.rows_rejected, counts.set_aside, counts.waiting) == (10, 20, 0, 0, 0)
        [status] = store.streams.status()
        assert (status.waiting, status.pending) == (0, 0)
        assert status.ahead == pytest.approx(seconds, abs=1)
        assert store.runs.rejected_rows("latest").is_empty()
        assert history(store) == 10
        with FeatureStore(tmp_path, project=store.settings.project) as right:
            right.apply([latest(source), windows(source)])
            assert right.online("latest", [{"k": "a"}]).to_dicts() == [{"k": "a", "x": 9.0}]


def test_s18_a_broker_that_is_a_day_ahead_is_reported_and_what_it_stamped_can_be_put_back(
    tmp_path: Path, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    source = broker.source(available_time="entry_time")
    settings = {"stream": {"pending_timeout": "300ms"}}
    with store_with(tmp_path, latest(source), clock=behind(86_400), **settings) as store:
        broker.add(*(row("a", number, float(number)) for number in range(5)))
        with working(store) as counts:
            wait_until(lambda: counts().waiting == 5 or counts().set_aside > 0, "they do not wait")
            wait_until(lambda: counts().set_aside == 5, "they are not set aside")
            assert (counts().rows_rejected, counts().rows_new, counts().waiting) == (0, 0, 0)
        assert caplog.text.count("The clock of the broker of the stream 'orders' is 1d ahead of this machine's") == 1
        assert store.runs.rejected_rows("latest").is_empty()
        aside = store.streams.dead_letters.list("orders")
        assert len(aside) == 5
        assert all("not known yet: it lies 23h59m ahead" in each.reason or "lies 1d ahead" in each.reason for each in aside), aside
        clocks = [each for each in store.admin.doctor() if each.check == "clock: stream orders"]
        assert [each.state for each in clocks] == ["error"]
        project = store.settings.project
    # The clocks are right again: whoever put the entries back loses none.
    with FeatureStore(tmp_path, project=project, **settings) as right:
        right.apply([latest(source)])
        assert right.streams.dead_letters.requeue("orders") == 5
        assert drain(right).rows_new == 5
        assert right.online("latest", [{"k": "a"}]).to_dicts() == [{"k": "a", "x": 4.0}]


def test_s18_rows_of_a_producer_that_is_ahead_wait_and_the_good_ones_behind_them_go_on(tmp_path: Path, broker: Broker) -> None:
    source = broker.source()
    with store_with(tmp_path, latest(source)) as store:
        soon = {**row("a", 0, 7.0), "at": (utc_now() + timedelta(seconds=2.5)).isoformat()}
        broker.add(soon, row("b", 1), soon | {"k": "c"}, row("d", 1))
        counts = drain(store)
        assert (counts.entries, counts.rows_new, counts.rows_rejected, counts.set_aside, counts.waiting) == (2, 2, 0, 0, 2)
        assert store.streams.status()[0].pending == 2
        with working(store) as working_counts:
            wait_until(lambda: history(store) == 4, "what waited is not pushed")
            assert working_counts().set_aside == 0
        assert store.streams.status()[0].pending == 0
        assert store.runs.rejected_rows("latest").is_empty()


def test_s18_times_that_a_transform_makes_wait_too(tmp_path: Path, broker: Broker) -> None:
    from featurestore import Entity, FeatureView

    source = broker.source()
    ahead = DAY

    class Later(FeatureView, entity=Entity("thing", k=str), source=source):
        x: float | None

        @staticmethod
        def transform(orders: pl.LazyFrame) -> pl.LazyFrame:
            return orders.with_columns(at=pl.when(pl.col("k") == "late").then(pl.lit(utc_now() + ahead)).otherwise(pl.col("at")))

    with store_with(tmp_path, Later) as store:
        broker.add(row("a", 1), row("late", 1), row("b", 1))
        counts = drain(store)
        assert (counts.rows_rejected, counts.set_aside, counts.waiting, counts.entries) == (0, 0, 1, 2)
        assert history(store, "later") == 2


def test_s18_nats_waits_as_redis_does(tmp_path: Path, nats_server: NATSServer) -> None:
    topic = "waiting"
    source = StreamSource("orders", nats_server.url, topic=topic, columns=COLUMNS, event_time="at", available_time="entry_time")

    async def publish(js: Any) -> None:
        await js.add_stream(name=topic, subjects=[topic])
        for each in (row("a", 1), {**row("b", 1), "at": (utc_now() + DAY).isoformat()}, row("c", 3)):
            await js.publish(topic, json.dumps(each).encode())

    at_broker(nats_server.url, publish)
    with store_with(tmp_path, latest(source), clock=behind(30), stream={"pending_timeout": "1m40s"}) as store:
        counts = drain(store)
        assert (counts.rows_new, counts.rows_rejected, counts.set_aside, counts.waiting) == (2, 0, 0, 1)
        assert store.streams.status()[0].ahead == pytest.approx(30, abs=1)
    with store_with(tmp_path, latest(source), stream={"pending_timeout": "200ms"}) as store, working(store) as working_counts:
        wait_until(lambda: working_counts().set_aside == 1, "it is not set aside")
        assert working_counts().rows_rejected == 0


class Hands:
    """A clock and a timer that stand where they are put."""

    def __init__(self) -> None:
        self.now, self.seconds = AT, 0.0

    def patience(self, seconds: float = 300.0) -> PendingLimits:
        return PendingLimits(lambda: self.now, seconds, lambda: self.seconds)


@pytest.mark.parametrize(
    ("ahead", "believed"), [(0, True), (299, True), (300, True), (301, False), (86_400, False), (-300, True), (-86_400, False)]
)
def test_a_broker_is_believed_as_long_as_an_entry_may_wait(ahead: int, believed: bool, caplog: pytest.LogCaptureFixture) -> None:
    hands = Hands()
    clock = BrokerClock("orders", hands.patience())
    assert clock.is_stale
    theirs = to_micros(AT) + ahead * SECOND
    clock.look(theirs)
    clock.look(theirs)
    assert not clock.is_stale
    assert clock.until() == (theirs if believed else to_micros(AT))
    assert caplog.text.count("Set both by a time server") == (abs(ahead) > 60)
    clock.look(to_micros(AT))
    assert ("agree again" in caplog.text) == (abs(ahead) > 60)
    hands.seconds += 11
    assert clock.is_stale


def test_how_long_an_entry_waits() -> None:
    hands, now = Hands(), to_micros(AT)
    held = PendingEntries(hands.patience())
    near, far, old = (Entry(name, now - age * SECOND, {}) for name, age in (("1-1", 0), ("2-1", 0), ("3-1", 3_600)))
    held.hold(near, now + 10 * SECOND)
    held.hold(far, now + 86_400 * SECOND)
    held.hold(old, now + 86_400 * SECOND)
    assert near in held
    assert held.due(now, 10) == []
    assert [(entry.id, "lies 1d ahead" in reason) for entry, reason in held.worn(now, now)] == [("3-1", True)]
    assert held.due(now + 10 * SECOND, 10) == [near]
    held.hold(near, now + 20 * SECOND)
    hands.seconds = 299.0
    assert held.worn(now, now) == []
    hands.seconds = 300.0
    assert [entry.id for entry, _ in held.worn(now, now)] == ["2-1", "1-1"]
    assert len(held) == 0


def test_entries_at_the_ends_of_time(tmp_path: Path, broker: Broker) -> None:
    """An id may say what is no time: the entry is set aside, and can be looked at."""
    source = broker.source(available_time="entry_time")
    with store_with(tmp_path, latest(source), stream={"pending_timeout": "0s"}) as store:
        broker.add(row("a", 1))
        broker.raw.xadd(broker.topic, {"payload": json.dumps(row("b", 1))}, id="18446744073709551614-1")
        counts = drain(store)
        assert (counts.rows_new, counts.rows_rejected, counts.set_aside) == (1, 0, 1)
        [aside] = store.streams.dead_letters.list("orders")
        assert aside.time == from_micros(253_402_300_799_999_999)
        assert isinstance(aside.time, datetime)
