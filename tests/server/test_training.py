"""Training frames over HTTP: equal to local ones, in memory and in files, and bounded."""

import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from featurestore import FeatureStore
from featurestore.server.app import create_app
from tests.effort import spread
from tests.server.conftest import KEY, START, served
from tests.server.test_online import raw
from tests.servers.valkey import wait_until

ARROW = "application/vnd.apache.arrow.stream"
PARQUET = "application/vnd.apache.parquet"


def spine(rows: int = 1000) -> pl.DataFrame:
    """Rows before, at and after what was observed, with columns of the caller's own."""
    number = pl.int_range(rows)
    return pl.select(
        row=number,
        origin=pl.Series(["JFK", "LGA", "XXX", None]).gather(pl.int_range(rows) % 4),
        event_time=pl.lit(START) + pl.duration(minutes=number - 30),
        distance=number.cast(pl.Float64),
        labels=pl.concat_list(number, number),
    )


def encoded(frame: pl.DataFrame, kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == ARROW:
        frame.write_ipc_stream(buffer)
    else:
        frame.write_parquet(buffer)
    return buffer.getvalue()


def fetch(url: str, body: bytes, kind: str, **query: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/training", content=body, params=query, headers={"content-type": kind}, timeout=60)


@pytest.mark.parametrize("kind", [ARROW, PARQUET])
@pytest.mark.parametrize("memory", [64.0, 0.001])
def test_a_frame_equals_the_local_one(lab: FeatureStore, kind: str, memory: float) -> None:
    settings = lab.settings.replace(server={"spine_memory_mib": memory})
    with served(create_app(lab, settings)) as url:
        answer = fetch(url, encoded(spine(), kind), kind, features="delay_model")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == ARROW
    found = pl.read_ipc_stream(answer.content)
    assert_frame_equal(found, lab.training_frame(spine(), "delay_model"))
    assert found["temp"].null_count() < found.height


@pytest.mark.parametrize(("kind", "memory", "rows"), spread([ARROW, PARQUET], [64.0, 0.001], [0, 1000, 70_000]))
def test_the_features_alone_are_those_of_the_frame(lab: FeatureStore, kind: str, memory: float, rows: int) -> None:
    settings = lab.settings.replace(server={"spine_memory_mib": memory})
    with served(create_app(lab, settings)) as url:
        answer = fetch(url, encoded(spine(rows), kind), kind, features="delay_model", spine="false")
    assert answer.status_code == 200, answer.text
    every = lab.training_frame(spine(rows), "delay_model")
    assert_frame_equal(pl.read_ipc_stream(answer.content), every.select(pl.exclude(spine().columns)))


def test_every_type_and_corrected_history(lab: FeatureStore, url: str) -> None:
    rows = pl.DataFrame({**{name: [value] * 2 for name, value in KEY.items()}, "t": [START, START - timedelta(1)]})
    rows = rows.with_columns(pl.col("at", "t").cast(pl.Datetime("us", "UTC")), number=pl.Series([7, 7]))
    answer = fetch(url, encoded(rows, ARROW), ARROW, features="every_model", time="t", as_known="false")
    assert answer.status_code == 200, answer.text
    assert_frame_equal(pl.read_ipc_stream(answer.content), lab.training_frame(rows, "every_model", time="t", as_known=False))


@pytest.fixture(scope="module", params=[64.0, 0.000001], ids=["in memory", "in files"])
def spine_url(request: pytest.FixtureRequest, lab: FeatureStore) -> Iterator[str]:
    """A server that works on spines in memory, or in files."""
    with served(create_app(lab, lab.settings.replace(server={"spine_memory_mib": request.param}))) as url:
        yield url


@pytest.mark.parametrize(
    ("body", "kind", "query", "status", "name"),
    [
        (b"", ARROW, {"features": "weather"}, 422, "request"),
        (b"nonsense", ARROW, {"features": "weather"}, 422, "request"),
        (b"nonsense", PARQUET, {"features": "weather"}, 422, "request"),
        (encoded(spine(3), ARROW)[:700], ARROW, {"features": "weather"}, 422, "request"),
        (encoded(spine(3), ARROW), "application/json", {"features": "weather"}, 415, "media-type"),
        (encoded(spine(3), ARROW), ARROW, {}, 422, "request"),
        (encoded(spine(3), ARROW), ARROW, {"features": "wether"}, 404, "not-found"),
        (encoded(spine(3), ARROW), ARROW, {"features": "weather", "time": "when"}, 422, "request"),
        (encoded(spine(3), ARROW), ARROW, {"features": "weather", "as_known": "maybe"}, 422, "request"),
        (encoded(spine(3), ARROW), ARROW, {"features": "weather", "spine": "no"}, 422, "request"),
        (encoded(spine(3), ARROW), ARROW, {"features": "weather", "tme": "t"}, 400, "malformed"),
        (encoded(spine(3).drop("origin"), ARROW), ARROW, {"features": "weather"}, 422, "request"),
        (encoded(spine(3).with_columns(temp=1), ARROW), ARROW, {"features": "weather"}, 422, "name-clash"),
        (encoded(spine(3).with_columns(distance=-1.0), ARROW), ARROW, {"features": "risk"}, 422, "request"),
    ],
    ids=range(14),
)
def test_a_wrong_spine_is_told_what_is_wrong(
    spine_url: str, body: bytes, kind: str, query: dict[str, str], status: int, name: str
) -> None:
    answer = fetch(spine_url, body, kind, **query)
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:featurestore:problem:{name}"), answer.text


def test_a_spine_beyond_the_limit_is_refused(lab: FeatureStore) -> None:
    with served(create_app(lab, lab.settings.replace(server={"max_spine_mib": 0.001}))) as url:
        head = f"POST /v1/training?features=weather HTTP/1.1\r\nhost: x\r\ncontent-type: {ARROW}\r\n".encode()
        assert raw(url, head + b"content-length: 1000000\r\n\r\nx").startswith(b"HTTP/1.1 413")


class Held:
    """A local call that waits until it is let go."""

    def __init__(self, store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go, self.begun, self.ended = threading.Event(), threading.Event(), threading.Event()
        self._make = store.training_frame
        monkeypatch.setattr(store, "training_frame", self, raising=False)

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.begun.set()
        self.go.wait(20)
        try:
            return self._make(*args, **options)
        finally:
            self.ended.set()


def test_more_frames_at_once_than_allowed_are_503(lab: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(lab, monkeypatch)
    answers: list[httpx.Response] = []
    body = encoded(spine(10), ARROW)
    with served(create_app(lab, lab.settings.replace(server={"max_concurrent_training": 1}))) as url:
        first = threading.Thread(target=lambda: answers.append(fetch(url, body, ARROW, features="weather")))
        first.start()
        assert held.begun.wait(20)
        refused = fetch(url, body, ARROW, features="weather")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        held.go.set()
        first.join()
        assert answers[0].status_code == 200
        assert fetch(url, body, ARROW, features="weather").status_code == 200


def test_a_frame_that_takes_too_long_is_503_and_keeps_its_place(lab: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(lab, monkeypatch)
    limits = {"server": {"max_concurrent_training": 1, "training_timeout": "200ms"}}
    body = encoded(spine(10), ARROW)
    with served(create_app(lab, lab.settings.replace(**limits))) as url:
        late = fetch(url, body, ARROW, features="weather")
        assert (late.status_code, late.json()["type"]) == (503, "urn:featurestore:problem:time")
        assert "at once" in fetch(url, body, ARROW, features="weather").json()["detail"]
        held.go.set()
        wait_until(lambda: fetch(url, body, ARROW, features="weather").status_code == 200, "its place is not given back")


def slowly(url: str) -> socket.socket:
    """A connection on which a spine has begun to come."""
    head = f"POST /v1/training?features=weather HTTP/1.1\r\nhost: x\r\ncontent-type: {ARROW}\r\ncontent-length: 100000\r\n\r\n"
    made = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=20)
    made.sendall(head.encode() + b"x" * 1000)
    return made


def test_spines_that_come_slowly_hold_no_place(lab: FeatureStore) -> None:
    """Whoever sends slowly keeps nobody else from training frames."""
    settings = lab.settings.replace(server={"max_concurrent_training": 1})
    with served(create_app(lab, settings)) as url, slowly(url), slowly(url), slowly(url):
        time.sleep(0.3)  # their heads must have come, which nothing tells
        answer = fetch(url, encoded(spine(10), ARROW), ARROW, features="weather")
        assert answer.status_code == 200, answer.text


def test_a_spine_that_does_not_go_on_coming_is_408(lab: FeatureStore) -> None:
    settings = lab.settings.replace(server={"request_timeout": "500ms"})
    with served(create_app(lab, settings)) as url, slowly(url) as connection:
        stop = threading.Event()

        def trickle() -> None:
            with suppress(OSError):
                while not stop.wait(0.1):
                    connection.sendall(b"x")

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            assert connection.recv(1000).startswith(b"HTTP/1.1 408")
        finally:
            stop.set()
            thread.join()


def test_a_client_that_goes_away_leaves_no_files(lab: FeatureStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    held = Held(lab, monkeypatch)
    body = encoded(spine(100), ARROW)
    head = f"POST /v1/training?features=weather HTTP/1.1\r\nhost: x\r\ncontent-type: {ARROW}\r\ncontent-length: {len(body)}\r\n\r\n"
    with served(create_app(lab, lab.settings.replace(server={"spine_memory_mib": 0.001}))) as url:
        raw(url, head.encode() + body[:5000], then_close=True)
        wait_until(lambda: not list(tmp_path.iterdir()), "what was uploaded in part stays")
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as connection:
            connection.sendall(head.encode() + body)
            assert held.begun.wait(20)
        held.go.set()
        wait_until(lambda: held.ended.is_set() and not list(tmp_path.iterdir()), "its files stay")
        assert fetch(url, body, ARROW, features="weather").status_code == 200
    assert not list(tmp_path.iterdir())
