"""Pieces: files of the work in hand, of which each reader takes the stretch that is its own.

Everything that the flow of a training file reads and writes on its way passes these functions. The files lie in one folder, of this
machine or in object storage. A file is written once and never changed, and its name is that of one attempt, so a task may run twice
at once.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple
from uuid import uuid4

import polars as pl

from featurestore.errors import EngineError
from featurestore.offline.folder import Address, Folder
from featurestore.offline.scan import scan_files

_OBJECT_BYTES = 32 << 20
"""How large an object grows: what is written of it is held in memory until then."""
_REQUESTS = 16
"""How many requests of object storage a task has under way at once: each takes some 20 ms, however little it asks for."""


class Stretch(NamedTuple):
    """One piece of a file.

    Args:
        name: the file, by its name in the folder.
        start: its first byte.
        end: the first byte after it.
        rows: how many rows it has.
    """

    name: str
    start: int
    end: int
    rows: int


@dataclass(frozen=True, slots=True)
class Pieces:
    """The receipt of pieces, numbered from 0 on, in one file or several.

    Args:
        name: the first file; the further ones have this name with a number.
        offsets: where each piece begins, and behind the last one where it ends, as if there were one file.
        rows: how many rows each has.
        breaks: where each further file begins.
    """

    name: str
    offsets: Sequence[int]
    rows: Sequence[int]
    breaks: tuple[int, ...] = ()

    def stretch(self, number: int) -> Stretch:
        """Return where a piece lies."""
        place = bisect_right(self.breaks, self.offsets[number])
        before = self.breaks[place - 1] if place else 0
        name = _numbered(self.name, place)
        return Stretch(name, self.offsets[number] - before, self.offsets[number + 1] - before, self.rows[number])

    @property
    def names(self) -> list[str]:
        """The files."""
        return [_numbered(self.name, place) for place in range(len(self.breaks) + 1)]


def _numbered(name: str, place: int) -> str:
    return f"{name}.{place}" if place else name


def new_name(name: str) -> str:
    """Return the name of a file that no other attempt writes.

    What differs stands first: object storage spreads its work over names by how they begin.
    """
    return f"{uuid4().hex}-{name}"


class PieceWriter:
    """Write pieces to a new file, one after another, as a context manager.

    A file in object storage is followed by another one when it has grown large, so its writer has no more than that in memory.

    Args:
        folder: where.
        name: the file.
    """

    def __init__(self, folder: Folder, name: str) -> None:
        self._folder = folder
        self._name = name
        path = folder.address(name).path
        self._here = path is not None
        self._file: IO[bytes] = BytesIO()
        if path is not None:
            with reaching(folder):
                self._file = path.open("xb", buffering=0)
        self._offsets = [0]
        self._rows: list[int] = []
        self._breaks: list[int] = []

    def __enter__(self) -> "PieceWriter":
        return self

    def write(self, frame: pl.DataFrame | None) -> None:
        """Append a piece. None is one that has nothing: it takes no bytes, and is not read."""
        if frame is not None:
            if not self._here and self._file.tell() >= _OBJECT_BYTES:
                self._put()
                self._breaks.append(self._offsets[-1])
                self._file = BytesIO()
            frame.write_ipc_stream(self._file)  # as it is: what is compressed takes three times as long to come and go
        self._offsets.append((self._breaks[-1] if self._breaks else 0) + self._file.tell())
        self._rows.append(0 if frame is None else frame.height)

    @property
    def receipt(self) -> Pieces:
        """Where the pieces are, once the block has ended."""
        # A driver has millions of these numbers in hand.
        return Pieces(self._name, array("Q", self._offsets), array("Q", self._rows), tuple(self._breaks))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._here and kind is None:
            self._put()
        self._file.close()

    def _put(self) -> None:
        assert isinstance(self._file, BytesIO)
        if self._file.tell():
            with reaching(self._folder):
                self._folder.write(_numbered(self._name, len(self._breaks)), self._file.getvalue())


def read_pieces(folder: Folder, stretches: Sequence[Stretch]) -> list[pl.DataFrame]:
    """Return the rows of some pieces, a frame each; none for a piece that has nothing."""
    asked = [stretch for stretch in stretches if stretch.end > stretch.start]
    with reaching(folder):
        if len(asked) < 2 or folder.address().path is not None:
            return [pl.read_ipc_stream(content) for content in _contents(folder, asked)]
        with ThreadPoolExecutor(_REQUESTS, thread_name_prefix="featurestore-pieces") as pool:
            read = pool.map(
                lambda stretch: folder.read(stretch.name, start=stretch.start, length=stretch.end - stretch.start), asked
            )
            return [pl.read_ipc_stream(content) for content in read]


def _contents(folder: Folder, stretches: Iterable[Stretch]) -> Iterator[bytes]:
    for stretch in stretches:
        yield folder.read(stretch.name, start=stretch.start, length=stretch.end - stretch.start)


def write_rows(folder: Folder, name: str, frame: pl.DataFrame) -> None:
    """Write a frame to a new file, of which ``read_rows`` reads some columns of some rows."""
    path = folder.address(name).path
    with reaching(folder):
        if path is not None:
            frame.write_parquet(path, compression="lz4")
        else:
            folder.write(name, lambda file: frame.write_parquet(file, compression="lz4"))


def shape_of(address: Address) -> tuple[dict[str, pl.DataType], int]:
    """Return the columns of a Parquet file with their dtypes, and how many rows it has."""
    scan = scan_files([address])
    return dict(scan.collect_schema()), int(scan.select(pl.len()).collect().item())


def read_rows(address: Address, columns: Sequence[str] | None, offset: int, rows: int) -> pl.DataFrame:
    """Return rows of a Parquet file.

    Args:
        address: the file.
        columns: which columns; None for all.
        offset: the number of the first row.
        rows: how many.
    """
    scan = scan_files([address])
    return (scan if columns is None else scan.select(columns)).slice(offset, rows).collect()


def discard(folder: Folder, names: Iterable[str]) -> None:
    """Delete files that nobody reads any more; one that is not there is no error, nor is one that stays until its folder goes."""
    if folder.address().path is None:
        with suppress(OSError):
            folder.delete(names)
    else:
        for name in names:
            Path(folder.address(name).url).unlink(missing_ok=True)


@contextmanager
def reaching(folder: Folder) -> Iterator[None]:
    """Translate what a folder of the work in hand raises where it is not there, or is in object storage.

    Raises:
        EngineError: the folder cannot be used.
    """
    try:
        yield
    except OSError as error:
        if not isinstance(error, FileNotFoundError) and folder.address().path is not None:
            raise
        reason = error.strerror or "it is not there"
        raise EngineError(
            f"The files of the work in hand in {folder.address().url} cannot be used: {reason}. It must be a place that all who "
            "run tasks can read and write: set 'scratch' to a folder that they share, or to one in object storage."
        ) from error
