"""Results of a server's answers, with the same interface as local results."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

from featurestore.client.wire import from_wire, load_frames

if TYPE_CHECKING:
    import polars as pl


class RemoteRows:
    """The rows that were asked about, with their features, as ``OnlineRows`` has them.

    Args:
        given: the rows asked about.
        answer: the server's answer.
    """

    def __init__(self, given: list[dict[str, Any]], answer: Mapping[str, Any]) -> None:
        self._given = given
        self._answer = answer

    @cached_property
    def _columns(self) -> dict[str, list[Any]]:
        types = self._answer["types"]
        return {name: from_wire(types[name], column) for name, column in self._answer["features"].items()}

    def columns(self) -> dict[str, list[Any]]:
        """Return each feature's values in the order of the rows, without the rows' own columns."""
        return dict(self._columns)

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return the rows given, each with its features after its own values, as Python values."""
        names = self._columns
        values = zip(*names.values(), strict=True)
        return [
            dict(zip(chain(row, names), chain(row.values(), features), strict=True))
            for row, features in zip(self._given, values, strict=True)
        ]

    def to_polars(self) -> "pl.DataFrame":
        """Return the rows given, with the features after their own columns, in the dtypes the views declare (S12)."""
        frame: pl.DataFrame = load_frames().with_columns(self._given, self._columns, self._answer["types"])
        return frame

    @property
    def status(self) -> dict[str, list[str]]:
        """For each feature and row, why it has its value: present, null, expired or missing (S14)."""
        statuses: dict[str, list[str]] = self._answer["status"]
        return statuses

    @property
    def event_time(self) -> dict[str, list[datetime | None]]:
        """For each view and row: the event time of the row that is served or expired; None where one is missing."""
        event_times: dict[str, list[datetime | None]] = self._answer["event_time"]
        return event_times

    def __len__(self) -> int:
        return len(self._given)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.to_dicts())

    def __repr__(self) -> str:
        count = len(self)
        return f"RemoteRows: {count} {'row' if count == 1 else 'rows'} of {', '.join(self._answer['features'])}"


@dataclass(frozen=True)
class PushedRows:
    """What a push did to one view.

    Args:
        view: the view.
        data_version: the version of its stored values.
        rows_read: the rows pushed.
        rows_new: the rows that the history did not hold before; None, as the two below, to whom may push and not read.
        rows_known: the rows that it did, or that were given several times.
        rows_rejected: the rows that failed a check.
        rows_online: the online values that changed.
        reasons: how many rows were rejected for each reason.
        seconds: how long it took.
        rejected: the first of the rejected rows, each with its ``_reason``.
        rows_waiting: the rows that cannot be known yet: they are neither stored nor rejected, and are to be pushed again.
    """

    view: str
    data_version: int
    rows_read: int
    rows_new: int | None
    rows_known: int | None
    rows_rejected: int
    rows_online: int | None
    reasons: dict[str, int]
    seconds: float
    rejected: list[dict[str, Any]] = field(default_factory=list, repr=False)
    rows_waiting: int = 0
