"""What a definition, or a call, may not say: told where it is said, and not passed over (D13 to D16, D21, D27)."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from featurestore import Entity, FeatureStore, FeatureView, FrameSource
from featurestore.aggregates.base import AGGREGATES
from featurestore.aggregates.spread import Std
from featurestore.cli.terminal import out, print_json
from featurestore.errors import DefinitionError, RequestError

SOURCE = FrameSource("s", pl.DataFrame({"u": ["a"], "at": [datetime(2020, 1, 1, tzinfo=UTC)], "x": [1]}), event_time="at")
USER = Entity("user", u=str)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"keys": {"owner": str}, "owner": int}, "owner= must be text, for 'owner' is in keys="),
        ({"owner": ["me"]}, "join key 'owner' of entity 'car'"),
    ],
)
def test_words_about_an_entity_are_text(options: dict[str, Any], told: str) -> None:
    with pytest.raises(DefinitionError, match=told):
        Entity("car", plate=str, **options)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"tags": ["pii"]}, "tags="),
        ({"tags": {"a": 1}}, "tags="),
        ({"name": 5}, "name=5 is"),
        ({"owner": ["me"]}, "owner="),
    ],
)
def test_an_option_of_another_type_is_a_fault_of_the_definition(options: dict[str, Any], told: str) -> None:
    with pytest.raises(DefinitionError, match=told):
        type(
            "Scores", (FeatureView,), {"__annotations__": {"x": int}, "__module__": __name__}, entity=USER, source=SOURCE, **options
        )


def test_no_aggregate_takes_the_name_of_a_built_in() -> None:
    before = dict(AGGREGATES)
    with pytest.raises(DefinitionError, match=r"the name 'std' is taken by featurestore\.aggregates"):

        @dataclass(frozen=True)
        class Mine(Std, name="std"):
            pass

    assert before == AGGREGATES


@pytest.mark.parametrize("retention", ["zzz", 7, timedelta(days=-1), "-1d"])
def test_a_retention_is_a_length_of_time(retention: Any, tmp_path: Path) -> None:
    with FeatureStore(tmp_path) as store, pytest.raises(RequestError, match="retention="):
        store.admin.maintain(retention=retention)


@pytest.mark.parametrize(("options", "told"), [({"limit": -1}, "limit=-1"), ({"limit": 0}, "limit=0"), ({"state": "x"}, "'x'")])
def test_runs_are_asked_for_by_what_there_is(options: dict[str, Any], told: str, tmp_path: Path) -> None:
    with FeatureStore(tmp_path) as store, pytest.raises(RequestError, match=told):
        store.runs.list(**options)


@pytest.mark.parametrize("code", [*range(9), 11, 12, 13, *range(14, 32), *range(127, 160)])
def test_no_control_character_of_a_value_reaches_a_terminal(code: int, capsys: pytest.CaptureFixture[str]) -> None:
    text = f"a{chr(code)}]52;c;evil"
    out().print(text, markup=False)
    print_json({"a": text})
    assert chr(code) not in capsys.readouterr().out
