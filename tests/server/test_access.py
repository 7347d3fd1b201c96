"""Access over HTTP: who has no key is told so, who may not is told so, and a key that is revoked is over within seconds."""

import io
import logging
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest

from featurestore import FeatureStore
from featurestore.errors import ConfigError
from featurestore.server.app import create_app
from featurestore.server.endpoints.table import ROUTES
from featurestore.server.security.guard import AccessGuard, OpenGuard, make_guard, require_access
from tests.server.conftest import START, Serve, make_project, served
from tests.server.issuers import AUDIENCE, Issuer
from tests.server.test_oidc import claims_of
from tests.servers.valkey import wait_until

ASKED = {"features": "delay_model", "rows": [{"origin": "JFK", "distance": 2000.0}]}
PII = """
import polars as pl

from featurestore import Entity, Feature, FeatureService, FeatureView, OnDemandView, ParquetSource, last

place = Entity("place", origin=str)
guests = ParquetSource("guests", "data/observations.parquet", event_time="observed_at")


class Guest(FeatureView, entity=place, source=guests):
    temp: float | None = Feature(pii=True)
    gust: float | None


class Seen(FeatureView, entity=place, source=guests):
    warmth: float | None = last("temp").over("1h", "36500d", pii=True)


class Made(OnDemandView, inputs=[Guest]):
    doubled: float | None = Feature(pl.col("temp") * 2)
    halved: float | None = Feature(pl.col("gust") / 2)


guests_model = FeatureService("guests_model", [Guest, Seen.warmth, Made])
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureStore]:
    folder = make_project(tmp_path_factory.mktemp("guarded") / "lab")
    (folder / "definitions" / "guests.py").write_text(PII)
    with FeatureStore(folder, access="required") as opened:
        opened.apply()
        opened.materialize()
        yield opened


@contextmanager
def client_of(store: FeatureStore) -> Iterator[httpx.Client]:
    with served(create_app(store, guard=make_guard(store))) as url, httpx.Client(base_url=url) as client:
        yield client


@pytest.fixture(scope="module")
def client(store: FeatureStore) -> Iterator[httpx.Client]:
    with client_of(store) as opened:
        yield opened


def bearer(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


def key_of(store: FeatureStore, *grants: str) -> dict[str, str]:
    return bearer(store.keys.create("test", grants).secret)


GUARDED = [route for route in ROUTES if route.permission is not None]


def ask(client: httpx.Client, method: str, path: str, headers: Any) -> httpx.Response:
    names = {"/v1/services/{name}": "delay_model", "/v1/services/{name}/online": "delay_model", "/v1/views/{name}": "weather"}
    address = re.sub(r"\{\w+\}", names.get(path, "observations"), path)
    more: dict[str, Any] = {}
    if path == "/v1/training":
        spine = io.BytesIO()
        pl.DataFrame({"origin": ["JFK"], "event_time": [START]}).write_ipc_stream(spine)
        more = {"params": {"features": "weather"}, "content": spine.getvalue()}
        headers = [*httpx.Headers(headers).raw, (b"content-type", b"application/vnd.apache.arrow.stream")]
    elif path == "/v1/services/{name}/online":
        more = {"json": {"rows": [{"origin": "JFK", "distance": 1.0}]}}
    elif method == "POST":
        more = {"json": {"features": "weather", "rows": [{"origin": "JFK"}]}}
    return client.request(method, address, headers=headers, **more)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Basic Zm9vOmJhcg=="},
        {"authorization": "Bearer fs_"},
        {"authorization": "Bearer fs_0123456789abcdef_" + "0" * 64},
        {"authorization": "Bearer eyJhbGciOiJub25lIn0.e30."},
        [("authorization", "Bearer fs_a_b"), ("authorization", "Bearer fs_a_b")],
        {"authorization": b"Bearer fs_\xff\xfe_\x80"},
        {"x-api-key": "fs_0123456789abcdef_secret"},
    ],
    ids=str,
)
def test_nobody_is_admitted_without_a_key(client: httpx.Client, headers: Any) -> None:
    with ThreadPoolExecutor(len(GUARDED)) as pool:  # who guesses keys waits for each answer
        answers = list(pool.map(lambda route: ask(client, route.method, route.path, headers), GUARDED))
    for route, answer in zip(GUARDED, answers, strict=True):
        assert answer.status_code == 401, route
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["type"] == "urn:featurestore:problem:unauthenticated"


HOLDERS = {
    "nothing": (),
    "monitor": ("monitor project",),
    "reader": ("reader project",),
    "reader of a service": ("reader service:delay_model",),
    "reader of a view": ("reader view:weather",),
    "writer": ("writer project",),
    "writer of views": ("writer view:weather", "writer view:recent"),
    "admin": ("admin project",),
    "of something else": ("writer view:every", "reader service:every_model"),
}
ALLOWED = {
    # nothing, monitor, reader, reader of a service, reader of a view, writer, writer of views, admin, of something else
    "/v1/online": "--+++--+-",
    "/v1/training": "--+++--+-",
    "/v1/services/{name}/online": "--++---+-",
    "/v1/push/{source}": "-----+++-",
    "/v1/services": "--+++++++",
    "/v1/services/{name}": "--++-+-+-",
    "/v1/views": "--+++++++",
    "/v1/views/{name}": "--+-++++-",
    "/v1/entities": "--+++++++",
    "/v1/sources": "--+++++++",
    "/openapi.json": "--+++++++",
    "/metrics": "-++--+-+-",
}
"""What each holder of a key is answered of what is asked by ``ask``: all else is refused."""


@pytest.fixture(scope="module")
def held(store: FeatureStore) -> dict[str, dict[str, str]]:
    """A key of each holder. One of no grant cannot be made; that is a token without roles, which an issuer may sign."""
    return {name: key_of(store, *grants) for name, grants in HOLDERS.items() if grants}


@pytest.mark.parametrize("holder", [name for name in HOLDERS if HOLDERS[name]])
@pytest.mark.parametrize("route", GUARDED, ids=lambda route: f"{route.method} {route.path}")
def test_every_role_at_every_route(client: httpx.Client, held: dict[str, dict[str, str]], route: Any, holder: str) -> None:
    answer = ask(client, route.method, route.path, held[holder])
    if ALLOWED[route.path][list(HOLDERS).index(holder)] == "+":
        assert answer.status_code in (200, 422), answer.text
    else:
        assert (answer.status_code, answer.json()["type"]) == (403, "urn:featurestore:problem:forbidden"), answer.text


def test_who_is_admitted_and_granted_nothing_is_refused_everywhere(store: FeatureStore) -> None:
    with Issuer() as issuer:
        settings = {"oidc": {"issuer": issuer.url, "audience": AUDIENCE}}
        with FeatureStore(store.settings.root, **settings) as opened, client_of(opened) as client:
            headers = bearer(issuer.sign(claims_of(issuer)))
            assert {ask(client, route.method, route.path, headers).status_code for route in GUARDED} == {403}


@pytest.mark.parametrize(
    ("grants", "services", "views", "entities", "sources"),
    [
        (["reader project"], 3, 7, ["airport", "place", "visit"], {"guests": 2, "observations": 2, "visits": 1}),
        (["writer project"], 3, 7, ["airport", "place", "visit"], {"guests": 2, "observations": 2, "visits": 1}),
        (["reader service:delay_model"], ["delay_model"], [], ["airport"], {}),
        (["reader service:guests_model"], ["guests_model"], [], ["place"], {}),
        (["reader view:weather"], [], ["weather"], ["airport"], {"observations": 1}),
        (["reader view:risk"], [], ["risk"], ["airport"], {}),
        (["writer view:weather", "reader service:every_model"], ["every_model"], ["weather"], ["airport", "visit"],
         {"observations": 1}),
    ],
    ids=str,
)  # fmt: skip
def test_lists_have_what_whoever_asks_may_look_at(
    client: httpx.Client, store: FeatureStore, grants: list[str], services: Any, views: Any, entities: Any, sources: Any
) -> None:
    headers = key_of(store, *grants)
    told = {kind: client.get(f"/v1/{kind}", headers=headers).json()[kind] for kind in ("services", "views", "entities", "sources")}
    for kind, expected in (("services", services), ("views", views), ("entities", entities)):
        found = [each["name"] for each in told[kind]]
        assert (len(found) if isinstance(expected, int) else found) == expected, kind
    assert {each["name"]: len(each["views"]) for each in told["sources"]} == sources
    for kind in ("services", "views"):  # each is told of by itself exactly where it is listed
        listed = {each["name"] for each in told[kind]}
        known = {*store.catalog.services} if kind == "services" else {*store.catalog.views, *store.catalog.on_demand}
        for name in known:
            assert client.get(f"/v1/{kind}/{name}", headers=headers).status_code == (200 if name in listed else 403), name


def test_the_document_has_what_whoever_asks_may_do(client: httpx.Client, store: FeatureStore) -> None:
    def document(*grants: str) -> tuple[str, set[str], set[str], Any]:
        answer = client.get("/openapi.json", headers=key_of(store, *grants))
        told = answer.json()
        schemas = told["components"]["schemas"]
        names = {name.removesuffix("Row") for name in schemas if name.endswith("Row")}
        asked = set(schemas["FeatureName"].get("enum", []))
        return answer.text, names, asked, told["paths"]

    text, names, asked, paths = document("reader service:delay_model")
    assert "DelayModel" in names
    assert {"weather.temp", "recent.readings_1h", "risk.per_mile"} < asked
    assert "/v1/push/{source}" not in paths
    for secret in ("every", "guest", "visits", "observations"):
        assert secret not in text.replace("everything", "").replace("everybody", ""), secret
    assert "examples" not in text  # they would name entities

    text, names, asked, paths = document("reader project")
    assert "GuestsModel" not in names  # some of it takes a grant with pii
    assert "guest.gust" in asked
    assert "guest.temp" not in asked
    assert "GuestsModel" in document("reader project", "reader service:guests_model pii")[1]

    text, names, asked, paths = document("writer view:weather", "writer view:recent")
    assert (names, asked) == (set(), set())
    assert "/v1/online" not in paths
    assert "/v1/training" not in paths
    [place] = [each for each in paths["/v1/push/{source}"]["post"]["parameters"] if each["in"] == "path"]
    assert place["schema"]["enum"] == ["observations"]
    assert "examples" in document("admin project")[0]


def test_a_name_that_is_not_there_suggests_none_that_may_not_be_seen(store: FeatureStore) -> None:
    with Issuer() as issuer:
        settings = {"oidc": {"issuer": issuer.url, "audience": AUDIENCE, "grants": {"ml": "reader service:delay_modl"}}}
        with FeatureStore(store.settings.root, **settings) as opened, client_of(opened) as client:
            for headers, suggested in ((bearer(issuer.sign(claims_of(issuer))), False), (key_of(store, "reader project"), True)):
                answer = client.get("/v1/services/delay_modl", headers=headers)
                assert (answer.status_code, "delay_model" in answer.text) == (404, suggested)


def test_a_reader_of_a_service_reads_it_and_no_more(client: httpx.Client, store: FeatureStore) -> None:
    headers = key_of(store, "reader service:delay_model")
    assert client.post("/v1/online", json=ASKED, headers=headers).status_code == 200
    assert client.get("/v1/services/delay_model", headers=headers).status_code == 200
    for path in ("/metrics", "/v1/services/every_model", "/v1/views/weather"):
        assert client.get(path, headers=headers).status_code == 403, path
    assert client.post("/v1/push/observations", json={"rows": []}, headers=headers).status_code == 403


@pytest.mark.parametrize(
    ("features", "grants", "status"),
    [
        ("guests_model", ["reader project"], 403),
        ("guests_model", ["admin project"], 403),
        ("guests_model", ["reader service:guests_model"], 403),
        ("guests_model", ["reader service:guests_model pii"], 200),
        ("guest", ["reader view:guest"], 403),
        ("guest.temp", ["reader project"], 403),
        ("guest.gust", ["reader project"], 200),
        ("guest.temp", ["reader view:guest pii"], 200),
        ("seen.warmth", ["reader project"], 403),
        ("seen.warmth_1h", ["reader project"], 403),
        ("seen.warmth", ["reader view:seen pii"], 200),
        ("made.doubled", ["reader project"], 403),
        ("made.halved", ["reader project"], 200),
        ("made.doubled", ["reader view:made pii"], 403),
        ("made.doubled", ["reader view:made pii", "reader view:guest"], 403),
        ("made.doubled", ["reader view:made pii", "reader view:guest pii"], 200),
        ("made.doubled", ["writer project pii"], 403),
    ],
)
def test_personal_information_takes_a_grant_of_its_own(
    client: httpx.Client, store: FeatureStore, features: str, grants: list[str], status: int
) -> None:
    """Through a service, a view, a family of windows and what is computed on demand."""
    asked = {"features": features, "rows": [{"origin": "JFK"}]}
    answer = client.post("/v1/online", json=asked, headers=key_of(store, *grants))
    assert answer.status_code == status, answer.text


def test_what_is_personal_information_is_told(client: httpx.Client, store: FeatureStore) -> None:
    """Of what is computed from some as well, by view and by service."""
    headers = key_of(store, "reader project")
    views = {each["name"]: each for each in client.get("/v1/views", headers=headers).json()["views"]}
    marked = {name: [each["name"] for each in view["features"] if each["pii"]] for name, view in views.items()}
    assert {name: names for name, names in marked.items() if names} == {
        "guest": ["temp"], "seen": ["warmth_1h", "warmth_36500d"], "made": ["doubled"],
    }  # fmt: skip
    service = client.get("/v1/services/guests_model", headers=headers).json()
    assert [each["of"] for each in service["features"] if each["pii"]] == [
        "guest.temp", "seen.warmth_1h", "seen.warmth_36500d", "made.doubled",
    ]  # fmt: skip
    assert client.get("/v1/views/made", headers=headers).json() == views["made"]


def test_a_writer_pushes_where_every_view_is_theirs(client: httpx.Client, store: FeatureStore) -> None:
    rows = {"rows": []}
    for grants, status in (
        (["writer view:weather"], 403),
        (["writer view:weather", "writer view:recent"], 200),
        (["reader project"], 403),
        (["writer project"], 200),
    ):
        answer = client.post("/v1/push/observations", json=rows, headers=key_of(store, *grants))
        assert (answer.status_code == 403) == (status == 403), (grants, answer.text)


def test_a_key_of_another_project_is_none(client: httpx.Client, store: FeatureStore) -> None:
    with FeatureStore(store.settings.root, project="other") as other:
        made = other.keys.create("stranger", ["admin project pii"])
    assert client.post("/v1/online", json=ASKED, headers=bearer(made.secret)).status_code == 401


def test_an_expired_key_is_told_so(client: httpx.Client, store: FeatureStore) -> None:
    made = store.keys.create("short", ["reader project"], expires="1ms")
    wait_until(lambda: made.key.state(store.components.clock()) == "expired", "it does not expire")
    answer = client.post("/v1/online", json=ASKED, headers=bearer(made.secret))
    assert (answer.status_code, "expired" in answer.json()["detail"]) == (401, True)


def test_a_token_of_the_issuer_is_admitted(store: FeatureStore) -> None:
    with Issuer() as issuer:
        settings = {"oidc": {"issuer": issuer.url, "audience": AUDIENCE, "grants": {"ml": "reader service:delay_model"}}}
        with FeatureStore(store.settings.root, **settings) as opened, client_of(opened) as client:
            good = issuer.sign(claims_of(issuer))
            assert client.post("/v1/online", json=ASKED, headers=bearer(good)).status_code == 200
            assert client.get("/v1/views", headers=bearer(good)).json() == {"views": []}
            assert client.post("/v1/online", json=ASKED, headers=bearer(good[:-2])).status_code == 401
            assert client.post("/v1/online", json=ASKED, headers=key_of(store, "reader project")).status_code == 200


def test_an_apply_changes_what_a_grant_is_good_for(tmp_path: Path) -> None:
    folder = make_project(tmp_path / "lab")
    (folder / "definitions" / "guests.py").write_text(PII.replace("pii=True", "pii=False"))
    with FeatureStore(folder, access="required", catalog_refresh="50ms") as store:
        store.apply()
        store.materialize()
        with client_of(store) as client:
            headers = key_of(store, "reader project")
            asked = {"features": "made.doubled", "rows": [{"origin": "JFK"}]}
            assert client.post("/v1/online", json=asked, headers=headers).status_code == 200
            (folder / "definitions" / "guests.py").write_text(PII)
            with FeatureStore(folder) as elsewhere:
                elsewhere.apply()
            wait_until(lambda: client.post("/v1/online", json=asked, headers=headers).status_code == 403, "it is read on")


@pytest.mark.slow
def test_a_revoked_key_is_over_within_seconds_on_all_workers(tmp_path: Path) -> None:
    folder = make_project(tmp_path / "lab")
    with FeatureStore(folder) as store:
        store.apply()
        made = store.keys.create("test", ["reader project"])
        with Serve(folder, "--workers", "2", FEATURESTORE_ACCESS="required") as server:

            def statuses() -> set[int]:
                return {httpx.get(f"{server.url}/v1/views", headers=bearer(made.secret), timeout=60).status_code for _ in range(16)}

            wait_until(lambda: statuses() == {200}, "the key does not count")
            store.keys.revoke(made.key.id)
            wait_until(lambda: statuses() == {401}, "the key goes on to count")
            assert statuses() == {401}
            new = store.keys.create("test", ["reader project"])
            assert httpx.get(f"{server.url}/v1/views", headers=bearer(new.secret)).status_code == 200


@pytest.mark.parametrize(
    ("settings", "guard"),
    [
        ({}, OpenGuard),
        ({"server": {"host": "::1"}}, OpenGuard),
        ({"access": "required"}, AccessGuard),
        ({"server": {"host": "0.0.0.0"}}, AccessGuard),
        ({"server": {"host": "example.com"}}, AccessGuard),
        ({"server": {"host": "0.0.0.0"}, "access": "open"}, OpenGuard),
        ({"oidc": {"issuer": "https://issuer.example", "audience": "fs"}}, AccessGuard),
    ],
)
def test_everybody_is_admitted_on_loopback_alone(lab_folder: Path, settings: dict[str, Any], guard: type) -> None:
    with FeatureStore(lab_folder, **settings) as store:
        assert type(make_guard(store)) is guard


def test_others_are_not_served_before_it_is_said_who_they_may_be(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = make_project(tmp_path / "lab")
    for settings in ({"server": {"host": "0.0.0.0"}}, {"server": {"host": "10.0.0.1", "port": 1}}):
        with FeatureStore(folder, **settings) as store, pytest.raises(ConfigError, match="there is no key"):
            require_access(store)
    allowed: list[dict[str, Any]] = [
        {}, {"server": {"host": "0.0.0.0"}, "access": "required"}, {"server": {"host": "0.0.0.0"}, "access": "open"},
        {"server": {"host": "0.0.0.0"}, "oidc": {"issuer": "https://issuer.example", "audience": "fs"}},
    ]  # fmt: skip
    for settings in allowed:
        with FeatureStore(folder, **settings) as store, caplog.at_level(logging.WARNING):
            require_access(store)
    assert [record.message for record in caplog.records] == ['Everybody who reaches 0.0.0.0 is admitted, for access is "open".']
    with FeatureStore(folder, server={"host": "0.0.0.0"}) as store:
        made = store.keys.create("test", ["reader project"])
        require_access(store)
        store.keys.revoke(made.key.id)
        with pytest.raises(ConfigError, match="there is no key"):
            require_access(store)
    with (
        FeatureStore(folder, oidc={"issuer": "https://issuer.example"}) as store,
        pytest.raises(ConfigError, match=r"oidc\.audience"),
    ):
        require_access(store)


PROXIED = {"x-forwarded-for": "1.2.3.4", "x-forwarded-host": "a.example", "forwarded": "for=1.2.3.4", "x-real-ip": "1.2.3.4",
           "via": "1.1 proxy"}  # fmt: skip


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a server on loopback that needs no key yet."""
    folder = make_project(tmp_path_factory.mktemp("local") / "lab")
    with FeatureStore(folder, server={"origins": ("https://app.example",)}) as store:
        store.apply()
        store.materialize()
        with client_of(store) as client:
            yield client


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:8372"}, 200),
        ({"host": "lab.localhost"}, 200),
        ({"host": "[::1]:8372"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": "localhost.evil.example"}, 403),
        ({"host": "localhost@evil.example"}, 403),
        ({"host": "192.168.1.2"}, 403),
        ({"host": "[::1"}, 403),
        ({"host": ""}, 403),
        *(({name: value}, 403) for name, value in PROXIED.items()),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "localhost:8372", "origin": "http://localhost:8372"}, 200),
        ({"host": "localhost:8372", "origin": "http://localhost:3000"}, 403),
        ({"origin": "https://app.example", "sec-fetch-site": "cross-site"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
    ],
    ids=str,
)
def test_k12_without_a_key_only_this_machine_is_answered(local: httpx.Client, headers: dict[str, str], status: int) -> None:
    """No other Host (rebinding), nothing forwarded, no page from elsewhere, in look-ups and in what is only read."""
    asked = {"features": "weather.temp", "rows": [{"origin": "JFK"}]}
    for answer in (local.post("/v1/online", json=asked, headers=headers), local.get("/v1/views", headers=headers)):
        assert answer.status_code == status, answer.text


