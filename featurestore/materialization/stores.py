"""What jobs that write to both stores are given."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol

import polars as pl

from featurestore.clock import Clock
from featurestore.definitions.catalog import AppliedView
from featurestore.definitions.feature_view import ViewSpec
from featurestore.definitions.source import Source
from featurestore.materialization.online_trust import Trust
from featurestore.materialization.online_writer import LatestWriter
from featurestore.materialization.part_writer import PartWriter
from featurestore.materialization.progress import Progress
from featurestore.materialization.tasks import Workers
from featurestore.offline.base import OfflineStore
from featurestore.online.base import OnlineStore
from featurestore.registry.ledger import Ledger
from featurestore.rows.transform import TransformResult
from featurestore.sources.base import SourceReader
from featurestore.windows.writer import WindowWriter

OpenSource = Callable[[Source], SourceReader]
"""Returns the reader of a source."""


@dataclass(frozen=True)
class Stores:
    """The stores of a project.

    Args:
        project: the project.
        ledger: the ledger of runs.
        offline: the histories.
        online: the latest values.
        trust: says whether the online values can be built upon.
        clock: returns the present.
    """

    project: str
    ledger: Ledger
    offline: OfflineStore
    online: OnlineStore
    trust: Trust
    clock: Clock


class OnlineWriters(NamedTuple):
    """What writes online.

    Args:
        windows: writes the values of windowed views.
        latest: writes those of other views.
    """

    windows: WindowWriter
    latest: LatestWriter

    def of_view(self, applied: AppliedView) -> PartWriter:
        """Return what writes the values of a view."""
        return self.windows if applied.spec.windows else self.latest

    @classmethod
    def of(cls, stores: Stores, workers: Workers | None = None) -> "OnlineWriters":
        """Return those of a project, which give many buckets to workers where there are some."""
        places = stores.project, stores.offline, stores.online, stores.clock, stores.trust, workers
        return cls(WindowWriter(*places), LatestWriter(*places))


@dataclass(frozen=True)
class MaterializeOptions:
    """How a materializer works.

    Args:
        chunk_rows: about how many of a source's rows are held at once.
        progress: receives the progress.
        workers: what does pieces of runs on other machines; None if this process does all.
    """

    chunk_rows: int
    progress: Progress
    workers: Workers | None = None


class RowFilter(Protocol):
    """Remove the rows of forgotten entities."""

    def sift(self, rows: pl.DataFrame, view: ViewSpec) -> pl.DataFrame:
        """Return a source's rows without those that name a forgotten entity by former keys."""

    def without_forgotten(self, shaped: TransformResult, view: ViewSpec) -> TransformResult:
        """Return a view's rows without those of forgotten entities, which are counted."""


class ServedVersions(Protocol):
    """Know which versions of a view readers are given."""

    def switch(self, applied: AppliedView, through: datetime) -> None:
        """Give readers a view as applied, if its source has been read without a gap until an instant and that is enough."""

    def online_of(self, applied: AppliedView) -> Sequence[AppliedView]:
        """Return a view in each version that is read or written online."""
