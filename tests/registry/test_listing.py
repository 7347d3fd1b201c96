"""The list of what is applied, read without dtypes: the same entries as the catalog's, of every kind and type."""

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import polars as pl
import pytest

from featurestore import Entity, Feature, FeatureService, FeatureStore, FeatureView, FrameSource, OnDemandView, Request, count, mean
from featurestore.clock import utc_now
from featurestore.definitions.catalog import catalog_entries
from featurestore.errors import RegistryError
from featurestore.project_registry import ProjectRegistry
from featurestore.registry.listing import listed
from featurestore.registry.project_database import ProjectDatabase

AIRPORT = Entity("airport", origin=str, gate=int, owner="ops", description="Where it is.")
SCHEMA: dict[str, pl.DataType] = {
    "origin": pl.String(), "gate": pl.Int64(), "at": pl.Datetime(), "n": pl.Int64(), "flag": pl.Boolean(), "number": pl.Float64(),
    "text": pl.String(), "data": pl.Binary(), "instant": pl.Datetime(), "day": pl.Date(), "money": pl.Decimal(38, 9),
    "exact": pl.Decimal(10, 2), "clock": pl.Time(), "length": pl.Duration("us"), "small": pl.Int8(),
    "several": pl.List(pl.Float64()), "times": pl.List(pl.Datetime("us", "UTC")), "vector": pl.Array(pl.Float32(), 3),
}  # fmt: skip
ROWS = FrameSource("rows", pl.DataFrame(schema=SCHEMA), event_time="at")


class Typed(FeatureView, entity=AIRPORT, source=ROWS, owner="ops", tags={"team": "growth"}):
    """One feature of each type."""

    n: int
    flag: bool | None
    number: float = Feature(description="A number.", owner="me", tags={"tier": "1"})
    text: str | None
    data: bytes
    instant: datetime | None
    day: date
    money: Decimal
    exact: Annotated[Decimal, pl.Decimal(10, 2)]
    clock: time
    length: timedelta | None
    small: Annotated[int, pl.Int8]
    several: list[float] | None
    times: list[datetime]
    vector: Annotated[list[float], pl.Array(pl.Float32, 3)]


class Counted(FeatureView, entity=AIRPORT, source=ROWS):
    """Windows."""

    often: int = count().over("1h", "7d")
    usual: float | None = mean("n").over("1d")


class Trip(Request):
    """What the caller knows."""

    distance: float
    stops: int | None = None


class Risk(OnDemandView, inputs=[Typed.number.alias("x"), Trip], tags={"team": "risk"}):
    """How risky it is."""

    far: bool = Feature(pl.col("distance") > pl.col("x"))


SERVICE = FeatureService("service", [Typed.number.alias("b"), Counted.on(origin="dest").prefix("dest_"), Risk], tags={"a": "1"})


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    store = FeatureStore(tmp_path, project="all")
    store.apply([Typed, Counted, Trip, Risk, SERVICE, Entity("lonely", key=str)])
    return store


def test_the_entries_are_those_of_the_catalog(store: FeatureStore) -> None:
    with ProjectRegistry(store.settings) as registry:
        assert registry.search() == list(catalog_entries(store.catalog))
        types = {entry.name: entry.type for entry in registry.search(kind="feature")}
        specs = [view.spec for view in store.catalog.views.values()]
        for spec in (*specs, *store.catalog.on_demand.values(), *store.catalog.requests.values()):
            for feature in spec.features:
                assert types.pop(f"{spec.name}.{feature.name}") == feature.type_name
        assert not types
        assert [entry.type for entry in registry.search(kind="source")] == ["FrameSource"]
        assert [entry.type for entry in registry.search(kind="entity")] == ["origin, gate", "key"]
        assert registry.search("number", kind="feature", owner="me", tag="team=growth") == store.catalog.search(
            "number", kind="feature", owner="me", tag="team=growth"
        )
        assert registry.has_views()
        assert registry.other_projects() == []


def test_what_was_removed_is_not_listed(store: FeatureStore) -> None:
    registry = store.components.registry
    registry.commit(registry.revision(), [], [("entity", "lonely")])
    assert listed(registry) == list(catalog_entries(store.catalog))


def test_a_project_without_definitions_has_no_entries(tmp_path: Path) -> None:
    database = ProjectDatabase("sqlite:///registry.db", "none", tmp_path, utc_now)
    assert listed(database) == []
    database.close()


def test_a_damaged_text_is_an_error_that_names_it(store: FeatureStore) -> None:
    registry = store.components.registry
    with registry.database.writing() as connection:
        spec = registry.database.tables.spec
        connection.execute(spec.update().where(spec.c.name == "lonely").values(body='{"name": "lonely"}'))
    with pytest.raises(RegistryError, match=r"entity 'lonely' \(version 1\) cannot be read"):
        listed(registry)
