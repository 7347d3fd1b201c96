"""On-demand features: computed by the same expressions for a request and for a spine, and only where they are asked for."""

import asyncio
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from featurestore import Entity, Feature, FeatureService, FeatureStore, FeatureView, FrameSource, OnDemandView, Request, count, mean
from featurestore.clock import from_micros
from featurestore.definitions.definition_meta import DefinitionMeta
from featurestore.definitions.reference import parse_references
from featurestore.errors import BreakingChangeError, DefinitionErrors, NameClashError, NotFoundError, RegistryError, RequestError
from featurestore.on_demand.evaluate import OnDemandStep
from featurestore.selection.select import select
from featurestore.testing import FakeClock
from tests.effort import examples
from tests.projects import store_at

T = datetime(2013, 7, 1, 12, tzinfo=UTC)
AIRPORT, CARRIER = Entity("airport", origin=str), Entity("carrier", carrier=str)
OBSERVED = pl.DataFrame(
    {
        "origin": ["JFK", "LGA", "EWR"],
        "at": [T - timedelta(hours=1), T - timedelta(hours=2), T - timedelta(hours=9)],
        "temp": [79.0, None, 75.5],
        "gusty": [True, False, True],
    }
)
DELAYED = pl.DataFrame({"carrier": ["UA"], "at": [T - timedelta(hours=1)], "delay": [12.5], "day": [date(2013, 7, 1)]})


class Weather(FeatureView, entity=AIRPORT, source=FrameSource("observations", OBSERVED, event_time="at"), ttl="6h"):
    temp: float | None
    gusty: bool


class Delays(FeatureView, entity=CARRIER, source=FrameSource("departures", DELAYED, event_time="at")):
    delay: float | None
    day: date | None


class Trip(Request):
    distance: float = Field(ge=0)
    stops: int = 0
    note: str | None = None


class Risk(OnDemandView, inputs=[Weather.gusty, Delays.delay.alias("late"), Trip]):
    far: bool = Feature(pl.col("gusty") & (pl.col("distance") > 1000))
    per_mile: float | None = Feature(pl.col("late") / pl.col("distance"))
    legs: int = Feature(pl.col("stops") + 1)


class Price(OnDemandView, inputs=[Risk.prefix("r_"), Weather.temp, Weather.temp.on(origin="dest").alias("dest_temp")]):
    warmer: bool | None = Feature(pl.col("dest_temp") > pl.col("temp"))
    legs_if_far: int | None = Feature(pl.when(pl.col("r_far")).then(pl.col("r_legs")))


MODEL = FeatureService("model", [Weather, Delays.delay, Risk, Price.legs_if_far])
ROWS: list[dict[str, Any]] = [
    {"origin": "JFK", "carrier": "UA", "distance": 2475.0, "stops": 2},
    {"origin": "LGA", "carrier": "AA", "distance": 100.0, "stops": 0},
    {"origin": "EWR", "carrier": "UA", "distance": 0.0, "stops": 0},
    {"origin": "XXX", "carrier": None, "distance": 5000.0, "stops": 7},
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureStore]:
    """A store in which nothing is applied beside what is above."""
    with filled(tmp_path_factory.mktemp("project")) as opened:
        yield opened


@pytest.fixture
def own(tmp_path: Path) -> Iterator[FeatureStore]:
    """A store to apply to."""
    with filled(tmp_path) as opened:
        yield opened


def filled(folder: Path) -> FeatureStore:
    opened = store_at(folder, lambda: T)
    opened.apply([Weather, Delays, Risk, Price, MODEL])
    opened.materialize()
    return opened


def spine(rows: Sequence[dict[str, Any]], at: datetime = T) -> pl.DataFrame:
    return pl.DataFrame([{**row, "t": at} for row in rows], infer_schema_length=None)


def test_the_features_of_a_request_are_those_of_the_spine(store: FeatureStore) -> None:
    rows = store.online(MODEL, ROWS)
    names = ["temp", "gusty", "delay", "far", "per_mile", "legs", "legs_if_far"]
    expected: list[list[Any]] = [
        [79.0, True, 12.5, True, 12.5 / 2475, 3, 3],
        [None, False, None, False, None, 1, None],
        [None, None, 12.5, False, float("inf"), 1, None],
        [None, None, None, None, None, 8, None],
    ]
    assert rows.to_dicts() == [{**row, **dict(zip(names, made, strict=True))} for row, made in zip(ROWS, expected, strict=True)]
    frame = store.training_frame(spine(ROWS), MODEL, time="t")
    assert frame.columns == [*ROWS[0], "t", *names]
    assert frame.drop("t").equals(rows.to_polars())
    assert frame.schema["legs"] == pl.Int64()
    written = store.training_frame(spine(ROWS), MODEL, time="t", sink="train.parquet").collect()
    assert written.equals(frame)
    assert asyncio.run(_read_async(store)) == rows.to_dicts()


