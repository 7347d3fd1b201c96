"""What is done to a store as a whole, and seldom: entities are forgotten, the project is examined or taken down."""

from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.access.redaction import discreetly
from featurestore.adapters import (
    copy_history,
    kept_files,
    online_address,
    online_facts,
    open_eraser,
    open_gate,
    open_stream,
    remove_history,
    store_folders,
)
from featurestore.config import FILE_NAME
from featurestore.definitions.catalog import Catalog
from featurestore.definitions.reference import parse_references
from featurestore.definitions.source import FrameSource, Source
from featurestore.definitions.stream_source import StreamSource
from featurestore.durable import folder_mode, make_folders
from featurestore.errors import FeatureStoreError, RequestError
from featurestore.parts import Parts
from featurestore.project.source_notices import decimal_notices
from featurestore.selection.select import select

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import datetime

    import polars as pl

    from featurestore.definitions.entity import Entity
    from featurestore.maintenance.backup import Backup
    from featurestore.maintenance.delete_project import Remover, TeardownReport
    from featurestore.maintenance.doctor import Check, DoctorReport, Finding
    from featurestore.maintenance.maintain import UpkeepReport
    from featurestore.privacy.forget import ForgetReport, Forgetter


_IDLE_SECONDS = 60.0
"""After how long a stream's entries go to another worker; whoever only looks at what was set aside takes none."""


