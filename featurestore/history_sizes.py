"""The sizes of histories without the stores: what the plug-in of a project's offline store brings for it, as far as it does."""

from featurestore import plugins
from featurestore.config import Settings
from featurestore.offline.history_size import HistorySize, HistorySizes


class SizesWithoutStores:
    """Ask how much a project's histories hold.

    Args:
        settings: the project's settings.
    """

    def __init__(self, settings: Settings) -> None:
        self._project = settings.project
        scheme, sign, _ = settings.offline.partition("://")
        name = scheme if sign else "file"
        self._sizes: HistorySizes | None = None
        if plugins.find(plugins.HISTORY_SIZES, name) is not None:
            adapter: type[HistorySizes] = plugins.load(plugins.HISTORY_SIZES, name, HistorySizes)
            self._sizes = adapter.open(settings.offline, settings.root)

    def of(self, view: str, data_version: int) -> HistorySize | None:
        """Return how much the history of a view holds; None where that takes the store."""
        return None if self._sizes is None else self._sizes.size(self._project, view, data_version)
