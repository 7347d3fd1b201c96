"""The feature log: it holds what was answered, of the same entities always, and stands in no request's way."""

import asyncio
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest

from featurestore import FeatureService, FeatureStore
from featurestore.definitions.serialization import from_json, to_json
from featurestore.errors import DefinitionError, NotFoundError, OfflineStoreError
from featurestore.offline.delta.feature_log import DeltaFeatureLog
from featurestore.registry.diff_details import details
from featurestore.retrieval import feature_logger as feature_log
from featurestore.retrieval.feature_logger import FeatureLogger, sample
from featurestore.server.app import create_app
from featurestore.server.backend import StoreBackend
from featurestore.server.telemetry.fan_out import make_observer
from tests.server.conftest import KEY, START, make_project, served
from tests.server.test_metrics import read
from tests.servers.valkey import wait_until

LOGGED = """
from featurestore import FeatureService
from lab import Every, Recent, Risk, Weather

all_model = FeatureService("all_model", [Weather.prefix("w_"), Weather.on(origin="dest").prefix("d_"), Recent, Risk], log=1)
every_logged = FeatureService("every_logged", [Every], log=1.0)
some_model = FeatureService("some_model", [Weather], log=0.25)
"""
ORIGINS = ("JFK", "LGA", "EWR", "BOS", "XXX", None)


@pytest.fixture(scope="module")
def logged_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_project(tmp_path_factory.mktemp("logged") / "lab")
    (folder / "definitions" / "logged.py").write_text(LOGGED)
    with FeatureStore(folder) as opened:
        opened.apply()
        opened.materialize()
    return folder


@pytest.fixture
def store(logged_folder: Path, tmp_path: Path) -> Iterator[FeatureStore]:
    folder = shutil.copytree(logged_folder, tmp_path / "lab")
    with FeatureStore(folder, feature_log={"flush_interval": "100ms"}) as opened:
        yield opened


