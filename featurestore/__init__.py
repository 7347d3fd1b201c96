"""A feature store: typed feature definitions, training frames correct to the point in time, and fast online look-up."""

from featurestore.spec.entity import Entity
from featurestore.spec.feature import Feature
from featurestore.spec.service import FeatureService
from featurestore.spec.source import CSVSource, DeltaSource, FrameSource, ParquetSource, SQLSource
from featurestore.spec.view import FeatureView
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
    "ParquetSource",
    "SQLSource",
]
