"""Trust in the online store: a store that lost data is detected, and lost values are recomputed.

Each shard of the online store (a server, a primary of a Cluster, a folder of LMDB) holds a mark: the epoch that the registry has,
and what changes where the shard restarts, fails over or is put back from a copy. Every write looks at it in the same step. Where it
is gone or another one, the shard may lack what was written: a new epoch begins, and all values are in doubt until they were written
from the history. The registry has both, so all processes know. A writer of an older epoch is refused, and looks again.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from threading import Lock
from typing import Protocol

from featurestore.definitions.catalog import AppliedView
from featurestore.errors import OnlineStoreError
from featurestore.online.base import Entry, Epoch, OnlineLayoutError, OnlineLostError, OnlineStore
from featurestore.registry.online_epochs import OnlineEpochs, OnlineState

_log = logging.getLogger("featurestore")

_UNKNOWN = "this registry has written none of its values, or a version of featurestore before it knew of such marks did"

Place = tuple[str, int]
"""A view and a data version."""


class Trust(Protocol):
    """What writers ask about the values that are online."""

    def space(self) -> str:
        """Return what all keys begin with: the project and its registry's id, ``project/id``."""

    def look(self) -> Mapping[Place, str]:
        """Look whether the store lost data; return why values may be lost or too old, by view and data version."""

    def doubted(self, applied: AppliedView) -> bool:
        """Return whether values of a view may be lost or too old: they are computed from the history, not from one another."""

    def epoch(self) -> str:
        """Return the present epoch, which ends when the store loses data."""

    def settle(self, applied: AppliedView, epoch: str) -> bool:
        """Note that all values of a view were written from its history; return whether the epoch is still that one."""


class TrustedOnline:
    """Trust a store that nobody watches. See ``Trust``.

    Args:
        space: what its keys begin with.
    """

    def __init__(self, space: str) -> None:
        self._space = space

    def space(self) -> str:
        """Return what all keys begin with."""
        return self._space

    def look(self) -> Mapping[Place, str]:
        """Return nothing."""
        return {}

    def doubted(self, applied: AppliedView) -> bool:
        """Return False."""
        return False

    def epoch(self) -> str:
        """Return the only epoch."""
        return ""

    def settle(self, applied: AppliedView, epoch: str) -> bool:
        """Return True."""
        return True


