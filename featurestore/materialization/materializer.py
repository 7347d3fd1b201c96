"""Materialization: source rows since the cursor, through transform and checks, into both stores.

A run is a row of the ledger. It pins what it reads before it reads anything, so everything it does follows from that row
and may be done again, or by two processes at once, with one result (S17):

1. **claim**: the run's number and span are inserted; who comes second joins the run that is there.
2. **stage**: each chunk of the span is read, shaped and checked; its good rows are staged where no reader sees them, its
   rejected rows are kept with their reasons, and the chunk is noted in the ledger. Chunks noted already are passed over.
3. **commit**: the staged rows that the history lacks become visible at once, in one commit that bears the run's number.
4. **write online**: each entity's greatest row of the run is written, where the online store has no greater one.
5. **finish**: the run is done, and its cursor is where the next run begins.

A changed view is read again as its new version, beside the one that readers are given. Once its rows reach as far as theirs,
readers are given the new one.

What was pushed is added to the history by a run too, before the source is read: its chunks are the segments of the log, it
leaves the cursor where it is, and the segments are deleted once their rows are online.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from featurestore.access.redaction import discreetly
from featurestore.definitions.catalog import AppliedView, BoundView
from featurestore.materialization.failed_attempts import noting_failures
from featurestore.materialization.per_view import each_view
from featurestore.materialization.progress import Progress
from featurestore.materialization.rebuild_online import Rebuilder
from featurestore.materialization.results import ViewSummary, Written
from featurestore.materialization.stores import MaterializeOptions, OnlineWriters, OpenSource, RowFilter, ServedVersions, Stores
from featurestore.materialization.view_run import UNFINISHED, ViewRun
from featurestore.offline.base import History, Table


class Materializer:
    """Materialize views.

    Args:
        stores: where rows go.
        open_source: opens a source's reader.
        rows: removes the rows of forgotten entities.
        served: which versions readers are given.
        options: how it works.
    """

    def __init__(
        self, stores: Stores, open_source: OpenSource, rows: RowFilter, served: ServedVersions, options: MaterializeOptions
    ) -> None:
        self._stores = stores
        self._open_source = open_source
        self._rows = rows
        self._served = served
        self._options = options
        self._writers = OnlineWriters.of(stores, options.workers)

    def materialize_all(
        self,
        views: Sequence[AppliedView],
        bind: Callable[[AppliedView], BoundView],
        *,
        start: datetime | None,
        end: datetime,
        dry_run: bool,
        parallel: int = 1,
    ) -> list[ViewSummary]:
        """Materialize views; one that fails does not keep the others from being materialized.

        Args:
            views: the views as applied.
            bind: returns a view with its definition.
            start: as ``materialize``.
            end: as ``materialize``.
            dry_run: as ``materialize``.
            parallel: how many views at once; together they hold as many rows as one would.

        Raises:
            MaterializeError: several views failed; it names each.
            FeatureStoreError: one view failed, with its own error; or a store cannot be reached, which ends it at once.
        """
        job = self.sharing(parallel)
        return each_view(views, bind, lambda view: job.materialize(view, start=start, end=end, dry_run=dry_run), parallel)

    def sharing(self, parallel: int, progress: Progress | None = None) -> "Materializer":
        """Return a materializer that leaves room for others: so many together hold the rows of one."""
        chunk_rows = max(1, self._options.chunk_rows // parallel)
        options = replace(self._options, chunk_rows=chunk_rows, progress=progress or self._options.progress)
        return Materializer(self._stores, self._open_source, self._rows, self._served, options)

    def materialize(
        self,
        view: BoundView,
        *,
        start: datetime | None,
        end: datetime,
        dry_run: bool = False,
        note: Mapping[str, Any] | None = None,
    ) -> ViewSummary:
        """Bring all that is new in a view's source into both stores; first complete a run that was interrupted.

        Args:
            view: the view.
            start: read from this available time on, whatever was read before; None for what is new.
            end: read what is available by this instant, inclusive.
            dry_run: read and check, and write nothing.
            note: what the run's span shall have besides, in plain JSON values.

        Raises:
            SourceError: the source is not there, or not what the definition says.
            DefinitionError: the transform fails or is not row-local (S20).
            RejectedRowsError: rows were rejected, and the view says ``on_reject="fail"``.
            StoreError: a store cannot be reached; the next run continues where this one stopped.
        """
        run = self._run(view)

        def materialize() -> ViewSummary:
            if not dry_run:
                self.rebuilder.mend(view.applied)
            run.reader.schema()
            if dry_run:
                return run.try_out(start, end)
            summary = run.all(start, end, note or {})
            self.rebuilder.mend(view.applied, look=False)  # a loss may have been noticed meanwhile
            if start is None:
                self._served.switch(view.applied, end)
            return summary

        clock = None if dry_run else self._stores.clock
        with noting_failures(self._stores.ledger, self._stores.offline, run.table, clock):
            return discreetly([view.spec], materialize, run.reader.schema)

    def resume(self, view: BoundView) -> ViewSummary:
        """Complete a run that was interrupted, and add what was pushed; read nothing new. Raises as ``materialize``."""
        run = self._run(view)
        return discreetly([view.spec], run.settle, run.reader.schema)[0]

    def fold(self, view: BoundView) -> None:
        """Add what was pushed to a view to its history, unless another process is doing so.

        If a run over the source was interrupted, or is under way, the process that completes that run does it.

        Raises:
            StoreError: a store cannot be reached; the next run continues where this one stopped.
        """
        self.rebuilder.mend(view.applied)
        with self._stores.offline.log.folding(Table.of(self._stores.project, view.applied)) as alone:
            latest = self._stores.ledger.latest(view.spec.name, view.data_version)
            if alone and (latest is None or latest.state not in UNFINISHED or latest.folds):
                self.resume(view)

    def stage(self, view: BoundView, run: int, index: int, chunk: Mapping[str, Any]) -> dict[str, Any]:
        """Stage a chunk of a run that another process is at; return what its ledger notes of it. Raises as ``materialize``."""
        view_run = self._run(view)
        return discreetly([view.spec], lambda: view_run.stage(run, index, chunk), view_run.reader.schema)

    def write_part(self, applied: AppliedView, part: History, *, whole: bool, repair: bool) -> Written:
        """Write the values of a bucket online: see ``PartWriter.write_part``."""
        return self._writers.of_view(applied).write_part(applied, part, whole=whole, repair=repair)

    @property
    def rebuilder(self) -> Rebuilder:
        """Writes whole histories online."""
        return Rebuilder(self._writers, self._stores.trust, self._served.online_of, self._options.progress)

    def _run(self, view: BoundView) -> ViewRun:
        reader = self._open_source(view.spec.source_as_read)
        return ViewRun(self._stores, self._writers, self._rows, reader, view, self._options)
