"""The backend: what the server asks of a feature store."""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Protocol

from featurestore.clock import Clock
from featurestore.config import Settings
from featurestore.definitions.catalog import Catalog
from featurestore.errors import FeatureStoreError
from featurestore.maintenance.status import age_of
from featurestore.materialization.results import PushSummary
from featurestore.online.base import OnlineLostError
from featurestore.online.plan import OnlinePlan
from featurestore.registry.api_keys import Keys
from featurestore.registry.audit_trail import EntityDigests
from featurestore.retrieval.feature_logger import FeatureLogger
from featurestore.retrieval.online import RoundTrips
from featurestore.retrieval.online_result import OnlineRows
from featurestore.selection.select import Selection
from featurestore.store import FeatureStore

OnLogged = Callable[[str, int, int], None]
"""Called with a service, and how many rows of its answers were written and dropped."""


class Backend(Protocol):
    """What the server asks of a feature store. Every call may be made from any thread."""

    @property
    def settings(self) -> Settings:
        """The project's settings."""

    @property
    def clock(self) -> Clock:
        """Returns the present."""

    @property
    def catalog(self) -> Catalog:
        """What is applied, at most ``catalog_refresh`` old: the registry is not asked."""

    @property
    def keys(self) -> Keys:
        """The API keys."""

    @property
    def round_trips(self) -> RoundTrips:
        """What asynchronous look-ups asked the online store so far; the object goes on counting."""

    @property
    def entity_digests(self) -> EntityDigests:
        """The keyed digests by which the audit log names entities."""

    def select(self, features: list[str]) -> Selection:
        """Return what a reader of features gets, by the cached catalog. Raises as ``FeatureStore.online``."""

    def compile(self, selection: Selection) -> OnlinePlan:
        """Return the plan of a selection's look-ups, for ``look_up``; it is good for as long as the catalog is the same."""

    async def look_up(self, plan: OnlinePlan, rows: Any, at: datetime | str | None) -> OnlineRows:
        """Look features up without blocking the event loop. Raises as ``FeatureStore.online``."""

    @property
    def training_frame(self) -> Callable[..., Any]:
        """See ``FeatureStore.training_frame``."""

    def push(self, source: str, rows: Any, *, views: Iterable[str] | None = None) -> PushSummary:
        """See ``FeatureStore.push``."""

    def sample_request(self, features: str) -> dict[str, Any]:
        """See ``FeatureStore.sample_request``."""

    def feature_logger(self, on_logged: OnLogged) -> FeatureLogger:
        """Return what samples answers of services into the feature log, until it is closed."""

    def view_lags(self) -> dict[str, float]:
        """Return how many seconds ago the latest event of each view was, by name; views without events are left out."""

    def check(self) -> dict[str, str | FeatureStoreError]:
        """Return what the registry and the online store report of themselves, or the error with which they fail."""

    def close(self) -> None:
        """Close the store."""


class StoreBackend:
    """A feature store of this process as a backend.

    Args:
        store: the store.

    Example:
        >>> from featurestore import FeatureStore
        >>> backend = StoreBackend(FeatureStore(".", project="empty"))
        >>> backend.check()["registry"]
        'revision 0'
        >>> backend.close()
    """

    def __init__(self, store: FeatureStore) -> None:
        self._components = store.components
        self.settings = store.settings
        self.clock = store.components.clock
        self.training_frame = store.training_frame
        self.push = store.push
        self.sample_request = store.sample_request
        self.close = store.close

    @property
    def catalog(self) -> Catalog:
        """See ``Backend.catalog``."""
        return self._components.catalog_cache.current

    @property
    def keys(self) -> Keys:
        """See ``Backend.keys``."""
        return self._components.api_keys

    @property
    def round_trips(self) -> RoundTrips:
        """See ``Backend.round_trips``."""
        return self._components.online_reader.trips

    @property
    def entity_digests(self) -> EntityDigests:
        """See ``Backend.entity_digests``."""
        return EntityDigests(self._components.registry)

    def select(self, features: list[str]) -> Selection:
        """See ``Backend.select``."""
        return self._components.select_cached(features)

    def compile(self, selection: Selection) -> OnlinePlan:
        """See ``Backend.compile``."""
        return self._components.online_reader.compile(selection)

    async def look_up(self, plan: OnlinePlan, rows: Any, at: datetime | str | None) -> OnlineRows:
        """See ``Backend.look_up``."""
        return await self._components.online_reader.read_async(plan, rows, at)

    def feature_logger(self, on_logged: OnLogged) -> FeatureLogger:
        """See ``Backend.feature_logger``."""
        settings = self.settings
        seconds = settings.feature_log.flush_interval.total_seconds()
        return FeatureLogger(settings.project, self._components.feature_log, seconds, on_logged)

    def view_lags(self) -> dict[str, float]:
        """See ``Backend.view_lags``."""
        components, now = self._components, self.clock()
        lags: dict[str, float] = {}
        for name, view in self.catalog.views.items():
            age = age_of(components.offline.snapshot(components.table(view)).history_size, now)
            if age is not None:
                lags[name] = age / 1e6
        return lags

    def check(self) -> dict[str, str | FeatureStoreError]:
        """See ``Backend.check``."""
        components = self._components
        checks: dict[str, Callable[[], str]] = {
            "registry": lambda: f"revision {components.catalog_cache.refresh().revision}",
            "online": lambda: components.online.check(),
        }
        results: dict[str, str | FeatureStoreError] = {}
        for name, check in checks.items():
            try:
                results[name] = check()
            except FeatureStoreError as error:
                results[name] = error
                if isinstance(error, OnlineLostError):  # it is written again in the background
                    components.online_repair.begin()
        return results


def backend_of(store: FeatureStore | Backend) -> Backend:
    """Return the backend of a feature store; a backend is returned as it is."""
    return StoreBackend(store) if isinstance(store, FeatureStore) else store
