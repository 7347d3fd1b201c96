"""E16: a history says which definition made it, so that a registry that was lost does not serve the rows of a former one."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from featurestore import Entity, FeatureStore, FeatureView, ParquetSource, count
from featurestore.errors import MaterializeError

NOON = datetime(2013, 7, 1, 12, tzinfo=UTC)
AIRPORT = Entity("airport", origin=str)


def weather(celsius: bool, *, gust: bool = False) -> type[FeatureView]:
    source = ParquetSource("s", "d.parquet", event_time="at")
    body: dict[str, Any] = {"__annotations__": {"temp": float} | ({"gust": float | None} if gust else {}), "__module__": __name__}
    if celsius:
        body["transform"] = staticmethod(lambda rows: rows.with_columns(temp=((pl.col("temp") - 32) / 1.8).round(1)))
    return type("Weather", (FeatureView,), body, entity=AIRPORT, source=source)


def opened(folder: Path) -> FeatureStore:
    return FeatureStore(folder, project="test", clock=lambda: NOON + timedelta(days=1))


def temp(store: FeatureStore) -> tuple[float, float]:
    """Online and in training."""
    spine = pl.DataFrame({"origin": ["JFK"], "t": [NOON + timedelta(hours=1)]})
    online = store.online("weather", [{"origin": "JFK"}]).to_dicts()[0]["temp"]
    return online, store.training_frame(spine, "weather", time="t")["temp"][0]


def lose(folder: Path) -> None:
    for path in (folder / ".featurestore").glob("registry.db*"):
        path.unlink()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    pl.DataFrame({"origin": ["JFK"], "at": [NOON], "temp": [77.0], "gust": [5.0]}).write_parquet(tmp_path / "d.parquet")
    return tmp_path


def made(folder: Path, *views: type[FeatureView]) -> None:
    with opened(folder) as store:
        for view in views:
            store.apply([view])
            store.materialize()


@pytest.mark.parametrize(
    ("before", "after", "number"),
    [
        ([weather(False), weather(True)], weather(True), 2),
        ([weather(False)], weather(True), 2),
        ([weather(True)], weather(True), 1),
        ([weather(False), weather(True)], weather(False), 1),
        ([weather(True)], weather(False), 2),
        ([weather(False), weather(False, gust=True)], weather(False, gust=True), 1),
        ([weather(False)], weather(False, gust=True), 1),
        ([weather(False, gust=True)], weather(False), 2),
    ],
    ids=["the last", "another", "the same", "the first", "back", "with more", "gets more", "has less"],
)
def test_e16_after_a_lost_registry_the_rows_are_those_of_what_is_applied(
    project: Path, before: list[type[FeatureView]], after: type[FeatureView], number: int
) -> None:
    made(project, *before)
    lose(project)
    celsius = after.__transform__ is not None
    with opened(project) as store:
        told = [each for each in store.admin.doctor() if each.check == "registry" and each.state == "error"]
        assert "knows nothing of 1 views whose histories are there: 'weather'" in told[0].message
        store.apply([after])
        assert store.catalog.views["weather"].data_version == number
        store.materialize()
        assert temp(store) == ((25.0, 25.0) if celsius else (77.0, 77.0))
        # A row that had less than the definition has got is another one than that.
        assert store.sql("from weather").height == (2 if len(before[0].__view__.features) < len(after.__view__.features) else 1)
        assert [each.message for each in store.admin.doctor() if each.state == "error" and "clock" not in each.check] == []
        # And the changes after it meet no history of before.
        for next_one in (weather(not celsius), weather(celsius)):
            store.apply([next_one])
            store.materialize()
            value = 25.0 if next_one.__transform__ is not None else 77.0
            assert temp(store) == (value, value)


def test_e16_a_registry_from_before_a_change_does_not_take_over_the_history_of_another_one(project: Path) -> None:
    made(project, weather(False))
    with opened(project) as store:
        store.admin.backup("copy")
    made(project, weather(True))
    lose(project)
    shutil.copy(project / "copy" / "registry.db", project / ".featurestore" / "registry.db")
    with opened(project) as store:
        store.apply([weather(False, gust=True)])
        store.materialize()

    class Weather(FeatureView, entity=AIRPORT, source=ParquetSource("s", "d.parquet", event_time="at")):
        n: int = count().over("1d")

    with opened(project) as store:
        store.apply([Weather])
        assert store.catalog.views["weather"].data_version == 3
        store.materialize()
        assert store.sql("from weather").height == 1


def test_e16_a_history_that_is_put_beside_a_registry_is_not_written_to_as_if_it_were_its_own(project: Path) -> None:
    made(project, weather(False))
    shutil.copytree(project / ".featurestore" / "offline", project / "elsewhere")
    shutil.rmtree(project / ".featurestore")
    with opened(project) as store:
        store.apply([weather(True)])
        shutil.copytree(project / "elsewhere", project / ".featurestore" / "offline", dirs_exist_ok=True)
        with pytest.raises(MaterializeError, match="the rows of another definition of 'weather'"):
            store.materialize()
        [told] = [each.message for each in store.admin.doctor() if each.check == "history: weather" and each.state == "error"]
        assert "another definition" in told


def test_a_history_of_the_version_before_gets_to_say_it(project: Path) -> None:
    """It is noted with the next run of a registry that knows the history."""
    made(project, weather(False))
    for path in (project / ".featurestore").rglob("_delta_log/*.json"):
        path.write_text(path.read_text().replace("featurestore.definition", "former"))
    with opened(project) as store:
        rows = pl.DataFrame({"origin": ["LGA"], "at": [NOON], "temp": [50.0], "gust": [5.0]})
        pl.concat([pl.read_parquet(project / "d.parquet"), rows]).write_parquet(project / "d.parquet")
        store.apply([weather(False)])
        store.materialize()
        assert store.sql("from weather").height == 2
    lose(project)
    with opened(project) as store:
        store.apply([weather(True)])
        assert store.catalog.views["weather"].data_version == 2