async def _read_async(store: FeatureStore) -> list[dict[str, Any]]:
    return (await store.online_async(MODEL, ROWS)).to_dicts()


def test_a_large_spine_is_computed_in_batches(store: FeatureStore) -> None:
    """More rows than are computed side by side, and than a batch of a sink has."""
    rows = pl.concat([spine(ROWS)] * 5_000)
    frame = store.training_frame(rows, MODEL, time="t")
    assert frame.equals(pl.concat([store.training_frame(spine(ROWS), MODEL, time="t")] * 5_000))
    with patch("featurestore.retrieval.flow._BATCH_ROWS", 3_001):
        assert store.training_frame(rows, MODEL, time="t", sink="train.parquet").collect().equals(frame)


def test_statuses_and_event_times(store: FeatureStore) -> None:
    rows = store.online(["risk.per_mile", Weather.gusty], ROWS)
    assert rows.status == {
        "per_mile": ["present", "null", "present", "null"],
        "gusty": ["present", "present", "expired", "missing"],
    }
    hour = timedelta(hours=1)
    assert rows.event_time == {
        "weather": [T - hour, T - 2 * hour, T - 9 * hour, None],
        "delays": [T - hour, None, T - hour, None],
    }


@pytest.mark.parametrize(
    ("features", "names"),
    [
        (Risk, ["far", "per_mile", "legs"]),
        ("risk", ["far", "per_mile", "legs"]),
        ("risk.legs", ["legs"]),
        ([Risk.legs.alias("n"), Weather.gusty, "risk.legs"], ["n", "gusty", "legs"]),
        ([Risk.prefix("r_"), Weather.prefix("w_")], ["r_far", "r_per_mile", "r_legs", "w_temp", "w_gusty"]),
        ([Weather.gusty.alias("distant"), Risk.far], ["distant", "far"]),
    ],
)
def test_they_are_named_as_other_features_are(store: FeatureStore, features: Any, names: list[str]) -> None:
    """In the order asked for, and nothing of what they are computed from."""
    rows = store.online(features, ROWS)
    frame = store.training_frame(spine(ROWS), features, time="t")
    assert [list(row)[4:] for row in rows.to_dicts()] == [names] * 4
    assert rows.to_polars().columns[4:] == frame.columns[5:] == list(rows.status) == names
    assert frame.drop("t").equals(rows.to_polars())


def test_another_view_of_the_same_entity_is_another_join(store: FeatureStore) -> None:
    rows = [{"origin": "EWR", "dest": "JFK"}, {"origin": "JFK", "dest": "LGA"}]
    assert [row["warmer"] for row in store.online("price.warmer", rows).to_dicts()] == [None, None]
    rows = [{"origin": "JFK", "dest": "JFK"}]
    assert store.online("price.warmer", rows).to_dicts()[0]["warmer"] is False


class TestOnlyWhatIsAskedFor:
    def test_it_alone_is_read(self, store: FeatureStore) -> None:
        def joined(features: Any) -> list[str]:
            selection = select(store.catalog, parse_references(features))
            return [f"{join.label}: {', '.join(column.feature.name for column in join.columns)}" for join in selection.joins]

        assert joined("risk.legs") == []
        assert joined("risk.far") == ["weather: gusty"]
        assert joined("price.warmer") == ["weather[dest]: temp", "weather[origin]: temp"]
        assert joined([Weather.gusty, "price.warmer"]) == ["weather: gusty, temp", "weather[dest]: temp"]
        assert joined("price.legs_if_far") == ["weather: gusty"]
        assert joined([Weather.gusty, Risk.far, Delays.delay]) == ["weather: gusty", "delays: delay"]

    def test_it_alone_is_computed(self, store: FeatureStore) -> None:
        """The spine has neither what the others need, nor what would make them fail."""
        computed = []
        run = OnDemandStep.run

        def seen(self: OnDemandStep, *args: Any) -> Any:
            computed.append((self.view, {output.feature.name for output in self.outputs}))
            return run(self, *args)

        with patch.object(OnDemandStep, "run", seen):
            assert store.online("risk.legs", [{"stops": 4}]).to_dicts() == [{"stops": 4, "legs": 5}]
            store.training_frame(spine([{"origin": "JFK", "distance": 1.0}]), "price.legs_if_far", time="t")
        assert computed == [("risk", {"legs"}), ("risk", {"far", "legs"}), ("price", {"legs_if_far"})]

    def test_nothing_needs_no_view_at_all(self, store: FeatureStore) -> None:
        rows = [{"stops": 4}, {"stops": 5}, {}]
        assert store.online("risk.legs", rows).to_dicts() == [{"stops": 4, "legs": 5}, {"stops": 5, "legs": 6}, {"legs": 1}]
        frame = store.training_frame(spine([{"stops": 4}]), "risk.legs", time="t")
        assert frame["legs"].to_list() == [5]
        assert store.training_frame(spine([{"stops": 4}]), "risk.legs", time="t", sink="x.parquet").collect().equals(frame)

    def test_no_rows_have_no_features(self, store: FeatureStore) -> None:
        assert store.online(MODEL, []).to_dicts() == []
        empty = spine(ROWS).clear()
        frame = store.training_frame(empty, MODEL, time="t")
        assert (frame.height, frame.schema["far"], frame.columns[:5]) == (0, pl.Boolean(), empty.columns)
        assert store.training_frame(empty, MODEL, time="t", sink="x.parquet").collect().schema == frame.schema


