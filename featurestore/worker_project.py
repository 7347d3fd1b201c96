"""A project on workers of a cluster: named without secrets, and opened there with what the worker has itself.

A worker has the definitions in a folder (``ray.project_dir``), and passwords in its own ``featurestore.toml`` or ``FEATURESTORE_…``
variables. Settings without a secret go along with each task, so that both sides speak of the same stores.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl

from featurestore.adapters import history_folder, shown_addresses
from featurestore.clock import utc_now
from featurestore.components import Components
from featurestore.config import Settings
from featurestore.definitions.catalog import AppliedView
from featurestore.errors import ConfigError, DefinitionError, EngineError
from featurestore.materialization.results import Written
from featurestore.materialization.tasks import OpenedProject
from featurestore.offline.base import History, Table
from featurestore.settings_loader import load_settings

_SENT = ("project", "definitions", "storage_options", "file_mode", "chunk_rows")
"""The settings that are the same on workers, and never a secret."""


@dataclass(frozen=True)
class WorkerProject:
    """Names a project for workers: see ``ProjectElsewhere``.

    Args:
        folder: the project's folder on workers.
        settings: the settings that go along, in JSON.
        hidden: settings with a password, as they may be shown: a worker must have the same itself.
        needs_secret: whether a worker must have the setting ``tombstone_secret``.
    """

    folder: str
    settings: str
    hidden: tuple[tuple[str, str], ...] = ()
    needs_secret: bool = False

    @classmethod
    def of(cls, settings: Settings) -> "WorkerProject":
        """Return what names the project of some settings.

        Example:
            >>> named = WorkerProject.of(Settings(root=Path("/project"), online="redis://user:secret@db:6379"))
            >>> named.hidden
            (('online', 'redis://user:***@db:6379'),)
        """
        sent: dict[str, Any] = {name: getattr(settings, name) for name in _SENT}
        hidden = []
        for name, shown in shown_addresses(settings).items():
            if shown == getattr(settings, name):
                sent[name] = shown
            else:
                hidden.append((name, shown))
        # Paths of this machine go along as they are here, whatever folder the project has there.
        if (file := settings.registry_file) is not None:
            sent["registry"] = f"sqlite:///{file.absolute()}"
        if (folder := history_folder(settings)) is not None:
            sent["offline"] = str(folder.absolute())
        root = settings.ray.project_dir or ("." if settings.ray.ship_project else str(settings.root.absolute()))
        return cls(root, json.dumps(sent), tuple(hidden), bool(settings.tombstone_secret))

    def open(self) -> OpenedProject:
        """See ``ProjectElsewhere.open``. A process opens it once."""
        return _opened(self)


@lru_cache(maxsize=1)
def _opened(project: WorkerProject) -> "_Opened":
    given = json.loads(project.settings)
    try:
        # The tasks of a task would wait for room that it takes.
        settings = load_settings(Path(project.folder).absolute(), **given, engine="local")
    except ConfigError as error:
        raise EngineError(f"A worker of the cluster cannot open the project: {error} {_ADVICE}") from error
    theirs = shown_addresses(settings)
    for name, shown in project.hidden:
        if theirs[name] != shown:
            raise EngineError(
                f"A worker of the cluster has another setting {name!r} than this process, where it is {shown}. It has a password, "
                f"so it is not sent: set FEATURESTORE_{name.upper()} in the environment of the workers."
            )
    if project.needs_secret and not settings.tombstone_secret:
        raise EngineError(
            "A worker of the cluster lacks the setting 'tombstone_secret', which is never sent: set FEATURESTORE_TOMBSTONE_SECRET "
            "in the environment of the workers."
        )
    return _Opened(settings)


class _Opened:
    """A project as a worker has opened it: see ``OpenedProject``.

    Args:
        settings: its settings.
    """

    def __init__(self, settings: Settings) -> None:
        self._components = Components(settings, utc_now)

    def stage(self, view: str, data_version: int, run: int, index: int, chunk: Mapping[str, Any]) -> dict[str, Any]:
        """See ``OpenedProject.stage``."""
        components, applied = self._components, self._applied(view, data_version)
        try:
            bound = components.definition_loader.bind(applied)
        except DefinitionError as error:
            raise EngineError(
                f"A worker of the cluster has not the definitions that were applied: {error} Its folder of definitions is "
                f"{components.settings.root / components.settings.definitions}. {_ADVICE}"
            ) from error
        return components.materializer().stage(bound, run, index, chunk)

    def write_part(self, view: str, data_version: int, part: History, *, whole: bool, repair: bool) -> Written:
        """See ``OpenedProject.write_part``."""
        applied = self._applied(view, data_version)
        return self._components.materializer().write_part(applied, part, whole=whole, repair=repair)

    def without_forgotten(self, table: Table, rows: pl.DataFrame) -> pl.DataFrame:
        """See ``OpenedProject.without_forgotten``."""
        # NOTE: behind no barrier of its own, for the one of the process that asked holds until the task is done, and who waits to
        # pass it alone lets nobody else pass.
        return self._components.forgotten.rows(self._components.tombstones.current(), table, rows)

    def _applied(self, view: str, data_version: int) -> AppliedView:
        components = self._components
        versions = list(components.serving.retained(view))
        with suppress(KeyError):
            versions.append(components.catalog_cache.refresh().views[view])
        for applied in reversed(versions):
            if applied.data_version == data_version:
                return applied
        raise EngineError(
            f"The registry of a worker of the cluster, {shown_addresses(components.settings)['registry']}, does not know version "
            f"{data_version} of view {view!r}. Do all machines reach the same registry? More than one machine need PostgreSQL."
        )


_ADVICE = (
    "Put the project into the image of the workers and name its folder there in ray.project_dir; or set ray.ship_project, and it "
    "is sent."
)
