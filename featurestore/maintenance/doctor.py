"""The doctor: checks a project from its settings to its values, and says how to fix each problem."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from errno import EDQUOT, ENOSPC
from importlib.metadata import PackageNotFoundError, version
from os import fstat
from pathlib import Path
from platform import python_version
from shutil import disk_usage
from tempfile import TemporaryFile
from typing import Any, Literal

import polars as pl

from featurestore.clock import Clock, format_duration, format_seconds, from_micros
from featurestore.definitions.catalog import AppliedView
from featurestore.durable import make_folders
from featurestore.errors import DefinitionError, FeatureStoreError
from featurestore.maintenance.status import age_of, is_late
from featurestore.offline.base import OfflineStore, Table
from featurestore.on_demand.values import python_values
from featurestore.registry.ledger import Ledger
from featurestore.reports import Column, Note, Report
from featurestore.streams.control import StreamStatus

State = Literal["ok", "warning", "error"]

_SAMPLE = 20
"""How many entities of each view are looked up in both stores."""
_TIME = "_at"
_SKEW = 2.0
"""By how many seconds clocks may differ, and by how many more it is an error."""
_BAD_SKEW = 60.0
_CLOSE = 1e-9


@dataclass(frozen=True)
class Finding:
    """What was found of one thing.

    Args:
        check: what was looked at.
        state: ``ok``; ``warning`` for what may become wrong; ``error`` for what is.
        message: what was found.
        advice: what to do, a command where there is one; empty where nothing is to be done.
    """

    check: str
    state: State
    message: str
    advice: str = ""


class DoctorReport(Report[Finding]):
    """What the doctor found, a ``Finding`` for each check; prints as a table."""

    notes_in_cell = True

    @property
    def is_well(self) -> bool:
        """Whether nothing is wrong; warnings do not count."""
        return all(finding.state != "error" for finding in self._values)

    def to_dict(self) -> dict[str, Any]:
        """Return it all in plain JSON values."""
        return {"well": self.is_well, "findings": self.to_dicts()}

    @property
    def summary(self) -> str:
        """How many things were looked at, and how many are wrong."""
        counts = {state: sum(1 for finding in self._values if finding.state == state) for state in ("error", "warning")}
        parts = [f"{count} {state}{'' if count == 1 else 's'}" for state, count in counts.items() if count]
        return f"{len(self._values)} checks: " + (", ".join(parts) if parts else "all is well") + "."

    def columns(self) -> Sequence[Column[Finding]]:
        """See ``Report.columns``."""
        return [
            Column("check", lambda finding: finding.check, 24, style=lambda finding: "cyan"),
            Column("state", lambda finding: finding.state, 8, style=lambda finding: _STYLES[finding.state]),
            Column("found", lambda finding: finding.message),
        ]

    def notes_on(self, value: Finding) -> Iterator[Note]:
        """See ``Report.notes_on``."""
        if value.advice:
            yield Note(value.advice, "bold")


_STYLES: dict[State, str] = {"ok": "green", "warning": "yellow", "error": "bold red"}

Check = Callable[[], Iterator[Finding]]


def examine(checks: Sequence[tuple[str, Check]]) -> DoctorReport:
    """Run checks one after the other; one that fails for an error of the feature store has found that.

    Args:
        checks: each with what it looks at.
    """
    findings: list[Finding] = []
    for name, check in checks:
        try:
            findings.extend(check())
        except FeatureStoreError as error:
            findings.append(Finding(name, "error", str(error)))
    return DoctorReport(findings)


def check_clock(name: str, theirs: datetime, ours: datetime, precision: float = 0.0) -> Finding:
    """Return how far somebody's clock, which may round off so many seconds, is from ours."""
    return _clock_finding(name, max(0.0, abs((theirs - ours).total_seconds()) - precision))


def _clock_finding(name: str, apart: float) -> Finding:
    state: State = "ok" if apart <= _SKEW else "warning" if apart <= _BAD_SKEW else "error"
    advice = "" if state == "ok" else "Set both by a time server (chrony, systemd-timesyncd): features are cut off by the clock."
    return Finding(f"clock: {name}", state, f"differs from this process's by {apart:.1f} s", advice)


