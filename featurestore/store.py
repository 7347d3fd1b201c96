"""FeatureStore: the one facade."""

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

import polars as pl

from featurestore.adapters import run_sql
from featurestore.clock import Clock, utc_now
from featurestore.config import load_settings
from featurestore.definitions.catalog import Catalog
from featurestore.definitions.reference import parse_references
from featurestore.errors import NotFoundError
from featurestore.online.plan import OnlinePlan
from featurestore.operations import Operations
from featurestore.retrieval.online_result import OnlineRows
from featurestore.selection.select import Selection, select

if TYPE_CHECKING:
    from featurestore.registry.diff import Plan


class FeatureStore(Operations):
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
        self,
        objects: Iterable[Any] | None = None,
        *,
        allow_breaking: bool = False,
        allow_unprotect: bool = False,
        expected: "Plan | None" = None,
    ) -> "Plan":
        """Makes definitions take effect: all of it or, on any error, nothing. Returns what changed.

        Args:
            objects: definitions to apply by themselves (``[Weather, delay_model]``), removing none; None for the project's
                definitions folder, when what is no longer defined is removed.
            allow_breaking: whether services may lose features they use.
            allow_unprotect: whether personal features (``pii=True``) may become features that are not; it is recorded.
            expected: the plan that was looked at; if somebody applied since, nothing is written.

        Raises:
            DefinitionErrors: definitions are wrong; all faults are told, each with its file and line.
            BreakingChangeError: a service would lose features it uses.
            UnprotectError: a personal feature would not be personal any more.
            ConcurrentApplyError: somebody else applied meanwhile; nothing of this was written.
        """
        definitions = self._at_hand.load(objects)
        options = {"partial": objects is not None, "allow_breaking": allow_breaking, "allow_unprotect": allow_unprotect}
        before = self._watch.refresh()
        plan, catalog = self._applier.apply(definitions, **options, expected=expected)
        self._epochs.outgrow(before, catalog)
        self._watch.use(catalog)
        self._at_hand.take(definitions, partial=objects is not None)
        return plan

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
        from featurestore.retrieval.spine import read_spine, reading_spine

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
        """Looks features up like ``online``, without blocking the event loop while the store answers.

        Instead of features it takes their plan, which ``compile`` returned: the answer is of the catalog that the plan is of.
        """
        reader = self._reader
        plan = features if isinstance(features, OnlinePlan) else reader.plan(features, self._select_current)
        return await reader.read_async(plan, rows, at)

    def compile(self, selection: Selection) -> OnlinePlan:
        """Returns the plan of look-ups of a selection, for ``online_async``; a server keeps it while the catalog is the same."""
        return self._reader.compile(selection)

    def example(self, features: str) -> dict[str, Any]:
        """Returns a look-up to begin with, that shows its form: ``store.online(**store.example("delay_model"))``.

        Its keys and the fields of requests are invented by their types: no entity that the stores have is named by it.

        Args:
            features: the name of a service or view.

        Raises:
            NotFoundError: it is not applied.
        """
        from featurestore.retrieval.sample_request import Examples

        return Examples(self._clock).look_up(features, self._select_current)

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
        tables = {name: self._table(applied) for name, applied in self._watch.refresh().served.items()}
        return run_sql(query, tables, self._offline)

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
