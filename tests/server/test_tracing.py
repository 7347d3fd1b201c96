"""Spans: one a request, in the caller's trace, when OpenTelemetry is asked for."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from featurestore import FeatureStore
from featurestore.server.app import create_app
from featurestore.server.telemetry.fan_out import make_observer
from tests.server.conftest import served

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture(scope="module")
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    yield exporter
    provider.shutdown()


def test_a_request_is_a_span(lab_folder: Path, spans: InMemorySpanExporter) -> None:
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
    with FeatureStore(lab_folder, tracing=True) as store, served(create_app(store, observer=make_observer(store))) as url:
        httpx.post(f"{url}/v1/online", json={"features": "weather", "rows": [{"origin": "JFK"}] * 2}, headers=headers)
        httpx.get(f"{url}/healthz")
    first, second = spans.get_finished_spans()
    assert (first.name, second.name) == ("POST /v1/online", "GET /healthz")
    assert first.kind is trace.SpanKind.SERVER
    assert first.attributes is not None
    assert dict(first.attributes) == {
        "http.request.method": "POST", "http.route": "/v1/online", "http.response.status_code": 200, "featurestore.rows": 2,
        "featurestore.asked": ("weather",),
    }  # fmt: skip
    assert first.parent is not None
    assert (f"{first.context.trace_id:032x}", f"{first.parent.span_id:016x}") == (TRACE, SPAN)
    assert 0 < (first.end_time or 0) - (first.start_time or 0) < 60_000_000_000
    assert second.parent is None


def test_none_is_made_without_being_asked_for(lab_folder: Path, spans: InMemorySpanExporter) -> None:
    spans.clear()
    with FeatureStore(lab_folder) as store, served(create_app(store, observer=make_observer(store))) as url:
        httpx.get(f"{url}/healthz")
    assert spans.get_finished_spans() == ()
