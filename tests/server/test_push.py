"""Pushes over HTTP: what they write, what they say of it, and what becomes of bad ones."""

import io
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import polars as pl
import pytest

from featurestore import FeatureStore
from featurestore.server.app import create_app
from tests.effort import spread
from tests.server.conftest import KEY, START, served

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


@pytest.mark.parametrize(("kind", "own"), spread(["msgpack", "arrow", "parquet"], ["lmdb", "valkey"]), indirect=["own"])
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


def test_json_says_of_every_type_what_a_look_up_answers(client: httpx.Client, own: FeatureStore) -> None:
    """What a look-up answers in JSON can be pushed as it is: bytes in base64, floats, times and lists of these as text."""
    asked = {"features": "every", "rows": [json_key() | {"number": 7}], "metadata": False}
    answered = {name: column[0] for name, column in client.post("/v1/online", json=asked).json()["features"].items()}
    assert answered["blob"] == "AP8="
    pushed = [{**json_key(), "number": number, "seen_at": "2026-01-05T00:00:00Z", **answered} for number in (70, 71)]
    for rows in (pushed[:1], {name: [row[name] for row in pushed[1:]] for name in pushed[0]}):
        answer = push(client, msgspec.json.encode({"rows": rows}), "application/json", "visits")
        assert answer.status_code == 200, answer.text
        assert [each["rows_online"] for each in answer.json()["views"]] == [1]
    before, *after = own.online("every", [{**KEY, "number": number} for number in (7, 70, 71)]).to_dicts()
    for row in after:
        assert repr(row | {"number": 7}) == repr(before)


@pytest.mark.parametrize(
    ("column", "value"),
    [("blob", "not base64!"), ("clock", "25:00"), ("span", "an hour"), ("birthday", "soon"), ("days", ["soon"])],
)
@pytest.mark.parametrize("own", ["lmdb"], indirect=True)
def test_text_that_says_something_else_is_told(client: httpx.Client, column: str, value: Any) -> None:
    asked = {"features": "every", "rows": [json_key() | {"number": 7}], "metadata": False}
    row = {name: each[0] for name, each in client.post("/v1/online", json=asked).json()["features"].items()}
    row |= {**json_key(), "number": 70, "seen_at": "2026-01-05T00:00:00Z", column: value}
    answer = push(client, msgspec.json.encode({"rows": [row]}), "application/json", "visits")
    assert (answer.status_code, answer.json()["column"]) == (422, column)


@pytest.mark.parametrize("own", ["lmdb"], indirect=True)
@pytest.mark.parametrize("encode", [msgspec.json.encode, msgspec.msgpack.encode])
def test_n12_rows_alone_are_taken(client: httpx.Client, own: FeatureStore, encode: Any) -> None:
    rows = [{"origin": "JFK", "observed_at": "2026-01-03T00:00:00Z", "temp": 70.0, "gust": 1.0}]
    kind = "application/json" if encode is msgspec.json.encode else "application/msgpack"
    answer = push(client, encode(rows), kind)
    assert (answer.status_code, {each["rows_new"] for each in answer.json()["views"]}) == (200, {1}), answer.text
    assert own.online(["weather.temp"], [{"origin": "JFK"}]).to_dicts()[0]["temp"] == 70.0


@pytest.mark.parametrize("kind", ["columns", "msgpack", "arrow", "parquet"])
def test_the_limit_of_rows_is_of_every_type_of_body(lab_folder: Path, kind: str) -> None:
    with (
        FeatureStore(lab_folder, server={"max_rows": 2}) as store,
        served(create_app(store)) as url,
        httpx.Client(base_url=url) as client,
    ):
        answer = push(client, *encoded(kind))
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:featurestore:problem:rows")
    assert "2 are allowed (server.max_rows)" in answer.json()["detail"]


@pytest.mark.parametrize("own", ["lmdb"], indirect=True)
def test_a_small_body_of_very_many_rows_is_refused(client: httpx.Client) -> None:
    buffer = io.BytesIO()
    pl.select(origin=pl.repeat("x", 20_000_000)).write_parquet(buffer, compression="zstd", row_group_size=20_000_000)
    assert buffer.tell() < 1_000_000
    answer = push(client, buffer.getvalue(), PARQUET)
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:featurestore:problem:rows")


def json_key() -> dict[str, Any]:
    return msgspec.json.decode(msgspec.json.encode(KEY))  # type: ignore[no-any-return]  # it is one


def test_s18_rows_that_are_not_known_yet_are_counted_as_waiting(client: httpx.Client) -> None:
    later = {name: [column[0], column[1]] for name, column in ROWS.items()}
    later["observed_at"] = [START.replace(year=2199), ROWS["observed_at"][1]]
    for each in push(client, *encoded("arrow", later)).json()["views"]:
        assert (each["rows_waiting"], each["rows_rejected"], each["rejected"]) == (1, 0, [])


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


@pytest.mark.parametrize("kind", ["arrow", "parquet", "json"])
def test_k05_a_time_beyond_the_calendar_is_a_rejected_row_and_hinders_nobody(
    client: httpx.Client, own: FeatureStore, kind: str
) -> None:
    """The answer was a panic, and so was each ``forget`` from then on, of whomever."""
    columns = pl.read_parquet(own.settings.root / "data/visits.parquet")
    if kind == "json":
        row = dict.fromkeys(columns.columns) | {"day": "2026-01-02", "number": 7, "raw": "AP8=", "seen_at": START}
        body = msgspec.json.encode({"rows": [row | {"at": "9999-12-31T23:59:59-14:00"}]})
        column, content = "at", "application/json"
    else:
        far = pl.Series("day", [2**31 - 1], dtype=pl.Int32).cast(pl.Date)
        rows, buffer = columns.head(1).with_columns(far, instant=pl.lit(2**62).cast(pl.Datetime("us", "UTC"))), io.BytesIO()
        (rows.write_ipc_stream if kind == "arrow" else rows.write_parquet)(buffer)
        body, column, content = buffer.getvalue(), "day", ARROW if kind == "arrow" else PARQUET
    for _ in range(2):  # while nobody is forgotten, and while somebody is
        answer = client.post("/v1/push/visits", content=body, headers={"content-type": content})
        assert answer.status_code == 200, answer.text
        [told] = answer.json()["views"]
        assert told["rejected"][0]["_reason"].startswith(f"{column} does not fit date")
        own.admin.forget("visit", KEY | {"number": 8})
