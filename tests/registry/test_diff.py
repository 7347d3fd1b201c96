"""The plan of an apply: what it says, and what it would write."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from featurestore.clock import utc_now
from featurestore.definitions.catalog import AppliedView, Catalog
from featurestore.definitions.definition_meta import DefinitionMeta
from featurestore.definitions.entity import Entity
from featurestore.definitions.feature import Feature
from featurestore.definitions.feature_view import FeatureView
from featurestore.definitions.service import FeatureService
from featurestore.definitions.source import CSVSource, FrameSource, ParquetSource, Source
from featurestore.errors import DefinitionErrors
from featurestore.project.collect import Definitions, collect_definitions
from featurestore.registry.diff import Plan, diff
from featurestore.registry.diff_details import details
from featurestore.registry.specs import Put, SpecRegistry
from tests.registry.samples import AIRPORT, MODEL, OBSERVATIONS, Weather

DEFINED = collect_definitions([Weather, MODEL])


def no_rows(view: AppliedView) -> int | None:
    return None


def rows_of(**counts: int) -> Callable[[AppliedView], int | None]:
    return lambda view: counts.get(view.spec.name)


def plan_of(
    catalog: Catalog,
    objects: Iterable[Any] | Definitions,
    *,
    partial: bool = False,
    rows: Callable[[AppliedView], int | None] = no_rows,
) -> Plan:
    definitions = objects if isinstance(objects, Definitions) else collect_definitions(objects)
    return diff(catalog, definitions, partial=partial, rows=rows)


def applied(objects: Iterable[Any], root: Path) -> Catalog:
    """The catalog after objects were applied, read back from a registry."""
    registry = SpecRegistry("sqlite:///registry.db", "flights", root, utc_now)
    plan = plan_of(registry.load(), objects)
    registry.commit(plan.base_revision, plan.puts(), plan.deletes())
    catalog = registry.load()
    registry.close()
    return catalog


def weather(
    features: dict[str, Any], *, entity: Entity = AIRPORT, source: Source = OBSERVATIONS, doc: str = "", **body: Any
) -> Callable[..., type[FeatureView]]:
    """Makes a view named ``weather``."""

    def make(**options: Any) -> type[FeatureView]:
        namespace = {"__annotations__": features, "__doc__": doc, "__module__": __name__, **body}
        made = DefinitionMeta("Weather", (FeatureView,), namespace, entity=entity, source=source, **options)
        assert issubclass(made, FeatureView)
        return made

    return make


def test_the_first_plan_adds_everything() -> None:
    plan = plan_of(Catalog(), DEFINED)
    assert str(plan) == (
        "+ entity airport\n+ source observations\n+ view weather\n+ service delay_model\n4 to add, 0 to change, 0 to remove"
    )
    assert plan.puts() == (Put(AIRPORT, 1), Put(OBSERVATIONS, 1), Put(Weather.__view__, 1, 1), Put(MODEL, 1))
    assert plan.deletes() == ()
    assert not plan.is_empty


def test_what_is_applied_already_is_nothing_to_do(tmp_path: Path) -> None:
    plan = plan_of(applied([Weather, MODEL], tmp_path), DEFINED)
    assert plan.is_empty
    assert str(plan) == "Nothing to do: 4 definitions are as applied (revision 1)."
    assert (plan.base_revision, plan.unchanged, plan.puts(), plan.deletes()) == (1, 4, (), ())
    assert str(plan_of(applied([AIRPORT], tmp_path), [AIRPORT])) == "Nothing to do: 1 definition is as applied (revision 2)."


def test_rows_in_memory_are_no_change(tmp_path: Path) -> None:
    def view() -> type[FeatureView]:
        frame = pl.DataFrame({"origin": ["JFK"], "at": [1], "temp": [1.5]})
        return weather({"temp": float}, source=FrameSource("rows", frame, event_time="at"))()

    assert plan_of(applied([view()], tmp_path), [view()]).is_empty


def test_what_is_no_longer_defined_is_removed(tmp_path: Path) -> None:
    catalog = applied([Weather, MODEL, Entity("carrier", carrier=str)], tmp_path)
    plan = plan_of(catalog, [AIRPORT])
    assert str(plan) == (
        "- entity carrier\n- source observations\n- view weather\n- service delay_model\n0 to add, 0 to change, 4 to remove"
    )
    assert plan.deletes() == (("entity", "carrier"), ("source", "observations"), ("view", "weather"), ("service", "delay_model"))
    assert plan.puts() == ()
    assert plan.unchanged == 1


def test_a_partial_plan_removes_nothing(tmp_path: Path) -> None:
    plan = plan_of(applied([Weather, MODEL], tmp_path), [Entity("carrier", carrier=str)], partial=True)
    assert str(plan) == "+ entity carrier\n1 to add, 0 to change, 0 to remove"


def test_a_change_that_needs_no_new_values_keeps_the_data_version(tmp_path: Path) -> None:
    before = weather({"temp": float}, doc="As it was.")(ttl="6h", owner="me")
    after = weather({"temp": float}, doc="As it is.")(
        ttl="12h", freshness="1h", schedule="15m", on_reject="fail", owner="you", tags={"team": "ops"}
    )
    plan = plan_of(applied([before], tmp_path), [after], rows=pytest.fail)
    assert str(plan) == (
        "~ view weather\n    ttl: 6h → 12h\n    freshness: none → 1h\n    schedule: none → 15m\n    on_reject: keep → fail\n"
        "    description changed\n"
        "    owner: me → you\n    tag team: none → ops\n"
        "    what expired online returns with materialize --rebuild-online (store.admin.rebuild_online())\n"
        "0 to add, 1 to change, 0 to remove"
    )
    assert plan.puts() == (Put(after.__view__, 2, 1),)


def test_a_change_of_values_is_to_be_recomputed(tmp_path: Path) -> None:
    before = weather({"temp": float, "wind": float, "gone": bool})(ttl="6h")
    after = weather({"temp": float | None, "wind": float, "gust": int}, temp=Feature(ge=-60, description="°F", unit="°F"))()
    plan = plan_of(applied([before], tmp_path), [after], rows=rows_of(weather=26_115))
    assert str(plan) == (
        "~ view weather\n    ttl: 6h → none\n    feature temp: float → float | None\n    feature gust: int added\n"
        "    feature gone removed\n    feature temp: ge: none → -60\n    feature temp: unit: none → °F\n"
        "    feature temp: description added\n    to recompute: 26,115 rows; version 1 goes on being served until then\n"
        "0 to add, 1 to change, 0 to remove; 1 view to recompute (26,115 rows)"
    )
    assert plan.puts() == (Put(after.__view__, 2, 2, lingers=True),)


@pytest.mark.parametrize(("rows", "said"), [(None, "rows not known"), (1, "1 row"), (0, "0 rows"), (1_000, "1,000 rows")])
def test_rows_are_counted(tmp_path: Path, rows: int | None, said: str) -> None:
    plan = plan_of(applied([weather({"temp": float})()], tmp_path), [weather({"temp": int})()], rows=lambda view: rows)
    assert plan.summary == f"0 to add, 1 to change, 0 to remove; 1 view to recompute ({said})"


def test_rows_of_several_views_are_summed(tmp_path: Path) -> None:
    def views(type_: type) -> list[type[FeatureView]]:
        return [weather({"temp": type_})(name=name) for name in ("one", "two")]

    plan = plan_of(applied(views(int), tmp_path), views(float), rows=rows_of(one=1_000, two=15))
    assert plan.summary == "0 to add, 2 to change, 0 to remove; 2 views to recompute (1,015 rows)"
    unknown = plan_of(applied(views(int), tmp_path), views(float), rows=rows_of(one=1_000))
    assert unknown.summary.endswith("2 views to recompute (rows not known)")


def test_a_later_change_goes_on_from_the_newest_data_version(tmp_path: Path) -> None:
    versions = []
    for view in [weather({"temp": float})(), weather({"temp": int})(), weather({"temp": int})(ttl="6h")]:
        catalog = applied([view], tmp_path)
        versions.append((catalog.views["weather"].version, catalog.views["weather"].data_version))
    assert versions == [(1, 1), (2, 2), (3, 2)]


def test_a_view_that_returns_begins_with_new_values(tmp_path: Path) -> None:
    applied([Weather], tmp_path)
    applied([AIRPORT], tmp_path)
    returned = applied([Weather], tmp_path).views["weather"]
    assert returned == AppliedView(Weather.__view__, 3, 3)


def test_a_service_that_loses_what_it_uses_is_broken(tmp_path: Path) -> None:
    catalog = applied([Weather, MODEL, FeatureService("other", ["weather.wind"])], tmp_path)
    plan = plan_of(catalog, [weather({"wind": float | None})()], partial=True)
    assert plan.broken == (
        "service 'delay_model' uses weather.temp, but view 'weather' has no feature 'temp'. There is 'wind'.",
        "service 'delay_model' uses weather.gusty, but view 'weather' has no feature 'gusty'. There is 'wind'.",
    )
    assert "! breaks: service 'delay_model' uses weather.temp" in str(plan)


def test_a_service_that_uses_a_view_as_a_whole_would_lose_its_feature(tmp_path: Path) -> None:
    catalog = applied([Weather, FeatureService("all", [Weather])], tmp_path)
    plan = plan_of(catalog, [weather({"temp": float | None})()], partial=True)
    assert plan.broken == (
        "service 'all' would lose weather.wind, which it uses with all of 'weather'.",
        "service 'all' would lose weather.gusty, which it uses with all of 'weather'.",
    )


def test_a_service_whose_columns_would_clash_is_broken(tmp_path: Path) -> None:
    planes = weather({"seats": int})(name="planes")
    catalog = applied([Weather, planes, FeatureService("both", [Weather, planes])], tmp_path)
    [line] = plan_of(catalog, [weather({"seats": int, "temp": float})(name="planes")], partial=True).broken
    assert line.startswith("service 'both': Two columns would be named 'temp': ")


def test_what_was_broken_before_is_no_news(tmp_path: Path) -> None:
    registry = SpecRegistry("sqlite:///registry.db", "flights", tmp_path, utc_now)
    catalog = registry.commit(0, [Put(MODEL, 1)], [])
    registry.close()
    plan = plan_of(catalog, [Entity("carrier", carrier=str)], partial=True)
    assert plan.broken == ()


def test_views_left_behind_are_warned_of(tmp_path: Path) -> None:
    catalog = applied([Weather], tmp_path)
    moved = ParquetSource("observations", "elsewhere/*.parquet", event_time="observed_at")
    plan = plan_of(catalog, [moved, Entity("airport", origin=str, owner="me")], partial=True)
    assert plan.warnings == (
        "view 'weather' keeps the entity 'airport' as it was, for it is not among what is applied. Apply it too.",
        "view 'weather' keeps the source 'observations' as it was, for it is not among what is applied. Apply it too.",
    )
    assert str(plan).splitlines()[-2] == f"! {plan.warnings[1]}"


def test_a_service_of_a_partial_plan_may_use_what_is_applied(tmp_path: Path) -> None:
    catalog = applied([Weather], tmp_path)
    assert plan_of(catalog, [MODEL], partial=True).summary == "1 to add, 0 to change, 0 to remove"
    with pytest.raises(DefinitionErrors, match="there is no view 'weather'"):
        plan_of(catalog, [MODEL], partial=False)


def test_a_plan_as_json(tmp_path: Path) -> None:
    plan = plan_of(applied([weather({"temp": float})()], tmp_path), [weather({"temp": int})()], rows=lambda view: 7)
    assert json.loads(json.dumps(plan.to_dict())) == {
        "base_revision": 1,
        "changes": [
            {
                "action": "change",
                "kind": "view",
                "name": "weather",
                "version": 2,
                "data_version": 2,
                "details": ["feature temp: float → int"],
                "recompute": True,
                "rows": 7,
                "serves": 1,
            }
        ],
        "unchanged": 2,
        "broken": [],
        "warnings": [],
        "summary": "0 to add, 1 to change, 0 to remove; 1 view to recompute (7 rows)",
    }


def test_a_plan_in_a_notebook_is_escaped(tmp_path: Path) -> None:
    plan = plan_of(applied([AIRPORT], tmp_path), [Entity("airport", origin=str, owner="<b>")])
    assert "owner: none → &lt;b&gt;" in plan._repr_html_()


def same(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows


def other(rows: pl.LazyFrame) -> pl.LazyFrame:
    return rows.drop_nulls()


KEPT = {"temp": float, "wind": float}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (weather(KEPT)(), weather({"wind": float, "temp": float})(), ("features in another order: wind, temp",)),
        (weather(KEPT)(), weather(KEPT, transform=staticmethod(same))(), ("transform added",)),
        (weather(KEPT, transform=staticmethod(same))(), weather(KEPT)(), ("transform removed",)),
        (weather(KEPT, transform=staticmethod(same))(), weather(KEPT, transform=staticmethod(other))(), ("transform changed",)),
        (weather(KEPT)(), weather(KEPT, entity=Entity("place", origin=str))(), ("entity: airport → place",)),
        (
            weather(KEPT)(),
            weather(KEPT, entity=Entity("airport", origin=str, dest=str))(),
            ("entity airport: join key dest: String added",),
        ),
        (
            weather(KEPT)(),
            weather(KEPT, source=ParquetSource("observations", "more", event_time="observed_at", available_time="received_at"))(),
            ("source observations: path: data/*.parquet → more",),
        ),
        (
            weather(KEPT, temp=Feature(one_of=[1.0, 2.5], tags={"a": "b"}))(),
            weather(KEPT, temp=Feature(tags={"a": "c"}))(),
            ("feature temp: one_of: [1.0, 2.5] → none", "feature temp: tag a: b → c"),
        ),
        (weather(KEPT)(), weather(KEPT, temp=Feature(pii=True))(), ("feature temp: pii: no → yes",)),
    ],
)
def test_details_of_views(old: type[FeatureView], new: type[FeatureView], said: tuple[str, ...]) -> None:
    assert details(old.__view__, new.__view__) == said


def test_a_transform_with_other_words_is_no_other_transform() -> None:
    class Weather(FeatureView, entity=AIRPORT, source=OBSERVATIONS):
        temp: float

        @staticmethod
        def transform(rows: pl.LazyFrame) -> pl.LazyFrame:
            return rows.drop_nulls()

    old = Weather.__view__

    class Weather(FeatureView, entity=AIRPORT, source=OBSERVATIONS):  # type: ignore[no-redef]  # the same view, edited
        temp: float

        @staticmethod
        def transform(rows: pl.LazyFrame) -> pl.LazyFrame:
            # Nulls are of no use.
            return rows.drop_nulls()

    assert details(old, Weather.__view__) == ("transform: comments or layout changed",)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (Entity("a", x=str, y=str), Entity("a", y=str, x=str), ("join keys in another order: y, x",)),
        (Entity("a", x=str), Entity("a", x=int, owner="me"), ("join key x: String → Int64", "owner: none → me")),
        (Entity("a", x=str, y=int), Entity("a", x=str), ("join key y removed",)),
        (
            ParquetSource("s", "data", event_time="at", rename={"t": "at"}),
            CSVSource("s", "data", event_time="at", null_values=("NA", "-"), lateness="90m"),
            ("kind: parquet → csv", "lateness: none → 1h30m", "null_values: none → [NA, -]", "rename: {t: at} → none"),
        ),
        (
            FeatureService("m", ["a.x", "b", "c"], description="What it does."),
            FeatureService("m", ["b", "a.x", "a.y"]),
            ("a.y added", "c removed", "description removed"),
        ),
        (FeatureService("m", ["a.x", "b"]), FeatureService("m", ["b", "a.x"]), ("features in another order",)),
    ],
)
def test_details_of_others(old: Any, new: Any, said: tuple[str, ...]) -> None:
    assert details(old, new) == said
