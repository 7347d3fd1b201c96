"""The files of a source: on this machine, or objects in object storage."""

import errno
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BufferedReader, BytesIO
from pathlib import Path
from threading import Lock
from typing import IO, Protocol

import polars as pl

from featurestore.definitions.source import Source
from featurestore.errors import ConfigError, MissingExtraError, SourceError, SourceMissingError
from featurestore.forking import notify_of_forks
from featurestore.object_listing import Listing, ObjectListing
from featurestore.object_storage import is_object_address
from featurestore.offline.folder import Entry
from featurestore.sources.paths import SourceFile, absolute_path, find_files, natural_order, nothing_there, source_file
from featurestore.sources.range_file import RangeFile
from featurestore.sources.timestamps import translated

OBJECTS_AT_ONCE = 16
"""How many objects are read at once: each takes some requests, and a request some 20 ms, however little it asks for."""
_TAIL = 64 << 10
_MARK = b"PAR1"
_FOOTERS = 64 << 20
_NANO = 1_000_000_000
_BUFFER = 64 << 10
_SMALL = 4 << 20


class SourceFiles(Protocol):
    """Find and open the files of a source.

    Attributes:
        at_once: how many may be read at once.
    """

    at_once: int

    def find(self, endings: tuple[str, ...]) -> list[SourceFile]:
        """Return the files there are, in natural order of their names.

        Args:
            endings: the endings of the files to read in a folder.

        Raises:
            SourceError: they cannot be looked at.
        """

    def missing(self, endings: tuple[str, ...]) -> SourceMissingError:
        """Return the error for a path without files: where was looked, and what to do."""

    def location(self, name: str) -> str:
        """Return where the file of a name is, for messages."""

    def look_again(self, name: str) -> SourceFile:
        """Return a file as it is now.

        Raises:
            OSError: it is not there or may not be looked at.
        """

    def opened(self, file: SourceFile) -> IO[bytes]:
        """Open a file; raises ``OSError`` as it is opened or read."""

    def scan(self, file: SourceFile) -> pl.LazyFrame:
        """Return the rows of a Parquet file; raises ``OSError`` here or as they are collected."""

    def footer(self, file: SourceFile) -> str | BytesIO:
        """Return where a Parquet file's footer is read: the file, or one that has the footer alone; raises ``OSError``."""

    def fetch_footers(self, files: Sequence[SourceFile]) -> None:
        """Get ready for ``footer``."""


def files_of(spec: Source, path: str, root: Path, options: Mapping[str, str]) -> SourceFiles:
    """Return the files of a source's path.

    Args:
        spec: the source's definition, for messages.
        path: its path or address.
        root: where a relative path starts.
        options: the setting ``storage_options``.
    """
    return ObjectFiles(spec, path, options) if is_object_address(path) else LocalFiles(spec, path, root)


class LocalFiles:
    """The files of a path of this machine.

    Args:
        spec: the source's definition.
        path: its path.
        root: where a relative path starts.
    """

    at_once = 1

    def __init__(self, spec: Source, path: str, root: Path) -> None:
        self._spec = spec
        self._path = path
        self._root = root

    def find(self, endings: tuple[str, ...]) -> list[SourceFile]:
        """See ``SourceFiles.find``."""
        return find_files(self._spec, self._path, self._root, endings)

    def missing(self, endings: tuple[str, ...]) -> SourceMissingError:
        """See ``SourceFiles.missing``."""
        return nothing_there(self._spec, self._path, self._root, endings)

    def location(self, name: str) -> str:
        """See ``SourceFiles.location``."""
        return str(absolute_path(name, self._root))

    def look_again(self, name: str) -> SourceFile:
        """See ``SourceFiles.look_again``."""
        return source_file(absolute_path(name, self._root), self._root)

    def opened(self, file: SourceFile) -> IO[bytes]:
        """See ``SourceFiles.opened``."""
        return Path(file.location).open("rb")

    def scan(self, file: SourceFile) -> pl.LazyFrame:
        """See ``SourceFiles.scan``."""
        return pl.scan_parquet(file.location, glob=False, hive_partitioning=False)

    def footer(self, file: SourceFile) -> str:
        """See ``SourceFiles.footer``."""
        return file.location

    def fetch_footers(self, files: Sequence[SourceFile]) -> None:
        """See ``SourceFiles.fetch_footers``: there is nothing to fetch."""


