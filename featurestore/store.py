"""FeatureStore: the one facade."""

from collections.abc import Iterable
from datetime import datetime
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

import polars as pl

from featurestore.adapters import open_engine, open_offline, open_online, open_source, run_sql
from featurestore.clock import Clock, parse_instant, utc_now
from featurestore.config import Settings, load_settings
from featurestore.errors import NotFoundError, RequestError
from featurestore.plan.selection import Selection, select
from featurestore.retrieve.rows import OnlineRows
from featurestore.spec.catalog import AppliedView, Catalog
from featurestore.spec.reference import parse_references
from featurestore.spec.source import Source

if TYPE_CHECKING:
    from featurestore.engines.base import Engine
    from featurestore.jobs.apply import Applier
    from featurestore.jobs.materialize import Materializer
    from featurestore.jobs.progress import Progress
    from featurestore.jobs.summary import MaterializeSummary, StatusReport
    from featurestore.offline.base import OfflineStore, Table
    from featurestore.online.base import OnlineStore
    from featurestore.registry.at_hand import AtHand
    from featurestore.registry.diff import Plan
    from featurestore.registry.ledger import Ledger, Run
    from featurestore.registry.specs import SpecRegistry
    from featurestore.registry.watch import CatalogWatch
    from featurestore.retrieve.online import OnlineReader
    from featurestore.retrieve.training import TrainingReader
    from featurestore.sources.base import SourceReader


class FeatureStore:
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
        self.settings: Settings = load_settings(
            root,
            project=project,
            definitions=definitions,
            registry=registry,
            offline=offline,
            online=online,
            engine=engine,
            **settings,
        )
        self._clock = clock

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

    def runs(self, view: Any = None, *, limit: int = 50) -> "list[Run]":
        """Returns the latest runs, the newest first, of one view or of all."""
        return self._ledger.runs(None if view is None else parse_references(view)[0].view, limit)

    def rejected(self, view: Any) -> pl.DataFrame:
        """Returns a view's rejected rows as they were when a check failed, with ``_reason`` and ``_run`` (S19)."""
        [applied] = self._views([view])
        return self._offline.rejected(self._table(applied))

    def close(self) -> None:
        """Gives back files, connections and threads. Closing twice is no error."""
        for part in ("_watch", "_engine", "_online", "_registry"):
            if part in self.__dict__:
                self.__dict__[part].close()

    def __enter__(self) -> "FeatureStore":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        settings = self.settings
        return f"FeatureStore({str(settings.root)!r}, project={settings.project!r}, online={settings.online!r})"

    # -- parts, each made when it is first needed ----------------------------------------------------------------------

    @cached_property
    def _at_hand(self) -> "AtHand":
        from featurestore.registry.at_hand import AtHand

        return AtHand(self.settings.root / self.settings.definitions, self.settings.root)

    @cached_property
    def _registry(self) -> "SpecRegistry":
        from featurestore.registry.specs import SpecRegistry

        return SpecRegistry(self.settings.registry, self.settings.project, self.settings.root, self._clock)

    @cached_property
    def _ledger(self) -> "Ledger":
        from featurestore.registry.ledger import Ledger

        return Ledger(self._registry)

    @cached_property
    def _watch(self) -> "CatalogWatch":
        from featurestore.registry.watch import CatalogWatch

        return CatalogWatch(self._registry, self.settings.refresh_seconds, self._forget_plans)

    @cached_property
    def _applier(self) -> "Applier":
        from featurestore.jobs.apply import Applier

        return Applier(self._registry, self._open_source, self._count_rows)

    @cached_property
    def _offline(self) -> "OfflineStore":
        return open_offline(self.settings, self._clock)

    @cached_property
    def _online(self) -> "OnlineStore":
        return open_online(self.settings, self._clock)

    @cached_property
    def _engine(self) -> "Engine":
        return open_engine(self.settings)

    @cached_property
    def _reader(self) -> "OnlineReader":
        from featurestore.retrieve.online import OnlineReader

        return OnlineReader(self.settings.project, self._online, self._clock)

    @cached_property
    def _training(self) -> "TrainingReader":
        from featurestore.retrieve.training import TrainingReader

        return TrainingReader(self.settings.project, self._offline, self._engine)

    def _materializer(self, progress: "Progress | None") -> "Materializer":
        from featurestore.jobs.materialize import Materializer

        stores = (self.settings.project, self._ledger, self._offline, self._online, self._open_source)
        return Materializer(*stores, clock=self._clock, chunk_rows=self.settings.chunk_rows, progress=progress)

    def _open_source(self, source: Source) -> "SourceReader":
        return open_source(source, self.settings.root)

    def _forget_plans(self) -> None:
        if "_reader" in self.__dict__:
            self._reader.forget_plans()

    def _select(self, catalog: Catalog, features: Any) -> Selection:
        return select(catalog, parse_references(features))

    def _select_current(self, features: Any) -> Selection:
        return self._select(self._watch.current, features)

    def _table(self, applied: AppliedView) -> "Table":
        from featurestore.offline.base import Table

        return Table.of(self.settings.project, applied)

    def _count_rows(self, catalog: Catalog, view: str) -> int | None:
        applied = catalog.views.get(view)
        return None if applied is None else self._offline.snapshot(self._table(applied)).rows

    def _views(self, views: Iterable[Any] | None) -> list[AppliedView]:
        catalog = self._watch.refresh()
        if views is None:
            return list(catalog.views.values())
        names = dict.fromkeys(reference.view for reference in parse_references(views, where="views"))
        for name in names:
            if name not in catalog.views:
                raise NotFoundError("applied feature view", name, catalog.views, "Definitions take effect once they are applied.")
        return [catalog.views[name] for name in names]
