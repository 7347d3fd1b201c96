"""Calls a function in several processes at the same instant."""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")


def at_once(function: Callable[..., Result], names: Sequence[str], *given: Any) -> list[Result]:
    """Returns what ``function(*given, name, barrier)`` returns for each name, each called in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(len(names), mp_context=context) as pool:
        barrier = manager.Barrier(len(names))
        return [each.result(120) for each in [pool.submit(function, *given, name, barrier) for name in names]]
