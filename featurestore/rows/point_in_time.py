"""The point-in-time kernel: finds the row of a history that each spine row may see (S3-S6), for every engine.

Let a row's effective available time be the later of its event and its available time. Then S3's two conditions are one:
the row is a candidate at ``t`` when ``available <= t``. A row that becomes available when a greater event time is available
already can never win (S4), so it is dropped first; of what is left the winner at ``t`` is simply the last row available by
``t``, which an as-of join finds. The ttl is looked at afterwards: the winner has the greatest event time, so when it is too
old every other candidate is too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from featurestore.instants import INSTANT
from featurestore.rows.total_order import AVAILABLE, EVENT, same_as_before

TIME = "_time"
_ROW = "_row"
_INDEX = "_index"


@dataclass(frozen=True)
class PointInTime:
    """What to look up for each spine row, in one view.

    Args:
        keys: the join keys, in the spine as in the history.
        features: the features to fetch.
        view_features: all features of the view in its order, on whose bytes a tie depends (S4).
        ttl: how old the winner's event may be, in microseconds, inclusive; None for any age.
        as_known: whether only what was available by the spine's time counts (S6).
        late: whether rows may become available after their event; else ``available_time`` need not be read.
    """

    keys: tuple[str, ...]
    features: tuple[str, ...]
    view_features: tuple[str, ...]
    ttl: int | None = None
    as_known: bool = True
    late: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the history that the look-up needs, unless several files may hold ties."""
        return (*self.keys, EVENT, *((AVAILABLE,) if self.late else ()), *self.features)

    @property
    def all_columns(self) -> tuple[str, ...]:
        """The columns of the history that decide a tie as well."""
        return (*self.keys, EVENT, AVAILABLE, *self.view_features)

    @property
    def reach(self) -> int | None:
        """How far before an instant the row may lie that it sees, in microseconds; None for any age."""
        return self.ttl

    @property
    def prunes(self) -> bool:
        """Whether rows outside the reach need not be read."""
        return True

    @property
    def tie_columns(self) -> tuple[str, ...]:
        """The columns that decide between rows of one key and time, in their order."""
        return self.view_features

    @property
    def splits_by_time(self) -> bool:
        """Whether the spine rows of a stretch of time can be looked up in what ``seen_within`` leaves of the history.

        NOTE: they can as long as a row is hidden by greater ones alone, and not by a later version of it.
        """
        return True

    def seen_within(self, history: pl.DataFrame, start: int, end: int) -> pl.DataFrame:
        """Return the rows that can win at an instant of a stretch of time, in their order.

        These are the rows that come to count within it, and of those that counted before each entity's greatest event, with its
        ties: nothing that is older can win (S4).

        Args:
            history: rows with ``columns``, in any order, perhaps without those that lie further back than ``reach``.
            start: the first instant, in microseconds.
            end: the first instant after it.
        """
        clock = pl.col(AVAILABLE if self.late and self.as_known else EVENT).to_physical()
        event = pl.col(EVENT).to_physical()
        carried = event == pl.when(clock < start).then(event).max().over(self.keys)
        return history.filter(clock < end, (clock >= start) | carried)

    def look_up(self, spine: pl.DataFrame, history: pl.DataFrame) -> pl.DataFrame:
        """Return the features that each spine row sees: ``latest_as_of``."""
        return latest_as_of(spine, history, self)


def latest_as_of(spine: pl.DataFrame, history: pl.DataFrame, plan: PointInTime) -> pl.DataFrame:
    """Return the features that each spine row sees, one row for each spine row, in the spine's order.

    Args:
        spine: the join keys under the history's names and dtypes, and the instant in ``_time``.
        history: ``plan.columns``, in the total order of ``sort_history``.
        plan: what to look up.
    """
    if history.is_empty() or spine.is_empty():
        return history.clear(spine.height).select(plan.features)
    steps = _steps(history, plan)
    clock = steps.columns[-2]
    seen = (
        spine.select(*plan.keys, pl.col(TIME).cast(INSTANT))
        .with_row_index(_ROW)
        .sort(TIME)
        .join_asof(steps, left_on=TIME, right_on=clock, by=list(plan.keys), strategy="backward", check_sortedness=False)
        .select(_ROW, _INDEX)
        .sort(_ROW)[_INDEX]
    )
    if plan.ttl is not None:
        age = spine[TIME].to_physical() - history[EVENT].to_physical().gather(seen)
        seen = pl.select(pl.when(age <= plan.ttl).then(seen)).to_series()
    return history.select(pl.col(plan.features).gather(seen))


def _steps(history: pl.DataFrame, plan: PointInTime) -> pl.DataFrame:
    """Return the rows that win from some instant on: keys, that instant, and the row's place in the history."""
    keys = list(plan.keys)
    if not (plan.late and plan.as_known):
        return _last_of_equals(history.select(*keys, EVENT, pl.int_range(pl.len(), dtype=pl.UInt32).alias(_INDEX)), keys, EVENT)
    steps = history.select(*keys, EVENT, AVAILABLE, pl.int_range(pl.len(), dtype=pl.UInt32).alias(_INDEX))
    in_order = pl.col(AVAILABLE) >= pl.col(AVAILABLE).shift(1)
    if not steps.select((in_order | ~same_as_before(keys)).all()).item():
        # The sort is stable: of rows that become available together the greatest stays the last.
        steps = steps.sort([*keys, AVAILABLE], maintain_order=True)
        steps = steps.filter(pl.col(EVENT) >= pl.col(EVENT).cum_max().over(keys))
    return _last_of_equals(steps.drop(EVENT), keys, AVAILABLE)


def _last_of_equals(steps: pl.DataFrame, keys: Sequence[str], clock: str) -> pl.DataFrame:
    # NOTE: with several rows of one key and instant an as-of join takes any of them; only the last may be left.
    superseded = pl.all_horizontal(pl.col(name).eq_missing(pl.col(name).shift(-1)) for name in [*keys, clock])
    return steps.filter(~superseded | (pl.int_range(pl.len()) == pl.len() - 1))
