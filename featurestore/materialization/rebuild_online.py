"""Rebuilding the online store from the history: for a new store, lost data, or values that expire too early."""

import logging
from collections.abc import Callable, Sequence

from featurestore.definitions.catalog import AppliedView
from featurestore.errors import OnlineStoreError
from featurestore.materialization.online_trust import Trust
from featurestore.materialization.progress import Progress
from featurestore.materialization.stores import OnlineWriters

_log = logging.getLogger("featurestore")

_ATTEMPTS = 3
"""How often values are written where the store loses them while they are."""


class Rebuilder:
    """Write the values of whole histories online.

    Args:
        writers: write those of each kind of view.
        trust: tells which values are in doubt.
        versions: returns a view in each version that is read or written online.
        progress: receives the progress.
    """

    def __init__(
        self,
        writers: OnlineWriters,
        trust: Trust,
        versions: Callable[[AppliedView], Sequence[AppliedView]],
        progress: Progress,
    ) -> None:
        self._writers = writers
        self._trust = trust
        self._versions = versions
        self._progress = progress

    def mend(self, applied: AppliedView, *, look: bool = True) -> int:
        """Write the values of a view's history online where the store may have lost some; return how many changed.

        Args:
            applied: the view, of which the version that readers are given is looked at too.
            look: ask the store whether it lost data; one that cannot be asked keeps nothing from being added to the history,
                and is noticed when values are written. Else what is known counts.

        Raises:
            OnlineStoreError: the store cannot be reached, and was not to be asked.
        """
        if not look:
            return self._mend(applied)
        try:
            self._trust.look()
            return self._mend(applied)
        except OnlineStoreError as error:
            _log.warning("The online store could not be looked at before a run of %r: %s", applied.spec.name, error)
            return 0

    def _mend(self, applied: AppliedView) -> int:
        return sum(self.rebuild(version) for version in self._versions(applied) if self._trust.doubted(version))

    def rebuild(self, applied: AppliedView) -> int:
        """Write the values of a view's whole history online, in the place of damaged ones too; return how many changed.

        Raises:
            OnlineStoreError: the store cannot be reached.
        """
        written = 0
        for _ in range(_ATTEMPTS):
            self._trust.look()
            epoch = self._trust.epoch()
            written += self._writers.of_view(applied).rebuild(applied, self._progress)
            if self._trust.settle(applied, epoch):
                break
        return written
