"""OpenTelemetry tracing: one span for each request, in the trace of its ``traceparent`` header."""

from typing import Any

from featurestore.clock import Clock, to_micros
from featurestore.errors import MissingExtraError
from featurestore.server.telemetry.events import NullTelemetry

try:
    from opentelemetry import propagate, trace
except ImportError as error:
    raise MissingExtraError("tracing=true", "tracing") from error

from featurestore.server.http.context import RequestContext


class Tracing(NullTelemetry):
    """Report every request to OpenTelemetry. What becomes of the spans is what the process is configured for (``OTEL_…``).

    Args:
        clock: tells the present.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tracer = trace.get_tracer("featurestore.server")

    def request(self, route: str, status: int, seconds: float, context: RequestContext) -> None:
        """Make the span of a request that was answered."""
        carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in context.scope["headers"] if name in _CARRIED}
        end = to_micros(self._clock()) * 1000
        attributes: dict[str, Any] = {
            "http.request.method": context.scope["method"], "http.route": route, "http.response.status_code": status,
            "featurestore.rows": context.rows,
        }  # fmt: skip
        if context.resource is not None:
            attributes["featurestore.asked"] = context.resource.names
        span = self._tracer.start_span(
            f"{context.scope['method']} {route}",
            propagate.extract(carrier) if carrier else None,
            trace.SpanKind.SERVER,
            attributes=attributes,
            start_time=end - round(seconds * 1e9),
        )
        if status >= 500:
            span.set_status(trace.StatusCode.ERROR)
        span.end(end)


_CARRIED = frozenset({b"traceparent", b"tracestate", b"baggage"})
