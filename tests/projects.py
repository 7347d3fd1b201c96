"""Small projects for tests: a view over generated rows, and a store whose clock the test sets."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from featurestore import Entity, FeatureStore, FeatureView, FrameSource, ParquetSource
from featurestore.definitions.source import Source
from tests.oracle import Row

INSTANT = pl.Datetime("us", "UTC")


def frame_of(rows: Sequence[Row], keys: Mapping[str, Any], features: Mapping[str, Any]) -> pl.DataFrame:
    """The rows as a source has them: keys, event, available, features."""
    data = [(*row.key, row.event, row.available, *row.values) for row in rows]
    schema = {**keys, "event": pl.Int64, "available": pl.Int64, **features}
    return pl.DataFrame(data, schema=schema, orient="row").with_columns(pl.col("event", "available").cast(INSTANT))


def view_of(
    source: Source, keys: Mapping[str, Any], features: Mapping[str, Any], *, name: str = "v", transform: Any = None, **options: Any
) -> type[FeatureView]:
    """A view of these features, all nullable where they are given as a union."""
    body: dict[str, Any] = {"__annotations__": dict(features), "__module__": __name__}
    if transform is not None:
        body["transform"] = staticmethod(transform)
    return type(name.title(), (FeatureView,), body, entity=Entity(f"entity_{name}", **keys), source=source, name=name, **options)


def parquet_of(folder: Path, frames: Sequence[pl.DataFrame], *, name: str = "rows", late: bool = True) -> ParquetSource:
    """A source of these files."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames):
        frame.write_parquet(folder / f"{number}.parquet")
    return ParquetSource(name, str(folder / "*.parquet"), event_time="event", available_time="available" if late else None)


def memory_of(frame: pl.DataFrame, *, name: str = "rows", late: bool = True) -> FrameSource:
    """A source of this frame."""
    return FrameSource(name, frame, event_time="event", available_time="available" if late else None)


def store_at(folder: Path, clock: Any, *, online: str | None = None, project: str = "test", **settings: Any) -> FeatureStore:
    """A store in a folder, made where it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    return FeatureStore(folder, project=project, online=online, clock=clock, **settings)


def left(store: FeatureStore, view: str, keys: Sequence[str]) -> dict[str, Any]:
    """All that a view's stores hold: the history's rows, the values of these keys online, the rejected rows."""
    rows = store.online(view, [{"k": key} for key in keys])
    return {
        "history": sorted(map(repr, store.sql(f"from {view}").rows())),
        "rejected": sorted(map(repr, store.runs.rejected_rows(view).drop("_run", strict=False).rows())),
        "online": (rows.to_dicts(), rows.status, rows.event_time),
    }


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same, bit for bit but for the bits of a NaN."""
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (one != one and other != other)
    return type(one) is type(other) and one == other
