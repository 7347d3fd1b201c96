"""FeatureStore: the one facade."""

from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

import polars as pl

from featurestore.adapters import run_sql
from featurestore.clock import Clock, parse_instant, utc_now
from featurestore.config import load_settings
from featurestore.errors import FeatureStoreError, NotFoundError, RequestError
from featurestore.parts import Parts
from featurestore.plan.selection import Selection, select
from featurestore.retrieve.rows import OnlineRows
from featurestore.spec.catalog import AppliedView, Catalog
from featurestore.spec.reference import parse_references
from featurestore.spec.source import Source

if TYPE_CHECKING:
    from featurestore.jobs.progress import Progress
    from featurestore.jobs.summary import MaterializeSummary, PushSummary, StatusReport
    from featurestore.registry.diff import Plan
    from featurestore.registry.ledger import Run


class FeatureStore(Parts):
    """A project's feature store: define, apply, materialize, fetch training frames, look features up.

    Nothing is opened before it is used. One store may be used by several threads; ``close()`` it, or use it in a ``with``
    block, where it is not to live as long as the process.

    Args:
        root: the project's folder. Settings come from its ``featurestore.toml``, if there is one, then from
            ``FEATURESTORE_*`` variables, then from the keywords here.
        project, definitions, registry, offline, online, engine: the settings of these names.
        clock: tells the present; a replay or a test brings its own.
        settings: any other setting, by name.

    Raises:
        ConfigError: the folder is not there, or a setting is unknown or of the wrong form.

    Example:
        >>> from featurestore import Entity
        >>> store = FeatureStore(".", project="flights")
        >>> store.apply([Entity("airport", origin=str)]).summary
        '1 to add, 0 to change, 0 to remove'
        >>> store.close()
    """

    def __init__(
        self,
        root: str | Path = ".",
        *,
        project: str | None = None,
        definitions: str | None = None,
        registry: str | None = None,
        offline: str | None = None,
        online: str | None = None,
        engine: str | None = None,
        clock: Clock = utc_now,
        **settings: Any,
    ) -> None:
        chosen = {"project": project, "definitions": definitions, "registry": registry, "offline": offline, "online": online}
        super().__init__(load_settings(root, **chosen, engine=engine, **settings), clock)

    def plan(self, objects: Iterable[Any] | None = None) -> "Plan":
        """Returns what ``apply`` would add, change and remove, and what that means recomputing; print it.

        Args:
            objects: definitions to apply by themselves; None for the project's definitions folder.

        Raises:
            DefinitionErrors: definitions are wrong; all faults are told, each with its file and line.
        """
        definitions = self._at_hand.load(objects)
        return self._applier.plan(definitions, partial=objects is not None)

    def apply(
        self, objects: Iterable[Any] | None = None, *, allow_breaking: bool = False, expected: "Plan | None" = None
    ) -> "Plan":
        """Makes definitions take effect: all of it or, on any error, nothing. Returns what changed.

        Args:
            objects: definitions to apply by themselves (``[Weather, delay_model]``), removing none; None for the project's
                definitions folder, when what is no longer defined is removed.
            allow_breaking: whether services may lose features they use.
            expected: the plan that was looked at; if somebody applied since, nothing is written.

        Raises:
            DefinitionErrors: definitions are wrong; all faults are told, each with its file and line.
            BreakingChangeError: a service would lose features it uses.
            ConcurrentApplyError: somebody else applied meanwhile; nothing of this was written.
        """
        definitions = self._at_hand.load(objects)
        options = {"partial": objects is not None, "allow_breaking": allow_breaking}
        plan, catalog = self._applier.apply(definitions, **options, expected=expected)
        self._watch.use(catalog)
        self._at_hand.take(definitions, partial=objects is not None)
        return plan

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
        dry_run: bool = False,
        progress: "Progress | None" = None,
    ) -> "MaterializeSummary":
        """Brings what is new in the views' sources into the history and the online store.

        A run that was interrupted is completed first. Running it again, or twice at once, changes nothing (S17).

        Args:
            views: the views, as classes or names; None for all that are applied.
            start: read from this available time on, inclusive, even what was read before; None for what is new.
            end: read what is available by this instant, inclusive; None for now.
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
        from featurestore.jobs.summary import MaterializeSummary

        until = self._clock() if end is None else parse_instant(end)
        if until > self._clock():
            raise RequestError(
                f"end={end!s} lies in the future, when more may come to be known. Leave it out: it is now by itself."
            )
        since = None if start is None else parse_instant(start)
        job = self._materializer(progress)
        done = job.materialize_all(self._views(views), self._at_hand.of, start=since, end=until, dry_run=dry_run)
        return MaterializeSummary(done)

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
            >>> from featurestore import Entity, FeatureView, FrameSource
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
        from featurestore.jobs.push import frame_of
        from featurestore.jobs.summary import PushSummary

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

    def rebuild_online(self, views: Iterable[Any] | None = None, *, progress: "Progress | None" = None) -> dict[str, int]:
        """Writes the latest values of the whole history online, for an online store that is new or was lost.

        What is online and newer stays. Returns for each view how many values were written.
        """
        job = self._materializer(progress)
        return {applied.spec.name: job.rebuild_online(applied) for applied in self._views(views)}

    # -- reading -------------------------------------------------------------------------------------------------------

    @overload
    def training_frame(
        self, spine: Any, features: Any, *, time: str = ..., as_known: bool = ..., sink: None = ...
    ) -> pl.DataFrame: ...

    @overload
    def training_frame(
        self, spine: Any, features: Any, *, time: str = ..., as_known: bool = ..., sink: str | Path
    ) -> pl.LazyFrame: ...

    def training_frame(
        self, spine: Any, features: Any, *, time: str = "event_time", as_known: bool = True, sink: str | Path | None = None
    ) -> pl.DataFrame | pl.LazyFrame:
        """Returns a spine's rows with the features each of them could have seen at its time (S3-S6, S11-S13).

        Args:
            spine: the rows to train on: a Polars frame (eager or lazy), pandas, Arrow, a Parquet path, or a SELECT over the
                views' history. It has a time column and the join keys' columns.
            features: a service, views and features, or a list of these, by object or by name.
            time: the spine's time column; naive times are taken as UTC.
            as_known: whether a row counts only once it was available. False trains on corrected history (S6), which the
                online store could not have served.
            sink: a Parquet file to write instead of returning a frame, for a spine or a result larger than memory.

        Returns:
            The spine's rows in their order, its columns unchanged, the features after them; nulls where an entity had no
            row to see. With ``sink``, a lazy frame over the file.

        Raises:
            NotFoundError: something asked for is not applied ("did you mean").
            NameClashError: two columns would have one name (S13).
            RequestError: the spine lacks a column, or has one of the wrong type, or rows without a time.
        """
        from featurestore.retrieve.spine import read_spine, reading_spine

        selection = self._select(self._watch.refresh(), features)
        rows = read_spine(spine, self.settings.root, self.sql)
        if sink is not None:
            path = self.settings.root / Path(sink).expanduser()
            self._training.sink(rows, selection, path, time=time, as_known=as_known)
            return pl.scan_parquet(path)
        with reading_spine("The lazy spine"):
            frame = rows.collect() if isinstance(rows, pl.LazyFrame) else rows
        return self._training.frame(frame, selection, time=time, as_known=as_known)

    def online(self, features: Any, rows: Any, *, at: datetime | str | None = None) -> OnlineRows:
        """Looks features up: the values that a training frame would have for this instant (S14, S16).

        Args:
            features: a service, views and features, or a list of these, by object or by name.
            rows: a list of dictionaries with the join keys (other columns are passed through), a mapping of columns, or a
                frame.
            at: read as of this instant instead of now. The store keeps only each entity's newest row, so an older row
                that was replaced since is ``missing``.

        Returns:
            The rows given with the features after them; ``to_dicts()``, ``to_polars()``, ``status``, ``event_time``.

        Raises:
            NotFoundError: something asked for is not applied ("did you mean").
            NameClashError: a feature is named like a column of the rows (S13).
            RequestError: a row lacks a join key, or has one of the wrong type.
            OnlineStoreError: the store cannot be reached.
        """
        reader = self._reader
        return reader.read(reader.plan(features, self._select_current), rows, at)

    async def online_async(self, features: Any, rows: Any, *, at: datetime | str | None = None) -> OnlineRows:
        """Looks features up like ``online``, without blocking the event loop while the store answers."""
        reader = self._reader
        return await reader.read_async(reader.plan(features, self._select_current), rows, at)

    def feature_log(self, service: Any) -> pl.LazyFrame:
        """Returns what a server answered for a service that has ``log=``, as far as it was sampled.

        A row has ``read_at``, the join keys, the fields of requests, the features, for each feature ``<name>__status``, and
        for each view ``<view>__event_time``.

        Raises:
            NotFoundError: the service is not applied.
        """
        name = getattr(service, "name", service)
        services = self._watch.refresh().services
        if name not in services:
            raise NotFoundError("applied feature service", name, services)
        return self._feature_log.read(self.settings.project, name)

    def sql(self, query: str) -> pl.DataFrame:
        """Returns the result of a SELECT over the history, where every view is a table: ``select * from weather limit 5``.

        The tables have the join keys, ``event_time``, ``available_time`` and the features. DuckDB runs the query.

        Raises:
            NotFoundError: the query names a table that is no view.
            RequestError: the query is refused; the message is DuckDB's.
        """
        tables = {name: self._table(applied) for name, applied in self._watch.refresh().views.items()}
        return run_sql(query, tables, self._offline)

    def status(self) -> "StatusReport":
        """Returns how each view stands: its versions, rows, latest event and last run; print it."""
        from featurestore.jobs.summary import StatusReport, view_status

        applied = [each for _, each in sorted(self._watch.refresh().views.items())]
        standing = [view_status(each, self._offline.snapshot(self._table(each)), self._ledger) for each in applied]
        return StatusReport(standing)

    def check(self) -> dict[str, str | FeatureStoreError]:
        """Returns what the registry and the online store say of themselves, or the error with which they fail.

        Example:
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
        return found

    def runs(self, view: Any = None, *, limit: int = 50) -> "list[Run]":
        """Returns the latest runs, the newest first, of one view or of all."""
        return self._ledger.runs(None if view is None else parse_references(view)[0].view, limit)

    def rejected(self, view: Any) -> pl.DataFrame:
        """Returns a view's rejected rows as they were when a check failed, with ``_reason`` and ``_run`` (S19)."""
        [applied] = self._views([view])
        return self._offline.rejected(self._table(applied))

    def __enter__(self) -> "FeatureStore":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        settings = self.settings
        return f"FeatureStore({str(settings.root)!r}, project={settings.project!r}, online={settings.online!r})"

    # -- within ----------------------------------------------------------------------------------------------------------

    def _select(self, catalog: Catalog, features: Any) -> Selection:
        return select(catalog, parse_references(features))

    def _select_current(self, features: Any) -> Selection:
        return self._select(self._watch.current, features)

    def _views(self, views: Iterable[Any] | None) -> list[AppliedView]:
        catalog = self._watch.refresh()
        if views is None:
            return list(catalog.views.values())
        names = dict.fromkeys(reference.view for reference in parse_references(views, where="views"))
        for name in names:
            if name not in catalog.views:
                raise NotFoundError("applied feature view", name, catalog.views, "Definitions take effect once they are applied.")
        return [catalog.views[name] for name in names]
