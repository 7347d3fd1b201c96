"""The project that is measured: views over generated sources, in a folder of its own."""

from pathlib import Path
from typing import Any

from benchmarks import data
from benchmarks.measure import DATA
from featurestore import Entity, Feature, FeatureStore, FeatureView, ParquetSource, count, max_, mean, sum_
from featurestore.definitions.source import Source

USER = Entity("user", entity=str)


def view(name: str, rows: int, entities: int, prefix: str, **options: Any) -> type[FeatureView]:
    """Returns a view of ten features over a generated source."""
    folder = data.source(name, rows, entities, prefix)
    source = ParquetSource(f"{name}_rows", str(folder / "*.parquet"), event_time="event_time")
    body = {"__annotations__": dict.fromkeys(data.feature_names(prefix), float), "__doc__": "Generated.", "__module__": __name__}
    body |= {feature: Feature() for feature in data.feature_names(prefix)}
    return type(name, (FeatureView,), body, entity=USER, source=source, name=name, **options)


def windowed(name: str, source: Source, column: str, **options: Any) -> type[FeatureView]:
    """Returns a view of twelve features: the sum, number, mean and greatest of a column over an hour, a day and a week."""
    spans = ("1h", "1d", "7d")
    body = {
        "__annotations__": {"total": float, "events": int, "average": float | None, "greatest": float | None},
        "__module__": __name__,
        "total": sum_(column).over(*spans),
        "events": count(column).over(*spans),
        "average": mean(column).over(*spans),
        "greatest": max_(column).over(*spans),
    }
    return type(name, (FeatureView,), body, entity=USER, source=source, name=name, **options)


def events(rows: int, entities: int) -> ParquetSource:
    """Returns a generated source of events over thirty days."""
    folder = data.source("events", rows, entities, "x", features=1, span=30 * data.DAY)
    return ParquetSource(f"events{rows}", str(folder / "*.parquet"), event_time="event_time")


def store(folder: str, online: str | None = None) -> FeatureStore:
    """Returns the store in a folder of the benchmarks' data."""
    root = DATA / folder
    root.mkdir(parents=True, exist_ok=True)
    return FeatureStore(root, project="bench", online=online)


def materialized(folder: str, views: list[type[FeatureView]], online: str | None = None) -> FeatureStore:
    """Returns a store whose views are materialized, from an earlier run if there was one."""
    opened = store(folder, online)
    opened.apply(views)
    opened.materialize(end="1971-01-01")
    return opened


def root_of(folder: str) -> Path:
    """Returns where a store lies."""
    return DATA / folder
