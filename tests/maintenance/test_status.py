"""How views stand: fresh or late against their promise, failed or empty; and who is told of it, once."""

import json
import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore import Entity, FeatureStore, FeatureView, FrameSource
from featurestore.clock import to_micros
from featurestore.errors import ClosedError, ConfigError, NotFoundError, RejectedRowsError
from featurestore.maintenance.status import Alert, FreshnessMonitor, FreshnessTracker, StatusReport, is_late
from featurestore.registry.leases import Leases
from featurestore.registry.specs import SpecRegistry
from featurestore.scheduling.webhook import open_webhook
from featurestore.testing import FakeClock

NOON = datetime(2013, 7, 1, 12, tzinfo=UTC)
AIRPORT = Entity("airport", origin=str)


def weather(rows: list[tuple[datetime, float]], **options: Any) -> type[FeatureView]:
    frame = pl.DataFrame(
        {"origin": ["JFK"] * len(rows), "at": [at for at, _ in rows], "temp": [temp for _, temp in rows]},
        schema={"origin": pl.String, "at": pl.Datetime("us", "UTC"), "temp": pl.Float64},
    )

    class Weather(FeatureView, entity=AIRPORT, source=FrameSource("observations", frame, event_time="at"), **options):
        temp: float

    return Weather


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOON)


@pytest.fixture
def store(tmp_path: Path, clock: FakeClock) -> Iterator[FeatureStore]:
    with FeatureStore(tmp_path, clock=clock) as store:
        yield store


def test_a_view_is_late_to_the_microsecond(store: FeatureStore, clock: FakeClock) -> None:
    store.apply([weather([(NOON - timedelta(minutes=10), 79.0)], freshness="30m")])
    [empty] = store.status()
    assert (empty.state, empty.is_wrong, empty.lag) == ("late", True, None)
    assert "no event yet" in empty.problem
    store.materialize()
    [fresh] = store.status()
    assert (fresh.state, fresh.lag, fresh.freshness, fresh.problem) == ("ok", 600.0, "30m", "")
    clock.micros = to_micros(NOON + timedelta(minutes=20))
    assert store.status()[0].state == "ok"
    clock.advance(timedelta(microseconds=1))
    [late] = store.status()
    assert (late.state, late.problem) == ("late", "the latest event is 30m old, and the view promises 30m")
    assert list(store.status().wrong) == [late]


@given(st.integers(1, 10**15))
def test_a_promise_is_kept_to_its_last_microsecond(freshness: int) -> None:
    assert not is_late(freshness, freshness)
    assert is_late(freshness, freshness + 1)
    assert is_late(freshness, None)


def test_what_was_pushed_is_fresh(store: FeatureStore, clock: FakeClock) -> None:
    view = weather([(NOON - timedelta(hours=2), 79.0)], freshness="1h")
    store.apply([view])
    store.materialize()
    assert store.status()[0].state == "late"
    store.push("observations", [{"origin": "JFK", "at": NOON, "temp": 80.0}])
    assert store.status()[0].state == "ok"


def test_without_a_promise_nothing_is_late(store: FeatureStore, clock: FakeClock) -> None:
    store.apply([weather([(NOON - timedelta(days=900), 79.0)])])
    assert store.status()[0].state == "empty"
    store.materialize()
    assert store.status()[0].state == "ok"


def test_a_failed_run_is_told_with_its_rejected_rows(store: FeatureStore) -> None:
    class Weather(
        FeatureView,
        entity=AIRPORT,
        source=FrameSource("rows", pl.DataFrame({"origin": ["JFK", None], "at": [NOON] * 2, "temp": [1.0, 2.0]}), event_time="at"),
        on_reject="fail",
    ):
        temp: float

    store.apply([Weather])
    with pytest.raises(RejectedRowsError):
        store.materialize()
    [standing] = store.status()
    assert standing.state == "failed"
    assert "weather/1/1" in standing.problem
    [run] = store.runs.list(state="failed")
    assert store.runs.list(state="done") == []
    assert store.runs.get(run.id) == run
    rejected = store.runs.rejected_rows(run.id)
    assert rejected["temp"].to_list() == [2.0]
    assert rejected.columns[-1] == "_reason"


