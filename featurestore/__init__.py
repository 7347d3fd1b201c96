"""A feature store: typed feature definitions, training frames correct to the point in time, and fast online look-up."""

import opcode
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from featurestore.hints import MODULE as _HINTS

if TYPE_CHECKING:
    from featurestore.definitions.entity import Entity
    from featurestore.definitions.feature import Feature
    from featurestore.definitions.feature_view import FeatureView
    from featurestore.definitions.on_demand import OnDemandView
    from featurestore.definitions.request import Request
    from featurestore.definitions.service import FeatureService
    from featurestore.definitions.source import CSVSource, DeltaSource, FrameSource, ParquetSource, SQLSource
    from featurestore.definitions.stream_source import StreamSource
    from featurestore.definitions.window import (
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
    "CSVSource": "definitions.source",
    "DeltaSource": "definitions.source",
    "Entity": "definitions.entity",
    "Feature": "definitions.feature",
    "FeatureService": "definitions.service",
    "FeatureStore": "store",
    "FeatureView": "definitions.feature_view",
    "FrameSource": "definitions.source",
    "OnDemandView": "definitions.on_demand",
    "ParquetSource": "definitions.source",
    "Request": "definitions.request",
    "SQLSource": "definitions.source",
    "StreamSource": "definitions.stream_source",
    "count": "definitions.window",
    "count_distinct": "definitions.window",
    "first": "definitions.window",
    "last": "definitions.window",
    "last_n": "definitions.window",
    "max_": "definitions.window",
    "mean": "definitions.window",
    "min_": "definitions.window",
    "quantile": "definitions.window",
    "std": "definitions.window",
    "sum_": "definitions.window",
    "var": "definitions.window",
}
"""Where each name is defined. It is imported when it is first asked for, so that a client loads no engine."""

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            hint = f" Use {_HINTS[name]}." if name in _HINTS else ""
            message = f"module {__name__!r} has no attribute {name!r}.{hint}"
            frame = sys._getframe(1)
            # NOTE: of an AttributeError ``from featurestore import sum`` shows nothing.
            if hint and opcode.opname[frame.f_code.co_code[frame.f_lasti]] == "IMPORT_FROM":
                raise ImportError(message, name=__name__)
            raise AttributeError(message, name=name)
        member = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        return member

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
