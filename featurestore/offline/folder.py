"""The port of folders: where the files of a table lie, on a disk of this machine or in object storage."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Entry:
    """A file of a folder.

    Args:
        name: its name, from the folder on, with slashes.
        size: how many bytes it has.
        stamp: another one whenever its content is another: for comparison only.
    """

    name: str
    size: int
    stamp: str


class Folder(Protocol):
    """Keep files by name. Any number of processes and machines may use one folder at once.

    A file appears whole or not at all. What a method has written is durable when it returns: it outlasts a power cut. A folder that
    cannot be reached raises ``OSError``; so does ``read`` where there is no file, as ``FileNotFoundError``.
    """

    def list(self, prefix: str) -> Sequence[Entry]:
        """Return the files whose names begin with a prefix that ends in a slash, without those in folders below it, by name.

        A file that was there before the call and is not deleted meanwhile is listed. Of several that others create meanwhile, a
        later one may be listed without an earlier one.
        """

    def read(self, name: str) -> bytes:
        """Return what a file holds."""

    def create(self, name: str, content: bytes) -> str | None:
        """Create a file if there is none of that name, and return its stamp; None if there is one.

        Of several callers at once, one succeeds.
        """

    def write(self, name: str, content: bytes) -> None:
        """Create a file, or replace what it holds: a reader finds the old content or the new."""

    def delete(self, names: Iterable[str], *, lasting: bool = False) -> None:
        """Delete files; one that is not there is no error.

        Args:
            names: their names.
            lasting: whether they must not be there again after a power cut. What nothing names any more may come back.
        """
