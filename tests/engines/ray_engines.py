"""Engines on Ray for tests: one that notes what it ran, and one that is slow enough to be interrupted. For tests with the extra."""

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from threading import Thread
from time import sleep
from typing import Any

import psutil

from featurestore.config import RaySettings
from featurestore.engines.ray import RayEngine
from featurestore.testing.waiting import wait_until


class Recording(RayEngine):
    """An engine that notes the tasks that it ran."""

    def __init__(self, settings: RaySettings) -> None:
        super().__init__(settings)
        self.done: list[Any] = []

    @property
    def kinds(self) -> list[str]:
        return [type(task).__name__ for task in self.done]

    def run(self, tasks: Iterable[Any]) -> Generator[tuple[Any, Any], None, None]:
        for task, result in super().run(tasks):
            self.done.append(task)
            yield task, result


@dataclass(frozen=True)
class Slow:
    """A task that takes long enough to be interrupted, before it has done its work and after."""

    task: Any

    @property
    def weight(self) -> int:
        return int(self.task.weight)

    def run(self) -> Any:
        sleep(0.3)
        result = self.task.run()
        sleep(0.3)
        return result

    def split(self, parts: int) -> "list[Slow] | None":
        tasks = self.task.split(parts)
        return None if tasks is None else [Slow(task) for task in tasks]


class SlowRay(RayEngine):
    """A cluster whose tasks take long, and that calls something as the first of a kind ends."""

    def __init__(self, settings: RaySettings, kind: str, then: Callable[[], None]) -> None:
        super().__init__(settings)
        self._kind = kind
        self._then: Callable[[], None] | None = then
        self.called = False

    def run(self, tasks: Iterable[Any]) -> Generator[tuple[Any, Any], None, None]:
        for slow, result in super().run(Slow(task) for task in tasks):
            assert isinstance(slow, Slow)
            if self._then is not None and type(slow.task).__name__ == self._kind:
                self.called = True
                Thread(target=self._then).start()
                self._then = None
            yield slow.task, result


def workers() -> list[psutil.Process]:
    """The processes that run a task now."""
    processes = psutil.process_iter(["cmdline"])
    return [process for process in processes if (process.info["cmdline"] or [""])[0].startswith("ray::Slow")]


def kill_a_worker() -> None:
    wait_until(workers, "no task runs")
    for process in workers()[:1]:
        process.kill()


def kill_two_workers() -> None:
    """One after the other."""
    for _ in range(2):
        kill_a_worker()
        sleep(0.2)
