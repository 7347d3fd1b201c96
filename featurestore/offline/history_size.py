"""How much a history holds, and what answers that without the store: a part that an offline store may bring. It loads no Polars."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class HistorySize:
    """How much a history holds, pushed rows that wait for a run among it.

    Args:
        rows: how many rows there are.
        latest: the greatest event time in microseconds; None without rows.
    """

    rows: int = 0
    latest: int | None = None


class HistorySizes(ABC):
    """Tell how much histories hold without what reads them, for commands that show it and end.

    An entry point of ``featurestore.history_sizes`` names a subclass, for the addresses of one URL scheme, as those of
    ``featurestore.offline_stores`` do. An offline store needs none: where there is none, or it does not know, the store is opened
    and asked.
    """

    @classmethod
    @abstractmethod
    def open(cls, url: str, root: Path) -> "HistorySizes":
        """Return what answers for the store at an address. Nothing is made there, and nothing that takes long is imported.

        Args:
            url: the setting ``offline``, as it is written.
            root: the project's folder, where relative paths start.
        """

    @abstractmethod
    def size(self, project: str, view: str, data_version: int) -> HistorySize | None:
        """Return how much the history of a view holds, which is what a ``Snapshot`` of this moment would say.

        An empty size is the answer for a history that does not exist. None is the answer wherever it would take the store: where
        rows wait whose number or times are unknown here, or anything is damaged, gone, or not as expected. Never raises for the
        state of the store: the store itself says what is wrong with it.
        """
