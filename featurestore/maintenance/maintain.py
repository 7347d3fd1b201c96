"""Maintenance: compacts histories, removes unneeded files, and cleans up versions that no reader uses.

It may run at any time, beside runs, pushes and readers, and be interrupted and repeated: each step is done or is not, and what is
left to do is found by looking.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Literal

from featurestore.clock import parse_duration
from featurestore.definitions.catalog import AppliedView
from featurestore.errors import DefinitionError, RequestError
from featurestore.maintenance.known_keys import known_keys
from featurestore.materialization.stores import Stores
from featurestore.materialization.tasks import Workers
from featurestore.offline.base import Compacted, FeatureLog, Table, TableMaintenance
from featurestore.offline.condition import require_runs
from featurestore.privacy.guarded_stores import ForgottenFilter
from featurestore.registry.serving import Retired, Serving
from featurestore.reports import Column, Report
from featurestore.row_codec import key_prefix

_ATTEMPTS = 5


@dataclass(frozen=True)
class MaintenanceResult:
    """What was done to one thing.

    Args:
        kind: ``history``, ``retired`` for a data version that nobody is given any more, or ``feature log``.
        name: the view with its data version, or the service.
        files_before: how many files there were, with what was pushed; None where they are not counted.
        files_after: how many there are, but for those that no version needs.
        merged: how many files were merged.
        removed: how many files were removed, and of a feature log by how many it became fewer.
        size: how many bytes the removed ones had.
        deleted: how many online values, or rows of a feature log, were deleted; None where that is not known.
    """

    kind: Literal["history", "retired", "feature log"]
    name: str
    files_before: int | None = None
    files_after: int | None = None
    merged: int = 0
    removed: int = 0
    size: int = 0
    deleted: int | None = 0


class MaintenanceReport(Report[MaintenanceResult]):
    """What upkeep did, a ``MaintenanceResult`` a history, retired version and feature log; prints as a table.

    Args:
        values: what was done.
        dry_run: whether it was only looked at.
    """

    def __init__(self, values: Sequence[MaintenanceResult], *, dry_run: bool = False) -> None:
        super().__init__(values)
        self.dry_run = dry_run

    def columns(self) -> Sequence[Column[MaintenanceResult]]:
        """See ``Report.columns``."""

        def count(header: str, of: Callable[[MaintenanceResult], int | None], width: int) -> Column[MaintenanceResult]:
            return Column(header, lambda value: "-" if (number := of(value)) is None else f"{number:,}", width, is_number=True)

        return [
            Column("kind", lambda value: value.kind, 12),
            Column("name", lambda value: value.name, 28, style=lambda value: "cyan"),
            count("files", lambda value: value.files_before, 7),
            count("after", lambda value: value.files_after, 7),
            count("merged", lambda value: value.merged, 7),
            count("removed", lambda value: value.removed, 8),
            count("bytes", lambda value: value.size, 13),
            count("deleted", lambda value: value.deleted, 9),
        ]

    @property
    def summary(self) -> str:
        """What else is worth knowing."""
        if not self._values:
            return "There is nothing to maintain yet."
        return "Nothing was changed. For each history the first step is shown; there may be more." if self.dry_run else ""


@dataclass(frozen=True)
class Retention:
    """How long what nothing needs any more stays.

    Args:
        files: files of histories that a later version of the table has in others: so long a reader may take.
        versions: rows of data versions that are neither applied nor served: so long one can return to them.
        logs: what services answered; None for ever.
    """

    files: timedelta
    versions: timedelta
    logs: timedelta | None = None


@dataclass(frozen=True)
class MaintenanceOptions:
    """How maintenance works.

    Args:
        retention: how long what is not needed stays.
        dry_run: change nothing, and report what would be done: of a compaction its first step, of a retired version its files.
        workers: what merges large files on other machines; None if this process does.
    """

    retention: Retention
    dry_run: bool = False
    workers: Workers | None = None


class Maintenance:
    """Keep the stores of a project in order.

    Args:
        stores: the stores of the project.
        serving: which versions readers are given.
        files: maintains the files of histories.
        feature_log: what services answered.
        forgotten_filter: knows who is forgotten.
        options: how it works.
    """

    def __init__(
        self,
        stores: Stores,
        serving: Serving,
        files: TableMaintenance,
        feature_log: FeatureLog,
        forgotten_filter: ForgottenFilter,
        options: MaintenanceOptions,
    ) -> None:
        self._project = stores.project
        self._ledger = stores.ledger
        self._serving = serving
        self._offline = stores.offline
        self._upkeep = files
        self._online = stores.online
        self._feature_log = feature_log
        self._forgotten_filter = forgotten_filter
        self._clock = stores.clock
        self._retention = options.retention
        self._space = stores.trust.space
        self._dry_run = options.dry_run
        self._workers = options.workers

    def keep_view(self, applied: AppliedView) -> list[MaintenanceResult]:
        """Keep the histories of a view in order: that of its present data version, and those that one can return to."""
        return [self._keep(version) for version in (applied, *self._serving.retained(applied.spec.name))]

    def clean_up(self, views: Sequence[str] | None = None) -> list[MaintenanceResult]:
        """Delete the rows of data versions that nobody was given for as long as they are retained.

        Args:
            views: of these views only, be they applied or removed; None for all.
        """
        cleaned = [
            self._drop(retired)
            for retired in self._serving.retired(self._clock() - self._retention.versions)
            if (views is None or retired.view in views) and (self._dry_run or self._serving.clean(retired))
        ]
        # Whoever was killed has noted that they are given up, and deletes the history last.
        for view, number in self._upkeep.tables(self._project):
            if (views is None or view in views) and not self._dry_run and self._serving.is_cleaned(view, number):
                cleaned.append(self._drop(Retired(view, number, self._clock())))
        return cleaned

    def keep_logs(self) -> list[MaintenanceResult]:
        """Compact the feature log of each service, and delete what is older than it is to be."""
        logs, kept = self._feature_log, []
        for service in logs.services(self._project):
            fewer = deleted = 0
            if not self._dry_run:
                if self._retention.logs is not None:
                    deleted = logs.prune(self._project, service, self._clock() - self._retention.logs)
                fewer = logs.compact(self._project, service)
            kept.append(MaintenanceResult("feature log", service, removed=max(0, fewer), deleted=deleted))
        return kept

    def _keep(self, applied: AppliedView) -> MaintenanceResult:
        table = Table.of(self._project, applied)
        require_runs(table, self._ledger.last_committed, self._offline.snapshot)  # else what a repair needs would be removed
        before = self._upkeep.files(table)
        steps = list(self._compact(applied, table))
        if self._dry_run:
            after = before - sum(step.merged - step.written for step in steps)
        else:
            self._upkeep.checkpoint(table)
            after = self._upkeep.files(table)
        removed = self._upkeep.vacuum(table, self._retention.files, dry_run=self._dry_run)
        merged = sum(step.merged for step in steps)
        return MaintenanceResult("history", _named(table), before, after, merged, removed.files, removed.size)

    def _compact(self, applied: AppliedView, table: Table) -> Iterator[Compacted]:
        failed = 0
        while failed < _ATTEMPTS:
            done = self._ledger.last_done(applied.spec.name, applied.data_version)
            # A step at a time, so that forgetting somebody need not wait for all of them.
            with self._forgotten_filter.writing() as tombstones:
                concerned = self._forgotten_filter.concerned(tombstones, table)
                here = partial(self._forgotten_filter.rows, tombstones, table) if concerned else None
                without = here if here is None or self._workers is None else self._workers.without_forgotten(table, here)
                engine = None if self._workers is None else self._workers.engine
                step = self._upkeep.compact(table, done.seq if done else 0, without, dry_run=self._dry_run, engine=engine)
            if step is None:
                return
            failed += not step.merged
            yield step
            if self._dry_run:
                return

    def _drop(self, retired: Retired) -> MaintenanceResult:
        table = Table(self._project, retired.view, retired.data_version, {}, {})
        files = self._upkeep.files(table)
        if self._dry_run:
            return MaintenanceResult("retired", _named(table), files, 0, deleted=None)
        space = self._space()
        applied = self._forgotten_filter.forms().stored(retired.view, retired.data_version)
        # NOTE: before the history, which names what is online.
        deleted = self._online.delete(
            key_prefix(space, retired.view, retired.data_version),
            known=None if applied is None else known_keys(self._offline, self._project, applied, space),
        )
        self._offline.drop(table)
        return MaintenanceResult("retired", _named(table), files, 0, removed=files, deleted=deleted)


def _named(table: Table) -> str:
    return f"{table.view} v{table.data_version}"


def retention_of(given: timedelta | str | None) -> timedelta | None:
    """Return the retention given by a call.

    Raises:
        RequestError: it is not a duration, or is negative.
    """
    try:
        keep = timedelta(microseconds=parse_duration(given)) if isinstance(given, str) else given
    except DefinitionError as error:
        raise RequestError(f"retention={given!r} is not a duration. {error.problem}") from error
    if keep is not None and (not isinstance(keep, timedelta) or keep < timedelta(0)):
        raise RequestError(f"retention={given!r} must be a duration of 0 or more. Write it as '7d', or as a timedelta.")
    return keep
