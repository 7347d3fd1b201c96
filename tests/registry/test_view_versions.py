"""The versions of a view without the stores: they are what the store says of them, or nothing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from featurestore import FeatureStore
from featurestore.errors import NotFoundError
from featurestore.materialization.registry_versions import registry_versions
from featurestore.project_registry import ProjectRegistry
from featurestore.registry.view_versions import ViewVersion
from featurestore.testing import FakeClock
from tests.oracle import Row
from tests.projects import frame_of, parquet_of, store_at, view_of
from tests.test_versions import FEATURES, KEYS, POLARS, POLARS_KEYS, ROWS, doubled


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(10)


@pytest.fixture
def store(tmp_path: Path, clock: FakeClock) -> Iterator[FeatureStore]:
    with store_at(tmp_path / "project", clock) as opened:
        yield opened


@pytest.fixture
def source(tmp_path: Path) -> Any:
    return parquet_of(tmp_path / "data", [frame_of(ROWS, POLARS_KEYS, POLARS)])


def same(store: FeatureStore, name: str = "v") -> list[ViewVersion]:
    with ProjectRegistry(store.settings) as registry:
        versions = registry_versions(registry, name)
    assert versions == store.versions.list(name)
    return versions


def test_they_are_what_the_store_says(store: FeatureStore, source: Any, clock: FakeClock) -> None:
    plain, changed = view_of(source, KEYS, FEATURES), view_of(source, KEYS, FEATURES, transform=doubled)
    store.apply([plain])
    assert [(version.rows, version.served_since is not None) for version in same(store)] == [(0, True)]
    store.materialize()
    clock.micros = 20
    store.apply([changed])
    assert [(version.rows, version.served_since is not None) for version in same(store)] == [(3, True), (0, False)]
    store.materialize()
    assert [version.served_since is not None for version in same(store)] == [False, True]
    store.versions.rollback("v")
    assert [version.pinned for version in same(store)] == [True, False]
    store.versions.undo_rollback("v")
    assert [version.rows for version in same(store)] == [3, 3]
    registry = store.components.registry
    registry.commit(registry.revision(), [], [("view", "v")])
    assert [version.rows for version in same(store)] == [None, None]
    store.apply([plain])
    assert [version.rows for version in same(store)] == [None, None, 0]


def test_rows_that_wait_for_a_run_are_left_to_the_store(store: FeatureStore, source: Any) -> None:
    store.apply([view_of(source, KEYS, FEATURES)])
    store.materialize()
    store.push(source, frame_of([Row(("c",), 9, 9, (1.0, 1))], POLARS_KEYS, POLARS))
    with ProjectRegistry(store.settings) as registry:
        assert registry_versions(registry, "v") is None
    assert [version.rows for version in store.versions.list("v")] == [4]


def test_a_view_that_never_was_is_an_error_that_names_the_views(store: FeatureStore, source: Any) -> None:
    store.apply([view_of(source, KEYS, FEATURES)])
    with ProjectRegistry(store.settings) as registry, pytest.raises(NotFoundError, match="feature view") as raised:
        registry_versions(registry, "w")
    with pytest.raises(NotFoundError) as of_the_store:
        store.versions.list("w")
    assert str(raised.value) == str(of_the_store.value)