class Care(Parts):
    """See ``FeatureStore``, of which this is a part."""

    def entity(self, name: str) -> "Entity":
        """Returns an entity by its name, as the latest view has it that is or was on it.

        Raises:
            NotFoundError: there is none.
        """
        return self._forgetter().forms(name)[0]

    def entity_forms(self, name: str) -> "list[Entity]":
        """Returns an entity as it is and as it was, the latest first: by former keys, with keys of other types, under other names.

        Raises:
            NotFoundError: no view is or was on such an entity.
        """
        return self._forgetter().forms(name)

    def forget(
        self, entity: Any, rows: Any, *, dry_run: bool = False, lift: bool = False, new_secret: bool = False
    ) -> "ForgetReport":
        """Erases an entity, or several, from everything that the project keeps; a tombstone keeps them from coming back.

        That is the history of every view on the entity, present and removed, with its older versions, what was pushed, what
        waits in interrupted runs, rejected rows, what streams have set aside, the online store, and what services answered.
        Forgetting again completes what was interrupted. A run or push of the entity passes its rows over and counts them, as
        ``its entity was forgotten``.

        An entity is known under all names that it has and had, and by keys of other types. Where its keys were others once, the
        data versions by these are reached by these alone: the report names them.

        Args:
            entity: the entity, or its name, or a name that it had.
            rows: the join keys, ``{"user_id": 42}``, or a list of such for several; or keys that it had.
            dry_run: count only.
            lift: take the tombstones away instead, so that the entities may come back with the next rows.
            new_secret: begin with another secret, where the one that the tombstones were made with is lost for good. Those that
                were forgotten before may come back.

        Returns:
            What was erased where; print it.

        Raises:
            NotFoundError: no view is or was on such an entity.
            RequestError: a key is missing, unknown or of the wrong type.
            RegistryError: the secret of the tombstones is missing, or another one.
            StoreError: a store cannot be reached; forgetting again goes on where this one stopped.

        Example:
            >>> import polars as pl
            >>> from datetime import datetime
            >>> from featurestore import Entity, FeatureStore, FeatureView, FrameSource
            >>> rows = pl.DataFrame({"user_id": [42, 7], "at": [datetime(2013, 7, 1)] * 2, "score": [0.5, 0.7]})
            >>> class Scores(FeatureView, entity=Entity("user", user_id=int), source=FrameSource("scored", rows, event_time="at")):
            ...     score: float
            >>> with FeatureStore(".", project="people") as store:
            ...     plan, done = store.apply([Scores]), store.materialize()
            ...     report = store.forget("user", {"user_id": 42})
            ...     [read] = store.materialize(start="2013-01-01")
            >>> print(report)
            erased from    of                                     rows
            history        scores v1                                 1
            online         scores v1                                 1
            Forgot 1 user: 2 rows and values are erased, and a tombstone keeps them from coming back.
            >>> read.reasons
            {'its entity was forgotten': 1}
        """
        name: str = getattr(entity, "name", entity)
        forgetter = self._forgetter()
        if lift:
            return forgetter.lift(name, rows, dry_run=dry_run)
        return forgetter.forget(name, rows, dry_run=dry_run, new_secret=new_secret)

    def teardown(self, *, dry_run: bool = False) -> "TeardownReport":
        """Removes all that the project has in both stores and in the registry; its definitions and settings stay.

        Other projects on the same servers are not touched. Whatever serves, runs or pushes must have been stopped. The file of
        an embedded online store keeps its size; delete its folder where nothing else is in it.

        Args:
            dry_run: count only; how many values are online is not known then.

        Returns:
            What was removed; print it.

        Raises:
            StoreError: a store cannot be reached; repeating it completes it.
        """
        from featurestore.maintenance.delete_project import tear_down

        report = tear_down(self.settings.project, self._removers(), dry_run=dry_run)
        if not dry_run:
            self._watch.forget()
            self._watched.forget()
        return report

    def upkeep(
        self, views: "Iterable[Any] | None" = None, *, retention: "timedelta | str | None" = None, dry_run: bool = False
    ) -> "UpkeepReport":
        """Keeps the stores in order: compacts histories, removes files that nothing needs, cleans up versions nobody is given.

        It may be called at any time, beside runs, pushes and readers, and changes no feature's value. The scheduler does it by
        itself.

        Args:
            views: the views, as classes or names, also ones that were removed; None for all, and for what services answered.
            retention: how long files that were replaced and rows of retired versions stay (``"7d"``), instead of what the settings
                ``keep_files_days`` and ``keep_versions_days`` say. Whoever still reads a file that is removed must ask again.
            dry_run: change nothing; tell of each history the first step that would be done.

        Returns:
            What was done; print it.

        Raises:
            NotFoundError: a view is not known.
            StoreError: a store cannot be reached; repeating it goes on where this one stopped.

        Example:
            >>> import polars as pl
            >>> from datetime import datetime
            >>> from featurestore import Entity, FeatureStore, FeatureView, FrameSource
            >>> rows = pl.DataFrame({"origin": ["JFK"], "at": [datetime(2013, 7, 1)], "temp": [79.0]})
            >>> class Temps(FeatureView, entity=Entity("airport", origin=str), source=FrameSource("temps", rows, event_time="at")):
            ...     temp: float
            >>> with FeatureStore(".", project="kept") as store:
            ...     plan, done = store.apply([Temps]), store.materialize()
            ...     print(store.upkeep())
            kind         name                           files   after  merged  removed         bytes   deleted
            history      temps v1                           1       1       0        0             0         0
        """
        from featurestore.maintenance.maintain import UpkeepReport, retention_of

        catalog, keeping = self._watch.refresh(), self._keeping(retention_of(retention), dry_run=dry_run)
        names = None if views is None else list(dict.fromkeys(each.view for each in parse_references(views, where="views")))
        for name in names or ():
            if name not in catalog.views:
                self._serving.versions(name)  # which tells where there never was such a view
        kept = [each for name, view in sorted(catalog.views.items()) if names is None or name in names
                for each in keeping.keep_view(view)]  # fmt: skip
        logs = keeping.keep_logs() if names is None else []
        return UpkeepReport([*kept, *keeping.clean_up(names), *logs], dry_run=dry_run)

    def backup(self, target: str | Path) -> "Backup":
        """Copies the registry and the history to a folder, while runs, pushes and readers go on.

        What was materialized or pushed before is in the copy. Entities that are forgotten later are in it still. The online
        store is not: it is written anew from the history.

        Args:
            target: a folder that is not there yet, or empty. A relative path starts at the project's folder.

        Returns:
            What was copied, and how it is restored; print it.

        Raises:
            RequestError: the folder has something in it.
            RegistryError: the registry cannot be read.
            OfflineStoreError: a file cannot be read or written.

        Example:
            >>> from featurestore import FeatureStore
            >>> with FeatureStore(".", project="empty") as store:
            ...     made = store.backup("backup")
            >>> made.registry, made.files
            (True, 0)
        """
        from featurestore.maintenance.backup import Backup

        folder = self.settings.root / Path(target).expanduser()
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RequestError(f"{folder} is not an empty folder. A backup begins anew: name another one.")
        make_folders(folder)
        # The registry first: a history that knows of later runs is what it is made for, the other way round rows were lost.
        registry = self._registry.database.copy_to(folder / "registry.db")
        files, size = copy_history(self.settings, folder / "offline")
        return Backup(folder, registry, files, size)

    def doctor(self, *, repair: bool = False) -> "DoctorReport":
        """Examines the project: settings, servers, clocks, disks, definitions, and registry, history and online store together.

        Of each view some entities are looked up in both stores and compared.

        Args:
            repair: first complete runs that were interrupted, and write online what the history has and the online store lacks.

        Returns:
            A finding for each check, with what to do about it; print it. ``is_well`` tells whether nothing is wrong.

        Example:
            >>> from featurestore import FeatureStore
            >>> with FeatureStore(".", project="empty") as store:
            ...     found = store.doctor()
            >>> found.is_well, found[0].check, found[0].state
            (True, 'settings', 'ok')
        """
        from featurestore.maintenance.doctor import examine

        self.require_open()
        repairs = [("repair", self._repair)] if repair else []
        return examine([*repairs, *self._checks()])

    def _repair(self) -> "Iterator[Finding]":
        from featurestore.maintenance.doctor import Finding

        catalog = self._watch.refresh()
        job = self._materializer(None)
        for name, applied in sorted(catalog.views.items()):
            mended = list(self._histories.repaired(applied))
            yield from mended
            if any(each.state == "error" for each in mended):
                continue
            last = self._ledger.latest(name, applied.data_version)
            if last is not None and last.state in ("running", "committed"):
                job.materialize(*self._at_hand.of(applied), start=None, end=self._clock())
                yield Finding(f"repair: {name}", "ok", f"run {last.seq} is completed")
            written = job.rebuilder.rebuild(applied) + sum(
                job.rebuilder.rebuild(each) for each in [catalog.served[name]] if each.data_version != applied.data_version
            )
            yield Finding(f"repair: {name}", "ok", f"{written:,} values were written online")

    def _checks(self) -> "Iterator[tuple[str, Check]]":
        """Yields what the doctor looks at, each with what it is called where it cannot be looked at."""
        from featurestore.maintenance.check_history import told_access
        from featurestore.maintenance.doctor import told_definitions, told_folder, told_versions

        settings = self.settings
        yield "settings", self._told_settings
        yield "versions", told_versions
        for name, folder in store_folders(settings).items():
            yield f"folder: {name}", partial(told_folder, name, folder, self._clock)
        yield "registry", self._told_registry
        yield "access", lambda: told_access(kept_files(settings), folder_mode(settings.history_folder / settings.project))
        yield "online store", self._told_online
        if (settings.root / settings.definitions).is_dir():
            yield "definitions", lambda: told_definitions(lambda: self._applier.plan(self._at_hand.load(None), partial=False))
        try:
            catalog = self._watch.refresh()
        except FeatureStoreError:
            return  # which the registry's check has told
        yield from self._checks_of(catalog)

    def _checks_of(self, catalog: Catalog) -> "Iterator[tuple[str, Check]]":
        from featurestore.maintenance.check_online import OnlineChecks
        from featurestore.maintenance.check_sources import SourceChecks
        from featurestore.maintenance.doctor import ViewChecks, told_streams

        yield "streams", lambda: told_streams(self.streams.status())
        yield "registry", partial(self._histories.known, catalog)
        for name, source in sorted(catalog.sources.items()):
            yield f"source: {name}", partial(self._told_source, source)
        stores = self.settings.project, catalog, self._offline, self._ledger, self._clock
        views = ViewChecks(*stores, self._train_sample, self._look_up_sample)

        def online() -> OnlineChecks:  # made by each check: a store whose files are damaged cannot be opened, which is its finding
            return OnlineChecks(self.settings.project, self._offline, self._online, self._watched, self._clock)

        for name, applied in sorted(catalog.views.items()):
            yield f"runs: {name}", partial(views.runs, applied)
            yield f"history: {name}", partial(views.history, applied)
            yield f"history: {name}", partial(self._histories.whole, applied)
            yield f"online: {name}", partial(views.online, catalog.served[name])
            yield f"online values: {name}", partial(lambda served: online().values(served), catalog.served[name])
        yield "online store", lambda: online().strangers()
        yield from SourceChecks(self.settings.project, self._offline, self._ledger).of(catalog)

    def _told_settings(self) -> "Iterator[Finding]":
        from featurestore.maintenance.doctor import Finding

        path = self.settings.root / FILE_NAME
        there = f"{path} is read" if path.exists() else f"there is no {path}; the defaults hold"
        yield Finding("settings", "ok", f"{there}. Project {self.settings.project!r}, online={online_address(self.settings)}")

    def _told_registry(self) -> "Iterator[Finding]":
        from featurestore.maintenance.doctor import Finding, told_clock, told_due
        from featurestore.registry.facts import database_facts, dues_ahead, expired_leases

        kind, now = database_facts(self._registry)
        yield Finding("registry", "ok", f"{kind}, revision {self._watch.refresh().revision}")
        if now is not None:
            yield told_clock("registry", now, self._clock())
        yield from map(told_due, dues_ahead(self._registry, self.settings.schedule_lease_seconds).items())
        for name in expired_leases(self._registry):
            advice = "Another scheduler takes it over; start one if none runs: featurestore schedule"
            yield Finding(f"lease: {name}", "warning", "whoever had it ended without giving it back", advice)
        for entity, count in self._tombstones.unfinished().items():
            advice = f"Repeat it for the same keys: featurestore forget {entity} KEY=VALUE"
            yield Finding(f"forget: {entity}", "error", f"forgetting {count:,} of them was interrupted", advice)

    def _told_online(self) -> "Iterator[Finding]":
        from featurestore.maintenance.doctor import Finding, told_clock

        yield Finding("online store", "ok", self._online.check())
        facts = online_facts(self.settings)
        if facts is not None:
            yield told_clock("online store", facts[0], self._clock())
            for problem in facts[1]:
                yield Finding("online store", "warning", problem)

    def _told_source(self, source: Source) -> "Iterator[Finding]":
        from featurestore.maintenance.doctor import Finding

        if isinstance(source, FrameSource):
            yield Finding(f"source: {source.name}", "ok", "its rows are in the memory of the process that defines it")
            return
        views = [each.spec for each in self._watch.refresh().views.values() if each.spec.source.name == source.name]
        schema = discreetly(views, lambda: self._open_source(source).schema())
        yield Finding(f"source: {source.name}", "ok", f"it can be read, and has {len(schema)} columns")
        for view in views:
            if not view.transform_digest and not view.windows:  # what these make of it is told with the definitions
                yield from (Finding(f"source: {source.name}", "warning", each) for each in decimal_notices(view, schema))

    def _train_sample(self, spine: "pl.DataFrame", view: str) -> "pl.DataFrame":
        return self._training.frame(spine, select(self._watch.refresh(), parse_references(view)), time="_at", as_known=True)

    def _look_up_sample(self, view: str, rows: list[dict[str, Any]], at: "datetime") -> list[dict[str, Any]]:
        plan = self._reader.plan(view, lambda features: select(self._watch.refresh(), parse_references(features)))
        return self._reader.read(plan, rows, at).to_dicts()

    def _removers(self) -> "Mapping[str, Remover]":
        from featurestore.registry.delete_project import remove_project

        return {
            "offline store": lambda dry_run: remove_history(self.settings, dry_run=dry_run),
            "online store": lambda dry_run: {"values": None if dry_run else self._remove_online()},
            "registry": lambda dry_run: remove_project(self._registry, dry_run=dry_run),
        }

    def _remove_online(self) -> int:
        """Deletes the project's values online, and returns how many there were: the marks are not counted."""
        state = self._epochs.find()
        if state is None:
            return 0
        space = f"{state.space}/".encode()
        self._online.delete(space + b"!")
        return self._online.delete(space)

    def _forgetter(self) -> "Forgetter":
        from featurestore.privacy.forget import Forgetter
        from featurestore.registry.error_scrub import Remains

        project = self.settings.project
        sources = self._watch.refresh().sources
        streams = {
            name: partial(open_stream, source, project, _IDLE_SECONDS)
            for name, source in sorted(sources.items())
            if isinstance(source, StreamSource)
        }
        stores = open_eraser(self.settings, self._clock), self._online, self._feature_log
        remains = Remains(self._registry)
        return Forgetter(project, self._tombstones, open_gate(self.settings), *stores, streams, remains, self._watched.space)
