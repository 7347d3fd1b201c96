"""The status without the stores: it is what the store says of itself, or nothing."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from featurestore import Entity, FeatureStore, FeatureView, FrameSource, StreamSource
from featurestore.clock import to_micros
from featurestore.errors import RegistryError, RejectedRowsError
from featurestore.history_sizes import SizesWithoutStores
from featurestore.maintenance.registry_status import registry_status
from featurestore.maintenance.status import StatusReport
from featurestore.project_registry import ProjectRegistry
from featurestore.testing import FakeClock

NOON = datetime(2013, 7, 1, 12, tzinfo=UTC)
AIRPORT = Entity("airport", origin=str)


def weather(name: str = "Weather", *, factor: int = 1, rows: int = 1, **options: object) -> type[FeatureView]:
    frame = pl.DataFrame(
        {"origin": ["JFK"] * rows, "at": [NOON - timedelta(hours=at) for at in range(rows)], "temp": [79.0] * rows}
    )

    def transform(frame: pl.LazyFrame) -> pl.LazyFrame:
        return frame.with_columns(pl.col("temp") * 2)

    body = {
        "__annotations__": {"temp": float},
        "__module__": __name__,
        **({"transform": staticmethod(transform)} if factor > 1 else {}),
    }
    source = FrameSource(f"{name.lower()}_rows", frame, event_time="at")
    return type(FeatureView)(name, (FeatureView,), body, entity=AIRPORT, source=source, **options)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOON)


@pytest.fixture
def store(tmp_path: Path, clock: FakeClock) -> Iterator[FeatureStore]:
    with FeatureStore(tmp_path, clock=clock) as store:
        yield store


def without_stores(store: FeatureStore, clock: FakeClock, *, streams: bool = True) -> StatusReport | None:
    with ProjectRegistry(store.settings, clock) as registry:
        return registry_status(registry, streams=streams)


def test_it_is_what_the_store_says(store: FeatureStore, clock: FakeClock) -> None:
    def same() -> StatusReport:
        report, expected = without_stores(store, clock), store.status()
        assert report is not None
        assert list(report) == list(expected)
        return report

    assert list(same()) == []
    late, cron = weather("Late", rows=3, freshness="30m"), weather("Cron", schedule="0 6 * * mon-fri Europe/Berlin")
    store.apply([late, cron, weather("Often", schedule="15m", freshness="1d"), weather("Never")])
    assert {status.state for status in same()} == {"late", "empty"}
    store.materialize()
    assert {status.rows for status in same()} == {1, 3}
    clock.advance(timedelta(hours=1))
    assert {status.view: status.state for status in same()}["late"] == "late"
    store.scheduler.run_once()
    assert {status.view for status in same() if status.next_run is not None} == {"cron", "often"}
    clock.micros = to_micros(NOON + timedelta(minutes=7))
    same()
    store.apply([weather("Often", factor=2, schedule="15m", freshness="1d")])
    assert {status.view: status.served for status in same()}["often"] == 1
    store.materialize(["often"])
    assert {status.view: status.served for status in same()}["often"] is None
    store.versions.rollback("often")
    assert {status.view: status.served for status in same()}["often"] == 1


def test_a_failed_run_and_its_error_are_there(store: FeatureStore, clock: FakeClock) -> None:
    frame = pl.DataFrame({"origin": ["JFK", None], "at": [NOON] * 2, "temp": [1.0, 2.0]})

    class Weather(FeatureView, entity=AIRPORT, source=FrameSource("rows", frame, event_time="at"), on_reject="fail"):
        temp: float

    store.apply([Weather])
    with pytest.raises(RejectedRowsError):
        store.materialize()
    report = without_stores(store, clock)
    assert report is not None
    assert [(status.state, status) for status in report] == [("failed", status) for status in store.status()]


def test_rows_that_wait_for_a_run_are_left_to_the_store(store: FeatureStore, clock: FakeClock) -> None:
    store.apply([weather(freshness="1h")])
    store.materialize()
    assert without_stores(store, clock) is not None
    clock.advance(timedelta(hours=2))
    store.push("weather_rows", [{"origin": "JFK", "at": clock(), "temp": 80.0}])
    assert without_stores(store, clock) is None
    assert [status.state for status in store.status()] == ["ok"]
    store.materialize()
    report = without_stores(store, clock)
    assert report is not None
    assert [(status.rows, status.state) for status in report] == [(2, "ok")]


def test_a_stream_is_left_to_the_store_where_streams_are_shown(store: FeatureStore, clock: FakeClock) -> None:
    columns = {"origin": str, "at": datetime, "temp": float}
    stream = StreamSource("readings", "redis://localhost", topic="readings", columns=columns, event_time="at")

    class Readings(FeatureView, entity=AIRPORT, source=stream):
        temp: float

    store.apply([Readings])
    assert without_stores(store, clock) is None
    report = without_stores(store, clock, streams=False)
    assert report is not None
    assert list(report) == list(store.status())


def test_an_offline_store_whose_package_tells_no_sizes_is_asked(store: FeatureStore) -> None:
    sizes = SizesWithoutStores(store.settings)
    assert sizes.of("weather", 1) is not None
    elsewhere = SizesWithoutStores(store.settings.replace(offline="elsewhere://bucket/history"))
    assert elsewhere.of("weather", 1) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"body": "[]"}, r"view 'weather' \(version 1\) cannot be read"),
        ({"body": '{"name": '}, r"view 'weather' \(version 1\) cannot be read"),
        ({"data_version": None}, "view 'weather' .* has no data version"),
    ],
)
def test_a_damaged_registry_is_an_error_that_names_the_view(
    store: FeatureStore, clock: FakeClock, values: dict[str, object], message: str
) -> None:
    store.apply([weather()])
    registry = store.components.registry
    with registry.database.writing() as connection:
        spec = registry.database.tables.spec
        connection.execute(spec.update().where(spec.c.kind == "view").values(**values))
    with pytest.raises(RegistryError, match=message):
        without_stores(store, clock)
