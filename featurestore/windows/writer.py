"""The online writer of windowed values: computes them from the history, and joins pushed events.

The history, its files and its log of pushed segments together, is the authority. A batch run computes the values of the
entities it has rows of from there (``recompute``). A push joins its segment to the value that is there, and notes the
segment's number in it, so that a segment is joined once however often it is tried (``apply_segment``). Every write replaces
exactly the value that was read before the history was looked at; if another writer was faster it starts over. So a value
never holds more or less than the history did when it was computed, regardless of the writers and their order (S15, S17).
"""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import polars as pl

from featurestore.clock import to_micros
from featurestore.definitions.catalog import AppliedView
from featurestore.definitions.window_features import EVENT_ID
from featurestore.errors import OnlineStoreError
from featurestore.materialization.entity_rows import entity_rows, in_buckets
from featurestore.materialization.part_writer import PartWriter
from featurestore.materialization.progress import Progress
from featurestore.materialization.results import Written
from featurestore.offline.base import History, Snapshot, Table
from featurestore.online.base import Entry, OnlineLostError
from featurestore.online.plan import entity_keys, lives
from featurestore.row_codec import HEADER_SIZE, is_whole, seal, unpack_times, unpack_values
from featurestore.rows.total_order import EVENT
from featurestore.windows.lookup import history_events, identified_rows
from featurestore.windows.tiles import TileLayout, Tiles

_ATTEMPTS = 50
_BATCH = 50_000
_log = logging.getLogger("featurestore")


