"""The client: its answers and errors equal the local ones, and what it does when the server does not answer."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from featurestore import FeatureStore
from featurestore.client import RemoteFeatureStore
from featurestore.client.frames import encoded
from featurestore.client.wire import names_of
from featurestore.errors import (
    FeatureStoreError,
    LimitError,
    NameClashError,
    NotFoundError,
    OnlineStoreError,
    RejectedRowsError,
    RequestError,
    ServerError,
    UnavailableError,
)
from featurestore.server.app import create_app
from tests.effort import examples
from tests.server.conftest import KEY, START, make_project, served
from tests.server.test_push import ROWS, frame
from tests.server.test_training import spine
from tests.servers.valkey import ValkeyServer, free_port


@pytest.fixture(scope="module")
def remote(url: str) -> Iterator[RemoteFeatureStore]:
    with RemoteFeatureStore(url, retries=0) as remote:
        yield remote


AT = "2026-01-01T01:30:00"


@pytest.mark.parametrize(
    ("asked", "rows"),
    [
        ("delay_model", [{"origin": origin, "distance": 2.0} for origin in ("JFK", "LGA", "EWR", "BOS", "XXX", None)]),
        (
            "delay_model",
            {"origin": ["JFK", "LGA"], "distance": [1, 2], "leaves": [date(2026, 1, 1), None], "kind": ["road", "air"]},
        ),
        ("every_model", [KEY, {**KEY, "number": 8}, {**KEY, "number": 9}]),
        (["weather.temp", "recent"], pl.DataFrame({"origin": ["JFK", "EWR"], "mine": [1, 2]})),
        (["weather.temp"], pd.DataFrame({"origin": ["JFK", "EWR"]})),
        ("weather", []),
        (("weather", "every.days"), [{"origin": "JFK", **KEY, "note": Decimal("1.5")}]),
    ],
    ids=range(7),
)
def test_a_look_up_answers_what_the_local_one_does(lab: FeatureStore, remote: RemoteFeatureStore, asked: Any, rows: Any) -> None:
    local, found = lab.online(asked, rows, at=AT), remote.online(asked, rows, at=AT)
    assert repr(found.to_dicts()) == repr(local.to_dicts())  # repr: NaN is NaN, and 1 is unlike 1.0
    assert (found.status, found.event_time, len(found)) == (local.status, local.event_time, len(local))
    if "note" not in str(rows):
        assert_frame_equal(found.to_polars(), local.to_polars())


def test_the_same_without_blocking_the_loop(lab: FeatureStore, remote: RemoteFeatureStore) -> None:
    async def ask() -> list[Any]:
        return await asyncio.gather(*[remote.online_async("weather", [{"origin": "JFK"}]) for _ in range(20)])

    for _ in range(2):  # each loop has connections of its own
        found = asyncio.run(ask())
        assert all(each.to_dicts() == lab.online("weather", [{"origin": "JFK"}]).to_dicts() for each in found)


ORIGINS = st.one_of(st.sampled_from(["JFK", "LGA", "EWR", "BOS"]), st.none(), st.text(max_size=4))


@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.fixed_dictionaries({"origin": ORIGINS, "distance": st.floats(0, allow_infinity=True)}), min_size=1, max_size=4)
)
def test_any_rows_are_answered_alike(lab: FeatureStore, remote: RemoteFeatureStore, rows: list[dict[str, Any]]) -> None:
    local, found = lab.online("delay_model", rows, at=AT), remote.online("delay_model", rows, at=AT)
    assert repr(found.to_dicts()) == repr(local.to_dicts())
    assert_frame_equal(found.to_polars(), local.to_polars())


@pytest.mark.parametrize(
    "given", [spine, lambda: spine().lazy(), lambda: spine().to_dict(as_series=False), lambda: spine().to_arrow()]
)
def test_a_training_frame_is_the_local_one(lab: FeatureStore, remote: RemoteFeatureStore, given: Any) -> None:
    assert_frame_equal(remote.training_frame(given(), "delay_model"), lab.training_frame(given(), "delay_model"))


def test_a_training_frame_from_file_to_file(lab: FeatureStore, remote: RemoteFeatureStore, tmp_path: Path) -> None:
    spine().write_parquet(tmp_path / "spine.parquet")
    found = remote.training_frame(str(tmp_path / "spine.parquet"), ["weather", "risk"], sink=tmp_path / "out" / "frame.parquet")
    assert_frame_equal(found.collect(), lab.training_frame(spine(), ["weather", "risk"]))
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["frame.parquet"]
    corrected = remote.training_frame(tmp_path / "spine.parquet", "weather", as_known=False)
    assert_frame_equal(corrected, lab.training_frame(spine(), "weather", as_known=False))


LISTED = [dict(zip(ROWS, row, strict=True)) for row in zip(*ROWS.values(), strict=True)]


@pytest.mark.parametrize("rows", [frame(), *(pytest.param(rows, marks=pytest.mark.slow) for rows in (ROWS, LISTED))])
def test_a_push_does_what_the_local_one_does(tmp_path: Path, rows: Any) -> None:
    done = []
    for name in ("here", "there"):
        with FeatureStore(make_project(tmp_path / name)) as store, served(create_app(store)) as url:
            store.apply()
            store.materialize()
            with RemoteFeatureStore(url) as remote:
                pushed = (store if name == "here" else remote).push("observations", rows)
            counts = [(each.view, each.rows_new, each.rows_known, each.rows_online, dict(each.reasons)) for each in pushed]
            done.append((counts, repr(store.online("delay_model", {"origin": ["JFK", "LGA"], "distance": [1, 1]}).to_dicts())))
    assert done[0] == done[1]


def test_s24_a_training_frame_is_as_the_store_was(tmp_path: Path) -> None:
    with FeatureStore(make_project(tmp_path / "own")) as store, served(create_app(store)) as url:
        store.apply()
        store.materialize()
        before, instant = store.training_frame(spine(), "weather"), store.components.clock()
        store.push("observations", frame())
        assert not store.training_frame(spine(), "weather").equals(before)
        with RemoteFeatureStore(url) as remote:
            assert_frame_equal(remote.training_frame(spine(), "weather", stored_by=instant), before)
            with pytest.raises(RequestError, match="nothing is known to have been stored by"):
                remote.training_frame(spine(), "weather", stored_by=instant - timedelta(days=1))
            with pytest.raises(RequestError, match="in the future"):
                remote.training_frame(spine(), "weather", stored_by=instant + timedelta(days=1))


def test_a_push_tells_what_it_rejects_and_to_which_views(own: FeatureStore) -> None:
    bad = frame().with_columns(observed_at=pl.lit(None, pl.Datetime("us", "UTC")))
    with served(create_app(own)) as url, RemoteFeatureStore(url) as remote:
        [weather] = remote.push(own.catalog.sources["observations"], bad, views=["weather"])
    assert (weather.view, weather.rows_rejected, weather.rejected[0]["_reason"]) == ("weather", 3, "observed_at is null")


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda store: store.online("wether", [{"origin": "JFK"}]), NotFoundError),
        (lambda store: store.online("weather", [{"origin": "JFK", "temp": 1}]), NameClashError),
        (lambda store: store.online("weather", [{"origin": "JFK"}, {"origin": 1}]), RequestError),
        (lambda store: store.online("weather", [{"orgin": "JFK"}]), RequestError),
        (lambda store: store.online("delay_model", [{"origin": "JFK", "distance": -1.0}]), RequestError),
        (lambda store: store.online("weather", {"origin": "JFK"}), RequestError),
        (lambda store: store.online("weather", 5), RequestError),
        (lambda store: store.online("weather", [{"origin": "JFK"}], at="soon"), RequestError),
        (lambda store: store.training_frame(spine(3), "wether"), NotFoundError),
        (lambda store: store.training_frame(spine(3), "weather", time="when"), RequestError),
        (lambda store: store.training_frame(spine(3).with_columns(temp=1), "weather"), NameClashError),
        (lambda store: store.push("observatons", [{"origin": "JFK"}]), NotFoundError),
        (lambda store: store.push("observations", [{"origin": "JFK"}]), RequestError),
    ],
    ids=range(13),
)
def test_an_error_is_the_one_that_the_store_raises(
    lab: FeatureStore, remote: RemoteFeatureStore, call: Any, kind: type[Exception]
) -> None:
    with pytest.raises(kind) as local:
        call(lab)
    with pytest.raises(kind) as found:
        call(remote)
    assert type(found.value) is type(local.value)
    assert str(found.value) == str(local.value)
    for name in ("name", "kind", "column"):
        assert getattr(found.value, name, None) == getattr(local.value, name, None) or not hasattr(local.value, name)


def test_more_rows_than_the_server_takes(remote: RemoteFeatureStore) -> None:
    with pytest.raises(LimitError, match="10,001 rows") as caught:
        remote.online("weather", [{"origin": "JFK"}] * 10_001)
    assert caught.value.limit == "rows"


def test_a_store_that_is_down_is_told_as_locally(tmp_path: Path) -> None:
    with ValkeyServer() as server, FeatureStore(make_project(tmp_path / "lab"), online=server.url) as store:
        store.apply()
        with served(create_app(store)) as url, RemoteFeatureStore(url, retries=1) as remote:
            server.stop()
            with pytest.raises(OnlineStoreError):
                remote.online("weather", [{"origin": "JFK"}])


def test_nobody_at_the_address() -> None:
    with RemoteFeatureStore(f"http://127.0.0.1:{free_port()}", retries=2) as remote:
        with pytest.raises(UnavailableError, match="cannot be reached"):
            remote.online("weather", [{"origin": "JFK"}])
        with pytest.raises(UnavailableError, match="cannot be reached"):
            asyncio.run(remote.online_async("weather", [{"origin": "JFK"}]))


class Scripted:
    """A server that answers each connection with the next of some texts, and remembers how many asked."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = answers
        self.asked = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        for answer in self._answers:
            try:
                connection, _ = self._listening.accept()
            except OSError:  # it was closed, with answers left
                return
            with connection:
                connection.recv(65_536)
                self.asked += 1
                connection.sendall(answer)

    def __enter__(self) -> "Scripted":
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()


