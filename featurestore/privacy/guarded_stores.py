"""Guarded stores: wrap every store that writes rows, so that rows of forgotten entities never get in.

Forgetting lays tombstones first, then waits at the write barrier until what was being written is written, then erases. A writer
passes the barrier and looks at the tombstones behind it. So it either wrote before the erasing, which finds its rows, or knows.
A writer whose hold on the barrier was lost meanwhile looks at the tombstones again: if there are new ones, they count as not erased
yet, which the doctor reports and forgetting again completes.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import polars as pl

from featurestore.definitions.entity import Entity
from featurestore.definitions.feature_view import ViewSpec
from featurestore.engines.base import Engine
from featurestore.errors import LockLostError
from featurestore.materialization.online_trust import Trust
from featurestore.offline.base import (
    Appended,
    FeatureLog,
    History,
    OfflineStore,
    PushLog,
    Segment,
    Snapshot,
    Staged,
    Table,
)
from featurestore.online.base import Entry, Epoch, OnlineStore
from featurestore.privacy.tombstone_set import TombstoneSet, loose_keys
from featurestore.registry.tombstones import Forms, Tombstones
from featurestore.registry.write_barrier import WriteBarrier
from featurestore.row_codec import decode_keys
from featurestore.rows.transform import REASON, TransformResult

_log = logging.getLogger("featurestore")


class ForgottenFilter:
    """Say to writers who is forgotten.

    Args:
        barrier: the project's write barrier.
        tombstones: gives the project's tombstones, once they are needed.
        revision: returns the project's revision, which tells whether entities may have got other names or keys.
    """

    def __init__(self, barrier: WriteBarrier, tombstones: Callable[[], Tombstones], revision: Callable[[], int]) -> None:
        self._barrier = barrier
        self._tombstones = tombstones
        self._revision = revision
        self._within = threading.local()
        self._forms: tuple[int, Forms] | None = None

    @contextmanager
    def writing(self) -> Iterator[TombstoneSet]:
        """Give who is forgotten, for as long as something is written: who is forgotten meanwhile is erased after it.

        Within another one of this thread it gives what that one gave.
        """
        known: TombstoneSet | None = getattr(self._within, "tombstones", None)
        if known is not None:
            yield known
            return
        seen: TombstoneSet | None = None
        failure: BaseException | None = None
        try:
            with self._barrier.shared():
                seen = self._within.tombstones = self._tombstones().current()
                try:
                    yield seen
                except BaseException as error:  # what ended the block goes on below, in place of a lost lock
                    failure = error
                    raise
                finally:
                    self._within.tombstones = None
        except LockLostError as error:
            if seen is None:
                raise
            reopened = self._tombstones().reopen(seen)
            _log.warning("%s Erasures that count as unfinished now: %d.", error, reopened)
            if failure is not None:
                raise failure from None

    def forms(self) -> Forms:
        """Return the forms that entities have and had, as of the present definitions."""
        revision, known = self._revision(), self._forms
        if known is None or known[0] != revision:
            known = self._forms = revision, Forms(self._tombstones())
        return known[1]

    def sift(self, rows: pl.DataFrame, view: ViewSpec) -> pl.DataFrame:
        """Return a source's rows without those that name a forgotten entity by a key that the view's entity had once."""
        with self.writing() as tombstones:
            if not tombstones:
                return rows
            now = set(view.entity.keys)
            former = [form for form in self._of(view.name, view.entity) if form.keys.keys() != now]
            return rows.filter(~tombstones.rows_of(former, rows)) if tombstones.concern(former) else rows

    def without_forgotten(self, shaped: TransformResult, view: ViewSpec) -> TransformResult:
        """Return what became of a source's rows without those of forgotten entities, which are counted."""
        with self.writing() as tombstones:
            if not tombstones:
                return shaped
            forms = self._of(view.name, view.entity)
            if not tombstones.concern(forms):
                return shaped
            rows = shaped.rows.filter(~tombstones.rows_of(forms, shaped.rows))
            rejected = [self._without_rejected(tombstones, forms, view.entity, frame) for frame in shaped.rejected]
        gone = shaped.rows.height - rows.height
        gone += sum(frame.height for frame in shaped.rejected) - sum(frame.height for frame in rejected)
        return replace(
            shaped, rows=rows, rejected=tuple(frame for frame in rejected if frame.height), forgotten=shaped.forgotten + gone
        )

    def answers(self, tombstones: TombstoneSet, rows: pl.DataFrame) -> pl.DataFrame:
        """Return rows of a service's answers without those that were asked for forgotten entities."""
        known = self.forms()
        for name in {*tombstones.digests, *tombstones.former}:
            forms = known.of_entity(name)
            for keys, columns in known.columns(forms):
                if set(columns) <= set(rows.columns):
                    named = pl.DataFrame([rows[column].alias(key) for key, column in zip(keys, columns, strict=True)])
                    rows = rows.filter(~tombstones.rows_of(forms, named))
        return rows

    def rows(self, tombstones: TombstoneSet, table: Table, rows: pl.DataFrame) -> pl.DataFrame:
        """Return rows of a view's table without those of forgotten entities."""
        forms = self.forms().of_view(table.view) if tombstones else []
        return rows.filter(~tombstones.rows_of(forms, rows)) if tombstones.concern(forms) else rows

    def concerned(self, tombstones: TombstoneSet, table: Table) -> bool:
        """Return whether a table may have rows of forgotten entities."""
        return bool(tombstones) and tombstones.concern(self.forms().of_view(table.view))

    def rejected(self, tombstones: TombstoneSet, table: Table, rows: pl.DataFrame) -> pl.DataFrame:
        """Return rejected rows, as a source gave them, without those that may be of forgotten entities."""
        if not tombstones:
            return rows
        known = self.forms()
        entity = known.keyed(table.view, table.data_version)
        return rows if entity is None else self._without_rejected(tombstones, known.of_view(table.view), entity, rows)

    def online(self, tombstones: TombstoneSet, view: str, data_version: int, encoded: Sequence[bytes]) -> list[bool]:
        """Return of each entity of a view, by its encoded join keys, whether it was forgotten."""
        known = self.forms()
        entity = known.keyed(view, data_version)
        if entity is None or not tombstones.concern(forms := known.of_view(view)):
            return [False] * len(encoded)
        return tombstones.rows_of(forms, decode_keys(encoded, entity.keys)).to_list()

    def _of(self, view: str, entity: Entity) -> list[Entity]:
        """Return the forms of a view's entity; of one that is not applied, those of its entity."""
        known = self.forms()
        return list(dict.fromkeys([entity, *known.of_view(view), *known.of_entity(entity.name)]))

    @staticmethod
    def _without_rejected(tombstones: TombstoneSet, forms: Sequence[Entity], entity: Entity, rows: pl.DataFrame) -> pl.DataFrame:
        """Return rejected rows without those that may be of forgotten entities.

        Where it cannot be said whose they are, as a transform names the keys and there are several, the reason alone is left.
        """
        if not tombstones.concern(forms):
            return rows
        keys = loose_keys(rows, entity)
        if not keys:
            return rows.select(name for name in (REASON, "_run") if name in rows.columns)
        gone = tombstones.rows_of(forms, rows)
        for frame in keys:
            gone = gone | tombstones.rows_of(forms, frame)
        return rows.filter(~gone)


