"""What is done to a store as a whole, and seldom: entities are forgotten, the project is examined or taken down."""

from typing import TYPE_CHECKING, Any

from featurestore.adapters import open_eraser, open_gate, remove_history
from featurestore.parts import Parts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from featurestore.jobs.forget import ForgetReport, Forgetter
    from featurestore.jobs.teardown import Remover, TeardownReport
    from featurestore.spec.entity import Entity


class Care(Parts):
    """See ``FeatureStore``, of which this is a part."""

    def entity(self, name: str) -> "Entity":
        """Returns an entity by its name, as the latest view has it that is or was on it.

        Raises:
            NotFoundError: there is none.
        """
        return self._forgetter().entity(name)

    def forget(self, entity: Any, rows: Any, *, dry_run: bool = False, lift: bool = False) -> "ForgetReport":
        """Erases an entity, or several, from everything that the project keeps; a tombstone keeps them from coming back.

        That is the history of every view on the entity, present and removed, with its older versions, what was pushed, what
        waits in interrupted runs, rejected rows, the online store, and what services answered. Forgetting again completes what
        was interrupted. A run or push of the entity passes its rows over and counts them, as ``its entity was forgotten``.

        Args:
            entity: the entity, or its name.
            rows: the join keys, ``{"user_id": 42}``, or a list of such for several.
            dry_run: count only.
            lift: take the tombstones away instead, so that the entities may come back with the next rows.

        Returns:
            What was erased where; print it.

        Raises:
            NotFoundError: no view is or was on such an entity.
            RequestError: a key is missing, unknown or of the wrong type.
            StoreError: a store cannot be reached; forgetting again goes on where this one stopped.

        Example:
            >>> import polars as pl
            >>> from datetime import datetime
            >>> from featurestore import Entity, FeatureStore, FeatureView, FrameSource
            >>> rows = pl.DataFrame({"user_id": [42, 7], "at": [datetime(2013, 7, 1)] * 2, "score": [0.5, 0.7]})
            >>> class Scores(FeatureView, entity=Entity("user", user_id=int), source=FrameSource("scored", rows, event_time="at")):
            ...     score: float
            >>> with FeatureStore(".", project="people") as store:
            ...     plan, done = store.apply([Scores]), store.materialize()
            ...     report = store.forget("user", {"user_id": 42})
            ...     [read] = store.materialize(start="2013-01-01")
            >>> print(report)
            erased from    of                                     rows
            history        scores v1                                 1
            online         scores v1                                 1
            Forgot 1 user: 2 rows and values are erased, and a tombstone keeps them from coming back.
            >>> read.reasons
            {'its entity was forgotten': 1}
        """
        name: str = getattr(entity, "name", entity)
        return self._forgetter().lift(name, rows) if lift else self._forgetter().forget(name, rows, dry_run=dry_run)

    def teardown(self, *, dry_run: bool = False) -> "TeardownReport":
        """Removes all that the project has in both stores and in the registry; its definitions and settings stay.

        Other projects on the same servers are not touched. Whatever serves, runs or pushes must have been stopped. The file of
        an embedded online store keeps its size; delete its folder where nothing else is in it.

        Args:
            dry_run: count only; how many values are online is not known then.

        Returns:
            What was removed; print it.

        Raises:
            StoreError: a store cannot be reached; repeating it completes it.
        """
        from featurestore.jobs.teardown import tear_down

        report = tear_down(self.settings.project, self._removers(), dry_run=dry_run)
        if not dry_run:
            self._watch.forget()
        return report

    def _removers(self) -> "Mapping[str, Remover]":
        from featurestore.registry.removal import remove_project

        project = self.settings.project
        return {
            "offline store": lambda dry_run: remove_history(self.settings, dry_run=dry_run),
            "online store": lambda dry_run: {"values": None if dry_run else self._online.delete(f"{project}/".encode())},
            "registry": lambda dry_run: remove_project(self._registry, dry_run=dry_run),
        }

    def _forgetter(self) -> "Forgetter":
        from featurestore.jobs.forget import Forgetter

        stores = open_eraser(self.settings, self._clock), self._online, self._feature_log
        return Forgetter(self.settings.project, self._tombstones, open_gate(self.settings), *stores)