class WatchedOnline:
    """An online store that notices when it lost data. See ``OnlineStore`` for its methods, and ``Trust``.

    Args:
        store: the store.
        epochs: what the registry knows of it.
        served: returns the views whose values are read or written, in each of their data versions.
        filled: returns which of some views have a history.
    """

    def __init__(
        self,
        store: OnlineStore,
        epochs: OnlineEpochs,
        served: Callable[[], Sequence[AppliedView]],
        filled: Callable[[Iterable[AppliedView]], set[Place]],
    ) -> None:
        self._store = store
        self._epochs = epochs
        self._served = served
        self._filled = filled
        self._lock = Lock()
        self._known: OnlineState | None = None
        self._agreed = False
        self.marks = store.marks
        self.read = store.read
        self.read_async = store.read_async
        self.sweep = store.sweep
        self.close = store.close

    def write(self, entries: Sequence[Entry], *, epoch: Epoch | None = None) -> int:
        """See ``OnlineStore.write``.

        Raises:
            OnlineLostError: the store lost data since it was written to, or another process noticed that it did. That is noted;
                a caller that computed the entries from online values starts over.
        """
        state = self._begun()
        try:
            return self._store.write(entries, epoch=_epoch_of(state))
        except OnlineLostError as error:
            self._notice(state, str(error))
            raise

    def delete(self, prefix: bytes, *, keys: Sequence[bytes] | None = None, known: Iterable[Sequence[bytes]] | None = None) -> int:
        """See ``OnlineStore.delete``.

        Raises:
            OnlineLayoutError: certain keys are to be deleted, and values lie in another layout, where they would not be found.
        """
        if keys is not None:
            self._store.marks.agree(_epoch_of(self._known or self._load()))
        return self._store.delete(prefix, keys=keys, known=known)

    def check(self) -> str:
        """Return the store's kind and version.

        Raises:
            OnlineStoreError: it cannot be reached.
            OnlineLostError: it lost data that is not written again yet.
        """
        kind = self._store.check()
        doubts = self.look()
        if doubts:
            views = sorted({view for view, _ in doubts})
            raise OnlineLostError(
                f"Values of {', '.join(views)} in the online store may be missing or too old: {next(iter(doubts.values()))}. "
                f"The next run of each view writes them again, or: featurestore materialize --rebuild-online {' '.join(views)}"
            )
        return kind

    def look(self) -> dict[Place, str]:
        """Look whether the store lost data, and return ``doubts``."""
        state = self._load()
        if not state.epoch:
            return dict.fromkeys(self._filled(self._served()), _UNKNOWN)
        missed = self._store.marks.look(_epoch_of(state))
        if missed:
            self._notice(state, "; ".join(missed), must_place=False)
        return self.doubts()

    def space(self) -> str:
        """See ``Trust.space``.

        Raises:
            OnlineLayoutError: values lie in another layout than the store's address asks for, so none would be found.
        """
        known = self._known or self._load()
        if not self._agreed:
            self._store.marks.agree(_epoch_of(known))
            self._agreed = True
        return known.space

    def change_layout(self) -> bool:
        """Give the store the layout that its address asks for, where it has another; return whether it had.

        All values are deleted, and in doubt until they were written from the history.
        """
        state = self._load()
        try:
            self._store.marks.agree(_epoch_of(state))
        except OnlineLayoutError:
            self._notice(state, "the layout of the store was changed")
            return True
        return False

    def doubted(self, applied: AppliedView) -> bool:
        """See ``Trust.doubted``."""
        state = self._begun()
        place = applied.spec.name, applied.data_version
        if place not in state.doubts:
            return False
        return place in self._load().doubts  # somebody may have written them meanwhile

    def doubts(self) -> dict[Place, str]:
        """Return why values may be lost or too old, of views that are read or written and have a history."""
        doubts = self._load().doubts
        served = [view for view in self._served() if (view.spec.name, view.data_version) in doubts]
        filled = self._filled(served)
        return {place: doubt.reason for place, doubt in doubts.items() if place in filled and doubt.lost}

    def settle(self, applied: AppliedView, epoch: str) -> bool:
        """See ``Trust.settle``."""
        settled = self._epochs.settle((applied.spec.name, applied.data_version), epoch)
        self._load()
        return settled

    def epoch(self) -> str:
        """See ``Trust.epoch``."""
        return self._begun().epoch

    def forget(self) -> None:
        """Forget what the registry and the store said, where they may say something else by now."""
        self._known = None
        self._agreed = False

    def _load(self) -> OnlineState:
        self._known = known = self._epochs.current()
        return known

    def _begun(self) -> OnlineState:
        """Return the state; the first to use a store that was never marked marks it."""
        state = self._known or self._load()
        return state if state.epoch else self._notice(state, _UNKNOWN)

    def _notice(self, state: OnlineState, reason: str, *, must_place: bool = True) -> OnlineState:
        """Begin another epoch where the state is still the present one, and return the present one.

        Args:
            state: what was known when the loss was noticed.
            reason: what was noticed.
            must_place: whether it is an error where the store cannot be marked, as by a user who may only read.
        """
        with self._lock:
            current = self._load()
            if current.epoch != state.epoch:
                return current  # another process or thread has noticed it
            places = self._filled(self._served()) | self._epochs.materialized()
            after = self._epochs.renew(state.epoch, sorted(places), reason)
            if places:
                _log.warning("The online store may lack values, which are written again from the history: %s", reason)
            # NOTE: the registry first. Marked first, a store could be trusted whose loss nobody has noted.
            try:
                self._store.marks.place(_epoch_of(after))
            except OnlineStoreError:
                if must_place:
                    raise
            self._known = after
            return after


def _epoch_of(state: OnlineState) -> Epoch:
    return Epoch(f"{state.space}/!".encode(), state.epoch.encode())