class GuardedOnline:
    """An online store into which no values of forgotten entities get.

    Args:
        store: the store.
        forgotten_filter: knows who is forgotten.
        trust: tells with what the keys begin.
    """

    def __init__(self, store: OnlineStore, forgotten_filter: ForgottenFilter, trust: Trust) -> None:
        self._store = store
        self._forgotten_filter = forgotten_filter
        self._trust = trust
        self.marks = store.marks
        self.read = store.read
        self.read_async = store.read_async
        self.delete = store.delete
        self.sweep = store.sweep
        self.check = store.check
        self.close = store.close

    def write(self, entries: Sequence[Entry], *, epoch: Epoch | None = None) -> int:
        """See ``OnlineStore.write``. What was to replace a value of a forgotten entity counts as written."""
        with self._forgotten_filter.writing() as tombstones:
            if not tombstones:
                return self._store.write(entries, epoch=epoch)
            gone = self._gone(tombstones, entries)
            kept = [entry for entry, is_gone in zip(entries, gone, strict=True) if not is_gone]
            passed = sum(1 for entry, is_gone in zip(entries, gone, strict=True) if is_gone and entry.replaces is not None)
            return self._store.write(kept, epoch=epoch) + passed

    def _gone(self, tombstones: TombstoneSet, entries: Sequence[Entry]) -> list[bool]:
        gone = [False] * len(entries)
        views: dict[tuple[bytes, bytes], list[tuple[int, bytes]]] = {}
        space = f"{self._trust.space()}/".encode()
        for place, entry in enumerate(entries):
            if entry.key.startswith(space):
                view, _, rest = entry.key[len(space) :].partition(b"/")
                version, _, entity = rest.partition(b"/")
                views.setdefault((view, version), []).append((place, entity[1:-1]))
        for (view, version), members in views.items():
            forgotten = self._forgotten_filter.online(tombstones, view.decode(), int(version), [key for _, key in members])
            for (place, _), is_forgotten in zip(members, forgotten, strict=True):
                gone[place] = is_forgotten
        return gone


