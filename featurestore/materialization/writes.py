"""Writes, as ``store.materialize`` and ``store.push``: which views, from when to when, and what becomes of their rows."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from featurestore.clock import parse_duration, parse_instant
from featurestore.components import Components
from featurestore.definitions.source import Source
from featurestore.errors import DefinitionError, NotFoundError, RequestError
from featurestore.materialization.backfill import Backfill
from featurestore.materialization.progress import Progress
from featurestore.materialization.push import frame_of
from featurestore.materialization.results import MaterializeSummary, PushSummary


class Writes:
    """Bring rows into both stores.

    Args:
        components: what the project is made of.
    """

    def __init__(self, components: Components) -> None:
        self._components = components

    def materialize(
        self,
        views: Iterable[Any] | None,
        *,
        start: datetime | str | None,
        end: datetime | str | None,
        chunk: timedelta | str | None,
        parallel: int,
        dry_run: bool,
        progress: Progress | None,
    ) -> MaterializeSummary:
        """See ``FeatureStore.materialize``."""
        components = self._components
        until = components.clock() if end is None else parse_instant(end)
        if until > components.clock():
            raise RequestError(f"end={end!s} lies in the future, when more rows may exist. Leave it out: the default is now.")
        since = None if start is None else parse_instant(start)
        if parallel < 1:
            raise RequestError(f"parallel={parallel} must be at least 1: it is the number of views to materialize at once.")
        job, chosen, bind = components.materializer(progress), components.views(views), components.definition_loader.bind
        if since is not None and since.year == 1 and not dry_run:
            # A source that is read again from its beginning goes on without rows that exist nowhere any more.
            for applied in chosen:
                components.history_checks.mend(applied, give_up=True)
        if chunk is None:
            done = job.materialize_all(chosen, bind, start=since, end=until, dry_run=dry_run, parallel=parallel)
            return MaterializeSummary(done, dry_run=dry_run)
        if dry_run:
            raise RequestError("dry_run=True writes nothing that a later span could continue from; leave chunk= out.")
        length = _chunk_length(chunk)
        backfill = Backfill(job, components.ledger, components.open_source, progress)
        return MaterializeSummary(backfill.run(chosen, bind, start=since, end=until, chunk=length, parallel=parallel))

    def push(self, source: Source | str, rows: Any, *, views: Iterable[Any] | None) -> PushSummary:
        """See ``FeatureStore.push``."""
        components = self._components
        name = source.name if isinstance(source, Source) else source
        catalog = components.catalog_cache.refresh()
        if name not in catalog.sources:
            raise NotFoundError("applied source", name, catalog.sources, "Definitions take effect once they are applied.")
        chosen = [view for view in components.views(views) if views is not None or view.spec.source.name == name]
        for view in chosen:
            if view.spec.source.name != name:
                other = view.spec.source.name
                raise RequestError(f"View {view.spec.name!r} is on source {other!r}, not on {name!r}: push its rows there.")
        if not chosen:
            raise RequestError(f"No view is on source {name!r}, so there is nothing to push to.")
        return PushSummary(components.pusher.push([components.definition_loader.bind(view) for view in chosen], frame_of(rows)))


def _chunk_length(chunk: timedelta | str) -> int:
    try:
        return parse_duration(chunk)
    except DefinitionError as error:
        raise RequestError(f"chunk={chunk!r} is not a duration. {error.problem}") from error
