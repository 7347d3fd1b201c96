"""Sinks: a Parquet file written batch by batch, which appears when it is complete."""

from pathlib import Path
from types import TracebackType
from uuid import uuid4

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.errors import RequestError
from featurestore.retrieval.spine import check_fileable


class ParquetSink:
    """Write frames of one schema to a Parquet file, as a context manager.

    The rows go to a file beside it, which takes the path's place at the end of the block; after an error it is deleted
    and what was at the path stays.

    Args:
        path: the file.

    Raises:
        RequestError: the path is a folder, or a column is of a dtype that Arrow or Parquet has not.
    """

    def __init__(self, path: Path) -> None:
        if path.is_dir():
            raise RequestError(f"sink={str(path)!r} is a folder. Name a file in it: {str(path / 'training.parquet')!r}.")
        self._path = path
        self._beside = path.with_name(f".{path.name}.{uuid4().hex}")
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> "ParquetSink":
        return self

    def write(self, frame: pl.DataFrame) -> None:
        """Append the rows of a frame."""
        check_fileable(frame.schema)
        try:
            rows = frame.to_arrow()
            if self._writer is None:
                self._writer = pq.ParquetWriter(self._beside, rows.schema, compression="zstd")
            self._writer.write_table(rows)
        except pa.ArrowException as error:
            raise RequestError(
                f"The rows cannot be written to {str(self._path)!r}: {error}. Cast the column that it names."
            ) from error

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.close()
            if kind is None:
                self._beside.replace(self._path)
            else:
                self._beside.unlink()
