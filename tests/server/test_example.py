"""Examples: a look-up to begin with, which answers with features, and runs as it stands in the document."""

from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore import FeatureStore
from featurestore.dtypes import SIMPLE_TYPES
from featurestore.retrieve.example import made_up
from tests.server.conftest import START, make_project
from tests.servers.valkey import ValkeyServer

TTL = """
import polars as pl
from pydantic import Field

from featurestore import FeatureService, FeatureView, OnDemandView, Request, Feature
from lab import airport, observations


class Brief(FeatureView, entity=airport, source=observations, ttl="1h"):
    temp: float | None


class Order(Request):
    amount: float = Field(gt=5)
    code: str = Field(min_length=4, max_length=4)
    items: int = Field(le=0)


class Cost(OnDemandView, inputs=[Brief.temp, Order]):
    cost: float | None = Feature(pl.col("temp") * pl.col("amount") + pl.col("code").str.len_chars() + pl.col("items"))


costs = FeatureService("costs", [Brief, Cost])
"""


@pytest.mark.parametrize("name", ["delay_model", "every_model", "weather", "recent", "every", "risk"])
def test_an_example_answers_with_features(lab: FeatureStore, name: str) -> None:
    found = lab.online(**lab.example(name))
    assert "present" in {each for column in found.status.values() for each in column}
    assert "missing" not in {each for column in found.status.values() for each in column}


def test_the_documents_examples_run_as_they_are(http: httpx.Client) -> None:
    body = http.get("/openapi.json").json()["paths"]["/v1/online"]["post"]["requestBody"]["content"]["application/json"]
    assert list(body["examples"]) == ["delay_model", "every_model", "every", "recent", "risk", "weather"]
    assert body["schema"]["example"] == body["examples"]["delay_model"]["value"]  # what the page begins with
    for name, example in body["examples"].items():
        answer = http.post("/v1/online", json=example["value"])
        assert answer.status_code == 200, answer.text
        assert "present" in str(answer.json()["status"]), name


def test_what_has_expired_is_shown_as_of_when_it_had_not(tmp_path: Path) -> None:
    folder = make_project(tmp_path / "lab")
    (folder / "definitions" / "ttl.py").write_text(TTL)
    with FeatureStore(folder) as store:
        store.apply()
        [row] = store.example("costs")["rows"]
        assert (row["origin"], row["amount"], row["code"], row["items"]) == ("a", 6.0, "aaaa", 0)  # nothing is there yet
        store.materialize()
        example = store.example("costs")
        assert example["rows"][0]["origin"] == "JFK"
        assert isinstance(example["at"], datetime)
        assert store.online(**example).status == {"temp": ["present"], "cost": ["present"]}
    with FeatureStore(folder, clock=lambda: START.replace(hour=1, minute=30)) as store:
        assert "at" not in store.example("costs")


def test_without_its_online_store_there_is_an_example_all_the_same(tmp_path: Path) -> None:
    with ValkeyServer() as server, FeatureStore(make_project(tmp_path / "lab"), online=server.url) as store:
        store.apply()
        store.materialize()
        server.stop()
        assert store.example("weather") == {"features": "weather", "rows": [{"origin": "JFK"}]}


BOUNDS = st.fixed_dictionaries({}, optional={"ge": st.integers(-9, 9), "le": st.integers(-9, 9), "gt": st.integers(-9, 9)})


@given(bounds=BOUNDS, dtype=st.sampled_from([each for each in SIMPLE_TYPES.values() if each.is_float()]))
def test_what_is_made_up_keeps_to_its_bounds(bounds: dict[str, Any], dtype: Any) -> None:
    least = bounds.get("ge", bounds.get("gt", -10) + 1)
    if bounds.get("le", 10) >= max(least, bounds.get("gt", -10) + 1):
        made = made_up(dtype, START, bounds)
        assert bounds.get("ge", -99) <= made <= bounds.get("le", 99)
        assert made > bounds.get("gt", -99)
