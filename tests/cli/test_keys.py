"""The keys commands: a key is printed once, listed without its secret, and revoked."""

import json
import re
from pathlib import Path

import pytest

from tests.cli.conftest import Invoke


def test_a_key_is_made_listed_and_revoked(shop: Path, invoke: Invoke) -> None:
    made = invoke("-C", shop, "keys", "create", "dashboard", "--role", "reader", "--all", "--expires", "90d")
    [(number, secret)] = re.findall(r"fs_([0-9a-f]{16})_([0-9a-f]{64})", made.output)
    assert "reader project" in made.output
    listed = invoke("-C", shop, "keys", "list", "--json").output
    [told] = json.loads(listed)
    assert (told["id"], told["name"], told["state"], told["last_four"]) == (number, "dashboard", "active", secret[-4:])
    assert secret not in listed
    assert "active" in invoke("-C", shop, "keys", "list").output
    assert "Revoked" in invoke("-C", shop, "keys", "revoke", number).output
    assert json.loads(invoke("-C", shop, "keys", "list", "--json").output)[0]["state"] == "revoked"


def test_a_script_reads_the_key(shop: Path, invoke: Invoke) -> None:
    words = ("--role", "reader", "--role", "writer", "--view", "product_prices", "--pii", "--json")
    views = json.loads(invoke("-C", shop, "status", "--json").output)
    view = views[0]["view"]
    words = tuple(view if word == "product_prices" else word for word in words)
    made = json.loads(invoke("-C", shop, "keys", "create", "feed", *words).output)
    assert made["grants"] == [f"reader view:{view} pii", f"writer view:{view} pii"]
    assert made["key"].startswith(f"fs_{made['id']}_")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("create", "a", "--role", "reader"), 2, "where the role counts"),
        (("create", "a", "--role", "reader", "--all", "--view", "x"), 2, "where the role counts"),
        (("create", "a", "--all"), 2, "--role"),
        (("create", "a", "--role", "raeder", "--all"), 1, "Did you mean 'reader'"),
        (("create", "a", "--role", "reader", "--view", "nothing"), 1, "No applied view"),
        (("create", "a", "--role", "reader", "--all", "--expires", "soon"), 1, "not a duration"),
        (("revoke", "0123"), 1, "No key is named"),
    ],
)
def test_wrong_words_are_told(shop: Path, invoke: Invoke, words: tuple[str, ...], code: int, said: str) -> None:
    assert said in re.sub(r"[\s│]+", " ", invoke("-C", shop, "keys", *words, code=code).output)
