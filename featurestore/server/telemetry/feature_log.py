"""Feature logging on the server: samples the answers of services that set ``log=``."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from featurestore.definitions.catalog import Catalog
from featurestore.server.backend import Backend
from featurestore.server.telemetry.events import NullTelemetry

if TYPE_CHECKING:
    from featurestore.retrieval.feature_logger import FeatureLogger
    from featurestore.retrieval.online_result import OnlineRows


class FeatureLogging(NullTelemetry):
    """Hand answers to the feature log. What a service does not ask for costs a look into a dictionary.

    Args:
        backend: the store that is served.
        on_flush: called with a service's name, how many rows were written, and how many dropped.
    """

    def __init__(self, backend: Backend, on_flush: Callable[[str, int, int], None]) -> None:
        self._backend = backend
        self._on_flush = on_flush
        self._catalog: Catalog | None = None
        self._rates: Mapping[str, float] = {}
        self._logger: FeatureLogger | None = None

    def online(self, selection_name: str, rows: "OnlineRows") -> None:
        """Hand an answer on, if a service was asked for that is logged."""
        catalog = self._backend.catalog
        if catalog is not self._catalog:
            self._catalog = catalog
            self._rates = {name: service.log for name, service in catalog.services.items() if service.log}
        rate = self._rates.get(selection_name)
        if rate is not None:
            self._logger = self._logger or self._backend.feature_logger(self._on_flush)
            self._logger.offer(selection_name, rate, rows)

    def close(self) -> None:
        """Write what waits."""
        if self._logger is not None:
            self._logger.close()
