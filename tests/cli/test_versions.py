"""versions, rollback, and materialize in spans: what they print for people, and for scripts."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Invoke


@pytest.fixture
def changed(invoke: Invoke, shop: Path) -> Path:
    """A shop in which a view was changed, and not yet materialized."""
    definitions = shop / "definitions" / "shop.py"
    definitions.write_text(definitions.read_text().replace('unit="EUR", ge=0', 'unit="EUR", ge=1'))
    assert "version 1 goes on being served until then" in invoke("-C", shop, "apply", "--yes").stdout
    return shop


def versions(invoke: Invoke, shop: Path) -> list[tuple[Any, ...]]:
    found = json.loads(invoke("-C", shop, "versions", "last_order", "--json").stdout)
    return [(each["version"], each["rows"], each["applied"], each["served_since"] is not None, each["pinned"]) for each in found]


def test_versions_and_rollback(invoke: Invoke, changed: Path) -> None:
    assert versions(invoke, changed) == [(1, 600, False, True, False), (2, 0, True, False, False)]
    summary = json.loads(invoke("-C", changed, "materialize", "last_order", "--chunk", "400d", "--json").stdout)
    assert [(each["view"], each["data_version"]) for each in summary] == [("last_order", 2)]
    assert [each[3] for each in versions(invoke, changed)] == [False, True]
    assert "are given version 1" in invoke("-C", changed, "rollback", "last_order").stdout
    assert [each[3:] for each in versions(invoke, changed)] == [(True, True), (False, False)]
    told = invoke("-C", changed, "versions", "last_order").stdout
    assert "pinned" in told
    assert "since 20" in told
    refused = invoke("-C", changed, "rollback", "last_order", "--undo", "--to", "1", code=2).stderr
    assert "without --to" in " ".join(refused.replace("│", " ").split())
    undone = json.loads(invoke("-C", changed, "rollback", "last_order", "--undo", "--json").stdout)
    assert undone == {"view": "last_order", "served": 2, "applied": 2, "pinned": False}
    again = json.loads(invoke("-C", changed, "rollback", "last_order", "--to", "1", "--json").stdout)
    assert again == {"view": "last_order", "served": 1, "applied": 2, "pinned": True}


def test_a_rollback_that_cannot_be_is_told(invoke: Invoke, changed: Path) -> None:
    assert "no version that was served before version 1" in invoke("-C", changed, "rollback", "last_order", code=1).stderr
    assert "was not rolled back" in invoke("-C", changed, "rollback", "last_order", "--undo", code=1).stderr
    assert "applied feature view" in invoke("-C", changed, "rollback", "last_ordr", code=1).stderr


def test_a_backfill_that_cannot_be_is_told(invoke: Invoke, shop: Path) -> None:
    assert "is not a duration" in invoke("-C", shop, "materialize", "--chunk", "soon", code=1).stderr
    assert "--chunk" in invoke("-C", shop, "materialize", "--chunk", "1d", "--rebuild-online", code=2).stderr


@pytest.mark.parametrize("command", ["versions", "rollback", "materialize"])
def test_the_help_shows_an_example(invoke: Invoke, command: str) -> None:
    assert f"featurestore {command}" in invoke(command, "--help").stdout
