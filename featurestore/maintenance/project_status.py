"""The status of a project's views, read from the registry and the histories."""

from typing import TYPE_CHECKING

from featurestore.components import Components
from featurestore.definitions.view_terms import terms_of
from featurestore.maintenance.status import StatusFacts, StatusReport, views_status

if TYPE_CHECKING:
    from featurestore.scheduling.upcoming import UpcomingTasks


def project_status(components: Components, upcoming: "UpcomingTasks", *, promised: bool = False) -> StatusReport:
    """Return the status of all views, or only of those with a freshness target.

    Args:
        components: what the project is made of.
        upcoming: when scheduled tasks run next.
        promised: whether views without a freshness target are left out.
    """
    now, catalog = components.clock(), components.catalog_cache.refresh()
    facts = StatusFacts(
        lambda view: components.offline.snapshot(components.table(catalog.views[view.name])).history_size,
        components.ledger,
        {task.name: task for task in upcoming.upcoming()},
        components.settings.schedule.max_attempts,
    )
    return views_status(terms_of(catalog), facts, now, promised=promised)
