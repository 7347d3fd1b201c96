"""A folder of a file system."""

import errno
import os
from functools import partial
from pathlib import Path

import pytest

from featurestore import durable
from featurestore.offline.folder_probe import probe
from featurestore.offline.local_folder import LocalFolder
from featurestore.testing.folders import FolderContract, Make


class TestLocalFolder(FolderContract):
    @pytest.fixture
    def make(self, tmp_path: Path) -> Make:
        return partial(LocalFolder, tmp_path / "folder")


def test_it_creates_once_and_swaps(tmp_path: Path) -> None:
    assert probe(LocalFolder(tmp_path))
    assert list(LocalFolder(tmp_path).list("")) == []


def test_a_stamp_differs_from_the_former_one_by_time_even_where_the_clock_was_put_back(tmp_path: Path) -> None:
    """The number of a file that was replaced may be the next one's, and both may have come within one tick of the clock."""
    folder = LocalFolder(tmp_path)
    folder.write("a", b"")
    os.utime(tmp_path / "a", (4e9, 4e9))
    times = []
    for number in range(20):
        [entry] = folder.list("")
        times.append(int(entry.stamp.split("-")[1]))
        assert folder.swap("a", b"%d" % number, entry.stamp)
    assert times == sorted(set(times))


def test_a_system_without_locks_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = LocalFolder(tmp_path)
    stamp = folder.create("a", b"")
    assert stamp
    monkeypatch.setattr(durable, "fcntl", None)
    with pytest.raises(OSError, match="not replaced by comparison") as raised:
        folder.swap("a", b"b", stamp)
    assert raised.value.errno == errno.ENOTSUP
    assert not probe(folder)


def test_an_address_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert LocalFolder(Path("lake")).address("a/b").url == str(tmp_path / "lake/a/b")
