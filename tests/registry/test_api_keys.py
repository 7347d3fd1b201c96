"""API keys on every database: shown once, kept as a digest, gone once revoked or expired."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from featurestore.access.grants import Grant
from featurestore.errors import ConfigError, DefinitionError, NotFoundError
from featurestore.registry.api_keys import Keys
from featurestore.registry.specs import SpecRegistry
from tests.registry.conftest import BEGIN
from tests.registry.samples import ALL


@pytest.fixture
def keys(registry: SpecRegistry) -> Keys:
    registry.commit(0, ALL, [])
    return Keys(registry)


def test_a_key_is_shown_once_and_recognized(keys: Keys, open_registry: Callable[[], SpecRegistry]) -> None:
    made = keys.create("dashboard", ["reader service:delay_model", "reader view:weather pii"])
    number, secret = Keys.split(made.secret) or ("", "")
    [kept] = Keys(open_registry()).list()
    assert (kept.id, kept.name, kept.last_four) == (number, "dashboard", secret[-4:])
    assert kept.grants == (Grant("reader", "service", "delay_model"), Grant("reader", "view", "weather", pii=True))
    assert kept.fits(secret)
    assert not kept.fits(secret[:-1] + "g")
    assert not kept.fits("")
    assert len(secret) == 64
    assert secret not in repr((made, kept, kept.to_dict(), kept.digest))


def test_no_column_holds_the_secret(keys: Keys, registry: SpecRegistry) -> None:
    made = keys.create("dashboard", ["reader project"])
    table = registry.database.tables.key
    with registry.database.reading() as connection:
        rows = [tuple(row) for row in connection.execute(table.select().where(table.c.id == made.key.id)).all()]
    assert made.secret[-64:] not in repr(rows)
    assert made.secret[-4:] in repr(rows)


def test_a_key_is_revoked_for_good(keys: Keys) -> None:
    first, second = keys.create("a", ["reader project"]).key, keys.create("b", ["admin project"]).key
    revoked = keys.revoke(first.id)
    assert revoked.revoked_at is not None
    assert keys.revoke(first.id) == revoked
    assert [each.state(BEGIN) for each in keys.list()] == ["revoked", "active"]
    assert keys.list()[1] == second


def test_a_key_expires(keys: Keys) -> None:
    key = keys.create("a", ["reader project"], expires="90d").key
    assert key.expires_at == key.created_at.replace(microsecond=0) + timedelta(days=90)
    assert key.state(key.expires_at - timedelta(microseconds=1)) == "active"
    assert key.state(key.expires_at) == "expired"
    until = datetime(2020, 1, 1, tzinfo=UTC)
    assert keys.create("b", ["reader project"], expires=until).key.expires_at == until
    assert keys.create("c", ["reader project"]).key.expires_at is None


def test_a_project_knows_its_own_keys_only(keys: Keys, url: str, registry: SpecRegistry, tmp_path: Path) -> None:
    made = keys.create("a", ["reader project"]).key
    neighbour = SpecRegistry(url, f"{registry.project}x", tmp_path, registry.clock)
    assert Keys(neighbour).list() == []
    with pytest.raises(NotFoundError, match=made.id):
        Keys(neighbour).revoke(made.id)
    neighbour.close()


@pytest.mark.parametrize(
    ("name", "grants", "expires", "error", "said"),
    [
        ("", ["reader project"], None, ConfigError, "needs a name"),
        ("a\nb", ["reader project"], None, ConfigError, "needs a name"),
        ("a", [], None, ConfigError, "may do nothing"),
        ("a", ["reads project"], None, ConfigError, "Did you mean 'reader'"),
        ("a", ["reader service:delay_modle"], None, NotFoundError, "Did you mean 'delay_model'"),
        ("a", ["reader view:delay_model"], None, NotFoundError, "There is 'weather'"),
        ("a", ["reader project"], "soon", DefinitionError, "not a duration"),
        ("a", ["reader project"], datetime(2000, 1, 1, tzinfo=UTC), ConfigError, "past"),
    ],
)
def test_what_makes_no_key(keys: Keys, name: str, grants: list[str], expires: object, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        keys.create(name, grants, expires=expires)  # type: ignore[arg-type]  # some are wrong
    assert keys.list() == []


@pytest.mark.parametrize("text", ["", "fs", "fs_", "fs_a", "fs_a_", "fs__b", "xx_a_b", "Bearer fs_a_b"])
def test_what_is_no_key(text: str) -> None:
    assert Keys.split(text) is None
