"""Look-ups over HTTP: what they answer, and what becomes of requests that are wrong or hostile."""

import asyncio
import json
import socket
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore import FeatureStore
from featurestore.errors import NameClashError, NotFoundError
from featurestore.server.app import create_app
from featurestore.server.endpoints.online import OnlineFastPath
from tests.effort import examples
from tests.projects import same
from tests.server.conftest import KEY, served

ROWS = [{"origin": origin, "distance": 2.0} for origin in ("JFK", "LGA", "EWR", "BOS", "XXX", None)]
JSON = {"content-type": "application/json"}
MSGPACK = {"content-type": "application/msgpack"}


def ask(http: httpx.Client, body: Any, **headers: str) -> httpx.Response:
    return http.post("/v1/online", json=body, headers=headers)


def test_a_look_up_answers_columns_statuses_and_event_times(http: httpx.Client) -> None:
    answer = ask(http, {"features": "delay_model", "rows": [{"origin": "JFK", "distance": 2000}]})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    told = answer.json()
    assert told["features"]["temp"] == [51.0]
    assert told["features"]["long_and_gusty"] == [True]
    assert told["status"]["temp"] == ["present"]
    assert told["event_time"]["weather"] == ["2026-01-01T01:00:00Z"]


def test_columns_are_as_good_as_rows(http: httpx.Client) -> None:
    as_rows = ask(http, {"features": ["weather.temp"], "rows": [{"origin": "JFK"}, {"origin": "LGA"}]})
    as_columns = ask(http, {"features": ["weather.temp"], "rows": {"origin": ["JFK", "LGA"]}})
    assert as_rows.json() == as_columns.json() == {
        "features": {"temp": [51.0, None]},
        "status": {"temp": ["present", "null"]},
        "event_time": {"weather": ["2026-01-01T01:00:00Z", "2026-01-01T00:00:00Z"]},
    }  # fmt: skip


def test_without_metadata_there_are_the_features_alone(http: httpx.Client) -> None:
    body = {"features": ["weather.temp"], "rows": [{"origin": "JFK"}], "metadata": False}
    assert ask(http, body).json() == {"features": {"temp": [51.0]}}


def test_a_look_up_of_the_past_has_its_windows(http: httpx.Client, lab: FeatureStore) -> None:
    body = {"features": ["recent"], "rows": [{"origin": "JFK"}], "at": "2026-01-01T01:30:00Z"}
    local = lab.online(["recent"], body["rows"], at=body["at"]).columns()
    assert ask(http, body).json()["features"] == {name: list(column) for name, column in local.items()}
    assert (local["readings_1h"], local["readings_1d"]) == ((1,), (2,))


def test_what_json_lacks_is_said_as_text(http: httpx.Client) -> None:
    told = ask(http, {"features": ["weather"], "rows": {"origin": ["EWR", "BOS"]}}).json()["features"]
    assert told["temp"] == ["NaN", "-Infinity"]
    assert told["gust"] == ["Infinity", 1e-300]


def test_every_type_in_json(http: httpx.Client) -> None:
    keys = {"day": "2026-01-02", "at": "2026-01-02T03:04:05.000006Z", "raw": "AP8=", "number": 7}
    told = ask(http, {"features": "every_model", "rows": [keys, {**keys, "number": 8}]}).json()["features"]
    assert {name: column[0] for name, column in told.items()} == {
        "yes": True, "small": -128, "large": -(2**63), "unsigned": 2**64 - 1, "single": 0.1, "double": 0.1,
        "text": "né\u0000", "blob": "AP8=", "instant": "1969-12-31T23:59:59.999999Z", "birthday": "0001-01-01",
        "clock": "23:59:59.999999", "span": "-PT86399.999999S", "price": "-12.340000000", "days": ["2026-01-01", None],
        "vector": [1.0, "NaN", -2.5],
    }  # fmt: skip
    assert {column[1] for column in told.values()} == {None}


def test_messagepack_carries_floats_and_bytes_as_they_are(http: httpx.Client, lab: FeatureStore) -> None:
    body = msgspec.msgpack.encode({"features": ["weather", "every.blob", "every.instant"], "rows": [{"origin": "EWR", **KEY}]})
    answer = http.post("/v1/online", content=body, headers=MSGPACK)
    assert answer.headers["content-type"] == "application/msgpack"
    told = msgspec.msgpack.decode(answer.content)["features"]
    local = lab.online(["weather", "every.blob", "every.instant"], [{"origin": "EWR", **KEY}]).columns()
    assert all(same(told[name][0], local[name][0]) for name in local)


