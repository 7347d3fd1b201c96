"""Tasks whose CPU time is measured where they run."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from time import process_time
from typing import Any

from featurestore.config import RaySettings
from featurestore.engines.ray import RayEngine


@dataclass(frozen=True)
class Timed:
    """A task that returns its result with the CPU time that its worker, which does nothing else, took for it."""

    task: Any

    @property
    def weight(self) -> int:
        return int(self.task.weight)

    def run(self) -> tuple[float, Any]:
        began = process_time()
        result = self.task.run()
        return process_time() - began, result

    def split(self, parts: int) -> "list[Timed] | None":
        tasks = self.task.split(parts)
        return None if tasks is None else [Timed(task) for task in tasks]


class TimedRay(RayEngine):
    """The engine on Ray, which adds up the CPU time of its tasks."""

    seconds = 0.0

    @classmethod
    def at(cls, address: str) -> "TimedRay":
        return cls(RaySettings(address=address, memory_per_task_gib=2))

    def run(self, tasks: Iterable[Any]) -> Generator[tuple[Any, Any], None, None]:
        for timed, (seconds, result) in super().run(Timed(task) for task in tasks):
            assert isinstance(timed, Timed)
            self.seconds += seconds
            yield timed.task, result
