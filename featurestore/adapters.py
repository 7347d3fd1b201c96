"""Adapters: which one a setting or a source calls for. The only place that names them, and imports each when it is needed."""

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from featurestore.clock import Clock, utc_now
from featurestore.config import Settings
from featurestore.definitions.source import CSVSource, DeltaSource, FrameSource, ParquetSource, Source, SQLSource
from featurestore.definitions.stream_source import StreamSource
from featurestore.errors import ConfigError

if TYPE_CHECKING:
    from featurestore.engines.base import Engine
    from featurestore.offline.base import Eraser, FeatureLog, OfflineStore, Table, Upkeep, WriteBarrier
    from featurestore.offline.condition import Mender
    from featurestore.online.base import OnlineStore
    from featurestore.registry.tombstone_secret import TombstoneSecret
    from featurestore.sources.base import SourceReader
    from featurestore.streams.base import StreamConsumer


def open_source(source: Source, root: Path, clock: Clock = utc_now) -> "SourceReader":
    """Returns the reader of a source."""
    if isinstance(source, ParquetSource):
        from featurestore.sources.parquet import ParquetReader

        return ParquetReader(source, root, clock)
    if isinstance(source, CSVSource):
        from featurestore.sources.csv import CSVReader

        return CSVReader(source, root, clock)
    if isinstance(source, DeltaSource):
        from featurestore.sources.delta import DeltaReader

        return DeltaReader(source, root, clock)
    if isinstance(source, SQLSource):
        from featurestore.sources.sql import SQLReader

        return SQLReader(source, root)
    if isinstance(source, FrameSource):
        from featurestore.sources.frame import FrameReader

        return FrameReader(source, root)
    if isinstance(source, StreamSource):
        from featurestore.sources.stream import StreamReader

        return StreamReader(source, None if source.batch is None else open_source(source.batch, root, clock))
    raise ConfigError(f"There is no reader for a {type(source).__name__}.")


def open_stream(source: StreamSource, project: str, idle_seconds: float) -> "StreamConsumer":
    """Returns what takes a stream's entries for a project.

    Args:
        source: the stream.
        project: the project; with the source's name it names the group, where the source names none.
        idle_seconds: after how long an entry that a worker was given and did not acknowledge is given to another.

    Raises:
        ConfigError: the address is wrong, or a variable in it is not set.
        MissingExtraError: the client of the broker is not installed.
    """
    group = source.group or f"{project}.{source.name}"
    if source.url.startswith(("nats:", "tls:")):
        from featurestore.streams.nats import NATSConsumer

        return NATSConsumer(source.url, source.topic, group, idle_seconds=idle_seconds)
    from featurestore.streams.redis import RedisConsumer

    return RedisConsumer(source.url, source.topic, group, idle_seconds=idle_seconds)


def open_online(settings: Settings, clock: Clock) -> "OnlineStore":
    """Returns the online store of a project's settings.

    Raises:
        ConfigError: the address names no kind of store.
    """
    scheme, _, rest = settings.online.partition(":")
    if scheme == "lmdb":
        from featurestore.online.lmdb.store import LMDBStore

        return LMDBStore(settings.root / Path(rest).expanduser(), clock=clock)
    if scheme in ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster"):
        from featurestore.online.redis.store import RedisStore

        return RedisStore(settings.online)
    raise ConfigError(
        f"online={settings.online!r} names no online store. Use lmdb:folder, redis://host:port, rediss://…, redis+cluster://… "
        "or unix:///socket."
    )


def open_offline(settings: Settings, clock: Clock) -> "OfflineStore":
    """Returns the offline store of a project's settings.

    Raises:
        ConfigError: the address names no kind of store.
    """
    if "://" in settings.offline:
        raise ConfigError(
            f"offline={settings.offline!r} is not a folder. This version keeps the history in a folder of a file system."
        )
    from featurestore.offline.delta.history import DeltaStore

    return DeltaStore(settings.history_folder, clock=clock, threads=settings.threads or os.cpu_count() or 1)


def open_feature_log(settings: Settings) -> "FeatureLog":
    """Returns where a project's settings keep what services answered."""
    from featurestore.offline.delta.feature_log import DeltaFeatureLog

    return DeltaFeatureLog(settings.history_folder)


def store_folders(settings: Settings) -> dict[str, Path]:
    """Returns the folders of this machine in which stores of a project's settings are, by what they hold."""
    found = {"history": settings.history_folder}
    scheme, _, rest = settings.online.partition(":")
    return found | ({"online": settings.root / Path(rest).expanduser()} if scheme == "lmdb" else {})


