"""Objects as files to read from: ranges are asked for as they are needed."""

from io import SEEK_CUR, SEEK_END, SEEK_SET, RawIOBase
from typing import Any

from featurestore.offline.folder import Folder

_FIRST = 64 << 10
_GREATEST = 8 << 20


class RangeFile(RawIOBase):
    """Read an object as a file.

    Who reads on gets twice as much at a time, 8 MiB at the most, so that neither the head of a large object nor all of it costs
    many requests.

    Args:
        folder: where the object is.
        name: its name there.
        size: how many bytes it has.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from featurestore.offline.local_folder import LocalFolder
        >>> folder = LocalFolder(Path(tempfile.mkdtemp()))
        >>> file = RangeFile(folder, "letters", folder.write("letters", b"abcdef"))
        >>> file.seek(2), file.read(3), file.tell()
        (2, b'cde', 5)
    """

    def __init__(self, folder: Folder, name: str, size: int) -> None:
        super().__init__()
        self._folder = folder
        self._name = name
        self._size = size
        self._place = 0
        self._block = b""
        self._begin = 0
        self._ahead = _FIRST

    def readable(self) -> bool:  # noqa: D102 - the file protocol's
        return True

    def seekable(self) -> bool:  # noqa: D102 - the file protocol's
        return True

    def tell(self) -> int:  # noqa: D102 - the file protocol's
        return self._place

    def seek(self, offset: int, whence: int = SEEK_SET, /) -> int:  # noqa: D102 - the file protocol's
        self._place = {SEEK_SET: 0, SEEK_CUR: self._place, SEEK_END: self._size}[whence] + offset
        return self._place

    def readinto(self, buffer: Any, /) -> int:
        """Read as many bytes as there is room for, fewer only at the end.

        Raises:
            OSError: the object is not there any more, or the store cannot be reached.
        """
        wanted = min(len(buffer), self._size - self._place)
        done = 0
        while done < wanted:
            part = self._held(wanted - done)
            if not part:  # another object is there, and it is shorter
                break
            buffer[done : done + len(part)] = part
            done += len(part)
            self._place += len(part)
        return done

    def _held(self, wanted: int) -> bytes:
        """Return the next bytes, of the block that is there or else of a new one."""
        end = self._begin + len(self._block)
        if not self._begin <= self._place < end:
            self._ahead = min(2 * self._ahead, _GREATEST) if self._block and self._place == end else _FIRST
            length = min(max(min(wanted, _GREATEST), self._ahead), self._size - self._place)
            self._block, self._begin = self._folder.read(self._name, start=self._place, length=length), self._place
        first = self._place - self._begin
        return self._block[first : first + wanted]
