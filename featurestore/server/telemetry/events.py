"""Telemetry events: called after an answer is sent; an observer cannot fail or delay a request."""

from typing import TYPE_CHECKING, Protocol

from featurestore.server.http.context import RequestContext

if TYPE_CHECKING:
    from featurestore.materialization.results import PushSummary
    from featurestore.retrieval.online_result import OnlineRows


class Telemetry(Protocol):
    """Receive what the server did, after the answer is sent. Its errors are logged and do not affect the request."""

    def request(self, route: str, status: int, seconds: float, context: RequestContext) -> None:
        """Receive every request: its route as the table writes it, the status, how long it took, and who asked for what."""

    def online(self, selection_name: str, rows: "OnlineRows") -> None:
        """Receive every online read that was answered: what was asked for ("delay_model", "weather.temp,…"), and the rows."""

    def push(self, summary: "PushSummary") -> None:
        """Receive every push."""

    def close(self) -> None:
        """Write what is not written yet, as the server ends. It may block."""

    def metrics(self) -> bytes:
        """Return what was counted, as Prometheus reads it; empty where nothing is."""


class NullTelemetry:
    """Ignore everything."""

    def request(self, route: str, status: int, seconds: float, context: RequestContext) -> None:
        """Do nothing."""

    def online(self, selection_name: str, rows: "OnlineRows") -> None:
        """Do nothing."""

    def push(self, summary: "PushSummary") -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def metrics(self) -> bytes:
        """Return nothing."""
        return b""
