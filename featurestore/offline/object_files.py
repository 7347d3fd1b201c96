"""Objects as files for libraries that read by fsspec, from several threads at once."""

import threading
from io import SEEK_CUR, SEEK_END, SEEK_SET, RawIOBase
from typing import Any

from featurestore.errors import MissingExtraError

try:
    from obstore.fsspec import FsspecStore
except ImportError as error:
    raise MissingExtraError("A folder in object storage", "object") from error


class ObjectFiles(FsspecStore):
    """Object storage as a file system whose files are read by ranges.

    NOTE: obstore's own file returns fewer bytes than are asked for where its buffer ends, which DuckDB takes for an error. It also
    has one place in it, and DuckDB's threads share a file: one would read where another has sought.
    """

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:  # type: ignore[override]  # what fsspec passes besides counts for nothing
        if mode != "rb":
            raise ValueError(f"files are read here, and {path} is opened with {mode!r}")
        return ObjectFile(self, path)


class ObjectFile(RawIOBase):
    """Read an object as a file. Each thread has a place of its own in it.

    Args:
        system: where it is.
        path: its address.
    """

    def __init__(self, system: FsspecStore, path: str) -> None:
        super().__init__()
        self._system = system
        self._path = path
        self._size = int(system.info(path)["size"])
        self._at = threading.local()

    def readable(self) -> bool:  # noqa: D102 - the file protocol's
        return True

    def seekable(self) -> bool:  # noqa: D102 - the file protocol's
        return True

    def tell(self) -> int:  # noqa: D102 - the file protocol's
        place: int = getattr(self._at, "place", 0)
        return place

    def seek(self, offset: int, whence: int = SEEK_SET, /) -> int:  # noqa: D102 - the file protocol's
        self._at.place = {SEEK_SET: 0, SEEK_CUR: self.tell(), SEEK_END: self._size}[whence] + offset
        return self.tell()

    def read(self, size: int = -1, /) -> bytes:
        """Return so many bytes from this thread's place on, fewer only at the end; all that are left for -1.

        Raises:
            OSError: the object is not there any more, or the store cannot be reached.
        """
        start = self.tell()
        end = self._size if size < 0 else min(self._size, start + size)
        if end <= start:
            return b""
        content: bytes = self._system.cat_file(self._path, start=start, end=end)
        self._at.place = start + len(content)
        return content

    def readinto(self, buffer: Any, /) -> int:  # noqa: D102 - the file protocol's
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)
