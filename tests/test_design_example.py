"""The example that the design is told by, as it is written there: its definitions, then its calls."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from featurestore import FeatureStore
from featurestore.errors import RequestError

DEFINITIONS = '''
import polars as pl
from featurestore import Entity, Feature, FeatureService, FeatureView, OnDemandView, ParquetSource, Request, count, max_, mean

airport = Entity("airport", origin=pl.String)          # name, then join keys and their types; several keys = composite
carrier = Entity("carrier", carrier=pl.String)

observations = ParquetSource("observations", "data/weather/*.parquet", event_time="observed_at", available_time="received_at")
departures = ParquetSource("departures", "data/flights/*.parquet", event_time="departed_at", event_id="flight_id")


class Weather(FeatureView, entity=airport, source=observations, ttl="6h", schedule="15m"):
    """Latest observation at the departure airport."""

    temp: float | None = Feature(description="Air temperature, °F", ge=-60, le=140)
    wind_gust: float | None
    gusty: bool                                         # computed by transform

    @staticmethod
    def transform(observations: pl.LazyFrame) -> pl.LazyFrame:      # optional; Polars in, Polars out
        return observations.with_columns(gusty=pl.col("wind_gust").fill_null(0) > 30)


class CarrierDelays(FeatureView, entity=carrier, source=departures, schedule="*/5 * * * *"):
    """How late a carrier's flights have lately been."""

    mean_delay: float | None = mean("dep_delay").over("1h", "1d", "7d")   # columns mean_delay_1h, mean_delay_1d, mean_delay_7d
    worst_delay: float | None = max_("dep_delay").over("1d", tile="1h")   # one window: column worst_delay
    departures: int = count().over("1h", "1d")


class Trip(Request):
    """What the caller knows at request time."""
    distance: float


class Risk(OnDemandView, inputs=[Weather.gusty, CarrierDelays.mean_delay["1d"], Trip]):
    """Computed when asked, by the same expression for one request and for a million spine rows."""

    long_and_gusty: bool = Feature(pl.col("gusty") & (pl.col("distance") > 1000))
    delay_per_mile: float | None = Feature(pl.col("mean_delay_1d") / pl.col("distance"))


