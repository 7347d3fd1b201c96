"""The access log: one line for each request, and nothing in it that a request could forge (N13)."""

from pathlib import Path

import httpx
import pytest

from featurestore import FeatureStore
from featurestore.server.app import create_app
from featurestore.server.security.guard import make_guard
from featurestore.server.telemetry.access_log import AccessLog
from featurestore.server.telemetry.fan_out import make_observer
from tests.server.conftest import served

BODY = {"features": ["weather.temp"], "rows": [{"origin": "JFK"}], "metadata": False}


def test_a_line_for_each_request(lab_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with FeatureStore(lab_folder, server={"access_log": True}) as store:
        app = create_app(store, guard=make_guard(store), observer=make_observer(store))
        with served(app) as url:
            assert httpx.post(f"{url}/v1/online", json=BODY).status_code == 200
            assert httpx.post(f"{url}/v1/online", json={"features": "nothing", "rows": []}).status_code == 404
            assert httpx.get(f"{url}/healthz", params={"a": "secret"}).status_code == 200
    lines = [line.split() for line in capfd.readouterr().err.splitlines() if " 127.0.0.1 " in line]
    assert [line[1:5] for line in lines] == [
        ["127.0.0.1", "POST", "/v1/online", "200"],
        ["127.0.0.1", "POST", "/v1/online", "404"],
        ["127.0.0.1", "GET", "/healthz", "200"],
    ]
    assert [line[6:] for line in lines] == [["ms", "anybody"], ["ms", "anybody"], ["ms", "-"]]


def test_there_is_none_unless_it_is_asked_for(lab_folder: Path) -> None:
    with FeatureStore(lab_folder) as store:
        observer = make_observer(store)
        assert not [each for each in observer._observers if isinstance(each, AccessLog)]  # type: ignore[attr-defined]  # of Observers
        observer.close()
