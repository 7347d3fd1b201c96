"""Requests: which fields there may be, what is kept of them, and what is refused where it stands."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

import polars as pl
import pytest
from pydantic import Field, PositiveFloat, ValidationError, computed_field, field_validator

from featurestore import Feature, Request
from featurestore.definitions.request import RequestField, RequestSpec
from featurestore.definitions.serialization import from_json, to_json
from featurestore.errors import DefinitionError, DefinitionErrors


def request(annotation: Any, default: Any = ..., **body: Any) -> type[Request]:
    """A request of one field, ``x``."""
    given = {} if default is ... else {"x": default}
    made = type("Trip", (Request,), {"__annotations__": {"x": annotation}, "__module__": __name__, **given, **body})
    assert issubclass(made, Request)
    return made


def field_of(made: type[Request]) -> RequestField:
    [found] = made.__request__.features
    return found


def test_a_request_is_kept_whole() -> None:
    class Trip(Request):
        """What the caller knows."""

        distance: float = Field(ge=0, lt=10_000, description="miles")
        carrier: str = Field(default="UA", min_length=2, max_length=2, pattern="^[A-Z0-9]+$")
        stops: Annotated[int, pl.Int32] | None = None

    spec = Trip.__request__
    assert (spec.name, spec.description, spec.feature_names) == ("trip", "What the caller knows.", ("distance", "carrier", "stops"))
    assert spec.place.startswith(__file__)
    distance, carrier, stops = spec.features
    assert (distance.dtype, distance.required, distance.ge, distance.lt) == (pl.Float64(), True, 0, 10_000)
    assert distance.description == "miles"
    assert carrier.constraints == {"min_length": 2, "max_length": 2, "pattern": "^[A-Z0-9]+$"}
    assert (carrier.required, carrier.default) == (False, "UA")
    assert (stops.dtype, stops.nullable, stops.required, stops.default) == (pl.Int32(), True, False, None)


def test_a_request_is_a_pydantic_model() -> None:
    made = request(float, Field(ge=0))
    assert made(x=1).model_dump() == {"x": 1.0}
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        made(x=-1)
    with pytest.raises(ValidationError, match="y"):
        made(x=1, y=2)


def test_fields_are_inherited() -> None:
    class Trip(Request):
        distance: Annotated[float, pl.Float32]

    class LongTrip(Trip):
        stops: int

    assert LongTrip.__request__.feature_names == ("distance", "stops")
    assert LongTrip.__request__.features[0].dtype == pl.Float32()
    assert LongTrip.__request__.name == "long_trip"


@pytest.mark.parametrize(
    ("annotation", "constraints"),
    [
        (PositiveFloat, {"gt": 0}),
        (Annotated[float, Field(ge=0)], {"ge": 0}),
        (Annotated[float, Field(ge=0)] | None, {"ge": 0}),
        (Annotated[int, pl.Int8, Field(le=5)], {"le": 5}),
        (Annotated[list[float], Field(min_length=1)], {"min_length": 1}),
        (Literal["a", "b"], {"one_of": ("a", "b")}),
        (Literal[1, 2] | None, {"one_of": (1, 2)}),
        (Annotated[float, Field(strict=True)], {}),
    ],
)
def test_constraints_are_found_wherever_pydantic_lets_them_stand(annotation: Any, constraints: dict[str, Any]) -> None:
    assert field_of(request(annotation)).constraints == constraints


@pytest.mark.parametrize(
    ("annotation", "default", "kept"),
    [
        (float, 1, 1.0),
        (float, float("inf"), float("inf")),
        (int | None, None, None),
        (bytes, b"\x00x", b"\x00x"),
        (bool, True, True),
        (Decimal, Decimal("1.5"), Decimal("1.500000000")),
        (date, date(2013, 7, 1), date(2013, 7, 1)),
        (datetime, datetime(2013, 7, 1, tzinfo=UTC), datetime(2013, 7, 1, tzinfo=UTC)),
        (timedelta, timedelta(hours=1), timedelta(hours=1)),
        (list[float], [1, 2.5], [1.0, 2.5]),
        (Annotated[list[float], pl.Array(pl.Float32, 2)], [1.0, 2.0], [1.0, 2.0]),
        (Literal["a", "b"], "b", "b"),
    ],
)
def test_a_default_is_read_as_it_was_written(annotation: Any, default: Any, kept: Any) -> None:
    spec = request(annotation, default).__request__
    assert spec.features[0].default == kept
    again = from_json("request", to_json(spec))
    assert again == spec
    assert isinstance(again, RequestSpec)
    assert type(again.features[0].default) is type(spec.features[0].default)


@pytest.mark.parametrize(
    ("annotation", "default", "problem"),
    [
        (
            int,
            Field(multiple_of=2),
            r"constraint MultipleOf\(multiple_of=2\) is not one that a request's field can have; those are ge",
        ),
        (int, "far", "its default 'far' is not one of its values: Input should be a valid integer"),
        (int, Field(default=-1, ge=0), "its default -1 is not one of its values: Input should be greater than or equal to 0"),
        (Annotated[int, pl.Int8], 300, "its default 300 is not one of its values"),
        (float, None, "its default None is not one of its values"),
        (int, Field(default_factory=int), "a default_factory is Python"),
        (int, Field(alias="y"), "an alias is not kept"),
        (float, Feature(ge=0), r"say more of it with pydantic's Field\(description=…\)"),
        ("float", ..., "the annotation is the string 'float', not a type"),
        (int | str, ..., "names several types"),
        (Literal[1, "a"], ..., "values of several types"),
        (dict, ..., "is not a type a column can have"),
        (list[Annotated[float, Field(ge=0)]], ..., "constrains a list's elements"),
        (bool, Field(ge=0), "ge=0 does not go with the type bool"),
    ],
)
def test_a_field_that_cannot_be_is_refused(annotation: Any, default: Any, problem: str) -> None:
    with pytest.raises(DefinitionError, match=f"field Trip.x: .*{problem}"):
        request(annotation, default)


def test_a_name_of_the_stores_own_is_refused() -> None:
    with pytest.raises(DefinitionError, match=r"field Trip\.event_time: the name is the store's own"):
        type("Trip", (Request,), {"__annotations__": {"event_time": float}, "__module__": __name__})


def test_python_that_a_serving_process_has_not_is_refused() -> None:
    with pytest.raises(DefinitionError, match="request Trip has validators or computed fields"):

        class Trip(Request):
            x: float

            @field_validator("x")
            @classmethod
            def check(cls, value: float) -> float:
                return value

    with pytest.raises(DefinitionError, match="request Far has validators or computed fields"):

        class Far(Request):
            x: float

            @computed_field  # type: ignore[prop-decorator]  # as pydantic documents it
            @property
            def far(self) -> bool:
                return self.x > 1000


def test_a_request_without_fields_is_refused() -> None:
    with pytest.raises(DefinitionError, match="request Empty has no fields"):

        class Empty(Request):
            pass


def test_all_faults_are_told_with_their_lines() -> None:
    with pytest.raises(DefinitionErrors) as raised:

        class Faulty(Request):
            distance: float = Field(multiple_of=2)
            stops: dict  # type: ignore[type-arg]  # it is refused either way

    first, second = raised.value.faults
    lines = [int(fault.place.rpartition(":")[2]) for fault in (first, second)]
    assert first.place.startswith(__file__)
    assert lines[1] == lines[0] + 1