def test_k12_once_there_is_a_key_it_is_needed_on_loopback_too(tmp_path: Path) -> None:
    folder = make_project(tmp_path / "lab")
    with FeatureStore(folder) as store:
        store.apply()
        with client_of(store) as client:
            assert client.get("/v1/views").status_code == 200
            made = store.keys.create("first", ["reader project"])
            wait_until(lambda: client.get("/v1/views").status_code == 401, "it is answered without a key")
            assert client.get("/v1/views", headers=bearer(made.secret)).status_code == 200
            assert client.get("/v1/views", headers=bearer(made.secret + "x")).status_code == 401
            store.keys.revoke(made.key.id)
            wait_until(lambda: client.get("/v1/views", headers=bearer(made.secret)).status_code == 401, "the key counts on")
            assert client.get("/v1/views").status_code == 401


def test_k23_pages_of_other_origins_may_ask_where_the_settings_say_so(local: httpx.Client, client: httpx.Client) -> None:
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization, content-type"}
    answer = local.options("/v1/online", headers={"origin": "https://app.example", **asks})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert "access-control-allow-credentials" not in answer.headers
    assert (
        "access-control-allow-origin" not in local.options("/v1/online", headers={"origin": "https://evil.example", **asks}).headers
    )
    off = client.options("/v1/online", headers={"origin": "https://app.example", **asks})
    assert off.status_code == 405
    assert "access-control-allow-origin" not in off.headers


