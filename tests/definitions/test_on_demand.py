"""On-demand views: what a definition says, and what is refused where it stands."""

from typing import Any

import polars as pl
import pytest

from featurestore import Entity, Feature, FeatureView, OnDemandView, ParquetSource, Request, count
from featurestore.definitions.definition_meta import DefinitionMeta
from featurestore.definitions.expression import Expression, read_expression
from featurestore.definitions.reference import FeatureReference, ViewReference, parse_references
from featurestore.definitions.serialization import from_json, to_json
from featurestore.errors import DefinitionError, DefinitionErrors, RegistryError, RequestError


class Trip(Request):
    distance: float


class Risk(OnDemandView, inputs=["weather.gusty", Trip], owner="ops", tags={"tier": "1"}):
    """How risky it is."""

    far: bool = Feature(pl.col("gusty") & (pl.col("distance") > 1000), description="Far, and gusty")
    miles: float | None = Feature(pl.col("distance") * 2, ge=0)


def view(expression: Any, annotation: Any = float, **options: Any) -> DefinitionMeta:
    """An on-demand view of one feature, ``x``."""
    given = {"x": Feature(expression) if isinstance(expression, pl.Expr) else expression}
    body = {"__annotations__": {"x": annotation}, "__module__": __name__, **given}
    return DefinitionMeta("Made", (OnDemandView,), body, **{"inputs": [Trip], **options})


def test_what_a_definition_says() -> None:
    spec = Risk.__on_demand__
    assert (spec.name, spec.description, spec.owner, spec.tags) == ("risk", "How risky it is.", "ops", {"tier": "1"})
    assert spec.inputs == (FeatureReference("weather", "gusty"), ViewReference("trip"))
    assert spec.feature_names == ("far", "miles")
    assert (spec.features[0].dtype, spec.features[1].nullable, spec.features[1].ge) == (pl.Boolean(), True, 0)
    assert spec.expression("far").columns == ("gusty", "distance")
    assert spec.place.startswith(__file__)
    assert repr(Risk).splitlines() == [
        "Risk: on demand from weather.gusty, trip",
        '  far: bool = [(col("gusty")) & ([(col("distance")) > (dyn int: 1000)])]',
        '  miles: float | None = [(col("distance")) * (dyn int: 2)]',
    ]


def test_it_is_named_as_a_view_is() -> None:
    assert repr(Risk.far) == "Risk.far"
    assert parse_references([Risk, Risk.far.alias("f"), Risk.prefix("r_")]) == (
        ViewReference("risk"),
        FeatureReference("risk", "far", "f"),
        ViewReference("risk", "r_"),
    )
    with pytest.raises(AttributeError, match=r"Risk has no feature 'fat'. Did you mean 'far'\?"):
        _ = Risk.fat  # type: ignore[attr-defined]  # that is the point


def test_it_has_no_keys_to_join_by() -> None:
    with pytest.raises(RequestError, match=r"Risk is an on-demand view, which has no join keys. Say .on\(…\) of its inputs"):
        Risk.on(origin="dest")


def test_it_is_never_instantiated() -> None:
    with pytest.raises(TypeError, match=r"name its features as Risk\.feature"):
        Risk()


def test_it_is_read_as_it_was_written() -> None:
    again = from_json("on_demand", to_json(Risk.__on_demand__))
    assert again == Risk.__on_demand__


@pytest.mark.parametrize(
    "expression",
    [
        pl.col("distance").sum(),
        pl.col("distance") / pl.col("distance").max(),
        pl.when(pl.col("distance") > pl.col("distance").mean()).then(1.0).otherwise(2.0),
        pl.col("distance").shift(),
        pl.col("distance").sort(),
        pl.col("distance").cum_sum(),
        pl.col("distance").rank(),
        pl.col("distance").over("carrier"),
        pl.col("distance").rolling_mean(3),
        pl.col("distance").forward_fill(),
        pl.col("distance").drop_nulls(),
        pl.col("distance").filter(pl.col("distance") > 1),
        pl.col("stops").explode(),
        pl.col("distance").is_duplicated(),
        pl.col("text").str.to_date(),  # a format that is guessed is guessed from the first rows
    ],
    ids=str,
)
def test_what_depends_on_other_rows_is_refused(expression: pl.Expr) -> None:
    with pytest.raises(DefinitionError, match=r"feature Made.x: its expression .* is not row-local \(S20\)"):
        view(expression)


