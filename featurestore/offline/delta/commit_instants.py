"""The instants at which the commits of a table were stored (S24), of those whose entries in the sequence are deleted."""

from collections.abc import Mapping
from contextlib import suppress
from io import BytesIO
from uuid import uuid4

import polars as pl

from featurestore.offline.folder import Folder

_FOLDER = "_commits"
_SCHEMA = {"number": pl.Int64(), "stored": pl.Int64()}
_ATTEMPTS = 20
_MANY = 32
"""So many files are worth being merged into one."""


class CommitInstants:
    """Keep instants beside a table. Processes may do so at once: what is kept twice is the same.

    Args:
        folder: the table's folder.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def keep(self, stored: Mapping[int, int]) -> None:
        """Keep the instants of some commits, in microseconds, by their numbers."""
        if stored:
            self._write(_frame_of(stored))

    def with_those_of(self, stored: Mapping[int, int]) -> pl.DataFrame:
        """Return the numbers and instants that are kept, and those of some other commits; 0 where one is not known."""
        for left in reversed(range(_ATTEMPTS)):
            try:
                return _first_of([_frame_of(stored), *map(self._read, self._names())])
            except FileNotFoundError:  # merged with others meanwhile
                if not left:
                    raise
        raise AssertionError("the last attempt raises")

    def merge(self) -> None:
        """Merge the files, once they are many."""
        names = self._names()
        if len(names) < _MANY:
            return
        with suppress(FileNotFoundError):  # another process does the same
            self._write(_first_of([self._read(name) for name in names]))
            self._folder.delete(names)

    def _names(self) -> list[str]:
        return [file.name for file in self._folder.list(f"{_FOLDER}/") if file.name.endswith(".parquet")]

    def _read(self, name: str) -> pl.DataFrame:
        return pl.read_parquet(BytesIO(self._folder.read(name)))

    def _write(self, instants: pl.DataFrame) -> None:
        first, last = instants["number"][0], instants["number"][-1]
        self._folder.write(f"{_FOLDER}/{first:d}-{last:d}-{uuid4().hex[:8]}.parquet", instants.write_parquet)


def _frame_of(stored: Mapping[int, int]) -> pl.DataFrame:
    return pl.DataFrame({"number": list(stored), "stored": list(stored.values())}, schema=_SCHEMA).sort("number")


def _first_of(frames: list[pl.DataFrame]) -> pl.DataFrame:
    """Return each number's first instant: a later one is of a writer who slept, and whose entry counts for nothing."""
    known = pl.col("stored").replace(0, None)
    return pl.concat(frames).group_by("number").agg(known.min().fill_null(0)).sort("number")
