"""A folder in object storage."""

from functools import partial

import pytest

from featurestore.offline.folder_probe import probe
from featurestore.offline.object_folder import ObjectFolder
from featurestore.testing.folders import FolderContract, Make


class TestObjectFolder(FolderContract):
    rounds = 4  # SeaweedFS answers one at a time, and lets the others wait for a second each

    @pytest.fixture
    def make(self, s3_url: str) -> Make:
        return partial(ObjectFolder, s3_url)


def test_it_creates_once_and_swaps(s3_url: str) -> None:
    folder = ObjectFolder(s3_url)
    assert probe(folder)
    assert list(folder.list("")) == []


@pytest.mark.slow
def test_of_many_threads_that_create_one_succeeds(s3_url: str) -> None:
    class Patient(FolderContract):
        rounds = 20

    Patient().test_of_threads_that_create_one_succeeds(ObjectFolder(s3_url))
