"""The OpenAPI document: complete, typed, of what is applied; the pages about it; and requests made from it."""

import re
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from featurestore import FeatureStore
from featurestore.server.app import create_app
from featurestore.server.routes import ROUTES
from tests.server.conftest import served
from tests.servers.valkey import wait_until


def test_every_route_of_the_table_that_has_words_is_in_it(http: httpx.Client) -> None:
    told = http.get("/openapi.json").json()
    there = {(method.upper(), path) for path, methods in told["paths"].items() for method in methods}
    assert there == {(spec.method, spec.path) for spec in ROUTES if spec.summary}
    assert {spec.path for spec in ROUTES if not spec.summary} == {"/openapi.json", "/docs", "/docs/{file}", "/metrics"}


def test_every_reference_leads_somewhere(http: httpx.Client) -> None:
    answer = http.get("/openapi.json")
    names = set(re.findall(r'"\$ref":"#/components/schemas/([^"]+)"', answer.text))
    assert names <= set(answer.json()["components"]["schemas"])


def test_a_service_has_schemas_of_its_own(http: httpx.Client) -> None:
    schemas = http.get("/openapi.json").json()["components"]["schemas"]
    row = schemas["delay_model.row"]
    assert row["required"] == ["origin", "distance"]
    assert row["properties"]["origin"]["nullable"]
    assert row["properties"]["distance"] == {"type": "number", "minimum": 0, "description": "Miles"}
    assert row["properties"]["kind"] == {"type": "string", "enum": ["air", "road"], "default": "air"}
    answer = schemas["delay_model.answer"]["properties"]
    assert set(answer["features"]["required"]) == set(answer["status"]["required"])
    assert answer["features"]["properties"]["temp"]["items"]["description"] == "Air temperature; in °F"
    assert set(answer["event_time"]["required"]) == {"weather", "recent"}
    every = schemas["every_model.answer"]["properties"]["features"]["properties"]
    assert every["small"]["items"]["minimum"] == -128
    assert every["vector"]["items"]["maxItems"] == 3
    assert every["blob"]["items"]["format"] == "byte"


def test_it_changes_with_an_apply(own: FeatureStore) -> None:
    with served(create_app(own)) as url, httpx.Client(base_url=url) as client:
        assert "delay_model.row" in client.get("/openapi.json").json()["components"]["schemas"]
        definitions = own.settings.root / "definitions" / "lab.py"
        definitions.write_text(definitions.read_text().replace('FeatureService("delay_model"', 'FeatureService("renamed"'))
        own.apply(allow_breaking=True)

        def renamed() -> bool:
            return "renamed.row" in client.get("/openapi.json").json()["components"]["schemas"]

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


GENERATED = settings(
    max_examples=50,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.mark.parametrize(
    "spec", [spec for spec in ROUTES if spec.summary and spec.path != "/v1/training"], ids=lambda spec: spec.path
)
def test_what_the_document_allows_is_answered_as_it_says(url: str, spec: Any) -> None:
    document = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operation = document[spec.path][spec.method]

    @GENERATED
    @given(case=operation.as_strategy())
    def check(case: Any) -> None:
        case.call_and_validate(checks=CHECKS)

    check()
