"""A project of the state before schema versions opens as it is: its registry, on SQLite and PostgreSQL, and its history."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl
import psycopg
import pytest

from featurestore import FeatureStore
from featurestore.registry.schema import SCHEMA_VERSION
from tests import before

BEGIN = datetime(2013, 7, 1, tzinfo=UTC)
NOW = datetime(2013, 7, 4, tzinfo=UTC)
CUSTOMERS = [{"customer_id": customer} for customer in range(1, 7)]
FORGOTTEN = 6


# -- what is asked of a store, each in one place ----------------------------------------------------------------------------


def list_runs(store: FeatureStore) -> list[Any]:
    return store.runs.list()


def list_versions(store: FeatureStore, view: str) -> list[Any]:
    return list(store.versions.list(view))


def list_keys(store: FeatureStore) -> list[Any]:
    return store.keys.list()


def list_rejected(store: FeatureStore, view: str) -> pl.DataFrame:
    return store.runs.rejected_rows(view=view)


def rebuild(store: FeatureStore) -> dict[str, int]:
    return store.admin.rebuild_online()


def rows_in_history(store: FeatureStore, view: str) -> int:
    return int(store.sql(f"select count(*) from {view}").item())  # noqa: S608  a view's name


def schema_version(store: FeatureStore) -> int:
    database = store.components.registry.database
    with database.reading() as connection:
        return int(connection.execute(database.tables.schema.select()).one().version)


# -----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FeatureStore]:
    """The project of before, opened with the code of today."""
    folder = before.unpack_project(tmp_path)
    url, server = "sqlite:///.featurestore/registry.db", None
    if request.param == "postgres":
        server, name = request.getfixturevalue("postgres_url"), f"before_{uuid4().hex}"
        with psycopg.connect(server.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(f'create database "{name}"')
        url = server.replace("/postgres?", f"/{name}?")
    before.load_registry(url, folder)
    with FeatureStore(folder, registry=url, clock=lambda: NOW) as opened:
        yield opened
    if server is not None:
        with psycopg.connect(server.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(f'drop database "{name}"')


SAID = before.said()
EXPECTED = [tuple(row) for row in SAID["trained"]]
FEATURES = ["amount", "large", "spent_1d"]


def of_frame(frame: pl.DataFrame) -> list[tuple[Any, ...]]:
    return frame.select(FEATURES).rows()


def trained(store: FeatureStore) -> list[tuple[Any, ...]]:
    spine = pl.DataFrame(CUSTOMERS).with_columns(at=pl.lit(NOW))
    return of_frame(store.training_frame(spine, "score", time="at"))


def online(store: FeatureStore) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in FEATURES) for row in store.online("score", CUSTOMERS).to_dicts()]


def test_its_registry_is_migrated_and_says_what_it_said(store: FeatureStore) -> None:
    assert sorted(store.catalog.views) == ["last_order", "spending"]
    assert schema_version(store) == SCHEMA_VERSION
    assert {view.view: view.rows for view in store.status()} == SAID["rows"]
    runs = [[run.id, run.state, run.rows_read, run.rows_written, run.rows_rejected] for run in list_runs(store)]
    assert runs == SAID["runs"]
    assert [each.version for each in list_versions(store, "last_order")] == [1]
    assert list_rejected(store, "last_order").height == SAID["rejected"] == 1
    assert not store.plan().changes, "the definitions are those that were applied"


def test_its_keys_count(store: FeatureStore) -> None:
    [key] = list_keys(store)
    assert (key.name, [str(grant) for grant in key.grants], key.state(NOW)) == ("dashboard", ["reader service:score"], "active")
    key_id, secret = store.keys.split(SAID["key"]) or ("", "")
    assert key_id == key.id
    assert key.fits(secret)
    assert not key.fits(secret[::-1])


def test_its_history_is_trained_on(store: FeatureStore) -> None:
    assert trained(store) == EXPECTED == [tuple(row) for row in SAID["online"]]


def test_its_online_store_is_written_from_the_history(store: FeatureStore) -> None:
    rebuild(store)
    assert online(store) == EXPECTED


def test_nothing_of_it_is_new(store: FeatureStore) -> None:
    rebuild(store)
    for _ in range(2):
        assert {view.view: view.rows_written for view in store.materialize()} == {"last_order": 0, "spending": 0}
        assert {view: rows_in_history(store, view) for view in SAID["rows"]} == SAID["rows"]
        assert (trained(store), online(store)) == (EXPECTED, EXPECTED)


def test_a_backfill_that_it_did_is_not_done_again(store: FeatureStore) -> None:
    runs = {run.id: run.span.get("backfill") for run in list_runs(store)}
    assert len([span for span in runs.values() if span]) == 3
    store.materialize(["last_order"], chunk="1d")
    later = [run.span.get("backfill") for run in list_runs(store) if run.id not in runs]
    assert [span for span in later if span and span in runs.values()] == []


def test_it_takes_pushes_and_knows_those_it_took(store: FeatureStore) -> None:
    store.materialize()
    known = {"order_id": 60, "customer_id": 2, "ordered_at": BEGIN + timedelta(hours=60), "amount": 99.0}
    new = {"order_id": 61, "customer_id": 3, "ordered_at": BEGIN + timedelta(hours=61), "amount": 7.0}
    assert [each.rows_new for each in store.push("orders", [known])] == [0, 0]
    assert [each.rows_new for each in store.push("orders", [known, new])] == [1, 1]
    changed = list(EXPECTED)
    changed[2] = (7.0, False, EXPECTED[2][2] + 7.0)
    assert (trained(store), online(store)) == (changed, changed)


def test_who_was_forgotten_stays_so(store: FeatureStore) -> None:
    row = {"order_id": 99, "customer_id": FORGOTTEN, "ordered_at": BEGIN + timedelta(hours=70), "amount": 1.0}
    store.push("orders", [row])
    store.materialize(start=BEGIN)
    store.materialize()
    assert (trained(store)[FORGOTTEN - 1], online(store)[FORGOTTEN - 1]) == ((None, None, 0.0),) * 2
    assert FORGOTTEN not in store.sql("select customer_id from last_order")["customer_id"]
