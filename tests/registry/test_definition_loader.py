"""The definitions at hand: aggregates that only a project's own modules define."""

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from featurestore import FeatureStore
from featurestore.aggregates import AGGREGATES
from featurestore.errors import UnknownAggregateError

DEFINITIONS = """
import polars as pl
from featurestore import Entity, FeatureView, FrameSource
from featurestore.aggregates.sums import Sum
from featurestore.definitions.window import aggregate


class Total(Sum, name="total"):
    pass


rows = pl.DataFrame(schema={"k": pl.String, "at": pl.Datetime("us", "UTC"), "x": pl.Float64})


class Totals(FeatureView, entity=Entity("thing", k=str), source=FrameSource("rows", rows, event_time="at")):
    total: float = aggregate(Total(), "x").over("1h")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A project whose aggregate is applied, and not imported."""
    (tmp_path / "definitions").mkdir()
    (tmp_path / "definitions" / "totals.py").write_text(DEFINITIONS)
    with patch.dict(AGGREGATES):
        with FeatureStore(tmp_path) as store:
            store.apply()
        del AGGREGATES["total"]
        yield tmp_path


def test_the_folder_is_imported_where_the_registry_names_what_it_defines(folder: Path) -> None:
    with FeatureStore(folder) as store:
        assert store.online("totals", [{"k": "a"}]).to_dicts() == [{"k": "a", "total": 0.0}]
        assert "total" in AGGREGATES


@pytest.mark.parametrize("definitions", ["nowhere", "definitions"])
def test_what_is_defined_nowhere_is_told(folder: Path, definitions: str) -> None:
    (folder / "definitions" / "totals.py").unlink()
    with (
        FeatureStore(folder, definitions=definitions) as store,
        pytest.raises(UnknownAggregateError, match=r"'total'.*Import the module"),
    ):
        store.online("totals", [{"k": "a"}])
