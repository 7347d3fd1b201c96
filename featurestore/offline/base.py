"""The port of offline stores: the history of each view, at rest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import polars as pl

from featurestore.plan.buckets import ROOT, bits_of
from featurestore.spec.catalog import AppliedView

Staged = Mapping[str, Any]
"""Where the rows of one chunk wait for their run's commit, in plain JSON values. Only the store understands it."""


@dataclass(frozen=True)
class Table:
    """The history of one view, at one data version.

    Its columns are the join keys, ``event_time``, ``available_time`` (the effective one, S2) and the features.
    """

    project: str
    view: str
    data_version: int
    keys: Mapping[str, pl.DataType]
    features: Mapping[str, pl.DataType]

    @classmethod
    def of(cls, project: str, applied: AppliedView) -> "Table":
        """Returns the table of a view as applied."""
        return cls(project, applied.spec.name, applied.data_version, applied.spec.entity.keys, applied.spec.schema)

    def __str__(self) -> str:
        return f"{self.project}/{self.view}/v{self.data_version}"


class History(Protocol):
    """Rows of one bucket that can be read, here or on another machine: it can be pickled."""

    @property
    def paths(self) -> Sequence[str]:
        """The files, which anything that reads Parquet can open."""

    @property
    def rows(self) -> int:
        """How many rows there are."""

    @property
    def size(self) -> int:
        """How many bytes the files have."""

    def read(self, columns: Sequence[str] | None = None) -> list[pl.DataFrame]:
        """Returns the rows of each file, each in the total order; ``columns`` in the order given, or all."""


@dataclass(frozen=True)
class Snapshot:
    """A table at one instant: later commits do not change it.

    Args:
        version: the store's version of the table; -1 where there is no table yet.
        buckets: what each bucket holds; a bucket without rows is not in it.
        rows: how many rows there are.
        last_run: the number of the last run that was committed; 0 for none.
        spans: the least and greatest event time in microseconds; None without rows.
    """

    version: int = -1
    buckets: Mapping[int, History] = field(default_factory=dict)
    rows: int = 0
    last_run: int = 0
    spans: tuple[int, int] | None = None

    @property
    def bits(self) -> int:
        """How many bits of the hash the table is split by."""
        return bits_of(max(self.buckets, default=ROOT))


class OfflineStore(Protocol):
    """Keeps the history of every view.

    What a run stages is invisible until its commit, which is one atomic change; a commit repeated is no change (S17).
    A store that cannot be reached raises ``OfflineStoreError`` from every method.
    """

    def snapshot(self, table: Table, *, since: int | None = None, until: int | None = None) -> Snapshot:
        """Returns the table as it is now; an empty snapshot where nothing was committed yet.

        Args:
            table: the table.
            since: leave out files whose event times all lie before these microseconds.
            until: leave out files whose event times all lie after these microseconds.
        """

    def stage(self, table: Table, run: int, index: int, frame: pl.DataFrame) -> Staged:
        """Writes the rows of a run's chunk where no reader sees them, and tells where."""

    def commit(self, table: Table, run: int, staged: Sequence[Staged]) -> int:
        """Adds the staged rows of a run to the table, all at once, less those it holds already; returns how many.

        Runs are numbered from 1. A run that was committed already is left as it is, and 0 returned.
        """

    def committed(self, table: Table, run: int) -> list[History]:
        """Returns what a committed run added, a part for each bucket; nothing where it added nothing.

        Where a later run has split the table and with it rewritten these rows, that run's parts hold them.
        """

    def keep_rejected(self, table: Table, run: int, index: int, frame: pl.DataFrame) -> str:
        """Keeps a chunk's rejected rows with their reasons, replacing what an earlier attempt kept; returns where (S19)."""

    def rejected(self, table: Table) -> pl.DataFrame:
        """Returns all rejected rows that are kept, with the run and the reason; columns differ as the source's did."""

    def drop(self, table: Table) -> None:
        """Deletes the table, what is staged for it and its rejected rows. None there is no error."""
