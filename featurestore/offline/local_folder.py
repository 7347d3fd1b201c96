"""Folders on a disk of this machine, or on a network file system that has hard links."""

from collections.abc import Iterable
from os import scandir, stat_result
from pathlib import Path

from featurestore.durable import create_file, make_folders, remove, replace_file
from featurestore.offline.folder import Entry


class LocalFolder:
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

    def list(self, prefix: str) -> list[Entry]:
        """See ``Folder.list``."""
        entries = []
        try:
            with scandir(self._path / prefix) as there:
                for entry in there:
                    try:
                        if entry.is_file(follow_symlinks=False):
                            status = entry.stat()
                            entries.append(Entry(f"{prefix}{entry.name}", status.st_size, _stamp(status)))
                    except FileNotFoundError:  # deleted meanwhile
                        continue
        except FileNotFoundError:
            return []
        return sorted(entries, key=lambda entry: entry.name)

    def read(self, name: str) -> bytes:
        """See ``Folder.read``."""
        return (self._path / name).read_bytes()

    def create(self, name: str, content: bytes) -> str | None:
        """See ``Folder.create``."""
        path = self._path / name
        make_folders(path.parent)
        status = create_file(path, content)
        return None if status is None else _stamp(status)

    def write(self, name: str, content: bytes) -> None:
        """See ``Folder.write``."""
        path = self._path / name
        make_folders(path.parent)
        replace_file(path, content)

    def delete(self, names: Iterable[str], *, lasting: bool = False) -> None:
        """See ``Folder.delete``."""
        remove((self._path / name for name in names), lasting=lasting)


def _stamp(status: stat_result) -> str:
    return f"{status.st_ino}-{status.st_mtime_ns}"
