"""Namespaces: what a ``FeatureStore`` does, by subject, over one project's components.

NOTE: this module loads the library. ``store.py`` imports it when a store is opened: a program that only defines features, or names
``FeatureStore`` in an annotation, does not wait for it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.clock import Clock
from featurestore.components import Components
from featurestore.maintenance.admin import Admin
from featurestore.maintenance.project_status import project_status
from featurestore.maintenance.status import StatusReport
from featurestore.materialization.runs import Runs
from featurestore.materialization.versions import Versions
from featurestore.materialization.writes import Writes
from featurestore.retrieval.reads import Reads
from featurestore.settings_loader import load_settings
from featurestore.worker_project import WorkerProject

if TYPE_CHECKING:
    from featurestore.scheduling.api import SchedulerApi


class Namespaces:
    """What is done with a project, by subject.

    Args:
        root: the project's folder.
        clock: returns the present.
        settings: settings that win over the file and the environment.

    Raises:
        ConfigError: the folder does not exist, or a setting is unknown or malformed.
    """

    def __init__(self, root: str | Path, clock: Clock, settings: dict[str, Any]) -> None:
        self.components = Components(load_settings(root, **settings), clock, WorkerProject.of)
        self.reads = Reads(self.components)
        self.writes = Writes(self.components)
        self.runs = Runs(self.components)
        self.versions = Versions(self.components)
        self.admin = Admin(self.components)

    @property
    def scheduler(self) -> "SchedulerApi":
        """See ``FeatureStore.scheduler``."""
        from featurestore.scheduling.api import SchedulerApi  # it loads APScheduler

        return SchedulerApi(self.components)

    def status(self) -> StatusReport:
        """See ``FeatureStore.status``."""
        return project_status(self.components, self.scheduler.shown_tasks())
