"""A project whose runs are done by tasks, and all that its runs have written: to be compared with what one process writes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import redis

from featurestore import FeatureStore
from featurestore.engines.base import Engine
from tests.projects import INSTANT

ROWS, ENTITIES, FILES = 120_000, 2000, 6
MINUTE = 60_000_000
DEFINITIONS = """
import polars as pl
from featurestore import Entity, Feature, FeatureView, ParquetSource, count, mean, sum_

USER = Entity("user", k=str)
EVENTS = ParquetSource("events", "events/*.parquet", event_time="event", available_time="available")


class Latest(FeatureView, entity=USER, source=EVENTS):
    x: float = Feature(ge=0)
    doubled: float

    @staticmethod
    def transform(rows: pl.LazyFrame) -> pl.LazyFrame:
        return rows.with_columns(doubled=pl.col("x") * 2)


class Windowed(FeatureView, entity=USER, source=EVENTS):
    total: float = sum_("x").over("1d", "30d")
    events: int = count("x").over("30d")
    average: float | None = mean("x").over("30d")
"""


def events(rows: int, part: int, parts: int = FILES) -> pl.DataFrame:
    """A file of the source's; some rows are late, equal to others, or wrong."""
    number = pl.col("number")
    value = pl.when(number % 5003 == 0).then(-1.0).otherwise((number * 2654435761 % 1_000_003) / 7.0)
    return pl.DataFrame({"number": range(part * rows // parts, (part + 1) * rows // parts)}).select(
        pl.format("k{}", number * 7919 % ENTITIES).alias("k"),
        (number // 2 * MINUTE).cast(INSTANT).alias("event"),
        (number // 2 * MINUTE + number % 5 * 90 * MINUTE).cast(INSTANT).alias("available"),
        value.alias("x"),
    )


@dataclass
class Fleet:
    """What projects of these tests are made of."""

    folder: Path
    offline: str
    online: str
    address: str
    registry: str
    rows: int = ROWS
    files: int = FILES

    def lose_online_values(self) -> None:
        with redis.Redis.from_url(self.online) as client:
            client.flushall()

    def root(self, name: str) -> Path:
        root = self.folder / name
        if not root.exists():
            (root / "definitions").mkdir(parents=True)
            (root / "definitions" / "views.py").write_text(DEFINITIONS)
            (root / "events").mkdir()
            for part in range(self.files):
                events(self.rows, part, self.files).write_parquet(root / "events" / f"{part}.parquet")
        return root

    def settings(self, name: str) -> dict[str, Any]:
        registry = {"registry": self.registry} if self.registry else {}
        offline = {"offline": f"{self.offline}/{name}"} if self.offline else {}
        return {"project": name, "online": self.online, "chunk_rows": self.rows // self.files, **registry, **offline}

    @contextmanager
    def local(self, name: str) -> Iterator[FeatureStore]:
        with FeatureStore(self.root(name), **self.settings(name)) as store:
            yield store

    @contextmanager
    def cluster(self, name: str, engine: Engine | None = None) -> Iterator[FeatureStore]:
        ray = {"address": self.address, "memory_per_task_gib": 0.5}
        with FeatureStore(self.root(name), engine="ray", ray=ray, **self.settings(name)) as store:
            if engine is not None:
                store.components.__dict__["engine"] = engine
            yield store


@dataclass
class Written:
    """All that a run has written."""

    history: pl.DataFrame
    windowed: pl.DataFrame
    online: list[Any]
    rejected: pl.DataFrame
    counts: list[tuple[Any, ...]]

    @classmethod
    def of(cls, store: FeatureStore, summary: Any) -> "Written":
        keys = [{"k": f"k{number}"} for number in range(ENTITIES + 10)]
        online = [store.online(view, keys) for view in ("latest", "windowed")]
        counts = [
            (view.view, view.rows_read, view.rows_written, view.rows_rejected, view.rows_known, view.rows_tied) for view in summary
        ]
        return cls(
            store.sql("from latest").sort(pl.all()),
            store.sql("from windowed").sort(pl.all()),
            [(rows.to_dicts(), rows.status, rows.event_time) for rows in online],
            store.runs.rejected_rows("latest").sort(pl.all()),
            sorted(counts),
        )

    def require_same(self, other: "Written") -> None:
        assert self.history.equals(other.history, null_equal=True)
        assert self.windowed.equals(other.windowed, null_equal=True)
        assert self.online == other.online
        assert self.rejected.drop("_run").equals(other.rejected.drop("_run"), null_equal=True)
        assert self.counts == other.counts
