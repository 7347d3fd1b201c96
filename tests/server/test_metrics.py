"""Metrics after real requests: each number is what was asked and answered, of one worker and of several."""

import json
import re
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from featurestore import FeatureStore
from featurestore.server.app import create_app
from featurestore.server.backend import StoreBackend
from featurestore.server.telemetry.fan_out import Observers, make_observer
from featurestore.server.telemetry.metrics import AGES, Metrics
from tests.documents import ROOT
from tests.server.conftest import START, Serve, make_project, served
from tests.servers.valkey import wait_until

Values = dict[tuple[str, ...], float]


def read(text: str) -> dict[str, Values]:
    """The samples by name, each by its labels in the order of their names."""
    found: dict[str, Values] = {}
    for family in text_string_to_metric_families(text):
        for each in family.samples:
            found.setdefault(each.name, {})[tuple(each.labels[name] for name in sorted(each.labels))] = each.value
    return found


@pytest.fixture
def store(lab_folder: Path, tmp_path: Path) -> Iterator[FeatureStore]:
    with FeatureStore(shutil.copytree(lab_folder, tmp_path / "lab")) as opened:
        yield opened


@pytest.fixture
def client(store: FeatureStore) -> Iterator[httpx.Client]:
    observer = make_observer(store)
    with served(create_app(store, observer=observer)) as url, httpx.Client(base_url=url) as client:
        yield client


def ask(client: httpx.Client, features: Any, *origins: str, **more: Any) -> httpx.Response:
    return client.post(
        "/v1/online", json={"features": features, "rows": [{"origin": each, "distance": 1.0} for each in origins], **more}
    )


def test_requests_rows_and_statuses_are_counted(client: httpx.Client) -> None:
    for _ in range(3):
        assert ask(client, "delay_model", "JFK", "LGA").status_code == 200
    assert ask(client, ["weather.temp", "weather.gust"], "JFK", "LGA", "XXX").status_code == 200
    assert ask(client, "delay_modle", "JFK").status_code == 404
    assert client.post("/v1/online", content=b"{").status_code >= 400
    assert client.get("/v1/services/delay_model").status_code == 200
    found = read(client.get("/metrics").text)
    requests = found["featurestore_requests_total"]
    assert requests["/v1/online", "delay_model", "200"] == 3
    assert requests["/v1/online", "", "200"] == 1
    assert requests["/v1/online", "", "404"] == 1
    assert requests["/v1/services/{name}", "delay_model", "200"] == 1
    assert found["featurestore_request_rows_total"]["/v1/online", "delay_model"] == 6
    assert found["featurestore_request_rows_total"]["/v1/online", ""] == 3
    assert found["featurestore_request_seconds_count"]["/v1/online", "delay_model"] == 3
    assert 0 < found["featurestore_request_seconds_sum"]["/v1/online", "delay_model"] < 60
    values = found["featurestore_feature_values_total"]
    # Three times weather's temp, gust and gusty of two rows, then temp and gust of three; LGA's temp and gust are null.
    assert (values["present", "weather"], values["null", "weather"]) == (3 * (3 + 1) + 2, 3 * 2 + 2)
    assert values["missing", "weather"] == 2
    assert found["featurestore_store_round_trips_total"][()] == 4
    assert found["featurestore_store_round_trip_seconds_total"][()] > 0
    assert found["featurestore_store_round_trips_failed_total"][()] == 0
    assert list(found["featurestore_build_info"].values()) == [1]


def test_what_is_asked_for_and_not_there_makes_no_label(client: httpx.Client) -> None:
    for number in range(50):
        ask(client, f"made_up_{number}", "JFK")
        client.get(f"/v1/services/made_up_{number}")
        client.get(f"/nowhere/{number}")
    assert "made_up" not in client.get("/metrics").text


def test_the_age_is_that_of_the_newest_event(client: httpx.Client, store: FeatureStore) -> None:
    at = START + timedelta(hours=1, minutes=30)
    assert ask(client, "weather", "JFK", "LGA", at=at.isoformat()).status_code == 200
    found = read(client.get("/metrics").text)
    assert found["featurestore_feature_age_seconds_count"] == {("weather",): 1}
    assert found["featurestore_feature_age_seconds_sum"] == {("weather",): 1800.0}


def test_n13_how_late_views_are(client: httpx.Client, store: FeatureStore) -> None:
    found = read(client.get("/metrics").text)["featurestore_view_lag_seconds"]
    lags = {(status.view,): status.lag for status in store.status() if status.lag is not None}
    assert found.keys() == lags.keys()
    assert all(abs(found[view] - lags[view]) < 60 for view in lags)


