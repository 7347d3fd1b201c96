"""Shared failures: one alert for a broken file that fails several views again and again."""

from dataclasses import dataclass, field
from threading import Lock

from featurestore.registry.schedule_state import ScheduleState
from featurestore.scheduling.tasks import ScheduledTask


@dataclass
class _Trouble:
    """An error of a source.

    Args:
        views: what has failed for it and was not done since.
        loud: whether it was reported as an error.
    """

    views: set[str] = field(default_factory=set)
    loud: bool = False


class SharedFailures:
    """The errors of the sources, each for as long as something fails for it. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._known: dict[tuple[str, str], _Trouble] = {}

    def note(self, task: ScheduledTask, due: ScheduleState, attempts: int) -> tuple[bool, bool]:
        """Take note of what came of something.

        Args:
            task: what it is.
            due: its row now.
            attempts: after how many attempts it is reported as an error.

        Returns:
            Whether its error was reported before, and whether as an error.
        """
        source = task.applied.spec.source.name if task.kind == "run" else task.name
        key = source, due.error
        with self._lock:
            for known_key in [
                known_key for known_key in self._known if known_key != key or due.state not in ("retrying", "failed")
            ]:
                self._known[known_key].views.discard(task.name)
                if not self._known[known_key].views:
                    del self._known[known_key]
            if due.state not in ("retrying", "failed"):
                return False, False
            known = key in self._known
            trouble = self._known.setdefault(key, _Trouble())
            trouble.views.add(task.name)
            was_loud, trouble.loud = trouble.loud, trouble.loud or due.state == "failed" or due.attempts >= attempts
            return known, was_loud