@pytest.mark.parametrize(
    ("accept", "content", "answered"),
    [
        ("application/msgpack", "application/json", "application/msgpack"),
        ("application/json", "application/msgpack", "application/json"),
        ("*/*", "application/x-msgpack", "application/msgpack"),
        ("text/html, */*;q=0.1", "application/json; charset=UTF-8", "application/json"),
    ],
)
def test_the_answer_is_of_the_type_asked_for(http: httpx.Client, accept: str, content: str, answered: str) -> None:
    body = {"features": ["weather.temp"], "rows": [{"origin": "JFK"}]}
    packed = msgspec.msgpack.encode(body) if "msgpack" in content else json.dumps(body).encode()
    answer = http.post("/v1/online", content=packed, headers={"accept": accept, "content-type": content})
    assert (answer.status_code, answer.headers["content-type"]) == (200, answered)


GOOD = {"features": ["weather.temp"], "rows": [{"origin": "JFK"}]}
WRONG: list[tuple[Any, int, str, dict[str, Any]]] = [
    ({**GOOD, "features": ["wether.temp"]}, 404, "not-found", {"name": "wether", "suggestion": "Did you mean 'weather'?"}),
    ({**GOOD, "features": ["weather.tem"]}, 404, "not-found", {"name": "weather.tem"}),
    ({**GOOD, "features": []}, 422, "request", {}),
    ({**GOOD, "features": "trip"}, 422, "request", {}),
    ({**GOOD, "features": [["weather"]]}, 422, "request", {}),
    ({**GOOD, "rows": [{"origin": "JFK"}, {"orgin": "JFK"}]}, 422, "request", {"row": 1, "column": "origin"}),
    ({**GOOD, "rows": [{"origin": "JFK"}, {"origin": 7}]}, 422, "request", {"row": 1, "column": "origin"}),
    ({**GOOD, "rows": [{"origin": "JFK"}, {"origin": ["JFK"]}]}, 422, "request", {"row": 1, "column": "origin"}),
    ({**GOOD, "rows": [{"origin": "JFK", "temp": 1}]}, 422, "name-clash", {"column": "temp"}),
    ({**GOOD, "rows": {"origin": ["JFK"], "x": []}}, 422, "request", {}),
    ({**GOOD, "rows": ["JFK"]}, 422, "request", {}),
    ({**GOOD, "rows": None}, 422, "request", {}),
    ({**GOOD, "at": "soon"}, 422, "request", {}),
    ({**GOOD, "at": 5}, 422, "request", {}),
    ({**GOOD, "features_": 1}, 422, "request", {}),
    ({"features": "delay_model", "rows": [{"origin": "JFK"}]}, 422, "request", {"row": 0, "column": "distance"}),
    ({"features": "delay_model", "rows": [{"origin": "JFK", "distance": -1}]}, 422, "request", {"row": 0, "column": "distance"}),
    ({"features": "delay_model", "rows": [{"origin": "JFK", "distance": "far"}]}, 422, "request", {"row": 0}),
    ({"features": "delay_model", "rows": [{"origin": "JFK", "distance": 1, "kind": "sea"}]}, 422, "request", {"row": 0}),
    ({"features": "every_model", "rows": [{"day": "2026-13-01", "at": "", "raw": "", "number": 1}]}, 422, "request",
     {"row": 0, "column": "day"}),
    ({"features": "every_model", "rows": [{"day": "2026-01-01", "at": "x", "raw": "", "number": 1}]}, 422, "request", {"row": 0}),
    ({"features": "every_model", "rows": [{"day": None, "at": "2026-01-01", "raw": "*", "number": 1}]}, 422, "request",
     {"row": 0, "column": "raw"}),
    ({"features": "every_model", "rows": [{"day": "2026-01-01", "at": "2026-01-01", "raw": "", "number": 2**70}]}, 422, "request",
     {"row": 0, "column": "number"}),
    ({**GOOD, "rows": [{"origin": "x"}] * 10_001}, 422, "rows", {}),
    ({**GOOD, "rows": {"origin": ["x"] * 10_001}}, 422, "rows", {}),
]  # fmt: skip


@pytest.mark.parametrize(("body", "status", "kind", "more"), WRONG, ids=range(len(WRONG)))
def test_a_wrong_request_is_told_what_is_wrong(http: httpx.Client, body: Any, status: int, kind: str, more: dict[str, Any]) -> None:
    answer = ask(http, body)
    told = answer.json()
    assert (answer.status_code, told["type"]) == (status, f"urn:featurestore:problem:{kind}"), told
    assert answer.headers["content-type"] == "application/problem+json"
    assert told["status"] == status
    assert told["title"]
    assert told["detail"]
    assert told | more == told