def own_folders(settings: Settings) -> list[Path]:
    """Returns the folders of this machine in which only stores of a project's settings write: none of them holds anything else."""
    history = settings.history_folder / settings.project
    folders = [history, *(folder for name, folder in store_folders(settings).items() if name != "history")]
    scheme, _, path = settings.registry.partition(":///")
    if scheme.startswith("sqlite"):
        folders.append((settings.root / path).parent)
    return folders


def online_address(settings: Settings) -> str:
    """Returns where the online store is, without its password."""
    from featurestore.online.redis.address import hide_password

    return hide_password(settings.online)


def online_facts(settings: Settings) -> tuple[datetime, list[str]] | None:
    """Returns the time that the server of an online store has, and what of its set-up may lose values; None without one.

    Raises:
        OnlineStoreError: it cannot be reached.
    """
    if settings.online.partition(":")[0] == "lmdb":
        return None
    from featurestore.online.redis.health import server_facts

    return server_facts(settings.online)


def open_gate(settings: Settings) -> "WriteBarrier":
    """Returns the gate that all writes of a project pass."""
    from featurestore.offline.write_barrier import FileWriteBarrier

    return FileWriteBarrier(settings.history_folder / settings.project)


def tombstone_secret(settings: Settings) -> "TombstoneSecret":
    """Returns the secret of a project's tombstones, which lies beside its history."""
    from featurestore.registry.tombstone_secret import TombstoneSecret

    return TombstoneSecret(settings.history_folder / settings.project / "_tombstone_secret", settings.tombstone_secret)


def open_eraser(settings: Settings, clock: Clock) -> "Eraser":
    """Returns what takes entities out of the offline store of a project's settings."""
    from featurestore.offline.delta.eraser import DeltaEraser
    from featurestore.offline.delta.history import DeltaStore

    return DeltaEraser(DeltaStore(settings.history_folder, clock=clock), clock=clock)


def open_upkeep(settings: Settings, clock: Clock) -> "Upkeep":
    """Returns what keeps the offline store of a project's settings in order."""
    from featurestore.offline.delta.history import DeltaStore
    from featurestore.offline.delta.maintenance import DeltaUpkeep

    return DeltaUpkeep(DeltaStore(settings.history_folder, clock=clock), clock=clock)


def open_mender(settings: Settings, clock: Clock) -> "Mender":
    """Returns what looks whether the histories of a project's settings are whole, and mends them."""
    from featurestore.offline.delta.history import DeltaStore
    from featurestore.offline.delta.repair import DeltaMender

    return DeltaMender(DeltaStore(settings.history_folder, clock=clock), clock=clock)


def kept_files(settings: Settings) -> dict[str, Path]:
    """Returns where on this machine a project's settings keep what others are not to read, by what it is."""
    found = {"history": settings.history_folder / settings.project}
    found |= {name: folder for name, folder in store_folders(settings).items() if name != "history"}
    scheme, _, path = settings.registry.partition(":///")
    if scheme.startswith("sqlite"):
        registry = settings.root / path
        found |= {"registry" + ending: registry.with_name(registry.name + ending) for ending in ("", "-wal", "-shm")}
    return found


def remove_history(settings: Settings, *, dry_run: bool) -> dict[str, int]:
    """Deletes, or counts, what the offline store of a project's settings has of it; returns how many files, by view."""
    from featurestore.offline.delta.delete_project import remove_project

    return remove_project(settings.history_folder, settings.project, dry_run=dry_run)


def copy_history(settings: Settings, target: Path) -> tuple[int, int]:
    """Copies what the offline store of a project's settings has of it; returns how many files, and their bytes."""
    from featurestore.offline.delta.copy import copy_project

    return copy_project(settings.history_folder, settings.project, target)


def open_engine(settings: Settings) -> "Engine":
    """Returns the engine of a project's settings.

    Raises:
        ConfigError: there is no such engine.
    """
    if settings.engine != "local":
        raise ConfigError(f"engine={settings.engine!r} names no engine. There is 'local'.")
    from featurestore.engines.local import LocalEngine

    return LocalEngine(settings.threads or os.cpu_count() or 1, int(settings.memory_gib * 2**30))


def run_sql(query: str, tables: "Mapping[str, Table]", store: "OfflineStore") -> pl.DataFrame:
    """Returns the result of a SELECT in which every view's history is a table of its name."""
    from featurestore.offline.delta.sql import query_history

    return query_history(query, tables, store)
