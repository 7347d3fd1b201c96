"""The OpenAPI document: complete, typed, of what is applied; the pages about it; and requests made from it."""

import io
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from featurestore import FeatureStore
from featurestore.server.app import create_app
from featurestore.server.endpoints.table import ROUTES
from featurestore.server.http.content_types import ARROW, PARQUET
from featurestore.server.http.routing import ApiRoute
from tests.effort import examples
from tests.server.conftest import make_project, served
from tests.servers.valkey import wait_until

DESCRIBED = [route for route in ROUTES if route.operation is not None]


def paths_of(route: ApiRoute) -> list[str]:
    """Where a route stands in the document: once, or once for each service."""
    assert route.operation is not None
    services = ("delay_model", "every_model") if route.operation.of_each_service else ("{name}",)
    return [route.path.replace("{name}", service) for service in services]


def test_every_route_of_the_table_that_has_an_operation_is_in_it(http: httpx.Client) -> None:
    told = http.get("/openapi.json").json()
    there = {(method.upper(), path) for path, methods in told["paths"].items() for method in methods}
    assert there == {(route.method, path) for route in DESCRIBED for path in paths_of(route)}
    assert {route.path for route in ROUTES} - {route.path for route in DESCRIBED} == {
        "/", "/openapi.json", "/docs", "/docs/{file}", "/metrics",
    }  # fmt: skip


def test_n12_generators_find_a_name_for_each_schema_and_operation(http: httpx.Client) -> None:
    """Schemas are in PascalCase, operations in camelCase, and no two are alike, not even but for case."""
    told = http.get("/openapi.json").json()
    schemas = list(told["components"]["schemas"])
    operations = [each for methods in told["paths"].values() for each in methods.values()]
    ids = [each["operationId"] for each in operations]
    assert [name for name in schemas if not re.fullmatch(r"[A-Z][A-Za-z0-9]*", name)] == []
    assert [name for name in ids if not re.fullmatch(r"[a-z][A-Za-z0-9]*", name)] == []
    for names in (schemas, ids):
        assert len({name.lower() for name in names}) == len(names)
    assert {"lookUp", "lookUpDelayModel", "pushRows", "fetchTrainingFrame", "listServices", "getView"} <= set(ids)
    assert all(len(each["tags"]) == 1 and each["tags"][0] in {tag["name"] for tag in told["tags"]} for each in operations)


def test_n12_a_service_has_a_path_of_its_own_with_rows_of_its_own(http: httpx.Client) -> None:
    told = http.get("/openapi.json").json()
    schemas = told["components"]["schemas"]
    operation = told["paths"]["/v1/services/delay_model/online"]["post"]
    assert operation["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/DelayModelRequest"}
    answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer == {"$ref": "#/components/schemas/DelayModelResponse"}
    assert "features" not in schemas["DelayModelRequest"]["properties"]
    assert schemas["DelayModelRequest"]["required"] == ["rows"]
    example = operation["requestBody"]["content"]["application/json"]["example"]
    assert http.post("/v1/services/delay_model/online", json=example).status_code == 200


def test_n12_what_is_chosen_from_has_a_name_where_many_choose_from_it(http: httpx.Client) -> None:
    """A generator makes a class of each list of choices: not one for the statuses of each feature."""
    told = http.get("/openapi.json").json()
    schemas = told["components"]["schemas"]
    assert schemas["DelayModelStatuses"]["properties"]["temp"]["items"] == {"$ref": "#/components/schemas/FeatureStatus"}
    assert schemas["FeatureStatus"]["enum"] == ["expired", "missing", "null", "present"]
    assert schemas["EveryModelFeatures"]["properties"]["double"]["items"]["anyOf"][1] == {"$ref": "#/components/schemas/NotFinite"}


