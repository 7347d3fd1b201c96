"""Progress reports of long operations."""

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

from featurestore.engines.base import Task

R = TypeVar("R")


class Progress(Protocol):
    """Receive the progress of a job. The command line draws bars of it; a library call without one is silent."""

    def step(self, view: str, stage: str, done: int, total: int, *, size: int = 0, total_size: int = 0) -> None:
        """Receive the number of parts done of a stage, first 0 and last ``total``.

        Args:
            view: the view being materialized, or ``"training frame"``.
            stage: what is being done: ``"read"``, ``"write history"``, ``"write online"``; ``"cut"``, ``"join"``, ``"gather"``.
            done: how many parts are done: chunks, buckets, tasks.
            total: how many there are.
            size: about how many bytes these have in memory, where that is known.
            total_size: about how many bytes all have; 0 where that is not known.
        """


class Silence:
    """Show no progress."""

    def step(self, view: str, stage: str, done: int, total: int, *, size: int = 0, total_size: int = 0) -> None:
        """See ``Progress.step``."""


def watched(
    results: Iterable[tuple[Task[R], R]], progress: Progress, name: str, stage: str, total: int, weight: int
) -> Iterator[tuple[Task[R], R]]:
    """Yield the results of an engine's run, and tell of each.

    Args:
        results: what the engine gives.
        progress: receives how many tasks are done, and how heavy these were.
        name: what is made.
        stage: what the tasks do.
        total: how many there are. One that is split gives several results.
        weight: how heavy they are together.
    """
    done = size = 0
    progress.step(name, stage, 0, total, total_size=weight)
    for task, result in results:
        done, size = done + 1, size + task.weight
        if done < total:
            progress.step(name, stage, done, total, size=min(size, weight), total_size=weight)
        yield task, result
    progress.step(name, stage, total, total, size=weight, total_size=weight)
