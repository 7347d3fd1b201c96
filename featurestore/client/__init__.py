"""The client of a feature server: what a feature store reads and takes, over HTTP, without an engine on this side.

``import featurestore.client`` loads no engine; Polars is loaded when a frame is asked for.
"""

from featurestore.client.results import PushedRows, RemoteRows
from featurestore.client.store import RemoteFeatureStore

__all__ = ["PushedRows", "RemoteFeatureStore", "RemoteRows"]