DISTANCE = "'distance' (float, of request 'trip', needed by risk.far, risk.per_mile)"
STOPS = "'stops' (int, of request 'trip', needed by risk.legs)"


class TestRequests:
    @pytest.mark.parametrize(
        ("row", "problem"),
        [
            ({}, f"Row 1 has no request field {DISTANCE}."),
            ({"distanc": 1.0}, "Did you mean 'distanc'?"),
            ({"distance": "far"}, f"Row 1: the request field {DISTANCE} is 'far', of type str."),
            ({"distance": True}, "is True, of type bool."),
            ({"distance": None}, "is None, which does not fit float."),
            ({"distance": -1.0}, f"Row 1: the request field {DISTANCE} is -1.0, which breaks ge=0."),
            ({"distance": -1}, "is -1.0, which breaks ge=0."),
            ({"distance": float("nan")}, "is nan, which breaks ge=0."),
            ({"distance": 2**53 + 1}, "is 9007199254740993, which does not fit float."),
            ({"distance": 10**400}, ", of type int."),
            ({"distance": [1.0]}, "is [1.0], of type list."),
            ({"distance": 1.0, "stops": 1.5}, f"Row 1: the request field {STOPS} is 1.5, which does not fit int."),
            ({"distance": 1.0, "stops": None}, "is None, which does not fit int."),
            ({"distance": 1.0, "stops": 2**63}, "is 9223372036854775808"),
            ({"distance": Decimal("1e9999")}, "is Decimal('1E+9999'), of type Decimal."),
            ({"distance": Decimal("NaN")}, "is Decimal('NaN'), of type Decimal."),
        ],
    )
    def test_a_row_that_is_wrong_is_told_by_the_call(self, store: FeatureStore, row: dict[str, Any], problem: str) -> None:
        keys = {"origin": "JFK", "carrier": "UA"}
        with pytest.raises(RequestError) as raised:
            store.online(Risk, [{**keys, "distance": 1.0}, {**keys, **row}])
        assert problem in str(raised.value)

    @pytest.mark.parametrize(
        ("columns", "problem"),
        [
            ({"stops": [1, 2]}, f"The spine has no request field {DISTANCE}."),
            ({"distance": ["a", "b"]}, "The spine's column 'distance' is String, which does not fit the request field 'distance'"),
            ({"distance": [1.0, None]}, f"Row 1: the request field {DISTANCE} is None, which does not fit float."),
            ({"distance": [1.0, -1.0]}, f"Row 1: the request field {DISTANCE} is -1.0, which breaks ge=0."),
            ({"distance": [1, 2**53 + 1]}, "Row 1: the request field 'distance'"),
            ({"distance": [1.0, 2.0], "stops": [1.0, 1.5]}, f"Row 1: the request field {STOPS} is 1.5, which does not fit int."),
        ],
    )
    @pytest.mark.parametrize("sink", [None, "refused.parquet"])
    def test_a_spine_that_is_wrong_is_told(self, store: FeatureStore, columns: Any, problem: str, sink: str | None) -> None:
        frame = pl.DataFrame({"origin": ["JFK"] * 2, "carrier": ["UA"] * 2, "t": [T] * 2, **columns})
        before_any_join = patch("featurestore.retrieval.flow.Flow.join", side_effect=AssertionError)
        with before_any_join, patch("featurestore.retrieval.flow._BATCH_ROWS", 1), pytest.raises(RequestError) as raised:
            store.training_frame(frame, Risk, time="t", sink=sink)
        assert problem in str(raised.value)
        assert not (store.settings.root / "refused.parquet").exists()

    def test_numbers_that_stay_the_same_are_taken(self, store: FeatureStore) -> None:
        rows = [{"stops": 2.0, "distance": distance} for distance in (1, 2.5, Decimal("0.5"))]
        assert [row["legs"] for row in store.online("risk.legs", rows).to_dicts()] == [3, 3, 3]
        rows = [{"origin": "JFK", "distance": distance} for distance in (1001, 2.5, Decimal("0.5"))]
        assert [row["far"] for row in store.online("risk.far", rows).to_dicts()] == [True, False, False]
        assert store.training_frame(pl.DataFrame({"t": [T], "stops": pl.Series([2], dtype=pl.Int8)}), "risk.legs", time="t")[
            "legs"
        ].to_list() == [3]

    def test_a_default_is_computed_with_and_not_shown(self, store: FeatureStore) -> None:
        rows = [{"stops": 1}, {}, {"note": None}]
        assert store.online("risk.legs", rows).to_dicts() == [{"stops": 1, "legs": 2}, {"legs": 1}, {"note": None, "legs": 1}]
        assert store.training_frame(pl.DataFrame({"t": [T]}), "risk.legs", time="t").columns == ["t", "legs"]

    def test_a_row_that_is_no_row_is_told(self, store: FeatureStore) -> None:
        with pytest.raises(RequestError, match="Row 1 is 3, not a dictionary of columns"):
            store.online("risk.legs", [{"stops": 1}, 3])

    def test_a_frame_is_taken(self, store: FeatureStore) -> None:
        frame = pl.DataFrame({"stops": [1, 2]})
        assert store.online("risk.legs", frame).to_polars().equals(frame.with_columns(legs=pl.Series([2, 3])))

    def test_a_request_cannot_be_asked_for(self, store: FeatureStore) -> None:
        with pytest.raises(RequestError, match="trip is a request, which the rows bring and nobody can ask for"):
            store.online([Trip], ROWS)

    def test_a_row_with_a_column_named_like_a_feature_is_told(self, store: FeatureStore) -> None:
        with pytest.raises(NameClashError, match=r"'far'.*feature 'far' of 'risk'"):
            store.online("risk.far", [{"origin": "JFK", "distance": 1.0, "far": True}])
        with pytest.raises(NameClashError, match="the spine's column 'far'"):
            store.training_frame(spine([{"origin": "JFK", "distance": 1.0, "far": True}]), "risk.far", time="t")

    def test_two_features_of_one_name_are_told(self, store: FeatureStore) -> None:
        with pytest.raises(NameClashError, match=r"Two columns would be named 'far'"):
            store.online([Risk, Weather.gusty.alias("far")], ROWS)

    def test_it_is_joined_by_no_column(self, store: FeatureStore) -> None:
        with pytest.raises(RequestError, match=r"'risk' is an on-demand view, which has no join keys"):
            store.online(Risk.far.on(origin="dest"), ROWS)

    def test_what_is_not_there_is_told(self, store: FeatureStore) -> None:
        with pytest.raises(NotFoundError, match=r"No feature is named 'risk.fra'. Did you mean 'risk.far'"):
            store.online("risk.fra", ROWS)
        with pytest.raises(NotFoundError, match=r"'rsk'. Did you mean 'risk'"):
            store.online("rsk", ROWS)


