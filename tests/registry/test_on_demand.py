"""On-demand views and requests in the registry: what is checked without data, what a plan says, what an apply refuses."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import Field

from featurestore import Entity, Feature, FeatureService, FeatureView, OnDemandView, Request
from featurestore.clock import utc_now
from featurestore.definitions.catalog import Catalog
from featurestore.definitions.definition_meta import DefinitionMeta
from featurestore.definitions.reference import ViewReference
from featurestore.errors import DefinitionErrors
from featurestore.project.collect import check, collect_definitions, load_definitions
from featurestore.registry.diff import Plan, diff
from featurestore.registry.specs import Put, SpecRegistry
from tests.registry.samples import AIRPORT, OBSERVATIONS, Weather


class Trip(Request):
    """What the caller knows."""

    distance: float
    stops: int = 0


class Risk(OnDemandView, inputs=[Weather.gusty, Weather.temp.alias("t"), Trip]):
    """How risky it is."""

    far: bool = Feature(pl.col("gusty") & (pl.col("distance") > 1000))
    heat: float | None = Feature(pl.col("t") * pl.col("stops"))


RISKY = FeatureService("risky", [Risk.far, Weather.temp])


def made(name: str, inputs: list[Any], **features: tuple[Any, pl.Expr]) -> DefinitionMeta:
    body: dict[str, Any] = {"__annotations__": {each: kind for each, (kind, _) in features.items()}, "__module__": __name__}
    body |= {each: Feature(expression) for each, (_, expression) in features.items()}
    return DefinitionMeta(name, (OnDemandView,), body, inputs=inputs)


def request(name: str, **fields: Any) -> type[Request]:
    return type(name, (Request,), {"__annotations__": fields, "__module__": __name__})


def problems(objects: Iterable[Any], catalog: Catalog | None = None) -> list[str]:
    """What is wrong with definitions that are to be all there is, or to be beside what is applied."""
    with pytest.raises(DefinitionErrors) as caught:
        check(collect_definitions(objects), catalog or Catalog())
    return [fault.problem for fault in caught.value.faults]


def plan_of(catalog: Catalog, objects: Iterable[Any], *, partial: bool = False) -> Plan:
    return diff(catalog, collect_definitions(objects), partial=partial, rows=lambda view: None)


def applied(root: Path, *applies: Iterable[Any]) -> Catalog:
    """The catalog after each of several lists was applied, read back from the registry."""
    registry = SpecRegistry("sqlite:///registry.db", "flights", root, utc_now)
    for objects in applies:
        plan = plan_of(registry.load(), objects, partial=True)
        registry.commit(plan.base_revision, plan.puts(), plan.deletes())
    catalog = registry.load()
    registry.close()
    return catalog


class TestWhatIsChecked:
    def test_a_sound_view_is_taken(self) -> None:
        check(collect_definitions([Weather, Risk, RISKY]), Catalog())

    def test_it_brings_its_requests(self) -> None:
        assert list(collect_definitions([Risk]).requests) == ["trip"]

    @pytest.mark.parametrize(
        ("inputs", "feature", "problem"),
        [
            ([Trip], (float, pl.col("distanc") * 2), "its expression uses the column 'distanc', which none of the inputs has. "
             "Did you mean 'distance'?"),
            ([Weather.temp.alias("t")], (float, pl.col("temp")), "uses the column 'temp', which none of the inputs has."),
            ([Trip], (float, pl.col("x") + pl.col("distance")), "sees the inputs, and no other feature of its own view."),
            ([Trip], (str, pl.col("distance") * 2), "its expression makes Float64, and it is declared as str."),
            ([Trip], (bool, pl.col("distance") * 2), "its expression makes Float64, and it is declared as bool."),
            ([Trip], (float, pl.col("distance").str.len_chars()), "cannot be computed of distance: Float64"),
            ([Trip], (float, pl.col("distance") + pl.lit(pl.Series([1, 2]))), "cannot be computed of distance: Float64"),
        ],
    )  # fmt: skip
    def test_expressions_are_resolved(self, inputs: list[Any], feature: tuple[Any, pl.Expr], problem: str) -> None:
        [told] = problems([Weather, made("Risk", inputs, x=feature)])
        assert told.startswith("feature risk.x: ")
        assert problem in told

    @pytest.mark.parametrize(
        "expression",
        [
            pl.col("distance") + pl.len(),
            pl.col("distance") * pl.int_range(pl.len()),
            pl.col("tags").list.sample(1).list.first().str.len_chars(),
        ],
        ids=str,
    )
    def test_what_polars_cannot_tell_is_tried(self, expression: pl.Expr) -> None:
        """Each of these passes the look at the expression alone, and differs by how many rows there are."""
        [told] = problems([made("Risk", [request("Trip", distance=float, tags=list[str])], x=(float | None, expression))])
        assert told.startswith("feature risk.x: its expression ")
        assert "is not row-local (S20)" in told

    @pytest.mark.parametrize(
        ("kind", "expression"),
        [
            (str, pl.col("x").str.to_date("%Y-%m-%d").dt.year()),
            (str, pl.col("x").str.to_integer()),
            (str, pl.col("x").str.json_path_match("$.a").str.len_chars()),
            (list[float], pl.col("x").list.eval(pl.element().rank()).list.sum()),
            (list[int], pl.col("x").list.get(0)),
        ],
    )
    def test_what_fails_on_some_rows_is_of_one_row_all_the_same(self, kind: Any, expression: pl.Expr) -> None:
        check(collect_definitions([made("Risk", [request("Trip", x=kind)], y=(float | None, expression))]), Catalog())

    @pytest.mark.parametrize(
        ("inputs", "problem"),
        [
            (["wether.temp"], "uses wether.temp, but there is no view 'wether'. Did you mean 'weather'?"),
            (["weather.tmp"], "uses weather.tmp, but view 'weather' has no feature 'tmp'. Did you mean 'temp'?"),
            ([Weather.on(orign="dest")], "its entity 'airport' has no join key 'orign'. Did you mean 'origin'?"),
            ([Trip, "risk.far"], "on-demand view 'made' uses risk.far, but there is no view 'risk'."),
            ([Trip, ViewReference("trip").on(a="b")], "'trip' is an on-demand view, which has no join keys"),
        ],
    )
    def test_inputs_are_looked_up(self, inputs: list[Any], problem: str) -> None:
        told = problems([Weather, Trip, made("Made", inputs, x=(float, pl.col("temp") * 2))])
        assert any(problem in each for each in told), told

    def test_two_inputs_of_one_name_are_told(self) -> None:
        [told] = problems([Weather, made("Made", [Weather, Weather.on(origin="dest")], x=(float, pl.col("temp") * 2))])
        assert told.startswith("on-demand view 'made': Two columns would be named 'temp'")
        twice = [Weather, Weather.on(origin="dest").prefix("dest_")]
        check(collect_definitions([Weather, made("Made", twice, x=(float, pl.col("temp") - pl.col("dest_temp")))]), Catalog())

    def test_a_feature_named_like_its_requests_field_is_told(self) -> None:
        [told] = problems([made("Made", [Trip], distance=(float, pl.col("distance") * 2))])
        assert told.startswith("feature made.distance has the name of feature 'distance' of trip")

    def test_a_feature_named_like_a_services_request_field_is_told(self) -> None:
        far = made("Far", [Trip], far=(bool, pl.col("distance") > 1))
        other = made("Other", [request("Leg", far=bool)], near=(bool, ~pl.col("far")))
        [told] = problems([far, other, FeatureService("both", [far, other])])
        assert told.startswith("service 'both': Two columns would be named 'far': the spine's column 'far'")

    def test_a_circle_is_told(self) -> None:
        one = made("One", ["three.x"], x=(float, pl.col("x")))
        two = made("Two", ["one.x"], x=(float, pl.col("x")))
        three = made("Three", ["two.x"], x=(float, pl.col("x")))
        told = problems([one, two, three])
        assert [each.partition(". ")[0] for each in told] == [
            "on-demand view 'one' is computed from itself: one → three → two → one",
            "on-demand view 'two' is computed from itself: two → one → three → two",
            "on-demand view 'three' is computed from itself: three → two → one → three",
        ]
        assert "one → one" in problems([made("One", ["one.x"], x=(float, pl.col("x")))])[0]

    def test_a_circle_through_what_is_applied_is_told(self, tmp_path: Path) -> None:
        one, two = made("One", [Trip], x=(float, pl.col("distance"))), made("Two", ["one.x"], x=(float, pl.col("x")))
        [told] = problems([made("One", ["two.x"], x=(float, pl.col("x")))], applied(tmp_path, [one, two]))
        assert told.startswith("on-demand view 'one' is computed from itself: one → two → one.")

    def test_a_service_may_not_ask_for_a_request(self) -> None:
        [told] = problems([Trip, FeatureService("asks", [Trip])])
        assert told.startswith("service 'asks' uses trip, but that is a request, which the rows bring.")

    def test_a_service_names_features_there_are(self) -> None:
        [told] = problems([Weather, Risk, FeatureService("asks", ["risk.fat"])])
        assert told.startswith("service 'asks' uses risk.fat, but view 'risk' has no feature 'fat'. Did you mean 'far'?")

    @pytest.mark.parametrize("name", ["Weather", "Trip", "Risk"])
    def test_kinds_share_their_names(self, name: str, tmp_path: Path) -> None:
        mine = {"Weather": Weather, "Trip": Trip, "Risk": Risk}[name]
        other = made(name, ["x.temp"], y=(float, pl.col("temp"))) if name != "Risk" else request(name, y=float)
        words = {"Weather": "a feature view", "Trip": "a request", "Risk": "a request"}[name]
        told = problems([Weather, mine, other])
        assert any(f"has the name of {words} (" in each for each in told), told
        told = problems([other], applied(tmp_path, [Weather, Risk]))
        assert any(f"{name.lower()!r} has the name of a" in each and "that is applied. Rename one." in each for each in told), told

    def test_all_faults_of_a_folder_are_told_with_their_lines(self, tmp_path: Path) -> None:
        folder = tmp_path / "definitions"
        folder.mkdir()
        (folder / "trips.py").write_text(
            "import polars as pl\n"
            "from featurestore import Feature, OnDemandView, Request\n"
            "class Trip(Request):\n"
            "    distance: dict\n"
            "class Leg(Request):\n"
            "    miles: float\n"
            "class Risk(OnDemandView, inputs=[Trip, Leg]):\n"
            "    far: bool = Feature(pl.col('distance') > 1)\n"
            "class Far(OnDemandView, inputs=[Leg]):\n"
            "    far: bool = Feature(pl.col('mile') > 1)\n"
        )
        with pytest.raises(DefinitionErrors) as caught:
            load_definitions(folder)
        told = [str(fault).partition(": ") for fault in caught.value.faults]
        assert [(place, problem[:22]) for place, _, problem in told] == [
            ("definitions/trips.py:4", "field Trip.distance: <"),
            ("definitions/trips.py:9", "feature far.far: its e"),
        ]


class TestPlans:
    def test_the_first_plan_adds_them(self) -> None:
        plan = plan_of(Catalog(), [Weather, Risk, RISKY])
        assert str(plan) == (
            "+ entity airport\n+ source observations\n+ view weather\n+ request trip\n+ on_demand risk\n+ service risky\n"
            "6 to add, 0 to change, 0 to remove"
        )
        assert plan.puts()[3:5] == (Put(Trip.__request__, 1), Put(Risk.__on_demand__, 1))

    def test_what_is_applied_already_is_nothing_to_do(self, tmp_path: Path) -> None:
        catalog = applied(tmp_path, [Weather, Risk, RISKY])
        assert (catalog.requests, catalog.on_demand) == ({"trip": Trip.__request__}, {"risk": Risk.__on_demand__})
        assert plan_of(catalog, [Weather, Risk, RISKY]).is_empty

    def test_a_change_is_told_and_recomputes_nothing(self, tmp_path: Path) -> None:
        other = made(
            "Risk", [Weather.gusty, Weather.wind, Trip],
            far=(bool, pl.col("gusty") & (pl.col("distance") > 2000)), wind=(float | None, pl.col("wind")),
        )  # fmt: skip
        plan = plan_of(applied(tmp_path, [Weather, Risk]), [other], partial=True)
        assert str(plan) == (
            "~ on_demand risk\n    weather.wind added\n    weather.temp.alias('t') removed\n"
            "    feature wind: float | None added\n    feature heat removed\n"
            '    feature far: expression: [(col("gusty")) & ([(col("distance")) > (dyn int: 1000)])] → '
            '[(col("gusty")) & ([(col("distance")) > (dyn int: 2000)])]\n'
            "    description removed\n0 to add, 1 to change, 0 to remove"
        )
        assert plan.puts() == (Put(other.__on_demand__, 2),)

    def test_a_change_that_its_text_does_not_show_is_told(self, tmp_path: Path) -> None:
        """Polars prints a list of values by its name alone."""
        views = [made("Risk", [Trip], x=(bool, pl.col("stops").is_in(pl.Series(some).implode()))) for some in ([1, 2], [1, 3])]
        plan = plan_of(applied(tmp_path, [views[0]]), [views[1]], partial=True)
        assert "feature x: expression changed in what its text does not show" in str(plan)

    def test_a_changed_request_is_told(self, tmp_path: Path) -> None:
        class Changed(Request):
            distance: float = Field(ge=0)
            stops: int | None = None
            hour: int = 3

        Changed.__request__ = type(Changed.__request__)("trip", Changed.__request__.features)
        Changed.__request_name__ = "trip"
        plan = plan_of(applied(tmp_path, [Weather, Risk]), [Changed], partial=True)
        assert str(plan) == (
            "~ request trip\n    field stops: int → int | None\n    field hour: int added\n    field distance: ge: none → 0\n"
            "    field stops: default: 0 → None\n    description removed\n0 to add, 1 to change, 0 to remove"
        )

    def test_what_is_no_longer_defined_is_removed(self, tmp_path: Path) -> None:
        plan = plan_of(applied(tmp_path, [Weather, Risk, RISKY]), [Weather])
        assert plan.deletes() == (("request", "trip"), ("on_demand", "risk"), ("service", "risky"))

    def test_an_apply_of_one_finds_the_others_applied(self, tmp_path: Path) -> None:
        catalog = applied(tmp_path, [Weather], [Risk], [RISKY])
        assert set(catalog.versions.values()) == {1}
        assert list(catalog.on_demand) == ["risk"]


class TestWhatWouldBreak:
    def weather(self, **features: Any) -> DefinitionMeta:
        return DefinitionMeta(
            "Weather", (FeatureView,), {"__annotations__": features, "__module__": __name__}, entity=AIRPORT, source=OBSERVATIONS
        )

    def test_an_input_that_goes(self, tmp_path: Path) -> None:
        plan = plan_of(applied(tmp_path, [Weather, Risk]), [self.weather(temp=float | None)], partial=True)
        assert plan.broken == (
            "on-demand view 'risk' uses weather.gusty, but view 'weather' has no feature 'gusty'. There is 'temp'.",
        )

    def test_an_input_of_another_type(self, tmp_path: Path) -> None:
        plan = plan_of(applied(tmp_path, [Weather, Risk]), [self.weather(temp=str, gusty=bool)], partial=True)
        assert [line.partition(" cannot")[0] for line in plan.broken] == [
            'feature risk.heat: its expression [(col("t")) * (col("stops"))]'
        ]

    def test_a_request_that_loses_a_field(self, tmp_path: Path) -> None:
        plan = plan_of(applied(tmp_path, [Weather, Risk]), [request("Trip", distance=float)], partial=True)
        assert [line.partition(",")[0] for line in plan.broken] == ["feature risk.heat: its expression uses the column 'stops'"]

    def test_a_feature_that_a_service_uses(self, tmp_path: Path) -> None:
        other = made("Risk", [Trip], near=(bool, pl.col("distance") < 10))
        plan = plan_of(applied(tmp_path, [Weather, Risk, RISKY]), [other], partial=True)
        assert plan.broken == ("service 'risky' uses risk.far, but view 'risk' has no feature 'far'. There is 'near'.",)

    def test_a_feature_that_a_service_uses_with_the_whole_view(self, tmp_path: Path) -> None:
        other = made("Risk", [Weather.gusty, Trip], far=(bool, pl.col("gusty") & (pl.col("distance") > 1000)))
        plan = plan_of(applied(tmp_path, [Weather, Risk, FeatureService("all", [Risk])]), [other], partial=True)
        assert plan.broken == ("service 'all' would lose risk.heat, which it uses with all of 'risk'.",)

    def test_what_is_wrong_already_is_no_news(self, tmp_path: Path) -> None:
        catalog = applied(tmp_path, [Weather, Risk], [self.weather(temp=float | None)])
        assert plan_of(catalog, [Entity("carrier", carrier=str)], partial=True).broken == ()
