"""An engine whose tasks run elsewhere, as it says: in threads of this process, but pickled on the way, as for a cluster."""

import pickle
from collections.abc import Generator, Iterable
from dataclasses import replace

from featurestore.engines.base import Capacity, R, Task
from featurestore.engines.local import LocalEngine


class FarEngine(LocalEngine):
    """Pickles tasks and results, and notes which tasks ran."""

    def __init__(self, threads: int = 2, memory: int = 1 << 30) -> None:
        super().__init__(threads, memory)
        self.ran: list[str] = []

    def capacity(self) -> Capacity:
        return replace(super().capacity(), elsewhere=True)

    def run(self, tasks: Iterable[Task[R]]) -> Generator[tuple[Task[R], R], None, None]:
        for task, result in super().run(pickle.loads(pickle.dumps(task)) for task in tasks):
            self.ran.append(type(task).__name__)
            yield task, pickle.loads(pickle.dumps(result))
