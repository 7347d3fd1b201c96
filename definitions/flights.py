"""The example project: flights that left New York in 2013, and what was known when each of them was about to leave.

`featurestore demo` writes the Parquet files that the sources name. All times are UTC.
"""

import polars as pl

from featurestore import Entity, Feature, FeatureService, FeatureView, OnDemandView, ParquetSource, Request, count, max_, mean

airport = Entity("airport", origin=pl.String, description="An airport that flights leave from.")
carrier = Entity("carrier", carrier=pl.String, description="An airline, by its two-letter code.")
plane = Entity("plane", tailnum=pl.String, description="An aircraft, by its tail number.")

observations = ParquetSource("observations", "data/weather/*.parquet", event_time="observed_at", available_time="received_at")
departures = ParquetSource("departures", "data/flights/*.parquet", event_time="departed_at", event_id="flight_id")
planes = ParquetSource("planes", "data/planes.parquet", event_time="built_at", description="The register of aircraft.")


class Weather(FeatureView, entity=airport, source=observations, ttl="6h", schedule="15m"):
    """Latest observation at the departure airport."""

    temp: float | None = Feature(description="Air temperature, °F", ge=-60, le=140)
    wind_gust: float | None
    gusty: bool
    wind_speed: float | None = Feature(unit="mph", ge=0)
    humid: float | None = Feature(description="Relative humidity", unit="%", ge=0, le=100)
    precip: float | None = Feature(description="Precipitation in the hour before", unit="in", ge=0)
    pressure: float | None = Feature(description="Pressure at sea level", unit="hPa", ge=870, le=1090)
    visib: float | None = Feature(description="Visibility", unit="mi", ge=0)

    @staticmethod
    def transform(observations: pl.LazyFrame) -> pl.LazyFrame:
        """Adds whether the wind comes in strong gusts."""
        return observations.with_columns(gusty=pl.col("wind_gust").fill_null(0) > 30)


class LastDeparture(FeatureView, entity=carrier, source=departures, ttl="1d", schedule="*/5 * * * *"):
    """The carrier's latest departure from New York, as known when it left: nothing in it is learned on landing."""

    dep_delay: int = Feature(description="Departure delay; negative when early", unit="min", ge=-120)
    delayed: bool = Feature(description="Left a quarter of an hour late or more")
    distance: int = Feature(unit="mi", gt=0)
    dest: str = Feature(description="Where it went", pattern="^[A-Z]{3}$")

    @staticmethod
    def transform(departures: pl.LazyFrame) -> pl.LazyFrame:
        """Adds whether the departure counts as delayed."""
        return departures.with_columns(delayed=pl.col("dep_delay") >= 15)


class Plane(FeatureView, entity=plane, source=planes, schedule="1d"):
    """What is registered about the aircraft, known since it was built. One without a year of construction is rejected."""

    year: int = Feature(description="When it was built", ge=1903)
    manufacturer: str
    model: str
    seats: int = Feature(gt=0)
    engines: int = Feature(ge=1, le=8)
    engine: str = Feature(one_of=["4 Cycle", "Reciprocating", "Turbo-fan", "Turbo-jet", "Turbo-prop", "Turbo-shaft"])


class CarrierDelays(FeatureView, entity=carrier, source=departures, schedule="*/5 * * * *"):
    """How late a carrier's flights have lately been."""

    mean_delay: float | None = mean("dep_delay").over("1h", "1d", "7d", unit="min")  # mean_delay_1h, …_1d, …_7d
    worst_delay: float | None = max_("dep_delay").over("1d", tile="1h", unit="min")  # one window: worst_delay
    departures: int = count().over("1h", "1d")


class AirportTraffic(FeatureView, entity=airport, source=departures, schedule="*/5 * * * *"):
    """What has lately left from an airport, and how late."""

    departures: int = count().over("1h", description="Departures in the last hour")
    mean_delay: float | None = mean("dep_delay").over("1h", "1d", "7d", unit="min")
    worst_delay: float | None = max_("dep_delay").over("1d", tile="1h", unit="min")
    late: int = count(where=pl.col("dep_delay") >= 15).over("1h", description="Of the departures, those a quarter late or more")


class Trip(Request):
    """What is known of a flight when its features are asked for."""

    distance: float


class Risk(OnDemandView, inputs=[Weather.gusty, CarrierDelays.mean_delay["1d"], AirportTraffic.mean_delay["1h"], Trip]):
    """Computed when asked, by the same expressions for one request and for a million spine rows."""

    long_and_gusty: bool | None = Feature(pl.col("gusty") & (pl.col("distance") > 1000))
    delay_per_mile: float | None = Feature(pl.col("mean_delay_1d") / pl.col("distance"), unit="min/mi")
    worse_than_usual: bool | None = Feature(
        pl.col("mean_delay_1h") > pl.col("mean_delay_1d"),
        description="The airport's last hour is worse than the carrier's last day",
    )


delay_model = FeatureService(
    "delay_model",
    [Weather, LastDeparture.prefix("last_"), Plane, CarrierDelays.prefix("carrier_"), AirportTraffic.prefix("airport_"), Risk],
    owner="ops-ml",
)
