"""The status of a project's views, read from the registry and the histories."""

from typing import TYPE_CHECKING

from featurestore.components import Components
from featurestore.maintenance.status import StatusReport, view_status

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
    tasks = {task.name: task for task in upcoming.upcoming()}
    statuses = []
    for name, applied in sorted(catalog.views.items()):
        if promised and applied.spec.freshness is None:
            continue
        previous = catalog.previous_versions.get(name)
        statuses.append(
            view_status(
                applied,
                components.offline.snapshot(components.table(applied)),
                components.ledger.latest(name, applied.data_version),
                now,
                task=tasks.get(name),
                most=components.settings.schedule.max_attempts,
                served=None if previous is None else previous.data_version,
                noticed=None if promised else components.ledger.noticed(name, applied.data_version),
            )
        )
    return StatusReport(statuses)
