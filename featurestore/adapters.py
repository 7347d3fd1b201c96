"""Adapters: the plug-in that a setting or a source calls for. Each is imported when it is needed, the built-in ones too."""

import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from featurestore import plugins
from featurestore.clock import Clock, utc_now
from featurestore.config import Settings
from featurestore.definitions.source import Source
from featurestore.definitions.stream_source import StreamSource
from featurestore.engines.base import Engine, EngineAdapter
from featurestore.errors import ConfigError
from featurestore.locks import Locks
from featurestore.offline.backend import OfflineBackend
from featurestore.offline.folder import Folder
from featurestore.offline.open_folder import open_folder
from featurestore.online.base import OnlineAdapter, OnlineStore, hide_password
from featurestore.plugins import Context
from featurestore.sources.base import ReaderAdapter, SourceContext, SourceReader
from featurestore.streams.base import StreamAdapter, StreamConsumer


def open_source(
    source: Source, root: Path, clock: Clock = utc_now, storage_options: Mapping[str, str] | None = None
) -> SourceReader:
    """Return the reader of a source.

    Args:
        source: the source.
        root: where a relative path starts.
        clock: returns the present.
        storage_options: the setting of that name.

    Raises:
        ConfigError: no installed package brings a reader of this kind of source.
    """
    options = dict(storage_options or {})
    context = SourceContext(root, clock, lambda other: open_source(other, root, clock, options), options)
    adapter: type[ReaderAdapter] = plugins.load(plugins.SOURCE_READERS, source.kind, ReaderAdapter)
    return adapter.open(source, context)


def open_stream(source: StreamSource, project: str, idle_seconds: float) -> StreamConsumer:
    """Return what takes a stream's entries for a project.

    Args:
        source: the stream.
        project: the project; with the source's name it names the group, where the source names none.
        idle_seconds: after how long an entry that a worker was given and did not acknowledge is given to another.

    Raises:
        ConfigError: no installed package brings such a broker, the address is wrong, or a variable in it is not set.
        MissingExtraError: the client of the broker is not installed.
    """
    adapter: type[StreamAdapter] = plugins.load(plugins.STREAMS, source.url.partition("://")[0], StreamAdapter)
    return adapter.open(source.url, source.topic, source.group or f"{project}.{source.name}", idle_seconds=idle_seconds)


def open_online(settings: Settings, clock: Clock) -> OnlineStore:
    """Return the online store of a project's settings.

    Raises:
        ConfigError: no installed package brings a store of the address's scheme.
    """
    return _online(settings).open(settings.online, _context(settings, clock))


def open_offline(settings: Settings, clock: Clock, locks: Locks) -> OfflineBackend:
    """Return the offline store of a project's settings.

    Args:
        settings: the settings.
        clock: returns the present.
        locks: the project's locks.

    Raises:
        ConfigError: no installed package brings a store of the address's scheme.
    """
    return _offline(settings).open(settings.offline, _context(settings, clock), locks)


def open_place(settings: Settings, url: str) -> Folder:
    """Return the folder at an address: a path, which starts at the project's folder, or ``s3://…``, ``gs://…`` or ``az://…``.

    Raises:
        ConfigError: the address is of another form, or holds a secret.
        MissingExtraError: object storage needs the extra ``object``.
    """
    return open_folder(url, settings.root, settings.storage_options)


def history_folder(settings: Settings) -> Path | None:
    """Return the folder of this machine in which a project's offline store is; None if it is elsewhere."""
    return _offline(settings).folder(settings.offline, settings.root)


def store_folders(settings: Settings) -> dict[str, Path]:
    """Return the folders of this machine in which stores of a project's settings are, by what they hold.

    A store that no installed package brings has none: opening it says so, and the doctor goes on to report the rest.
    """
    folders = {}
    for name, find in (("history", history_folder), ("online", _online_folder)):
        with suppress(ConfigError):
            if (folder := find(settings)) is not None:
                folders[name] = folder
    return folders


def own_folders(settings: Settings) -> list[Path]:
    """Return the folders of this machine in which only stores of a project's settings write: none of them holds anything else."""
    folders = store_folders(settings)
    if "history" in folders:
        folders["history"] /= settings.project
    if settings.registry_file is not None:
        folders["registry"] = settings.registry_file.parent
    return list(folders.values())


def _online_folder(settings: Settings) -> Path | None:
    return _online(settings).folder(settings.online, settings.root)


def is_online_here(settings: Settings) -> bool:
    """Return whether the online store lies in a folder of this machine, which no other machine reaches."""
    return _online_folder(settings) is not None


def online_address(settings: Settings) -> str:
    """Return where the online store is, without its password."""
    return _online(settings).shown(settings.online)


def shown_addresses(settings: Settings) -> dict[str, str]:
    """Return the addresses of a project's registry and stores by the names of their settings, without passwords."""
    return {"registry": hide_password(settings.registry), "offline": settings.offline, "online": online_address(settings)}


def online_facts(settings: Settings) -> tuple[datetime, list[str]] | None:
    """Return the time that the server of an online store has, and what of its set-up may lose values; None without one.

    Raises:
        OnlineStoreError: it cannot be reached.
    """
    return _online(settings).facts(settings.online)


def kept_files(settings: Settings) -> dict[str, Path]:
    """Return where on this machine a project's settings keep what others are not to read, by what it is."""
    folder = history_folder(settings)
    paths = {} if folder is None else {"history": folder / settings.project}
    online = _online(settings).files(settings.online, settings.root)
    paths |= {"online" if len(online) == 1 else f"online: {path.name}": path for path in online}
    if (registry := settings.registry_file) is not None:
        paths |= {"registry" + ending: registry.with_name(registry.name + ending) for ending in ("", "-wal", "-shm")}
    return paths


def open_engine(settings: Settings) -> Engine:
    """Return the engine of a project's settings.

    Raises:
        ConfigError: no installed package brings an engine of this name.
    """
    adapter: type[EngineAdapter] = plugins.load(plugins.ENGINES, settings.engine, EngineAdapter)
    return adapter.open(_context(settings))


def _online(settings: Settings) -> type[OnlineAdapter]:
    adapter: type[OnlineAdapter] = plugins.load(plugins.ONLINE_STORES, settings.online.partition(":")[0], OnlineAdapter)
    return adapter


def _offline(settings: Settings) -> type[OfflineBackend]:
    scheme, sign, _ = settings.offline.partition("://")
    adapter: type[OfflineBackend] = plugins.load(plugins.OFFLINE_STORES, scheme if sign else "file", OfflineBackend)
    return adapter


def _context(settings: Settings, clock: Clock = utc_now) -> Context:
    threads = settings.threads or os.cpu_count() or 1
    memory = int(settings.memory_gib * 2**30)
    table = settings.ray.model_dump() if settings.engine == "ray" else {}
    return Context(settings.root, clock, settings.project, threads, memory, settings.storage_options, table)
