"""Upcoming tasks: compares applied schedules with the schedule state and the clock. Read-only."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from threading import Lock
from typing import NamedTuple

from featurestore.clock import Clock, to_micros
from featurestore.registry.schedule_state import ScheduleSnapshot, ScheduleState, ScheduleStates
from featurestore.scheduling.retry_policy import Belief, take_up
from featurestore.scheduling.schedules import ScheduleTimes
from featurestore.scheduling.tasks import ScheduledTask
from featurestore.scheduling.turns import Upcoming, next_turn


class Occasion(NamedTuple):  # of which a tick makes one for each task
    """What of a task's due row is to become now.

    Args:
        task: the task.
        seen: its row; None where it was never due.
        fire: the latest instant at which it was due.
        due: the row with which it is taken up; None where it is not its turn.
    """

    task: ScheduledTask
    seen: ScheduleState | None
    fire: int
    due: ScheduleState | None


class UpcomingTasks:
    """Tell whose turn it is, and when it will be. Thread-safe.

    Args:
        dues: the due table.
        define: returns what there is to do; called again after an apply.
        fires: when schedules fire.
        clock: tells the present.
        belief: how far in the future an instant in the due table may lie.
    """

    def __init__(
        self,
        dues: ScheduleStates,
        define: Callable[[], Sequence[ScheduledTask]],
        fires: ScheduleTimes,
        clock: Clock,
        belief: Belief,
    ) -> None:
        self._dues = dues
        self._define = define
        self._fires = fires
        self._clock = clock
        self._belief = belief
        self._lock = Lock()
        self._state = (-1, "")
        self._tasks: Mapping[str, ScheduledTask] = {}

    def look(self) -> tuple[ScheduleSnapshot, Mapping[str, ScheduledTask]]:
        """Return the due table and the tasks as they are now.

        Raises:
            RegistryError: the registry cannot be reached.
        """
        snapshot = self._dues.load()
        with self._lock:
            if snapshot.state != self._state:
                self._tasks = {task.name: task for task in self._define()}
                self._state = snapshot.state
            return snapshot, self._tasks

    def occasions(self, snapshot: ScheduleSnapshot, tasks: Mapping[str, ScheduledTask], now: int) -> list[Occasion]:
        """Return the turn of each task at an instant."""
        occasions = []
        with self._lock:  # the fire times are kept
            for task in tasks.values():
                seen, fire = snapshot.dues.get(task.name), self._fires.latest(task.schedule, now)
                occasions.append(Occasion(task, seen, fire, take_up(task.name, seen, fire, now, self._belief)))
        return occasions

    def is_over(self, first: ScheduledTask, due_at: int, snapshot: ScheduleSnapshot, now: int) -> bool:
        """Return whether something is over as of its latest due instant up to a given one."""
        row = snapshot.dues.get(first.name)
        settled = None if row is None else self._belief.past(row.settled_at, now)
        with self._lock:
            return settled is not None and settled >= self._fires.latest(first.schedule, due_at)

    def upcoming(self) -> list[Upcoming]:
        """Return what is done next and when, the earliest first.

        Raises:
            RegistryError: the registry cannot be reached.
        """
        snapshot, tasks = self.look()
        now = to_micros(self._clock())
        with self._lock:  # the fire times are kept
            upcoming_tasks = [
                replace(next_turn(task.name, task.schedule, snapshot, self._fires, now, self._belief), after=task.after)
                for task in tasks.values()
            ]
        return sorted(upcoming_tasks, key=lambda upcoming: upcoming.next_at)
