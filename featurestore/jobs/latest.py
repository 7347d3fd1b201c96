"""The latest values of a history, written online."""

from collections.abc import Sequence

from featurestore.clock import Clock, to_micros
from featurestore.jobs.progress import Progress
from featurestore.offline.base import History
from featurestore.online.base import OnlineStore
from featurestore.plan.history import merge_files
from featurestore.plan.online import online_entries
from featurestore.spec.catalog import AppliedView

_BATCH = 50_000


def write_latest(
    project: str, applied: AppliedView, parts: Sequence[History], online: OnlineStore, clock: Clock, progress: Progress
) -> int:
    """Writes each entity's greatest row (S4) where the online store has no greater one (S15).

    Args:
        project: whose rows they are.
        applied: the view.
        parts: buckets of its history; all rows of an entity are in one of them.
        online: where to write.
        clock: tells the present, from which a row's remaining life is counted.
        progress: is told how it gets on.

    Returns:
        How many values became newer.

    Raises:
        OnlineStoreError: the store cannot be reached. What is written stays; writing it all again is right.
    """
    view = applied.spec
    written = 0
    for done, part in enumerate(parts):
        progress.step(view.name, "write online", done, len(parts))
        history = merge_files(part.read(), view.entity.key_names, view.feature_names)
        entries = online_entries(project, applied, history, to_micros(clock()))
        written += sum(online.write(entries[first : first + _BATCH]) for first in range(0, len(entries), _BATCH))
    if parts:
        progress.step(view.name, "write online", len(parts), len(parts))
        online.sweep()
    return written
