"""The plug-in of offline stores in a folder: every part of it in Delta tables."""

from pathlib import Path

from featurestore.offline.adapter import OfflineAdapter
from featurestore.offline.delta.copy import copy_project
from featurestore.offline.delta.delete_project import remove_project
from featurestore.offline.delta.eraser import DeltaEraser
from featurestore.offline.delta.feature_log import DeltaFeatureLog
from featurestore.offline.delta.history import DeltaStore
from featurestore.offline.delta.maintenance import DeltaUpkeep
from featurestore.offline.delta.repair import DeltaMender
from featurestore.plugins import Context


class DeltaAdapter(OfflineAdapter):
    """Opens the stores whose address is a path: a folder, relative to the project's."""

    @classmethod
    def open(cls, url: str, context: Context) -> DeltaStore:
        """See ``OfflineAdapter.open``."""
        return DeltaStore(_folder(url, context), clock=context.clock, threads=context.threads)

    @classmethod
    def feature_log(cls, url: str, context: Context) -> DeltaFeatureLog:
        """See ``OfflineAdapter.feature_log``."""
        return DeltaFeatureLog(_folder(url, context))

    @classmethod
    def eraser(cls, url: str, context: Context) -> DeltaEraser:
        """See ``OfflineAdapter.eraser``."""
        return DeltaEraser(_plain(url, context), clock=context.clock)

    @classmethod
    def upkeep(cls, url: str, context: Context) -> DeltaUpkeep:
        """See ``OfflineAdapter.upkeep``."""
        return DeltaUpkeep(_plain(url, context), clock=context.clock)

    @classmethod
    def mender(cls, url: str, context: Context) -> DeltaMender:
        """See ``OfflineAdapter.mender``."""
        return DeltaMender(_plain(url, context), clock=context.clock)

    @classmethod
    def remove_project(cls, url: str, context: Context, *, dry_run: bool) -> dict[str, int]:
        """See ``OfflineAdapter.remove_project``."""
        return remove_project(_folder(url, context), context.project, dry_run=dry_run)

    @classmethod
    def copy_project(cls, url: str, context: Context, target: Path) -> tuple[int, int]:
        """See ``OfflineAdapter.copy_project``."""
        return copy_project(_folder(url, context), context.project, target)


def _folder(url: str, context: Context) -> Path:
    return context.root / Path(url.removeprefix("file://")).expanduser()


def _plain(url: str, context: Context) -> DeltaStore:
    """Return a store for work on files that are there: what writes new ones in parallel is not needed."""
    return DeltaStore(_folder(url, context), clock=context.clock)
