"""The status of a project's views without its stores: what the registry and the histories' logs know of them.

NOTE: neither this module nor what it imports loads Polars, which takes as long as all that such a command does.
"""

from featurestore import plugins
from featurestore.clock import to_micros
from featurestore.history_sizes import SizesWithoutStores
from featurestore.maintenance.status import StatusFacts, StatusReport, views_status
from featurestore.project_registry import ProjectRegistry
from featurestore.registry.ledger import Ledger
from featurestore.registry.listing import AppliedTerms, listed_terms
from featurestore.registry.schedule_state import ScheduleStates
from featurestore.scheduling.retry_policy import Belief, RetryPolicy
from featurestore.scheduling.schedules import ScheduleTimes
from featurestore.scheduling.turns import Upcoming, next_turn

_NO_STREAMS = "featurestore.definitions.source:"
"""How the plug-ins of sources begin none of which is a stream."""


def registry_status(registry: ProjectRegistry, *, streams: bool) -> StatusReport | None:
    """Return the status of all views, the same as ``FeatureStore.status``; None where that takes the stores.

    Args:
        registry: the project's registry.
        streams: whether streams are to be shown beside it, so that it is None where there may be some.

    Raises:
        RegistryError: the database cannot be reached, or holds what cannot be read.
        ConfigError: the plug-in of the offline store is not as it must be.
    """
    settings, now, applied = registry.settings, registry.clock(), listed_terms(registry.database)
    if streams and _has_streams(applied):
        return None
    sizes = SizesWithoutStores(settings)
    by_view = {view.name: sizes.of(view.name, view.data_version) for view in applied.views}
    known = {name: size for name, size in by_view.items() if size is not None}
    if known.keys() != by_view.keys():
        return None
    facts = StatusFacts(
        lambda view: known[view.name], Ledger(registry.database), _tasks(registry, applied), settings.schedule.max_attempts
    )
    return views_status(applied.views, facts, now)


def _tasks(registry: ProjectRegistry, applied: AppliedTerms) -> dict[str, Upcoming]:
    """Return how the runs of scheduled views stand, by view."""
    settings = registry.settings
    snapshot, now = ScheduleStates(registry.database).load(), to_micros(registry.clock())
    fires = ScheduleTimes(settings.schedule.timezone)
    belief = Belief.of(RetryPolicy.of(settings), settings.schedule.lease.total_seconds())
    return {view.name: next_turn(view.name, view.schedule, snapshot, fires, now, belief) for view in applied.views if view.schedule}


def _has_streams(applied: AppliedTerms) -> bool:
    """Return whether a source may be a stream: it is of a kind that is built in as one, or comes from another package."""
    kinds = [plugins.find(plugins.SOURCES, kind) for kind in applied.source_kinds]
    return not all(kind is not None and kind.value.startswith(_NO_STREAMS) for kind in kinds)
