"""Commits to a Delta table: merges a run's new rows, one sorted file in each bucket, and splits large buckets."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import polars as pl
from deltalake.transaction import RemoveAction

from featurestore.clock import from_micros
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
from featurestore.rows.total_order import EVENT, number_copies, sort_history, split_equal, split_former, without_hash, without_known

_SPLIT_AT = 4
"""A table is split further once its buckets hold so many times the rows they should."""
_FEW = 50_000
"""Of so many rows or fewer, others of the same entities are looked for by name."""


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

    def add(self, parts: Sequence[pl.LazyFrame], staged_rows: int) -> Merged:
        """Write the rows staged that neither the table nor its log holds yet.

        Args:
            parts: the rows staged, with the hash of their keys.
            staged_rows: how many there are.
        """
        rows = self.files.rows + staged_rows
        needed = bits_for(rows)
        bits = needed if self.files.bits is None else self.files.bits
        split = needed > bits and rows > (_SPLIT_AT << bits) * ROWS_PER_BUCKET
        # A run that brings little takes as long on a large table as on a small one: it need not write to all buckets.
        depth = bits if split or not self.files else bits_worth(staged_rows, bits, self._per_file(rows, bits))
        nodes = range(1 << depth, 2 << depth)
        with ThreadPoolExecutor(self.threads) as threads:
            one = (lambda node: self._split(node, parts, needed)) if split else (lambda node: self._add(node, parts))
            merged = list(threads.map(one, nodes))
        added = [action for actions, _ in merged for action in actions]
        removed = [remove_file(file, self.now) for file in self.files] if split else []
        return Merged(added, removed, sum(count for _, count in merged))

    def _per_file(self, rows: int, bits: int) -> int:
        return rows_per_file(rows, bits, is_local=is_local(self.folder))

    def _add(self, node: int, parts: Sequence[pl.LazyFrame]) -> tuple[list[NewFile], int]:
        new = self._new_rows(node, parts)
        return ([write_file(self.folder, self.run, node, new, self.now)] if new.height else []), new.height

    def _split(self, node: int, parts: Sequence[pl.LazyFrame], bits: int) -> tuple[list[NewFile], int]:
        table = self.table
        new = self._new_rows(node, parts)
        frames = [new]
        files = [file for file in self.files if are_related(file.node, node)]
        frames += by_bucket(self.folder, table, files, bits=bits_of(node))[node].read() if files else []
        rows = sort_history(pl.concat(frames), list(table.keys), list(table.features))
        children = rows.with_columns(node_of(key_hash(table.keys), bits).alias(BUCKET))
        parted = children.partition_by(BUCKET, as_dict=True, include_key=False, maintain_order=True)
        return [write_file(self.folder, self.run, int(child), frame, self.now) for (child,), frame in parted.items()], new.height

    def _new_rows(self, node: int, parts: Sequence[pl.LazyFrame]) -> pl.DataFrame:
        table = self.table
        keys, features = list(table.keys), list(table.features)
        if not parts:
            return pl.DataFrame(schema=columns_of(table))
        inside = within(node, pl.col(HASH))
        new = pl.concat([part.filter(inside).select(*columns_of(table)) for part in parts]).collect()
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
            [stored] = DeltaFiles(new.node, (address.url,), (), 0, 0, self.table.keys, self.table.features, address.options).read()
            kept = without_known(stored, known, keys, features)
            if kept.height == stored.height:
                added.append(new)
                continue
            left_out += stored.height - kept.height
            self.folder.delete([new.action.path])
            if kept.height:
                added.append(write_file(self.folder, self.run, new.node, kept, self.now))
        return Merged(added, merged.removed, merged.rows - left_out)
