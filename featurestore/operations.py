"""What keeps a store's features fresh and in order: the half of ``FeatureStore`` that writes, watches and tidies."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl

from featurestore.care import Care
from featurestore.clock import parse_duration, parse_instant
from featurestore.definitions.catalog import AppliedView, Catalog
from featurestore.definitions.reference import parse_references
from featurestore.definitions.source import Source
from featurestore.errors import DefinitionError, FeatureStoreError, NotFoundError, RequestError
from featurestore.online.base import OnlineLostError

if TYPE_CHECKING:
    from threading import Event

    from featurestore.maintenance.status import Alert, StatusReport
    from featurestore.materialization.progress import Progress
    from featurestore.materialization.results import MaterializeSummary, PushSummary
    from featurestore.registry.audit_trail import AuditRecord, EntityDigests
    from featurestore.registry.ledger import Run, State
    from featurestore.registry.serving import ViewVersion
    from featurestore.scheduling.scheduler import Scheduler, TaskResult


class Operations(Care):
    """The operations of a store: see ``FeatureStore``, which is made of them."""

    @property
    def catalog(self) -> Catalog:
        """All that is applied: entities, sources, views and services by name."""
        return self._watch.refresh()

    @property
    def catalog_at_hand(self) -> Catalog:
        """The same as readers know it: at most ``refresh_seconds`` old, so the registry is not asked."""
        return self._watch.current

    # -- writing -------------------------------------------------------------------------------------------------------

    def materialize(
        self,
        views: Iterable[Any] | None = None,
        *,
        start: datetime | str | None = None,
        end: datetime | str | None = None,
        chunk: timedelta | str | None = None,
        parallel: int = 1,
        dry_run: bool = False,
        progress: "Progress | None" = None,
    ) -> "MaterializeSummary":
        """Brings what is new in the views' sources into the history and the online store.

        A run that was interrupted is completed first. Running it again, or twice at once, changes nothing (S17). A view that
        was changed is given to readers once it is done; until then they are given the version before.

        Args:
            views: the views, as classes or names; None for all that are applied.
            start: read from this available time on, inclusive, even what was read before; None for what is new.
            end: read what is available by this instant, inclusive; None for now.
            chunk: read in spans of available time of this length (``"1d"``), each a run, from ``start`` or the source's first
                row on. A span that is done is not done again when the same backfill is repeated.
            parallel: how many views at once; together they hold as many rows as one would.
            dry_run: read and check only, and write nothing.
            progress: is told how it gets on.

        Returns:
            A summary for each view; print it.

        Raises:
            NotFoundError: a view is not applied.
            DefinitionError: a definition changed since it was applied, or its transform fails.
            SourceError: a source is not there, or not what its definition says.
            RejectedRowsError: rows were rejected in a view that says ``on_reject="fail"``.
            StoreError: a store cannot be reached; the next call goes on where this one stopped.
        """
        from featurestore.materialization.backfill import Backfill
        from featurestore.materialization.results import MaterializeSummary

        until = self._clock() if end is None else parse_instant(end)
        if until > self._clock():
            raise RequestError(
                f"end={end!s} lies in the future, when more may come to be known. Leave it out: it is now by itself."
            )
        since = None if start is None else parse_instant(start)
        if parallel < 1:
            raise RequestError(f"parallel={parallel} is no number of views to do at once; the least is 1.")
        job, chosen, define = self._materializer(progress), self._views(views), self._at_hand.of
        if since is not None and since.year == 1 and not dry_run:
            # Who reads a source again from its beginning goes on without what is nowhere any more.
            for applied in chosen:
                self._histories.mend(applied, give_up=True)
        if chunk is None:
            done = job.materialize_all(chosen, define, start=since, end=until, dry_run=dry_run, parallel=parallel)
            return MaterializeSummary(done)
        if dry_run:
            raise RequestError("dry_run=True writes nothing that a later span could go on from; leave chunk= out.")
        length = _chunk_length(chunk)
        backfill = Backfill(job, self._ledger, self._open_source, progress)
        return MaterializeSummary(backfill.run(chosen, define, start=since, end=until, chunk=length, parallel=parallel))

    def push(self, source: Source | str, rows: Any, *, views: Iterable[Any] | None = None) -> "PushSummary":
        """Puts rows of a source straight into both stores: when it returns, an online read and a training frame see them.

        They take the same transforms and checks as in a run. Rows that are known already are passed over, so pushing them
        again changes nothing, nor does a run that finds them in the source later (S17).

        Args:
            source: the source, or its name.
            rows: rows as the source has them: a Polars or pandas frame, an Arrow table, a list of dictionaries or a mapping of
                columns.
            views: the views to push to, as classes or names; None for all views on the source.

        Returns:
            A summary for each view; print it.

        Raises:
            NotFoundError: the source or a view is not applied.
            RequestError: a column is missing, unknown or of another type; a view is not on the source.
            DefinitionError: a definition changed since it was applied, or its transform fails.
            RejectedRowsError: rows were rejected in a view that says ``on_reject="fail"``; nothing was written.
            StoreError: a store cannot be reached; pushing the rows again completes it.

        Example:
            >>> from datetime import datetime
            >>> from featurestore import Entity, FeatureStore, FeatureView, FrameSource
            >>> at = datetime(2013, 7, 1, 12)
            >>> rows = pl.DataFrame(schema={"origin": pl.String, "at": pl.Datetime, "temp": pl.Float64})
            >>> observations = FrameSource("observations", rows, event_time="at")
            >>> class Weather(FeatureView, entity=Entity("airport", origin=str), source=observations):
            ...     temp: float | None
            >>> with FeatureStore(".", project="flights") as store:
            ...     plan = store.apply([Weather])
            ...     [pushed] = store.push(observations, [{"origin": "JFK", "at": at, "temp": 79.0}])
            ...     row = store.online(Weather, [{"origin": "JFK"}]).to_dicts()[0]
            >>> pushed.rows_new, row
            (1, {'origin': 'JFK', 'temp': 79.0})
        """
        from featurestore.materialization.push import frame_of
        from featurestore.materialization.results import PushSummary

        name = source.name if isinstance(source, Source) else source
        catalog = self._watch.refresh()
        if name not in catalog.sources:
            raise NotFoundError("applied source", name, catalog.sources, "Definitions take effect once they are applied.")
        chosen = [each for each in self._views(views) if views is not None or each.spec.source.name == name]
        for each in chosen:
            if each.spec.source.name != name:
                found = each.spec.source.name
                raise RequestError(f"View {each.spec.name!r} is on source {found!r}, not on {name!r}: push its rows there.")
        if not chosen:
            raise RequestError(f"No view is on source {name!r}, so there is nothing to push to.")
        return PushSummary(self._pusher.push([self._at_hand.of(each) for each in chosen], frame_of(rows)))

    def scheduler(
        self, *, told: "Callable[[TaskResult], None] | None" = None, notify: "Callable[[Alert], None] | None" = None
    ) -> "Scheduler":
        """Returns what runs the views that have a schedule: ``once`` for all that is due, or ``schedule`` for as long as it takes.

        Any number of them, in any number of processes, share the work: each due run happens once, and what one that died was
        at is taken over. What is applied meanwhile is taken up.

        Args:
            told: is told what came of each run, in a thread of its own.
            notify: is told which views failed for good; the log and the webhook of the settings, if None.

        Raises:
            ConfigError: the webhook's address is of the wrong form.

        Example:
            >>> from datetime import datetime
            >>> from featurestore import Entity, FeatureStore, FeatureView, FrameSource
            >>> rows = pl.DataFrame({"origin": ["JFK"], "at": [datetime(2013, 7, 1)], "temp": [79.0]})
            >>> observations = FrameSource("observations", rows, event_time="at")
            >>> class Weather(FeatureView, entity=Entity("airport", origin=str), source=observations, schedule="15m"):
            ...     temp: float | None
            >>> with FeatureStore(".", project="scheduled", upkeep_schedule="") as store:
            ...     plan = store.apply([Weather])
            ...     store.scheduler(told=lambda outcome: print(outcome.name, outcome.state)).once()
            weather done
        """
        return self._scheduler(told or (lambda outcome: None), notify or self._notify)

    def schedule(self, stop: "Event", scheduler: "Scheduler | None" = None) -> int:
        """Runs what is due until told to stop, then lets what is running finish, for ``schedule_shutdown_seconds`` at most.

        Args:
            stop: ends it once it is set.
            scheduler: the scheduler; one as ``scheduler()`` returns it, if None.

        Returns:
            How many runs were not finished. They are given back for others to resume, and nothing they still do changes
            anything, but their threads go on until the process ends.
        """
        from featurestore.scheduling.runner import run_scheduler

        settings = self.settings
        chosen = scheduler or self.scheduler()
        watch = self._promise_watch(chosen.holder, lambda: self._status(promised=True))
        return run_scheduler(chosen, settings.schedule_seconds, settings.schedule_shutdown_seconds, stop, watch)

    def rebuild_online(self, views: Iterable[Any] | None = None, *, progress: "Progress | None" = None) -> dict[str, int]:
        """Writes the latest values of the whole history online, for an online store that is new or was lost.

        What is online and newer stays. Returns for each view how many values were written.
        """
        job, lingering = self._materializer(progress).rebuilder, self._watch.refresh().lingering
        written = {applied.spec.name: job.rebuild(applied) for applied in self._views(views)}
        for name in written.keys() & lingering.keys():
            written[name] += job.rebuild(lingering[name])
        return written

    def rollback(self, view: Any, *, to: int | None = None, undo: bool = False) -> Catalog:
        """Gives a view's readers the version that they were given before, and keeps them at it; returns the catalog.

        All readers have it within ``refresh_seconds``; no answer is a mixture of two. Nothing else changes: jobs go on
        writing what is applied. Readers keep the version until the view is applied otherwise, or the rollback is undone.

        Args:
            view: the view, as a class or by name.
            to: the version; None for the one before. Its rows must still be there: ``versions`` tells.
            undo: take a rollback back instead. Readers are given the applied version, as soon as it is materialized.

        Raises:
            NotFoundError: the view is not applied, or has no such version.
            RollbackError: there is nothing to return to, its rows are gone, or there is no rollback to undo.
            ConcurrentApplyError: somebody else changed the project at this moment; nothing was changed here.
        """
        if undo and to is not None:
            raise RequestError("undo=True gives readers what is applied, so it goes without to=.")
        [applied] = self._views([view])
        name = applied.spec.name
        if undo:
            return self._watch.use(self._serving.undo(name))
        kept = [each.data_version for each in self._serving.retained(name) if self._count_rows(each)]
        return self._watch.use(self._serving.roll_back(name, to, kept))

    def versions(self, view: Any) -> "list[ViewVersion]":
        """Returns the versions of a view, the oldest first: when each was applied, its rows, since when readers have it.

        Versions that only differ in words, a schedule or a ttl share their rows, and so their data version.

        Raises:
            NotFoundError: nothing ever had that name.
        """
        name = parse_references(view)[0].view
        known = self._serving.versions(name)
        applied = {each.data_version: each for each in self._serving.retained(name)}
        now = self._watch.refresh().views.get(name)
        counts = {number: self._count_rows(each) for number, each in applied.items()}
        if now is not None:
            counts[now.data_version] = self._count_rows(now)
        return [replace(each, rows=counts.get(each.data_version)) for each in known]

    # -- watching --------------------------------------------------------------------------------------------------------

    def status(self) -> "StatusReport":
        """Returns how each view stands: its rows, how fresh it is against what it promises, its last and next run; print it."""
        return self._status(promised=False)

    def notify(self, standing: "StatusReport", *, logged: bool = True) -> None:
        """Logs, and tells the webhook of the settings, which views came to be late or failed or are right again.

        Args:
            standing: how the views stand now; what was told before, by this process or another, is not told again.
            logged: whether to log it.
        """
        from featurestore.scheduling.webhook import open_webhook

        notify = open_webhook(self.settings.webhook, self.settings.project, logged=logged)
        for notice in self._promises.news(standing):
            notify(notice)

    def check(self) -> dict[str, str | FeatureStoreError]:
        """Returns what the registry and the online store say of themselves, or the error with which they fail.

        Example:
            >>> from featurestore import FeatureStore
            >>> with FeatureStore(".", project="empty") as store:
            ...     store.check()["registry"]
            'revision 0'
        """
        parts: dict[str, Callable[[], str]] = {
            "registry": lambda: f"revision {self._watch.refresh().revision}",
            "online": lambda: self._online.check(),
        }
        found: dict[str, str | FeatureStoreError] = {}
        for name, ask in parts.items():
            try:
                found[name] = ask()
            except FeatureStoreError as error:
                found[name] = error
                if isinstance(error, OnlineLostError):  # it is written again in the background
                    self._mending.begin()
        return found

    def runs(self, view: Any = None, *, limit: int = 50, state: "State | None" = None) -> "list[Run]":
        """Returns the latest runs, the newest first, of one view or of all.

        Args:
            view: the view, as a class or by name; None for all.
            limit: how many at most.
            state: ``"running"``, ``"committed"``, ``"done"`` or ``"failed"``; None for all.
        """
        return self._ledger.runs(None if view is None else parse_references(view)[0].view, limit, state)

    def run(self, run_id: str) -> "tuple[Run, pl.DataFrame]":
        """Returns a run, and the rows that it rejected with their reasons (S19).

        Args:
            run_id: the run's ``id``: ``view/data version/number``.

        Raises:
            NotFoundError: there is no such run.
        """
        view, _, rest = run_id.partition("/")
        version, _, seq = rest.partition("/")
        known = version.isdecimal() and seq.isdecimal()
        found = self._ledger.find(view, int(version), int(seq)) if known else None
        if found is None:
            raise NotFoundError("run", run_id, [each.id for each in self._ledger.runs(limit=1000)], "Runs are listed by: runs")
        applied = self._watch.refresh().views.get(view)
        if applied is None:
            return found, pl.DataFrame()
        rows = self._offline.rejected(self._table(replace(applied, data_version=found.data_version)))
        return found, rows.filter(pl.col("_run") == found.seq).drop("_run")

    def rejected(self, view: Any) -> pl.DataFrame:
        """Returns a view's rejected rows as they were when a check failed, with ``_reason`` and ``_run`` (S19)."""
        [applied] = self._views([view])
        return self._offline.rejected(self._table(applied))

    def audit(self, limit: int = 100) -> "list[AuditRecord]":
        """Returns who changed what the project keeps, grants or forgets, the newest first; forgotten entities by their hashes.

        Args:
            limit: how many at most.

        Raises:
            RequestError: the limit is no positive number.

        Example:
            >>> from featurestore import Entity, FeatureStore
            >>> with FeatureStore(".", project="audited") as store:
            ...     plan = store.apply([Entity("airport", origin=str)])
            ...     [record] = store.audit()
            >>> record.action, record.what
            ('apply', {'revision': 1, 'changed': ['entity airport 1']})
        """
        from featurestore.registry.audit_trail import records

        return records(self._registry, limit)

    @property
    def entity_digests(self) -> "EntityDigests":
        """The keyed digests by which a server's audit log names entities: ``store.entity_digests.of("user", {"id": 42})``."""
        from featurestore.registry.audit_trail import EntityDigests

        return EntityDigests(self._registry)

    # -- within ----------------------------------------------------------------------------------------------------------

    def _status(self, *, promised: bool) -> "StatusReport":
        """Returns how all views stand, or those that promise to be fresh."""
        from featurestore.maintenance.status import StatusReport, view_status

        now, catalog, most = self._clock(), self._watch.refresh(), self.settings.schedule_attempts
        due = {each.name: each for each in self._agenda.upcoming()}
        standing = []
        for name, applied in sorted(catalog.views.items()):
            if promised and applied.spec.freshness is None:
                continue
            history, last = self._offline.snapshot(self._table(applied)), self._ledger.latest(name, applied.data_version)
            served = catalog.lingering[name].data_version if name in catalog.lingering else None
            noticed = None if promised else self._ledger.noticed(name, applied.data_version)
            standing.append(view_status(applied, history, last, now, duty=due.get(name), most=most, served=served, noticed=noticed))
        return StatusReport(standing)

    def _views(self, views: Iterable[Any] | None) -> list[AppliedView]:
        catalog = self._watch.refresh()
        if views is None:
            return list(catalog.views.values())
        names = dict.fromkeys(reference.view for reference in parse_references(views, where="views"))
        for name in names:
            if name not in catalog.views:
                raise NotFoundError("applied feature view", name, catalog.views, "Definitions take effect once they are applied.")
        return [catalog.views[name] for name in names]


def _chunk_length(chunk: timedelta | str) -> int:
    try:
        return parse_duration(chunk)
    except DefinitionError as error:
        raise RequestError(f"chunk={chunk!r} is no length of a span. {error.problem}") from error
