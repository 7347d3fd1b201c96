"""What the ledger says a history has."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class LedgerRecord:
    """What the ledger says a history has.

    Args:
        rows: how many rows each run added whose commit was made, by the run's number.
        pushed: the greatest segment of the log of pushes that such a run took over; 0 for none.
    """

    rows: Mapping[int, int] = field(default_factory=dict)
    pushed: int = 0

    @property
    def last_run(self) -> int:
        """The last run whose commit was made; 0 for none."""
        return max(self.rows, default=0)

    def after(self, run: int) -> int:
        """Return how many rows the runs after one have added."""
        return sum(count for number, count in self.rows.items() if number > run)
