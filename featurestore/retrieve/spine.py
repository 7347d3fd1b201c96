"""Spines: the rows a user brings, in whatever form, and their buckets on the way to the engine."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from featurestore.errors import RequestError

SQLRunner = Callable[[str], pl.DataFrame]


@dataclass(frozen=True)
class FramePart:
    """A bucket of the spine in memory."""

    frame: pl.DataFrame

    def read(self) -> pl.DataFrame:
        """Returns the bucket's rows."""
        return self.frame


@dataclass(frozen=True)
class FilePart:
    """A bucket of the spine in files, each sorted by bucket."""

    paths: tuple[str, ...]
    column: str
    bucket: int

    def read(self) -> pl.DataFrame:
        """Returns the bucket's rows."""
        scans = [pl.scan_parquet(path, glob=False).filter(pl.col(self.column) == self.bucket) for path in self.paths]
        return pl.concat(scans).drop(self.column).collect()


def read_spine(given: Any, root: Path, sql: SQLRunner) -> pl.DataFrame | pl.LazyFrame:
    """Returns a spine as a Polars frame, lazy where it need not be in memory.

    Args:
        given: a Polars frame, eager or lazy; pandas, Arrow, or anything else that speaks Arrow; a mapping or list of rows;
            the path of a Parquet file; or a SELECT, told from a path by its first word.
        root: the project's folder, where relative paths start.
        sql: runs a SELECT over the history's views.

    Raises:
        RequestError: it is none of these, or the file is not there.
    """
    if isinstance(given, (pl.DataFrame, pl.LazyFrame)):
        return given
    if isinstance(given, Path) or (isinstance(given, str) and not _is_query(given)):
        path = root / Path(given).expanduser()
        if not path.exists():
            raise RequestError(f"The spine {str(path)!r} is not there. Give a Parquet file, a frame, or a SELECT.")
        return pl.scan_parquet(path)
    if isinstance(given, str):
        return sql(given)
    if isinstance(given, Mapping) or (isinstance(given, list) and all(isinstance(row, Mapping) for row in given)):
        return pl.DataFrame(given)
    if hasattr(given, "__arrow_c_stream__") or hasattr(given, "__dataframe__"):
        return pl.DataFrame(given)
    raise RequestError(
        f"A {type(given).__name__} is no spine. Give a Polars or pandas frame, an Arrow table, a Parquet path or a SELECT."
    )


def _is_query(text: str) -> bool:
    words = text.split(maxsplit=1)
    return bool(words) and words[0].lower() in ("select", "with", "from") and len(words) > 1


def batches(spine: pl.DataFrame | pl.LazyFrame, rows: int) -> Iterator[pl.DataFrame]:
    """Returns a spine in parts of at most so many rows, in its order; at least one, perhaps empty."""
    if isinstance(spine, pl.DataFrame):
        yield from spine.iter_slices(rows) if spine.height else [spine]
        return
    empty = True
    for batch in spine.collect_batches(chunk_size=rows, maintain_order=True):
        empty = False
        yield from batch.iter_slices(rows)
    if empty:
        yield pl.DataFrame(schema=spine.collect_schema())