@pytest.mark.parametrize(
    "expression",
    [
        pl.col("distance").list.eval(pl.element().sum()),
        pl.col("stops").list.sum(),
        pl.col("text").str.to_date("%Y-%m-%d"),
        pl.col("text").is_in(["JFK", "LGA"]),
        pl.max_horizontal("distance", "stops"),
        pl.coalesce("distance", pl.lit(0)),
        pl.when(pl.col("distance").is_null()).then(None).otherwise(pl.col("stops")),
        pl.struct("distance", "stops").struct.field("stops"),
        pl.col("text").replace_strict({"JFK": 1}, default=None),
    ],
    ids=str,
)
def test_what_is_of_one_row_is_taken(expression: pl.Expr) -> None:
    kept = read_expression(expression)
    assert kept.polars.meta.eq(expression)
    assert set(kept.columns) == set(expression.meta.root_names())


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        (pl.col("a").map_elements(lambda value: value, return_dtype=pl.Float64), "it calls Python"),
        (pl.lit(1.0), "uses none of the inputs"),
        (pl.all(), "chooses columns by a pattern or a selector"),
        (pl.sum_horizontal(pl.all()), "chooses columns by a pattern or a selector"),
        (pl.col("^dist.*$"), "chooses columns by a pattern or a selector"),
        (Feature("distance"), r"its expression is 'distance'; write a Polars expression: Feature\(pl.col"),  # type: ignore[arg-type]  # the slip
        (Feature(description="far"), "it needs an expression"),
        (3.0, "it needs an expression"),
        (count().over("1h"), "it needs an expression"),
    ],
)
def test_an_expression_that_cannot_be_is_refused(expression: Any, problem: str) -> None:
    with pytest.raises(DefinitionError, match=f"feature Made.x: .*{problem}"):
        view(expression)


def test_a_function_that_polars_could_pickle_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """With cloudpickle installed, Polars writes a Python function into its JSON as a pickle."""
    pickled = '{"AnonymousFunction":{"input":[{"Column":"a"}],"function":[80,76]}}'
    monkeypatch.setattr(type(pl.col("a").meta), "serialize", lambda self, **_: pickled)
    with pytest.raises(DefinitionError, match="it calls Python"):
        read_expression(pl.col("a") + 1)


def test_text_that_looks_like_a_pickle_is_none() -> None:
    assert read_expression(pl.col("a") + pl.lit('"AnonymousFunction":')).columns == ("a",)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"inputs": []}, "inputs= must list what the expressions use"),
        ({"inputs": Trip}, "inputs= must list what the expressions use"),
        ({"inputs": [3]}, "3 is not a feature"),
        ({"input": [Trip]}, r"there is no option 'input'. Did you mean 'inputs'\?"),
        ({"name": "Made"}, "has capitals"),
        ({"name": "a b"}, "is not a valid name for an on-demand view"),
    ],
)
def test_an_option_that_cannot_be_is_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(DefinitionError, match=problem):
        view(pl.col("distance") * 2, **options)


@pytest.mark.parametrize("name", ["event_time", "on", "prefix", "_x"])
def test_a_name_of_the_stores_own_is_refused(name: str) -> None:
    body = {"__annotations__": {name: float}, "__module__": __name__, name: Feature(pl.col("distance"))}
    with pytest.raises(DefinitionError, match=f"feature Made.{name}: the name is the store's own"):
        DefinitionMeta("Made", (OnDemandView,), body, inputs=[Trip])


def test_all_faults_are_told_with_their_lines() -> None:
    with pytest.raises(DefinitionErrors) as raised:

        class Made(OnDemandView, inputs=[Trip]):
            total: float = Feature(pl.col("distance").sum())
            what: dict = Feature(pl.col("distance"))  # type: ignore[type-arg]  # it is refused either way
            untyped = Feature(pl.col("distance"))

    faults = raised.value.faults
    assert [fault.problem.partition(":")[0] for fault in faults] == [
        "feature Made.total", "feature Made.what", "feature Made.untyped has no type; write untyped",
    ]  # fmt: skip
    lines = [int(fault.place.rpartition(":")[2]) for fault in faults]
    assert lines == [lines[0], lines[0] + 1, lines[0] + 2]


@pytest.mark.parametrize("said", [Feature(pl.col("temp") * 2), Feature(pl.col("temp"), ge=0)])
def test_a_stored_view_takes_no_expression(said: Any) -> None:
    with pytest.raises(DefinitionError, match=r"feature Weather.temp: it has an expression, .* that is an OnDemandView's"):
        type(
            "Weather", (FeatureView,), {"__annotations__": {"temp": float}, "temp": said, "__module__": __name__},
            entity=Entity("airport", origin=str), source=ParquetSource("rows", "x.parquet", event_time="at"),
        )  # fmt: skip


def test_an_expression_of_another_polars_is_told() -> None:
    with pytest.raises(RegistryError, match=r"cannot be read by this version of Polars .* Apply the definitions again"):
        _ = Expression("new", '{"Newer":{}}', ("a",)).polars