HOSTILE: list[tuple[bytes, dict[str, str], int]] = [
    (b"", JSON, 400),
    (b"{", JSON, 400),
    (b"\xff\xfe{}", JSON, 400),
    (b'{"features": "\xff"}', JSON, 400),
    (b"[" * 1_000_000, JSON, 422),
    (b'{"features": "delay_model", "rows": [{"origin": ' + b"[" * 1_000_000, JSON, 400),
    (b'{"features": "delay_model", "rows": [{"origin": ' + b"[" * 5000 + b"]" * 5000 + b"}]}", JSON, 400),
    (b'{"features": ["weather.temp"], "rows": [{"origin": ' + b"9" * 5000 + b"}]}", JSON, 422),
    (b'{"features": ["weather.temp"], "rows": [{"origin": 1e99999}]}', JSON, 422),
    (b'{"features": ["weather.temp"], "rows": [{"origin": NaN}]}', JSON, 400),
    (b'{"features": ["weather.temp"], "features": ["weather.gust"], "rows": [{"origin": "JFK"}]}', JSON, 200),
    (b'{"features": ["weather.temp"], "rows": [{"origin": "\\ud800"}]}', JSON, 400),
    (b'{"features": ["weather.temp"], "rows": [{"origin": "\\u0000"}]}', JSON, 200),
    (b'{"features": ["__class__.__init__"], "rows": []}', JSON, 404),
    (b'{"features": "' + b"x" * 100_000 + b'", "rows": []}', JSON, 404),
    (b"{}", {"content-type": "text/plain"}, 415),
    (b"{}", {}, 415),
    (b"{}", {"content-type": "application/json; charset=utf-16"}, 415),
    (b"\xc1", MSGPACK, 400),
    (b"\xdd\xff\xff\xff\xff", MSGPACK, 422),
    (b"\x81\xa4rows\xdd\xff\xff\xff\xff", MSGPACK, 400),
    (msgspec.msgpack.encode({"features": ["weather.temp"], "rows": [{"origin": msgspec.msgpack.Ext(5, b"x")}]}), MSGPACK, 422),
]  # fmt: skip


