"""Examples: a look-up to begin with, which runs as it stands in the document, and names nobody (K14)."""

from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore import FeatureStore
from featurestore.dtypes import KEY_TYPES, SIMPLE_TYPES
from featurestore.retrieval.sample_request import invented_key, made_up
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
def test_an_example_is_answered_and_names_no_entity_that_there_is(name: str, lab: FeatureStore) -> None:
    found = lab.online(**lab.sample_request(name))
    assert len(found.to_dicts()) == 1
    known = {str(value) for view in lab.catalog.views.values() for rows in [lab.sql(f"select * from {view.spec.name}")]  # noqa: S608
             for key in view.spec.entity.key_names for value in rows[key].to_list()}  # fmt: skip
    assert known
    told = {str(value) for row in lab.sample_request(name)["rows"] for value in row.values()}
    assert not told & known


def test_the_documents_examples_run_as_they_are_and_name_nobody(http: httpx.Client, lab: FeatureStore) -> None:
    text = http.get("/openapi.json").text
    body = http.get("/openapi.json").json()["paths"]["/v1/online"]["post"]["requestBody"]["content"]["application/json"]
    assert list(body["examples"]) == ["delay_model", "every_model", "every", "recent", "risk", "weather"]
    assert body["schema"]["example"] == body["examples"]["delay_model"]["value"]  # what the page begins with
    for example in body["examples"].values():
        answer = http.post("/v1/online", json=example["value"])
        assert answer.status_code == 200, answer.text
    for origin in lab.sql("select distinct origin from weather")["origin"]:
        assert f'"{origin}"' not in text


def test_fields_of_requests_are_made_up_and_nothing_is_asked_of_the_stores(tmp_path: Path) -> None:
    folder = make_project(tmp_path / "lab")
    (folder / "definitions" / "ttl.py").write_text(TTL)
    with ValkeyServer() as server, FeatureStore(folder, online=server.url) as store:
        store.apply()
        before = store.sample_request("costs")
        assert before == {"features": "costs", "rows": [{"origin": "example", "amount": 6.0, "code": "aaaa", "items": 0}]}
        store.materialize()
        server.stop()
        assert store.sample_request("costs") == before


@pytest.mark.parametrize("dtype", KEY_TYPES)
def test_a_key_of_every_type_is_invented(dtype: type[pl.DataType]) -> None:
    dtype_of = pl.Datetime("us", "UTC") if dtype is pl.Datetime else dtype()
    key = invented_key(dtype_of)
    assert pl.Series([key], dtype=dtype_of).to_list() == [key]


BOUNDS = st.fixed_dictionaries({}, optional={"ge": st.integers(-9, 9), "le": st.integers(-9, 9), "gt": st.integers(-9, 9)})


@given(bounds=BOUNDS, dtype=st.sampled_from([each for each in SIMPLE_TYPES.values() if each.is_float()]))
def test_what_is_made_up_keeps_to_its_bounds(bounds: dict[str, Any], dtype: Any) -> None:
    least = bounds.get("ge", bounds.get("gt", -10) + 1)
    if bounds.get("le", 10) >= max(least, bounds.get("gt", -10) + 1):
        made = made_up(dtype, START, bounds)
        assert bounds.get("ge", -99) <= made <= bounds.get("le", 99)
        assert made > bounds.get("gt", -99)
