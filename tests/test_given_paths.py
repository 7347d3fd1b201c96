"""What a caller names elsewhere is refused, and not taken for a folder of that name here (D11)."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from featurestore import Entity, FeatureStore, FeatureView, FrameSource
from featurestore.client import RemoteFeatureStore
from featurestore.errors import RequestError
from featurestore.given_paths import local_path

ROWS = pl.DataFrame({"k": ["a"], "at": [datetime(2024, 1, 1, tzinfo=UTC)], "x": [1.0]})
SPINE = pl.DataFrame({"k": ["a"], "t": [datetime(2024, 1, 2, tzinfo=UTC)]})


class V(FeatureView, entity=Entity("e", k=str), source=FrameSource("s", ROWS, event_time="at")):
    x: float


@pytest.fixture
def store(tmp_path: Path) -> Any:
    (tmp_path / "project").mkdir()
    with FeatureStore(tmp_path / "project", project="test") as opened:
        opened.apply([V])
        opened.materialize()
        yield opened


CALLS: dict[str, Callable[[FeatureStore, Any], object]] = {
    "sink": lambda store, place: store.training_frame(SPINE, "v", time="t", sink=place),
    "spine": lambda store, place: store.training_frame(place, "v", time="t"),
    "backup": lambda store, place: store.admin.backup(place),
    "sink of a server": lambda _, place: RemoteFeatureStore("http://127.0.0.1:9").training_frame(SPINE, "v", time="t", sink=place),
}


PLACES = ("s3://bucket/x.parquet", "gs://bucket/x", Path("s3://bucket/x.parquet"), "abfss://c@a/x", "https://h/x")
SUPPORTED = {"backup": PLACES[:2], "spine": PLACES[:2]}
"""Which of them a call takes."""


@pytest.mark.parametrize(
    ("call", "place"), [(call, place) for call in CALLS for place in PLACES if place not in SUPPORTED.get(call, ())]
)
def test_an_address_is_refused_and_makes_no_folder(
    store: FeatureStore, call: str, place: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RequestError, match=r"is an address of (s3|gs|abfss|https)"):
        CALLS[call](store, place)
    assert [path for path in sorted(tmp_path.rglob("*")) if path not in before] == []


def test_a_path_may_be_an_address_of_this_machine(tmp_path: Path) -> None:
    assert local_path(f"file://{tmp_path}/a b", Path("/project"), "sink") == tmp_path / "a b"
    assert local_path("C:/data", Path("/project"), "sink") == Path("/project/C:/data")
    assert local_path("a/b", Path("/project"), "sink") == Path("/project/a/b")