delay_model = FeatureService("delay_model", [Weather, CarrierDelays.mean_delay, Risk], owner="ops-ml")
'''
NOW = datetime(2013, 7, 1, 18, tzinfo=UTC)
NAMES = ["temp", "wind_gust", "gusty", "mean_delay_1h", "mean_delay_1d", "mean_delay_7d", "long_and_gusty", "delay_per_mile"]


def ago(**span: float) -> datetime:
    return NOW - timedelta(**span)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The project's folder: the definitions, and a few rows of both sources."""
    for name in ("definitions", "data/weather", "data/flights"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "definitions" / "flights.py").write_text(DEFINITIONS, encoding="utf-8")
    pl.DataFrame(
        {
            "origin": ["JFK", "JFK", "LGA"],
            "observed_at": [ago(hours=2), ago(hours=1), ago(hours=9)],
            "received_at": [ago(hours=1, minutes=50), ago(minutes=50), ago(hours=8)],
            "temp": [78.1, 79.0, 80.1],
            "wind_gust": [None, 32.2, 25.3],
        }
    ).write_parquet(tmp_path / "data" / "weather" / "2013-07.parquet")
    pl.DataFrame(
        {
            "flight_id": ["UA1", "UA2", "UA3", "UA4", "AA1", "UA5"],
            "carrier": ["UA", "UA", "UA", "UA", "AA", "UA"],
            "departed_at": [ago(minutes=30), ago(hours=5), ago(days=3), ago(days=20), ago(hours=5), None],
            "dep_delay": [10, 20, 60, 500, None, None],
        }
    ).write_parquet(tmp_path / "data" / "flights" / "2013-07.parquet")
    return tmp_path


@pytest.fixture
def store(folder: Path) -> Iterator[FeatureStore]:
    with FeatureStore(folder, clock=lambda: NOW) as opened:
        yield opened


def test_the_example_runs_as_written(store: FeatureStore, folder: Path) -> None:
    """S7, S8, S11, S14, S16, S19."""
    plan = store.plan()
    assert str(plan).splitlines() == [
        "+ entity airport", "+ entity carrier", "+ source departures", "+ source observations", "+ view carrier_delays",
        "+ view weather", "+ request trip", "+ on_demand risk", "+ service delay_model",
        "9 to add, 0 to change, 0 to remove",
    ]  # fmt: skip
    store.apply()
    written = {each.view: (each.rows_written, each.rows_rejected) for each in store.materialize()}
    assert written == {"carrier_delays": (5, 1), "weather": (3, 0)}

    delay_model = "delay_model"
    spine = pl.DataFrame(
        {
            "origin": ["JFK", "JFK", "LGA", None],
            "carrier": ["UA", "UA", "AA", "ZZ"],
            "distance": [2475.0, 2475.0, 500.0, 500.0],
            "scheduled_at": [NOW, ago(minutes=51), NOW, NOW],
        }
    )
    frame = store.training_frame(spine, delay_model, time="scheduled_at")
    assert frame.columns == [*spine.columns, *NAMES]
    assert frame.select(NAMES).rows() == [
        (79.0, 32.2, True, 10.0, 15.0, 30.0, True, 15.0 / 2475.0),
        (78.1, None, False, None, 20.0, 40.0, False, 20.0 / 2475.0),
        (None, None, None, None, None, None, False, None),  # the weather is too old, and 500 miles are not far
        (None, None, None, None, None, None, False, None),
    ]
    sunk = store.training_frame(spine, delay_model, time="scheduled_at", sink="train.parquet")
    assert sunk.collect().equals(frame)
    assert pl.read_parquet(folder / "train.parquet").equals(frame)

    rows = store.online(delay_model, [{"origin": "JFK", "carrier": "UA", "distance": 2475.0}])
    assert rows.to_dicts() == [{"origin": "JFK", "carrier": "UA", "distance": 2475.0, **frame.select(NAMES).row(0, named=True)}]
    assert rows.to_polars().select(NAMES).equals(frame.select(NAMES).head(1))
    assert rows.status == {name: ["present"] for name in NAMES}
    assert rows.event_time == {"weather": [ago(hours=1)], "carrier_delays": [ago(minutes=30)]}
    again = asyncio.run(_online_async(store, delay_model, rows.to_dicts()))
    assert again == rows.to_dicts()

    new_rows = pl.DataFrame({"flight_id": ["UA6"], "carrier": ["UA"], "departed_at": [NOW], "dep_delay": [40]})
    [pushed] = store.push("departures", new_rows)
    assert (pushed.view, pushed.rows_new) == ("carrier_delays", 1)
    [pushed] = store.push("departures", new_rows)
    assert (pushed.rows_new, pushed.rows_known) == (0, 1)
    [row] = store.online(["carrier_delays"], [{"carrier": "UA"}])
    assert row == {
        "carrier": "UA", "mean_delay_1h": 25.0, "mean_delay_1d": 70 / 3, "mean_delay_7d": 32.5, "worst_delay": 40.0,
        "departures_1h": 2, "departures_1d": 3,
    }  # fmt: skip
    trained = store.training_frame(spine.head(1), ["carrier_delays"], time="scheduled_at")
    assert trained.drop(spine.columns).row(0, named=True) == {name: value for name, value in row.items() if name != "carrier"}

    assert store.sql("select * from weather limit 5").height == 3


async def _online_async(store: FeatureStore, features: Any, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    asked = [{name: row[name] for name in ("origin", "carrier", "distance")} for row in rows]
    return (await store.online_async(features, asked)).to_dicts()


def test_its_names_are_those_of_a_notebook(store: FeatureStore, folder: Path) -> None:
    """The same with the objects of the definitions, applied by themselves."""
    made: dict[str, Any] = {"__name__": "notebook"}
    exec(DEFINITIONS, made)
    weather, carrier_delays, delay_model, departures = (
        made[name] for name in ("Weather", "CarrierDelays", "delay_model", "departures")
    )
    store.apply([weather, carrier_delays, made["Risk"], delay_model])
    store.materialize(views=[weather, carrier_delays], end=NOW)
    asked = [{"origin": "JFK", "carrier": "UA", "distance": 2475.0}]
    assert store.online(delay_model, asked).to_dicts()[0]["mean_delay_1d"] == 15.0
    several = [
        weather.temp,
        carrier_delays.mean_delay["7d"],
        carrier_delays.worst_delay.alias("worst"),
        made["Risk"].long_and_gusty,
    ]
    [row] = store.online(several, asked)
    assert [row[name] for name in ("temp", "mean_delay_7d", "worst", "long_and_gusty")] == [79.0, 30.0, 20.0, True]
    store.push(departures, [{"flight_id": "UA6", "carrier": "UA", "departed_at": NOW, "dep_delay": 40}])
    assert store.online(carrier_delays.departures["1h"], [{"carrier": "UA"}]).to_dicts() == [{"carrier": "UA", "departures_1h": 2}]


def test_a_request_without_its_field_is_told(store: FeatureStore) -> None:
    store.apply()
    with pytest.raises(RequestError, match="Row 0 has no request field 'distance'"):
        store.online("delay_model", [{"origin": "JFK", "carrier": "UA"}])