def http(status: int, body: bytes, *headers: str, kind: str = "application/json") -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"content-type: {kind}", f"content-length: {len(body)}", "connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


PROBLEM = b'{"type": "urn:featurestore:problem:%s", "detail": "No.", "error": "%s"}'
BUSY = http(503, b'{"type": "urn:featurestore:problem:unavailable", "detail": "Busy."}')
GOOD = http(200, b"\x82\xa8features\x81\xa4temp\x91\x01\xa5types\x81\xa4temp\xa5Int64")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_it_tries_again_after_a_lost_connection_and_a_busy_server(asynchronous: bool) -> None:
    half = GOOD[: GOOD.index(b"\r\n\r\n") + 4]  # the head, and then the worker was killed
    with Scripted(b"", half, BUSY, GOOD) as server, RemoteFeatureStore(server.url, retries=3) as remote:
        rows = [{"origin": "JFK"}]
        found = asyncio.run(remote.online_async("weather.temp", rows)) if asynchronous else remote.online("weather.temp", rows)
        assert (found.to_dicts(), server.asked) == ([{"origin": "JFK", "temp": 1}], 4)


@pytest.mark.parametrize("to_file", [False, True])
def test_a_training_frame_that_breaks_off_is_made_anew(to_file: bool, tmp_path: Path) -> None:
    found = pl.DataFrame({"row": [0, 1], "temp": [1.5, None]})
    features = encoded(found if to_file else found.drop("row"))  # what is in memory here is not sent back
    whole = http(200, features, kind="application/vnd.apache.arrow.stream")
    with Scripted(whole[:-40], BUSY, whole) as server, RemoteFeatureStore(server.url) as remote:
        if to_file:
            assert_frame_equal(remote.training_frame(found.select("row"), "weather", sink=tmp_path / "f.parquet").collect(), found)
        else:
            assert_frame_equal(remote.training_frame(found.select("row"), "weather"), found)
        assert server.asked == 3
    assert [path.name for path in tmp_path.iterdir()] == ["f.parquet"] * to_file


