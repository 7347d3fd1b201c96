"""Browsing what is applied: list and describe."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Invoke


def names(printed: str) -> list[str]:
    return [entry["name"] for entry in json.loads(printed)]


@pytest.mark.parametrize(
    ("words", "listed"),
    [
        (["views"], ["account", "last_order", "spending"]),
        (["view"], ["account", "last_order", "spending"]),
        (["entities"], ["customer"]),
        (["sources"], ["accounts", "orders"]),
        (["services"], ["churn_model"]),
        (["features", "--search", "COST amount"], ["last_order.amount"]),
        (["--search", "cost"], ["last_order.amount"]),
        (["--owner", "growth"], ["churn_model"]),
        (["--owner", "nobody"], []),
        (["--tag", "team"], []),
    ],
)
def test_list_shows_what_matches(invoke: Invoke, made_shop: Path, words: list[str], listed: list[str]) -> None:
    assert names(invoke("-C", made_shop, "list", *words, "--json").stdout) == listed
    shown = invoke("-C", made_shop, "list", *words).stdout
    assert all(name in shown for name in listed)
    assert ("Nothing matches." in shown) == (not listed)


def test_an_unknown_kind_is_an_error_that_names_the_kinds(invoke: Invoke, made_shop: Path) -> None:
    failed = invoke("-C", made_shop, "list", "feeds", code=1)
    assert "There is no kind 'feeds'" in failed.stderr
    assert "'feature'" in failed.stderr


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        (
            "last_order",
            {"kind": "view", "entity": "customer", "keys": ["customer_id"], "source": "orders", "services": ["churn_model"]},
        ),
        ("last_order.amount", {"kind": "feature", "type": "float", "constraints": {"ge": 0}, "services": ["churn_model"]}),
        ("spending.spent_7d", {"kind": "feature", "unit": "EUR", "services": ["churn_model"]}),
        ("customer", {"kind": "entity", "type": "customer_id", "views": ["account", "last_order", "spending"]}),
        ("orders", {"kind": "source", "type": "ParquetSource", "views": ["last_order", "spending"]}),
        ("churn_model", {"kind": "service", "owner": "growth"}),
    ],
)
def test_describe_tells_what_a_definition_is_and_what_uses_it(
    invoke: Invoke, made_shop: Path, name: str, facts: dict[str, object]
) -> None:
    described = json.loads(invoke("-C", made_shop, "describe", name, "--json").stdout)
    assert {fact: described[fact] for fact in facts} == facts
    assert name in invoke("-C", made_shop, "describe", name).stdout


def test_describe_suggests_the_name_that_was_meant(invoke: Invoke, made_shop: Path) -> None:
    failed = invoke("-C", made_shop, "describe", "accout", code=1)
    assert "Did you mean 'account'" in failed.stderr