def test_pushes_are_counted(client: httpx.Client) -> None:
    row = {"origin": "JFK", "observed_at": "2026-01-01T02:00:00Z", "temp": 1.0, "gust": 1.0}
    for _ in range(2):
        assert client.post("/v1/push/observations", json={"rows": [row]}).status_code == 200
    found = read(client.get("/metrics").text)["featurestore_push_rows_total"]
    assert {key: value for key, value in found.items() if key[1] == "weather"} == {
        ("new", "weather"): 1, ("known", "weather"): 1, ("rejected", "weather"): 0,
        ("waiting", "weather"): 0,
    }  # fmt: skip


def test_of_many_rows_some_are_looked_at_and_count_for_all(store: FeatureStore) -> None:
    rows = store.online("weather", [{"origin": "JFK"}] * 1000)
    exact, sampled = list(rows.status_counts(most=1000)), list(rows.status_counts(most=100))
    assert exact == sampled
    assert (exact[0].present, exact[0].missing) == (3000, 0)


def test_the_statuses_are_those_of_the_answer(store: FeatureStore) -> None:
    rows = store.online(["weather", "recent"], [{"origin": each} for each in ("JFK", "LGA", "EWR", "XXX", None)])
    told: dict[str, list[str]] = {"weather": [], "recent": []}
    for name, statuses in rows.status.items():
        told["weather" if name in ("temp", "gust", "gusty") else "recent"] += statuses
    for tally in rows.status_counts():
        counted = {name: getattr(tally, name) for name in ("present", "null", "expired", "missing")}
        assert counted == {name: told[tally.view].count(name) for name in counted}


@pytest.mark.slow
def test_several_workers_count_together(tmp_path: Path) -> None:
    folder = make_project(tmp_path / "lab")
    with FeatureStore(folder) as store:
        store.apply()
        store.materialize()
    with Serve(folder, "--workers", "2") as server:
        for _ in range(40):
            with httpx.Client(
                base_url=server.url, timeout=60
            ) as client:  # each on a connection of its own, which any worker may take
                assert ask(client, "delay_model", "JFK").status_code == 200

        def counted() -> float:
            found = read(httpx.get(f"{server.url}/metrics").text)
            return found.get("featurestore_requests_total", {}).get(("/v1/online", "delay_model", "200"), 0.0)

        wait_until(lambda: counted() == 40, "the workers do not count together")
        assert list(read(httpx.get(f"{server.url}/metrics").text)["featurestore_build_info"].values()) == [1]


def test_an_observer_that_fails_keeps_no_other_from_being_told(store: FeatureStore, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Metrics):
        def request(self, *_: Any) -> None:
            raise ValueError("a secret value")

        def online(self, *_: Any) -> None:
            raise ValueError("a secret value")

    broken, sound = Broken(StoreBackend(store)), Metrics(StoreBackend(store))
    observers = Observers([broken, sound])
    with served(create_app(store, observer=observers)) as url, httpx.Client(base_url=url) as client:
        assert ask(client, "weather", "JFK").status_code == 200
        client.get("/healthz")
    assert b'featurestore_requests_total{route="/v1/online",service="",status="200"} 1.0' in sound.metrics()
    assert "Broken failed: ValueError." in caplog.text
    assert "a secret value" not in caplog.text


def test_the_dashboard_queries_metrics_that_there_are(client: httpx.Client, store: FeatureStore) -> None:
    board = json.loads((ROOT / "docs" / "ops" / "grafana.json").read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    observer = Metrics(StoreBackend(store))
    observer.close()
    there = {sample for family in observer.registry.collect() for sample in _names(family)}
    assert len(queries) >= 12
    asked = {name for query in queries for name in re.findall(r"featurestore_\w+", query)}
    assert asked <= there, asked - there
    # Each metric is on the dashboard, and every label that a query takes is one that its metric has.
    bases = {re.sub(r"_(bucket|count|sum|total|created)$", "", name) for name in there}
    assert bases == {re.sub(r"_(bucket|count|sum|total)$", "", name) for name in asked}
    labels = {"route", "service", "status", "view", "outcome", "version", "python", "project", "le", "job", "instance"}
    for query in queries:
        for group in re.findall(r"by \(([^)]*)\)", query):
            assert set(re.split(r",\s*", group)) <= labels, query


def _names(family: Any) -> Iterator[str]:
    ends = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}
    yield from (family.name + end for end in ends[family.type])


def test_ages_go_from_a_second_to_a_week() -> None:
    assert list(AGES) == sorted(AGES)
    assert (AGES[0], AGES[-1]) == (1.0, 7 * 86_400.0)
