"""Data frames of the client, imported only when one is sent or requested."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.dtypes import dtype_from_name
from featurestore.errors import RequestError
from featurestore.given_paths import local_path
from featurestore.zones import frame_of

ARROW = "application/vnd.apache.arrow.stream"
PARQUET = "application/vnd.apache.parquet"
_CHUNK = 1 << 20
_SENT = 1 << 18


def as_frame(given: Any, what: str) -> pl.DataFrame:
    """Return rows, columns or another library's frame as a Polars frame.

    Raises:
        RequestError: they make no frame.
    """
    if isinstance(given, pl.DataFrame):
        return given
    try:
        return given.collect() if isinstance(given, pl.LazyFrame) else frame_of(given, infer_schema_length=None)
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError) as error:
        raise RequestError(f"The {what} cannot be made a frame: {(str(error) or type(error).__name__).splitlines()[0]}.") from error


def encoded(frame: pl.DataFrame) -> bytes:
    """Return a frame as an Arrow IPC stream."""
    return b"".join(_pieces(frame))


def _pieces(frame: pl.DataFrame) -> list[bytes]:
    written = _Written()
    frame.write_ipc_stream(written)  # type: ignore[call-overload]  # of a file it needs no more
    return written.pieces


class _Written(io.RawIOBase):
    """A file that keeps what is written to it as it is: one buffer of all of it would be as much memory again."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        self.pieces.append(piece)
        return len(piece)


def decoded(body: Any) -> pl.DataFrame:
    """Return the frame of an Arrow IPC stream, whose buffers it goes on using: nothing is copied that needs not be."""
    with pa.ipc.open_stream(pa.py_buffer(body)) as batches:
        frame = pl.from_arrow(batches.read_all())
    assert isinstance(frame, pl.DataFrame), "a stream is a table"
    return frame


def received(parts: Iterator[bytes], size: int | None) -> pl.DataFrame:
    """Return the frame of an Arrow IPC stream that comes in parts.

    Args:
        parts: the parts.
        size: how many bytes they are in all, if that is known.
    """
    if size is None:
        return decoded(b"".join(parts))
    # Arrow's memory is used again from frame to frame, and Python's is new each time, which takes as long as the network.
    buffer = pa.allocate_buffer(size)
    view, place = memoryview(buffer).cast("B"), 0
    for part in parts:
        view[place : place + len(part)] = part
        place += len(part)
    return decoded(buffer)


class Upload:
    """A spine to send, as often as it takes.

    Args:
        spine: a frame, rows, columns, or the path of a Parquet file.

    Raises:
        RequestError: it is none of these, or the file is not there.
    """

    def __init__(self, spine: Any) -> None:
        if isinstance(spine, str) and spine.lstrip("( \n").lower().startswith(("select ", "with ", "from ")):
            raise RequestError("A server takes no SELECT as a spine. Give a frame or a Parquet file.")
        self._path = local_path(spine, Path(), "spine") if isinstance(spine, (str, Path)) else None
        if self._path is not None and not self._path.is_file():
            raise RequestError(f"The spine {str(spine)!r} is not there. Give a Parquet file or a frame.")
        self.frame = None if self._path is not None else as_frame(spine, "spine")
        self._pieces = [] if self.frame is None else _pieces(self.frame)
        self.media = PARQUET if self.frame is None else ARROW
        self.size = self._path.stat().st_size if self._path is not None else sum(map(len, self._pieces))

    def content(self) -> Iterator[bytes]:
        """Return the body's parts from its beginning."""
        return self._read(self._path) if self._path is not None else self._cut()

    def _cut(self) -> Iterator[bytes]:
        # NOTE: what is sent at once is copied anew for each part of it that the network takes.
        for piece in self._pieces:
            for start in range(0, len(piece), _SENT):
                yield piece[start : start + _SENT]

    @staticmethod
    def _read(path: Path) -> Iterator[bytes]:
        with path.open("rb") as file:
            while chunk := file.read(_SENT):
                yield chunk


class Parts(io.RawIOBase):
    """A body that comes in parts, as a file to read from."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts
        self._left = b""

    def readable(self) -> bool:  # noqa: D102 - the file protocol's
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: D102 - the file protocol's
        while not self._left:
            part = next(self._parts, None)
            if part is None:
                return 0
            self._left = part
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        return size


def sink(parts: Iterator[bytes], path: Path) -> pl.LazyFrame:
    """Write an Arrow IPC stream to a Parquet file batch by batch, and return the frame over it."""
    beside = path.with_name(f".{path.name}.{uuid4().hex}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            pa.ipc.open_stream(pa.PythonFile(io.BufferedReader(Parts(parts), _CHUNK), "r")) as batches,
            pq.ParquetWriter(beside, batches.schema, compression="zstd") as writer,
        ):
            for batch in batches:
                writer.write_batch(batch)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return pl.scan_parquet(path)


def with_columns(given: list[dict[str, Any]], columns: dict[str, list[Any]], types: dict[str, str]) -> pl.DataFrame:
    """Return the rows of a look-up as a frame, with the features after their own columns, in the dtypes declared."""
    frame = as_frame(given, "request") if given and given[0] else pl.DataFrame(height=len(given))
    return frame.with_columns(pl.Series(name, column, dtype=dtype_from_name(types[name])) for name, column in columns.items())
