"""Runs, as ``store.runs``: what was materialized, when, and which rows were rejected."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import polars as pl

from featurestore.components import Components
from featurestore.definitions.reference import parse_references
from featurestore.errors import NotFoundError, RequestError
from featurestore.registry.ledger import Run

if TYPE_CHECKING:
    from featurestore.registry.ledger import State

_SUGGESTED_FROM = 1000
"""How many of the latest runs an unknown id is compared with."""


class Runs:
    """The runs of a project.

    Args:
        components: what the project is made of.

    Example:
        >>> from featurestore import FeatureStore
        >>> with FeatureStore(".", project="empty") as store:
        ...     store.runs.list()
        []
    """

    def __init__(self, components: Components) -> None:
        self._components = components

    def list(self, view: Any = None, *, limit: int = 50, state: "State | None" = None) -> list[Run]:
        """Return the latest runs, the newest first, of one view or of all.

        Args:
            view: the view, as a class or by name; None for all.
            limit: how many at most.
            state: ``"running"``, ``"committed"``, ``"done"`` or ``"failed"``; None for all.
        """
        name = None if view is None else parse_references(view)[0].view
        return self._components.ledger.runs(name, limit, state)

    def get(self, run_id: str) -> Run:
        """Return a run.

        Args:
            run_id: the run's ``id``: ``view/data version/number``.

        Raises:
            NotFoundError: there is no such run.
        """
        view, _, rest = run_id.partition("/")
        version, _, number = rest.partition("/")
        is_id = version.isdecimal() and number.isdecimal()
        run = self._components.ledger.find(view, int(version), int(number)) if is_id else None
        if run is None:
            known = [known_run.id for known_run in self._components.ledger.runs(limit=_SUGGESTED_FROM)]
            raise NotFoundError("run", run_id, known, "store.runs.list() and featurestore runs list them.")
        return run

    def rejected_rows(self, run: Any = None, *, view: Any = None) -> pl.DataFrame:
        """Return rows that checks rejected, as they were then, with ``_reason`` (S19).

        Args:
            run: a run, or its id; or a view, as ``view``.
            view: the view, as a class or by name: the rows of all its runs, with the number of each in ``_run``.

        Raises:
            NotFoundError: there is no such run, or the view is not applied.
            RequestError: neither or both are given.
        """
        if (run is None) == (view is None):
            raise RequestError("rejected_rows() needs a run or a view: rejected_rows(run.id) or rejected_rows(view=Weather).")
        if isinstance(run, Run):
            return self._of_run(run)
        if isinstance(run, str) and "/" in run:
            return self._of_run(self.get(run))
        components = self._components
        [applied] = components.views([run if view is None else view])
        return components.offline.rejected(components.table(applied))

    def _of_run(self, run: Run) -> pl.DataFrame:
        components = self._components
        applied = components.catalog_cache.refresh().views.get(run.view)
        if applied is None:
            return pl.DataFrame()
        rows = components.offline.rejected(components.table(replace(applied, data_version=run.data_version)))
        return rows.filter(pl.col("_run") == run.seq).drop("_run")
