"""The port of folders: where the files of a table lie, on a disk of this machine or in object storage."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

from featurestore.object_storage import check_address, check_options

Content = bytes | Callable[[IO[bytes]], object]
"""What a file is to hold: bytes, or what writes them to the open file."""


@dataclass(frozen=True)
class Entry:
    """A file of a folder.

    Args:
        name: its name, from the folder on, with slashes.
        size: how many bytes it has.
        stamp: another one whenever its content is another: for comparison only.
        modified: when it was written, by the clock of what keeps it, in seconds since the epoch: maybe whole ones.
    """

    name: str
    size: int
    stamp: str
    modified: float


@dataclass(frozen=True)
class Address:
    """Where a folder or a file is, for libraries that read and write there by themselves: Polars and deltalake.

    It holds no secret, so it may be shown, pickled and stored. Who uses it has credentials in its environment, or by the role of
    its machine.

    Args:
        url: a path of this machine, or ``"s3://bucket/name"``.
        options: what those libraries call ``storage_options``: endpoint, region and the like.

    Raises:
        ConfigError: it has an option that is unknown or may be a secret.

    Example:
        >>> Address("s3://lake/weather", {"region": "eu-west-1"})
        Address(url='s3://lake/weather', options={'region': 'eu-west-1'})
        >>> Address("s3://lake/weather", {"secret_access_key": "…"})
        Traceback (most recent call last):
        featurestore.errors.ConfigError: The option 'secret_access_key' of object storage cannot be set here. ...
    """

    url: str
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_options(self.options)
        if "://" in self.url:  # a path may have any character
            check_address(self.url)

    @property
    def path(self) -> Path | None:
        """Where it is on this machine; None in object storage."""
        return None if "://" in self.url else Path(self.url)

    def __hash__(self) -> int:
        return hash((self.url, *sorted(self.options.items())))


class Folder(Protocol):
    """Keep files by name. Any number of processes and machines may use one folder at once.

    A name is parts with slashes between them, none of which is empty, ``.`` or ``..``. Nothing is a file and a folder of others.

    A file appears whole or not at all, and what is read is whole: the content of one moment. What a method has written is durable
    when it returns: it outlasts a power cut. Whatever fails raises ``OSError``: a folder that cannot be reached ``ConnectionError``
    or ``TimeoutError`` after a bounded time, one that the process may not use ``PermissionError``. Whether a write that failed so
    has its effect is unknown.
    """

    def list(self, prefix: str, *, after: str = "") -> Sequence[Entry]:
        """Return the files whose names begin with a prefix, in folders below too, by name.

        A file that was there before the call and is not deleted meanwhile is listed. Of several that others create meanwhile, a
        later one may be listed without an earlier one. A file that ends in ``.tmp`` is being written, or was when its writer died.

        Args:
            prefix: how the names begin. It looks in no folder but those it names: ``"_pushed/"`` costs the least.
            after: only those are returned whose names are greater.
        """

    def folders(self, prefix: str) -> Sequence[str]:
        """Return the folders right below one, as prefixes that end in a slash, by name; ``prefix`` ends in one too, or is empty.

        What has no file below it may be among them.
        """

    def head(self, name: str) -> Entry | None:
        """Return what is known of a file without its content; None if there is none."""

    def stamps(self, names: Sequence[str]) -> Sequence[str | None]:
        """Return the stamps of some files of one folder, None for one that is not there.

        It is meant for files near the end of the folder by their names: these cost one request where a store can list.
        """

    def read(self, name: str, *, start: int = 0, length: int | None = None) -> bytes:
        """Return what a file holds.

        Args:
            name: its name.
            start: from which byte on.
            length: how many bytes at most; all by default. Behind the end there are none.

        Raises:
            FileNotFoundError: there is no such file.
        """

    def create(self, name: str, content: bytes) -> str | None:
        """Create a file if there is none of that name, and return its stamp; None if there is one.

        Of several callers at once, one succeeds. Their contents must differ: a creator that had to ask again, for the answer was
        lost, may be refused for its own file, and knows it by the content.
        """

    def swap(self, name: str, content: bytes, stamp: str) -> str | None:
        """Replace what a file holds if it has that stamp, and return the new stamp; None if it has another, or there is no file.

        Of several callers at once with one stamp, one succeeds. Their contents must differ, as those of ``create``. A caller of
        ``write`` or ``delete`` at the same time is not kept out.
        """

    def write(self, name: str, content: Content) -> int:
        """Create a file, or replace what it holds, and return its size: a reader finds the old content or the new."""

    def delete(self, names: Iterable[str], *, lasting: bool = False) -> None:
        """Delete files; one that is not there is no error. If it fails, some of them may be deleted.

        Args:
            names: their names.
            lasting: whether they must not be there again after a power cut. What nothing names any more may come back.
        """

    def inside(self, name: str) -> "Folder":
        """Return the folder of a name below, which need not be there."""

    def address(self, name: str = "") -> Address:
        """Return where a file is, or the folder itself: for libraries that read and write there."""