def test_the_next_run_is_told(store: FeatureStore, clock: FakeClock) -> None:
    store.apply([weather([(NOON, 79.0)], schedule="15m")])
    clock.micros = to_micros(NOON + timedelta(minutes=1))
    assert store.status()[0].next_run == NOON
    store.scheduler.create().once()
    assert store.status()[0].next_run == NOON + timedelta(minutes=15)


def test_that_readers_are_given_an_older_version_is_told(store: FeatureStore) -> None:
    store.apply([weather([(NOON, 79.0)])])
    store.materialize()
    store.apply([changed()])
    [standing] = store.status()
    assert (standing.data_version, standing.served) == (2, 1)
    assert "readers are given version 1" in repr(store.status())
    store.materialize()
    assert store.status()[0].served is None


def changed() -> type[FeatureView]:
    rows = pl.DataFrame({"origin": ["JFK"], "at": [NOON], "temp": [79.0]})

    class Weather(FeatureView, entity=AIRPORT, source=FrameSource("observations", rows, event_time="at")):
        temp: float

        @staticmethod
        def transform(rows: pl.LazyFrame) -> pl.LazyFrame:
            return rows.with_columns(pl.col("temp") * 2)

    return Weather


@pytest.mark.parametrize("run_id", ["weather", "weather/1/9", "weather/x/1", "other/1/1", "", "weather/1/1/1"])
def test_there_is_no_such_run(store: FeatureStore, run_id: str) -> None:
    store.apply([weather([(NOON, 79.0)])])
    store.materialize()
    with pytest.raises(NotFoundError, match="No run is named"):
        store.runs.get(run_id)


def test_each_change_is_told_once(store: FeatureStore, clock: FakeClock) -> None:
    store.apply([weather([(NOON, 79.0)], freshness="30m")])
    store.materialize()
    promises = FreshnessTracker()
    assert promises.news(store.status()) == []
    clock.micros = to_micros(NOON + timedelta(hours=1))
    [late] = promises.news(store.status())
    assert (late.view, late.state) == ("weather", "late")
    assert promises.news(store.status()) == []
    store.push("observations", [{"origin": "JFK", "at": clock(), "temp": 80.0}])
    [right] = promises.news(store.status())
    assert (right.view, right.state) == ("weather", "ok")
    assert promises.news(store.status()) == []


def test_of_two_that_look_one_tells(store: FeatureStore, clock: FakeClock) -> None:
    store.apply([weather([(NOON, 79.0)], freshness="30m")])
    store.materialize()
    leases, told = Leases(SpecRegistry(store.settings.registry, store.settings.project, store.settings.root, clock)), []
    one, other = (
        FreshnessMonitor(leases, name, 60, store.status, lambda notice, name=name: told.append((name, notice.state)))
        for name in ("one", "other")
    )
    for minutes in (0, 31, 1):
        clock.advance(timedelta(minutes=minutes))
        one.look()
        other.look()
    assert told == [("one", "late")]
    one.end()
    other.look()
    one.look()
    assert told == [("one", "late"), ("other", "late")]
    store.push("observations", [{"origin": "JFK", "at": clock(), "temp": 80.0}])
    clock.advance(timedelta(minutes=2))
    one.look()
    other.look()
    assert told[2:] == [("other", "ok")]


def test_one_that_stood_still_lets_another_tell(store: FeatureStore, clock: FakeClock) -> None:
    leases, told = Leases(SpecRegistry(store.settings.registry, store.settings.project, store.settings.root, clock)), []
    one, other = (
        FreshnessMonitor(leases, name, 60, lambda name=name: told.append(name) or StatusReport([]), pytest.fail)
        for name in ("one", "other")
    )
    one.look()
    clock.advance(timedelta(minutes=4))
    other.look()
    one.look()
    assert told == ["one", "other"]


class Hook(BaseHTTPRequestHandler):
    taken: list[dict[str, Any]]
    status = 204

    def do_POST(self) -> None:
        self.taken.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[tuple[str, type[Hook]]]:
    kind = type("OwnHook", (Hook,), {"taken": []})
    server = HTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook?secret=abc", kind
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_webhook_is_told(tmp_path: Path, clock: FakeClock, hook: tuple[str, type[Hook]]) -> None:
    url, kind = hook
    with FeatureStore(tmp_path, clock=clock, webhook=url, project="flights") as store:
        store.apply([weather([(NOON - timedelta(hours=1), 79.0)], freshness="30m")])
        store.materialize()
        store.scheduler.send_alerts(store.status())
        store.scheduler.send_alerts(store.status())
    [told] = kind.taken
    assert told == {
        "text": "[flights] weather is late: the latest event is 1h old, and the view promises 30m",
        "project": "flights", "view": "weather", "state": "late",
    }  # fmt: skip


