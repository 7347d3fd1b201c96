"""The observers of a server: chosen by its settings, and called independently of one another."""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from featurestore.server.backend import Backend, backend_of
from featurestore.server.http.context import RequestContext
from featurestore.server.telemetry.access_log import AccessLog
from featurestore.server.telemetry.audit import AuditLog
from featurestore.server.telemetry.events import Telemetry
from featurestore.server.telemetry.feature_log import FeatureLogging
from featurestore.server.telemetry.metrics import Metrics
from featurestore.store import FeatureStore

if TYPE_CHECKING:
    from featurestore.materialization.results import PushSummary
    from featurestore.retrieval.online_result import OnlineRows

_log = logging.getLogger("featurestore.server")


class Observers:
    """Several observers, each called by itself: if one fails, that is logged, and the others are still called.

    Args:
        observers: the observers.
    """

    def __init__(self, observers: Sequence[Telemetry]) -> None:
        self._observers = tuple(observers)

    def request(self, route: str, status: int, seconds: float, context: RequestContext) -> None:
        """Return each."""
        self._each(lambda observer: observer.request(route, status, seconds, context))

    def online(self, selection_name: str, rows: "OnlineRows") -> None:
        """Return each."""
        self._each(lambda observer: observer.online(selection_name, rows))

    def push(self, summary: "PushSummary") -> None:
        """Return each."""
        self._each(lambda observer: observer.push(summary))

    def close(self) -> None:
        """Return each."""
        self._each(lambda observer: observer.close())

    def metrics(self) -> bytes:
        """Return what they counted."""
        return b"".join(observer.metrics() for observer in self._observers)

    def _each(self, tell: Callable[[Telemetry], None]) -> None:
        for observer in self._observers:
            try:
                tell(observer)
            except Exception as error:  # noqa: BLE001 - whatever an observer does, it must not fail a request
                # NOTE: without the error's text, which may have values.
                _log.error("%s failed: %s.", type(observer).__name__, type(error).__name__)


def make_observer(store: FeatureStore | Backend) -> Telemetry:
    """Return the observers that a project's settings ask for.

    Raises:
        ConfigError: the audit log cannot be written.
        MissingExtraError: OpenTelemetry is asked for and not installed.
    """
    backend = backend_of(store)
    settings = backend.settings
    others: list[Telemetry] = []
    if settings.tracing:
        from featurestore.server.telemetry.tracing import Tracing  # whose library is an extra of its own

        others.append(Tracing(backend.clock))
    if settings.server.access_log:
        others.insert(0, AccessLog(backend.clock))
    if settings.audit:
        others.insert(0, AuditLog(settings.audit, settings.root, backend.clock, backend.entity_digests))
    metrics = Metrics(backend)  # it has a thread, so it begins once nothing fails any more
    # The feature log is the first to be closed, so that what it writes then is counted.
    observers: list[Telemetry] = [FeatureLogging(backend, metrics.logged), metrics, *others]
    return Observers(observers)
