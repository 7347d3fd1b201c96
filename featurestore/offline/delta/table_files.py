"""The files of a Delta table, as its log names them, and the buckets that they make up.

A table may have some ten thousands of files, so what is asked at each push and read goes by columns, and a bucket is made of its
files when it is asked for.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from datetime import datetime
from typing import Any, overload

import polars as pl
from deltalake.transaction import RemoveAction

from featurestore.clock import to_micros
from featurestore.offline.base import Table
from featurestore.offline.delta.files import BUCKET, HASH, DeltaFiles
from featurestore.offline.folder import Folder
from featurestore.rows.buckets import are_related, bits_of, node_of
from featurestore.rows.total_order import COMMIT, EVENT

_CUT_OFF = 999
"""So many microseconds later than a table says may the last event be in a file of others: they tell milliseconds."""
_OWN = rf"^{BUCKET}=[0-9]+/run-[0-9A-Za-z_-]+\.parquet$"
"""How this store names files."""
_MOST_CHUNKS = 16
_UNKNOWN_COMMIT = 1 << 62
"""The last commit of a file that another program has written of ours."""
_EVER = -(1 << 62), (1 << 62)
_SCHEMA = {
    "path": pl.String(), "node": pl.Int64(), "rows": pl.Int64(), "size": pl.Int64(), "since": pl.Int64(), "until": pl.Int64(),
    "first_commit": pl.Int64(), "last_commit": pl.Int64(),
}  # fmt: skip


@dataclass(frozen=True)
class File:
    """A file of a table, as the table's log has it.

    Args:
        path: where it is, from the table's folder on.
        node: its bucket.
        rows: how many rows it has.
        size: how many bytes.
        since: the least event time in it, in microseconds.
        until: the greatest one.
        first_commit: the first commit that brought one of its rows; 0 where that is not known.
        last_commit: the last one.
    """

    path: str
    node: int
    rows: int
    size: int
    since: int
    until: int
    first_commit: int = 0
    last_commit: int = 0

    def overlaps(self, since: int | None, until: int | None) -> bool:
        """Return whether it may have rows of a span of event times, both bounds inclusive; None means unbounded."""
        return (since is None or self.until >= since) and (until is None or self.since <= until)


class TableFiles(Sequence[File]):
    """The files of a table at one version. Threads may share it: it never changes.

    Args:
        frame: a row for each file, with the fields of ``File``.
    """

    def __init__(self, frame: pl.DataFrame | None = None) -> None:
        self.frame = pl.DataFrame(schema=_SCHEMA) if frame is None else frame
        self._paths: frozenset[str] | None = None
        self._span: tuple[int, int] | None = None
        self.rows = int(self.frame["rows"].sum())
        deepest = self.frame["node"].max()
        self.bits = bits_of(deepest) if isinstance(deepest, int) else None

    @classmethod
    def of_actions(cls, actions: pl.DataFrame) -> "TableFiles":
        """Return the files of a table, from what its log says of them."""
        if actions.is_empty():
            return cls()
        is_own = pl.col("path").str.contains(_OWN)
        instants = [pl.col(f"{end}.{EVENT}").cast(pl.Datetime("us")).to_physical() for end in ("min", "max")]
        zero, unknown = pl.lit(0, pl.Int64), pl.lit(_UNKNOWN_COMMIT, pl.Int64)
        commits = [pl.col(name) if (name := f"{end}.{COMMIT}") in actions.columns else zero for end in ("min", "max")]
        frame = actions.select(
            pl.col("path"),
            pl.col(f"partition.{BUCKET}").alias("node"),
            pl.col("num_records").alias("rows"),
            pl.col("size_bytes").alias("size"),
            # What another library has written without such statistics may have rows of any time.
            instants[0].fill_null(_EVER[0]).alias("since"),
            (instants[1] + pl.when(is_own).then(0).otherwise(_CUT_OFF)).fill_null(_EVER[1]).alias("until"),
            pl.when(is_own).then(commits[0]).otherwise(zero).fill_null(zero).alias("first_commit"),
            pl.when(is_own).then(commits[1]).otherwise(unknown).fill_null(zero).alias("last_commit"),
        )
        return cls(frame.select(pl.col(name).cast(dtype) for name, dtype in _SCHEMA.items()))

    def changed(self, added: Mapping[str, Mapping[str, Any]], removed: frozenset[str]) -> "TableFiles | None":
        """Return the files after some were removed and others added.

        Args:
            added: the ``add`` actions of new ones, as entries of the table's log hold them, by path.
            removed: the paths of those that are gone.

        Returns:
            Those; None where a new file is not of this store, or one is gone or new that was not there or was.
        """
        try:
            new = pl.DataFrame([_row_of(path, action) for path, action in added.items()], _SCHEMA, orient="row")
        except (KeyError, TypeError, ValueError):
            return None
        kept = self.frame.filter(~pl.col("path").is_in(list(removed))) if removed else self.frame
        if kept.height + len(removed) != self.frame.height:
            return None
        if new.is_empty():
            return TableFiles(kept) if removed else self
        near = kept.filter(pl.col("node").is_in(new["node"].unique().implode()))
        if near["path"].is_in(new["path"].implode()).any():
            return None
        whole = pl.concat([kept, new])
        return TableFiles(whole.rechunk() if whole.n_chunks() > _MOST_CHUNKS else whole)

    @property
    def paths(self) -> frozenset[str]:
        """Where they are, from the table's folder on."""
        if self._paths is None:  # threads that ask at once get equal ones
            self._paths = frozenset(self.frame["path"])
        return self._paths

    @property
    def span(self) -> tuple[int, int] | None:
        """The least and the greatest event time of their rows, in microseconds; None without files."""
        if self._span is None and self.frame.height:  # as with the paths
            self._span = self.frame.select(pl.col("since").min(), pl.col("until").max()).row(0)
        return self._span

    def overlapping(self, since: int | None, until: int | None) -> "TableFiles":
        """Return those that may have rows of a span of event times, both bounds inclusive; None means unbounded."""
        bounds = [] if since is None else [pl.col("until") >= since]
        bounds += [] if until is None else [pl.col("since") <= until]
        return TableFiles(self.frame.filter(bounds)) if bounds else self

    @property
    def of_unknown_commit(self) -> str | None:
        """Where one lies whose rows do not all say which commit they are of; None if all do."""
        paths = self.frame.filter(pl.col("last_commit") == _UNKNOWN_COMMIT)["path"]
        return None if paths.is_empty() else str(paths[0])

    def stored_until(self, commit: int | None) -> "TableFiles":
        """Return those that have rows of commits up to one, it included; None for all."""
        return self if commit is None else TableFiles(self.frame.filter(pl.col("first_commit") <= commit))

    def near(self, first: int, last: int) -> "TableFiles":
        """Return those that may have rows of a stretch of buckets of one depth, from the first to the last."""
        bits = bits_of(first)

        def is_near(node: int) -> bool:
            deeper = bits_of(node) - bits
            return first <= node >> deeper <= last if deeper >= 0 else first >> -deeper <= node <= last >> -deeper

        nodes = [node for node in self.frame["node"].unique() if is_near(node)]
        return TableFiles(self.frame.filter(pl.col("node").is_in(nodes)))

    def __len__(self) -> int:
        return self.frame.height

    def __iter__(self) -> Iterator[File]:
        return (File(*row) for row in self.frame.iter_rows())

    @overload
    def __getitem__(self, place: int) -> File: ...
    @overload
    def __getitem__(self, place: slice) -> list[File]: ...
    def __getitem__(self, place: int | slice) -> File | list[File]:
        return [File(*row) for row in self.frame[place].iter_rows()] if isinstance(place, slice) else File(*self.frame.row(place))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TableFiles) and self.paths == other.paths

    def __hash__(self) -> int:
        return hash(self.paths)


