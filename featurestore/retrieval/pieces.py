"""Pieces: files of the work in hand, of which each reader takes the stretch that is its own.

Everything that the flow of a training file reads and writes on its way passes these functions. An address is a text, and a file is
written once and never changed. Its name is that of one attempt, so a task may run twice at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple
from uuid import uuid4

import polars as pl


class Stretch(NamedTuple):
    """One piece of a file.

    Args:
        address: the file.
        start: its first byte.
        end: the first byte after it.
        rows: how many rows it has.
    """

    address: str
    start: int
    end: int
    rows: int


@dataclass(frozen=True, slots=True)
class Pieces:
    """The receipt of a file of pieces, numbered from 0 on.

    Args:
        address: the file.
        offsets: where each piece begins, and behind the last one where it ends.
        rows: how many rows each has.
    """

    address: str
    offsets: tuple[int, ...]
    rows: tuple[int, ...]

    def stretch(self, number: int) -> Stretch:
        """Return where a piece lies."""
        return Stretch(self.address, self.offsets[number], self.offsets[number + 1], self.rows[number])


def new_address(folder: str, name: str) -> str:
    """Return the address of a file that no other attempt writes."""
    return f"{folder}/{name}-{uuid4().hex}"


class PieceWriter:
    """Write pieces to a new file, one after another, as a context manager.

    Args:
        address: the file.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._file = Path(address).open("xb", buffering=0)  # noqa: SIM115 - closed at the end of the block
        self._offsets = [0]
        self._rows: list[int] = []

    def __enter__(self) -> "PieceWriter":
        return self

    def write(self, frame: pl.DataFrame | None) -> None:
        """Append a piece. None is one that has nothing: it takes no bytes, and is not read."""
        if frame is not None:
            frame.write_ipc_stream(self._file)  # as it is: what is compressed takes three times as long to come and go
        self._offsets.append(self._file.tell())
        self._rows.append(0 if frame is None else frame.height)

    @property
    def receipt(self) -> Pieces:
        """Where the pieces are, once the block has ended."""
        return Pieces(self._address, tuple(self._offsets), tuple(self._rows))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()


def read_pieces(stretches: Sequence[Stretch]) -> list[pl.DataFrame]:
    """Return the rows of some pieces, a frame each; none for a piece that has nothing."""
    frames = []
    for stretch in stretches:
        if stretch.end > stretch.start:
            with Path(stretch.address).open("rb") as file:
                file.seek(stretch.start)
                frames.append(pl.read_ipc_stream(file.read(stretch.end - stretch.start)))
    return frames


def write_rows(address: str, frame: pl.DataFrame) -> None:
    """Write a frame to a new file, of which ``read_rows`` reads some columns of some rows."""
    frame.write_parquet(address, compression="lz4")


def shape_of(address: str) -> tuple[dict[str, pl.DataType], int]:
    """Return the columns of a Parquet file with their dtypes, and how many rows it has."""
    scan = pl.scan_parquet(address, glob=False)
    return dict(scan.collect_schema()), int(scan.select(pl.len()).collect().item())


def read_rows(address: str, columns: Sequence[str] | None, offset: int, rows: int) -> pl.DataFrame:
    """Return rows of a Parquet file.

    Args:
        address: the file.
        columns: which columns; None for all.
        offset: the number of the first row.
        rows: how many.
    """
    scan = pl.scan_parquet(address, glob=False)
    return (scan if columns is None else scan.select(columns)).slice(offset, rows).collect()


def discard(address: str) -> None:
    """Delete a file that nobody reads any more; one that is not there is no error."""
    Path(address).unlink(missing_ok=True)