def view(name: str, inputs: list[Any], **features: tuple[Any, pl.Expr, dict[str, Any]]) -> DefinitionMeta:
    body: dict[str, Any] = {"__annotations__": {each: kind for each, (kind, *_) in features.items()}, "__module__": __name__}
    body |= {each: Feature(expression, **said) for each, (_, expression, said) in features.items()}
    return DefinitionMeta(name, (OnDemandView,), body, inputs=inputs)


class TestWhatIsComputed:
    @pytest.mark.parametrize(
        ("kind", "expression", "said", "stops", "problem"),
        [
            (int, pl.col("stops") * 2, {"le": 10}, 6, "the feature made.x comes to 12, which breaks le=10."),
            (Annotated[int, pl.Int8], pl.col("stops") * 100, {}, 2, "the feature made.x comes to 200, which does not fit Int8."),
            (int, pl.col("stops") / 2, {}, 3, "the feature made.x comes to 1.5, which does not fit int."),
            (float, pl.col("stops").log(), {"ge": 0}, -1, "the feature made.x comes to nan, which breaks ge=0."),
            (int, pl.col("note").str.to_integer(), {}, 7, "on-demand view 'made' fails: "),
        ],
    )
    def test_a_value_that_cannot_be_is_told(
        self, own: FeatureStore, kind: Any, expression: pl.Expr, said: dict[str, Any], stops: int, problem: str
    ) -> None:
        own.apply([view("Made", [Trip], x=(kind, expression, said))])
        rows = [{"stops": 2 if "log" in str(expression) else 0, "note": "12"}, {"stops": stops, "note": "twelve"}]
        with pytest.raises(RequestError) as raised:
            own.online("made", rows).to_dicts()
        assert f"Row 1: {problem}" in str(raised.value)
        with pytest.raises(RequestError) as raised:
            own.training_frame(spine(rows), "made", time="t")
        assert f"Row 1: {problem}" in str(raised.value)

    def test_a_value_takes_the_dtype_that_is_declared(self, own: FeatureStore) -> None:
        letters = pl.col("stops").cast(pl.String).str.len_chars()
        own.apply([view("Made", [Trip], x=(Annotated[float, pl.Float32], pl.col("stops") / 3, {}), y=(int, letters, {}))])
        frame = own.training_frame(spine([{"stops": 1}]), "made", time="t")
        assert frame.schema == pl.Schema({"stops": pl.Int64, "t": pl.Datetime("us", "UTC"), "x": pl.Float32, "y": pl.Int64})
        assert own.online("made", [{"stops": 1}]).to_polars().equals(frame.drop("t"))

    def test_times_are_those_of_stored_features(self, own: FeatureStore) -> None:
        made = view(
            "Made", [Delays.day, request("Ask", at=datetime)],
            then=(datetime, pl.col("at").dt.offset_by("1h"), {}), days=(list[datetime], pl.concat_list("at", "at"), {}),
            day=(date | None, pl.col("day").dt.offset_by("1d"), {}), since=(timedelta | None, pl.col("at") - pl.col("day"), {}),
        )  # fmt: skip
        own.apply([made])
        features = [made.then.alias("a"), made.days, made.day.alias("d"), made.since]
        naive = datetime(2013, 7, 1, 12)  # noqa: DTZ001 - naive times are UTC
        asked = {"carrier": "UA", "at": naive}
        [row] = own.online(features, [asked]).to_dicts()
        later = T + timedelta(hours=1)
        assert row == {**asked, "a": later, "days": [T, T], "d": date(2013, 7, 2), "since": timedelta(hours=12)}
        assert row["a"].tzinfo is row["days"][0].tzinfo is UTC
        frame = own.training_frame(spine([asked]), features, time="t")
        assert frame.drop("t").equals(own.online(features, [asked]).to_polars())

    def test_a_field_may_be_a_join_key_too(self, own: FeatureStore) -> None:
        own.apply([view("Made", [request("Place", origin=str), Weather.temp], x=(str, pl.concat_str("origin", "temp"), {}))])
        assert own.online("made", [{"origin": "JFK"}]).to_dicts() == [{"origin": "JFK", "x": "JFK79.0"}]

    def test_two_requests_may_read_one_column_differently(self, own: FeatureStore) -> None:
        one = view("One", [request("Whole", x=int)], a=(int, pl.col("x") * 2, {}))
        two = view("Two", [request("Broken", x=float), one], b=(float, pl.col("x") / 2 + pl.col("a"), {}))
        own.apply([one, two])
        assert own.online(["two.b"], [{"x": 3}]).to_dicts() == [{"x": 3, "b": 7.5}]
        with pytest.raises(RequestError, match=r"Row 0: the request field 'x' \(int, of request 'whole', needed by one.a\) is 3.5"):
            own.online(["two.b"], [{"x": 3.5}])


