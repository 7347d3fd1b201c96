"""A folder of a file system."""

import errno
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


def test_stamps_differ_even_where_the_clock_stands_and_numbers_are_used_again(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    stamp = folder.create("a", b"")
    assert stamp
    times = [int(stamp.partition("-")[2])]
    for number in range(50):
        stamp = folder.swap("a", b"%d" % number, stamp)
        assert stamp
        times.append(int(stamp.partition("-")[2]))
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
