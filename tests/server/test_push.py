"""Pushes over HTTP: what they write, what they say of it, and what becomes of bad ones."""

import io
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import msgspec
import polars as pl
import pytest

from featurestore import FeatureStore
from featurestore.server.app import create_app
from tests.server.conftest import START, served

ROWS = {
    "origin": ["JFK", "JFK", "LGA"],
    "observed_at": [START + timedelta(hours=hours) for hours in (5, 6, 5)],
    "temp": [60.0, float("nan"), None],
    "gust": [1.0, None, 50.0],
}
AS_JSON = {
    "origin": ROWS["origin"],
    "observed_at": ["2026-01-01T05:00:00Z", "2026-01-01 06:00", "2026-01-01T05:00:00Z"],
    "temp": [60.0, "NaN", None],
    "gust": [1, None, 50],
}
ARROW = "application/vnd.apache.arrow.stream"
PARQUET = "application/vnd.apache.parquet"
SOON = b'{"rows": {"origin": ["x"], "observed_at": ["soon"], "temp": [1], "gust": [1]}}'


@pytest.fixture
def client(own: FeatureStore) -> Iterator[httpx.Client]:
    with served(create_app(own)) as url, httpx.Client(base_url=url) as client:
        yield client


def frame(rows: Any = ROWS) -> pl.DataFrame:
    return pl.DataFrame(rows, schema_overrides={"observed_at": pl.Datetime("us", "UTC")}, strict=False)


def encoded(kind: str, rows: Any = ROWS) -> tuple[bytes, str]:
    buffer = io.BytesIO()
    if kind == "arrow":
        frame(rows).write_ipc_stream(buffer)
        return buffer.getvalue(), ARROW
    if kind == "parquet":
        frame(rows).write_parquet(buffer)
        return buffer.getvalue(), PARQUET
    if kind == "msgpack":
        return msgspec.msgpack.encode({"rows": rows}), "application/msgpack"
    given = AS_JSON if kind == "columns" else pl.DataFrame(AS_JSON, strict=False, schema_overrides={"temp": pl.Object}).to_dicts()
    return msgspec.json.encode({"rows": given}), "application/json"


def push(client: httpx.Client, body: bytes, kind: str, source: str = "observations") -> httpx.Response:
    return client.post(f"/v1/push/{source}", content=body, headers={"content-type": kind, "accept": "application/json"})


@pytest.mark.parametrize("kind", ["msgpack", "arrow", "parquet"])
def test_pushed_rows_are_served_and_counted(client: httpx.Client, own: FeatureStore, kind: str) -> None:
    answer = push(client, *encoded(kind))
    assert answer.status_code == 200, answer.text
    told = {each["view"]: each for each in answer.json()["views"]}
    assert set(told) == {"weather", "recent"}
    counts = {name: told["weather"][name] for name in ("rows_read", "rows_new", "rows_known", "rows_rejected", "rows_online")}
    assert counts == {"rows_read": 3, "rows_new": 3, "rows_known": 0, "rows_rejected": 0, "rows_online": 2}
    found = own.online(["weather"], [{"origin": "LGA"}, {"origin": "JFK"}]).to_polars()
    assert repr(found["temp"].to_list()) == "[None, nan]"
    assert found["gusty"].to_list() == [True, False]
    again = push(client, *encoded(kind)).json()["views"]
    assert all((each["rows_new"], each["rows_known"], each["rows_online"]) == (0, 3, 0) for each in again)


def test_json_is_read_as_the_source_has_it(client: httpx.Client, own: FeatureStore) -> None:
    answer = push(
        client, msgspec.json.encode({"rows": {**AS_JSON, "temp": [60.0, 61, None]}, "views": ["weather"]}), "application/json"
    )
    assert [each["view"] for each in answer.json()["views"]] == ["weather"]
    assert own.online(["weather.temp"], [{"origin": "JFK"}]).to_dicts()[0]["temp"] == 61.0


def test_rejected_rows_are_shown_with_their_reasons(client: httpx.Client) -> None:
    bad = {name: [column[0], column[1]] for name, column in ROWS.items()} | {"observed_at": [None, ROWS["observed_at"][1]]}
    [weather, _] = push(client, *encoded("arrow", bad)).json()["views"]
    assert (weather["rows_new"], weather["rows_rejected"]) == (1, 1)
    assert weather["reasons"] == {"observed_at is null": 1}
    assert weather["rejected"] == [
        {"origin": "JFK", "observed_at": None, "temp": 60.0, "gust": 1.0, "_reason": "observed_at is null"}
    ]


@pytest.mark.parametrize(
    ("body", "kind", "source", "status", "name"),
    [
        (b'{"rows": []}', "application/json", "observatons", 404, "not-found"),
        (b'{"rows": [{}], "views": ["wether"]}', "application/json", "observations", 404, "not-found"),
        (b'{"rows": [{}], "views": ["every"]}', "application/json", "observations", 422, "request"),
        (b'{"rows": [{"origin": "JFK"}]}', "application/json", "observations", 422, "request"),
        (SOON, "application/json", "observations", 422, "request"),
        (b'{"rows": [{"origin": {"a": 1}}, {"origin": 3}]}', "application/json", "observations", 422, "request"),
        (b'{"rows": 5}', "application/json", "observations", 422, "request"),
        (b'{"rows"', "application/json", "observations", 400, "malformed"),
        (b"\x00" * 64, ARROW, "observations", 422, "request"),
        (b"", ARROW, "observations", 422, "request"),
        (b"PAR1" * 9, PARQUET, "observations", 422, "request"),
        (b"origin,temp\n", "text/csv", "observations", 415, "media-type"),
        (msgspec.json.encode({"rows": [{"origin": "x"}] * 10_001}), "application/json", "observations", 422, "rows"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("own", ["lmdb"], indirect=True)
def test_a_bad_push_is_told_what_is_wrong(
    client: httpx.Client, body: bytes, kind: str, source: str, status: int, name: str
) -> None:
    answer = push(client, body, kind, source)
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:featurestore:problem:{name}"), answer.text


def test_a_push_takes_the_transform_that_was_applied_elsewhere(client: httpx.Client, own: FeatureStore) -> None:
    assert push(client, *encoded("arrow")).status_code == 200
    definitions = own.settings.root / "definitions" / "lab.py"
    definitions.write_text(definitions.read_text().replace("fill_null(0) > 30", "fill_null(0) > 0.5"))
    with FeatureStore(own.settings.root, project=own.settings.project, online=own.settings.online) as other:
        other.apply()
    later = frame().with_columns(pl.col("observed_at") + timedelta(days=1))
    assert push(client, *encoded("arrow", later)).status_code == 200
    assert own.online(["weather.gusty"], [{"origin": "LGA"}]).to_dicts()[0]["gusty"] is True
    assert (
        push(client, *encoded("arrow", later.with_columns(gust=0.7, observed_at=pl.lit(START + timedelta(days=3))))).status_code
        == 200
    )
    assert own.online(["weather.gusty"], [{"origin": "LGA"}]).to_dicts()[0]["gusty"] is True
