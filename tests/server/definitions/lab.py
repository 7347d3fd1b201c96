"""What the server's tests serve: every type a feature may have, a composite key that JSON cannot say, windows, a request."""

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Literal

import polars as pl
from pydantic import Field

from featurestore import Entity, Feature, FeatureService, FeatureView, OnDemandView, ParquetSource, Request, count, last_n, mean

airport = Entity("airport", origin=str, description="An airport.")
visit = Entity("visit", day=date, at=datetime, raw=bytes, number=int, owner="lab")

observations = ParquetSource("observations", "data/observations.parquet", event_time="observed_at", description="Weather stations.")
visits = ParquetSource("visits", "data/visits.parquet", event_time="seen_at")


class Weather(FeatureView, entity=airport, source=observations, owner="met"):
    """The latest observation."""

    temp: float | None = Feature(description="Air temperature", unit="°F")
    gust: float | None
    gusty: bool

    @staticmethod
    def transform(observations: pl.LazyFrame) -> pl.LazyFrame:
        return observations.with_columns(gusty=pl.col("gust").fill_null(0) > 30)


class Recent(FeatureView, entity=airport, source=observations):
    """What was observed lately."""

    readings: int = count().over("1h", "1d")
    mean_temp: float | None = mean("temp").over("36500d")
    last_gusts: list[float] | None = last_n("gust", 2).over("36500d")


class Every(FeatureView, entity=visit, source=visits):
    """Every type."""

    yes: bool | None
    small: Annotated[int | None, pl.Int8]
    large: int | None
    unsigned: Annotated[int | None, pl.UInt64]
    single: Annotated[float | None, pl.Float32]
    double: float | None
    text: str | None
    blob: bytes | None
    instant: datetime | None
    birthday: date | None
    clock: time | None
    span: timedelta | None
    price: Decimal | None
    days: list[date] | None
    vector: Annotated[list[float] | None, pl.Array(pl.Float32, 3)]


class Trip(Request):
    """What the caller knows."""

    distance: float = Field(ge=0, description="Miles")
    kind: Literal["air", "road"] = "air"
    leaves: date | None = None


class Risk(OnDemandView, inputs=[Weather.gusty, Weather.temp, Trip]):
    """Computed when asked."""

    long_and_gusty: bool | None = Feature(pl.col("gusty") & (pl.col("distance") > 1000))
    per_mile: float | None = Feature(pl.col("temp") / pl.col("distance"))
    by_air: bool = Feature(pl.col("kind") == "air")
    weekday: Annotated[int | None, pl.Int8] = Feature(pl.col("leaves").dt.weekday())


delay_model = FeatureService("delay_model", [Weather, Recent, Risk], owner="ops-ml", description="Delays.")
every_model = FeatureService("every_model", [Every])
