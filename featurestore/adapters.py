"""Adapters: the plug-in that a setting or a source calls for. Each is imported when it is needed, the built-in ones too."""

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import polars as pl

from featurestore import plugins
from featurestore.clock import Clock, utc_now
from featurestore.config import Settings
from featurestore.definitions.source import Source
from featurestore.definitions.stream_source import StreamSource
from featurestore.engines.base import Engine, EngineAdapter
from featurestore.errors import ConfigError
from featurestore.offline.adapter import OfflineAdapter
from featurestore.offline.base import Eraser, FeatureLog, OfflineStore, Table, Upkeep, WriteBarrier
from featurestore.offline.condition import Mender
from featurestore.online.base import OnlineAdapter, OnlineStore
from featurestore.plugins import Context
from featurestore.registry.tombstone_secret import TombstoneSecret
from featurestore.sources.base import ReaderAdapter, SourceContext, SourceReader
from featurestore.streams.base import StreamAdapter, StreamConsumer


def open_source(source: Source, root: Path, clock: Clock = utc_now) -> SourceReader:
    """Return the reader of a source.

    Raises:
        ConfigError: no installed package brings a reader of this kind of source.
    """
    context = SourceContext(root, clock, lambda other: open_source(other, root, clock))
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


def open_offline(settings: Settings, clock: Clock) -> OfflineStore:
    """Return the offline store of a project's settings.

    Raises:
        ConfigError: no installed package brings a store of the address's scheme.
    """
    return _offline(settings).open(settings.offline, _context(settings, clock))


def open_feature_log(settings: Settings) -> FeatureLog:
    """Return where a project's settings keep what services answered."""
    return _offline(settings).feature_log(settings.offline, _context(settings))


def store_folders(settings: Settings) -> dict[str, Path]:
    """Return the folders of this machine in which stores of a project's settings are, by what they hold."""
    try:
        online = _online(settings).folder(settings.online, settings.root)
    except ConfigError:
        online = None  # there is no such store, which opening it says; the doctor goes on to tell the rest
    return {"history": settings.history_folder} | ({} if online is None else {"online": online})


def own_folders(settings: Settings) -> list[Path]:
    """Returns the folders of this machine in which only stores of a project's settings write: none of them holds anything else."""
    history = settings.history_folder / settings.project
    folders = [history, *(folder for name, folder in store_folders(settings).items() if name != "history")]
    scheme, _, path = settings.registry.partition(":///")
    if scheme.startswith("sqlite"):
        folders.append((settings.root / path).parent)
    return folders


def online_address(settings: Settings) -> str:
    """Return where the online store is, without its password."""
    return _online(settings).shown(settings.online)


def online_facts(settings: Settings) -> tuple[datetime, list[str]] | None:
    """Return the time that the server of an online store has, and what of its set-up may lose values; None without one.

    Raises:
        OnlineStoreError: it cannot be reached.
    """
    return _online(settings).facts(settings.online)


def open_gate(settings: Settings) -> WriteBarrier:
    """Returns the gate that all writes of a project pass."""
    from featurestore.offline.write_barrier import FileWriteBarrier  # it loads deltalake and pyarrow

    return FileWriteBarrier(settings.history_folder / settings.project)


def tombstone_secret(settings: Settings) -> TombstoneSecret:
    """Returns the secret of a project's tombstones, which lies beside its history."""
    return TombstoneSecret(settings.history_folder / settings.project / "_tombstone_secret", settings.tombstone_secret)


def open_eraser(settings: Settings, clock: Clock) -> Eraser:
    """Return what takes entities out of the offline store of a project's settings."""
    return _offline(settings).eraser(settings.offline, _context(settings, clock))


def open_upkeep(settings: Settings, clock: Clock) -> Upkeep:
    """Return what keeps the offline store of a project's settings in order."""
    return _offline(settings).upkeep(settings.offline, _context(settings, clock))


def open_mender(settings: Settings, clock: Clock) -> Mender:
    """Return what checks whether the histories of a project's settings are whole, and mends them."""
    return _offline(settings).mender(settings.offline, _context(settings, clock))


def kept_files(settings: Settings) -> dict[str, Path]:
    """Returns where on this machine a project's settings keep what others are not to read, by what it is."""
    found = {"history": settings.history_folder / settings.project}
    online = _online(settings).files(settings.online, settings.root)
    found |= {"online" if len(online) == 1 else f"online: {path.name}": path for path in online}
    scheme, _, path = settings.registry.partition(":///")
    if scheme.startswith("sqlite"):
        registry = settings.root / path
        found |= {"registry" + ending: registry.with_name(registry.name + ending) for ending in ("", "-wal", "-shm")}
    return found


def remove_history(settings: Settings, *, dry_run: bool) -> dict[str, int]:
    """Delete, or count, what the offline store of a project's settings has of it; return how many files, by view."""
    return _offline(settings).remove_project(settings.offline, _context(settings), dry_run=dry_run)


def copy_history(settings: Settings, target: Path) -> tuple[int, int]:
    """Copy what the offline store of a project's settings has of it; return how many files, and their bytes."""
    return _offline(settings).copy_project(settings.offline, _context(settings), target)


def open_engine(settings: Settings) -> Engine:
    """Return the engine of a project's settings.

    Raises:
        ConfigError: no installed package brings an engine of this name.
    """
    adapter: type[EngineAdapter] = plugins.load(plugins.ENGINES, settings.engine, EngineAdapter)
    return adapter.open(_context(settings))


def run_sql(query: str, tables: Mapping[str, Table], store: OfflineStore) -> pl.DataFrame:
    """Returns the result of a SELECT in which every view's history is a table of its name."""
    from featurestore.offline.delta.sql import query_history  # it loads DuckDB, which nothing else of a store needs

    return query_history(query, tables, store)


def _online(settings: Settings) -> type[OnlineAdapter]:
    adapter: type[OnlineAdapter] = plugins.load(plugins.ONLINE_STORES, settings.online.partition(":")[0], OnlineAdapter)
    return adapter


def _offline(settings: Settings) -> type[OfflineAdapter]:
    scheme, sign, _ = settings.offline.partition("://")
    adapter: type[OfflineAdapter] = plugins.load(plugins.OFFLINE_STORES, scheme if sign else "file", OfflineAdapter)
    return adapter


def _context(settings: Settings, clock: Clock = utc_now) -> Context:
    threads = settings.threads or os.cpu_count() or 1
    return Context(settings.root, clock, settings.project, threads, int(settings.memory_gib * 2**30))
