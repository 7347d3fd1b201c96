"""Every role, action and scope, with what is to be decided written out."""

import polars as pl
import pytest

from featurestore import Entity, Feature, FeatureService, FeatureView, OnDemandView, ParquetSource, Request, count
from featurestore.access.grants import Grant
from featurestore.access.policy import Policy
from featurestore.definitions.catalog import AppliedView, Catalog

PERSON = Entity("person", person=str)
PEOPLE = ParquetSource("people", "people", event_time="at")
ORDERS = ParquetSource("orders", "orders", event_time="at")


class Customer(FeatureView, entity=PERSON, source=PEOPLE):
    email: str | None = Feature(pii=True)
    segment: str | None


class Orders(FeatureView, entity=PERSON, source=ORDERS):
    total: float | None


class Refunds(FeatureView, entity=PERSON, source=ORDERS):
    refunds: int = count().over("1d", "7d")


class Cart(Request):
    amount: float


class Basket(OnDemandView, inputs=[Orders.total, Cart]):
    big: bool | None = Feature(pl.col("amount") > pl.col("total"))


class Mail(OnDemandView, inputs=[Customer, Basket]):
    domain: str | None = Feature(pl.col("email").str.slice(1))
    bigger: bool | None = Feature(pl.col("big"))


VIEWS = (Customer, Orders, Refunds)
SERVICES = (
    FeatureService("plain", [Orders.total, Customer.segment]),
    FeatureService("people", [Customer, Mail.domain]),
    FeatureService("baskets", [Basket]),
    FeatureService("refunded", [Refunds.refunds]),
)
CATALOG = Catalog(
    views={each.__view_name__: AppliedView(each.__view__, 1, 1) for each in VIEWS},
    requests={"cart": Cart.__request__},
    on_demand={each.__view_name__: each.__on_demand__ for each in (Basket, Mail)},
    services={each.name: each for each in SERVICES},
)

QUESTIONS = (
    ("read", "features", "orders.total"),
    ("read", "features", "customer.email"),
    ("read", "features", "plain"),
    ("read", "features", "people"),
    ("read", "features", "basket.big"),
    ("read", "features", "mail.domain"),
    ("write", "source", "orders"),
    ("write", "source", "people"),
    ("read", "service", "plain"),
    ("read", "view", "orders"),
    ("read", "catalog", ""),
    ("admin", "all", ""),
    ("read", "features", "nowhere.thing"),
    ("write", "all", ""),
    ("read", "entity", "person"),
    ("read", "source", "orders"),
    ("read", "metrics", ""),
)
DECISIONS = {
    # 1 orders.total  2 customer.email (pii)  3 plain  4 people (pii)  5 basket.big  6 mail.domain (of pii)  7 push orders
    # 8 push people  9 look at plain  10 look at orders  11 list what may be looked at  12 administer  13 read what is not there
    # 14 write all  15 look at person  16 look at the source of orders  17 read metrics
    "": "-----------------",
    "reader project": "+-+-+---+++-+-+++",
    "reader project pii": "++++++--+++-+-+++",
    "reader service:plain": "+-+-----+-+---+--",
    "reader service:people": "----------+---+--",
    "reader service:people pii": "-+-+-+----+---+--",
    "reader service:baskets": "----+-----+---+--",
    "reader service:unheard": "----------+------",
    "reader view:orders": "+--------++---++-",
    "reader view:customer": "----------+---+--",
    "reader view:customer pii": "-+--------+---+--",
    "reader view:basket": "----------+---+--",
    "reader view:basket, reader view:orders": "+---+----++---++-",
    "reader view:basket, writer view:orders": "---------++---++-",
    "reader service:plain, reader view:basket": "+-+-+---+-+---+--",
    "reader view:mail pii": "----------+---+--",
    "reader view:mail pii, reader view:customer pii": "-+-+-+----+---+--",
    "reader view:mail pii, reader view:customer": "----------+---+--",
    "reader project, reader view:customer pii": "+++-+---+++-+-+++",
    "reader project, reader view:customer pii, reader view:mail pii": "++++++--+++-+-+++",
    "writer project": "------+++++--++++",
    "writer project pii": "------+++++--++++",
    "writer view:orders": "---------++---++-",
    "writer view:orders, writer view:refunds": "------+--++---++-",
    "writer view:orders, writer service:refunded": "------+--++---++-",
    "writer view:orders, reader view:refunds": "---------++---++-",
    "writer service:plain": "-------++-+---+--",
    "writer service:people": "-------+--+---+--",
    "admin project": "+-+-+-+++++++++++",
    "admin project pii": "+++++++++++++++++",
    "admin service:plain": "+-+----++-+---+--",
    "admin view:orders": "+--------++---++-",
    "monitor project": "----------------+",
    "monitor project, reader view:orders": "+--------++---+++",
    "admin view:customer pii": "-+-----+--+---+--",
}


@pytest.mark.parametrize("number", range(len(QUESTIONS)))
@pytest.mark.parametrize("held", DECISIONS)
def test_every_role_action_and_scope(held: str, number: int) -> None:
    action, kind, name = QUESTIONS[number]
    grants = Grant.parse_all(held) if held else ()
    refusal = Policy(CATALOG).refusal(grants, action, kind, (name,) if name else ())
    assert (refusal == "") == (DECISIONS[held][number] == "+"), refusal or "allowed"


@pytest.mark.parametrize("action", ["", "delete", "READ", "none"])
@pytest.mark.parametrize("kind", ["features", "source", "catalog", "service", "view", "entity", "metrics", "all", "other"])
def test_what_nobody_has_heard_of_is_refused(action: str, kind: str) -> None:
    assert Policy(CATALOG).refusal([Grant("admin", "project", pii=True)], action, kind, ("orders",))


def test_all_that_is_asked_for_must_be_granted() -> None:
    held = Grant.parse_all("reader view:orders")
    permits = Policy(CATALOG)
    assert not permits.refusal(held, "read", "features", ("orders", "orders.total"))
    for other in ("customer.segment", "plain", "refunds.refunds", "nowhere", "mail.bigger"):
        assert permits.refusal(held, "read", "features", ("orders.total", other)), other
    assert permits.refusal(Grant.parse_all("writer view:customer"), "write", "source", ("people", "orders"))


def test_a_family_is_each_of_its_windows() -> None:
    permits = Policy(CATALOG)
    held = Grant.parse_all("reader service:refunded")
    for name in ("refunded", "refunds", "refunds.refunds", "refunds.refunds_1d"):
        assert not permits.refusal(held, "read", "features", (name,))


def test_a_refusal_tells_no_names_but_those_asked_for() -> None:
    permits = Policy(CATALOG)
    held = Grant.parse_all("reader view:orders")
    for name in ("people", "customer.email", "customer.emial", "nowhere.thing"):
        assert permits.refusal(held, "read", "features", (name,)) == f"may not read {name!r}"
    # Who could read it but for the mark is told what is lacking.
    told = permits.refusal(Grant.parse_all("reader service:people"), "read", "features", ("people",))
    assert told == "may not read 'people': customer.email is personal information, which takes a grant with pii"


def test_a_broken_catalog_grants_nothing_more() -> None:
    class Round(OnDemandView, inputs=["round.turn"]):
        turn: bool = Feature(~pl.col("turn"))

    broken = Catalog(on_demand={"round": Round.__on_demand__}, services={"lost": FeatureService("lost", ["gone.thing"])})
    permits = Policy(broken)
    assert permits.refusal(Grant.parse_all("reader view:round"), "read", "features", ("round.turn",))
    assert permits.refusal(Grant.parse_all("reader service:lost"), "read", "features", ("lost",))
