"""Pushes: rows of a source, through the same transforms and checks as a run, straight into both stores.

1. **shape**: the rows are shaped and checked for all views first; nothing is written where one of them refuses them.
2. **append**: the rows that a view's history does not hold yet become a segment of its log, which training reads from then
   on. Rows known already are passed over, so a push may be repeated.
3. **write online**: what the rows make of the view's values. It is done for rows known already too, as far as a push that
   was killed may have left it undone: pushing the same rows again, or materializing, completes it.
4. **fold**: a log that has grown is added to the history, by a run of the ledger like any other (``materializer.py``).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import polars as pl

from featurestore.access.pii import without_unkeyed
from featurestore.access.redaction import discreetly
from featurestore.clock import to_micros
from featurestore.definitions.catalog import AppliedView, BoundView
from featurestore.definitions.fingerprint import Transform
from featurestore.definitions.source import Source
from featurestore.definitions.window_features import EVENT_ID, WithInputs
from featurestore.errors import RejectedRowsError, RequestError, SourceError, with_article
from featurestore.materialization.results import PushedView, Written
from featurestore.materialization.stores import OnlineWriters, OpenSource, Stores
from featurestore.offline.base import Appended, Table
from featurestore.privacy.guarded_stores import ForgottenFilter
from featurestore.project.row_locality import SAMPLE_ROWS, check_row_local
from featurestore.retrieval.online_result import CLOCK_SKEW
from featurestore.retrieval.spine import reading_spine, to_frame
from featurestore.row_codec import wire_dtype
from featurestore.rows.pushed import in_source_form, without_unknown
from featurestore.rows.total_order import EVENT
from featurestore.rows.transform import TransformResult, shape_rows, stack_rejects
from featurestore.windows.tiles import TileLayout

_MOST_SEGMENTS = 256
_MOST_ROWS = 500_000
"""A log of more is folded."""
_TRIED = 8
"""On so many rows a transform is tried before it is trusted with pushes."""
_PUSHES = 0
"""The number of the run that rejected rows of pushes are kept under."""


@dataclass(frozen=True)
class _Given:
    """What a push brings to one view."""

    view: BoundView
    table: Table
    shaped: TransformResult
    waiting: int
    seconds: float


class Pusher:
    """Push rows.

    Args:
        stores: where rows go.
        open_source: opens a source's reader.
        forgotten_filter: knows who is forgotten.
        fold: adds a view's log to its history.
        mend: writes a view's values online if some may be lost; None if that is left to others.
    """

    def __init__(
        self,
        stores: Stores,
        open_source: OpenSource,
        forgotten_filter: ForgottenFilter,
        fold: Callable[[BoundView], None],
        mend: Callable[[BoundView], None] | None = None,
    ) -> None:
        self._project = stores.project
        self._ledger = stores.ledger
        self._offline = stores.offline
        self._open_source = open_source
        self._fold = fold
        self._clock = stores.clock
        self._forgotten_filter = forgotten_filter
        self._trust = stores.trust
        self._mend = mend
        self._windows, self._latest = OnlineWriters.of(stores)
        self._tried: dict[str, Transform] = {}
        self._schemas: dict[str, tuple[Source, pl.Schema | None]] = {}

    def push(self, views: Sequence[BoundView], rows: pl.DataFrame, *, until: int | None = None) -> list[PushedView]:
        """Push rows of a source into the views on it; when it returns, an online read and training see them.

        Args:
            views: the views, all on the source.
            rows: the rows.
            until: the latest effective available time that is known, in microseconds; what this machine's clock says, if None.
                Rows beyond it wait: they are not stored, and are to be pushed again (S18).

        Raises:
            RequestError: the rows lack a column, or have one that the source has not, or one of another type.
            DefinitionError: a transform fails.
            RejectedRowsError: rows were rejected, and a view says ``on_reject="fail"``; nothing was written.
            StoreError: a store cannot be reached; pushing the rows again completes it.
        """
        latest = to_micros(self._clock()) + CLOCK_SKEW if until is None else until
        return discreetly([view.spec for view in views], lambda: self._push(views, rows, latest), lambda: rows.columns)

    def _push(self, views: Sequence[BoundView], rows: pl.DataFrame, latest: int) -> list[PushedView]:
        in_form = [self._in_source_form(rows, view.spec.source_as_read) for view in views]
        # NOTE: who is forgotten is asked once for all views, and not while their transforms run: forgetting waits for who asked.
        with self._forgotten_filter.writing():
            sifted = [self._forgotten_filter.sift(frame, view.spec) for view, frame in zip(views, in_form, strict=True)]
        shaped = [self._shaped(view, frame, rows.height, latest) for view, frame in zip(views, sifted, strict=True)]
        with self._forgotten_filter.writing():
            given = [
                replace(frame, shaped=self._forgotten_filter.without_forgotten(frame.shaped, frame.view.spec)) for frame in shaped
            ]
            kept = [self._keep_rejected(frame) for frame in given]
            for frame, place in zip(given, kept, strict=True):
                if place and frame.view.spec.on_reject == "fail":
                    raise RejectedRowsError(frame.view.spec.name, frame.shaped.reasons, place)
            # NOTE: asked before anything is written: of a store that is used for the first time it tells what it may lack.
            doubted = [self._trust.doubted(frame.view.applied) for frame in given]
            written = [self._write(frame, rows.height) for frame in given]
        for frame, (_, grown) in zip(given, written, strict=True):
            if grown:
                self._fold(frame.view)
        for frame, doubt in zip(given, doubted, strict=True):
            if self._mend is not None and (doubt or self._trust.doubted(frame.view.applied)):
                self._mend(frame.view)
        return [pushed for pushed, _ in written]

    def _in_source_form(self, rows: pl.DataFrame, source: Source) -> pl.DataFrame:
        # Views of one source may declare other types of what it says in texts alone.
        name = f"{source.name} {getattr(source, '_declared', '')}"
        known = self._schemas.get(name)
        if known is not None and known[0] == source:
            try:
                return in_source_form(rows, source, known[1])
            except RequestError:
                pass  # the source may have got other columns since it was looked at
        try:
            schema = self._open_source(source).schema()
        except SourceError:
            schema = None
        self._schemas[name] = (source, schema)
        return in_source_form(rows, source, schema)

    def _shaped(self, view: BoundView, rows: pl.DataFrame, pushed: int, until: int) -> _Given:
        began = time.perf_counter()
        self._try(view, rows)
        shaped = shape_rows(rows, view.spec, view.transform).without(pushed - rows.height)
        known, waiting = without_unknown(shaped, until)
        return _Given(view, Table.of(self._project, view.applied), known, waiting, time.perf_counter() - began)

    def _try(self, bound: BoundView, rows: pl.DataFrame) -> None:
        """Try a transform on the first rows that are pushed through it: the source may have had none at ``apply`` (S20)."""
        view, transform = bound.spec, bound.transform
        if transform is None or self._tried.get(view.name) is transform:
            return
        if isinstance(transform, WithInputs) and transform.is_plain:
            return
        times = [name for name in view.source.time_columns if name in rows.columns]
        sample = rows.head(SAMPLE_ROWS).drop_nulls(times).head(_TRIED)
        if sample.height:
            check_row_local(view, transform, sample)
            self._tried[view.name] = transform

    def _keep_rejected(self, given: _Given) -> str:
        """Keep a view's rejected rows, those of a push repeated once; return where, empty for none."""
        if not given.shaped.rejected:
            return ""
        frame = without_unkeyed(stack_rejects(given.shaped.rejected), given.view.spec)
        # NOTE: as they are written. A time that was rejected for its year is nothing that Python can say.
        plain = frame.select(pl.col(name).cast(wire_dtype(dtype)) for name, dtype in frame.schema.items())
        digest = blake2b(repr(plain.to_dict(as_series=False)).encode(), digest_size=6).digest()
        return self._offline.keep_rejected(given.table, _PUSHES, int.from_bytes(digest, "big"), frame)

    def _write(self, given: _Given, read: int) -> tuple[PushedView, bool]:
        """Write a view's rows; return what became of them, and whether its log has grown so much that it is to be folded."""
        began = time.perf_counter()
        applied, rows = given.view.applied, given.shaped.rows
        appended = self._offline.log.append(given.table, rows, since=_events_since(applied, rows))
        online, tied = Written(self._write_windows(given, appended)) if applied.spec.windows else self._write_latest(given)
        new, reasons = appended.rows.height, given.shaped.reasons
        seconds = given.seconds + time.perf_counter() - began
        pushed = PushedView(
            applied.spec.name, applied.data_version, read, new, rows.height - new, sum(reasons.values()), online, reasons, seconds,
            given.shaped.rejected, given.waiting, tied,
        )  # fmt: skip
        return pushed, appended.log_segments > _MOST_SEGMENTS or appended.log_rows > _MOST_ROWS

    def _write_latest(self, given: _Given) -> Written:
        # All of the rows, known ones too: the greatest wins, so nothing is changed but what a killed push has left.
        return self._latest.write_rows(given.view.applied, given.shaped.rows)

    def _write_windows(self, given: _Given, appended: Appended) -> int:
        applied, log = given.view.applied, self._offline.log
        written = 0
        for seq in appended.segments:
            rows = log.read(given.table, seq)
            if rows is not None:
                written += self._windows.apply_segment(applied, seq, rows)
        if appended.seq is not None:
            written += self._windows.apply_segment(applied, appended.seq, appended.rows)
        if appended.known.height:
            # What is in the history is online too, unless the run that brought it is at it or was killed.
            latest = self._ledger.latest(applied.spec.name, applied.data_version)
            if latest is not None and latest.state in ("running", "committed"):
                entities = appended.known.select(applied.spec.entity.key_names).unique(maintain_order=True)
                written += self._windows.recompute(applied, entities)
        return written