def check_due(due: tuple[str, float]) -> Finding:
    """Return what was taken up in so many seconds from now."""
    name, seconds = due
    message = f"it was taken up {format_seconds(seconds)} from now: a scheduler's clock was ahead, or this one's is behind"
    return Finding(f"schedule: {name}", "warning", message, "Set all by a time server. Schedulers take it up again all the same.")


def check_streams(streams: Sequence[StreamStatus]) -> Iterator[Finding]:
    """Return how streams stand, one after the other."""
    for status in streams:
        yield from check_stream(status)


def check_stream(stream: StreamStatus) -> Iterator[Finding]:
    """Return how a stream stands: whether its broker is there, what it lost, what is set aside, and how far its clock is off."""
    where = f"stream: {stream.source}"
    if stream.error:
        yield Finding(where, "error", stream.error)
        return
    if stream.lost:
        message = f"{stream.lost:,} entries were lost: the broker dropped them before they were pushed"
        advice = "Read what they held again from where it is kept. Let the stream keep entries for longer than workers may be away."
        yield Finding(where, "warning", message, advice)
    elif stream.set_aside:
        yield Finding(where, "warning", f"{stream.set_aside:,} entries are set aside", "featurestore dead-letters list")
    else:
        yield Finding(where, "ok", f"{stream.waiting:,} entries wait, and {stream.pending:,} are with workers")
    yield _clock_finding(f"stream {stream.source}", abs(stream.ahead))


def check_room(name: str, free: int, total: int) -> Finding:
    """Return how much room a disk has left."""
    part = free / max(total, 1)
    state: State = "error" if free < 100 << 20 else "warning" if free < 1 << 30 or part < 0.05 else "ok"
    advice = "" if state == "ok" else "Make room: a run or push that cannot write fails, and is completed later."
    return Finding(f"disk: {name}", state, f"{free / (1 << 30):.1f} GiB of {total / (1 << 30):.1f} GiB are free", advice)


