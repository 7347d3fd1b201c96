"""A view that subclasses another has its features, transform and options; a plain class may bring features too."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from featurestore import Entity, Feature, FeatureStore, FeatureView, FrameSource, OnDemandView, Request, count, sum_
from featurestore.definitions.serialization import from_json, to_json
from featurestore.errors import DefinitionError, DefinitionErrors

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
USER = Entity("user", user=str)
ROWS = pl.DataFrame({"user": ["a", "b"], "at": [NOON, NOON], "x": [1, 2], "y": ["p", "q"], "z": [0.5, 1.5]})
SOURCE = FrameSource("rows", ROWS, event_time="at")


class Stamped:
    """A plain class."""

    z: float = Feature(ge=0)
    _private: int = 3


class Basic(Stamped, FeatureView, entity=USER, source=SOURCE, ttl="6h", schedule="15m", owner="core", tags={"a": "b"}):
    """The basics."""

    x: int = Feature(description="A number", ge=0)

    @staticmethod
    def transform(rows: pl.LazyFrame) -> pl.LazyFrame:
        return rows.with_columns(pl.col("x") * 10)


class More(Basic, ttl="1h"):
    """More of them."""

    y: str


class Stricter(More, name="strict"):
    x = Feature(ge=5)
    z: float | None = Feature(le=1)


def test_features_come_from_all_bases_in_order() -> None:
    assert Basic.__view__.feature_names == ("z", "x")
    assert More.__view__.feature_names == ("z", "x", "y")
    assert Stricter.__view__.feature_names == ("z", "x", "y")


def test_options_are_inherited_but_for_the_name_and_the_description() -> None:
    spec = More.__view__
    assert (spec.name, spec.description, spec.owner, spec.tags) == ("more", "More of them.", "core", {"a": "b"})
    assert (spec.ttl, spec.schedule) == (3_600_000_000, "15m")
    assert (Stricter.__view__.name, Stricter.__view__.description) == ("strict", "")

    class Plain(Stricter):
        pass

    assert Plain.__view__.name == "plain"


def test_a_feature_is_declared_anew_with_or_without_its_type() -> None:
    x, z = Stricter.__view__.feature("x"), Stricter.__view__.feature("z")
    assert x is not None
    assert z is not None
    assert (x.ge, x.dtype, x.description) == (5, pl.Int64(), "")
    assert (z.ge, z.le, z.nullable) == (None, 1, True)
    before = Basic.__view__.feature("x")
    assert before is not None
    assert (before.ge, before.description) == (0, "A number")


def test_references_name_the_view_they_are_taken_from() -> None:
    assert (repr(More.x), More.x.view, Basic.x.view) == ("More.x", "more", "basic")  # type: ignore[attr-defined]
    assert More.z.view == "more"  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match=r"More has no feature 'yy'. Did you mean 'y'\?"):
        _ = More.yy  # type: ignore[attr-defined]


def test_the_inherited_transform_computes_both(tmp_path: Path) -> None:
    with FeatureStore(tmp_path, project="p", clock=lambda: NOON + timedelta(minutes=1)) as store:
        store.apply([Basic, More])
        store.materialize()
        [row] = store.online([Basic.x, More.prefix("more_")], [{"user": "b"}]).to_dicts()
    assert row == {"user": "b", "x": 20, "more_x": 20, "more_y": "q", "more_z": 1.5}


def test_windowed_features_are_inherited() -> None:
    class Events(FeatureView, entity=USER, source=SOURCE):
        n: int = count().over("1h", "1d")

    class Sums(Events):
        total: int | None = sum_("x").over("1d")

    assert Sums.__view__.feature_names == ("n_1h", "n_1d", "total")
    assert repr(Sums.n["1h"]) == "Sums.n['1h']"  # type: ignore[index]


def test_on_demand_views_inherit_inputs_and_features() -> None:
    class Trip(Request):
        distance: float

    class Far(OnDemandView, inputs=[Trip], owner="core"):
        far: bool = Feature(pl.col("distance") > 1000)

    class Near(Far):
        near: bool = Feature(pl.col("distance") < 10)

    assert (Near.__on_demand__.feature_names, Near.__on_demand__.inputs) == (("far", "near"), Far.__on_demand__.inputs)
    assert Near.__on_demand__.owner == "core"


def test_a_fault_names_the_class_and_the_place_where_the_feature_stands() -> None:
    with pytest.raises(DefinitionErrors) as raised:

        class Wrong(Basic, tll="1h", entitty=USER):  # type: ignore[call-arg]
            w: complex

    told = str(raised.value)
    assert "view Wrong: there is no option 'tll'. Did you mean 'ttl'?" in told
    assert "there is no option 'entitty'. Did you mean 'entity'?" in told
    assert "feature Wrong.w: " in told
    assert told.count(f"{__file__}:") == 3


def test_a_class_without_entity_or_source_is_a_fault() -> None:
    with pytest.raises(DefinitionErrors, match="entity= must be an Entity; it is None"):

        class Bare(FeatureView):
            x: int


def test_a_plain_class_brings_no_options() -> None:
    with pytest.raises(DefinitionError, match=r"source= must be a source such as ParquetSource\(…\); it is None"):

        class Half(Stamped, FeatureView, entity=USER):
            pass


def test_keys_may_be_named_as_the_words_about_an_entity() -> None:
    car = Entity("car", plate=str, owner=str, description=pl.Int64)
    assert car.keys == {"plate": pl.String(), "description": pl.Int64(), "owner": pl.String()}
    assert (car.owner, car.description) == ("", "")
    both = Entity("car", keys={"owner": str, "plate": str}, owner="fleet")
    assert (list(both.keys), both.owner) == (["owner", "plate"], "fleet")
    assert Entity("box", keys=str).key_names == ("keys",)
    for entity in (car, both):
        again = from_json("entity", to_json(entity))
        assert (again, list(again.keys)) == (entity, list(entity.keys))