def test_k15_a_hidden_view_is_answered_like_one_that_is_not_there(client: httpx.Client, store: FeatureStore) -> None:
    headers = key_of(store, "writer view:weather", "writer view:recent")
    answers = {}
    for name in ("guest", "gues", "every", "made", "nothing_like_it"):
        for given in ({"params": {"views": name}, "json": {"rows": []}}, {"json": {"rows": [], "views": [name]}}):
            answer = client.post("/v1/push/observations", headers=headers, **given)  # type: ignore[arg-type]  # of httpx
            answers[answer.status_code, answer.text.replace(name, "…")] = name
            for hidden in ("guest", "every", "seen", "made", "risk"):
                assert hidden == name or f"'{hidden}'" not in answer.text
    assert {status for status, _ in answers} == {404}
    assert len(answers) == 1, answers


def test_k15_no_error_suggests_what_a_grant_does_not_show(client: httpx.Client, store: FeatureStore) -> None:
    for grants in (["reader view:guest", "reader service:every_model"], ["reader view:every pii"], ["writer view:guest"]):
        headers = key_of(store, *grants)
        shown = {each.split(":")[-1].removesuffix(" pii") for each in grants}
        for name in ("guets", "guest.tmp", "evry", "evry.smal", "delay_modl", "sen", "mad.doubld", "weathr"):
            for answer in (
                client.post("/v1/online", json={"features": name, "rows": [{"origin": "JFK"}]}, headers=headers),
                client.get(f"/v1/views/{name}", headers=headers),
                client.get(f"/v1/services/{name}", headers=headers),
            ):
                assert answer.status_code in (403, 404)
                for hidden in {"guest", "every", "seen", "made", "weather", "delay_model"} - shown:
                    assert f"'{hidden}'" not in answer.text, (grants, name)


