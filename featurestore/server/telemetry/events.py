"""Telemetry events: called after an answer is sent; an observer cannot fail or delay a request."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from featurestore.materialization.results import PushSummary
    from featurestore.retrieval.online_result import OnlineRows
    from featurestore.server.http.context import RequestContext


class Telemetry(Protocol):
    """Is told what the server did, after the answer is sent. What it raises is logged, and the request knows nothing of it."""

    def request(self, route: str, status: int, seconds: float, visit: "RequestContext") -> None:
        """Is told of every request: its route as the table writes it, the status, how long it took, and who asked for what."""

    def online(self, selection_name: str, rows: "OnlineRows") -> None:
        """Is told of every online read that was answered: what was asked for ("delay_model", "weather.temp,…"), and the rows."""

    def push(self, summary: "PushSummary") -> None:
        """Is told of every push."""

    def close(self) -> None:
        """Is told that the server ends: what is not written yet is written now. It may block."""

    def metrics(self) -> bytes:
        """Returns what was counted, as Prometheus reads it; empty where nothing is."""


class NullTelemetry:
    """Looks away."""

    def request(self, route: str, status: int, seconds: float, visit: "RequestContext") -> None:
        """Does nothing."""

    def online(self, selection_name: str, rows: "OnlineRows") -> None:
        """Does nothing."""

    def push(self, summary: "PushSummary") -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""

    def metrics(self) -> bytes:
        """Returns nothing."""
        return b""
