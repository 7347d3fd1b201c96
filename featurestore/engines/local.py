"""The local engine: runs tasks in threads of this process, within a memory limit."""

from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from featurestore.engines.base import Capacity, EngineAdapter, R, Task
from featurestore.plugins import Context


class LocalEngine(EngineAdapter):
    """Run tasks in threads; Polars lets them run at once. A task that is too heavy and cannot be split runs alone.

    Args:
        threads: how many tasks run at once.
        memory: how many bytes the tasks under way may take together, as they estimate it.
    """

    def __init__(self, threads: int, memory: int) -> None:
        self._threads = threads
        self._memory = memory

    @classmethod
    def open(cls, context: Context) -> "LocalEngine":
        """See ``EngineAdapter.open``."""
        return cls(context.threads, context.memory)

    def run(self, tasks: Iterable[Task[R]]) -> Generator[tuple[Task[R], R], None, None]:
        """See ``Engine.run``."""
        under_way: dict[Future[R], Task[R]] = {}
        with ThreadPoolExecutor(self._threads, thread_name_prefix="featurestore") as pool:
            try:
                for task in self.capacity().fitting(tasks):
                    while under_way and not self._room_for(task, under_way.values()):
                        yield from _finished(under_way)
                    under_way[pool.submit(task.run)] = task
                while under_way:
                    yield from _finished(under_way)
            finally:
                for future in under_way:
                    future.cancel()

    def capacity(self) -> Capacity:
        """See ``Engine.capacity``: one task may take all of the memory, and runs alone then."""
        return Capacity(self._threads, self._memory)

    def _room_for(self, task: Task[R], others: Iterable[Task[R]]) -> bool:
        weights = [other.weight for other in others]
        return len(weights) < self._threads and sum(weights) + task.weight <= self._memory

    def close(self) -> None:
        """See ``Engine.close``; nothing is held between runs."""


def _finished(under_way: dict[Future[R], Task[R]]) -> Iterator[tuple[Task[R], R]]:
    done, _ = wait(under_way, return_when=FIRST_COMPLETED)
    for future in done:
        task = under_way.pop(future)
        yield task, future.result()