def test_k15_who_may_not_read_is_not_told_whether_a_row_was_there(client: httpx.Client, store: FeatureStore) -> None:
    rows = {"rows": [{"origin": "XXX", "observed_at": "2026-01-01T00:00:00Z", "temp": 1.0, "gust": 1.0}]}
    writer, both = key_of(store, "writer project"), key_of(store, "writer project", "reader view:weather")
    for _ in range(2):
        told = client.post("/v1/push/observations", json=rows, headers=writer).json()["views"]
        assert {(each["rows_read"], each["rows_new"], each["rows_known"], each["rows_online"]) for each in told} == {
            (1, None, None, None)
        }
    told = {each["view"]: each for each in client.post("/v1/push/observations", json=rows, headers=both).json()["views"]}
    assert (told["weather"]["rows_new"], told["weather"]["rows_known"], told["recent"]["rows_known"]) == (0, 1, None)


def test_k10_a_large_body_of_one_who_reads_nothing_is_refused_before_it_is_read(client: httpx.Client, store: FeatureStore) -> None:
    key = key_of(store, "monitor project")["authorization"]
    url = client.base_url
    with socket.create_connection((url.host, url.port or 0), timeout=20) as connection:
        head = f"POST /v1/online HTTP/1.1\r\nhost: x\r\nauthorization: {key}\r\ncontent-type: application/json\r\n"
        connection.sendall(head.encode() + b"content-length: 30000000\r\n\r\n{")  # and no more ever comes
        answer = b""
        while part := connection.recv(65_536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 403")
    assert b"connection: close" in answer
