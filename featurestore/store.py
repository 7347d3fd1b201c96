"""FeatureStore: the one entry point of the library."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

from featurestore import collector
from featurestore.clock import Clock, utc_now
from featurestore.hints import STORE

if TYPE_CHECKING:
    import polars as pl

    from featurestore.components import Components
    from featurestore.config import Settings
    from featurestore.definitions.catalog import Catalog
    from featurestore.definitions.source import Source
    from featurestore.maintenance.admin import Admin
    from featurestore.maintenance.status import StatusReport
    from featurestore.materialization.progress import Progress
    from featurestore.materialization.results import MaterializeSummary, PushSummary
    from featurestore.materialization.runs import Runs
    from featurestore.materialization.versions import Versions
    from featurestore.registry.api_keys import Keys
    from featurestore.registry.diff import Plan
    from featurestore.retrieval.online_result import OnlineRows
    from featurestore.scheduling.api import SchedulerApi
    from featurestore.streams.control import Streams


class FeatureStore:
    """A project's feature store: define, apply, materialize, fetch training frames, look features up.

    Nothing is opened before it is used. Threads may share a store. ``close()`` it, or use it in a ``with`` block, if it should
    not live as long as the process.

    Args:
        root: the project's folder. Settings come from its ``featurestore.toml``, if there is one, then from
            ``FEATURESTORE_*`` variables, then from the keywords here.
        project, definitions, registry, offline, online, engine: the settings of these names.
        clock: returns the present; a replay or a test brings its own.
        settings: any other setting, by name; those of a table as a mapping, ``server={"port": 0}``, which overrides only the keys
            that it has.

    Raises:
        ConfigError: the folder does not exist, or a setting is unknown or malformed.

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
        with collector.paused():
            from featurestore.namespaces import Namespaces  # the library: more than whoever only names this class waits for

        chosen = {"project": project, "definitions": definitions, "registry": registry, "offline": offline, "online": online}
        self._namespaces = Namespaces(root, clock, {**chosen, "engine": engine, **settings})
        self._components = self._namespaces.components

    @property
    def settings(self) -> "Settings":
        """The settings, as they were when the store was made."""
        return self._components.settings

    @property
    def components(self) -> "Components":
        """What the store is made of: for the server, the command line and tests. Its names may change between versions."""
        return self._components

    # -- definitions -----------------------------------------------------------------------------------------------------

    def plan(self, objects: Iterable[Any] | None = None) -> "Plan":
        """Return what ``apply`` would add, change and remove, and what that means recomputing; print it.

        Args:
            objects: definitions to apply by themselves; None for the project's definitions folder.

        Raises:
            DefinitionErrors: definitions are wrong; all are reported, each with its file and line.
        """
        definitions = self._components.definition_loader.load(objects)
        return self._components.applier.plan(definitions, partial=objects is not None)

    def apply(
        self,
        objects: Iterable[Any] | None = None,
        *,
        allow_breaking: bool = False,
        allow_unprotect: bool = False,
        expected: "Plan | None" = None,
    ) -> "Plan":
        """Make definitions take effect: all of it or, on any error, nothing. Returns what changed.

        Args:
            objects: definitions to apply by themselves (``[Weather, delay_model]``), removing none; None for the project's
                definitions folder, when what is no longer defined is removed.
            allow_breaking: whether services may lose features they use.
            allow_unprotect: whether personal features (``pii=True``) may become features that are not; it is recorded.
            expected: the plan that was looked at; if somebody applied since, nothing is written.

        Raises:
            DefinitionErrors: definitions are wrong; all are reported, each with its file and line.
            BreakingChangeError: a service would lose features it uses.
            UnprotectError: a personal feature would not be personal any more.
            ConcurrentApplyError: somebody else applied meanwhile; nothing of this was written.
        """
        components = self._components
        definitions = components.definition_loader.load(objects)
        options = {"partial": objects is not None, "allow_breaking": allow_breaking, "allow_unprotect": allow_unprotect}
        before = components.catalog_cache.refresh()
        plan, catalog = components.applier.apply(definitions, **options, expected=expected)
        components.online_epochs.outgrow(before, catalog)
        components.catalog_cache.use(catalog)
        components.definition_loader.take(definitions, partial=objects is not None)
        return plan

    @property
    def catalog(self) -> "Catalog":
        """What is applied, to browse and search: entities, sources, views and services by name."""
        return self._components.catalog_cache.refresh()

    # -- data in ---------------------------------------------------------------------------------------------------------

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
        """Bring what is new in the views' sources into the history and the online store.

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
            progress: receives the progress.

        Returns:
            A summary for each view; print it.

        Raises:
            NotFoundError: a view is not applied.
            DefinitionError: a definition changed since it was applied, or its transform fails.
            SourceError: a source is not there, or not what its definition says.
            RejectedRowsError: rows were rejected in a view that says ``on_reject="fail"``.
            StoreError: a store cannot be reached; the next call goes on where this one stopped.
        """
        return self._namespaces.writes.materialize(
            views, start=start, end=end, chunk=chunk, parallel=parallel, dry_run=dry_run, progress=progress
        )

    def push(self, source: "Source | str", rows: Any, *, views: Iterable[Any] | None = None) -> "PushSummary":
        """Put rows of a source straight into both stores: when it returns, an online read and a training frame see them.

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
            >>> import polars as pl
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
        return self._namespaces.writes.push(source, rows, views=views)

    # -- data out --------------------------------------------------------------------------------------------------------

    @overload
    def training_frame(
        self,
        spine: Any,
        features: Any,
        *,
        time: str = ...,
        as_known: bool = ...,
        stored_by: datetime | None = ...,
        sink: None = ...,
        progress: "Progress | None" = ...,
    ) -> "pl.DataFrame": ...

    @overload
    def training_frame(
        self,
        spine: Any,
        features: Any,
        *,
        time: str = ...,
        as_known: bool = ...,
        stored_by: datetime | None = ...,
        sink: str | Path,
        progress: "Progress | None" = ...,
    ) -> "pl.LazyFrame": ...

    def training_frame(
        self,
        spine: Any,
        features: Any,
        *,
        time: str = "event_time",
        as_known: bool = True,
        stored_by: datetime | None = None,
        sink: str | Path | None = None,
        progress: "Progress | None" = None,
    ) -> "pl.DataFrame | pl.LazyFrame":
        """Return a spine's rows with the features each of them could have seen at its time (S3-S6, S11-S13).

        Args:
            spine: the rows to train on: a Polars frame (eager or lazy), pandas, Arrow, a Parquet path or address, or a SELECT over
                the views' history. It has a time column and the join keys' columns.
            features: a service, views and features, or a list of these, by object or by name.
            time: the spine's time column; naive times are taken as UTC.
            as_known: whether a row counts only once it was available. False trains on corrected history (S6), which the
                online store could not have served.
            stored_by: only rows count that the history held by this instant (S24), so the frame is the one that the same call
                returned then: late rows, corrections and backfills that came since are left out. Naive instants are UTC.
            sink: a Parquet file to write instead of returning a frame, for a spine or a result larger than memory; or a folder,
                ``"out/"`` or ``"s3://bucket/out/"``, for files of some rows each and ``_manifest.json``, which is written last.
            progress: receives how many tasks are done, of how many, and about how many bytes these had.

        Returns:
            The spine's rows in their order, its columns unchanged, the features after them; nulls where an entity had no
            row to see. With ``sink``, a lazy frame over the file or files.

        Raises:
            NotFoundError: something asked for is not applied ("did you mean").
            NameClashError: two columns would have one name (S13).
            RequestError: the spine lacks a column, or has one of the wrong type, or rows without a time; or there is a result in
                the folder ``sink`` already; or ``stored_by`` is in the future, or before a view's data were stored.
            EngineError: tasks cannot be run, or the folder of the work in hand cannot be used (settings ``engine``, ``scratch``).
        """
        return self._namespaces.reads.training_frame(
            spine, features, time=time, as_known=as_known, stored_by=stored_by, sink=sink, progress=progress
        )

    def online(self, features: Any, rows: Any, *, at: datetime | str | None = None) -> "OnlineRows":
        """Look features up: the values that a training frame would have for this instant (S14, S16).

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
        reader = self._components.online_reader
        return reader.read(reader.plan(features, self._components.select_cached), rows, at)

    async def online_async(self, features: Any, rows: Any, *, at: datetime | str | None = None) -> "OnlineRows":
        """Look features up like ``online``, without blocking the event loop while the store answers."""
        reader = self._components.online_reader
        return await reader.read_async(reader.plan(features, self._components.select_cached), rows, at)

    def sample_request(self, features: str) -> dict[str, Any]:
        """Return a look-up to begin with, that shows its form: ``store.online(**store.sample_request("delay_model"))``.

        Its keys and the fields of requests are invented by their types: no entity that the stores have is named by it.

        Args:
            features: the name of a service or view.

        Raises:
            NotFoundError: it is not applied.
        """
        return self._namespaces.reads.sample_request(features)

    def feature_log(
        self, service: Any, *, start: datetime | str | None = None, end: datetime | str | None = None
    ) -> "pl.LazyFrame":
        """Return the sampled answers of a service that has ``log=``.

        A row has ``read_at``, the join keys, the fields of requests, the features, for each feature ``<name>__status``, and
        for each view ``<view>__event_time``.

        Args:
            service: the service, or its name.
            start: only answers from this instant on; None for all.
            end: only answers before this instant; None for all.

        Raises:
            NotFoundError: the service is not applied.
        """
        return self._namespaces.reads.feature_log(service, start=start, end=end)

    def sql(self, query: str) -> "pl.DataFrame":
        """Return the result of a SELECT over the history, where every view is a table: ``select * from weather limit 5``.

        The tables have the join keys, ``event_time``, ``available_time`` and the features. DuckDB runs the query.

        Raises:
            NotFoundError: the query names a table that is not a view.
            RequestError: the query is refused; the message is DuckDB's.
        """
        return self._namespaces.reads.sql(query)

    # -- state -----------------------------------------------------------------------------------------------------------

    def status(self) -> "StatusReport":
        """Return the status of each view: its rows, its freshness against its target, its last and next run; print it."""
        return self._namespaces.status()

    def close(self) -> None:
        """Close files, connections and threads. Idempotent; any other use afterwards raises ``ClosedError``."""
        self._components.close()

    # -- by subject ------------------------------------------------------------------------------------------------------

    @property
    def runs(self) -> "Runs":
        """The runs: ``list``, ``get``, ``rejected_rows``."""
        return self._namespaces.runs

    @property
    def versions(self) -> "Versions":
        """The versions of views: ``list``, ``rollback``, ``undo_rollback``."""
        return self._namespaces.versions

    @property
    def scheduler(self) -> "SchedulerApi":
        """Scheduling: ``run_once``, ``run_until``, ``upcoming``."""
        return self._namespaces.scheduler

    @property
    def streams(self) -> "Streams":
        """The streams: ``run`` pushes what arrives, ``status`` shows how far behind they are, ``dead_letters``."""
        return self._components.streams

    @property
    def keys(self) -> "Keys":
        """The API keys of the project's server: ``create``, ``list``, ``revoke``."""
        return self._components.api_keys

    @property
    def admin(self) -> "Admin":
        """Administration: ``doctor``, ``maintain``, ``backup``, ``forget``, ``rebuild_online``, ``delete_project`` and more."""
        return self._namespaces.admin

    if not TYPE_CHECKING:  # which would take any name for a member

        def __getattr__(self, name: str) -> Any:
            hint = f" Use store.{STORE[name]}." if name in STORE else ""
            raise AttributeError(f"FeatureStore has no {name!r}.{hint}", name=name, obj=self)

    def __enter__(self) -> "FeatureStore":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        settings = self.settings
        return f"FeatureStore({str(settings.root)!r}, project={settings.project!r}, online={settings.online!r})"
