"""The port of engines: an engine runs tasks, whatever they do and wherever it runs them."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeGuard, TypeVar

from featurestore.plugins import Context

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
_MOST_PARTS = 64
"""Into how many parts a task is split at most."""
FEW_ROWS = 100_000
"""So many rows are done with in this process before a task has gone to another machine and its receipt has come back."""


class Task(Protocol[R_co]):
    """A piece of work that any process can do: it can be pickled, and names the files that it reads and where it writes.

    A task may run more than once, also at once: an engine repeats one whose worker is lost, and the lost one may go on.
    What it writes therefore has a name of its own attempt, and only the result that the engine gives counts. Such a result is a
    receipt: small, picklable, and enough by itself to find what was written.
    """

    @property
    def weight(self) -> int:
        """About how many bytes of memory it takes."""

    def run(self) -> R_co:
        """Do the work and return its result."""

    def split(self, parts: int) -> "Sequence[Task[R_co]] | None":
        """Return about so many lighter tasks whose results together stand for its own; None if it cannot be split."""


@dataclass(frozen=True)
class Capacity:
    """What an engine has for tasks.

    Args:
        cpus: how many tasks run at once.
        memory_per_task: how many bytes one task may take, at the most.
        elsewhere: whether tasks run in other processes, and so on other machines: then no row passes through the one that asks.
    """

    cpus: int
    memory_per_task: int
    elsewhere: bool = False

    def fitting(self, tasks: Iterable[Task[R]]) -> Iterator[Task[R]]:
        """Yield tasks as they are drawn, with the parts of those that are too heavy in their place.

        One that cannot be split comes whole: what becomes of it is the engine's to say. Parts are not split again.
        """
        for task in tasks:
            parts = -(-task.weight // max(1, self.memory_per_task))
            lighter = task.split(min(parts, _MOST_PARTS)) if parts > 1 else None
            if lighter is None:
                yield task
            else:
                yield from lighter


class Engine(Protocol):
    """Run tasks, here or elsewhere. Tasks are independent of one another and can be pickled."""

    def run(self, tasks: Iterable[Task[R]]) -> Generator[tuple[Task[R], R], None, None]:
        """Run tasks and give each with its result as it comes, in any order, each once however often it ran.

        Tasks are drawn as there is room: those under way weigh no more together than the engine's memory allows. One that is
        heavier than ``capacity`` is split first, and its parts are run and given in its place; one that is too heavy and cannot be
        split runs alone where that is possible, and is an error elsewhere. The first error of a task is raised, and no
        further task begins. Closing the generator ends the run: no further task begins, and those that run in this process
        have ended when ``close`` returns.
        """

    def capacity(self) -> Capacity:
        """Return what there is for tasks, so that work can be cut to it."""

    def close(self) -> None:
        """Close threads and connections. Idempotent."""


class EngineAdapter(ABC):
    """What an entry point of ``featurestore.engines`` names: a class that opens the engine of that name.

    The class is usually the engine itself.
    """

    @classmethod
    @abstractmethod
    def open(cls, context: Context) -> Engine:
        """Open the engine, with the threads and the memory that the settings give it.

        Raises:
            MissingExtraError: a library that it needs is not installed.
        """


def goes_elsewhere(engine: Engine | None, rows: int) -> TypeGuard[Engine]:
    """Return whether work on so many rows is given to an engine whose tasks run elsewhere, and not done in this process."""
    return engine is not None and rows > FEW_ROWS and engine.capacity().elsewhere