def request(name: str, **fields: Any) -> type[Request]:
    return type(name, (Request,), {"__annotations__": fields, "__module__": __name__})


@pytest.mark.parametrize("days", [100_000_000, 4_000_000, -4_000_000])
def test_a_time_beyond_the_calendar_is_told_with_its_row(own: FeatureStore, days: int) -> None:
    """Python cannot say it, and Polars panics over some: neither is an answer to whoever chose the number."""
    far = view(
        "far", [request("moved", days=int)],
        at=(datetime | None, (pl.col("days") * 86_400_000_000).cast(pl.Datetime("us", "UTC")), {}),
        text=(str | None, (pl.col("days") * 86_400_000_000).cast(pl.Datetime("us", "UTC")).dt.to_string("%Y"), {}),
    )  # fmt: skip
    own.apply([far])
    rows = [{"days": 1}, {"days": days}]
    for ask in (lambda: own.online("far.at", rows).to_dicts(), lambda: own.training_frame(spine(rows), "far.at", time="t")):
        with pytest.raises(RequestError, match=f"Row 1: the feature far.at comes to {days * 86_400_000_000}, which does not fit"):
            ask()
    if days == 100_000_000:
        with pytest.raises(RequestError, match="Row 1: on-demand view 'far' fails"):
            own.online("far.text", rows).to_dicts()