def check_folder(name: str, folder: Path, clock: Clock) -> Iterator[Finding]:
    """Look at whether a folder can be written to, what time its files have, and how much room there is."""
    try:
        make_folders(folder)
        with TemporaryFile(dir=folder) as file:
            file.write(b"?")
            file.flush()
            written = from_micros(fstat(file.fileno()).st_mtime_ns // 1000)
        usage = disk_usage(folder)
    except OSError as error:
        is_full = error.errno in (ENOSPC, EDQUOT)
        advice = "Make room: the disk, or this user's part of it, is full." if is_full else "Make it this user's to write."
        yield Finding(f"folder: {name}", "error", f"{folder} cannot be written to: {error.strerror}", advice)
        return
    yield Finding(f"folder: {name}", "ok", f"{folder} can be written to")
    yield check_clock(name, written, clock())
    yield check_room(name, usage.free, usage.total)


def check_versions() -> Iterator[Finding]:
    """Return the versions of Python and of the libraries that stores and features rest on."""
    names = ("featurestore", "polars", "deltalake", "lmdb", "redis", "sqlalchemy", "duckdb")
    versions = []
    for name in names:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:  # an extra that is not installed
            continue
    yield Finding("versions", "ok", f"Python {python_version()}, {', '.join(versions)}")


class ViewChecks:
    """What is looked at of each view.

    Args:
        project: the project.
        offline: the histories.
        ledger: the runs.
        clock: returns the present.
        train: makes a training frame of a spine with the column ``_at``, for a view by its name.
        look_up: looks a view up online for rows of keys, as of an instant.
    """

    def __init__(
        self,
        project: str,
        offline: OfflineStore,
        ledger: Ledger,
        clock: Clock,
        train: Callable[[pl.DataFrame, str], pl.DataFrame],
        look_up: Callable[[str, list[dict[str, Any]], datetime], list[dict[str, Any]]],
    ) -> None:
        self._project = project
        self._offline = offline
        self._ledger = ledger
        self._clock = clock
        self._train = train
        self._look_up = look_up

    def runs(self, applied: AppliedView) -> Iterator[Finding]:
        """Look at a view's last run."""
        name = applied.spec.name
        last = self._ledger.latest(name, applied.data_version)
        where, number = f"runs: {name}", f"run {last.seq}" if last else ""
        if last is None:
            yield Finding(where, "warning", "it was never materialized", f"featurestore materialize {name}")
        elif last.state == "failed":
            yield Finding(where, "error", f"{number} failed: {last.error}", f"featurestore materialize {name}")
        elif last.state in ("running", "committed"):
            since = last.started_at.isoformat(" ", "seconds")
            message = f"{number} began at {since} and is not done: it is under way, or was interrupted"
            yield Finding(
                where, "warning", message, f"featurestore materialize {name} completes it, as does: featurestore doctor --repair"
            )
        else:
            yield Finding(where, "ok", f"{number} is done")

    def history(self, applied: AppliedView) -> Iterator[Finding]:
        """Look at whether a view's history has what its runs have written."""
        name = applied.spec.name
        snapshot = self._offline.snapshot(Table.of(self._project, applied))
        yield Finding(f"history: {name}", "ok", f"{snapshot.rows:,} rows")
        promised = applied.spec.freshness
        if promised is not None:
            lag = age_of(snapshot.history_size, self._clock())
            late = is_late(promised, lag)
            promise = f"promised to be at most {format_duration(promised)} old"
            message = "there is no event" if lag is None else f"the latest event is {lag / 1e6:,.0f} s old"
            advice = f"Does its source get new rows? featurestore materialize {name}" if late else ""
            yield Finding(f"freshness: {name}", "error" if late else "ok", f"{message}, {promise}", advice)

    def online(self, applied: AppliedView) -> Iterator[Finding]:
        """Compare some entities' online values with what the history makes of them at this instant (S16)."""
        name = applied.spec.name
        where = f"online: {name}"
        entities = self._sample(applied)
        if entities.is_empty():
            yield Finding(where, "ok", "there is nothing to compare: the history is empty")
            return
        differing = entities
        for _ in range(2):  # the first time a row may have come between the two looks
            differing = self._differing(applied, differing)
            if differing.is_empty():
                yield Finding(where, "ok", f"{entities.height} entities have the values of the history")
                return
        message = f"{differing.height} of {entities.height} entities have other values than the history makes of them"
        yield Finding(
            where, "error", message, f"featurestore materialize --rebuild-online {name} (or: featurestore doctor --repair)"
        )

    def _sample(self, applied: AppliedView) -> pl.DataFrame:
        """Return the keys of some entities, other ones at each look."""
        snapshot = self._offline.snapshot(Table.of(self._project, applied))
        keys = list(applied.spec.entity.key_names)
        if not snapshot.buckets:
            return pl.DataFrame(schema=applied.spec.entity.keys)
        history = snapshot.buckets[random.choice(list(snapshot.buckets))]
        known = pl.concat(history.read(keys)).unique(maintain_order=True).drop_nulls()
        return known.sample(min(_SAMPLE, known.height))

    def _differing(self, applied: AppliedView, entities: pl.DataFrame) -> pl.DataFrame:
        name, now = applied.spec.name, self._clock()
        columns = [feature.name for feature in applied.spec.features]
        spine = entities.with_columns(pl.lit(now, pl.Datetime("us", "UTC")).alias(_TIME))
        trained = self._train(spine, name).select(columns)
        expected = list(zip(*map(python_values, trained.get_columns()), strict=True))
        online_rows = self._look_up(name, entities.to_dicts(), now)
        wrong = [
            not all(_same(row[column], value) for column, value in zip(columns, values, strict=True))
            for row, values in zip(online_rows, expected, strict=True)
        ]
        return entities.filter(pl.Series(wrong, dtype=pl.Boolean))


def check_definitions(plan: Callable[[], Any]) -> Iterator[Finding]:
    """Compare the definitions in the folder with what is applied.

    Args:
        plan: returns what ``apply`` would change.
    """
    try:
        changes = plan()
    except DefinitionError as error:
        yield Finding("definitions", "error", str(error), "Mend them, and look again: featurestore plan")
        return
    if changes.is_empty:
        yield Finding("definitions", "ok", "they are what is applied")
    else:
        message = f"they are not what is applied. {changes.summary}"
        yield Finding("definitions", "warning", message, "featurestore plan; featurestore apply")
    for warning in changes.warnings:
        yield Finding("definitions", "warning", warning)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (math.isnan(one) and math.isnan(other)) or math.isclose(one, other, rel_tol=_CLOSE, abs_tol=_CLOSE)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(_same(item, its) for item, its in zip(one, other, strict=True))
    return bool(one == other)
