"""The audit trail (K18), and what may not be taken out of protection without a word (K16)."""

import getpass
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from featurestore import Entity, Feature, FeatureStore, FeatureView, FrameSource, OnDemandView
from featurestore.errors import RequestError, UnprotectError
from featurestore.testing import FakeClock
from tests.projects import store_at

AT = datetime(2020, 1, 1, tzinfo=UTC)
SECRET = "zqxjkv-person"
ROWS = pl.DataFrame({"user": [SECRET, "bob"], "at": [AT, AT], "email": ["a", "b"], "level": [1, 2]})


def view_of(*, pii: bool, name: str = "people", **features: Any) -> type[FeatureView]:
    body = {"__annotations__": {"email": str, **features}, "__module__": __name__, "email": Feature(pii=pii)}
    source = FrameSource("rows", ROWS, event_time="at")
    return type("People", (FeatureView,), body, entity=Entity("person", user=str), source=source, name=name)


def mail_of(*, pii: bool) -> type[OnDemandView]:
    body = {"__annotations__": {"short": str}, "__module__": __name__, "short": Feature(pl.col("email"), pii=pii)}
    return type("Mail", (OnDemandView,), body, inputs=[view_of(pii=True)])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    with store_at(tmp_path / "audited", FakeClock(1_600_000_000_000_000)) as opened:
        yield opened


def test_each_change_is_recorded_with_who_when_and_what(store: FeatureStore) -> None:
    for pii in (True, False):
        store.apply([view_of(pii=pii)], allow_unprotect=True)
        store.materialize()
    store.apply([view_of(pii=False, level=int)])
    store.materialize()
    key = store.keys.create("reader", ["reader project"])
    store.keys.revoke(key.key.id)
    store.keys.revoke(key.key.id)
    store.admin.forget("person", {"user": SECRET}, dry_run=True)
    store.admin.forget("person", {"user": SECRET})
    store.admin.unforget("person", {"user": SECRET}, dry_run=True)
    store.admin.unforget("person", {"user": SECRET})
    found = list(reversed(store.admin.audit_trail()))
    assert sorted(each.action for each in found) == sorted(
        ["apply", "apply", "unprotect", "apply", "key created", "key revoked", "forget", "unforget"]
    )
    assert all(each.who.startswith(f"{getpass.getuser()}@") and each.at == store.components.clock() for each in found)
    told = {each.action: each.what for each in found}
    assert told["forget"]["digests"] == told["unforget"]["digests"]
    assert told["key created"] | {"expires_at": 0} == {
        "key": key.key.id, "name": "reader", "grants": ["reader project"], "expires_at": 0,
    }  # fmt: skip
    assert told["unprotect"]["changed"] == ["feature people.email is personal information (pii=True), and would not be any more"]
    texts = json.dumps([each.to_dict() for each in found])
    assert SECRET not in texts
    assert key.secret.rpartition("_")[2] not in texts
    with pytest.raises(RequestError, match="limit=0"):
        store.admin.audit_trail(0)
    store.admin.delete_project()
    assert "teardown" in {each.action for each in store.admin.audit_trail()}
    assert len(store.admin.audit_trail()) == 9


def test_a_rollback_and_its_end_are_recorded(store: FeatureStore) -> None:
    store.apply([view_of(pii=True)])
    store.materialize()
    store.apply([view_of(pii=True, level=int)])
    store.materialize()
    store.versions.rollback("people")
    store.versions.undo_rollback("people")
    assert [each.what for each in store.admin.audit_trail() if each.action == "rollback"] in (
        [{"view": "people", "to": 1}, {"view": "people", "undo": True}],
        [{"view": "people", "undo": True}, {"view": "people", "to": 1}],
    )


def test_what_was_personal_is_not_opened_without_a_word(store: FeatureStore) -> None:
    store.apply([view_of(pii=True), mail_of(pii=True)])
    plan = store.plan([view_of(pii=False)])
    assert "! unprotects: feature people.email is personal information" in str(plan)
    assert plan.to_dict()["unprotected"] == list(plan.unprotected)
    with pytest.raises(UnprotectError, match=r"people\.email"):
        store.apply([view_of(pii=False)])
    with pytest.raises(UnprotectError, match=r"mail\.short"):
        store.apply([mail_of(pii=False)])
    assert store.catalog.views["people"].spec.features[0].pii
    store.apply([view_of(pii=True, level=int)])  # another change of the view is none of its protection
    store.apply([view_of(pii=False, level=int)], allow_unprotect=True)
    assert not store.catalog.views["people"].spec.features[0].pii
    assert store.plan([view_of(pii=False, level=int)]).unprotected == ()


def test_it_is_not_opened_by_way_of_a_removal(store: FeatureStore) -> None:
    (store.settings.root / "definitions").mkdir()
    store.apply([view_of(pii=True)])
    store.apply()  # the folder is empty, so all is removed
    with pytest.raises(UnprotectError):
        store.apply([view_of(pii=False)])
    store.apply([view_of(pii=True)])
