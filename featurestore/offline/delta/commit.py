"""Commits to a Delta table: merges a run's new rows, one sorted file in each bucket, and splits large buckets."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace

import polars as pl
from deltalake.transaction import RemoveAction

from featurestore.clock import from_micros
from featurestore.engines.base import Engine, goes_elsewhere
from featurestore.offline.base import Table
from featurestore.offline.delta.files import (
    BUCKET,
    HASH,
    DeltaFiles,
    NewFile,
    columns_of,
    event_span,
    of_keys,
    write_file,
)
from featurestore.offline.delta.table_files import TableFiles, by_bucket, remove_file
from featurestore.offline.folder import Folder, is_local
from featurestore.offline.scan import scan_files
from featurestore.rows.buckets import (
    ROWS_PER_BUCKET,
    are_related,
    bits_for,
    bits_of,
    bits_worth,
    key_hash,
    node_of,
    rows_per_file,
    within,
)
from featurestore.rows.total_order import (
    COMMIT,
    EVENT,
    number_copies,
    sort_history,
    split_equal,
    split_former,
    without_hash,
    without_known,
)
from featurestore.rows.widths import COPIES, width_of

_SPLIT_AT = 4
"""A table is split further once its buckets hold so many times the rows they should."""
_FEW = 50_000
"""Of so many rows or fewer, others of the same entities are looked for by name."""
TASK_BYTES = 256 << 20
"""How much memory a task takes, where there are rows enough."""


@dataclass(frozen=True)
class Merged:
    """What a commit is to tell of a run.

    Args:
        added: the files written.
        removed: the files whose rows are in those now.
        rows: how many rows are new.
    """

    added: Sequence[NewFile]
    removed: Sequence[RemoveAction]
    rows: int


@dataclass(frozen=True)
class StagedRows:
    """The rows of a run that wait for their commit. They can be pickled.

    Args:
        folder: the table's folder.
        table: the table.
        files: the files that chunks were staged in.
        pushed: the rows of pushes, which are few, with the hash of their keys and the commit that brought them.
        rows: how many rows there are.
    """

    folder: Folder
    table: Table
    files: tuple[str, ...]
    pushed: pl.DataFrame | None
    rows: int

    def scans(self) -> list[pl.LazyFrame]:
        """Return the rows, with the hash of their keys, and null for columns that the view has got since they were written.

        Where some were pushed, all have the commit that brought them: that of others is null, for the run has no number yet.
        """
        parts = [self._completed(scan_files([self.folder.address(name)])) for name in self.files]
        if self.pushed is None:
            return parts
        return [*(part.with_columns(pl.lit(None, pl.Int64).alias(COMMIT)) for part in parts), self._completed(self.pushed.lazy())]

    def _completed(self, part: pl.LazyFrame) -> pl.LazyFrame:
        there = part.collect_schema()
        columns = columns_of(self.table).items()
        return part.with_columns(pl.lit(None, dtype).alias(name) for name, dtype in columns if name not in there)


@dataclass(frozen=True)
class CommitBuilder:
    """Merge the staged rows of a run.

    Args:
        folder: the table's folder.
        table: the table.
        run: the run.
        files: the files the table has.
        now: the present in milliseconds.
        threads: how many buckets are merged at once.
        log: the rows of the table's log that are not among those merged, by pushes.
    """

    folder: Folder
    table: Table
    run: int
    files: TableFiles
    now: int
    threads: int
    log: Sequence[pl.DataFrame] = field(default=(), repr=False)

    def add(self, staged: StagedRows, engine: Engine | None = None) -> Merged:
        """Write the rows staged that neither the table nor its log holds yet.

        Args:
            staged: the rows.
            engine: what merges buckets on other machines, where there are many rows; None for threads of this process.
        """
        rows = self.files.rows + staged.rows
        needed = bits_for(rows)
        bits = needed if self.files.bits is None else self.files.bits
        split = needed > bits and rows > (_SPLIT_AT << bits) * ROWS_PER_BUCKET
        # A run that brings little takes as long on a large table as on a small one: it need not write to all buckets.
        depth = bits if split or not self.files else bits_worth(staged.rows, bits, self._per_file(rows, bits))
        nodes = range(1 << depth, 2 << depth)
        deeper = needed if split else None
        if goes_elsewhere(engine, rows if split else staged.rows):
            merged = self._added_elsewhere(engine, staged, nodes, deeper)
        else:
            parts = staged.scans()
            with ThreadPoolExecutor(self.threads) as threads:
                merged = list(threads.map(lambda node: self.merge(node, parts, deeper), nodes))
        added = [action for actions, _ in merged for action in actions]
        removed = [remove_file(file, self.now) for file in self.files] if split else []
        return Merged(added, removed, sum(count for _, count in merged))

    def _added_elsewhere(
        self, engine: Engine, staged: StagedRows, nodes: range, deeper: int | None
    ) -> list[tuple[list[NewFile], int]]:
        merged: dict[int, tuple[list[NewFile], int]] = {}
        with closing(engine.run(self._tasks(staged, nodes, deeper))) as results:
            for _, receipt in results:
                merged |= receipt
        return [merged[node] for node in nodes]

    def _tasks(self, staged: StagedRows, nodes: range, deeper: int | None) -> Iterator["MergeTask"]:
        """Yield the tasks that merge some nodes each: neighbours, so many that a task is worth its way."""
        width = COPIES * (8 + width_of(columns_of(self.table).values()))
        # Beside the new rows those that the table has of their time; of buckets that are split it has all.
        rows = staged.rows + (staged.rows if deeper is None else self.files.rows)
        weight = max(1, width * rows // len(nodes))
        many = max(1, TASK_BYTES // weight)
        plain = replace(self.table, spec=None)  # which may name what is the user's, and is not needed
        for first in range(0, len(nodes), many):
            members = tuple(nodes[first : first + many])
            inside = pl.any_horizontal(within(node, pl.col(HASH)) for node in members)
            log = [near for pushed in self.log if (near := pushed.filter(inside)).height]
            builder = replace(self, table=plain, files=self.files.near(members[0], members[-1]), log=log)
            yield MergeTask(builder, replace(staged, table=plain), members, deeper, weight * len(members))

    def _per_file(self, rows: int, bits: int) -> int:
        return rows_per_file(rows, bits, is_local=is_local(self.folder))

    def merge(self, node: int, parts: Sequence[pl.LazyFrame], deeper: int | None) -> tuple[list[NewFile], int]:
        """Write what one bucket gets of the rows staged; return the files and how many rows are new.

        Args:
            node: the bucket.
            parts: the rows staged (``StagedRows.scans``).
            deeper: how deep the bucket's rows, those it has too, are to be split; None if they stay as they are.
        """
        new = self._new_rows(node, parts)
        if deeper is not None:
            return self._split(node, new, deeper), new.height
        return ([write_file(self.folder, self.run, node, new, self.now)] if new.height else []), new.height

    def _split(self, node: int, new: pl.DataFrame, bits: int) -> list[NewFile]:
        table = self.table
        frames = [new if COMMIT in new.columns else new.with_columns(pl.lit(None, pl.Int64).alias(COMMIT))]
        files = [file for file in self.files if are_related(file.node, node)]
        columns = [*columns_of(table), COMMIT]
        frames += by_bucket(self.folder, table, files, bits=bits_of(node))[node].read(columns) if files else []
        rows = sort_history(pl.concat([frame.select(columns) for frame in frames]), list(table.keys), list(table.features))
        children = rows.with_columns(node_of(key_hash(table.keys), bits).alias(BUCKET))
        parted = children.partition_by(BUCKET, as_dict=True, include_key=False, maintain_order=True)
        return [write_file(self.folder, self.run, int(child), frame, self.now) for (child,), frame in parted.items()]

    def _new_rows(self, node: int, parts: Sequence[pl.LazyFrame]) -> pl.DataFrame:
        table = self.table
        keys, features = list(table.keys), list(table.features)
        if not parts:
            return pl.DataFrame(schema=columns_of(table))
        inside = within(node, pl.col(HASH))
        commit = [COMMIT] if COMMIT in parts[-1].collect_schema() else []
        new = pl.concat([part.filter(inside).select(*columns_of(table), *commit) for part in parts]).collect()
        new = sort_history(number_copies(new, keys, features), keys, features)
        if new.is_empty():
            return new
        since, until = event_span(new)
        near = [file for file in self.files.overlapping(since, until) if are_related(file.node, node)]
        where = pl.col(EVENT).is_between(from_micros(since), from_micros(until))
        if new.height <= _FEW:
            where = where & of_keys(new, table.keys)
        former = []
        for history in by_bucket(self.folder, table, near).values():
            for frame in history.read(where=where):
                new, _ = split_equal(new, frame, keys, features)
                former += without_hash(frame, new, keys)
        if self.log:
            pushed = pl.concat([rows.lazy().filter(inside) for rows in self.log]).collect()
            new, _ = split_equal(new, pushed, keys, features)
            former += without_hash(pushed.select(*columns_of(table)), new, keys)
        return split_former(new, pl.concat(former), keys, features)[0] if former else new

    def leave_out(self, merged: Merged, pushed: Sequence[pl.DataFrame]) -> Merged:
        """Rewrite files that have rows which were pushed since, without these.

        Args:
            merged: what was merged.
            pushed: rows that came into the log meanwhile, by pushes.
        """
        keys, features = list(self.table.keys), list(self.table.features)
        rows = pl.concat(pushed)
        if rows.is_empty():
            return merged
        since, until = event_span(rows)
        added: list[NewFile] = []
        left_out = 0
        for new in merged.added:
            known = rows.filter(within(new.node, pl.col(HASH)))
            if known.is_empty() or new.until < since or new.since > until:
                added.append(new)
                continue
            address = self.folder.address(new.action.path)
            history = DeltaFiles(new.node, (address.url,), (), 0, 0, self.table.keys, self.table.features, address.options)
            [stored] = history.read([*columns_of(self.table), COMMIT])
            kept = without_known(stored, known, keys, features)
            if kept.height == stored.height:
                added.append(new)
                continue
            left_out += stored.height - kept.height
            self.folder.delete([new.action.path])
            if kept.height:
                added.append(write_file(self.folder, self.run, new.node, kept, self.now))
        return Merged(added, merged.removed, merged.rows - left_out)


@dataclass(frozen=True)
class MergeTask:
    """Write what some buckets get of the rows staged, on whichever machine: see ``Task``.

    Args:
        builder: what merges a bucket, of the files that have rows of these.
        staged: the rows staged.
        nodes: the buckets.
        deeper: as ``CommitBuilder.merge``.
        weight: about how many bytes of memory it takes.
    """

    builder: CommitBuilder
    staged: StagedRows
    nodes: tuple[int, ...]
    deeper: int | None
    weight: int

    def run(self) -> dict[int, tuple[list[NewFile], int]]:
        """Return the files written and the number of new rows, by bucket."""
        parts = self.staged.scans()
        return {node: self.builder.merge(node, parts, self.deeper) for node in self.nodes}

    def split(self, parts: int) -> "list[MergeTask] | None":
        """Return about so many tasks of fewer buckets."""
        if len(self.nodes) == 1:
            return None
        size = -(-len(self.nodes) // parts)
        some = [self.nodes[first : first + size] for first in range(0, len(self.nodes), size)]
        return [replace(self, nodes=nodes, weight=self.weight * len(nodes) // len(self.nodes)) for nodes in some]
