"""The port of folders: where the files of a table lie, on a disk of this machine or in object storage."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from featurestore.durable import remove_folder
from featurestore.errors import OfflineStoreError
from featurestore.object_storage import check_address, check_options

Content = bytes | Callable[[IO[bytes]], object]
"""What a file is to hold: bytes, or what writes them to the open file."""

_PASSES = 5
_CLOCK = "_clock"
"""A file whose time is the present."""


@dataclass(frozen=True)
class Entry:
    """A file of a folder.

    Args:
        name: its name, from the folder on, with slashes.
        size: how many bytes it has.
        stamp: another one whenever its content is another: for comparison only.
        modified: when it was written, by the clock of what keeps it, in seconds since the epoch: maybe whole ones.
        version: which one it is of those that a bucket with versions keeps, as ``head`` says; empty anywhere else.
    """

    name: str
    size: int
    stamp: str
    modified: float
    version: str = field(default="", compare=False)


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

    def file_system(self) -> Any:
        """Return a file system of fsspec that reads what is there, for libraries that take such; None on a disk."""


class FolderAdapter(ABC):
    """What an entry point of ``featurestore.folders`` names: a class that opens the folders of one URL scheme.

    The class is usually the folder itself.
    """

    @classmethod
    @abstractmethod
    def open(cls, url: str, root: Path, options: Mapping[str, str]) -> Folder:
        """Open a folder, which need not be there.

        Args:
            url: its address.
            root: where a relative path starts.
            options: the setting ``storage_options``.

        Raises:
            ConfigError: the address or an option is of another form, or holds a secret.
            MissingExtraError: a library that it needs is not installed.
        """


@contextmanager
def translated_errors(folder: Folder, action: str) -> Iterator[None]:
    """Turn what a folder raises into ``OfflineStoreError``; ``action`` is what was being done with it: ``"written to"``."""
    try:
        yield
    except OSError as error:
        raise OfflineStoreError(f"{folder.address().url} could not be {action}: {error.strerror or error}.") from error


def is_local(folder: Folder) -> bool:
    """Return whether a folder is on a disk, where a power cut may leave what a library wrote there empty, cut off or unnamed."""
    return folder.address().path is not None


def present(folder: Folder) -> float:
    """Return the present by the clock of what keeps the files, in seconds since the epoch: it writes a file to see it."""
    folder.write(_CLOCK, b"")
    entry = folder.head(_CLOCK)
    if entry is None:
        raise FileNotFoundError(f"{folder.address(_CLOCK).url} was deleted as soon as it was written")
    return entry.modified


def delete_below(folder: Folder, *prefixes: str) -> None:
    """Delete the files below some prefixes, those of the first before those of the next, until none is listed.

    A prefix ends in a slash, or is empty. Others may delete them at the same time. What they write meanwhile may stay.
    """
    for prefix in prefixes:
        if (path := folder.address(prefix).path) is not None:
            remove_folder(path)  # with folders in it that have no files
            continue
        for _ in range(_PASSES):
            names = [entry.name for entry in folder.list(prefix)]
            if not names:
                break
            folder.delete(names, lasting=True)
