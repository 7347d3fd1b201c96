"""The latest values of a history, written online."""

from collections.abc import Sequence
from typing import NamedTuple

from featurestore.clock import Clock, to_micros
from featurestore.jobs.progress import Progress
from featurestore.offline.base import History
from featurestore.online.base import OnlineStore
from featurestore.plan.history import count_tied, merge_files
from featurestore.plan.online import online_entries
from featurestore.spec.catalog import AppliedView

_BATCH = 50_000


class Written(NamedTuple):
    """How many values became newer, and how many of the rows have the join keys and times of another (S4)."""

    online: int
    tied: int = 0


def write_latest(
    project: str, applied: AppliedView, parts: Sequence[History], online: OnlineStore, clock: Clock, progress: Progress
) -> Written:
    """Writes each entity's greatest row (S4) where the online store has no greater one (S15).

    Args:
        project: whose rows they are.
        applied: the view.
        parts: buckets of its history; all rows of an entity are in one of them.
        online: where to write.
        clock: tells the present, from which a row's remaining life is counted.
        progress: is told how it gets on.

    Returns:
        How many values became newer, and among the rows how many tie.

    Raises:
        OnlineStoreError: the store cannot be reached. What is written stays; writing it all again is right.
    """
    view = applied.spec
    written = tied = 0
    for done, part in enumerate(parts):
        progress.step(view.name, "write online", done, len(parts))
        history = merge_files(part.read(), view.entity.key_names, list(view.stored_schema))
        tied += count_tied(history, view.entity.key_names)
        entries = online_entries(project, applied, history, to_micros(clock()))
        written += sum(online.write(entries[first : first + _BATCH]) for first in range(0, len(entries), _BATCH))
    if parts:
        progress.step(view.name, "write online", len(parts), len(parts))
        online.sweep()
    return Written(written, tied)
