"""Calls a function in several processes at the same instant."""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

from tests.processes import CONTEXT

Result = TypeVar("Result")


def at_once(function: Callable[..., Result], names: Sequence[str], *given: Any) -> list[Result]:
    """Returns what ``function(*given, name, barrier)`` returns for each name, each called in a process of its own."""
    with CONTEXT.Manager() as manager, ProcessPoolExecutor(len(names), mp_context=CONTEXT) as pool:
        barrier = manager.Barrier(len(names))
        return [each.result(120) for each in [pool.submit(function, *given, name, barrier) for name in names]]