class TestApplying:
    def test_a_process_without_the_definitions_serves(self, store: FeatureStore) -> None:
        expected = store.online(MODEL, ROWS).to_polars()
        with store_at(store.settings.root, lambda: T) as other:
            assert other.online("model", ROWS).to_polars().equals(expected)
            assert other.training_frame(spine(ROWS), "model", time="t").drop("t").equals(expected)

    def test_a_change_takes_effect_and_recomputes_nothing(self, own: FeatureStore) -> None:
        assert own.online("risk.legs", [{"stops": 1}]).to_dicts()[0]["legs"] == 2
        changed = view(
            "Risk", [Weather.gusty, Delays.delay.alias("late"), Trip],
            far=(bool, pl.col("gusty") & (pl.col("distance") > 1000), {}),
            per_mile=(float | None, pl.col("late") / pl.col("distance"), {}), legs=(int, pl.col("stops") + 10, {}),
        )  # fmt: skip
        plan = own.apply([changed])
        assert [(change.kind, change.version, change.recompute) for change in plan.changes] == [("on_demand", 2, False)]
        assert own.online("risk.legs", [{"stops": 1}]).to_dicts()[0]["legs"] == 11
        assert own.apply([changed]).is_empty

    def test_what_others_use_cannot_be_taken_away(self, own: FeatureStore) -> None:
        class Weather(FeatureView, entity=AIRPORT, source=FrameSource("observations", OBSERVED, event_time="at"), ttl="6h"):
            temp: float | None

        with pytest.raises(BreakingChangeError, match=r"'risk' uses weather\.gusty, but view 'weather' has no feature"):
            own.apply([Weather])
        with pytest.raises(BreakingChangeError, match=r"'model' uses price\.legs_if_far, but view 'price' has no"):
            own.apply([view("Price", [Trip], cheap=(bool, pl.col("distance") < 1, {}))])
        own.apply([Weather], allow_breaking=True)
        assert own.online("risk.far", ROWS).status["far"]  # of the version before, which is served until the new one is filled
        own.materialize(["weather"])
        with pytest.raises(RequestError, match=r"risk\.far cannot be computed\. No feature is named 'weather\.gusty'"):
            own.online("risk.far", ROWS)

    def test_an_expression_that_cannot_be_read_is_told(self, store: FeatureStore) -> None:
        with (
            store_at(store.settings.root, lambda: T) as other,
            patch("featurestore.definitions.expression._deserialized", side_effect=RegistryError("Apply the definitions again.")),
            pytest.raises(RegistryError, match="Apply the definitions again"),
        ):
            other.online("risk.legs", [{"stops": 1}]).to_dicts()


# -- parity ----------------------------------------------------------------------------------------------------------------

VECTOR = Annotated[list[float], pl.Array(pl.Float32, 2)]
FIELDS: dict[str, tuple[Any, Any]] = {
    "f": (float | None, st.floats()),
    "i": (int | None, st.integers(-(2**63), 2**63 - 1)),
    "s": (str | None, st.text(max_size=3)),
    "b": (bool | None, st.booleans()),
    "d": (date | None, st.dates(date(1900, 1, 1), date(2200, 1, 1))),
    "l": (list[float] | None, st.lists(st.floats(), max_size=3)),
    "v": (VECTOR | None, st.lists(st.floats(width=32), min_size=2, max_size=2)),
    "m": (Decimal | None, st.decimals(-1000, 1000, places=3)),
}
"""Columns of every kind, which the view and the request both have: the view's own, and the request's with a q before."""

