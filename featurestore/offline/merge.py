"""Merging a run's rows into a table: the new ones, one sorted file a bucket; buckets are split where the table outgrows them."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
from deltalake.transaction import RemoveAction

from featurestore.clock import from_micros
from featurestore.offline.base import Table
from featurestore.offline.delta_files import (
    BUCKET,
    HASH,
    DeltaFiles,
    File,
    NewFile,
    by_bucket,
    columns_of,
    event_span,
    remove_file,
    write_file,
)
from featurestore.plan.buckets import ROOT, ROWS_PER_BUCKET, bits_for, bits_of, key_hash, node_of
from featurestore.plan.history import EVENT, number_copies, sort_history, without_known

_SPLIT_AT = 4
"""A table is split further once its buckets hold so many times the rows they should."""


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
class Merge:
    """Merges the staged rows of a run.

    Args:
        folder: the table's folder.
        table: the table.
        run: the run.
        files: the files the table has.
        now: the present in milliseconds.
        threads: how many buckets are merged at once.
        log: the rows of the table's log that are not among those merged, by pushes.
    """

    folder: Path
    table: Table
    run: int
    files: Sequence[File]
    now: int
    threads: int
    log: Sequence[pl.DataFrame] = field(default=(), repr=False)

    def add(self, parts: Sequence[pl.LazyFrame], staged_rows: int) -> Merged:
        """Writes the rows staged that neither the table nor its log holds yet.

        Args:
            parts: the rows staged, with the hash of their keys.
            staged_rows: how many there are.
        """
        rows = sum(file.rows for file in self.files) + staged_rows
        needed = bits_for(rows)
        bits = bits_of(max(file.node for file in self.files)) if self.files else needed
        split = needed > bits and rows > (_SPLIT_AT << bits) * ROWS_PER_BUCKET
        nodes = range(1 << bits, 2 << bits)
        with ThreadPoolExecutor(self.threads) as threads:
            one = (lambda node: self._split(node, parts, needed)) if split else (lambda node: self._add(node, parts))
            merged = list(threads.map(one, nodes))
        added = [action for actions, _ in merged for action in actions]
        removed = [remove_file(file, self.now) for file in self.files] if split else []
        return Merged(added, removed, sum(count for _, count in merged))

    def _add(self, node: int, parts: Sequence[pl.LazyFrame]) -> tuple[list[NewFile], int]:
        new = self._new_rows(node, parts)
        return ([write_file(self.folder, self.run, node, new, self.now)] if new.height else []), new.height

    def _split(self, node: int, parts: Sequence[pl.LazyFrame], bits: int) -> tuple[list[NewFile], int]:
        table = self.table
        new = self._new_rows(node, parts)
        files = [file for file in self.files if file.node == node]
        held = [new, *(frame for each in by_bucket(self.folder, table, files).values() for frame in each.read())]
        rows = sort_history(pl.concat(held), list(table.keys), list(table.features))
        children = rows.with_columns(node_of(key_hash(table.keys), bits).alias(BUCKET))
        parted = children.partition_by(BUCKET, as_dict=True, include_key=False, maintain_order=True)
        return [write_file(self.folder, self.run, int(child), frame, self.now) for (child,), frame in parted.items()], new.height

    def _new_rows(self, node: int, parts: Sequence[pl.LazyFrame]) -> pl.DataFrame:
        table = self.table
        keys, features = list(table.keys), list(table.features)
        if not parts:
            return pl.DataFrame(schema=columns_of(table))
        within = _within(node)
        new = pl.concat([part.filter(within).select(*columns_of(table)) for part in parts]).collect()
        new = sort_history(number_copies(new, keys, features), keys, features)
        if new.is_empty():
            return new
        since, until = event_span(new)
        near = [file for file in self.files if file.node == node and file.overlaps(since, until)]
        for history in by_bucket(self.folder, table, near).values():
            for frame in history.read():
                within_span = frame.filter(pl.col(EVENT).is_between(from_micros(since), from_micros(until)))
                new = without_known(new, within_span, keys, features)
        if self.log:
            new = without_known(new, pl.concat([rows.lazy().filter(within) for rows in self.log]).collect(), keys, features)
        return new

    def leave_out(self, merged: Merged, pushed: Sequence[pl.DataFrame]) -> Merged:
        """Writes files anew that have rows which were pushed since, without these.

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
            known = rows.filter(_within(new.node))
            if known.is_empty() or new.until < since or new.since > until:
                added.append(new)
                continue
            path = self.folder / new.action.path
            [held] = DeltaFiles((str(path),), 0, 0, self.table.keys, self.table.features).read()
            kept = without_known(held, known, keys, features)
            if kept.height == held.height:
                added.append(new)
                continue
            left_out += held.height - kept.height
            path.unlink()
            if kept.height:
                added.append(write_file(self.folder, self.run, new.node, kept, self.now))
        return Merged(added, merged.removed, merged.rows - left_out)


def _within(node: int) -> pl.Expr:
    """Returns whether a row, by the hash of its keys, is of a bucket."""
    if node == ROOT:
        return pl.lit(value=True)
    shift = 64 - bits_of(node)
    low = (node << shift) - (1 << 64)
    return pl.col(HASH).is_between(pl.lit(low, pl.UInt64), pl.lit(low + (1 << shift) - 1, pl.UInt64))