def frame_of(rows: Any) -> pl.DataFrame:
    """Return rows in any of the forms that can be pushed as a frame.

    Raises:
        RequestError: they are in another form, or make no frame.
    """
    if isinstance(rows, pl.DataFrame):
        return rows
    if isinstance(rows, pl.LazyFrame):
        with reading_spine("The lazy frame"):
            return rows.collect()
    listed = isinstance(rows, list) and all(isinstance(row, Mapping) for row in rows)
    if not (listed or isinstance(rows, Mapping) or hasattr(rows, "__arrow_c_stream__") or hasattr(rows, "__dataframe__")):
        raise RequestError(
            f"Rows cannot be pushed as {with_article(type(rows).__name__)}. Give a Polars or pandas frame, an Arrow table, "
            "a list of dictionaries or a mapping of columns; read a file first: pl.read_parquet(…)."
        )
    return to_frame(rows, "push")


def _events_since(applied: AppliedView, rows: pl.DataFrame) -> int | None:
    """Return from which event time on other versions of pushed events matter; None where events have no ids (S9)."""
    if not applied.spec.windows or EVENT_ID not in applied.spec.stored_schema or rows.is_empty():
        return None
    # An entity's value reaches back so far from its last event, which is none before these. In whole steps, so that a
    # late row does not make the files be read again for a little more.
    reach = TileLayout.of(applied.spec).reach
    first: int = rows[EVENT].to_physical().min()  # type: ignore[assignment]  # there are rows
    return (first // reach - 1) * reach
