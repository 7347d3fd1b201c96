"""What tests need: the contract suite of each port, a clock that the test moves, faults to inject, a project in a folder.

A package that adds an adapter subclasses the suite of its port, and gives its own adapter as a fixture. The names below can be
imported from here; further helpers are in the modules. This is the only part of featurestore that needs pytest.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from featurestore.errors import MissingExtraError

try:
    import pytest
except ImportError as error:
    raise MissingExtraError("featurestore.testing", "testing") from error

if TYPE_CHECKING:
    from featurestore.testing.clock import FakeClock as FakeClock
    from featurestore.testing.engines import EngineContract as EngineContract
    from featurestore.testing.faults import Killed as Killed
    from featurestore.testing.faults import faulty as faulty
    from featurestore.testing.faults import interrupted as interrupted
    from featurestore.testing.feature_log import FeatureLogContract as FeatureLogContract
    from featurestore.testing.folders import FolderContract as FolderContract
    from featurestore.testing.history_sizes import HistorySizesContract as HistorySizesContract
    from featurestore.testing.offline import OfflineStoreContract as OfflineStoreContract
    from featurestore.testing.online import OnlineStoreContract as OnlineStoreContract
    from featurestore.testing.project import temporary_store as temporary_store
    from featurestore.testing.push_log import PushLogContract as PushLogContract
    from featurestore.testing.sources import Place as Place
    from featurestore.testing.sources import SourceReaderContract as SourceReaderContract
    from featurestore.testing.streams import StreamContract as StreamContract
    from featurestore.testing.upkeep import TableMaintenanceContract as TableMaintenanceContract

_MODULES = {
    "EngineContract": "engines",
    "FakeClock": "clock",
    "faulty": "faults",
    "FeatureLogContract": "feature_log",
    "FolderContract": "folders",
    "HistorySizesContract": "history_sizes",
    "Killed": "faults",
    "OfflineStoreContract": "offline",
    "OnlineStoreContract": "online",
    "Place": "sources",
    "PushLogContract": "push_log",
    "SourceReaderContract": "sources",
    "StreamContract": "streams",
    "TableMaintenanceContract": "upkeep",
    "interrupted": "faults",
    "temporary_store": "project",
}
"""Which module has which name; it is imported, and Hypothesis with it, when the name is asked for."""

__all__ = sorted(_MODULES)

# NOTE: before any of them is imported, else their asserts tell nothing but that they failed.
pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in sorted(set(_MODULES.values()))))


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name != "hypothesis":
            raise
        raise MissingExtraError(f"featurestore.testing.{name}", "testing") from error
