"""Reads, as ``store.training_frame``, ``store.sample_request``, ``store.feature_log`` and ``store.sql``."""

from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from featurestore.clock import parse_instant
from featurestore.components import Components
from featurestore.errors import NotFoundError
from featurestore.given_paths import local_path
from featurestore.retrieval.sample_request import Examples
from featurestore.retrieval.spine import read_spine, reading_spine, spine_files


class Reads:
    """Read features, and what services answered.

    Args:
        components: what the project is made of.
    """

    def __init__(self, components: Components) -> None:
        self._components = components

    def training_frame(
        self, spine: Any, features: Any, *, time: str, as_known: bool, sink: str | Path | None
    ) -> pl.DataFrame | pl.LazyFrame:
        """See ``FeatureStore.training_frame``."""
        reader, selection = self._components.training_reader, self._components.select(features)
        root, options = self._components.settings.root, self._components.settings.storage_options
        rows = read_spine(spine, root, self.sql, options)
        if sink is not None:
            path = local_path(sink, self._components.settings.root, "sink")
            addresses = spine_files(spine, root, options)
            files = [address.path for address in addresses if address.path is not None]  # others are copied first
            reader.sink(rows, selection, path, time=time, as_known=as_known, files=files)
            return pl.scan_parquet(path)
        with reading_spine("The lazy spine"):
            frame = rows.collect() if isinstance(rows, pl.LazyFrame) else rows
        return reader.frame(frame, selection, time=time, as_known=as_known)

    def sample_request(self, features: str) -> dict[str, Any]:
        """See ``FeatureStore.sample_request``."""
        return Examples(self._components.clock).look_up(features, self._components.select_cached)

    def feature_log(self, service: Any, *, start: datetime | str | None, end: datetime | str | None) -> pl.LazyFrame:
        """See ``FeatureStore.feature_log``."""
        name = getattr(service, "name", service)
        services = self._components.catalog_cache.refresh().services
        if name not in services:
            raise NotFoundError("applied feature service", name, services)
        answers = self._components.feature_log.read(self._components.settings.project, name)
        bounds = []
        if start is not None:
            bounds.append(pl.col("read_at") >= parse_instant(start))
        if end is not None:
            bounds.append(pl.col("read_at") < parse_instant(end))
        # Before the first answer there is no table, and so no column.
        return answers.filter(*bounds) if bounds and "read_at" in answers.collect_schema() else answers

    def sql(self, query: str) -> pl.DataFrame:
        """See ``FeatureStore.sql``."""
        tables = {
            name: self._components.table(applied) for name, applied in self._components.catalog_cache.refresh().served.items()
        }
        return self._components.backend.query(query, tables)
