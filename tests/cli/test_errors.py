"""Errors: what is wrong, what to do, and no traceback; 1 for errors, 2 for wrong usage, 130 for an interruption."""

from pathlib import Path
from typing import Any

import pytest

from featurestore import FeatureStore
from featurestore.cli.loader import COMMANDS as ENTRIES
from featurestore.cli.loader import load
from tests.cli.conftest import Invoke

COMMANDS = sorted(name for name in ENTRIES if not hasattr(load(name), "commands"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["online", "churn_modle", "customer_id=1001"], "Did you mean 'churn_model'?"),
        (["online", "last_order.amont", "customer_id=1001"], "Did you mean 'last_order.amount' or"),
        (["online", "account", "custmer_id=1001"], "Did you mean 'customer_id'?"),
        (["online", "account"], "These features are looked up by customer_id. Say customer_id=… too."),
        (["online", "account", "customer_id=many"], "'customer_id' is Int64"),
        (["online", "account", "customer_id=1", "--at", "yesterday"], "'yesterday' is not a time"),
        (["online", "account", "--rows", "nope.json"], "cannot be read"),
        (["online", "account", "--rows", "README.md"], "is not JSON"),
        (["materialize", "acount"], "Did you mean 'account'?"),
        (["materialize", "--end", "soon"], "'soon' is not a time"),
        (["train", "nope.parquet", "account"], "is not there"),
        (["train", "spine.parquet", "account"], "no time column 'event_time'"),
        (["train", "spine.parquet", "acount", "--time", "asked_at"], "Did you mean 'account'?"),
        (["sql", "select * from acount"], "Did you mean 'account'?"),
        (["sql", "selec 1"], "syntax error"),
        (["status", "acount"], "Did you mean 'account'?"),
        (["init"], "does not overwrite"),
    ],
)
def test_errors_end_with_1(invoke: Invoke, made_shop: Path, words: list[str], told: str) -> None:
    result = invoke("-C", made_shop, *words, code=1)
    assert result.stderr.startswith("Error: ")
    assert told in " ".join(result.stderr.split())
    assert result.stdout == ""


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["plan", "--nonsense"],
        ["train", "spine.parquet"],
        ["online", "customer_id=1001"],
        ["online", "account", "customer_id=1", "--rows", "rows.json"],
        ["status", "--rejected"],
        ["sql", "select 1", "--limit", "0"],
    ],
)
def test_wrong_usage_ends_with_2(invoke: Invoke, made_shop: Path, words: list[str]) -> None:
    assert "Usage: " in invoke("-C", made_shop, *words, code=2).stderr


@pytest.mark.parametrize("words", [["plan"], ["apply"], ["materialize"], ["status"], ["sql", "select 1"], ["online", "a", "b=1"]])
def test_where_there_is_no_project_nothing_is_written(invoke: Invoke, tmp_path: Path, words: list[str]) -> None:
    assert "There is no project in" in invoke("-C", tmp_path, *words, code=1).stderr
    assert list(tmp_path.iterdir()) == []


def test_init_writes_nothing_where_a_file_is_in_the_way(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "spine.parquet").touch()
    assert "would overwrite spine.parquet" in invoke("-C", tmp_path, "init", code=1).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["spine.parquet"]


def test_all_faults_of_definitions_are_told_with_their_places(invoke: Invoke, shop: Path) -> None:
    definitions = shop / "definitions" / "shop.py"
    lines = definitions.read_text().replace("coupon: str | None", "coupon: complex").replace("ge=1, le=100", "pattern='x'")
    definitions.write_text(lines.replace("Account.tier", "Account.teir"))
    numbers = [
        number for number, line in enumerate(definitions.read_text().splitlines(), 1) if "complex" in line or "pattern=" in line
    ]
    for command in ("plan", "apply"):
        told = invoke("-C", shop, command, code=1).stderr
        for number in numbers:
            assert f"definitions/shop.py:{number}: " in told
    assert FeatureStore(shop).catalog.revision == 1


def test_a_wrong_setting_is_told(invoke: Invoke, shop: Path) -> None:
    with (shop / "featurestore.toml").open("a") as file:
        file.write('onlin = "redis://localhost"\n')
    assert "Did you mean 'online'" in invoke("-C", shop, "status", code=1).stderr


def test_an_interruption_ends_with_130(invoke: Invoke, made_shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(store: FeatureStore, *_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FeatureStore, "plan", interrupted)
    invoke("-C", made_shop, "plan", code=130)


def test_there_is_every_command() -> None:
    assert {"init", "plan", "apply", "materialize", "train", "online", "sql", "status", "demo"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_and_fits(invoke: Invoke, command: str) -> None:
    told = invoke(command, "--help").stdout
    assert "Example" in told
    assert f"$ featurestore {command}" in told
    # An example is to be copied, so no line of it is broken.
    assert max(len(line) for line in told.splitlines() if "$ featurestore" not in line) <= 80


def test_help_of_all(invoke: Invoke) -> None:
    told = invoke("--help").stdout
    for command in COMMANDS:
        assert f"\n  {command} " in told
