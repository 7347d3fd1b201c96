"""The port of engines: an engine runs the tasks of a plan."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

import polars as pl

from featurestore.plugins import Context
from featurestore.retrieval.join_plan import JoinTask

T = TypeVar("T", bound=JoinTask)


class Engine(Protocol):
    """Run tasks, here or elsewhere. Tasks are independent of one another and can be pickled."""

    def run(self, tasks: Iterable[T]) -> Iterator[tuple[T, pl.DataFrame]]:
        """Run each task once and give its result as it comes, in any order.

        Tasks are drawn as there is room: those under way weigh no more together than the engine's memory allows, but one
        always runs. The first error of a task is raised, and no further task begun.
        """

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