def test_n27_a_check_tells_what_has_changed_and_another_one_nothing(
    tmp_path: Path, clock: FakeClock, hook: tuple[str, type[Hook]], caplog: pytest.LogCaptureFixture
) -> None:
    """Each check is a process of its own, as cron begins it."""
    url, kind = hook
    view = weather([(NOON - timedelta(hours=1), 79.0)], freshness="30m")

    def check() -> list[str]:
        kind.taken.clear()
        with FeatureStore(tmp_path, clock=clock, webhook=url, project="flights") as store:
            store.scheduler.send_alerts(store.status(), logged=False)
        return [each["state"] for each in kind.taken]

    with FeatureStore(tmp_path, clock=clock, project="flights") as store:
        store.apply([view])
        store.materialize()
    assert [check(), check(), check()] == [["late"], [], []]
    with FeatureStore(tmp_path, clock=clock, project="flights") as store:
        store.apply([view])
        store.push("observations", [{"origin": "JFK", "at": NOON, "temp": 80.0}])
    assert [check(), check()] == [["ok"], []]
    clock.micros = to_micros(NOON + timedelta(hours=2))
    assert [check(), check()] == [["late"], []]
    assert caplog.text == ""


def test_an_event_ahead_of_the_clock_keeps_no_promise(store: FeatureStore, clock: FakeClock) -> None:
    """A clock was wrong by a day when it came: whether the view is fresh cannot be told until then, and that is told."""
    view = weather([(NOON, 79.0)], freshness="30m")
    store.apply([view])
    store.materialize()
    assert store.status()[0].state == "ok"
    clock.micros = to_micros(NOON - timedelta(seconds=59))
    assert store.status()[0].state == "ok"
    clock.micros = to_micros(NOON - timedelta(days=1))
    [status] = store.status()
    assert (status.state, status.is_wrong) == ("late", True)
    assert "the latest event lies 1d ahead of the clock" in status.problem
    assert [each.state for each in store.admin.doctor() if each.check == "freshness: weather"] == ["error"]


def test_a_late_view_whose_runs_fail_stays_late_for_whoever_watches(store: FeatureStore, clock: FakeClock) -> None:
    from dataclasses import replace

    store.apply([weather([(NOON - timedelta(hours=1), 79.0)], freshness="30m")])
    store.materialize()
    [late] = store.status()
    told: list[Alert] = []
    reports = iter([late, replace(late, state="retrying", problem="retrying (1/5): no"), replace(late, state="failed"), late])
    leases = Leases(store.components.registry)
    watch = FreshnessMonitor(leases, "one", 60, lambda: StatusReport([next(reports)]), told.append)
    for _ in range(4):
        watch.look()
    assert [each.state for each in told] == ["late"]


def test_a_webhook_that_answers_nonsense_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    import socket
    from threading import Thread

    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"\x00\xff nonsense\r\n\r\n")

        thread = Thread(target=answer)
        thread.start()
        open_webhook(f"http://127.0.0.1:{server.getsockname()[1]}/", "flights")(Alert("weather", "ok", "weather is right"))
        thread.join()
    assert "did not take a notice" in caplog.text


def test_a_webhook_that_fails_is_logged_without_its_secret(hook: tuple[str, type[Hook]], caplog: pytest.LogCaptureFixture) -> None:
    url, kind = hook
    kind.status = 500
    with caplog.at_level(logging.INFO, "featurestore"):
        open_webhook(url, "flights")(Alert("weather", "late", "weather is late"))
        open_webhook("http://127.0.0.1:1/secret", "flights")(Alert("weather", "ok", "weather is right"))
    levels = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in levels] == ["ERROR", "WARNING", "INFO", "WARNING"]
    assert "secret" not in caplog.text


@pytest.mark.parametrize("url", ["ftp://example.org", "example.org/hook", "file:///etc/passwd", "http://"])
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="webhook="):
        open_webhook(url, "flights")


def test_what_a_look_works_out_is_kept_for_the_next_one(store: FeatureStore) -> None:
    assert store.scheduler.shown_tasks() is store.scheduler.shown_tasks()
    store.close()
    with pytest.raises(ClosedError):
        store.scheduler.upcoming()