class Buckets(Mapping[int, DeltaFiles]):
    """The buckets of a table, each made when it is asked for, the least node first.

    Args:
        folder: the table's folder.
        table: the table.
        files: the files.
        pushed: the rows in its log, with the hash of their keys.
        bits: how many bits the table is split by: files that lie above are in each bucket below them. None: each file is in
            the bucket whose node it has.
        until: rows of later commits are left out; None for none.
    """

    def __init__(
        self,
        folder: Folder,
        table: Table,
        files: TableFiles,
        pushed: pl.DataFrame | None = None,
        *,
        bits: int | None = None,
        until: int | None = None,
    ) -> None:
        self._address = folder.address()
        self._until = until
        self._table = table
        self._pushed, self._pushed_places = pl.DataFrame(), dict[int, tuple[int, int]]()
        if pushed is not None:
            nodes = node_of(pl.col(HASH), bits or 0).cast(pl.Int64).alias(BUCKET)  # which no column of a view is called
            self._pushed = pushed.with_columns(nodes).sort(BUCKET, maintain_order=True)
            self._pushed_places = _places(self._pushed[BUCKET])
        is_above = pl.col("node") < (0 if bits is None else 1 << bits)
        # In a bucket the largest first; of those that lie above by their names.
        self._own = TableFiles(files.frame.filter(~is_above).sort("node", -pl.col("rows"), "path"))
        self._above = list(TableFiles(files.frame.filter(is_above).sort("path")))
        self._places = _places(self._own.frame["node"])
        below = [range(file.node << (depth := (bits or 0) - bits_of(file.node)), (file.node + 1) << depth) for file in self._above]
        self._nodes = dict.fromkeys(sorted({*self._places, *self._pushed_places, *(node for nodes in below for node in nodes)}))

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[int]:
        return iter(self._nodes)

    def __contains__(self, node: object) -> bool:
        return node in self._nodes

    def __getitem__(self, node: int) -> DeltaFiles:
        if node not in self._nodes:
            raise KeyError(node)
        start, end = self._places.get(node, (0, 0))
        members = self._own[start:end]
        first, last = self._pushed_places.get(node, (0, 0))
        rows = self._pushed[first:last].drop(BUCKET) if last else None
        shared = [(file, bits_of(node) - bits_of(file.node)) for file in self._above if are_related(file.node, node)]
        place = f"{self._address.url}/"
        return DeltaFiles(
            node,
            tuple(place + file.path for file in members),
            tuple(place + file.path for file, _ in shared),
            sum(file.rows for file in members)
            + sum(max(1, file.rows >> depth) for file, depth in shared)
            + (0 if rows is None else rows.height),
            sum(file.size for file in members) + sum(file.size >> depth for file, depth in shared),
            self._table.keys,
            self._table.features,
            self._address.options,
            rows,
            tuple(file.last_commit for file in (*members, *(file for file, _ in shared))),
            self._until,
        )


