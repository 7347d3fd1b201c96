"""Reads, as ``store.training_frame``, ``store.sample_request``, ``store.feature_log`` and ``store.sql``."""

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from featurestore.clock import from_micros, parse_instant, to_micros
from featurestore.components import Components
from featurestore.errors import NotFoundError, RequestError
from featurestore.given_paths import is_folder, local_path
from featurestore.materialization.progress import Progress, Silence
from featurestore.retrieval.parts import scan_parts
from featurestore.retrieval.sample_request import Examples
from featurestore.retrieval.spine import read_spine
from featurestore.retrieval.training import TrainingRequest


class Reads:
    """Read features, and what services answered.

    Args:
        components: what the project is made of.
    """

    def __init__(self, components: Components) -> None:
        self._components = components

    def training_frame(
        self,
        spine: Any,
        features: Any,
        *,
        time: str,
        as_known: bool,
        stored_by: datetime | None,
        sink: str | Path | None,
        progress: Progress | None,
    ) -> pl.DataFrame | pl.LazyFrame:
        """See ``FeatureStore.training_frame``."""
        reader, root = self._components.training_reader, self._components.settings.root
        request = self.training_request(spine, features, time, as_known=as_known)
        request = replace(request, progress=progress or Silence(), stored_by=self._stored_by(stored_by))
        if sink is None:
            return reader.frame(request)
        if is_folder(sink, "sink"):
            folder = self._components.open_folder(str(sink))
            return scan_parts(folder, reader.sink_parts(request, folder))
        path = local_path(sink, root, "sink")
        reader.sink(request, path)
        return pl.scan_parquet(path)

    def _stored_by(self, instant: datetime | None) -> int | None:
        """Return an instant by which rows must have been stored, in microseconds."""
        if instant is None:
            return None
        if not isinstance(instant, datetime):
            raise RequestError(f"stored_by must be a datetime; got {instant!r} ({type(instant).__name__}).")
        micros, now = to_micros(parse_instant(instant)), to_micros(self._components.clock())
        if micros > now:
            raise RequestError(
                f"stored_by={from_micros(micros)} is in the future: what will be stored by then is not known. "
                f"It is {from_micros(now)} now."
            )
        return micros

    def training_request(self, spine: Any, features: Any, time: str, *, as_known: bool = True) -> TrainingRequest:
        """Return what is asked for, as the reader of training frames takes it."""
        root, options = self._components.settings.root, self._components.settings.storage_options
        selection = self._components.select(features)
        rows, files = read_spine(spine, root, self.sql, options)
        return TrainingRequest(rows, selection, time, as_known, files)

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
