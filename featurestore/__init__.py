"""A feature store: typed feature definitions, training frames correct to the point in time, and fast online look-up."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featurestore.spec.entity import Entity
    from featurestore.spec.feature import Feature
    from featurestore.spec.on_demand import OnDemandView
    from featurestore.spec.request import Request
    from featurestore.spec.service import FeatureService
    from featurestore.spec.source import CSVSource, DeltaSource, FrameSource, ParquetSource, SQLSource
    from featurestore.spec.stream import StreamSource
    from featurestore.spec.view import FeatureView
    from featurestore.spec.window import (
        count,
        count_distinct,
        first,
        last,
        last_n,
        max_,
        mean,
        min_,
        quantile,
        std,
        sum_,
        var,
    )
    from featurestore.store import FeatureStore

__all__ = [
    "CSVSource",
    "DeltaSource",
    "Entity",
    "Feature",
    "FeatureService",
    "FeatureStore",
    "FeatureView",
    "FrameSource",
    "OnDemandView",
    "ParquetSource",
    "Request",
    "SQLSource",
    "StreamSource",
    "count",
    "count_distinct",
    "first",
    "last",
    "last_n",
    "max_",
    "mean",
    "min_",
    "quantile",
    "std",
    "sum_",
    "var",
]

_MODULES = {
    "CSVSource": "spec.source",
    "DeltaSource": "spec.source",
    "Entity": "spec.entity",
    "Feature": "spec.feature",
    "FeatureService": "spec.service",
    "FeatureStore": "store",
    "FeatureView": "spec.view",
    "FrameSource": "spec.source",
    "OnDemandView": "spec.on_demand",
    "ParquetSource": "spec.source",
    "Request": "spec.request",
    "SQLSource": "spec.source",
    "StreamSource": "spec.stream",
    "count": "spec.window",
    "count_distinct": "spec.window",
    "first": "spec.window",
    "last": "spec.window",
    "last_n": "spec.window",
    "max_": "spec.window",
    "mean": "spec.window",
    "min_": "spec.window",
    "quantile": "spec.window",
    "std": "spec.window",
    "sum_": "spec.window",
    "var": "spec.window",
}
"""Where each name is defined. It is imported when it is first asked for, so that a client loads no engine."""

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
