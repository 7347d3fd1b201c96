"""Histories in object storage: the contracts of every part of an offline store, on a real S3 server."""

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import polars as pl
import pytest
from deltalake import DeltaTable

from featurestore.locks import FileLocks
from featurestore.offline.delta.feature_log import DeltaFeatureLog
from featurestore.offline.delta.history import DeltaStore
from featurestore.offline.delta.maintenance import DeltaMaintenance
from featurestore.offline.object_folder import ObjectFolder
from featurestore.testing import FakeClock
from featurestore.testing.feature_log import FeatureLogContract
from featurestore.testing.offline import PLAIN, OfflineStoreContract, rows, run
from featurestore.testing.push_log import PushLogContract
from featurestore.testing.upkeep import TableMaintenanceContract
from tests.offline.delta_limits import DeltaLimits


@pytest.fixture
def locks(tmp_path: Path) -> FileLocks:
    """What a registry gives a store that has no locks of its own."""
    return FileLocks(tmp_path / "locks")


@pytest.mark.slow
class TestObjectStore(DeltaLimits, OfflineStoreContract):
    @pytest.fixture
    def store(self, s3_url: str, locks: FileLocks) -> DeltaStore:
        return DeltaStore(ObjectFolder(s3_url), locks=locks)


@pytest.mark.slow
class TestObjectPushLog(DeltaLimits, PushLogContract):
    @pytest.fixture
    def store(self, s3_url: str, locks: FileLocks) -> DeltaStore:
        return DeltaStore(ObjectFolder(s3_url), locks=locks)


@pytest.mark.slow
class TestObjectUpkeep(DeltaLimits, TableMaintenanceContract):
    writes = ((ObjectFolder, "write"), (ObjectFolder, "create"), (ObjectFolder, "delete"))

    @pytest.fixture
    def store(self, s3_url: str, locks: FileLocks, clock: FakeClock) -> DeltaStore:
        return DeltaStore(ObjectFolder(s3_url), locks=locks, clock=clock)

    @pytest.fixture
    def upkeep(self, store: DeltaStore, clock: FakeClock) -> DeltaMaintenance:
        return DeltaMaintenance(store, clock=clock)

    @pytest.fixture
    def make(self, s3_url: str, locks: FileLocks) -> Callable[[FakeClock], tuple[DeltaStore, DeltaMaintenance]]:
        urls: dict[FakeClock, str] = {}

        def make(clock: FakeClock) -> tuple[DeltaStore, DeltaMaintenance]:
            folder = ObjectFolder(urls.setdefault(clock, f"{s3_url}/{uuid4().hex}"))
            store = DeltaStore(folder, locks=locks, clock=clock)
            return store, DeltaMaintenance(store, clock=clock)

        return make


@pytest.mark.slow
class TestObjectFeatureLog(FeatureLogContract):
    @pytest.fixture(autouse=True)
    def url(self, s3_url: str) -> str:
        self._url = s3_url
        return s3_url

    @pytest.fixture
    def log(self, url: str, locks: FileLocks) -> DeltaFeatureLog:
        return DeltaFeatureLog(ObjectFolder(url), locks=locks)

    def make(self, folder: str) -> DeltaFeatureLog:
        return DeltaFeatureLog(ObjectFolder(f"{self._url}/{Path(folder).name}"), locks=FileLocks(Path(folder) / "locks"))


def test_anything_that_reads_delta_reads_it(s3_url: str, locks: FileLocks) -> None:
    store = DeltaStore(ObjectFolder(s3_url), locks=locks)
    assert run(store, PLAIN, 1, rows(("JFK", 0, 5, 1.0), ("LGA", -1, 5, None))) == 2
    store.log.append(PLAIN, rows(("JFK", 3, 5, 1.0)))
    assert store.snapshot(PLAIN).rows == 3
    url = store.folder(PLAIN).address().url
    frame = pl.DataFrame(DeltaTable(url).to_pyarrow_table())
    assert sorted(frame["origin"].to_list()) == ["JFK", "LGA"]
