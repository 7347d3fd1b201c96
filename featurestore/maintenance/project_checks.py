"""What the doctor checks of a project: settings, registry, stores, sources, definitions and every view."""

from collections.abc import Iterator
from datetime import datetime
from functools import partial
from typing import Any

import polars as pl

from featurestore.access.redaction import discreetly
from featurestore.adapters import history_folder, kept_files, online_address, online_facts, store_folders
from featurestore.components import Components
from featurestore.config import Settings
from featurestore.definitions.catalog import Catalog
from featurestore.definitions.source import FrameSource, Source
from featurestore.durable import folder_mode
from featurestore.errors import FeatureStoreError
from featurestore.maintenance.check_history import check_access
from featurestore.maintenance.check_online import OnlineChecks
from featurestore.maintenance.check_sources import SourceChecks
from featurestore.maintenance.doctor import (
    Check,
    Finding,
    ViewChecks,
    check_clock,
    check_definitions,
    check_due,
    check_folder,
    check_streams,
    check_versions,
)
from featurestore.project.source_notices import decimal_notices
from featurestore.registry.facts import database_facts, dues_ahead, expired_leases
from featurestore.retrieval.training import TrainingRequest
from featurestore.setting_errors import FILE_NAME


class ProjectChecks:
    """The checks of a project.

    Args:
        components: what the project is made of.
    """

    def __init__(self, components: Components) -> None:
        self._components = components

    def all(self) -> "Iterator[tuple[str, Check]]":
        """Yield each check, with the name of its finding if it cannot be carried out."""
        components = self._components
        settings = components.settings
        yield "settings", self._settings
        yield "versions", check_versions
        for name, folder in store_folders(settings).items():
            yield f"folder: {name}", partial(check_folder, name, folder, components.clock)
        yield "registry", self._registry
        yield "access", lambda: check_access(kept_files(settings), _own_mode(settings))
        yield "history", self._offline
        yield "online store", self._online
        if (settings.root / settings.definitions).is_dir():
            loader = components.definition_loader
            yield "definitions", lambda: check_definitions(lambda: components.applier.plan(loader.load(None), partial=False))
        try:
            catalog = components.catalog_cache.refresh()
        except FeatureStoreError:
            return  # the registry's check has reported it
        yield from self._of_catalog(catalog)

    def repair(self) -> Iterator[Finding]:
        """Complete interrupted runs, mend histories, and write online what it lacks; yield what was done."""
        components = self._components
        catalog, job = components.catalog_cache.refresh(), components.materializer()
        for name, applied in sorted(catalog.views.items()):
            mended = list(components.history_checks.repaired(applied))
            yield from mended
            if any(finding.state == "error" for finding in mended):
                continue
            last = components.ledger.latest(name, applied.data_version)
            if last is not None and last.state in ("running", "committed"):
                job.materialize(components.definition_loader.bind(applied), start=None, end=components.clock())
                yield Finding(f"repair: {name}", "ok", f"run {last.seq} is completed")
            written, served = job.rebuilder.rebuild(applied), catalog.served[name]
            if served.data_version != applied.data_version:
                written += job.rebuilder.rebuild(served)
            yield Finding(f"repair: {name}", "ok", f"{written:,} values were written online")

    def _of_catalog(self, catalog: Catalog) -> "Iterator[tuple[str, Check]]":
        components = self._components
        project = components.settings.project
        yield "streams", lambda: check_streams(components.streams.status())
        yield "registry", partial(components.history_checks.known, catalog)
        for name, source in sorted(catalog.sources.items()):
            yield f"source: {name}", partial(self._source, source)
        stores = project, components.offline, components.ledger, components.clock  # not online: it may be what cannot be opened
        views = ViewChecks(*stores, self._train_sample, self._look_up_sample)

        def online() -> OnlineChecks:  # made by each check: a store with damaged files cannot be opened, which is its finding
            return OnlineChecks(project, components.offline, components.online, components.watched_online, components.clock)

        for name, applied in sorted(catalog.views.items()):
            yield f"runs: {name}", partial(views.runs, applied)
            yield f"history: {name}", partial(views.history, applied)
            yield f"history: {name}", partial(components.history_checks.whole, applied)
            yield f"online: {name}", partial(views.online, catalog.served[name])
            yield f"online values: {name}", partial(lambda served: online().values(served), catalog.served[name])
        yield "online store", lambda: online().strangers()
        yield from SourceChecks(project, components.offline, components.ledger).of(catalog)

    def _settings(self) -> Iterator[Finding]:
        settings = self._components.settings
        path = settings.root / FILE_NAME
        there = f"{path} is read" if path.exists() else f"there is no {path}; the defaults hold"
        yield Finding("settings", "ok", f"{there}. Project {settings.project!r}, online={online_address(settings)}")

    def _registry(self) -> Iterator[Finding]:
        components = self._components
        kind, now = database_facts(components.registry)
        yield Finding("registry", "ok", f"{kind}, revision {components.catalog_cache.refresh().revision}")
        if now is not None:
            yield check_clock("registry", now, components.clock())
        yield from map(check_due, dues_ahead(components.registry, components.settings.schedule.lease.total_seconds()).items())
        for name in expired_leases(components.registry):
            advice = "Another scheduler takes it over; start one if none runs: featurestore schedule"
            yield Finding(f"lease: {name}", "warning", "its holder ended without releasing it", advice)
        for entity, count in components.tombstones.unfinished().items():
            advice = f"Repeat it for the same keys: featurestore forget {entity} KEY=VALUE"
            yield Finding(f"forget: {entity}", "error", f"forgetting {count:,} of them was interrupted", advice)

    def _offline(self) -> Iterator[Finding]:
        components = self._components
        facts = components.backend.facts()
        if facts is None:
            return  # a folder, which has a check of its own
        yield Finding("history", "ok", f"{facts.address} can be written to, and creates a file only once")
        yield check_clock("history", facts.now, components.clock(), facts.precision)
        for problem in facts.problems:
            yield Finding("history", "warning", problem)
        if components.settings.registry_file is not None:
            advice = "Set registry = 'postgresql+psycopg://…' before another machine writes to this history."
            yield Finding("history", "warning", "its registry is a file of this machine, whose locks others do not see", advice)

    def _online(self) -> Iterator[Finding]:
        components = self._components
        yield Finding("online store", "ok", components.online.check())
        facts = online_facts(components.settings)
        if facts is not None:
            yield check_clock("online store", facts[0], components.clock())
            for problem in facts[1]:
                yield Finding("online store", "warning", problem)

    def _source(self, source: Source) -> Iterator[Finding]:
        check = f"source: {source.name}"
        if isinstance(source, FrameSource):
            yield Finding(check, "ok", "its rows are in the memory of the process that defines it")
            return
        components = self._components
        applied = components.catalog_cache.refresh().views.values()
        views = [view.spec for view in applied if view.spec.source.name == source.name]
        schema = discreetly(views, lambda: components.open_source(source).schema())
        yield Finding(check, "ok", f"it can be read, and has {len(schema)} columns")
        for view in views:
            if not view.transform_digest and not view.windows:  # what these make of it is reported with the definitions
                yield from (Finding(check, "warning", notice) for notice in decimal_notices(view, schema))

    def _train_sample(self, spine: pl.DataFrame, view: str) -> pl.DataFrame:
        components = self._components
        return components.training_reader.frame(TrainingRequest(spine, components.select(view), "_at"))

    def _look_up_sample(self, view: str, rows: list[dict[str, Any]], at: datetime) -> list[dict[str, Any]]:
        reader = self._components.online_reader
        return reader.read(reader.plan(view, self._components.select), rows, at).to_dicts()


def _own_mode(settings: Settings) -> int:
    """Return the mode that the project's folders have, by the settings."""
    folder = history_folder(settings)
    return folder_mode(settings.root if folder is None else folder / settings.project)
