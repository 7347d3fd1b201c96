"""Results of runs and pushes, which print as tables."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import polars as pl

from featurestore.reports import Column, Note, Report


class Written(NamedTuple):
    """How many values became newer online, and how many of the rows have the join keys and times of another (S4)."""

    online: int
    tied: int = 0


@dataclass(frozen=True)
class ViewSummary:
    """What materializing one view did.

    Args:
        view: the view.
        data_version: the version of its stored values.
        rows_read: the source's rows that were read.
        rows_written: the rows that the history did not hold before.
        rows_rejected: the rows that failed a check.
        rows_online: the online values that became newer.
        reasons: how many rows were rejected for each reason.
        seconds: how long it took.
        resumed: whether it took up a run that was interrupted.
        rows_known: the rows that the history held, or that are equal to others of the run.
        rows_tied: of the rows written those of latest values that have the join keys and times of another, and are not equal:
            which of them counts is decided by the source's ``order_by``, or else by the order of their values (S4).
        notices: what is worth knowing of what was not read, or not as expected: each a sentence.
    """

    view: str
    data_version: int
    rows_read: int = 0
    rows_written: int = 0
    rows_rejected: int = 0
    rows_online: int = 0
    reasons: Mapping[str, int] | None = None
    seconds: float = 0.0
    resumed: bool = False
    rows_known: int = 0
    rows_tied: int = 0
    notices: tuple[str, ...] = ()

    def plus(self, other: "ViewSummary") -> "ViewSummary":
        """Return the sum of two summaries of one view."""
        reasons = dict(Counter(self.reasons or {}) + Counter(other.reasons or {}))
        return ViewSummary(
            self.view,
            self.data_version,
            self.rows_read + other.rows_read,
            self.rows_written + other.rows_written,
            self.rows_rejected + other.rows_rejected,
            self.rows_online + other.rows_online,
            reasons,
            self.seconds + other.seconds,
            self.resumed or other.resumed,
            self.rows_known + other.rows_known,
            self.rows_tied + other.rows_tied,
            tuple(dict.fromkeys((*self.notices, *other.notices))),
        )

    @property
    def remarks(self) -> list[str]:
        """What explains the numbers, a line each: rows that were known, and rows that tie."""
        known = f"{self.rows_known:,} known: the history had them, or equal ones came with them"
        return [known] * bool(self.rows_known) + _tie_remarks(self.rows_tied)


def _tie_remarks(tied: int) -> list[str]:
    """Return the line that tells of rows that tie, if there are any."""
    remark = f"{tied:,} tied: their join keys and times are those of others; order_by= in the source says which of them counts (S4)"
    return [remark] if tied else []


@dataclass(frozen=True)
class PushedView:
    """What a push did to one view.

    Args:
        view: the view.
        data_version: the version of its stored values.
        rows_read: the rows pushed.
        rows_new: the rows that the history did not hold before.
        rows_known: the rows that it did, or that were given several times.
        rows_rejected: the rows that failed a check.
        rows_online: the online values that changed.
        reasons: how many rows were rejected for each reason.
        seconds: how long it took.
        rejected: the rejected rows as they were when a check failed, with ``_reason``; rows of different shapes apart.
        rows_waiting: the rows that cannot be known yet: they are neither stored nor rejected, and are to be pushed again (S18).
        rows_tied: of the rows pushed those of latest values that have the join keys and times of another, and are not equal.
    """

    view: str
    data_version: int
    rows_read: int
    rows_new: int
    rows_known: int
    rows_rejected: int
    rows_online: int
    reasons: Mapping[str, int]
    seconds: float
    rejected: tuple[pl.DataFrame, ...] = field(default=(), repr=False, compare=False)
    rows_waiting: int = 0
    rows_tied: int = 0

    @property
    def remarks(self) -> list[str]:
        """What explains the values, a line each: rows that tie."""
        return _tie_remarks(self.rows_tied)


class MaterializeSummary(Report[ViewSummary]):
    """What materializing did, a ``ViewSummary`` for each view; prints as a table.

    Args:
        values: what was done.
        dry_run: whether nothing was written.
    """

    def __init__(self, values: Sequence[ViewSummary], *, dry_run: bool = False) -> None:
        super().__init__(values)
        self.dry_run = dry_run

    def columns(self) -> Sequence[Column[ViewSummary]]:
        """See ``Report.columns``."""
        read: Column[ViewSummary] = Column("read", lambda view: f"{view.rows_read:,}", 12, is_number=True)
        written: Column[ViewSummary] = Column("written", lambda view: f"{view.rows_written:,}", 12, is_number=True)
        online: Column[ViewSummary] = Column("online", lambda view: f"{view.rows_online:,}", 10, is_number=True)
        rejected = _rejected(lambda view: view.rows_rejected)
        counts = [read, rejected] if self.dry_run else [read, written, rejected, online]
        return [_VIEW, *counts, Column("seconds", lambda view: f"{view.seconds:.2f}", 8, is_number=True)]

    def notes_on(self, value: ViewSummary) -> Iterator[Note]:
        """See ``Report.notes_on``."""
        yield from (Note(f"rejected {count:,}: {reason}", "yellow") for reason, count in (value.reasons or {}).items())
        yield from map(Note, value.remarks)
        if value.resumed:
            yield Note("an interrupted run was completed")
        yield from (Note(f"! {notice}", "yellow") for notice in value.notices)


class PushSummary(Report[PushedView]):
    """What a push did, a ``PushedView`` for each view; prints as a table."""

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return each value as a dictionary, without the rejected rows themselves."""
        return [
            {name: value for name, value in asdict(replace(pushed, rejected=())).items() if name != "rejected"}
            for pushed in self._values
        ]

    def columns(self) -> Sequence[Column[PushedView]]:
        """See ``Report.columns``."""
        return [
            _VIEW,
            Column("read", lambda view: f"{view.rows_read:,}", 12, is_number=True),
            Column("new", lambda view: f"{view.rows_new:,}", 12, is_number=True),
            Column("known", lambda view: f"{view.rows_known:,}", 12, is_number=True),
            _rejected(lambda view: view.rows_rejected),
            Column("online", lambda view: f"{view.rows_online:,}", 10, is_number=True),
            Column("seconds", lambda view: f"{view.seconds:.3f}", 8, is_number=True),
        ]

    def notes_on(self, value: PushedView) -> Iterator[Note]:
        """See ``Report.notes_on``."""
        yield from (Note(f"rejected {count:,}: {reason}", "yellow") for reason, count in value.reasons.items())
        if value.rows_waiting:
            yield Note(f"waiting {value.rows_waiting:,}: not known yet; push them again", "yellow")
        yield from map(Note, value.remarks)


_VIEW: Column[Any] = Column("view", lambda view: view.view, 20, style=lambda view: "cyan")


def _rejected(count: Callable[[Any], int]) -> Column[Any]:
    return Column(
        "rejected", lambda view: f"{count(view):,}", 9, is_number=True, style=lambda view: "yellow" if count(view) else ""
    )