class ObjectFiles:
    """The objects of an address. Its files bear their addresses as names, and tell their content by their ETags.

    Args:
        spec: the source's definition.
        path: its address.
        options: the setting ``storage_options``.
    """

    at_once = OBJECTS_AT_ONCE

    def __init__(self, spec: Source, path: str, options: Mapping[str, str]) -> None:
        self._spec = spec
        self._path = path
        self._options = dict(options)
        self._listing: ObjectListing | None = None

    def find(self, endings: tuple[str, ...]) -> list[SourceFile]:
        """See ``SourceFiles.find``."""
        listing = self._find(endings)
        if listing.is_delta:
            raise SourceError(f"Source {self._spec.name!r}: {self._path} is a Delta table. Use a DeltaSource.")
        return sorted(map(self._file, listing.entries), key=lambda file: natural_order(file.name))

    def missing(self, endings: tuple[str, ...]) -> SourceMissingError:
        """See ``SourceFiles.missing``."""
        listing = self._find(endings)
        if listing.kind == "glob":
            base = self._objects.address(self._objects.base)
            what = f"of the {listing.below:,} objects below {base} none matches {self._path}"
        elif listing.below:
            what = f"of the {listing.below:,} objects in the folder {self._path} none ends in {' or '.join(endings)}"
        else:
            what = f"there is no object and no folder {self._path}"
        return SourceMissingError(f"Source {self._spec.name!r}: {what}. Check path=, or put the first object there.")

    def location(self, name: str) -> str:
        """See ``SourceFiles.location``."""
        return name

    def look_again(self, name: str) -> SourceFile:
        """See ``SourceFiles.look_again``."""
        entry = self._objects.folder.head(self._objects.key(name))
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, "there is no such object", name)
        return self._file(entry)

    def opened(self, file: SourceFile) -> IO[bytes]:
        """See ``SourceFiles.opened``."""
        return BufferedReader(RangeFile(self._objects.folder, self._objects.key(file.name), file.size), _BUFFER)

    def scan(self, file: SourceFile) -> pl.LazyFrame:
        """See ``SourceFiles.scan``. A small object comes in one request, where Polars takes some ten of them."""
        if file.size <= _SMALL:
            return pl.scan_parquet(BytesIO(self._objects.folder.read(self._objects.key(file.name))))
        return pl.scan_parquet(file.location, glob=False, hive_partitioning=False, storage_options=self._options or None)

    def footer(self, file: SourceFile) -> BytesIO:
        """See ``SourceFiles.footer``."""
        return BytesIO(_KEPT.get(file) or self._fetched(file))

    def fetch_footers(self, files: Sequence[SourceFile]) -> None:
        """See ``SourceFiles.fetch_footers``: several at once. One that cannot be read raises when it is asked for."""
        lacking = [file for file in files if _KEPT.get(file) is None]
        if len(lacking) > 1:
            _ = self._objects.folder  # one for all
            with ThreadPoolExecutor(min(self.at_once, len(lacking))) as pool:
                for future in [pool.submit(self._fetched, file) for file in lacking]:
                    if not isinstance(future.exception(), (FileNotFoundError, type(None))):
                        pool.shutdown(cancel_futures=True)
                        return

    @property
    def _objects(self) -> ObjectListing:
        if self._listing is None:
            try:
                self._listing = ObjectListing(self._path, self._options)
                _ = self._listing.folder
            except MissingExtraError:  # which says what to install
                raise
            except ConfigError as error:
                raise SourceError(f"Source {self._spec.name!r}: {error}") from error
        return self._listing

    def _find(self, endings: Collection[str]) -> Listing:
        with translated(self._spec, self._path, OSError):
            return self._objects.find(endings)

    def _file(self, entry: Entry) -> SourceFile:
        address = self._objects.address(entry.name)
        return SourceFile(address, address, entry.size, round(entry.modified * _NANO), etag=entry.stamp)

    def _fetched(self, file: SourceFile) -> bytes:
        """Return a file that has nothing but the footer of another, of which it is the end."""
        folder, key = self._objects.folder, self._objects.key(file.name)
        tail = folder.read(key, start=max(file.size - _TAIL, 0), length=min(_TAIL, file.size)) if file.size else b""
        if tail[-4:] != _MARK:
            # It is none, which its reader says best.
            return folder.read(key) if file.size <= _TAIL else tail
        length = int.from_bytes(tail[-8:-4], "little") + 8
        if length > len(tail):
            tail = folder.read(key, start=max(file.size - length, 0), length=length)
        footer = _MARK + tail[-length:]
        _KEPT.put(file, footer)
        return footer


class _Footers:
    """Footers of objects that were read, up to a number of bytes: those least used go first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._footers: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._size = 0
        self._lock = Lock()
        notify_of_forks(self)

    def after_fork(self) -> None:
        """See ``Forked``."""
        self._lock = Lock()

    def get(self, file: SourceFile) -> bytes | None:
        with self._lock:
            footer = self._footers.get((file.location, file.etag))
            if footer is not None:
                self._footers.move_to_end((file.location, file.etag))
            return footer

    def put(self, file: SourceFile, footer: bytes) -> None:
        with self._lock:
            if (file.location, file.etag) in self._footers:
                return
            self._footers[file.location, file.etag] = footer
            self._size += len(footer)
            while self._size > self._limit:
                _, gone = self._footers.popitem(last=False)
                self._size -= len(gone)


_KEPT = _Footers(_FOOTERS)