EXPRESSIONS: dict[str, tuple[Any, pl.Expr]] = {
    "sum": (float | None, pl.col("f") + pl.col("qf") * pl.col("i")),
    "ratio": (float | None, pl.col("qi") / pl.col("i")),
    "third": (float | None, pl.col("i") / 3 + pl.col("qf") / 7.3),
    "whole": (int | None, pl.col("qi") // pl.col("i")),
    "power": (float | None, pl.col("f").abs() ** pl.col("qf")),
    "wave": (float | None, (pl.col("f").sin() * pl.col("qf").exp()).tanh()),
    "least": (float | None, pl.min_horizontal("f", "qf", "i")),
    "choice": (str | None, pl.when(pl.col("b") | pl.col("qb")).then(pl.col("s")).otherwise(pl.col("qs"))),
    "text": (str | None, pl.concat_str("s", pl.col("qi").cast(pl.String), ignore_nulls=True)),
    "letters": (int | None, pl.col("qs").str.len_chars() + pl.col("s").str.len_bytes()),
    "days": (timedelta | None, pl.col("qd") - pl.col("d")),
    "hour": (datetime | None, pl.col("d").cast(pl.Datetime("us", "UTC")) + pl.duration(hours=pl.col("qi") % 24)),
    "listed": (float | None, pl.col("l").list.sum() + pl.col("ql").list.max()),
    "ranks": (list[float] | None, pl.col("ql").list.eval(pl.element().rank().cast(pl.Float64))),
    "dot": (float | None, (pl.col("v") * pl.col("qv")).arr.sum().cast(pl.Float64)),
    "money": (Decimal | None, pl.col("m") + pl.col("qm")),
    "is": (bool | None, pl.col("s").is_in(["a", "b"]) ^ pl.col("qb").is_null()),
}


def row_of(draw: st.DrawFn, before: str = "") -> dict[str, Any]:
    return {before + name: draw(st.none() | values) for name, (_, values) in FIELDS.items()}


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
    stored = [row_of(draw) for _ in range(draw(st.integers(1, 4)))]
    asked = [
        {
            "k": draw(st.none() | st.integers(0, len(stored))),
            **row_of(draw, "q"),
        }
        for _ in range(draw(st.integers(1, 6)))
    ]
    return stored, asked, draw(st.lists(st.sampled_from(list(EXPRESSIONS)), min_size=1, max_size=5, unique=True))


DTYPES = {
    "f": pl.Float64(), "i": pl.Int64(), "s": pl.String(), "b": pl.Boolean(), "d": pl.Date(), "l": pl.List(pl.Float64()),
    "v": pl.Array(pl.Float32(), 2), "m": pl.Decimal(38, 9),
}  # fmt: skip


@settings(max_examples=examples(30), deadline=None)
@given(cases())
def test_one_row_equals_the_frame_online_and_offline(tmp_path_factory: pytest.TempPathFactory, case: Any) -> None:
    """S16 of what is computed: bit for bit, whichever rows are beside it."""
    stored, asked, names = case
    schema = {"k": pl.Int64(), "event": pl.Datetime("us", "UTC"), **DTYPES}
    frame = pl.DataFrame([{"k": k, "event": from_micros(5), **row} for k, row in enumerate(stored)], schema=schema)
    kinds = {name: kind for name, (kind, _) in FIELDS.items()}
    body: dict[str, Any] = {"__annotations__": kinds, "__module__": __name__}
    source = FrameSource("rows", frame, event_time="event")
    view_of = type("Stored", (FeatureView,), body, entity=Entity("e", k=int), source=source)
    asks = request("Asked", **{f"q{name}": kind for name, kind in kinds.items()})
    made = view("Made", [view_of, asks], **{name: (*EXPRESSIONS[name], {}) for name in names})
    with store_at(tmp_path_factory.mktemp("store"), FakeClock(10)) as store:
        store.apply([view_of, made])
        store.materialize()
        features = [f"made.{name}" for name in names]
        columns = {"k": pl.Int64(), **{f"q{name}": dtype for name, dtype in DTYPES.items()}, "t": schema["event"]}
        spine = pl.DataFrame([{**row, "t": from_micros(10)} for row in asked], schema=columns)
        offline = store.training_frame(spine, features, time="t").select(names)
        whole = store.online(features, asked)
        assert whole.to_polars().select(names).equals(offline)
        single = pl.concat([store.online(features, [row]).to_polars().select(names) for row in asked])
        assert single.equals(offline)
        parts = [store.training_frame(part, features, time="t").select(names) for part in spine.iter_slices(1)]
        assert pl.concat(parts).equals(offline)
        zones = ("zoneinfo.ZoneInfo(key='UTC')", "datetime.timezone.utc")
        for row, expected in zip(whole.to_dicts(), offline.to_dicts(), strict=True):
            assert repr({name: row[name] for name in names}) == repr(expected).replace(*zones)


@pytest.mark.parametrize("rows", [1, 2, 5, 20_000])
def test_a_row_alone_is_computed_as_among_others(own: FeatureStore, rows: int) -> None:
    """Polars computes otherwise with constants, for which it takes a column of one row, or one that repeats a literal."""
    thirds = view("Thirds", [Trip], third=(float, pl.col("distance") / 3, {}), tenth=(float, pl.col("stops") / 10, {}))
    own.apply([thirds])
    [alone] = own.online(thirds, [{"distance": 7.0, "stops": 3}]).to_dicts()
    repeated = pl.DataFrame({"t": [T] * rows}).with_columns(distance=pl.lit(7.0), stops=pl.lit(3))
    frame = own.training_frame(repeated, thirds, time="t").select("third", "tenth")
    assert set(frame.rows()) == {(alone["third"], alone["tenth"])}
    assert set(own.online(thirds, repeated.drop("t")).to_polars().select("third", "tenth").rows()) == set(frame.rows())


def test_the_table_has_every_expression_over_every_dtype() -> None:
    used = {column.removeprefix("q") for _, expression in EXPRESSIONS.values() for column in expression.meta.root_names()}
    assert used == set(FIELDS) == set(DTYPES)


# -- windows ---------------------------------------------------------------------------------------------------------------

LANDED = pl.DataFrame({"carrier": ["UA", "UA"], "at": [T - timedelta(minutes=30), T - timedelta(hours=5)], "delay": [10.0, 20.0]})


class Arrivals(FeatureView, entity=CARRIER, source=FrameSource("arrivals", LANDED, event_time="at")):
    mean_delay: float | None = mean("delay").over("1h", "1d")
    arrivals: int = count().over("1h", "1d")


class Busy(OnDemandView, inputs=[Arrivals.arrivals, Arrivals.mean_delay["1d"].alias("usual"), Trip]):
    quiet: bool = Feature(pl.col("arrivals_1h") + pl.col("arrivals_1d") < 1)
    over: float | None = Feature(pl.col("usual") * pl.col("distance"))


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureStore]:
    with store_at(tmp_path_factory.mktemp("windowed"), lambda: T) as opened:
        opened.apply([Arrivals, Busy, FeatureService("busy_model", [Arrivals.mean_delay, Busy])])
        opened.materialize()
        yield opened


