"""Folders on a disk of this machine."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import scandir, stat_result
from pathlib import Path
from stat import S_ISREG
from typing import IO, TypeVar

from featurestore.durable import create_file, is_removed_empty, make_folders, remove, replace_file, swap_file
from featurestore.given_paths import folder_path
from featurestore.offline.folder import Address, Content, Entry, FolderAdapter

T = TypeVar("T")
_ATTEMPTS = 20


class LocalFolder(FolderAdapter):
    """Keep files in a folder of a file system.

    Args:
        path: the folder. It is made when something is written.

    Example:
        >>> import tempfile
        >>> folder = LocalFolder(Path(tempfile.mkdtemp()))
        >>> folder.create("numbers/1", b"one") is None, folder.create("numbers/1", b"another") is None
        (False, True)
        >>> [entry.name for entry in folder.list("numbers/")], folder.read("numbers/1")
        (['numbers/1'], b'one')
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def open(cls, url: str, root: Path, options: Mapping[str, str]) -> "LocalFolder":
        """See ``FolderAdapter.open``."""
        return cls(folder_path(url, root))

    def list(self, prefix: str, *, after: str = "") -> Sequence[Entry]:
        """See ``Folder.list``."""
        entries = []
        folders = [prefix[: prefix.rfind("/") + 1]]
        while folders:
            folder = folders.pop()
            try:
                with scandir(self._path / folder) as there:
                    for item in there:
                        name = folder + item.name
                        if not name.startswith(prefix):
                            continue
                        try:
                            if item.is_file(follow_symlinks=False):
                                if name > after:
                                    entries.append(_entry(name, item.stat()))
                            elif item.is_dir(follow_symlinks=False) and (f"{name}/" > after or after.startswith(f"{name}/")):
                                folders.append(f"{name}/")
                        except FileNotFoundError:  # deleted meanwhile
                            continue
            except (FileNotFoundError, NotADirectoryError):
                continue
        return sorted(entries, key=lambda entry: entry.name)

    def folders(self, prefix: str) -> Sequence[str]:
        """See ``Folder.folders``."""
        try:
            with scandir(self._path / prefix) as there:
                return sorted(f"{prefix}{item.name}/" for item in there if item.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def head(self, name: str) -> Entry | None:
        """See ``Folder.head``."""
        try:
            status = (self._path / name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return _entry(name, status) if S_ISREG(status.st_mode) else None

    def stamps(self, names: Sequence[str]) -> Sequence[str | None]:
        """See ``Folder.stamps``."""
        entries = map(self.head, names)
        return [None if entry is None else entry.stamp for entry in entries]

    def read(self, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        """See ``Folder.read``."""
        with (self._path / name).open("rb") as file:
            file.seek(start)
            return file.read(length)

    def create(self, name: str, content: bytes) -> str | None:
        """See ``Folder.create``."""
        status = _in_folder(self._path / name, lambda path: create_file(path, content))
        return None if status is None else _stamp(status)

    def swap(self, name: str, content: bytes, stamp: str) -> str | None:
        """See ``Folder.swap``."""
        status = swap_file(self._path / name, content, lambda status: _stamp(status) == stamp)
        return None if status is None else _stamp(status)

    def write(self, name: str, content: Content) -> int:
        """See ``Folder.write``."""
        size = 0

        def fill(file: IO[bytes]) -> None:
            nonlocal size
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            size = file.tell()

        _in_folder(self._path / name, lambda path: replace_file(path, fill))
        return size

    def delete(self, names: Iterable[str], *, lasting: bool = False) -> None:
        """See ``Folder.delete``. A folder without files is none, so one that is empty goes with its last file."""
        paths = [self._path / name for name in names]
        remove(paths, lasting=lasting)
        for folder in sorted({path.parent for path in paths}, key=lambda path: -len(path.parts)):
            while folder != self._path and is_removed_empty(folder):
                folder = folder.parent

    def inside(self, name: str) -> "LocalFolder":
        """See ``Folder.inside``."""
        return LocalFolder(self._path / name)

    def address(self, name: str = "") -> Address:
        """See ``Folder.address``."""
        return Address(str((self._path / name).absolute()))

    def file_system(self) -> None:
        """See ``Folder.file_system``."""


def _in_folder(path: Path, write: Callable[[Path], T]) -> T:
    """Write a file in a folder that is made, and that may be cleared away at any moment, for it is empty."""
    for left in reversed(range(_ATTEMPTS)):
        try:
            make_folders(path.parent)
            return write(path)
        except FileNotFoundError:
            if not left:
                raise
    raise AssertionError("the last attempt raises")


def _entry(name: str, status: stat_result) -> Entry:
    return Entry(name, status.st_size, _stamp(status), status.st_mtime)


def _stamp(status: stat_result) -> str:
    # A file system may use a number again within one tick of its clock.
    return f"{status.st_ino}-{status.st_mtime_ns}-{status.st_size}"
