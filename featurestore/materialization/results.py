"""Results of runs and pushes, which print as tables."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from html import escape
from typing import Any, Generic, TypeVar

import polars as pl

T = TypeVar("T")


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
        """Returns the sum of two summaries of one view."""
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
    """Returns the line that tells of rows that tie, if there are any."""
    told = f"{tied:,} tied: their join keys and times are those of others; order_by= in the source says which of them counts (S4)"
    return [told] if tied else []


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


class Report(Sequence[T], Generic[T], ABC):
    """Values that print as a table, one a line.

    Args:
        values: the values.
    """

    def __init__(self, values: Sequence[T]) -> None:
        self._values = tuple(values)

    def __getitem__(self, place: Any) -> Any:
        return self._values[place]

    def __len__(self) -> int:
        return len(self._values)

    def to_dicts(self) -> list[dict[str, Any]]:
        """Returns each value as a dictionary."""
        return [asdict(value) for value in self._values]  # type: ignore[call-overload]  # they are dataclasses

    def __repr__(self) -> str:
        return "\n".join(self._lines())

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>"

    @abstractmethod
    def _lines(self) -> Iterator[str]:
        """Returns the lines of the table."""


class MaterializeSummary(Report[ViewSummary]):
    """What materializing did, a ``ViewSummary`` a view; prints as a table."""

    def _lines(self) -> Iterator[str]:
        yield f"{'view':<20} {'read':>12} {'written':>12} {'rejected':>9} {'online':>10} {'seconds':>8}"
        for each in self._values:
            counts = f"{each.rows_read:>12,} {each.rows_written:>12,} {each.rows_rejected:>9,} {each.rows_online:>10,}"
            yield f"{each.view:<20} {counts} {each.seconds:>8.2f}"
            for reason, count in (each.reasons or {}).items():
                yield f"    rejected {count:,}: {reason}"
            yield from (f"    {remark}" for remark in each.remarks)
            yield from (f"    ! {notice}" for notice in each.notices)


class PushSummary(Report[PushedView]):
    """What a push did, a ``PushedView`` a view; prints as a table."""

    def to_dicts(self) -> list[dict[str, Any]]:
        """Returns each value as a dictionary, without the rejected rows themselves."""
        return [
            {name: value for name, value in asdict(replace(each, rejected=())).items() if name != "rejected"}
            for each in self._values
        ]

    def _lines(self) -> Iterator[str]:
        yield f"{'view':<20} {'read':>12} {'new':>12} {'known':>12} {'rejected':>9} {'online':>10} {'seconds':>8}"
        for each in self._values:
            counts = f"{each.rows_read:>12,} {each.rows_new:>12,} {each.rows_known:>12,} {each.rows_rejected:>9,}"
            yield f"{each.view:<20} {counts} {each.rows_online:>10,} {each.seconds:>8.3f}"
            for reason, count in each.reasons.items():
                yield f"    rejected {count:,}: {reason}"
            if each.rows_waiting:
                yield f"    waiting {each.rows_waiting:,}: not known yet; push them again"
            yield from (f"    {remark}" for remark in each.remarks)