def test_it_gives_up_after_so_many_tries() -> None:
    with Scripted(BUSY, BUSY, GOOD) as server, RemoteFeatureStore(server.url, retries=1) as remote:
        with pytest.raises(UnavailableError, match="Busy"):
            remote.online("weather.temp", [{"origin": "JFK"}])
        assert server.asked == 2


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (http(404, b"<html>nginx"), ServerError),
        (http(500, b'{"type": "about:blank", "detail": "Oh."}'), ServerError),
        (http(422, b'{"type": "urn:featurestore:problem:request", "detail": "No.", "error": "SystemExit"}'), RequestError),
        (
            http(422, b'{"type": "urn:featurestore:problem:rejected", "detail": "No.", "error": "RejectedRowsError"}'),
            RejectedRowsError,
        ),
        (http(200, b"\xc1"), ServerError),
    ],
)
def test_an_answer_that_is_wrong_is_an_error_and_not_asked_for_again(answer: bytes, kind: type[FeatureStoreError]) -> None:
    with Scripted(answer, GOOD) as server, RemoteFeatureStore(server.url) as remote:
        with pytest.raises(kind) as caught:
            remote.online("weather.temp", [{"origin": "JFK"}])
        assert type(caught.value) is kind
        assert server.asked == 1


def test_what_a_server_does_not_take_is_refused_here(remote: RemoteFeatureStore) -> None:
    with pytest.raises(RequestError, match="cannot be sent"):
        remote.online("weather", [{"origin": object()}])
    with pytest.raises(RequestError, match="cannot be sent"):
        remote.online("weather", [{"origin": 2**70}])
    with pytest.raises(RequestError, match="cannot be sent"):
        remote.online("weather", [{"origin": "\ud800"}])
    with pytest.raises(RequestError, match="no SELECT"):
        remote.training_frame("select 1", "weather")
    with pytest.raises(RequestError, match="is not there"):
        remote.training_frame("nowhere.parquet", "weather")


def test_definitions_are_named(lab: FeatureStore) -> None:
    from featurestore.definitions.reference import FeatureReference, ViewReference

    assert names_of(lab.catalog.services["delay_model"]) == "delay_model"
    assert names_of([FeatureReference("weather", "temp"), ViewReference("recent")]) == ["weather.temp", "recent"]
    for renamed in (FeatureReference("weather", "temp").alias("t"), ViewReference("weather").prefix("w_"), 5):
        with pytest.raises(RequestError):
            names_of(renamed)


def test_over_a_unix_socket(lab: FeatureStore, tmp_path: Path) -> None:
    from tests.server.conftest import Serve

    with Serve(lab.settings.root, "--uds", str(tmp_path / "s")) as server, RemoteFeatureStore(server.url) as remote:
        assert server.url == f"unix:{tmp_path / 's'}"
        assert remote.online("weather.temp", [{"origin": "JFK"}]).to_dicts() == [{"origin": "JFK", "temp": 51.0}]
        assert START + timedelta(hours=1) in remote.online("weather.temp", [{"origin": "JFK"}]).event_time["weather"]
