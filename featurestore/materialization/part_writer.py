"""The base of what writes values online: the buckets of a history, one after the other here, or by workers elsewhere."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import closing

from featurestore.clock import Clock
from featurestore.definitions.catalog import AppliedView
from featurestore.materialization.online_trust import Trust, TrustedOnline
from featurestore.materialization.progress import Progress, Silence
from featurestore.materialization.results import Written
from featurestore.materialization.tasks import Workers
from featurestore.offline.base import History, OfflineStore, Table
from featurestore.online.base import OnlineStore


class PartWriter(ABC):
    """Write the values of views online, from their histories.

    Every method raises ``OnlineStoreError`` where the store cannot be reached. What is written stays; writing it all again is
    right.

    Args:
        project: whose values.
        offline: where the history is.
        online: where to write.
        clock: tells the present, from which a value's remaining life is counted.
        trust: tells whether what is online can be built upon; by default it can, and its keys begin with the project alone.
        workers: what writes many buckets on other machines; None if this process does.
    """

    def __init__(
        self,
        project: str,
        offline: OfflineStore,
        online: OnlineStore,
        clock: Clock,
        trust: Trust | None = None,
        workers: Workers | None = None,
    ) -> None:
        self._project = project
        self._offline = offline
        self._online = online
        self._clock = clock
        self._trust = trust or TrustedOnline(project)
        self._workers = workers

    @abstractmethod
    def write_part(self, applied: AppliedView, part: History, *, whole: bool, repair: bool) -> Written:
        """Write the values of a bucket's entities.

        Args:
            applied: the view.
            part: rows of its history; all rows of an entity that are written at once are in it.
            whole: whether they are all that the history has of their entities.
            repair: whether damaged values are looked for, which may seem to be greater than any other.
        """

    def rebuild(self, applied: AppliedView, progress: Progress | None = None) -> int:
        """Write the values of the whole history, in the place of damaged ones too; return how many changed."""
        parts = list(self._offline.snapshot(Table.of(self._project, applied)).buckets.values())
        return self._write_parts(applied, parts, progress or Silence(), whole=True, repair=True).online

    def _write_parts(
        self, applied: AppliedView, parts: Sequence[History], progress: Progress, *, whole: bool, repair: bool
    ) -> Written:
        """Write the values of buckets, in this process or by workers; ``whole`` and ``repair`` as ``write_part``."""
        if not parts:
            return Written(0)
        name, done, online, tied = applied.spec.name, 0, 0, 0
        progress.step(name, "write online", done, len(parts))
        if self._workers is not None and self._workers.writes(parts):
            results = self._workers.write(applied, parts, whole=whole, repair=repair)
        else:
            results = ((1, self.write_part(applied, part, whole=whole, repair=repair)) for part in parts)
        with closing(results):
            for count, written in results:
                done, online, tied = done + count, online + written.online, tied + written.tied
                progress.step(name, "write online", done, len(parts))
        self._online.sweep()
        return Written(online, tied)
