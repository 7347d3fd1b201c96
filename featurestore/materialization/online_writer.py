"""The online writer of latest values: reads them from the history and writes them online."""

import logging
from collections.abc import Sequence

import polars as pl

from featurestore.clock import to_micros
from featurestore.definitions.catalog import AppliedView
from featurestore.definitions.feature_view import ViewSpec
from featurestore.materialization.entity_rows import entity_rows, in_buckets
from featurestore.materialization.part_writer import PartWriter
from featurestore.materialization.progress import Progress
from featurestore.materialization.results import Written
from featurestore.offline.base import History, Table
from featurestore.online.base import Entry, OnlineLostError
from featurestore.online.plan import KEEP_MS, entity_keys, online_entries
from featurestore.row_codec import is_whole, oldest_header
from featurestore.rows.total_order import count_tied, merge_files, sort_history

_BATCH = 50_000
_ATTEMPTS = 5
_LATE_MS = KEEP_MS // 2
"""A row whose ttl ended so long ago comes so late that the store may have forgotten a newer one.

It keeps a row for ``KEEP_MS`` after its ttl; the rest is for clocks that differ.
"""
_EVENT = slice(2, 10)
"""Where a value has its event time."""
_log = logging.getLogger("featurestore")


class LatestWriter(PartWriter):
    """Write the values of latest-value views online: of each entity the greatest row (S4, S15)."""

    def write_rows(self, applied: AppliedView, rows: pl.DataFrame) -> Written:
        """Write rows that the history has got, in any order."""
        view = applied.spec
        history = sort_history(rows, view.entity.key_names, list(view.stored_schema))
        return Written(self._write(applied, history), count_tied(history, view.entity.key_names))

    def write_run(self, applied: AppliedView, parts: Sequence[History], progress: Progress, *, first: bool = False) -> Written:
        """Write what a run has added to the history.

        Args:
            applied: the view.
            parts: buckets of its history; all rows of an entity are in one of them.
            progress: receives the progress.
            first: whether the history has nothing else.
        """
        return self._write_parts(applied, parts, progress, whole=first, repair=False)

    def write_part(self, applied: AppliedView, part: History, *, whole: bool, repair: bool) -> Written:
        """See ``PartWriter.write_part``."""
        view = applied.spec
        history = merge_files(part.read(), view.entity.key_names, list(view.stored_schema))
        return Written(self._write(applied, history, whole=whole, repair=repair), count_tied(history, view.entity.key_names))

    def _write(self, applied: AppliedView, rows: pl.DataFrame, *, whole: bool = False, repair: bool = False) -> int:
        """Write each entity's greatest row among some in their total order, or in all of the history where that may be another.

        Args:
            applied: the view.
            rows: the rows.
            whole: whether they are all that the history has of their entities.
            repair: whether damaged values are looked for, which may seem to be greater than any other.
        """
        for _ in range(_ATTEMPTS):
            # NOTE: asked first. A store that loses values after that refuses the write.
            doubted = self._trust.doubted(applied)
            entries = online_entries(self._trust.space(), applied, rows, to_micros(self._clock()))
            if not whole:
                entries = self._greatest(applied, rows, entries, doubted=doubted)
            try:
                return sum(self._put(entries[first : first + _BATCH], repair=repair) for first in range(0, len(entries), _BATCH))
            except OnlineLostError as error:
                lost = error  # which is noted by now
        raise lost

    def _put(self, entries: Sequence[Entry], *, repair: bool) -> int:
        if repair:
            values = self._online.read([entry.key for entry in entries])
            damaged = {
                entry.key: value
                for entry, value in zip(entries, values, strict=True)
                if value is not None and not is_whole(entry.key, value)
            }
            if damaged:
                _log.warning("%d values in the online store are damaged. They are written again from the history.", len(damaged))
                if empty := [key for key, value in damaged.items() if not value]:
                    self._online.delete(b"", keys=empty)
                entries = [
                    Entry(entry.key, entry.value, entry.ttl_ms, replaces=damaged[entry.key]) if damaged.get(entry.key) else entry
                    for entry in entries
                ]
        return self._online.write(entries)

    def _greatest(self, applied: AppliedView, rows: pl.DataFrame, entries: list[Entry], *, doubted: bool) -> list[Entry]:
        """Return what to write for some rows, of which a newer one may be lost or forgotten online: the history tells."""
        bound = self._late_before(applied.spec)
        keys = [entry.key for entry in entries if doubted or _event(entry) < bound]
        if keys and not doubted:
            # A row that comes so late may lie behind one that was swept.
            keys = [key for key, value in zip(keys, self._online.read(keys), strict=True) if value is None]
        if not keys:
            return entries
        newest = self._newest(applied, rows, set(keys))
        kept = []
        for entry in entries:
            known = newest.get(entry.key, entry)
            if known.value == entry.value or not _event(known) < bound:
                kept.append(known)  # else it lies behind one that was swept, and changes nothing (S15)
        return kept

    def _newest(self, applied: AppliedView, rows: pl.DataFrame, keys: set[bytes]) -> dict[bytes, Entry]:
        """Return the greatest row that the history has of some entities, which are among those of some rows."""
        view = applied.spec
        snapshot = self._offline.snapshot(Table.of(self._project, applied))
        if snapshot.rows == rows.height:
            return {}  # the history has nothing else
        entities = rows.select(view.entity.key_names).unique(maintain_order=True)
        names = entity_keys(self._trust.space(), applied, entities)
        entities = entities.filter(pl.Series([name in keys for name in names], dtype=pl.Boolean))
        newest: dict[bytes, Entry] = {}
        for batch in in_buckets(entities, view.entity, snapshot).iter_slices(_BATCH):
            history = entity_rows(snapshot, view, view.stored_schema, batch)
            entries = online_entries(self._trust.space(), applied, history, to_micros(self._clock()))
            newest.update((entry.key, entry) for entry in entries)
        return newest

    def _late_before(self, view: ViewSpec) -> bytes:
        """Return below which bound (``oldest_header``) events lie whose rows a store may have forgotten; without a ttl none do."""
        return b"" if view.ttl is None else oldest_header(to_micros(self._clock()) - view.ttl - 1000 * _LATE_MS)


def _event(entry: Entry) -> bytes:
    """Return the event time of a row as its value has it, which orders as the times do."""
    return entry.value[_EVENT]
