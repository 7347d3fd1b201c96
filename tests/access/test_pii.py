"""Personal information: what is marked, what is computed from it, and that the mark is a word about a feature."""

import polars as pl
import pytest

from featurestore import Entity, Feature, FeatureView, OnDemandView, ParquetSource, Request, last, mean
from featurestore.access.pii import personal_features
from featurestore.definitions.catalog import AppliedView, Catalog
from featurestore.definitions.serialization import data_digest, from_json, to_json

PERSON = Entity("person", person=str)
ROWS = ParquetSource("rows", "data", event_time="at")


class Customer(FeatureView, entity=PERSON, source=ROWS):
    email: str | None = Feature(pii=True)
    segment: str | None


class Spending(FeatureView, entity=PERSON, source=ROWS):
    shops: str | None = last("shop").over("1d", "7d", pii=True)
    spent: float | None = mean("amount").over("1d")


class Basket(Request):
    amount: float


class Checked(OnDemandView, inputs=[Customer.prefix("c_"), Spending.shops, Basket]):
    known: bool = Feature(pl.col("c_email").is_not_null())
    large: bool = Feature(pl.col("amount") > 100)
    loyal: bool = Feature(pl.col("shops_7d") == pl.col("c_segment"))
    secret: bool = Feature(pl.col("amount") > 1, pii=True)


class Further(OnDemandView, inputs=[Checked]):
    known_again: bool = Feature(~pl.col("known"), pii=False)
    small: bool = Feature(~pl.col("large"))


class Lost(OnDemandView, inputs=["nowhere.thing"]):
    gone: bool = Feature(pl.col("thing"))


def catalog(*on_demand: type[OnDemandView]) -> Catalog:
    views = {each.__view_name__: AppliedView(each.__view__, 1, 1) for each in (Customer, Spending)}
    return Catalog(
        views=views,
        requests={"basket": Basket.__request__},
        on_demand={each.__view_name__: each.__on_demand__ for each in on_demand},
    )


def test_what_is_made_of_personal_information_is_personal() -> None:
    assert personal_features(catalog(Further, Checked, Lost)) == {
        "customer": {"email"},
        "spending": {"shops_1d", "shops_7d"},
        "checked": {"known", "loyal", "secret"},
        "further": {"known_again"},
    }


def test_the_mark_is_kept_and_shown() -> None:
    view = Customer.__view__
    assert from_json("view", to_json(view)) == view
    assert "email: str | None (pii)" in repr(Customer)
    assert [each.pii for each in Spending.__view__.features] == [True, True, False]


@pytest.mark.parametrize("view", [Customer, Spending])
def test_the_mark_changes_no_stored_value(view: type[FeatureView]) -> None:
    spec = view.__view__
    unmarked = to_json(spec).replace(',"pii":true', "").replace('"pii":true,', "")
    assert unmarked != to_json(spec)
    assert data_digest(spec) == data_digest(from_json("view", unmarked))  # type: ignore[arg-type]  # it is a view's