CARRIERS: list[dict[str, Any]] = [{"carrier": carrier, "distance": 2.0} for carrier in ("UA", "ZZ", None)]


def test_windows_are_inputs(windowed: FeatureStore) -> None:
    """S8: a carrier never seen has no arrivals, and that is what an expression sees."""
    rows = windowed.online("busy_model", CARRIERS)
    assert [list(row.values())[2:] for row in rows.to_dicts()] == [
        [10.0, 15.0, False, 30.0], [None, None, True, None], [None, None, True, None],
    ]  # fmt: skip
    assert rows.to_polars().columns[2:] == ["mean_delay_1h", "mean_delay_1d", "quiet", "over"]
    frame = windowed.training_frame(spine(CARRIERS), "busy_model", time="t")
    assert frame.drop("t").equals(rows.to_polars())
    assert windowed.training_frame(spine(CARRIERS), "busy_model", time="t", sink="x.parquet").collect().equals(frame)


@pytest.mark.parametrize(
    ("features", "names"),
    [
        (Arrivals.mean_delay, ["mean_delay_1h", "mean_delay_1d"]),
        ("arrivals.mean_delay", ["mean_delay_1h", "mean_delay_1d"]),
        (Arrivals.mean_delay.prefix("c_"), ["c_mean_delay_1h", "c_mean_delay_1d"]),
        (Arrivals.mean_delay["1d"], ["mean_delay_1d"]),
        (Arrivals.mean_delay["1d"].alias("m"), ["m"]),
        ("arrivals.mean_delay_1h", ["mean_delay_1h"]),
    ],
)
def test_a_family_is_its_features(windowed: FeatureStore, features: Any, names: list[str]) -> None:
    assert list(select(windowed.catalog, parse_references(features)).names) == names


def test_a_family_has_no_one_name(windowed: FeatureStore) -> None:
    with pytest.raises(RequestError, match=r"gives one name to several features \(mean_delay_1h, mean_delay_1d\)"):
        windowed.online(Arrivals.mean_delay.alias("m"), CARRIERS)
    with pytest.raises(NotFoundError, match=r"'arrivals.mean_dely'. Did you mean 'arrivals.mean_delay"):
        windowed.online("arrivals.mean_dely", CARRIERS)
    told = FeatureService("named", [Arrivals.mean_delay.alias("m")])
    with pytest.raises(DefinitionErrors, match=r"service 'named' uses .* but that cannot be: .* gives one name to several"):
        windowed.apply([told])