def _row_of(path: str, action: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the row of a file that this store has written; of any other one raise ``ValueError``."""
    if not re.fullmatch(_OWN, path) or action.get("deletionVector"):
        raise ValueError(path)
    statistics = json.loads(action["stats"])
    since, until = (
        to_micros(datetime.fromisoformat(statistics[end][EVENT].removesuffix("Z"))) for end in ("minValues", "maxValues")
    )
    commits = (int(statistics[end].get(COMMIT, 0)) for end in ("minValues", "maxValues"))
    return path, int(action["partitionValues"][BUCKET]), int(statistics["numRecords"]), int(action["size"]), since, until, *commits


def _places(nodes: pl.Series) -> dict[int, tuple[int, int]]:
    """Return from which row to which each node stands, of sorted ones."""
    counts = nodes.rle().struct.unnest()
    ends = counts["len"].cum_sum().to_list()
    return {node: (start, end) for node, start, end in zip(counts["value"], [0, *ends], ends, strict=False)}


def by_bucket(folder: Folder, table: Table, files: Sequence[File], *, bits: int | None = None) -> Buckets:
    """Return some files of a table as a history a bucket; ``bits`` as of ``Buckets``."""
    rows = [astuple(file) for file in files]
    return Buckets(folder, table, TableFiles(pl.DataFrame(rows, _SCHEMA, orient="row")), bits=bits)


def remove_file(file: File, now: int, *, changes: bool = True) -> RemoveAction:
    """Return the action that removes a file from the table in a commit; ``now`` is in milliseconds."""
    return RemoveAction(
        path=file.path,
        deletion_timestamp=now,
        data_change=changes,
        partition_values={BUCKET: str(file.node)},
        size=file.size,
    )
