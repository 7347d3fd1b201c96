"""Backfills in chunks: a source's rows from a start time on, one span of available time in each run.

A run that is done is not done again when the same backfill is repeated, so one that was interrupted goes on where it stopped:
each run's row in the ledger has its span as ``"backfill": [first, last]``, microseconds since the epoch, both inclusive.

Without a start, the spans begin with the source's first row and are those of ordinary runs, each of which reads on from where
the one before stopped (``"backfill": [null, last]``). Once the last is done the view is materialized, as if one run had read all.
With a start, the spans are read whatever was read before, and the cursor stays where it is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from featurestore.clock import from_micros, to_micros
from featurestore.definitions.catalog import AppliedView, BoundView
from featurestore.definitions.source import Source
from featurestore.errors import RequestError
from featurestore.materialization.materializer import Materializer
from featurestore.materialization.per_view import each_view
from featurestore.materialization.progress import Progress, Silence
from featurestore.materialization.results import ViewSummary
from featurestore.registry.ledger import Ledger
from featurestore.sources.base import SourceReader

_MOST_SPANS = 100_000


@dataclass(frozen=True)
class Backfill:
    """Materialize views span by span.

    Args:
        job: does one span.
        ledger: knows which spans are done.
        open_source: opens a source's reader.
        progress: receives the number of spans done of each view.
    """

    job: Materializer
    ledger: Ledger
    open_source: Callable[[Source], SourceReader]
    progress: Progress | None = None

    def run(
        self,
        views: Sequence[AppliedView],
        bind: Callable[[AppliedView], BoundView],
        *,
        start: datetime | None,
        end: datetime,
        chunk: int,
        parallel: int,
    ) -> list[ViewSummary]:
        """Materialize views, each its spans one after the other.

        Args:
            views: the views as applied.
            bind: returns a view with its definition.
            start: the first instant; None for the source's first row.
            end: the last instant, inclusive.
            chunk: how long a span is, in microseconds.
            parallel: how many views at once.

        Raises:
            RequestError: there would be too many spans; or a source cannot tell when its rows begin.
            MaterializeError, FeatureStoreError: as ``Materializer.materialize_all``.
        """
        job = self.job.sharing(parallel, Silence())

        return each_view(views, bind, lambda view: self._view(job, view, start, end, chunk), parallel)

    def _view(self, job: Materializer, view: BoundView, start: datetime | None, end: datetime, chunk: int) -> ViewSummary:
        name, progress = view.spec.name, self.progress or Silence()
        summary = job.resume(view)
        first, last = self._first(view.applied, start, chunk), to_micros(end)
        if first is None:
            return summary.plus(job.materialize(view, start=None, end=end))
        todo = spans(first, last, chunk)
        done = self.ledger.backfilled(name, view.data_version)
        if start is None:
            # Each reads on from the one before; the last is looked at in any case, for what is new.
            through = max((until for since, until in done if since is None), default=first - 1)
            over = [span for span in todo[:-1] if span[1] <= through]
        else:
            over = [span for span in todo if span in done]
        for number, span in enumerate(todo):
            progress.step(name, "backfill", number, len(todo))
            if span not in over:
                since, until = None if start is None else from_micros(span[0]), from_micros(span[1])
                note = {"backfill": [None if start is None else span[0], span[1]]}
                summary = summary.plus(job.materialize(view, start=since, end=until, note=note))
        progress.step(name, "backfill", len(todo), len(todo))
        return summary

    def _first(self, applied: AppliedView, start: datetime | None, chunk: int) -> int | None:
        """Return where a view's first span begins, in microseconds; None where its source is empty."""
        if start is not None:
            return to_micros(start)
        earliest = self.open_source(applied.spec.source_as_read).first()
        # From the epoch on in whole spans, so that the same backfill has the same ones whatever rows come first.
        return None if earliest is None else to_micros(earliest) // chunk * chunk


def spans(first: int, last: int, length: int) -> list[tuple[int, int]]:
    """Return a stretch of time in spans of one length, but for the last; all bounds are inclusive, in microseconds.

    Raises:
        RequestError: there are too many.

    Example:
        >>> spans(0, 25, 10)
        [(0, 9), (10, 19), (20, 25)]
        >>> spans(5, 4, 10)
        []
    """
    count = (last - first) // length + 1
    if count > _MOST_SPANS:
        raise RequestError(f"That would be {count:,} spans, and {_MOST_SPANS:,} are the most. Make them longer.")
    return [(begin, min(begin + length - 1, last)) for begin in range(first, last + 1, length)]
