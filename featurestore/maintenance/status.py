"""Status of views: freshness against its target, the last run and the next."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from featurestore.clock import format_duration, format_seconds, from_micros, parse_duration, to_micros
from featurestore.definitions.view_terms import ViewTerms
from featurestore.errors import FeatureStoreError, LeaseLostError
from featurestore.offline.history_size import HistorySize
from featurestore.registry.leases import Lease, Leases
from featurestore.registry.ledger import Ledger, Run
from featurestore.reports import Column, Note, Report

if TYPE_CHECKING:
    from featurestore.scheduling.turns import Upcoming

State = Literal["empty", "failed", "late", "ok", "retrying"]

_MICROS = 1_000_000
_SKEW = 60 * _MICROS
_log = logging.getLogger("featurestore")


@dataclass(frozen=True)
class ViewStatus:
    """How a view stands.

    Args:
        view: the view's name.
        version: the version of its definition.
        data_version: the version of its stored values.
        rows: the rows in its history.
        latest: the greatest event time in its history; None without rows.
        last_run: its last run; None before the first.
        schedule: how often it is to be materialized.
        state: ``retrying`` while a scheduler tries again what failed, ``failed`` if the last run did, ``late`` if the view is less
            fresh than it promises, ``empty`` without rows and a promise, else ``ok``.
        freshness: how old the latest event may be, as the view promises (``"30m"``); None where it promises nothing.
        lag: how many seconds ago the latest event was; None without rows.
        next_run: when the scheduler is to run it next, as far as it has a schedule.
        served: the data version that readers are given, where it is another one still.
        problem: in one line what is wrong; empty where nothing is.
        notices: what its last runs noticed of its source, as rows that were changed or deleted there, each with the run's number.
    """

    view: str
    version: int
    data_version: int
    rows: int
    latest: datetime | None
    last_run: Run | None
    schedule: str | None
    state: State = "ok"
    freshness: str | None = None
    lag: float | None = None
    next_run: datetime | None = None
    served: int | None = None
    problem: str = ""
    notices: tuple[str, ...] = ()

    @property
    def is_wrong(self) -> bool:
        """Whether the view breaks its promise, or its last run failed."""
        return self.state in ("failed", "late", "retrying")


@dataclass(frozen=True)
class StatusFacts:
    """Where a status finds what the definitions do not say.

    Args:
        size_of: returns how much a view's history holds.
        ledger: the ledger of runs.
        tasks: how the runs of scheduled views stand, by view.
        most: how often a scheduled run is tried.
    """

    size_of: Callable[[ViewTerms], HistorySize]
    ledger: Ledger
    tasks: "Mapping[str, Upcoming]"
    most: int


def views_status(views: Iterable[ViewTerms], facts: StatusFacts, now: datetime, *, promised: bool = False) -> "StatusReport":
    """Return how views stand at an instant.

    Args:
        views: the views.
        facts: where it finds what their definitions do not say.
        now: the instant.
        promised: whether only views with a freshness target are looked at, and only as to how fresh they are.
    """
    return StatusReport(
        [_view_status(view, facts, now, notices=not promised) for view in views if not promised or view.freshness is not None]
    )


def _view_status(view: ViewTerms, facts: StatusFacts, now: datetime, *, notices: bool) -> ViewStatus:
    """Return how a view stands at an instant.

    A view is late where its latest event, in the history or pushed, is older than the view promises; without any event a
    promise is broken as soon as the view has one.
    """
    size, task = facts.size_of(view), facts.tasks.get(view.name)
    last_run = facts.ledger.latest(view.name, view.data_version)
    noticed = facts.ledger.noticed(view.name, view.data_version) if notices else {}
    age = age_of(size, now)
    state, problem = _judged(view.freshness, age, last_run, task, facts.most)
    return ViewStatus(
        view.name,
        view.version,
        view.data_version,
        size.rows,
        None if size.latest is None else from_micros(size.latest),
        last_run,
        view.schedule,
        state,
        None if view.freshness is None else format_duration(view.freshness),
        None if age is None else age / _MICROS,
        None if task is None else task.next_at,
        view.served,
        problem,
        tuple(f"run {run}: {notice}" for notice, run in noticed.items()),
    )


def age_of(size: HistorySize, now: datetime) -> int | None:
    """Return how many microseconds ago the latest event of a history was; None without one."""
    return None if size.latest is None else to_micros(now) - size.latest


def is_late(freshness: int, age: int | None) -> bool:
    """Return whether a view whose latest event is of an age, if it has one, breaks its promise; both are microseconds.

    An event that lies ahead of the clock by more than clocks differ says nothing of how fresh the view is: one of them is wrong.
    """
    return age is None or age > freshness or age < -_SKEW


def _judged(freshness: int | None, age: int | None, last_run: Run | None, task: "Upcoming | None", most: int) -> tuple[State, str]:
    if task is not None and task.state == "retrying":
        count = f"{task.attempts}/{most}" if task.attempts <= most else f"{task.attempts}"
        return "retrying", f"retrying ({count}): {task.error}"
    if last_run is not None and last_run.state == "failed":
        return "failed", f"run {last_run.id} failed: {last_run.error}"
    if task is not None and task.state == "failed":
        return "failed", f"its scheduled run failed: {task.error}"
    if freshness is not None and is_late(freshness, age):
        promise = f"the view promises {format_duration(freshness)}"
        if age is None:
            return "late", f"there is no event yet, and {promise}"
        if age < 0:
            ahead = format_seconds(-age / _MICROS)
            return (
                "late",
                f"the latest event lies {ahead} ahead of the clock, so it is unknown whether it is fresh, as {promise}",
            )
        return "late", f"the latest event is {format_seconds(age / _MICROS)} old, and {promise}"
    return ("empty" if age is None else "ok"), ""


def _as_promised(status: ViewStatus) -> ViewStatus:
    """Return how a view stands by its promise alone, whatever became of its runs."""
    freshness = None if status.freshness is None else parse_duration(status.freshness)
    state, problem = _judged(freshness, None if status.lag is None else round(status.lag * _MICROS), None, None, 1)
    return replace(status, state=state, problem=problem)


class StatusReport(Report[ViewStatus]):
    """How the views stand, a ``ViewStatus`` a view; prints as a table."""

    @property
    def wrong(self) -> Sequence[ViewStatus]:
        """The views that break their promise, or whose last run failed."""
        return [status for status in self._values if status.is_wrong]

    def columns(self) -> Sequence[Column[ViewStatus]]:
        """See ``Report.columns``."""

        def latest(status: ViewStatus) -> str:
            return status.latest.isoformat(sep=" ", timespec="seconds") if status.latest else "-"

        return [
            Column("view", lambda status: status.view, 20, style=lambda status: "cyan"),
            Column("version", lambda status: str(status.version), 7, is_number=True),
            Column("rows", lambda status: f"{status.rows:,}", 12, is_number=True),
            Column(" latest event", lambda status: f" {latest(status)}", 27),
            Column("lag", lambda status: "-" if status.lag is None else format_seconds(status.lag), 7, is_number=True),
            Column("promise", lambda status: status.freshness or "-", 8, is_number=True),
            Column(" last run", lambda status: f" {status.last_run.state if status.last_run else 'never'}", 11),
            Column("state", lambda status: status.state, style=lambda status: "" if status.state == "ok" else "red"),
        ]

    def notes_on(self, value: ViewStatus) -> Iterator[Note]:
        """See ``Report.notes_on``."""
        if value.problem:
            yield Note(value.problem, "red")
        if value.served is not None:
            yield Note(f"readers are given version {value.served} until this one is materialized", "yellow")
        yield from (Note(f"! {notice}", "yellow") for notice in value.notices)


@dataclass(frozen=True)
class Alert:
    """What is worth waking somebody for.

    Args:
        view: the view.
        state: what it has become: ``late``, ``failed``, or ``ok`` again.
        text: the same in a line.
    """

    view: str
    state: State
    text: str


class FreshnessTracker:
    """Report when views come to be wrong, and when they are right again: each once.

    Args:
        exchange: notes which views are wrong, and returns which were; what this object remembers, if None.
    """

    def __init__(self, exchange: Callable[[Mapping[str, State]], Mapping[str, str]] | None = None) -> None:
        self._exchange = exchange or self._remembered
        self._wrong: Mapping[str, State] = {}

    def news(self, report: StatusReport) -> list[Alert]:
        """Return what has changed since the report before.

        Args:
            report: how the views stand now.
        """
        alerts = []
        wrong = self._exchange({status.view: status.state for status in report.wrong})
        for status in report:
            before = wrong.get(status.view)
            if status.is_wrong and before != status.state:
                alerts.append(Alert(status.view, status.state, f"{status.view} is {status.state}: {status.problem}"))
            elif before is not None and not status.is_wrong:
                alerts.append(Alert(status.view, "ok", f"{status.view} is as promised again"))
        return alerts

    def _remembered(self, wrong: Mapping[str, State]) -> Mapping[str, str]:
        before, self._wrong = self._wrong, wrong
        return before


class FreshnessMonitor:
    """Look now and then whether views are as fresh as they promise; of several that look, one reports.

    Args:
        leases: the project's leases; who has that on the promises tells.
        holder: who looks, in words for people.
        seconds: how often it looks.
        status: returns how the views that promise something stand.
        notify: called with each change.
    """

    def __init__(
        self, leases: Leases, holder: str, seconds: float, status: Callable[[], StatusReport], notify: Callable[[Alert], None]
    ) -> None:
        self.seconds = seconds
        self._leases = leases
        self._holder = holder
        self._standing = status
        self._notify = notify
        self._promises = FreshnessTracker()
        self._lease: Lease | None = None

    def look(self) -> None:
        """Look once, and return which views came to be late, or are fresh again. Errors are logged: the next look is soon."""
        try:
            if self._is_mine():
                # What failed is told by whoever ran it; whether it is late is told all the same.
                late = [_as_promised(status) if status.state in ("failed", "retrying") else status for status in self._standing()]
                for notice in self._promises.news(StatusReport(late)):
                    self._notify(notice)
        except FeatureStoreError as error:
            _log.warning("Cannot determine whether views are as fresh as they promise: %s", error)

    def end(self) -> None:
        """Let another tell from now on."""
        if self._lease is not None:
            with suppress(FeatureStoreError):
                self._leases.release(self._lease)
            self._lease = None

    def _is_mine(self) -> bool:
        lasting = 3 * self.seconds
        try:
            lease = self._lease
            self._lease = (
                self._leases.acquire("promises", self._holder, lasting) if lease is None else self._leases.renew(lease, lasting)
            )
        except LeaseLostError:
            self._lease = None
        return self._lease is not None
