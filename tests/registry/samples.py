"""Definitions that the registry's tests share, and what other processes do with them."""

from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import polars as pl

from featurestore.clock import utc_now
from featurestore.definitions.entity import Entity
from featurestore.definitions.feature import Feature
from featurestore.definitions.feature_view import FeatureView, ViewSpec
from featurestore.definitions.service import FeatureService
from featurestore.definitions.source import ParquetSource
from featurestore.errors import ConcurrentApplyError
from featurestore.registry.ledger import Ledger
from featurestore.registry.specs import Put, SpecRegistry

AIRPORT = Entity("airport", origin=str)
OBSERVATIONS = ParquetSource("observations", "data/*.parquet", event_time="observed_at", available_time="received_at")


class Weather(FeatureView, entity=AIRPORT, source=OBSERVATIONS, ttl="6h", schedule="15m"):
    """Latest observation at the airport."""

    temp: float | None = Feature(description="Air temperature, °F", ge=-60, le=140)
    wind: float | None
    gusty: bool

    @staticmethod
    def transform(observations: pl.LazyFrame) -> pl.LazyFrame:
        return observations.with_columns(gusty=pl.col("wind") > 30)


WEATHER: ViewSpec = Weather.__view__
MODEL = FeatureService("delay_model", [Weather.temp, Weather.gusty], owner="ops-ml")

ALL = [Put(AIRPORT, 1), Put(OBSERVATIONS, 1), Put(WEATHER, 1, 1), Put(MODEL, 1)]


def apply_at_once(url: str, project: str, root: Path, name: str, barrier: Barrier) -> str:
    """Adds an entity at the same time as others; tells what came of it."""
    registry = SpecRegistry(url, project, root, utc_now)
    base = registry.revision()
    barrier.wait(60)
    try:
        return f"revision {registry.commit(base, [Put(Entity(name, key=str), 1)], []).revision}"
    except ConcurrentApplyError as error:
        return "; ".join(error.changed)
    finally:
        registry.close()


def open_at_once(url: str, project: str, root: Path, name: str, barrier: Barrier) -> int:
    """Opens the registry at the same time as others; returns its revision."""
    registry = SpecRegistry(url, project + name, root, utc_now)
    barrier.wait(60)
    try:
        return registry.revision()
    finally:
        registry.close()


def begin_at_once(url: str, project: str, root: Path, name: str, barrier: Barrier) -> tuple[str, dict[str, Any]]:
    """Begins run 1 and stages its chunk 0 at the same time as others; returns whose run and whose chunk it became."""
    registry = SpecRegistry(url, project, root, utc_now)
    ledger = Ledger(registry)
    barrier.wait(60)
    try:
        run = ledger.begin("weather", 1, 1, {"by": name})
        return run.span["by"], ledger.stage(run, 0, {"by": name})
    finally:
        registry.close()
