"""Sources in object storage: the contract on a real server, addresses and globs, what is said where something is wrong."""

from collections.abc import Callable, Iterator

import pytest

from featurestore.testing.sources import Place, SourceReaderContract, new_folder
from tests.servers.seaweed import KEYS, SeaweedServer
from tests.sources.object_places import CSVObject, DeltaObjects, Objects, ParquetObjectHive, ParquetObjects


class ObjectSourceContract(SourceReaderContract):
    kind: type[Objects]

    @pytest.fixture(scope="class")
    @classmethod
    def new_place(cls, tmp_path_factory: pytest.TempPathFactory, seaweed: SeaweedServer) -> Iterator[Callable[[], Place]]:
        """The keys are in the environment, where the store is say the settings."""
        options = {"endpoint_url": seaweed.url, "region": "us-east-1", "allow_http": "true"}
        kind = type(cls.kind.__name__, (cls.kind,), {"options": options})
        with pytest.MonkeyPatch.context() as patch:
            for name, value in KEYS.items():
                patch.setenv(name, value)
            yield lambda: kind(new_folder(tmp_path_factory))


class TestParquetObjects(ObjectSourceContract):
    kind = ParquetObjects


class TestParquetObjectHive(ObjectSourceContract):
    kind = ParquetObjectHive


class TestCSVObject(ObjectSourceContract):
    kind = CSVObject


class TestDeltaObjects(ObjectSourceContract):
    kind = DeltaObjects
