"""Discovery and health: what is told of what is applied, and whether the server can answer."""

from pathlib import Path

import httpx
import pytest

from featurestore import FeatureStore
from featurestore.server.app import create_app
from tests.server.conftest import make_project, served
from tests.servers.valkey import ValkeyServer, wait_until


def names(answer: httpx.Response, kind: str) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [each["name"] for each in answer.json()[kind]]


def test_what_is_applied_is_listed(http: httpx.Client) -> None:
    assert names(http.get("/v1/services"), "services") == ["delay_model", "every_model"]
    assert names(http.get("/v1/views"), "views") == ["every", "recent", "risk", "weather"]
    assert names(http.get("/v1/entities"), "entities") == ["airport", "visit"]
    assert names(http.get("/v1/sources"), "sources") == ["observations", "visits"]


def test_a_source_does_not_tell_where_it_lies(http: httpx.Client) -> None:
    told = http.get("/v1/sources").json()["sources"][0]
    assert told == {
        "name": "observations", "kind": "parquet", "description": "Weather stations.", "owner": "", "event_time": "observed_at",
        "available_time": None, "event_id": None, "views": ["recent", "weather"],
    }  # fmt: skip


def test_a_service_tells_its_keys_fields_and_features(http: httpx.Client) -> None:
    told = http.get("/v1/services/delay_model").json()
    assert (told["owner"], told["description"], told["keys"]) == ("ops-ml", "Delays.", {"origin": "String"})
    request = {each["name"]: each for each in told["request"]}
    assert (request["distance"]["required"], request["distance"]["constraints"]) == (True, {"ge": 0})
    assert (request["kind"]["required"], request["kind"]["default"]) == (False, "air")
    features = {each["name"]: each for each in told["features"]}
    assert (features["temp"]["type"], features["temp"]["unit"]) == ("float | None", "°F")
    assert features["readings_1h"]["window"]["size"] == "1h"


def test_a_view_tells_its_types_and_windows(http: httpx.Client) -> None:
    assert http.get("/v1/views/weather").json()["kind"] == "latest"
    assert http.get("/v1/views/recent").json()["kind"] == "windowed"
    risk = http.get("/v1/views/risk").json()
    assert risk["kind"] == "on demand"
    assert 'col("distance")' in risk["features"][0]["expression"]


@pytest.mark.parametrize(("path", "suggestion"), [("services/delay_modl", "delay_model"), ("views/wether", "weather")])
def test_a_name_that_is_not_there_gets_a_suggestion(http: httpx.Client, path: str, suggestion: str) -> None:
    answer = http.get(f"/v1/{path}")
    assert answer.status_code == 404
    assert f"Did you mean {suggestion!r}" in answer.json()["suggestion"]


def test_a_server_with_its_stores_is_ready(http: httpx.Client) -> None:
    assert http.get("/healthz").json() == {"status": "ok"}
    assert http.get("/readyz").json() == {"status": "ready", "checks": {"registry": "ok", "online": "ok", "definitions": "ok"}}


def test_a_project_without_definitions_is_not_ready(tmp_path: Path) -> None:
    with FeatureStore(tmp_path) as store, served(create_app(store)) as url:
        answer = httpx.get(f"{url}/readyz")
    assert (answer.status_code, answer.json()["failing"]) == (503, ["definitions"])


def test_without_its_online_store_it_is_alive_and_not_ready_and_answers_503(tmp_path: Path) -> None:
    with ValkeyServer() as server, FeatureStore(make_project(tmp_path / "lab"), online=server.url) as store:
        store.apply()
        store.materialize()
        body = {"features": ["weather.temp"], "rows": [{"origin": "JFK"}]}
        with served(create_app(store)) as url, httpx.Client(base_url=url) as client:
            assert client.post("/v1/online", json=body).status_code == 200
            server.stop()
            answer = client.post("/v1/online", json=body)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            wait_until(lambda: client.get("/readyz").status_code == 503, "it stays ready")
            assert client.get("/readyz").json()["failing"] == ["online"]
            assert client.get("/healthz").status_code == 200
            server.start()
            store.admin.rebuild_online()
            assert client.post("/v1/online", json=body).json()["features"] == {"temp": [51.0]}
            wait_until(lambda: client.get("/readyz").status_code == 200, "it does not become ready")


def test_an_apply_elsewhere_is_noticed(own: FeatureStore) -> None:
    with served(create_app(own)) as url, httpx.Client(base_url=url) as client:
        body = {"features": "delay_model", "rows": [{"origin": "JFK", "distance": 1}], "metadata": False}
        assert "per_mile" in client.post("/v1/online", json=body).json()["features"]
        definitions = own.settings.root / "definitions" / "lab.py"
        text = definitions.read_text().replace('"delay_model", [Weather, Recent, Risk]', '"delay_model", [Weather.temp.alias("t")]')
        definitions.write_text(text)
        with FeatureStore(own.settings.root, project=own.settings.project, online=own.settings.online) as other:
            other.apply(allow_breaking=True)
        wait_until(lambda: client.post("/v1/online", json=body).json()["features"] == {"t": [51.0]}, "the apply is not noticed")
        assert [each["name"] for each in client.get("/v1/services/delay_model").json()["features"]] == ["t"]


@pytest.mark.slow
def test_two_projects_on_one_server_see_their_own_rows(tmp_path: Path, valkey_url: str) -> None:
    body = {"features": ["weather.temp"], "rows": [{"origin": "JFK"}, {"origin": "LGA"}]}
    answers = []
    for name in ("first", "second"):
        with FeatureStore(make_project(tmp_path / name), project=f"two_{name}", online=valkey_url) as store:
            store.apply()
            if name == "first":
                store.materialize()
            with served(create_app(store)) as url:
                answers.append(httpx.post(f"{url}/v1/online", json=body).json()["status"]["temp"])
    assert answers == [["present", "null"], ["missing", "missing"]]