class Asked:
    """Rows that were asked for and what was answered, by the HTTP service, which is over when the block is."""

    def __init__(self, store: FeatureStore) -> None:
        self.store = store

    def online(self, features: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        answers = []

        async def ask() -> None:
            found = await self.store.online_async(features, rows)
            self.logger.offer(features, self.store.catalog.services[features].log, found)
            answers.append((found.to_dicts(), found.status, found.event_time))

        asyncio.run(ask())
        [(dicts, status, times)] = answers
        return [
            {**row, **{f"{name}__status": each[number] for name, each in status.items()},
             **{f"{name.replace('[', '_').replace(']', '')}__event_time": each[number] for name, each in times.items()}}
            for number, row in enumerate(dicts)
        ]  # fmt: skip

    def __enter__(self) -> "Asked":
        self.counts: Counter[str] = Counter()
        self.logger = StoreBackend(self.store).feature_logger(
            lambda service, written, dropped: self.counts.update(written=written, dropped=dropped)
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.logger.close()


def test_it_holds_what_was_answered(store: FeatureStore) -> None:
    """Keys, fields with their defaults, features under other names, statuses, event times and the instant."""
    before = datetime.now(UTC)
    rows = [{"origin": origin, "dest": "LGA", "distance": float(number), "other": "x"} for number, origin in enumerate(ORIGINS, 1)]
    with Asked(store) as asked:
        answered = asked.online("all_model", rows) + asked.online("all_model", rows[:1])
    logged = store.feature_log("all_model").collect()
    assert asked.counts == {"written": 7, "dropped": 0}
    assert logged["read_at"].is_between(before, datetime.now(UTC)).all()
    assert set(logged["kind"]) == {"air"}
    shown = [{name: value for name, value in row.items() if name != "other"} for row in answered]
    kept = logged.drop("read_at", "kind", "leaves").to_dicts()
    assert sorted(map(_told, kept)) == sorted(map(_told, shown))


def test_it_is_read_between_two_instants(store: FeatureStore) -> None:
    with Asked(store) as asked:
        for number, origin in enumerate(ORIGINS, 1):
            asked.online("all_model", [{"origin": origin, "dest": "LGA", "distance": float(number)}])
    instants = sorted(store.feature_log("all_model").collect()["read_at"])
    first, last = instants[0], instants[-1]
    assert first < last

    def read(**bounds: Any) -> list[datetime]:
        return sorted(store.feature_log("all_model", **bounds).collect()["read_at"])

    assert read(start=last) == [each for each in instants if each >= last]
    assert read(end=last.isoformat()) == [each for each in instants if each < last]
    assert read(start=first, end=last) == [each for each in instants if first <= each < last]
    assert read(start=last + timedelta(days=1)) == []
    assert store.feature_log("some_model", start=first).collect().is_empty()  # nothing was answered yet


def test_every_type_is_read_as_it_was_answered(store: FeatureStore) -> None:
    with Asked(store) as asked:
        answered = asked.online("every_logged", [KEY, {**KEY, "number": 8}, {**KEY, "number": 9}])
    logged = store.feature_log("every_logged").collect()
    applied = store.catalog.views["every"].spec
    assert {name: logged.schema[name] for name in applied.schema} == applied.schema
    assert {name: logged.schema[name] for name in applied.entity.keys} == dict(applied.entity.keys)
    assert sorted(map(_told, logged.drop("read_at").to_dicts())) == sorted(map(_told, answered))


def _told(row: dict[str, Any]) -> str:
    alike = {name: value.astimezone(UTC) if isinstance(value, datetime) else value for name, value in row.items()}
    if alike.get("single") is not None:
        alike["single"] = pl.Series([alike["single"]], dtype=pl.Float32).item()  # shown by its shortest text, and the same number
    return repr(sorted(alike.items()))


def test_an_entity_is_logged_always_or_never(store: FeatureStore) -> None:
    origins = [f"A{number:04}" for number in range(2000)]
    with Asked(store) as asked:
        for _ in range(2):
            for start in range(0, 2000, 100):
                asked.online("some_model", [{"origin": each} for each in origins[start : start + 100]])
    counts = store.feature_log("some_model").collect()["origin"].value_counts()
    assert set(counts["count"]) == {2}
    assert 400 < counts.height < 600  # a quarter of 2000, of which the deviation is 19
    rows = store.online("some_model", [{"origin": each} for each in origins])
    [found] = sample([rows], 0.25)
    assert set(found["origin"]) == set(counts["origin"])
    [more] = sample([rows], 0.5)
    assert set(found["origin"]) < set(more["origin"])


def test_the_server_logs_what_it_answers(store: FeatureStore) -> None:
    observer = make_observer(store)
    with served(create_app(store, observer=observer)) as url, httpx.Client(base_url=url) as client:
        for origin in ("JFK", "LGA"):
            body = {"features": "all_model", "rows": [{"origin": origin, "dest": "EWR", "distance": 5.0}]}
            answer = client.post("/v1/online", json=body).json()["features"]
            assert answer["w_temp"] == ([51.0] if origin == "JFK" else [None])
        client.post("/v1/online", json={"features": "weather", "rows": [{"origin": "JFK"}]})

        def counted() -> float:
            found = read(client.get("/metrics").text)
            return found.get("featurestore_feature_log_rows_total", {}).get(("all_model",), 0.0)

        wait_until(lambda: counted() == 2, "nothing is logged")
    assert sorted(store.feature_log("all_model").select("origin").collect()["origin"]) == ["JFK", "LGA"]
    assert store.feature_log("some_model").collect().is_empty()


def test_what_is_left_is_written_at_the_end(tmp_path: Path) -> None:
    folder = make_project(tmp_path / "lab")
    (folder / "definitions" / "logged.py").write_text(LOGGED)
    with FeatureStore(folder, feature_log={"flush_interval": "1h"}) as store:
        store.apply()
        with served(create_app(store, observer=make_observer(store))) as url:
            body = {"features": "all_model", "rows": [{"origin": "JFK", "dest": "EWR", "distance": 5.0}]}
            assert httpx.post(f"{url}/v1/online", json=body).status_code == 200
        assert store.feature_log("all_model").collect().height == 1


class Held:
    """A log that holds whoever writes to it, and then fails or not."""

    def __init__(self, *, fails: bool = False) -> None:
        self.open = threading.Event()
        self.rows = 0
        self._fails = fails

    def append(self, project: str, service: str, rows: pl.DataFrame) -> None:
        self.open.wait(20)
        if self._fails:
            raise OfflineStoreError("the disk is full")
        self.rows += rows.height

    def read(self, project: str, service: str) -> pl.LazyFrame:
        return pl.LazyFrame()


@pytest.mark.parametrize("fails", [False, True])
def test_a_full_queue_drops_and_counts_and_nobody_waits(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch, fails: bool, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(feature_log, "MOST_WAITING", 100)
    held = Held(fails=fails)
    counts: Counter[str] = Counter()
    logger = FeatureLogger("lab", held, 0.01, lambda _, written, dropped: counts.update(written=written, dropped=dropped))
    rows = store.online("some_model", [{"origin": "JFK"}] * 10)
    offered = 0
    while counts["dropped"] < 500:
        logger.offer("some_model", 1.0, rows)
        offered += 10
    assert held.rows == 0
    held.open.set()
    logger.close()
    assert counts["written"] + counts["dropped"] == offered
    assert held.rows == counts["written"] == (0 if fails else offered - counts["dropped"])
    assert ("the disk is full" in caplog.text) == fails


def test_requests_are_answered_while_the_log_hangs(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held()
    monkeypatch.setattr(feature_log, "MOST_WAITING", 5)
    store.components.__dict__["feature_log"] = held
    with served(create_app(store, observer=make_observer(store))) as url, httpx.Client(base_url=url) as client:
        body = {"features": "all_model", "rows": [{"origin": "JFK", "dest": "EWR", "distance": 5.0}]}
        dropped = 0.0
        while not dropped:
            for _ in range(20):
                assert client.post("/v1/online", json=body).status_code == 200
            dropped = sum(read(client.get("/metrics").text).get("featurestore_feature_log_dropped_rows_total", {}).values())
        held.open.set()


def test_a_service_may_change_what_it_gives(tmp_path: Path) -> None:
    log = DeltaFeatureLog(tmp_path)
    at = START + timedelta(hours=1)
    log.append("p", "s", pl.DataFrame({"read_at": [at], "temp": [1.0]}))
    log.append("p", "s", pl.DataFrame({"read_at": [at], "temp": [2.0], "gust": ["high"]}))
    log.append("p", "s", pl.DataFrame({"read_at": [at], "temp": [3.0]}))
    assert sorted(log.read("p", "s").collect().select("temp", "gust").rows()) == [(1.0, None), (2.0, "high"), (3.0, None)]
    assert log.read("p", "other").collect().is_empty()
    assert log.read("q", "s").collect().is_empty()


def test_the_part_is_a_word_of_the_service() -> None:
    service = FeatureService("model", ["weather.temp"], log=0.1)
    assert from_json("service", to_json(service)) == service
    assert "log" not in to_json(FeatureService("model", ["weather.temp"]))
    assert details(FeatureService("model", ["weather.temp"]), service) == ("log: 0.0 → 0.1",)
    for wrong in (-0.1, 1.5, True, "all", float("nan")):
        with pytest.raises(DefinitionError, match="not a part from 0 to 1"):
            FeatureService("model", ["weather.temp"], log=wrong)  # type: ignore[arg-type]  # some are wrong


def test_a_log_of_nothing_applied_is_told(store: FeatureStore) -> None:
    with pytest.raises(NotFoundError, match="Did you mean 'all_model'"):
        store.feature_log("al_model")
