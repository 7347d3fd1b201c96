"""The readings of a greenhouse, as its sensors write them."""

from datetime import datetime

from featurestore import Entity, FeatureView, mean
from featurestore_example import JSONLSource

sensor = Entity("sensor", sensor=str)
readings = JSONLSource(
    "readings",
    "data/*.jsonl",
    event_time="at",
    event_id="reading",
    columns={"reading": int, "sensor": str, "at": datetime, "celsius": float},
)


class Climate(FeatureView, entity=sensor, source=readings):
    """How warm it has been at a sensor."""

    celsius: float | None = mean("celsius").over("1h", "1d")
