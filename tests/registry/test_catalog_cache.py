"""The catalog at hand: it cannot die, and is not left behind by a fork, a restore, or a registry made anew."""

import logging
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from featurestore import Entity, FeatureStore
from featurestore.definitions.catalog import Catalog
from featurestore.errors import DefinitionErrors, FeatureStoreError, RegistryError
from featurestore.registry.catalog_cache import CatalogCache
from featurestore.registry.specs import Put, SpecRegistry
from tests.servers.valkey import wait_until as wait_until_or_fail


def wait_until(condition: Callable[[], object]) -> None:
    wait_until_or_fail(condition, "the watch has not seen it")


AIRPORT, CARRIER = Entity("airport", origin=str), Entity("carrier", carrier=str)


class Source:
    """A registry that a test writes to by hand."""

    def __init__(self) -> None:
        self.catalog = Catalog(1, "one")
        self.error: Exception | None = None
        self.loads = 0
        self.before_load: Callable[[], None] = lambda: None

    def load(self) -> Catalog:
        catalog = self.catalog
        self.loads += 1
        self.before_load()
        if self.error is not None:
            raise self.error
        return catalog

    def state(self) -> tuple[int, str]:
        if self.error is not None:
            raise self.error
        return self.catalog.state


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def watch(source: Source) -> Iterator[CatalogCache]:
    watch = CatalogCache(source, 0.01, lambda: None)
    yield watch
    watch.close()


@pytest.mark.parametrize(
    "error", [RegistryError("gone"), FeatureStoreError("unreadable"), DefinitionErrors([])], ids=lambda error: type(error).__name__
)
def test_any_error_of_ours_is_logged_and_outlived(
    source: Source, watch: CatalogCache, error: FeatureStoreError, caplog: pytest.LogCaptureFixture
) -> None:
    assert watch.current.revision == 1
    with caplog.at_level(logging.WARNING):
        source.error = error
        wait_until(lambda: caplog.records != [])
    assert watch.current.revision == 1
    source.catalog, source.error = Catalog(2, "two"), None
    wait_until(lambda: watch.current.revision == 2)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_died_of_a_fault_is_begun_again(source: Source, watch: CatalogCache) -> None:
    others = threading.enumerate()
    assert watch.current.revision == 1
    [thread] = [thread for thread in threading.enumerate() if thread not in others]
    source.error = KeyError("a fault in the code")
    thread.join(10)
    assert not thread.is_alive()
    source.catalog, source.error = Catalog(2, "two"), None
    wait_until(lambda: watch.current.revision == 2)


@pytest.mark.parametrize("state", [(1, "restored"), (0, ""), (5, "other")])
def test_what_the_registry_says_counts_whatever_its_number(source: Source, watch: CatalogCache, state: tuple[int, str]) -> None:
    source.catalog = Catalog(5, "five")
    assert watch.refresh().state == (5, "five")
    source.catalog = Catalog(*state)
    assert watch.refresh().state == state
    loads = source.loads
    assert watch.refresh().state == state
    assert source.loads == loads, "it is not loaded again while nothing changes"


def test_a_look_that_took_long_does_not_undo_a_later_one(source: Source, watch: CatalogCache) -> None:
    began, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        source.before_load = lambda: None
        began.set()
        assert go_on.wait(10)

    source.before_load = slow
    looking = threading.Thread(target=watch.refresh)
    looking.start()
    assert began.wait(10)
    source.catalog = Catalog(2, "two")
    assert watch.refresh().revision == 2
    go_on.set()
    looking.join(10)
    assert watch.current.revision == 2


def test_the_age_of_what_is_known_is_told(source: Source, watch: CatalogCache) -> None:
    assert watch.current.revision == 1
    source.error = RegistryError("gone")
    wait_until(lambda: watch.age > 0.2)
    source.error = None
    wait_until(lambda: watch.age < 0.2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only where processes fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_goes_on_looking(tmp_path: Path) -> None:
    with FeatureStore(tmp_path, catalog_refresh="50ms") as store:
        store.apply([AIRPORT])
        assert list(store.components.catalog_cache.current.entities) == ["airport"]
        context = multiprocessing.get_context("fork")
        ready, seen = context.Event(), context.Event()

        def child() -> None:
            assert list(store.components.catalog_cache.current.entities) == ["airport"]
            ready.set()
            wait_until(lambda: "carrier" in store.components.catalog_cache.current.entities)
            seen.set()

        forked = context.Process(target=child)
        with store.components.catalog_cache._lock:  # as a thread may hold it at that moment
            forked.start()
        assert ready.wait(30)
        store.apply([AIRPORT, CARRIER])
        assert seen.wait(30)
        forked.join(30)
        assert forked.exitcode == 0


def test_a_registry_that_was_made_anew_or_restored_is_followed(tmp_path: Path) -> None:
    registry, kept = tmp_path / ".featurestore" / "registry.db", tmp_path / "kept.db"
    with FeatureStore(tmp_path) as writer:
        writer.apply([AIRPORT])
    shutil.copy(registry, kept)
    with FeatureStore(tmp_path, catalog_refresh="50ms") as reader:
        with FeatureStore(tmp_path) as writer:
            writer.apply([AIRPORT, CARRIER])
            wait_until(lambda: sorted(reader.components.catalog_cache.current.entities) == ["airport", "carrier"])
            writer.admin.delete_project()
            writer.apply([CARRIER])
            wait_until(lambda: sorted(reader.components.catalog_cache.current.entities) == ["carrier"])
            assert sorted(reader.catalog.entities) == ["carrier"]
        reader.components.registry.close()
        for beside in registry.parent.glob("registry.db*"):
            beside.unlink()
        shutil.copy(kept, registry)
        wait_until(lambda: sorted(reader.components.catalog_cache.current.entities) == ["airport"])


def test_each_change_has_a_stamp_of_its_own(registry: SpecRegistry) -> None:
    seen = {registry.state()}
    for name in ("one", "two", "three"):
        registry.commit(registry.revision(), [Put(Entity(name, key=str), 1)], [])
        assert registry.load().state == registry.state()
        assert registry.state() not in seen
        seen.add(registry.state())