class WindowWriter(PartWriter):
    """Write the values of windowed views online."""

    def write_run(self, applied: AppliedView, parts: Sequence[History], progress: Progress) -> int:
        """Recompute the values of the entities that some rows of the history are about; return how many changed.

        Raises:
            OnlineStoreError: the store cannot be reached. What is written stays; writing it all again is right.
        """
        return self._write_parts(applied, parts, progress, whole=False, repair=True).online

    def write_part(self, applied: AppliedView, part: History, *, whole: bool, repair: bool) -> Written:
        """See ``PartWriter.write_part``. Damaged values are looked for in any case.

        Where the rows are not all of their entities', of these the events near the rows' own are read.
        """
        keys = applied.spec.entity.key_names
        if whole:
            entities = pl.concat(part.read(keys)).unique(maintain_order=True)
            return Written(sum(self._rewrite(applied, batch) for batch in entities.iter_slices(_BATCH)))
        rows = pl.concat(part.read([*keys, EVENT]))
        return Written(self.recompute(applied, rows.group_by(keys, maintain_order=True).agg(pl.col(EVENT).max())))

    def recompute(self, applied: AppliedView, entities: pl.DataFrame) -> int:
        """Compute the values of some entities from the history; return how many changed.

        Args:
            applied: the view.
            entities: the join keys of each, each once. With ``event_time``, an event of the entity, older files need not be read.

        Raises:
            OnlineStoreError: the store cannot be reached.
        """
        # Neighbours lie in few buckets, so a batch reads few; but a few entities of many buckets are one batch.
        snapshot = self._offline.snapshot(Table.of(self._project, applied))
        batches = in_buckets(entities, applied.spec.entity, snapshot).iter_slices(_BATCH)
        return sum(self._rewrite(applied, batch) for batch in batches)

    def apply_segment(self, applied: AppliedView, seq: int, rows: pl.DataFrame) -> int:
        """Join a pushed segment to the values of its entities, where it is not in them yet; return how many changed.

        Args:
            applied: the view.
            seq: the segment's number.
            rows: its rows: the stored columns and ``_corrects``.

        Raises:
            OnlineStoreError: the store cannot be reached. Trying again is right.
        """
        view = applied.spec
        keys = list(view.entity.key_names)
        corrected = rows.filter(pl.col("_corrects")).select(keys).unique(maintain_order=True)
        written = self.recompute(applied, corrected) if corrected.height else 0
        rest = rows.join(corrected, on=keys, how="anti", maintain_order="left") if corrected.height else rows
        layout = TileLayout.of(view)
        events = history_events(rest.sort([*keys, EVENT]), keys, identified=False, as_known=False)
        waiting = events.select(keys).unique(maintain_order=True)
        for _ in range(_ATTEMPTS):
            if waiting.is_empty():
                return written
            waiting, done = self._join(applied, layout, seq, waiting, events)
            written += done
        raise self._contended(applied)

    def _join(
        self, applied: AppliedView, layout: TileLayout, seq: int, waiting: pl.DataFrame, events: pl.DataFrame
    ) -> tuple[pl.DataFrame, int]:
        """Join a segment's events to their entities' values; return the entities for which somebody was faster."""
        keys = list(applied.spec.entity.key_names)
        # NOTE: asked before the values are read. A store that loses them after that refuses what was made of them.
        doubted = self._trust.doubted(applied)
        names = entity_keys(self._trust.space(), applied, waiting)
        values = self._online.read(names)
        # NOTE: looked at after the values. A segment that is gone was in every value before it went (``Fold``).
        if not self._offline.log.exists(Table.of(self._project, applied), seq):
            return waiting.clear(), 0
        online_states = self._held(names, values)
        if doubted or not all(online_state.groups is not None for online_state in online_states):
            # Nothing is joined to nothing: the history may know the entity all the same. Nor to what may be too little.
            sound = pl.Series([not doubted and online_state.groups is not None for online_state in online_states], dtype=pl.Boolean)
            done = self.recompute(applied, waiting.filter(~sound))
            if not sound.any():
                return waiting.clear(), done
            later, more = self._join(applied, layout, seq, waiting.filter(sound), events)
            return later, done + more
        is_new = pl.Series([seq not in online_state.segments for online_state in online_states], dtype=pl.Boolean)
        if not is_new.all():
            waiting = waiting.filter(is_new)
            names = [name for name, new in zip(names, is_new, strict=True) if new]
            online_states = [online_state for online_state in online_states if seq not in online_state.segments]
        new = layout.build(events, waiting)
        old = layout.decode([(online_state.latest, online_state.groups, online_state.known) for online_state in online_states])
        done = 0
        if layout.in_order:
            earliest = waiting.join(events.group_by(keys).agg(pl.col(EVENT).min()), on=keys, how="left", maintain_order="left")
            late = (earliest[EVENT] <= old.latest).fill_null(value=False)
            if late.any():
                # Events among those that are there, where an aggregate needs them in their order.
                return waiting.filter(~late), self.recompute(applied, waiting.filter(late))
        joined = layout.join(old, new)
        known = {number for online_state in online_states for number in online_state.segments}
        table = Table.of(self._project, applied)
        current = {number for number in known if self._offline.log.exists(table, number)} | {seq}
        segments = [[*(number for number in online_state.segments if number in current), seq] for online_state in online_states]
        failed, changed = self._swap(names, online_states, layout, joined, segments)
        return waiting.filter(pl.Series(failed, dtype=pl.Boolean)), done + changed

    def _rewrite(self, applied: AppliedView, entities: pl.DataFrame) -> int:
        """Compute the values of some entities of one bucket from the history."""
        view = applied.spec
        layout, table = TileLayout.of(view), Table.of(self._project, applied)
        since = None
        if EVENT in entities.columns and EVENT_ID not in table.features:
            # An entity's last event is no earlier than this one, and what lies too far before it counts no more.
            since = to_micros(entities[EVENT].min()) - layout.reach  # type: ignore[arg-type]  # an instant
        waiting = entities.select(view.entity.key_names)
        written = 0
        for _ in range(_ATTEMPTS):
            names = entity_keys(self._trust.space(), applied, waiting)
            online_states = self._held(names, self._online.read(names))
            # NOTE: taken after the values. All that is in a value was in the history before.
            snapshot = self._offline.snapshot(table, since=since)
            tiles = layout.build(self._events(applied, snapshot, waiting, since), waiting)
            segments = [snapshot.segments] * waiting.height
            failed, changed = self._swap(names, online_states, layout, tiles, segments)
            written += changed
            if not any(failed):
                return written
            waiting = waiting.filter(pl.Series(failed, dtype=pl.Boolean))
        raise self._contended(applied)

    def _events(self, applied: AppliedView, snapshot: Snapshot, entities: pl.DataFrame, since: int | None) -> pl.DataFrame:
        """Return the events of some entities from a time on, each in its last version, sorted by entity and event time."""
        view = applied.spec
        keys, stored = list(view.entity.key_names), view.stored_schema
        rows = entity_rows(snapshot, view, stored, entities, since=since)
        rows = identified_rows(rows, view.windows)
        return history_events(rows, keys, identified=EVENT_ID in stored, as_known=False).sort([*keys, EVENT], maintain_order=True)

    def _held(self, names: Sequence[bytes], values: Sequence[bytes | None]) -> list["_Held"]:
        """Return values as they are online, decoded all at once; those that are damaged are to be replaced."""
        damaged = [value is not None and not is_whole(name, value) for name, value in zip(names, values, strict=True)]
        if any(damaged):
            _log.warning("%d values in the online store are damaged. They are computed from the history.", sum(damaged))
        whole = [None if wrong else value for value, wrong in zip(values, damaged, strict=True)]
        empty = [name for name, value in zip(names, values, strict=True) if value == b""]
        if empty:  # which cannot be replaced: that they begin with nothing says that there is none
            self._online.delete(b"", keys=empty)
        decoded = unpack_values(names, whole)
        return [
            _Held(value, None, (), None, damaged=True)
            if wrong and value
            else _NOTHING
            if value is None or wrong
            else _Held(value[:HEADER_SIZE], unpack_times(header)[0], *body)
            for value, wrong, header, body in zip(values, damaged, decoded[::2], decoded[1::2], strict=True)
        ]

    def _swap(
        self,
        names: Sequence[bytes],
        online_states: Sequence["_Held"],
        layout: TileLayout,
        tiles: Tiles,
        segments: Sequence[Sequence[int]],
    ) -> tuple[list[bool], int]:
        """Replace values by those computed from them; return for each whether somebody was faster, and how many changed."""
        values = [
            None if value is None else seal(name, value) for name, value in zip(names, layout.encode(tiles, segments), strict=True)
        ]
        ends = lives(tiles.latest, layout.reach, to_micros(self._clock()))
        wanted = [
            Entry(name, value, life, replaces=old.header)
            for name, value, life, old in zip(names, values, ends, online_states, strict=True)
            if value is not None and (value[:HEADER_SIZE] != old.header or old.damaged)
        ]
        try:
            if self._online.write(wanted) == len(wanted):
                return [False] * len(names), len(wanted)
        except OnlineLostError:
            return [True] * len(names), 0  # which is noted by now, and so looked at by whoever begins anew
        values_now = dict(zip(names, self._online.read(names), strict=True))
        lost = {entry.key for entry in wanted if (values_now[entry.key] or b"")[:HEADER_SIZE] != entry.value[:HEADER_SIZE]}
        return [name in lost for name in names], len(wanted) - len(lost)

    def _contended(self, applied: AppliedView) -> OnlineStoreError:
        return OnlineStoreError(
            f"Values of {applied.spec.name!r} were changed by others {_ATTEMPTS} times while they were computed. "
            "Try again when fewer write to the same entities at once."
        )


class _Held(NamedTuple):
    """A value as it is online: its header, its greatest event time, the segments in it, its groups, and when it was known.

    Of one that is damaged the header is the whole of it, by which it is replaced.
    """

    header: bytes
    latest: int | None
    segments: Sequence[int]
    groups: Sequence[Sequence[Any]] | None
    known: int | None = None
    damaged: bool = False


_NOTHING = _Held(b"", None, (), None)
