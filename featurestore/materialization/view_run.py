"""The run of one view: its steps from pinning what is read to finishing, each of which may be repeated (S17)."""

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from typing import Any

import polars as pl

from featurestore.access.redaction import discreetly
from featurestore.definitions.catalog import BoundView
from featurestore.errors import FeatureStoreError, MaterializeError, RejectedRowsError
from featurestore.materialization.failed_attempts import is_to_clear, pinned, reads_nothing
from featurestore.materialization.per_view import OF_ONE_VIEW
from featurestore.materialization.read_progress import accepted_cursor, latest_accepted, rejects
from featurestore.materialization.results import ViewSummary, Written
from featurestore.materialization.stores import MaterializeOptions, OnlineWriters, RowFilter, Stores
from featurestore.offline.base import Table
from featurestore.offline.condition import require_runs
from featurestore.project.row_locality import SAMPLE_ROWS, check_row_local
from featurestore.registry.ledger import Run
from featurestore.rows.transform import FORGOTTEN, TransformResult, shape_rows
from featurestore.sources.base import SourceReader, Span

UNFINISHED = ("running", "committed")
"""The states of a run that is not over."""


class ViewRun:
    """Bring one view's rows into both stores.

    Args:
        stores: where they go.
        writers: what writes online.
        rows: removes the rows of forgotten entities.
        reader: the reader of the view's source.
        view: the view.
        options: how it works.
    """

    def __init__(
        self,
        stores: Stores,
        writers: OnlineWriters,
        rows: RowFilter,
        reader: SourceReader,
        view: BoundView,
        options: MaterializeOptions,
    ) -> None:
        self.reader = reader
        self.table = Table.of(stores.project, view.applied)
        self._ledger = stores.ledger
        self._offline = stores.offline
        self._clock = stores.clock
        self._windows, self._latest = writers
        self._rows = rows
        self._view = view
        self._spec = view.spec
        self._chunk_rows = options.chunk_rows
        self._progress = options.progress
        self._workers = options.workers

    def all(self, start: datetime | None, end: datetime, note: Mapping[str, Any]) -> ViewSummary:
        """Complete what was interrupted, then read and write what is new: see ``Materializer.materialize``."""
        view, data_version = self._spec, self._view.data_version
        summary = ViewSummary(view.name, data_version)
        while True:
            settled, number = self.settle()
            summary = summary.plus(settled)
            span = self._pin(start, end)
            summary = summary.plus(ViewSummary(view.name, data_version, notices=span.notices))
            reads = bool(span.chunks) or span.keep
            if not reads and not is_to_clear(self._ledger, self._view.applied):
                return summary
            body = pinned(span, note) if reads else reads_nothing(self._ledger, view.name, data_version)
            run = self._ledger.begin(view.name, data_version, number, body)
            if run.state == "failed":
                raise MaterializeError(f"Another process was at run {run.seq} of {view.name!r}, and it failed: {run.error}")
            # A run that another process began and has done already leaves nothing to do.
            if run.state != "done":
                summary = summary.plus(self._complete(run))
            if not run.folds:  # which a push may have begun at this moment
                return summary

    def settle(self) -> tuple[ViewSummary, int]:
        """Complete a run that was interrupted, then fold what was pushed until now.

        Returns:
            What came of the former, and the number of the next run. It is the next one after a run that is over, and what a
            run is begun with is to be looked up after this: if another run comes between, it has taken the number.
        """
        view, table, applied = self._spec, self.table, self._view.applied
        summary = ViewSummary(view.name, applied.data_version)
        folded = False
        while True:
            # NOTE: the history is asked before the ledger, which may have been restored from before the history's last run.
            taken = self._offline.snapshot(table).last_run
            latest = self._ledger.latest(view.name, applied.data_version)
            require_runs(table, self._ledger.last_committed, self._offline.snapshot)
            if latest is not None and latest.state in UNFINISHED:
                run = self._ledger.update(latest, attempts=latest.attempts + 1)
                summary = summary.plus(replace(self._complete(run), resumed=True))
                continue
            number = max(taken, latest.seq if latest else 0) + 1
            segments = [] if folded else self._offline.log.segments(table)
            if not segments:
                return summary, number
            done = self._ledger.last_done(view.name, applied.data_version)
            chunks = [{"pushed": segment.seq, "rows": segment.rows, "staged": dict(segment.staged)} for segment in segments]
            body = {"chunks": chunks, "cursor": done.span["cursor"] if done else None}
            run = self._ledger.begin(view.name, applied.data_version, number, body)
            if run.state in UNFINISHED:
                self._complete(run)
                folded = True

    def _pin(self, start: datetime | None, end: datetime) -> Span:
        """Pin what a run, or a dry one, reads; where that is something, the transform is tried first (S20)."""
        # A failed run counts for nothing: the cursor is that of the last run that was done.
        done = self._ledger.last_done(self._spec.name, self._view.data_version)
        span = self.reader.span(done.span["cursor"] if done else None, start, end, self._chunk_rows)
        if span.chunks and self._view.transform is not None:
            check_row_local(self._spec, self._view.transform, self.reader.sample(SAMPLE_ROWS))
        return span

    def _complete(self, run: Run) -> ViewSummary:
        """Complete a run, including one that another process began."""
        began = time.perf_counter()

        def carry_out(run: Run) -> tuple[Run, int, int]:
            if run.state == "running":
                run = self._stage_and_commit(run)
            online, tied = self._write_online(run)
            if run.folds:
                self._offline.log.remove(self.table)
            return run, online, tied

        try:
            run, online, tied = discreetly([self._spec], lambda: carry_out(run), self.reader.schema)
        except OF_ONE_VIEW as error:
            self._ledger.update(run, state="failed", error=str(error), finished_at=self._clock())
            raise
        except FeatureStoreError as error:
            self._ledger.update(run, error=str(error))
            raise
        rows_made = sum(body.get("made", 0) for body in self._ledger.staged(run).values())
        run = self._ledger.update(run, state="done", rows_online=online, finished_at=self._clock(), error="")
        if run.folds:
            # What was pushed was told by the push: nothing of it was new now.
            return ViewSummary(run.view, run.data_version, seconds=time.perf_counter() - began)
        return ViewSummary(
            run.view, run.data_version, run.rows_read, run.rows_written, run.rows_rejected,
            online, run.reasons, time.perf_counter() - began, rows_known=max(0, rows_made - run.rows_written), rows_tied=tied,
        )  # fmt: skip

    def _write_online(self, run: Run) -> Written:
        """Write what a committed run makes of the view's values."""
        table, applied = self.table, self._view.applied
        if applied.spec.windows and run.folds:
            # A push that was killed may have left it undone; what it did is not done twice.
            rows = [(chunk["pushed"], self._offline.log.read(table, chunk["pushed"])) for chunk in run.span["chunks"]]
            return Written(sum(self._windows.apply_segment(applied, seq, segment) for seq, segment in rows if segment is not None))
        parts = self._offline.committed(table, run.seq)
        if applied.spec.windows:
            return Written(self._windows.write_run(applied, parts, self._progress))
        return self._latest.write_run(applied, parts, self._progress, first=run.rows_written == self._offline.snapshot(table).rows)

    def _stage_and_commit(self, run: Run) -> Run:
        chunks = run.span["chunks"]
        if run.folds:
            bodies = [{"staged": chunk["staged"], "read": chunk["rows"], "reasons": {}, "kept": ""} for chunk in chunks]
        else:
            bodies = self._stage_all(run)
        reasons = dict(sum((Counter(body["reasons"]) for body in bodies), Counter[str]()))
        rejected = sum(reasons.values())
        read = sum(body["read"] for body in bodies)
        if rejected > reasons.get(FORGOTTEN, 0) and self._spec.on_reject == "fail":
            self._ledger.update(run, rows_read=read, rows_rejected=rejected, reasons=reasons)
            raise RejectedRowsError(run.view, reasons, next(body["kept"] for body in bodies if body["kept"]))
        self._progress.step(run.view, "write history", 0, 1)
        after = self._ledger.last_committed(run.view, run.data_version)
        engine = None if self._workers is None or run.folds else self._workers.engine
        written = self._offline.commit(self.table, run.seq, [body["staged"] for body in bodies], after, engine)
        self._progress.step(run.view, "write history", 1, 1)
        cursor = accepted_cursor(run.span, [] if run.folds else bodies)
        return self._ledger.update(
            run, state="committed", cursor=cursor, rows_read=read, rows_written=written, rows_rejected=rejected, reasons=reasons
        )

    def _stage_all(self, run: Run) -> list[dict[str, Any]]:
        chunks = run.span["chunks"]
        staged = self._ledger.staged(run)
        waiting = {index: chunk for index, chunk in enumerate(chunks) if index not in staged}
        if waiting and self._workers is not None and self._workers.stages(self._view):
            bodies = self._workers.stage(self._view, run.seq, waiting)
        else:
            bodies = ((index, self.stage(run.seq, index, chunk)) for index, chunk in waiting.items())
        self._progress.step(run.view, "read", len(staged), len(chunks))
        with closing(bodies):
            for index, body in bodies:
                staged[index] = self._ledger.stage(run, index, body)
                self._progress.step(run.view, "read", len(staged), len(chunks))
        return [staged[index] for index in range(len(chunks))]

    def stage(self, run: int, index: int, chunk: Mapping[str, Any]) -> dict[str, Any]:
        """Read a chunk of a run and stage its rows; return what the ledger notes of it."""
        rows = self.reader.read(chunk, texts=True)
        shaped = self._shaped(rows)
        kept = self._offline.keep_rejected(self.table, run, index, rejects(shaped, self._spec)) if shaped.rejected else ""
        staged = self._offline.stage(self.table, run, index, shaped.rows)
        return {
            "staged": dict(staged), "read": rows.height, "made": shaped.rows.height, "reasons": shaped.reasons, "kept": kept,
            "latest": latest_accepted(rows, shaped, self._spec.source),
        }  # fmt: skip

    def _shaped(self, rows: pl.DataFrame) -> TransformResult:
        sifted = self._rows.sift(rows, self._spec)
        shaped = shape_rows(sifted, self._spec, self._view.transform).without(rows.height - sifted.height)
        return self._rows.without_forgotten(shaped, self._spec)

    def try_out(self, start: datetime | None, end: datetime) -> ViewSummary:
        """Read and check what is new, and write nothing."""
        began = time.perf_counter()
        view, applied = self._spec, self._view
        span = self._pin(start, end)
        summary = ViewSummary(view.name, applied.data_version, notices=span.notices)
        for index, chunk in enumerate(span.chunks):
            self._progress.step(view.name, "read", index, len(span.chunks))
            rows = self.reader.read(chunk, texts=True)
            shaped = self._shaped(rows)
            rejected = sum(shaped.reasons.values())
            trial = ViewSummary(view.name, applied.data_version, rows.height, rows_rejected=rejected, reasons=shaped.reasons)
            summary = summary.plus(trial)
        self._progress.step(view.name, "read", len(span.chunks), len(span.chunks))
        return replace(summary, seconds=time.perf_counter() - began)