def test_the_schemas_are_of_openapi_3_0(http: httpx.Client) -> None:
    """Its schemas differ from those of JSON Schema: no null among the types, no empty list of what is required."""
    text = http.get("/openapi.json").text
    for wrong in ('"required":[]', '"type":"null"', '"type":[', '"$defs"', '"propertyNames"', '"examples":['):
        assert wrong not in text, wrong


def test_problems_are_described_where_they_may_come(http: httpx.Client) -> None:
    for path, methods in http.get("/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            problems = {status: answer for status, answer in operation["responses"].items() if status != "200"}
            assert {"503"} <= set(problems), path
            assert method == "get" or {"400", "413", "415", "422"} <= set(problems), path
            for answer in problems.values():
                assert answer["content"]["application/problem+json"]["schema"] == {"$ref": "#/components/schemas/ProblemDetails"}


def test_every_reference_leads_somewhere(http: httpx.Client) -> None:
    answer = http.get("/openapi.json")
    names = set(re.findall(r'"\$ref":"#/components/schemas/([^"]+)"', answer.text))
    assert names <= set(answer.json()["components"]["schemas"])


def test_a_service_has_schemas_of_its_own(http: httpx.Client) -> None:
    schemas = http.get("/openapi.json").json()["components"]["schemas"]
    row = schemas["DelayModelRow"]
    assert row["required"] == ["origin", "distance"]
    assert row["properties"]["origin"]["nullable"]
    assert row["properties"]["distance"] == {"type": "number", "minimum": 0, "description": "Miles"}
    assert row["properties"]["kind"] == {"type": "string", "enum": ["air", "road"], "default": "air"}
    assert schemas["DelayModelResponse"]["properties"]["features"] == {"$ref": "#/components/schemas/DelayModelFeatures"}
    assert set(schemas["DelayModelFeatures"]["required"]) == set(schemas["DelayModelStatuses"]["required"])
    assert schemas["DelayModelFeatures"]["properties"]["temp"]["items"]["description"] == "Air temperature; in °F"
    assert set(schemas["DelayModelEventTimes"]["required"]) == {"weather", "recent"}
    every = schemas["EveryModelFeatures"]["properties"]
    assert every["small"]["items"]["minimum"] == -128
    assert every["vector"]["items"]["maxItems"] == 3
    assert every["blob"]["items"]["format"] == "byte"


def test_it_changes_with_an_apply(own: FeatureStore) -> None:
    with served(create_app(own)) as url, httpx.Client(base_url=url) as client:
        assert "DelayModelRow" in client.get("/openapi.json").json()["components"]["schemas"]
        definitions = own.settings.root / "definitions" / "lab.py"
        definitions.write_text(definitions.read_text().replace('FeatureService("delay_model"', 'FeatureService("renamed"'))
        own.apply(allow_breaking=True)

        def renamed() -> bool:
            return "RenamedRow" in client.get("/openapi.json").json()["components"]["schemas"]

        wait_until(renamed, "the document stays as it was")


def test_the_page_needs_nothing_from_elsewhere(http: httpx.Client) -> None:
    page = http.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert (page.headers["x-content-type-options"], page.headers["x-frame-options"]) == ("nosniff", "DENY")
    assert "://" not in page.text
    for file in re.findall(r'(?:href|src)="([^"]+)"', page.text):
        assert http.get(f"/{file}").status_code == 200, file
    assert http.get("/docs/index.html").status_code == 404
    assert http.get("/docs/..%2f__init__.py").status_code == 404


def test_the_limit_of_rows_is_the_servers(lab_folder: Path) -> None:
    with FeatureStore(lab_folder, server={"max_rows": 7}) as store, served(create_app(store)) as url:
        told = httpx.get(f"{url}/openapi.json").json()
        schemas = told["components"]["schemas"]
        assert schemas["DelayModelRequest"]["properties"]["rows"]["anyOf"][0]["maxItems"] == 7
        assert schemas["DelayModelColumns"]["properties"]["origin"]["maxItems"] == 7
        assert httpx.post(f"{url}/v1/online", json={"features": "weather", "rows": [{"origin": "JFK"}] * 8}).status_code == 422
        assert "10000" not in str(told)


def encoded(kind: str, rows: list[tuple[str, int, float | None]], *, pushed: bool) -> bytes:
    """A frame: rows of the source for /v1/push, or a spine for /v1/training."""
    schema = {"origin": pl.String, "observed_at": pl.Datetime("us", "UTC"), "temp": pl.Float64}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    frame = frame.with_columns(gust="temp") if pushed else frame.select("origin", event_time="observed_at")
    buffer = io.BytesIO()
    frame.write_ipc_stream(buffer) if kind == ARROW else frame.write_parquet(buffer)
    return buffer.getvalue()


ROWS = st.lists(
    st.tuples(st.sampled_from(["JFK", "LGA", "né", ""]), st.integers(-(10**15), 3 * 10**15), st.none() | st.floats()), min_size=1
)
for kind in (ARROW, PARQUET):
    frames = ROWS.map(partial(encoded, kind, pushed=True)) | ROWS.map(partial(encoded, kind, pushed=False))
    hostile = st.tuples(frames, st.integers(0, 600), st.binary(max_size=9)).map(lambda it: it[0][: it[1]] + it[2])
    schemathesis.openapi.media_type(kind, frames | hostile | st.binary(max_size=64))

SENSIBLE: dict[str, dict[str, Any]] = {
    "/v1/online": {"body": {"features": ["weather.temp"], "rows": [{"origin": "JFK"}]}, "media_type": "application/json"},
    "/v1/training": {"query": {"features": "recent,weather.gusty"}},
    "/v1/push/{source}": {"path_parameters": {"source": "observations"}, "query": {"views": "weather,recent"}, "media_type": ARROW},
}
"""What is said in half of the requests, for others than those that are refused at once to be among them."""
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of a project that may be written to."""
    with FeatureStore(make_project(tmp_path_factory.mktemp("scratch") / "lab")) as store:
        store.apply()
        store.materialize()
        with served(create_app(store)) as url:
            yield url


def answered(url: str, route: ApiRoute, mode: GenerationMode, tries: int, checks: list[Any]) -> set[int]:
    """Sends requests made from the document, checks the answers, and returns their statuses."""
    operation = schemathesis.openapi.from_url(f"{url}/openapi.json")[paths_of(route)[0]][route.method]
    statuses: set[int] = set()

    @settings(
        max_examples=tries, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(mode) | operation.as_strategy(mode, **SENSIBLE.get(route.path, {})))
    def check(case: schemathesis.Case) -> None:
        statuses.add(case.call_and_validate(checks=checks).status_code)

    check()
    return statuses


@pytest.mark.thorough
@pytest.mark.parametrize("route", DESCRIBED, ids=lambda route: route.path)
def test_what_the_document_allows_is_answered_as_it_says(scratch: str, route: ApiRoute) -> None:
    assert 200 in answered(scratch, route, GenerationMode.POSITIVE, examples(80) if route.method == "POST" else 5, CHECKS)


FALLIBLE = [route for route in DESCRIBED if (route.method == "POST" or "{" in route.path)]


@pytest.mark.thorough
@pytest.mark.parametrize("route", FALLIBLE, ids=lambda route: route.path)
def test_what_the_document_does_not_allow_is_the_clients_fault(scratch: str, route: ApiRoute) -> None:
    checks = [not_a_server_error, status_code_conformance]
    statuses = answered(scratch, route, GenerationMode.NEGATIVE, examples(80) if route.method == "POST" else 10, checks)
    assert min(statuses - {200}) >= 400


def test_d38_a_file_of_the_page_is_read_once(http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert http.get("/docs/swagger-ui-bundle.js").status_code == 200
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail("it is read again"))
    assert len(http.get("/docs/swagger-ui-bundle.js").content) > 1_000_000
