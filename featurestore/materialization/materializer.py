"""Materialization: source rows since the cursor, through transform and checks, into both stores.

A run is a row of the ledger. It pins what it reads before it reads anything, so everything it does follows from that row
and may be done again, or by two processes at once, with one result (S17):

1. **claim**: the run's number and span are inserted; who comes second joins the run that is there.
2. **stage**: each chunk of the span is read, shaped and checked; its good rows are staged where no reader sees them, its
   rejected rows are kept with their reasons, and the chunk is noted in the ledger. Chunks noted already are passed over.
3. **commit**: the staged rows that the history lacks become visible at once, in one commit that bears the run's number.
4. **write online**: each entity's greatest row of the run is written, where the online store has no greater one.
5. **finish**: the run is done, and its cursor is where the next run begins.

A changed view is read anew as its new version, beside the one that readers are given. Once its rows reach as far as theirs,
readers are given the new one.

What was pushed is added to the history by a run too, before the source is read: its chunks are the segments of the log, it
leaves the cursor where it is, and the segments are deleted once their rows are online.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from datetime import datetime
from typing import Any

import polars as pl

from featurestore.access.redaction import discreetly
from featurestore.clock import Clock
from featurestore.definitions.catalog import AppliedView
from featurestore.definitions.feature_view import ViewSpec
from featurestore.definitions.fingerprint import Transform
from featurestore.definitions.source import Source
from featurestore.errors import FeatureStoreError, MaterializeError, RejectedRowsError
from featurestore.materialization.failed_attempts import is_to_clear, noting_failures, pinned, reads_nothing
from featurestore.materialization.online_trust import Trust, TrustedOnline
from featurestore.materialization.online_writer import LatestWriter, Written
from featurestore.materialization.per_view import OF_ONE_VIEW, each_view
from featurestore.materialization.progress import Progress, Silence
from featurestore.materialization.read_progress import accepted_cursor, latest_accepted, rejects
from featurestore.materialization.rebuild_online import Rebuilder
from featurestore.materialization.results import ViewSummary
from featurestore.offline.base import OfflineStore, Table
from featurestore.offline.condition import require_runs
from featurestore.online.base import OnlineStore
from featurestore.project.row_locality import SAMPLE_ROWS, check_row_local
from featurestore.registry.ledger import Ledger, Run
from featurestore.rows.transform import FORGOTTEN, TransformResult, shape_rows
from featurestore.sources.base import SourceReader, Span
from featurestore.windows.writer import WindowWriter

_UNFINISHED = ("running", "committed")


class Materializer:
    """Materializes views.

    Args:
        project: whose views.
        ledger: the ledger of runs.
        offline: where the history goes.
        online: where the latest values go.
        open_source: opens a source's reader.
        clock: tells the present.
        chunk_rows: about how many of a source's rows are held at once.
        admit: leaves rows of forgotten entities out, and counts them.
        sift: leaves rows out that name forgotten entities by former keys.
        progress: is told how it gets on.
        switch: is told until when a view's source was read without a gap, for its readers to be given it.
        trust: tells whether what is online can be built upon.
        versions: returns a view in each version that is read or written online.
    """

    def __init__(
        self,
        project: str,
        ledger: Ledger,
        offline: OfflineStore,
        online: OnlineStore,
        open_source: Callable[[Source], SourceReader],
        *,
        clock: Clock,
        chunk_rows: int,
        admit: Callable[[TransformResult, ViewSpec], TransformResult] = lambda shaped, view: shaped,
        sift: Callable[[pl.DataFrame, ViewSpec], pl.DataFrame] = lambda rows, view: rows,
        progress: Progress | None = None,
        switch: Callable[[AppliedView, datetime], object] = lambda applied, through: None,
        trust: Trust | None = None,
        versions: Callable[[AppliedView], Sequence[AppliedView]] = lambda applied: [applied],
    ) -> None:
        self._project = project
        self._ledger = ledger
        self._offline = offline
        self._online = online
        self._open_source = open_source
        self._clock = clock
        self._chunk_rows = chunk_rows
        self._admit = admit
        self._sift = sift
        self._progress = progress or Silence()
        self._switch = switch
        self._windows = WindowWriter(project, offline, online, clock, trust)
        self._latest = LatestWriter(project, offline, online, clock, trust)
        self._trust, self._versions = trust or TrustedOnline(project), versions

    def materialize_all(
        self,
        views: Sequence[AppliedView],
        define: Callable[[AppliedView], tuple[AppliedView, Transform | None]],
        *,
        start: datetime | None,
        end: datetime,
        dry_run: bool,
        parallel: int = 1,
    ) -> list[ViewSummary]:
        """Materializes views; one that fails does not keep the others from being done.

        Args:
            views: the views as applied.
            define: returns a view with its definition's source and transform.
            start: as ``materialize``.
            end: as ``materialize``.
            dry_run: as ``materialize``.
            parallel: how many views at once; together they hold as many rows as one would.

        Raises:
            MaterializeError: several views failed; it tells of each.
            FeatureStoreError: one view failed, with its own error; or a store cannot be reached, which ends it at once.
        """
        job = self.sharing(parallel)
        return each_view(
            views,
            define,
            lambda applied, transform: job.materialize(applied, transform, start=start, end=end, dry_run=dry_run),
            parallel,
        )

    def sharing(self, parallel: int, progress: Progress | None = None) -> "Materializer":
        """Returns one like this that leaves room for others: so many together hold the rows of one."""
        job = copy(self)
        job._chunk_rows = max(1, self._chunk_rows // parallel)
        job._progress = progress or self._progress
        return job

    def materialize(
        self,
        applied: AppliedView,
        transform: Transform | None,
        *,
        start: datetime | None,
        end: datetime,
        dry_run: bool = False,
        note: Mapping[str, Any] | None = None,
    ) -> ViewSummary:
        """Brings all that is new in a view's source into both stores; first completes a run that was interrupted.

        Args:
            applied: the view, its source as the definitions have it.
            transform: its transform.
            start: read from this available time on, whatever was read before; None for what is new.
            end: read what is available by this instant, inclusive.
            dry_run: read and check, and write nothing.
            note: what the run's span shall have besides, in plain JSON values.

        Raises:
            SourceError: the source is not there, or not what the definition says.
            DefinitionError: the transform fails or is not row-local (S20).
            RejectedRowsError: rows were rejected, and the view says ``on_reject="fail"``.
            StoreError: a store cannot be reached; the next run goes on where this one stopped.
        """
        reader = self._open_source(applied.spec.source_as_read)

        def run() -> ViewSummary:
            if not dry_run:
                self.rebuilder.mend(applied)
            reader.schema()
            if dry_run:
                return self._try(applied, transform, reader, start, end)
            summary = self._run(applied, transform, reader, start, end, note or {})
            self.rebuilder.mend(applied, look=False)  # a loss may have been noticed meanwhile
            if start is None:
                self._switch(applied, end)
            return summary

        with noting_failures(self._ledger, self._offline, Table.of(self._project, applied), None if dry_run else self._clock):
            return discreetly([applied.spec], run, reader.schema)

    def _run(
        self,
        applied: AppliedView,
        transform: Transform | None,
        reader: SourceReader,
        start: datetime | None,
        end: datetime,
        note: Mapping[str, Any],
    ) -> ViewSummary:
        view, summary = applied.spec, ViewSummary(applied.spec.name, applied.data_version)
        while True:
            settled, number = self._settle(applied, transform, reader)
            summary = summary.plus(settled)
            span = self._pin(applied, transform, reader, start, end)
            summary = summary.plus(ViewSummary(view.name, applied.data_version, notices=span.notices))
            reads = bool(span.chunks) or span.keep
            if not reads and not is_to_clear(self._ledger, applied):
                return summary
            body = pinned(span, note) if reads else reads_nothing(self._ledger, view.name, applied.data_version)
            run = self._ledger.begin(view.name, applied.data_version, number, body)
            if run.state == "failed":
                raise MaterializeError(f"Another process was at run {run.seq} of {view.name!r}, and it failed: {run.error}")
            # A run that another process began and has done already leaves nothing to do.
            if run.state != "done":
                summary = summary.plus(self._complete(run, applied, transform, reader))
            if not run.folds:  # which a push may have begun at this moment
                return summary

    def resume(self, applied: AppliedView, transform: Transform | None) -> ViewSummary:
        """Completes a run that was interrupted, and adds what was pushed; reads nothing new. Raises as ``materialize``."""
        reader = self._open_source(applied.spec.source_as_read)
        return discreetly([applied.spec], lambda: self._settle(applied, transform, reader), reader.schema)[0]

    def fold(self, applied: AppliedView, transform: Transform | None) -> None:
        """Adds what was pushed to a view to its history, unless somebody is at it.

        Where a run over the source was interrupted, or is under way, whoever completes that one does it.

        Raises:
            StoreError: a store cannot be reached; the next run goes on where this one stopped.
        """
        self.rebuilder.mend(applied)
        with self._offline.log.folding(Table.of(self._project, applied)) as alone:
            latest = self._ledger.latest(applied.spec.name, applied.data_version)
            if alone and (latest is None or latest.state not in _UNFINISHED or latest.folds):
                self.resume(applied, transform)

    def _settle(self, applied: AppliedView, transform: Transform | None, reader: SourceReader) -> tuple[ViewSummary, int]:
        """Completes a run that was interrupted, then folds what was pushed until now.

        Returns:
            What came of the former, and the number of the next run. It is the next one after a run that is over, and what a
            run is begun with is to be looked up after this: if another run comes between, it has taken the number.
        """
        view, table = applied.spec, Table.of(self._project, applied)
        summary = ViewSummary(view.name, applied.data_version)
        folded = False
        while True:
            # NOTE: the history is asked before the ledger, which may have been restored from before the history's last run.
            taken = self._offline.snapshot(table).last_run
            latest = self._ledger.latest(view.name, applied.data_version)
            require_runs(table, self._ledger.last_committed, self._offline.snapshot)
            if latest is not None and latest.state in _UNFINISHED:
                run = self._ledger.update(latest, attempts=latest.attempts + 1)
                summary = summary.plus(replace(self._complete(run, applied, transform, reader), resumed=True))
                continue
            number = max(taken, latest.seq if latest else 0) + 1
            segments = [] if folded else self._offline.log.segments(table)
            if not segments:
                return summary, number
            done = self._ledger.last_done(view.name, applied.data_version)
            chunks = [{"pushed": each.seq, "rows": each.rows, "staged": dict(each.staged)} for each in segments]
            body = {"chunks": chunks, "cursor": done.span["cursor"] if done else None}
            run = self._ledger.begin(view.name, applied.data_version, number, body)
            if run.state in _UNFINISHED:
                self._complete(run, applied, transform, reader)
                folded = True

    def _pin(
        self, applied: AppliedView, transform: Transform | None, reader: SourceReader, start: datetime | None, end: datetime
    ) -> Span:
        """Pins what a run, or a dry one, reads; where that is something, the transform is tried first (S20)."""
        # A failed run counts for nothing: the cursor is that of the last run that was done.
        done = self._ledger.last_done(applied.spec.name, applied.data_version)
        span = reader.span(done.span["cursor"] if done else None, start, end, self._chunk_rows)
        if span.chunks and transform is not None:
            check_row_local(applied.spec, transform, reader.sample(SAMPLE_ROWS))
        return span

    def _complete(self, run: Run, applied: AppliedView, transform: Transform | None, reader: SourceReader) -> ViewSummary:
        """Does what is left of a run, whoever began it."""
        began = time.perf_counter()
        table = Table.of(self._project, applied)

        def carry_out(run: Run) -> tuple[Run, int, int]:
            if run.state == "running":
                run = self._stage_and_commit(run, table, applied, transform, reader)
            online, tied = self._write_online(run, table, applied)
            if run.folds:
                self._offline.log.remove(table)
            return run, online, tied

        try:
            run, online, tied = discreetly([applied.spec], lambda: carry_out(run), reader.schema)
        except OF_ONE_VIEW as error:
            self._ledger.update(run, state="failed", error=str(error), finished_at=self._clock())
            raise
        except FeatureStoreError as error:
            self._ledger.update(run, error=str(error))
            raise
        made = sum(body.get("made", 0) for body in self._ledger.staged(run).values())
        run = self._ledger.update(run, state="done", rows_online=online, finished_at=self._clock(), error="")
        if run.folds:
            # What was pushed was told by the push: nothing of it was new now.
            return ViewSummary(run.view, run.data_version, seconds=time.perf_counter() - began)
        return ViewSummary(
            run.view, run.data_version, run.rows_read, run.rows_written, run.rows_rejected,
            online, run.reasons, time.perf_counter() - began, rows_known=max(0, made - run.rows_written), rows_tied=tied,
        )  # fmt: skip

    def _write_online(self, run: Run, table: Table, applied: AppliedView) -> Written:
        """Writes what a committed run makes of a view's values."""
        if applied.spec.windows and run.folds:
            # A push that was killed may have left it undone; what it did is not done twice.
            rows = [(chunk["pushed"], self._offline.log.read(table, chunk["pushed"])) for chunk in run.span["chunks"]]
            return Written(sum(self._windows.apply_segment(applied, seq, segment) for seq, segment in rows if segment is not None))
        parts = self._offline.committed(table, run.seq)
        if applied.spec.windows:
            return Written(self._windows.write_run(applied, parts, self._progress))
        return self._latest.write_run(applied, parts, self._progress, first=run.rows_written == self._offline.snapshot(table).rows)

    def _stage_and_commit(
        self, run: Run, table: Table, applied: AppliedView, transform: Transform | None, reader: SourceReader
    ) -> Run:
        chunks = run.span["chunks"]
        if run.folds:
            bodies = [{"staged": chunk["staged"], "read": chunk["rows"], "reasons": {}, "kept": ""} for chunk in chunks]
        else:
            bodies = self._stage_all(run, table, applied, transform, reader)
        reasons = dict(sum((Counter(body["reasons"]) for body in bodies), Counter[str]()))
        rejected = sum(reasons.values())
        read = sum(body["read"] for body in bodies)
        if rejected > reasons.get(FORGOTTEN, 0) and applied.spec.on_reject == "fail":
            self._ledger.update(run, rows_read=read, rows_rejected=rejected, reasons=reasons)
            raise RejectedRowsError(run.view, reasons, next(body["kept"] for body in bodies if body["kept"]))
        self._progress.step(run.view, "write history", 0, 1)
        after = self._ledger.last_committed(run.view, run.data_version)
        written = self._offline.commit(table, run.seq, [body["staged"] for body in bodies], after)
        self._progress.step(run.view, "write history", 1, 1)
        cursor = accepted_cursor(run.span, [] if run.folds else bodies)
        return self._ledger.update(
            run, state="committed", cursor=cursor, rows_read=read, rows_written=written, rows_rejected=rejected, reasons=reasons
        )

    def _stage_all(
        self, run: Run, table: Table, applied: AppliedView, transform: Transform | None, reader: SourceReader
    ) -> list[dict[str, Any]]:
        chunks = run.span["chunks"]
        staged = self._ledger.staged(run)
        for index, chunk in enumerate(chunks):
            self._progress.step(run.view, "read", index, len(chunks))
            if index not in staged:
                staged[index] = self._ledger.stage(run, index, self._stage(run, index, chunk, table, applied, transform, reader))
        self._progress.step(run.view, "read", len(chunks), len(chunks))
        return [staged[index] for index in range(len(chunks))]

    def _stage(
        self,
        run: Run,
        index: int,
        chunk: Mapping[str, Any],
        table: Table,
        applied: AppliedView,
        transform: Transform | None,
        reader: SourceReader,
    ) -> dict[str, Any]:
        rows = reader.read(chunk, texts=True)
        shaped = self._shaped(rows, applied.spec, transform)
        kept = self._offline.keep_rejected(table, run.seq, index, rejects(shaped, applied.spec)) if shaped.rejected else ""
        staged = self._offline.stage(table, run.seq, index, shaped.rows)
        return {
            "staged": dict(staged), "read": rows.height, "made": shaped.rows.height, "reasons": shaped.reasons, "kept": kept,
            "latest": latest_accepted(rows, shaped, applied.spec.source),
        }  # fmt: skip

    def _shaped(self, rows: pl.DataFrame, view: ViewSpec, transform: Transform | None) -> TransformResult:
        sifted = self._sift(rows, view)
        return self._admit(shape_rows(sifted, view, transform).without(rows.height - sifted.height), view)

    @property
    def rebuilder(self) -> Rebuilder:
        """What writes whole histories online."""
        return Rebuilder(self._windows, self._latest, self._trust, self._versions, self._progress)

    def _try(
        self, applied: AppliedView, transform: Transform | None, reader: SourceReader, start: datetime | None, end: datetime
    ) -> ViewSummary:
        began = time.perf_counter()
        view = applied.spec
        span = self._pin(applied, transform, reader, start, end)
        summary = ViewSummary(view.name, applied.data_version, notices=span.notices)
        for index, chunk in enumerate(span.chunks):
            self._progress.step(view.name, "read", index, len(span.chunks))
            rows = reader.read(chunk, texts=True)
            shaped = self._shaped(rows, view, transform)
            rejected = sum(shaped.reasons.values())
            found = ViewSummary(view.name, applied.data_version, rows.height, rows_rejected=rejected, reasons=shaped.reasons)
            summary = summary.plus(found)
        self._progress.step(view.name, "read", len(span.chunks), len(span.chunks))
        return replace(summary, seconds=time.perf_counter() - began)