@pytest.mark.parametrize(("body", "headers", "status"), HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_body_is_refused(http: httpx.Client, body: bytes, headers: dict[str, str], status: int) -> None:
    answer = http.post("/v1/online", content=body, headers=headers)
    assert answer.status_code == status, answer.text[:500]
    assert len(answer.content) < 10_000


def test_the_last_of_two_keys_counts(http: httpx.Client) -> None:
    body = b'{"features": ["weather.temp"], "features": ["weather.gust"], "rows": [{"origin": "JFK"}]}'
    assert http.post("/v1/online", content=body, headers=JSON).json()["features"] == {"gust": [40.0]}


def raw(url: str, data: bytes, *, then_close: bool = False) -> bytes:
    """Sends bytes as they are, and returns all that is answered until the server closes."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(data)
        if then_close:
            return b""
        answer = b""
        while chunk := connection.recv(65_536):
            answer += chunk
        return answer


HEAD = b"POST /v1/online HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


def test_a_body_of_a_gigabyte_is_refused_unread(url: str) -> None:
    answer = raw(url, HEAD + b"content-length: 1073741824\r\n\r\n" + b"{" * 1000)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"urn:featurestore:problem:body" in answer


def test_a_chunked_body_without_end_is_refused_at_the_limit(lab: FeatureStore) -> None:
    limited = lab.settings.replace(server={"max_body_mib": 0.01})
    with served(create_app(lab, limited)) as url:
        chunks = b"".join(b"1000\r\n" + b" " * 0x1000 + b"\r\n" for _ in range(4))
        answer = raw(url, HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunks)
    assert answer.startswith(b"HTTP/1.1 413")


def test_a_slow_client_is_told_and_left(lab: FeatureStore) -> None:
    hasty = lab.settings.replace(server={"request_timeout": "200ms"})
    with served(create_app(lab, hasty)) as url:
        answer = raw(url, HEAD + b"content-length: 10\r\n\r\n{")
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"connection: close" in answer.lower()


def test_a_client_that_goes_away_harms_nobody(url: str, http: httpx.Client) -> None:
    for _ in range(20):
        raw(url, HEAD + b"content-length: 10\r\n\r\n{", then_close=True)
    assert ask(http, GOOD).status_code == 200


def test_an_answer_that_takes_too_long_is_503(lab: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    async def slow(*args: Any, **options: Any) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(lab.components.online_reader, "read_async", slow)
    hasty = lab.settings.replace(server={"request_timeout": "200ms"})
    with served(create_app(lab, hasty)) as url:
        answer = httpx.post(f"{url}/v1/online", json=GOOD)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


def test_the_method_and_the_address_must_be_right(http: httpx.Client) -> None:
    wrong = http.get("/v1/online")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert wrong.json()["type"] == "urn:featurestore:problem:method"
    assert http.get("/v1/onlin").json()["type"] == "urn:featurestore:problem:no-route"


def number(value: Any) -> Any:
    """What JSON says as text, as the float it is."""
    floats = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
    return [number(each) for each in value] if isinstance(value, list) else floats.get(value, value)


ORIGINS = st.one_of(st.sampled_from(["JFK", "LGA", "EWR", "BOS", "XXX"]), st.none(), st.text(max_size=5))
ASKED = st.lists(
    st.sampled_from(["weather", "weather.temp", "recent", "recent.last_gusts", "risk.per_mile", "risk"]),
    min_size=1, max_size=2, unique=True,
)  # fmt: skip


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    asked=ASKED,
    rows=st.lists(st.fixed_dictionaries({"origin": ORIGINS, "distance": st.floats(0, 1e6)}), max_size=5),
    columns=st.booleans(),
    packed=st.booleans(),
)
def test_http_answers_what_the_store_answers(
    http: httpx.Client, lab: FeatureStore, asked: list[str], rows: list[dict[str, Any]], columns: bool, packed: bool
) -> None:
    given_rows: Any = {name: [row[name] for row in rows] for name in ("origin", "distance")} if columns else rows
    body = {"features": asked, "rows": given_rows, "at": "2026-01-01T01:30:00"}
    encode, headers = (msgspec.msgpack.encode, MSGPACK) if packed else (msgspec.json.encode, JSON)
    answer = http.post("/v1/online", content=encode(body), headers=headers)
    if answer.status_code != 200:
        with pytest.raises((NameClashError, NotFoundError)) as caught:
            lab.online(asked, rows)
        assert str(caught.value) == msgspec.json.decode(answer.content)["detail"]
        return
    local = lab.online(asked, rows, at="2026-01-01T01:30:00")
    if packed:
        told = msgspec.msgpack.decode(answer.content)
        columns_there = {name: list(column) for name, column in local.columns().items()}
        assert repr(told["features"]) == repr(columns_there)  # NaN is like NaN, and 1 is unlike 1.0
        assert told["event_time"] == local.event_time
    else:
        told = msgspec.json.decode(answer.content)
        back = {name: [number(value) for value in column] for name, column in told["features"].items()}
        assert repr(back) == repr({name: list(column) for name, column in local.columns().items()})
    assert told["status"] == local.status


@pytest.mark.parametrize("own", ["lmdb"], indirect=True)
def test_d29_an_apply_in_the_middle_of_a_look_up_changes_nothing_of_it(own: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the request is made of and what it is read by are of one catalog."""
    real = own.components.online_reader.read_async
    definitions = own.settings.root / "definitions" / "lab.py"

    async def read(*given: Any) -> Any:
        if 'FeatureService("delay_model"' in definitions.read_text():
            definitions.write_text(definitions.read_text().replace('FeatureService("delay_model"', 'FeatureService("renamed"'))
            own.apply(allow_breaking=True)
        return await real(*given)

    monkeypatch.setattr(own.components.online_reader, "read_async", read)
    asked = {"features": "delay_model", "rows": [{"origin": "JFK", "distance": 2000.0}]}
    with served(create_app(own)) as url:
        answer = httpx.post(f"{url}/v1/online", json=asked, timeout=30)
        assert answer.status_code == 200, answer.text
        assert httpx.post(f"{url}/v1/online", json=asked, timeout=30).status_code == 404


@pytest.mark.parametrize(
    ("rows", "status"),
    [({}, 422), ({"distance": []}, 422), ({"origin": []}, 422), ({"origin": [], "distance": []}, 200), ([], 200)],
)
def test_k22_columns_without_a_row_are_taken_as_the_schema_has_them(http: httpx.Client, rows: Any, status: int) -> None:
    schema = http.get("/openapi.json").json()["components"]["schemas"]["DelayModelColumns"]
    answer = http.post("/v1/online", json={"features": "delay_model", "rows": rows})
    assert answer.status_code == status, answer.text
    if isinstance(rows, dict):
        assert (set(schema["required"]) <= set(rows)) == (status == 200)


BODIES: list[dict[str, Any]] = [
    {"rows": [{"origin": "JFK", "distance": 2000.0}, {"origin": "XXX", "distance": 1}]},
    {"rows": {"origin": ["JFK", None], "distance": [2000.0, 3.5]}, "metadata": False},
    {"rows": [{"origin": "LGA", "distance": 1.0, "leaves": "2026-01-01"}], "types": True, "at": "2026-01-01T00:30:00Z"},
    {"rows": [{"origin": "LGA", "distance": -1.0}]},
    {"rows": [{"distance": 1.0}]},
    {"rows": []},
]


@pytest.mark.parametrize("body", BODIES, ids=str)
@pytest.mark.parametrize("accept", ["application/json", "application/msgpack"])
def test_n12_the_path_of_a_service_answers_as_its_name_does(http: httpx.Client, body: dict[str, Any], accept: str) -> None:
    headers = {"accept": accept}
    by_name = http.post("/v1/online", json={"features": "delay_model", **body}, headers=headers)
    by_path = http.post("/v1/services/delay_model/online", json=body, headers=headers)
    assert (by_path.status_code, by_path.content) == (by_name.status_code, by_name.content)
    assert by_path.headers["content-type"] == by_name.headers["content-type"]


@pytest.mark.parametrize("encode", [msgspec.json.encode, msgspec.msgpack.encode])
def test_n12_rows_alone_are_taken_where_the_path_says_what_is_asked(http: httpx.Client, encode: Any) -> None:
    rows = [{"origin": "JFK", "distance": 2000.0}]
    headers = JSON if encode is msgspec.json.encode else MSGPACK
    [alone, whole] = [
        http.post("/v1/services/delay_model/online", content=encode(body), headers=headers) for body in (rows, {"rows": rows})
    ]
    assert (alone.status_code, alone.content) == (200, whole.content)
    answer = http.post("/v1/online", content=encode(rows), headers=headers)
    assert (answer.status_code, "array" in answer.json()["detail"]) == (422, True)


@pytest.mark.parametrize(("name", "status"), [("delay_modl", 404), ("weather", 404), ("weather.temp", 404)])
def test_n12_only_a_service_has_such_a_path(http: httpx.Client, name: str, status: int) -> None:
    answer = http.post(f"/v1/services/{name}/online", json={"rows": [{"origin": "JFK"}]})
    assert (answer.status_code, answer.json()["name"]) == (status, name)
    assert name != "delay_modl" or "delay_model" in answer.json()["suggestion"]


def test_n12_such_a_path_takes_no_features(http: httpx.Client) -> None:
    answer = http.post("/v1/services/delay_model/online", json={"features": "every_model", "rows": []})
    assert (answer.status_code, "features" in answer.json()["detail"]) == (422, True)


def test_the_fast_path_answers_as_the_route_does(lab: FeatureStore) -> None:
    """Before Starlette's routing and after it: bytes, statuses and headers are the same, of errors too."""
    slow = create_app(lab)
    slow.user_middleware = [each for each in slow.user_middleware if each.cls is not OnlineFastPath]
    assert len(slow.user_middleware) < len(create_app(lab).user_middleware)
    asked: list[tuple[str, bytes, dict[str, str]]] = [
        ("POST", msgspec.json.encode(GOOD), JSON),
        ("POST", msgspec.msgpack.encode(GOOD), MSGPACK),
        ("POST", b'{"features": ["weather.tmp"], "rows": []}', JSON),
        ("POST", b'{"features": ["weather.temp"], "rows": [{"origin": 1}]}', JSON),
        ("POST", b"{", JSON),
        ("POST", b"{}", {"content-type": "text/plain"}),
        ("POST", b"{}", {**JSON, "content-encoding": "gzip"}),
        ("GET", b"", {}),
    ]
    answers = []
    for app in (create_app(lab), slow):
        with served(app) as url, httpx.Client(base_url=url) as client:
            found = [client.request(method, "/v1/online", content=body, headers=headers) for method, body, headers in asked]
        hidden = {"date", "server"}
        answers.append([(a.status_code, a.content, sorted((k, v) for k, v in a.headers.items() if k not in hidden)) for a in found])
    assert answers[0] == answers[1]
    assert [status for status, *_ in answers[0]] == [200, 200, 404, 422, 400, 415, 415, 405]