class GuardedPushLog:
    """A log of pushes into which no rows of forgotten entities get.

    Args:
        log: the log.
        forgotten_filter: knows who is forgotten.
    """

    def __init__(self, log: PushLog, forgotten_filter: ForgottenFilter) -> None:
        self._log = log
        self._forgotten_filter = forgotten_filter

    def append(self, table: Table, rows: pl.DataFrame, *, since: int | None = None) -> Appended:
        """See ``PushLog.append``."""
        with self._forgotten_filter.writing() as tombstones:
            return self._log.append(table, self._forgotten_filter.rows(tombstones, table, rows), since=since)

    def segments(self, table: Table) -> list[Segment]:
        """See ``PushLog.segments``."""
        return self._log.segments(table)

    def read(self, table: Table, seq: int) -> pl.DataFrame | None:
        """See ``PushLog.read``."""
        return self._log.read(table, seq)

    def exists(self, table: Table, seq: int) -> bool:
        """See ``PushLog.exists``."""
        return self._log.exists(table, seq)

    def last_commit(self, table: Table, stored_by: int) -> int:
        """See ``PushLog.last_commit``."""
        return self._log.last_commit(table, stored_by)

    def remove(self, table: Table) -> None:
        """See ``PushLog.remove``."""
        self._log.remove(table)

    def folding(self, table: Table) -> AbstractContextManager[bool]:
        """See ``PushLog.folding``."""
        return self._log.folding(table)


class GuardedFeatureLog:
    """A feature log into which no answers for forgotten entities get.

    Args:
        log: the log.
        forgotten_filter: knows who is forgotten.
    """

    def __init__(self, log: FeatureLog, forgotten_filter: ForgottenFilter) -> None:
        self._log = log
        self._forgotten_filter = forgotten_filter
        self.read = log.read
        self.services = log.services
        self.compact = log.compact
        self.prune = log.prune
        self.delete = log.delete

    def append(self, project: str, service: str, rows: pl.DataFrame) -> None:
        """See ``FeatureLog.append``. What was answered before somebody was forgotten may be written after it."""
        with self._forgotten_filter.writing() as tombstones:
            kept = self._forgotten_filter.answers(tombstones, rows) if tombstones else rows
            if kept.height or not rows.height:
                self._log.append(project, service, kept)


class GuardedOffline:
    """An offline store into which no rows of forgotten entities get.

    Args:
        store: the store.
        forgotten_filter: knows who is forgotten.
    """

    def __init__(self, store: OfflineStore, forgotten_filter: ForgottenFilter) -> None:
        self._store = store
        self._forgotten_filter = forgotten_filter
        self.log: PushLog = GuardedPushLog(store.log, forgotten_filter)

    def stage(self, table: Table, run: int, index: int, frame: pl.DataFrame) -> Staged:
        """See ``OfflineStore.stage``."""
        with self._forgotten_filter.writing() as tombstones:
            return self._store.stage(table, run, index, self._forgotten_filter.rows(tombstones, table, frame))

    def commit(
        self, table: Table, run: int, staged: Sequence[Mapping[str, Any]], after: int = 0, engine: Engine | None = None
    ) -> int:
        """See ``OfflineStore.commit``. Who is forgotten was taken out of what is staged, and is so before the next commit."""
        with self._forgotten_filter.writing():
            return self._store.commit(table, run, staged, after, engine)

    def keep_rejected(self, table: Table, run: int, index: int, frame: pl.DataFrame) -> str:
        """See ``OfflineStore.keep_rejected``."""
        with self._forgotten_filter.writing() as tombstones:
            return self._store.keep_rejected(table, run, index, self._forgotten_filter.rejected(tombstones, table, frame))

    def snapshot(
        self, table: Table, *, since: int | None = None, until: int | None = None, stored_until: int | None = None
    ) -> Snapshot:
        """See ``OfflineStore.snapshot``."""
        return self._store.snapshot(table, since=since, until=until, stored_until=stored_until)

    def committed(self, table: Table, run: int) -> list[History]:
        """See ``OfflineStore.committed``."""
        return self._store.committed(table, run)

    def rejected(self, table: Table) -> pl.DataFrame:
        """See ``OfflineStore.rejected``."""
        return self._store.rejected(table)

    def drop(self, table: Table) -> None:
        """See ``OfflineStore.drop``."""
        self._store.drop(table)
